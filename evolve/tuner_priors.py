"""Where a search begins: what wins on Hopper for a kernel of this kind and a workload of these sizes.

Rows are what people and this project found for 16-bit operands; they are fitted to the values that a space has, to
narrower or wider operands, and to what can work at all. A prior is asked early and judged like any other point: nothing
here says that it is good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from evolve.tuner import Point, key_of
from evolve.tuner_known import CAPS, SPECIALIZES, SPLITS, Limits, Setting, plain, sides
from evolve.types import Scalar

Row: TypeAlias = tuple[int, int, int, int, int]  # M, N, K, stages, warps; in a chain of products K has no say
_MANY: tuple[Row, ...] = (
    *((128, 256, 64, 3, 8), (128, 256, 64, 4, 8), (128, 256, 32, 5, 8), (128, 128, 64, 4, 4), (256, 128, 64, 3, 8)),
    *((128, 128, 64, 4, 8), (64, 128, 64, 5, 4)),
)
# Specialized warps take with four of them; the tile is shared by two groups.
_MANY_SPECIALIZED: tuple[Row, ...] = ((128, 256, 64, 3, 4), (128, 128, 64, 4, 4), (256, 128, 64, 3, 4))
_FEW: tuple[Row, ...] = (
    *((128, 128, 64, 6, 4), (128, 128, 64, 4, 4), (64, 128, 64, 5, 4), (64, 64, 128, 4, 4), (64, 32, 128, 5, 4)),
    *((128, 64, 64, 5, 4), (128, 256, 64, 4, 8)),
)
# The same where the sum cannot be split: tiles must be small for the chip to be full.
_FEW_WHOLE: tuple[Row, ...] = (
    *((64, 32, 128, 5, 4), (64, 64, 128, 6, 4), (64, 64, 128, 4, 4), (128, 64, 64, 5, 4), (128, 128, 64, 4, 4)),
    (64, 128, 64, 5, 4),
)
_FLAT: tuple[Row, ...] = (
    *((64, 32, 128, 6, 4), (16, 64, 128, 4, 4), (16, 32, 256, 4, 4), (16, 32, 128, 5, 4), (16, 64, 64, 6, 4)),
    *((16, 128, 64, 4, 4), (16, 64, 256, 3, 4)),
)
_NARROW_HEADS: tuple[Row, ...] = ((64, 64, 0, 3, 4), (128, 64, 0, 3, 8), (128, 128, 0, 3, 4), (128, 64, 0, 3, 4))
_NARROW_SPECIALIZED: tuple[Row, ...] = ((128, 128, 0, 2, 4), (128, 128, 0, 3, 4), (128, 64, 0, 3, 4))
_HEADS: tuple[Row, ...] = (
    *((64, 64, 0, 3, 4), (128, 128, 0, 3, 8), (128, 64, 0, 3, 8), (128, 64, 0, 2, 4), (128, 128, 0, 2, 8)),
    (128, 32, 0, 3, 4),
)
_HEADS_SPECIALIZED: tuple[Row, ...] = ((128, 128, 0, 2, 4), (128, 64, 0, 2, 4), (128, 64, 0, 4, 4), (128, 128, 0, 3, 4))
# With registers capped so that two blocks share an SM.
_CAPPED: dict[bool, tuple[Row, ...]] = {True: ((128, 128, 0, 2, 8),), False: ((128, 64, 0, 2, 8),)}
CAP = 128
FLAT_ROWS = 32  # of a product, and fewer: it is bound by reading the other operand
NARROW_HEAD = 96
TWICE = math.log(2.01)  # how far a space's nearest value may be from a row's
LEAST_STEPS = 4  # in K that a part of a split sum must have: less, and it is all prologue


def priors(space: Mapping[str, Sequence[Scalar]], setting: Setting | None = None) -> list[Point]:
    """Points that are worth a try before any search, best guesses first, none of which is known not to work."""
    setting = setting or Setting()
    limits = Limits(setting=setting)
    found: dict[object, Point] = {}
    for rows, specialized in _tables(space, setting):
        for row in rows:
            point = next((p for p in _fitted(row, space, setting, specialized) if limits(p) is None), None)
            if point:
                found.setdefault(key_of(point), point)
    return list(found.values())


def _tables(
    space: Mapping[str, Sequence[Scalar]], setting: Setting
) -> Iterator[tuple[Sequence[Row], Mapping[str, Scalar]]]:
    """Rows, with what they ask of the switch for warp specialization."""
    side = sides(space)
    if not side.keys() >= {"M", "N"}:
        return
    split = any(SPLITS.search(name) for name in plain(space))
    wide, special = _rows(setting, chain="K" not in side, split=split)
    switches = [name for name in space if SPECIALIZES.search(name) and True in space[name]]
    caps = [name for name in space if CAPS.search(name) and CAP in space[name]]
    uncapped: dict[str, Scalar] = {name: 0 for name in caps if 0 in space[name]}
    if switches or setting.specialized:
        yield special, {**dict.fromkeys(switches, True), **uncapped}
    off: dict[str, Scalar] = {name: False for name in switches if False in space[name]}
    if setting.chained and setting.width:
        yield _CAPPED[setting.width < NARROW_HEAD] if caps else (), {**off, **dict.fromkeys(caps, CAP)}
    if switches or not setting.specialized:
        yield wide, {**_without(space, setting), **off, **uncapped}


def _without(space: Mapping[str, Sequence[Scalar]], setting: Setting) -> Mapping[str, Scalar]:
    """A product of few rows takes microseconds: what a program sets up for itself (descriptors, a loop over tiles) is a
    part of them, so every switch is off at first. Elsewhere they stand as they came."""
    rows = setting.size("M")
    return plain(space) if rows and rows <= FLAT_ROWS and "K" in sides(space) else {}


def _rows(setting: Setting, *, chain: bool, split: bool) -> tuple[Sequence[Row], Sequence[Row]]:
    if chain:
        narrow = 0 < setting.width < NARROW_HEAD
        return (_NARROW_HEADS, _NARROW_SPECIALIZED) if narrow else (_HEADS, _HEADS_SPECIALIZED)
    rows, tiles = setting.size("M"), setting.tiles(128, 128)
    if rows and rows <= FLAT_ROWS:
        return _FLAT, ()
    if tiles is not None and tiles < setting.sms / 2:
        return _FEW if split else _FEW_WHOLE, ((128, 128, 64, 4, 4),)
    return _MANY, _MANY_SPECIALIZED


def _fitted(
    row: Row, space: Mapping[str, Sequence[Scalar]], setting: Setting, switches: Mapping[str, Scalar]
) -> Iterator[dict[str, Scalar]]:
    """The row in the space's own values, with fewer and fewer stages; nothing where the space is too far from it."""
    m, n, k, stages, warps = row
    side = sides(space)
    wanted = {
        side[name]: value for name, value in (("M", m), ("N", n), ("K", k * 2 // _width(setting))) if name in side
    }
    wanted |= {"num_warps": warps} if "num_warps" in space else {}
    near = {name: _nearest(value, space[name]) for name, value in wanted.items()}
    point: dict[str, Scalar] = {name: value for name, value in near.items() if value is not None}
    if len(point) < len(near):
        return
    point |= switches
    point |= _parts(point, space, setting, m, n)
    depths = [v for v in space.get("num_stages", ()) if isinstance(v, int) and v <= stages]
    if "num_stages" not in space:
        yield point
    for depth in sorted(depths, reverse=True)[:3]:
        yield {**point, "num_stages": depth}


def _width(setting: Setting) -> int:
    """One byte is also what is said where nothing is known; then 16-bit operands are meant."""
    return setting.element_bytes if setting.sizes and setting.element_bytes in (1, 2, 4) else 2


def _nearest(value: int, values: Sequence[Scalar]) -> int | None:
    near = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0]
    best = min(near, key=lambda v: (abs(math.log(v / value)), v), default=0)
    return best if best and abs(math.log(best / value)) <= TWICE else None


def _parts(point: Point, space: Mapping[str, Sequence[Scalar]], setting: Setting, m: int, n: int) -> dict[str, Scalar]:
    """How many parts of a sum: as many as fill the chip and leave each enough to do, one where it is full."""
    name = next((name for name in plain(space) if SPLITS.search(name)), None)
    side = sides(space)
    tiles, depth, step = setting.tiles(m, n), setting.size("K"), point.get(side.get("K", ""))
    if name is None or tiles is None or not depth or not isinstance(step, int):
        return {}
    whole = [v for v in space[name] if isinstance(v, int) and not isinstance(v, bool) and v > 0]
    most = depth / (step * LEAST_STEPS)
    wanted = setting.sms / tiles
    usable = [v for v in whole if v <= max(1.0, most)]
    if not usable:
        return {}
    return {name: min(usable, key=lambda v: (abs(math.log(v / max(1.0, wanted))), v)) if wanted >= 1.5 else min(usable)}
