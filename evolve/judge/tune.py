"""The stage "tune": which parameters each workload is timed at. Here is its place and its rule, not a search.

A tuner gets a candidate that passed its check and returns it with parameters chosen by workload; whatever point it
tries goes through lower, gate and build like any other, and what it chose is checked again. Without one, every workload
runs at the candidate's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from evolve.judge.stages import Screened
from evolve.types import Scalar, Workload

if TYPE_CHECKING:
    from evolve.judge.pipeline import Ready


class Tune(Protocol):
    """Never raises for a point that fails: such a point is infeasible. A candidate that cannot be tuned comes back as
    it was."""

    def __call__(self, ready: Ready) -> Ready: ...


def untuned(ready: Ready) -> Ready:
    return ready


def first_point(screened: Screened, workload: Workload) -> Mapping[str, Scalar]:
    """Where a workload starts: the defaults, which the contract wants to be valid."""
    return screened.defaults
