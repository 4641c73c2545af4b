"""Does a candidate treat the timed sizes like the sizes around them?

Each timed workload is lowered once more with its large sizes smaller by some whole tiles, how many nobody knows before.
An ordinary kernel is launched there with the same constexprs; one that is made for the benchmark's own sizes is not,
and gets the trait `specialised`. That may be honest (a size passed as a constexpr, a split chosen by size), so it is a
fact and no verdict; whether the answers are right there is for the check.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.plan import Plan
from evolve.judge.plan_json import PlanError, decode
from evolve.judge.stages import Point, Ruling, Screened, Target
from evolve.problem import Problem
from evolve.types import Json, Workload

LARGE = 1024  # smaller numbers are head sizes, groups, flags: another one is another problem
TILE = 256  # as large as tiles get, so that what divides the size by tiles divides its neighbour too
MOST_TILES = 3  # and no more than a quarter, lest an honest power of two above the size be another one

Way: TypeAlias = tuple[object, ...]


def neighbour(workload: Workload, problem: Problem, rng: random.Random) -> Workload | None:
    """None where the problem has no such workload, or is not willing to make one."""
    large = [k for k, v in workload.params.items() if isinstance(v, int) and not isinstance(v, bool) and v >= LARGE]
    if not large:
        return None
    sizes = {k: int(workload.params[k]) for k in large}
    less = {k: n - TILE * rng.randint(1, min(MOST_TILES, max(1, n // 4 // TILE))) for k, n in sizes.items()}
    found = replace(workload, name=f"{workload.name}'", params={**workload.params, **less})
    try:
        problem.make_inputs(found, "meta", 0)
        problem.outputs(found)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError):
        return None
    return found


def specialised(
    jail: Jail, screened: Screened, problem: Problem, points: Sequence[Point], plans: Sequence[Plan], target: Target,
    *, random_seed: int,
) -> tuple[bool, Json]:  # fmt: skip
    """The trait, and by workload what differs. `points` and `plans` are those of the timed workloads."""
    rng = random.Random(random_seed)
    pairs = [(p, plan, n) for p, plan in zip(points, plans, strict=True) if (n := neighbour(p.workload, problem, rng))]
    near = [Point(workload=n, parameters=p.parameters) for p, _, n in pairs]
    if not near:
        return False, {}
    try:
        raw = lower(jail, screened, problem, near, target, shuffle_seed=random_seed, skip_failures=True)
        found = {plan.workload: plan for plan in decode(raw).plans}
    except (Ruling, PlanError) as error:
        return True, {"failed": str(error)[:400]}
    told = {p.workload.name: difference(plan, found.get(n.name), n) for p, plan, n in pairs}
    return any(row["differs"] for row in told.values()), told


def difference(plan: Plan, other: Plan | None, near: Workload) -> Mapping[str, Json]:
    here, there = ways(plan), None if other is None else ways(other)
    text = "" if here == there else "it fails there" if there is None else f"{here} and there {there}"
    return {"sizes": {k: v for k, v in near.params.items() if isinstance(v, int)}, "differs": text[:400]}


def ways(plan: Plan) -> list[Way]:
    """Which kernels with which constexprs and options; grids and sizes are to differ."""
    return [(x.kernel, sorted(x.constexprs), sorted(x.options)) for x in plan.launches]
