"""What is known of a point by the names of its parameters, before anything is built: what they mean, what cannot work.

`Limits` rules points out and lets itself be overruled by a point that was built after all. It looks at the usual names
(BLOCK_*, num_warps, num_stages, WARP_SPECIALIZE) and says nothing about others. Nothing here is measured, and nothing
here decides which point is better; where to begin stands in `tuner_priors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from evolve.tuner import Pair, Point
from evolve.types import Scalar

# --- What names mean --------------------------------------------------------------------------------------------------

# What people call the sides of a product's tile; attention's queries and keys are called M and N.
SIDES: Mapping[str, tuple[str, ...]] = {
    "M": ("BLOCK_M", "BLOCK_SIZE_M", "BM", "TILE_M"),
    "N": ("BLOCK_N", "BLOCK_SIZE_N", "BN", "TILE_N"),
    "K": ("BLOCK_K", "BLOCK_SIZE_K", "BK", "TILE_K"),
}
SPECIALIZES = re.compile(r"WARP_?SPEC", re.IGNORECASE)
CAPS = re.compile(r"REGISTERS|maxnreg", re.IGNORECASE)
SPLITS = re.compile(r"SPLIT", re.IGNORECASE)
TILES = re.compile(r"BLOCK|TILE|^(BM|BN|BK|num_warps|num_stages|num_ctas|maxnreg)$")
WIDTHS = ("D", "HEAD_DIM", "head_dim", "DH")  # of one attention head, among a workload's sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a search knows beside its space: the workload's sizes, what the kernels do, the chip."""

    sizes: Mapping[str, Scalar] = field(default_factory=dict)
    chained: bool = False  # a product of a product, as in attention
    specialized: bool = False  # warps are specialized whatever the parameters say
    wgmma: bool = False  # its products can run on Hopper's tensor cores
    shared_bytes: int = 232_448  # most that one block may take
    element_bytes: int = 1  # of the narrowest input: too small refuses too little, which costs a build and no more
    sms: int = 132

    def size(self, name: str) -> int | None:
        value = self.sizes.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    @property
    def width(self) -> int:
        return next((found for name in WIDTHS if (found := self.size(name))), 0)

    def tiles(self, m: int, n: int) -> int | None:
        """Of a product's output; None where its sizes are not known."""
        rows, columns = self.size("M"), self.size("N")
        return ceil(rows / m) * ceil(columns / n) if rows and columns else None


def sides(names: Iterable[str]) -> dict[str, str]:
    """What the sides of the tile are called here: {"M": "BLOCK_M", ...}."""
    known = set(names)
    found = {side: next((n for n in usual if n in known), "") for side, usual in SIDES.items()}
    return {side: name for side, name in found.items() if name}


def plain(space: Mapping[str, Sequence[Scalar]]) -> dict[str, Scalar]:
    """The switches of a space, each at the value that leaves out what it brings: False, no text, 0, or one part."""
    found: dict[str, Scalar] = {}
    for name, values in space.items():
        if TILES.search(name) or len(values) < 2:
            continue
        off = next((v for v in (False, "", 0, 1) if any(repr(v) == repr(each) for each in values)), None)
        if off is not None:
            found[name] = off
    return found


def pairs(space: Mapping[str, Sequence[Scalar]]) -> list[Pair]:
    """Steps that are worth nothing alone: a tile with twice the rows wants twice the warps, a wider one is lower, and
    what a longer step in K takes of the shared memory, the pipeline gives."""
    side = sides(space)
    m, n, k = (side.get(name, "") for name in "MNK")
    found: list[Pair] = [(m, "num_warps", 1), (n, "num_warps", 1), (m, n, -1), (k, "num_stages", -1)]
    found += [] if k else [(n, "num_stages", -1)]
    return [pair for pair in found if {pair[0], pair[1]} <= space.keys()]


def specializes(point: Point, setting: Setting) -> bool:
    named = [value for name, value in point.items() if SPECIALIZES.search(name)]
    return bool(named[0]) if named else setting.specialized


# --- What cannot work, known before anything is built -----------------------------------------------------------------

ACCUMULATORS = 128  # float32 of a tile that one thread can hold beside everything else; twice that spills by hundreds
CHAINED = 192  # in a chain of products, whose scores and sums live at different times
BESIDE = 4 / 3  # registers for each accumulator, addresses and operands with them
WARPS = 32
WGMMA_ROWS = 64


@dataclass(kw_only=True)
class Limits:
    """Each rule holds only where a point has all the names it needs. They are guesses about what the names mean, so
    `overrule` drops every rule that a built point contradicts. With `doubts` also points are ruled out that work and
    are twice as slow as others: for spaces too large to be tried whole."""

    setting: Setting = field(default_factory=Setting)
    doubts: bool = False
    dropped: set[str] = field(default_factory=set)

    def __call__(self, point: Point) -> str | None:
        against = next(iter(self._against(point).values()), None)
        return against or (_hopeless(point, self.setting) if self.doubts else None) or None

    def overrule(self, point: Point) -> None:
        """This point was built, whatever is thought of it here."""
        self.dropped.update(self._against(point))

    def _against(self, point: Point) -> dict[str, str]:
        whole = {name: v for name, v in point.items() if isinstance(v, int) and not isinstance(v, bool)}
        tile = {side: whole[name] for side, name in sides(whole).items()}
        said = {
            "powers": _not_powers(whole),
            "accumulators": _accumulators(tile, _computing(point, self.setting), self.setting),
            "shared": _shared(tile, whole.get("num_stages", 0), self.setting),
        }
        return {rule: why for rule, why in said.items() if why and rule not in self.dropped}


def _not_powers(point: Mapping[str, int]) -> str:
    names = {*sides(point).values(), "num_warps", *(name for name in point if name.startswith("BLOCK_"))}
    for name in point:
        if name in names and (point[name] < 1 or point[name] & (point[name] - 1)):
            return f"{name}={point[name]} is no power of two"
    if point.get("num_warps", 1) > WARPS:
        return f"num_warps={point['num_warps']}; a block has at most {WARPS}"
    return ""


def _computing(point: Point, setting: Setting) -> int:
    """Warps that share the accumulators. Specialized, four of them become two groups of four, and others load."""
    warps = point.get("num_warps", 0)
    warps = warps if isinstance(warps, int) else 0
    return 2 * warps if warps == 4 and specializes(point, setting) else warps


def _accumulators(tile: Mapping[str, int], warps: int, setting: Setting) -> str:
    held, most = _held(tile, warps, setting), CHAINED if setting.chained and "K" not in tile else ACCUMULATORS
    return f"{held:g} accumulators a thread; more than {most} spill" if held > most else ""


def _held(tile: Mapping[str, int], warps: int, setting: Setting) -> float:
    """Accumulators of one thread; in a chain of products scores and sums, as if they lived at the same time. 0 where
    that is not known."""
    chain = setting.chained and "K" not in tile
    if not tile.keys() >= {"M", "N"} or warps < 1 or (chain and not setting.width):
        return 0.0
    return tile["M"] * (tile["N"] + (setting.width if chain else 0)) / (32 * warps)


def _shared(tile: Mapping[str, int], stages: int, setting: Setting) -> str:
    """The tiles that a pipeline keeps at once; one stage of them may be on its way through registers. On Hopper's wide
    tiles a chain of products keeps all of its stages, and the queries beside them."""
    if stages < 1 or not tile.keys() >= {"M", "N"}:
        return ""
    if "K" in tile:
        needs = (tile["M"] + tile["N"]) * tile["K"] * max(1, stages - 1)
    elif setting.chained and setting.width:
        held = stages if tile["M"] >= 64 else max(1, stages - 1)
        needs = setting.width * (2 * tile["N"] * held + tile["M"])
    else:
        return ""
    needs, most = needs * setting.element_bytes, setting.shared_bytes
    return f"its tiles need at least {needs:,} B of shared memory; there are {most:,}" if needs > most else ""


def _hopeless(point: Point, setting: Setting) -> str:
    """Three cliffs, measured: registers capped at little more than the accumulators, which then spill; products of
    under 64 rows, which take the old tensor cores at a third of the rate; and warps that share the rows of a softmax,
    which meet at each of its maxima and sums."""
    whole = {name: v for name, v in point.items() if isinstance(v, int) and not isinstance(v, bool)}
    tile = {side: whole[name] for side, name in sides(whole).items()}
    held = _held(tile, _computing(point, setting), setting)
    cap = next((whole[name] for name in whole if CAPS.search(name)), 0)
    if 0 < cap < held * BESIDE:
        return f"{held:g} accumulators a thread leave too few of {cap} registers"
    rows, height = setting.size("M") or setting.size("S") or 0, tile.get("M", 0)
    if not setting.wgmma or not height or rows <= WGMMA_ROWS:
        return ""
    if height < WGMMA_ROWS:
        return f"tiles of {height} rows do not reach WGMMA, and there are {rows}"
    warps = whole.get("num_warps", 0)
    if setting.chained and height < 16 * warps:
        return f"{warps} warps for {height} rows: a softmax's rows would be shared by groups of warps"
    return ""
