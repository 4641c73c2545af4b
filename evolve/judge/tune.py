"""The stage "tune": which parameters each workload is timed at. Here is its place and its rule; `tuning.py` searches.

A tuner gets a candidate that passed its check and returns it with parameters chosen by workload; whatever point it
tries goes through lower, gate and build like any other, and what it chose is checked again. Without one, every workload
runs at the candidate's own defaults. A confirmation chooses nothing: it judges the parameters that were chosen, and
workloads that were not tuned take those of the nearest that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from evolve.judge.stages import Point, Ready, Screened
from evolve.tuner import nearest
from evolve.types import NOTHING, Scalar, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning may take. It is the same for every candidate, so that a child is not better for having had more."""

    points: int  # a workload
    seconds: float  # of wall clock, all workloads of a candidate
    gpu_seconds: float = 4.0  # under the GPU's lease, all workloads of a candidate; the cpu backend has none


class Tune(Protocol):
    """Never raises for a point that fails: such a point is infeasible. A candidate that cannot be tuned comes back as
    it was."""

    def __call__(self, ready: Ready) -> Ready: ...


def untuned(ready: Ready) -> Ready:
    return ready


def first_points(
    screened: Screened, workloads: Sequence[Workload], given: Mapping[str, Mapping[str, Scalar]] = NOTHING
) -> list[Point]:
    """Where workloads start: at what is `given` for them or for the nearest, else at the file's own table for the
    nearest, else at the defaults, which the contract wants to be valid. Names that the entry does not have are left
    out."""
    table = [(w.params, given[w.name]) for w in workloads if w.name in given] or list(screened.tuned)
    points = []
    for workload in workloads:
        chosen = given.get(workload.name) or nearest(table, workload.params)
        own = {name: value for name, value in chosen.items() if name in screened.defaults}
        points.append(Point(workload=workload, parameters={**screened.defaults, **own}))
    return points
