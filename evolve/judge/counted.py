"""How many times a problem's own work a candidate does, as the interpreter saw it at small sizes.

What a launch does is read from its TTIR at full size (counts.py), which is exact as long as loops and branches hang on
arguments. Where they hang on data (the lengths of cached sequences), reading ends; there the interpreter's counts of
the check's small runs are taken, as a factor on what the problem says must be done, and carried over to full size. Of
several sizes the smallest factor counts: whole tiles over ragged edges weigh more the smaller a workload is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from evolve.judge.share import TELLING
from evolve.problem import Problem
from evolve.types import Json, Workload

MOST = 100.0  # it comes out of a jail: no claim may move a modelled time further


def told(claim: Json) -> dict[str, float]:
    """The counts of one run, as far as they are numbers that can be."""
    if not isinstance(claim, Mapping):
        return {}
    pairs = [(str(name)[:40], value) for name, value in list(claim.items())[:8]]
    return {n: float(v) for n, v in pairs if isinstance(v, int | float) and isfinite(v) and v >= 0}


def work_factor(problem: Problem, counted: Sequence[tuple[Workload, Mapping[str, float]]]) -> float | None:
    """None where nothing was counted."""
    found = [f for workload, counts in counted if (f := _factor(problem, workload, counts)) > 0]
    return min(max(1.0, min(found)), MOST) if found else None


def _factor(problem: Problem, workload: Workload, counts: Mapping[str, float]) -> float:
    flops = float(problem.flops(workload)) if problem.flops else 0.0
    moved = float(problem.bytes_moved(workload))
    if flops > TELLING * moved and counts.get("flops"):
        return counts["flops"] / flops
    return (counts.get("loaded_bytes", 0.0) + counts.get("stored_bytes", 0.0)) / moved if moved > 0 else 0.0
