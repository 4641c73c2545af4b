"""What is known of a point by the names of its parameters, before anything is built: what cannot work, and what to try.

`Limits` rules points out and lets itself be overruled by a point that was built after all; `priors` are what wins on
Hopper. Both look at the usual names (BLOCK_*, num_warps, num_stages) and say nothing about others. Nothing here is
measured, and nothing here decides which point is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolve.tuner import Point
from evolve.types import Scalar

# --- What cannot work, known before anything is built -----------------------------------------------------------------

ACCUMULATORS = 128  # float32 of a tile that one thread can hold beside everything else; twice that spills by hundreds
WARPS = 32


@dataclass(kw_only=True)
class Limits:
    """Rules over the usual names (BLOCK_*, num_warps, num_stages): each holds only where a point has all the names it
    needs. They are guesses about what the names mean, so `overrule` drops every rule that a built point contradicts."""

    shared_bytes: int  # most that one block may take
    element_bytes: int = 1  # of the narrowest input: too small refuses too little, which costs a build and no more
    dropped: set[str] = field(default_factory=set)

    def __call__(self, point: Point) -> str | None:
        return next(iter(self._against(point).values()), None)

    def overrule(self, point: Point) -> None:
        """This point was built, whatever is thought of it here."""
        self.dropped.update(self._against(point))

    def _against(self, point: Point) -> dict[str, str]:
        whole = {name: v for name, v in point.items() if isinstance(v, int) and not isinstance(v, bool)}
        said = {
            "powers": _not_powers(whole),
            "accumulators": _accumulators(whole),
            "shared": _shared(whole, self.shared_bytes, self.element_bytes),
        }
        return {rule: why for rule, why in said.items() if why and rule not in self.dropped}


def _not_powers(point: Mapping[str, int]) -> str:
    for name, value in point.items():
        if (name.startswith("BLOCK_") or name == "num_warps") and (value < 1 or value & (value - 1)):
            return f"{name}={value} is no power of two"
    if point.get("num_warps", 1) > WARPS:
        return f"num_warps={point['num_warps']}; a block has at most {WARPS}"
    return ""


def _accumulators(point: Mapping[str, int]) -> str:
    if not point.keys() >= {"BLOCK_M", "BLOCK_N", "num_warps"} or point["num_warps"] < 1:
        return ""
    each = point["BLOCK_M"] * point["BLOCK_N"] / (32 * point["num_warps"])
    return f"{each:g} accumulators a thread; more than {ACCUMULATORS} spill" if each > ACCUMULATORS else ""


def _shared(point: Mapping[str, int], most: int, element_bytes: int) -> str:
    """The tiles of a product that its pipeline keeps at once; one stage may be on its way through registers."""
    if not point.keys() >= {"BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages"}:
        return ""
    tile = (point["BLOCK_M"] + point["BLOCK_N"]) * point["BLOCK_K"] * element_bytes
    needs = tile * max(1, point["num_stages"] - 1)
    return f"its tiles need at least {needs:,} B of shared memory; there are {most:,}" if needs > most else ""


# --- Where to begin ---------------------------------------------------------------------------------------------------

# Of what wins on Hopper: square products, products of few rows, and attention's two block sizes.
_NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages", "num_warps")
_PRODUCTS = ((128, 256, 64, 3, 8), (128, 128, 64, 4, 4), (64, 128, 64, 4, 4), (64, 64, 128, 4, 4), (16, 64, 128, 4, 4))
_ATTENTION = ((128, 64, 3, 8), (128, 128, 3, 8), (128, 128, 3, 4))


def priors(space: Mapping[str, Sequence[Scalar]]) -> list[Point]:
    """Points that are worth a try before any search, as far as the space has their names and all of their values."""
    if not {"BLOCK_M", "BLOCK_N"} <= space.keys():
        return []
    product_like = "BLOCK_K" in space
    names = _NAMES if product_like else tuple(name for name in _NAMES if name != "BLOCK_K")
    rows = _PRODUCTS if product_like else _ATTENTION
    points = [{n: v for n, v in zip(names, row, strict=True) if n in space} for row in rows]
    return [point for point in points if all(value in space[name] for name, value in point.items())]
