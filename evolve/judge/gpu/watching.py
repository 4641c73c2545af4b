"""What the candidate computed in timed samples, kept aside and compared in full when the sampling is over.

A reference in float64 takes the chip off the work that is timed: on an H200 the clock rose meanwhile, and the next
three to six blocks of a large product ran at another ratio. So a watched sample is copied, and its right answer is made
once no more samples are taken. Which sample is watched is `timing`'s secret; what an error means is `judge.sampling`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evolve.judge.gpu import answers
from evolve.judge.gpu.checking import scrub
from evolve.judge.gpu.clock import Phases
from evolve.judge.gpu.timing import Timing
from evolve.problem import Baseline, Problem, Variant
from evolve.types import Workload

MANY_BYTES = 1 << 27  # of outputs in one set; above it one set is compared in full, below it three
KEPT_BYTES = 4 << 30  # that wait to be compared; more are compared at once
TOUCHED = "it writes to its inputs while it is timed; inputs may only be read"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One set of a watched sample. `look` numbers the sample."""

    look: int
    arguments: tuple[Any, ...]
    outputs: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.arguments, *self.outputs) if isinstance(t, torch.Tensor))


class Watch:
    """Of one workload."""

    def __init__(self, problem: Problem, workload: Workload) -> None:
        self._problem, self._workload = problem, workload
        self._seen: list[Seen] = []
        self._rows: list[dict[str, Any]] = []

    @property
    def full(self) -> bool:
        return sum(seen.nbytes for seen in self._seen) > KEPT_BYTES

    def look(self, timing: Timing, phases: Phases) -> None:
        with phases("candidate", doing="watched sample"):
            chosen, untouched = timing.watched(1 if timing.output_bytes > MANY_BYTES else 3)
        self._rows.append({"wrong": "" if untouched else TOUCHED, "worst": 0.0, "sets": len(chosen)})
        for placed in chosen if untouched else ():
            self._seen.append(
                Seen(
                    look=len(self._rows) - 1,
                    arguments=_copies(timing.arguments(placed)),
                    outputs=_copies(timing.outputs(placed)),
                )
            )

    def compare(self, variant: Variant, baseline: Baseline | None, phases: Phases) -> None:
        """All that is kept; of a sample that is wrong, no more than its first wrong set."""
        while self._seen:
            seen = self._seen.pop(0)
            row = self._rows[seen.look]
            if not row["wrong"]:
                wrong, worst = self._held(seen, variant, baseline, phases)
                row.update(wrong=wrong, worst=max(worst, row["worst"]))

    def taken(self) -> list[dict[str, Any]]:
        """What was found, a row a watched sample."""
        rows, self._rows = self._rows, []
        return rows

    def _held(self, seen: Seen, variant: Variant, baseline: Baseline | None, phases: Phases) -> tuple[str, float]:
        problem, workload = self._problem, self._workload
        with phases("reference"):
            reference = answers.reference_of(problem, workload, seen.arguments)
        with phases("compare"):
            found = answers.hold(
                problem,
                variant,
                workload,
                seen.outputs,
                reference,
                seen.arguments,
                family=answers.PLAIN,
                baseline=partial(answers.call, problem, workload, baseline, seen.arguments),
            )
            wrong, worst = answers.wrong(found), answers.worst(found)
        scrub(reference)
        return wrong, worst


def _copies(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v.clone() if isinstance(v, torch.Tensor) else v for v in values)
