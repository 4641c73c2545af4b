"""What is kept of a tuning for whoever doubts it: every point with its time or why it has none, pairs, and the plans.

It is evidence like that of any stage: people read it, and nothing decides by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from evolve.judge import evidence
from evolve.judge.build import Builder
from evolve.judge.gate import named
from evolve.judge.plan import Plan
from evolve.judge.stages import Ready
from evolve.judge.statistics import Interval
from evolve.tuner import Tuner, key_of
from evolve.types import Json, Scalar


def tried(
    tuner: Tuner,
    before: Mapping[str, Scalar],
    chosen: Mapping[str, Scalar],
    pairs: Sequence[Mapping[str, Json]] | None,
    timed_as: Mapping[str, Scalar] | None = None,
) -> Json:
    """One workload's search. `before` is what the candidate came with, whole; a trial names what was searched; what was
    chosen was `timed_as` something else where that launches the same."""
    timed = timed_as or chosen
    rows = [
        {"parameters": dict(t.point), **({"infeasible": t.why} if t.value_us is None else {"time_us": t.value_us})}
        for t in tuner.trials
    ]
    times = {key_of({**before, **t.point}): t.value_us for t in tuner.trials}
    duel = next((row for row in pairs or () if named(row["parameters"]) == named(timed)), None)
    return {
        "space": tuner.size,
        "before": {"parameters": dict(before), "time_us": times.get(key_of(before))},
        "chosen": dict(chosen),
        "time_us": times.get(key_of(timed)),
        **({"timed_as": dict(timed_as)} if timed_as and named(timed_as) != named(chosen) else {}),
        **({"gain": {k: v for k, v in duel.items() if k != "parameters"}} if duel else {}),
        **({"paired": list(pairs)} if pairs is not None else {}),
        "tried": rows,
        "ruled_out": [{"parameters": dict(point), "why": why} for point, why in tuner.refused],
    }


def as_gain(gain: Interval) -> dict[str, Json]:
    """Above 1 is faster than the candidate as it came."""
    found = {"ratio": gain.median, "ratio_low": gain.low, "ratio_high": gain.high}
    return {**{name: math.exp(value) for name, value in found.items()}, "rounds": gain.blocks}


def of_plans(tuned: Ready, builder: Builder, workloads: Collection[str]) -> dict[str, Json]:
    """What the timed workloads will launch instead of what was checked first."""
    chosen = tuple(p for p in tuned.gated.lowered.plans if p.workload in workloads)
    lowered = replace(tuned.gated.lowered, plans=chosen, modules=_used(chosen, tuned))
    return {
        "plan": evidence.of_plan(replace(tuned.gated, lowered=lowered)),
        "build": evidence.of_build(tuned.built, builder, assembly=False),
    }


def _used(plans: Sequence[Plan], ready: Ready) -> dict[str, str]:
    modules = ready.gated.lowered.modules
    return {launch.ttir: modules[launch.ttir] for plan in plans for launch in plan.launches}
