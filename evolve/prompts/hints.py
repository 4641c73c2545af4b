"""When a hint is told: only where its precondition holds for this parent.

The words stand in `templates/hints.txt`, each under its name, and may be replaced like any template. What they say was
read from machine code built with Triton 3.4 to 3.7; gains are measured on an H200 or other people's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from evolve.prompts.situation import Situation

MOST = 6
SHARED_HOPPER = 232_448


def hints(at: Situation, text: str, *, most: int = MOST) -> list[str]:
    """Of the hints in `text` those whose preconditions hold, in their order there."""
    return [told for name, told in read(text) if WHEN.get(name, always)(at)][:most]


def read(text: str) -> list[tuple[str, str]]:
    """`# name`, and its paragraph up to the next."""
    parts = re.split(r"^# (.+)$", text, flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [(name.strip(), " ".join(told.split())) for name, told in pairs if told.strip()]


def always(at: Situation) -> bool:
    return True


def gates(triton: Sequence[int]) -> list[str]:
    """What this version of Triton has not, or breaks."""
    version = tuple(triton)
    if not version:
        return []
    said = []
    if version < (3, 5):
        said.append("It has no disable_licm, no padding_option on descriptors and no tl.map_elementwise.")
    if version < (3, 6):
        said.append('input_precision "bf16x3" and "bf16x6" come with Triton 3.6 only.')
    if version >= (3, 9):
        said.append(
            "Cache arguments of loads and stores are keyword-only, block pointers raise, and enable_fp_fusion is off."
        )
    return said


def _dot(at: Situation) -> bool:
    return at.has(r"\btl\.dot(_scaled)?\(")


def _pointers(at: Situation) -> bool:
    return at.counted and not at.descriptors and at.has(r"\btl\.load\(")


def _specialized(at: Situation) -> bool:
    return at.has(r"warp_specialize\s*=\s*True")


def _may_specialize(at: Situation) -> bool:
    fits = at.warps == 4 and at.number("num_stages") >= 2 and not at.has(r"flatten\s*=\s*True")
    return at.hopper and at.descriptors and _dot(at) and fits and not _specialized(at)


def _wide(at: Situation) -> bool:
    return at.hopper and len(at.tile) == 3 and at.tile[0] * at.tile[1] >= 128 * 256


def _copies(at: Situation) -> float:
    return at.count("LDGSTS", "UTMALDG")


def _row_by_row(at: Situation) -> bool:
    return at.has(r"//\s*\w*(tiles|num_pid|grid)_?n") and not at.has(r"GROUP")


def _crowded(at: Situation) -> bool:
    """More than 128 registers of accumulator a thread."""
    return len(at.tile) == 3 and at.warps > 0 and at.tile[0] * at.tile[1] > 128 * 32 * at.warps


def _full(at: Situation) -> bool:
    return at.number("shared_bytes") > 0.6 * SHARED_HOPPER


WHEN: Mapping[str, Callable[[Situation], bool]] = {
    "no asynchronous copies": lambda at: _dot(at) and at.counted and not _copies(at),
    "one operand synchronous": lambda at: _copies(at) > 0 and _dot(at) and at.number("synchronous_loads_in_loop") > 0,
    "HMMA on Hopper": lambda at: at.hopper and at.count("HMMA") > 0 and not at.count("HGMMA", "QGMMA"),
    "split the reduction": lambda at: bool(at.advised("split the reduction")) and not at.has("SPLIT"),
    "descriptors": lambda at: at.hopper and _dot(at) and _pointers(at) and at.path != "none",
    "warp specialization": _may_specialize,
    "warp specialization wants four warps": lambda at: _specialized(at) and at.warps != 4,
    "persistent grid": lambda at: _dot(at) and at.structure == "plain" and at.number("waves") > 1,
    "program order": lambda at: _dot(at) and at.number("programs") > 132 and _row_by_row(at),
    "subtile the epilogue": lambda at: _wide(at) and _full(at) and not _specialized(at),
    "registers at their limit": _crowded,
    "exp2": lambda at: at.has(r"\btl\.(math\.)?exp\("),
    "causal": lambda at: at.has(r"(?i)causal") and at.has(r"\bfor\b"),
    "modulo": lambda at: at.has(r"%\s*[MN]\b") and at.has(r"tl\.arange"),
    "fp8": lambda at: "fp8" in at.variant or "e4m3" in at.variant,
    "precision in the contract": lambda at: bool(at.allows) and _dot(at),
    "several passes": lambda at: at.number("launches") > 1 and at.structure == "several",
    "bandwidth": lambda at: not _dot(at) and at.bound_by("memory"),
    "unrolling": lambda at: at.hopper and at.has(r"loop_unroll_factor") and at.count("HGMMA") > 0,
    "clusters": lambda at: at.hopper and at.has(r"num_ctas"),
    "no machine code": lambda at: at.hopper and _dot(at),
}
