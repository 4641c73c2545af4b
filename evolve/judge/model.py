"""The cost model: what a launch plan takes on a chip, from counts and ceilings, without running anything.

    counts     of the TTIR with the launch's own arguments (counts.py, addresses.py): FLOPs, bytes, loops, panels
    ceilings   of the target, the data sheet's or measured: tensor rate by instruction, L2, memory, float32 units
    structure  how many blocks share an SM, how the last round fills, how far loads run ahead, spills (cost.py)
    constants  a few, fitted to measured kernels (constants.py)

It is for ordering and for advice: a modelled time is always called so and never ranked beside a measured one. How well
it orders, and where it fails, stands in docs/model.md. Not modelled: bank conflicts, clocks under power, contention for
L2 slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal, TypeAlias

from evolve.judge.advice import Change, would_help
from evolve.judge.constants import constants
from evolve.judge.cost import timed
from evolve.judge.cost_traffic import us_for
from evolve.judge.cost_work import Work, descriptors, dtype_of, tensor_path, works_for
from evolve.judge.plan import Plan
from evolve.judge.share import ALL, Share, share_of
from evolve.judge.stages import Binary, Built, Target
from evolve.judge.ttir import Function, parse
from evolve.problem import Problem
from evolve.types import Json, Workload

__all__ = ["Prediction", "Work", "descriptors", "ideal_of", "predict", "tensor_path", "work_of"]

Bound: TypeAlias = Literal["compute", "memory", "latency", "launch"]
# Which terms make up a bound.
BOUNDS: Mapping[Bound, tuple[str, ...]] = {
    "compute": ("compute", "issue", "special", "spills"),
    "memory": ("memory", "l2"),
    "latency": ("latency",),
    "launch": ("launch",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ideal:
    """One workload's roofline: compulsory bytes at full bandwidth or FLOPs at full rate, whichever takes longer."""

    flops: float
    nbytes: float
    tflops: float
    gbs: float

    @property
    def us(self) -> float:
        found = max(self.flops / self.tflops / 1e6, us_for(self.nbytes, self.gbs))
        return found if isfinite(found) and found > 0 else 1e-3

    def evidence(self) -> Json:
        return {"flops": self.flops, "bytes": self.nbytes, "tflops": self.tflops, "gbs": self.gbs}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A modelled time and what it is made of. `terms` are microseconds over all launches; they overlap, so they do
    not add up to the time. `helps` are the changes that would help most, with what they would save."""

    time_us: float
    bound: Bound
    roofline: float  # the ideal time over this one, between 0 and 1
    terms: Mapping[str, float]
    helps: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    launches_us: tuple[float, ...] = ()
    share: Share = ALL
    ideal: Ideal | None = None

    @property
    def advice(self) -> tuple[str, ...]:
        return tuple(change.told for change in self.helps)

    def evidence(self) -> Json:
        return {
            "modelled": True,
            "time_us": round(self.time_us, 3),
            "bound": self.bound,
            "roofline": round(self.roofline, 4),
            "ideal": self.ideal.evidence() if self.ideal else None,
            "share_of_the_work": {"part": round(self.share.part, 4), "of": self.share.what},
            "terms_us": {name: round(value, 3) for name, value in self.terms.items()},
            "launches_us": [round(us, 3) for us in self.launches_us],
            "advice": list(self.advice),
            "would_help": [{"change": change.sentence, "saves": round(change.saves, 3)} for change in self.helps],
            "notes": list(self.notes),
        }


def predict(
    plan: Plan, built: Built, target: Target, workload: Workload, problem: Problem, *, counted: float | None = None
) -> Prediction:
    """`counted`: how many times the problem's own work the candidate was seen to do under the interpreter. It is asked
    only where the TTIR leaves something uncounted."""
    works = work_of(plan, built, target)
    terms: dict[str, float] = {}
    for work in works:
        for name, value in work.terms.items():
            terms[name] = terms.get(name, 0.0) + value
    cleared = cleared_us(plan, target)
    terms["launch"] = terms.get("launch", 0.0) + cleared
    share = share_of(plan, [work.counts for work in works], workload, problem)
    notes = tuple(dict.fromkeys(note for work in works for note in work.counts.unknown))
    time_us = sum(work.time_us for work in works) + cleared
    if notes and share.part < 1:  # what could not be counted is not for free
        time_us *= (counted or 1.0) / max(share.part, 1e-3)
    ideal = ideal_of(target, workload, problem, works)
    time_us = max(time_us, ideal.us, target.launch_us)
    return Prediction(
        time_us=time_us,
        bound=_bound(terms),
        roofline=min(1.0, ideal.us / time_us),
        ideal=ideal,
        terms=terms,
        helps=would_help(works, target, time_us, cleared),
        notes=notes,
        share=share,
        launches_us=tuple(work.time_us for work in works),
    )


def cleared_us(plan: Plan, target: Target) -> float:
    """Memsets of outputs and scratch, each a launch of its own."""
    c = constants()
    gbs = target.memory_gbs * c.memory
    return sum(target.launch_us + us_for(root.nbytes, gbs) for root in plan.roots if root.zeroed)


def ideal_of(target: Target, workload: Workload, problem: Problem, works: Sequence[Work]) -> Ideal:
    flops = problem.flops(workload) if problem.flops else sum(w.counts.flops * w.counts.programs for w in works)
    dots = [dot for work in works for dot in work.counts.dots]
    rate = max(
        (target.tflops.get(dtype_of(d), target.tflops["float32"]) for d in dots), default=target.tflops["float32"]
    )
    nbytes = float(problem.bytes_moved(workload))
    return Ideal(flops=float(flops), nbytes=nbytes, tflops=float(rate), gbs=float(target.memory_gbs))


def work_of(plan: Plan, built: Built, target: Target) -> list[Work]:
    """Each launch of the plan, counted and timed."""
    binaries = {number: built.of(launch) for number, launch in enumerate(plan.launches)}
    modules = {launch.ttir: _module(binaries[number]) for number, launch in enumerate(plan.launches)}
    return [timed(work, target) for work in works_for(plan, modules, binaries, target)]


def _module(binary: Binary) -> Function:
    path = Path(binary.path) / "kernel.ttir"
    return parse(path.read_text(encoding="utf-8") if path.is_file() else "")


def _bound(terms: Mapping[str, float]) -> Bound:
    sides = {bound: max(terms.get(name, 0.0) for name in names) for bound, names in BOUNDS.items()}
    return max(sides, key=lambda side: sides[side])
