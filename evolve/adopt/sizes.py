"""Smaller and odder sizes out of the ones that a user gave: for the interpreter, for checks, and held out.

Pure arithmetic over a workload's parameters. Which of them the original can do is found by trying, elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from evolve.types import Scalar

Params = Mapping[str, Scalar]
LARGE = 128  # parameters above are amounts of data; at and below they are as a rule heads, experts, a head's width
MANY = range(4, 65)  # heads, experts, the k of a top-k: a quarter of them will do
SMALL, ODD = 32, 19  # what the smallest large one becomes


def large(params: Params) -> list[str]:
    """Names of the parameters that can be made smaller, the largest first."""
    found = [n for n, v in params.items() if isinstance(v, int) and not isinstance(v, bool) and v > LARGE]
    return sorted(found, key=lambda n: -int(params[n]))


def fewer(params: Params) -> dict[str, Scalar]:
    """A quarter of what there are a few of, so that an interpreter ends; ratios stay."""
    return {n: v // 4 if type(v) is int and v in MANY and v % 4 == 0 else v for n, v in params.items()}


def two(params: Params) -> dict[str, Scalar]:
    """Two of what there is one of."""
    return {n: 2 if type(v) is int and v == 1 else v for n, v in params.items()}


def small(params: Params) -> dict[str, Scalar]:
    """Large ones become 32 to 128, in the order they were in, so that a window stays within a sequence."""
    return {**params, **{n: _power_of_two(_shrunk(params, n, SMALL)) for n in large(params)}}


def small_odd(params: Params, names: list[str]) -> dict[str, Scalar]:
    """The same, but odd where `names` says that the kernel can do it."""
    return {**small(params), **{n: round(_shrunk(params, n, ODD)) | 1 for n in names}}


def narrow(params: Params) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """One of the medium ones at three quarters: 128 experts become 96."""
    for name, value in params.items():
        if isinstance(value, int) and not isinstance(value, bool) and 32 <= value <= LARGE:
            yield name, {**small(params), name: value * 3 // 4}


def check(params: Params, odd: list[str]) -> dict[str, Scalar]:
    """An eighth of the data, odd where that is possible."""
    return {**params, **{n: _at_least(int(params[n]) // 8, n in odd) for n in large(params)}}


def held_out(params: Params, odd: list[str]) -> dict[str, Scalar]:
    """Near the timed size, at none of its multiples."""
    return {**params, **{n: _at_least(int(params[n]) * 5 // 8, n in odd) for n in large(params)}}


def _at_least(value: int, odd: bool) -> int:
    """Even ones stay powers of two or three quarters of one, as people's sizes are."""
    value = max(value, 64)
    return value | 1 if odd else _power_of_two(value)


def _shrunk(params: Params, name: str, base: int) -> float:
    least = min(int(params[n]) for n in large(params))
    return float(base * (int(params[name]) / least) ** 0.25)


def _power_of_two(value: float) -> int:
    return 1 << max(0, math.ceil(value) - 1).bit_length()
