"""What the model says of a candidate before it gets a GPU: who goes first, and who gets none.

A candidate is compared with its parent, both by the model and both at the parameters they came with, so that what the
model is wrong about in both cancels, and no child pays for its parent's tuner. One that is predicted to be more than
2.5 times slower is not run: its verdict is REJECTED at the stage "model", in words that say it is a guess. It is no
verdict of its own, because to everyone who reads verdicts it means what REJECTED means: refused before it ran, with the
reason and what to do. One in twenty is run all the same, so that the model's mistakes come to light; which one follows
from the run's secret. Confirmations, seeds and candidates whose work could not be counted are never skipped, nor are
those whose numbers a tuner will search: a persistent grid was refused twice in one run for the tiles it came with, and
what it is worth shows at tiles of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from evolve.judge.model import Prediction, predict
from evolve.judge.stages import Ready, Ruling, Target
from evolve.problem import Problem, Variant
from evolve.types import Job, Json, Verdict

STAGE = "model"
TRAIT = "modelled_us"  # of a judged candidate, at the parameters it came with: what its children are compared with
SLOWER = 2.5
LET_THROUGH = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """`modelled_us` is the weighted geometric mean over the timed workloads, None where one could not be modelled."""

    modelled_us: float | None
    parent_us: float | None
    predictions: Mapping[str, Prediction]

    @property
    def ratio(self) -> float:
        """Its time over its parent's: below 1 is promising. 1 where nothing is known."""
        return self.modelled_us / self.parent_us if self.modelled_us and self.parent_us else 1.0

    @property
    def counted(self) -> bool:
        return not any(prediction.notes for prediction in self.predictions.values())


def promise_of(ready: Ready, target: Target, problem: Problem, variant: Variant) -> Promise:
    timed = {w.name: w for w in problem.of_role("time", variant)}
    plans = [plan for plan in ready.gated.lowered.plans if plan.workload in timed]
    found = {p.workload: predict(p, ready.built, target, timed[p.workload], problem) for p in plans}
    weights = sum(timed[name].weight for name in found)
    whole = found and len(found) == len(timed) and weights > 0
    logs = sum(timed[name].weight * math.log(p.time_us) for name, p in found.items())
    parent = ready.job.parent
    before = parent.traits.get(TRAIT) if parent else None
    return Promise(
        modelled_us=math.exp(logs / weights) if whole else None,
        parent_us=float(before) if isinstance(before, int | float) and before > 0 else None,
        predictions=found,
    )


def skipped(promise: Promise, job: Job, *, tuned: bool = False) -> bool:
    """`tuned` says that the parameters it came with are only where a tuner starts."""
    if tuned or job.mode == "confirm" or not promise.counted or promise.ratio <= SLOWER:
        return False
    drawn = random.Random(f"{job.random_seeds}/{job.candidate.digest}/let through").random()
    return drawn >= LET_THROUGH


def ruling(promise: Promise) -> Ruling:
    """What whoever wrote it reads: that nothing was measured, and what the model holds against it."""
    worst = max(promise.predictions.items(), key=lambda pair: pair[1].time_us)
    lines = [
        f"Not run: the cost model predicts {promise.ratio:.1f} times its parent's time, and beyond {SLOWER:g} times a "
        f"candidate gets no GPU. That is a model's guess, not a measurement. On {worst[0]}: bound by {worst[1].bound}."
    ]
    lines += [change.sentence for change in worst[1].helps]
    return Ruling(Verdict.REJECTED, "\n".join(lines), stage=STAGE, evidence={"model": evidence_of(promise, skips=True)})


def evidence_of(promise: Promise, *, skips: bool) -> Json:
    return {
        "at": "the parameters it came with",
        "modelled_us": promise.modelled_us,
        "parent_us": promise.parent_us,
        "ratio": round(promise.ratio, 4),
        "skipped": skips,
        "let_through": not skips and promise.counted and promise.ratio > SLOWER,
        "workloads": {name: prediction.evidence() for name, prediction in promise.predictions.items()},
    }
