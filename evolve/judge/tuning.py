"""A candidate's numbers, searched for each of its timed workloads within a budget.

A round takes a few points of every workload through one run of the jail, each through the gate, all of them through
the builder at once, and asks the device for a quick time. What a stage holds against a point makes it infeasible and
is kept beside it in the evidence. The winners are checked again wherever they compute in another way than what was
checked, and are then lowered twice and gated as a whole, like any candidate.

It knows no clock of a GPU: the device says what a point takes. The cpu backend's is the model; the gpu backend offers
none yet, so there candidates stay at their defaults. A round is begun only where the last one's time is left, and is
ended once begun; what the winners' checks take comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from evolve.judge import evidence
from evolve.judge.build import Builder, Key
from evolve.judge.gate import gate, named
from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.pipeline import Ready
from evolve.judge.plan import Lowered, Plan
from evolve.judge.plan_json import PlanError, decode, encode
from evolve.judge.stages import Binary, Built, Gated, Point, Ruling, Target
from evolve.judge.tune import Tuning
from evolve.problem import Problem, Variant
from evolve.tuner import Key as PointKey
from evolve.tuner import Limits, Tuner, key_of, priors
from evolve.types import Json, Scalar, Workload, digest_of

BATCH = 4  # points of one workload in one round: enough for two cores, few enough that the next ones know of them
FINALISTS = 3  # how many winners may fail their check before a workload stays at its defaults
WHY = 300  # characters of a reason in the evidence
UNLOWERED = "it does not lower: the host function or Triton refuses it"
LATE = "not tried: the time was up"


class Clock(Protocol):
    """What the search needs of a device. Both raise `Ruling` for a point that will not do."""

    def quick_us(self, plan: Plan, built: Built, workload: Workload) -> float: ...

    def check_at(self, ready: Ready, parameters: Mapping[str, Scalar]) -> Mapping[str, float]:
        """The worst errors over their bounds, by workload."""
        ...


@dataclass(kw_only=True)
class KernelTuner:
    problem: Problem
    variant: Variant
    target: Target
    jail: Jail
    builder: Builder
    clock: Clock
    tuning: Tuning

    def __call__(self, ready: Ready) -> Ready:
        if ready.job.mode == "confirm" or not ready.screened.tune:
            return ready
        return Session(bench=self, ready=ready).run()


@dataclass(kw_only=True)
class Session:
    """One candidate's tuning."""

    bench: KernelTuner
    ready: Ready
    began: float = field(default_factory=time.monotonic)
    tuners: dict[str, Tuner] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)
    plans: dict[tuple[str, PointKey], Plan] = field(default_factory=dict)  # of the points that have a time
    checks: dict[PointKey, Json] = field(default_factory=dict)
    rounds: int = 0
    ended: str = "every point that it might have was tried"

    def run(self) -> Ready:
        for workload in self._workloads():
            self.limits[workload.name] = self._limits(workload)
            self.tuners[workload.name] = self._tuner(workload)
        self._search()
        chosen = {name: self._winner(name) for name in self.tuners}
        moved = {name: p for name, p in chosen.items() if named(p) != named(self.ready.parameters[name])}
        tuned, refused = self.ready, ""
        if moved:
            try:
                tuned = self._settled(moved)
            except Ruling as ruling:
                refused = ruling.feedback
        return replace(tuned, tuning=self._evidence(tuned, refused))

    def _workloads(self) -> list[Workload]:
        return list(self.bench.problem.of_role("time", self.bench.variant))

    def _limits(self, workload: Workload) -> Limits:
        made = self.bench.problem.make_inputs(workload, "meta", 0)
        widths = [value.element_size() for value in made if hasattr(value, "element_size") and value.ndim > 1]
        return Limits(shared_bytes=self.bench.target.shared_bytes, element_bytes=min(widths, default=1))

    def _tuner(self, workload: Workload) -> Tuner:
        """The parent's best first: as a rule the child differs in structure and not in what suits its sizes."""
        ready, space = self.ready, self.ready.screened.tune
        parents = ready.job.parent.parameters.get(workload.name, {}) if ready.job.parent else {}
        defaults = ready.parameters[workload.name]
        return Tuner(
            space,
            start=[{**defaults, **parents}, defaults, *({**defaults, **point} for point in priors(space))],
            random_seed=int(digest_of(f"{ready.job.candidate.digest}/{workload.name}"), 16) % 2**31,
            points=self.bench.tuning.points,
            feasible=self.limits[workload.name],
        )

    # --- rounds ---

    def _search(self) -> None:
        last = 0.0
        while asked := [(name, point) for name, tuner in self.tuners.items() for point in tuner.ask(BATCH)]:
            begun = time.monotonic()
            self.rounds += 1
            self._round([(name, point, self._point(name, point)) for name, point in asked])
            last = time.monotonic() - begun
            over = self._spent() + last > self.bench.tuning.seconds
            if over and not all(tuner.spent for tuner in self.tuners.values()):
                self.ended = "the next round would not have ended in time"
                return

    def _spent(self) -> float:
        return time.monotonic() - self.began

    def _point(self, name: str, point: Mapping[str, Scalar]) -> Point:
        workload = self.bench.problem.workload(name, self.bench.variant)
        return Point(workload=workload, parameters={**self.ready.parameters[name], **point})

    def _round(self, asked: Sequence[tuple[str, Mapping[str, Scalar], Point]]) -> None:
        passed = self._gated([point for _, _, point in asked])
        gated = [g for g in passed if isinstance(g, Gated)]
        modules = {name: text for g in gated for name, text in g.lowered.modules.items()}
        plans = tuple(plan for g in gated for plan in g.lowered.plans)
        each = self.bench.builder.build_each(Lowered(plans=plans, modules=modules)) if plans else {}
        for (name, point, full), found in zip(asked, passed, strict=True):
            outcome = found if isinstance(found, str) else self._timed(name, point, full, found, each)
            if isinstance(outcome, str):
                self.tuners[name].tell(point, None, why=outcome[:WHY])
            else:
                self.tuners[name].tell(point, outcome)

    def _timed(
        self, name: str, point: Mapping[str, Scalar], full: Point, gated: Gated, each: Mapping[Key, Binary | Ruling]
    ) -> float | str:
        (plan,) = gated.lowered.plans
        binaries: dict[Key, Binary] = {}
        for launch in plan.launches:
            made = each[launch.ttir, launch.options]
            if isinstance(made, Ruling):
                return made.feedback
            binaries[launch.ttir, launch.options] = made
        if not any(binary.spills_bytes for binary in binaries.values()):
            self.limits[name].overrule(point)
        try:
            taken = self.bench.clock.quick_us(plan, Built(binaries=binaries), full.workload)
        except Ruling as ruling:
            return ruling.feedback
        self.plans[name, key_of(point)] = plan
        return taken

    def _gated(self, points: Sequence[Point]) -> list[Gated | str]:
        """Each by itself, or why not. Where one point ends the whole run of the jail, it is found by halving."""
        bench, screened = self.bench, self.ready.screened
        try:
            raw = lower(
                bench.jail,
                screened,
                bench.problem,
                points,
                bench.target,
                shuffle_seed=self.rounds,
                skip_failures=True,
            )
            found = dict(_by_point(decode(raw)))
        except Ruling as ruling:
            if len(points) == 1:
                return [ruling.feedback]
            if self._spent() > bench.tuning.seconds:
                return [LATE] * len(points)
            half = len(points) // 2
            return [*self._gated(points[:half]), *self._gated(points[half:])]
        except PlanError as error:
            return [str(error)] * len(points)
        return [self._gate(point, found.get(_name(point.workload.name, point.parameters))) for point in points]

    def _gate(self, point: Point, alone: Lowered | None) -> Gated | str:
        if alone is None:
            return UNLOWERED
        bench, screened = self.bench, self.ready.screened
        try:
            return gate(encode(alone), screened=screened, problem=bench.problem, points=[point], target=bench.target)
        except Ruling as ruling:
            return ruling.feedback

    # --- winners ---

    def _winner(self, name: str) -> Mapping[str, Scalar]:
        for trial in self.tuners[name].leaders(FINALISTS):
            parameters = self._point(name, trial.point).parameters
            if self._as_checked(name, self.plans[name, key_of(trial.point)]) or self._checked(parameters):
                return parameters
        return self.ready.parameters[name]

    def _as_checked(self, name: str, plan: Plan) -> bool:
        """It launches the very kernels on the very grid that were checked; only warps, stages and the like differ."""
        first = next(p for p in self.ready.gated.lowered.plans if p.workload == name)
        mine, theirs = ([(x.kernel, x.ttir, x.grid, x.arguments) for x in p.launches] for p in (plan, first))
        return mine == theirs

    def _checked(self, parameters: Mapping[str, Scalar]) -> bool:
        key = key_of(parameters)
        if key not in self.checks:
            row: dict[str, Json] = {"parameters": dict(parameters)}
            try:
                row["errors"] = dict(self.bench.clock.check_at(self.ready, parameters))
            except Ruling as ruling:
                row["failed"] = ruling.feedback[:WHY]
            self.checks[key] = row
        return "failed" not in self.checks[key]

    def _settled(self, moved: Mapping[str, Mapping[str, Scalar]]) -> Ready:
        """All workloads at their parameters, lowered in two orders: a host function that remembers shows here."""
        bench, ready = self.bench, self.ready
        parameters = {**ready.parameters, **moved}
        workloads = [bench.problem.workload(p.workload, bench.variant) for p in ready.gated.lowered.plans]
        points = [Point(workload=w, parameters=parameters[w.name]) for w in workloads]
        raw, again = (
            lower(bench.jail, ready.screened, bench.problem, points, bench.target, shuffle_seed=turn) for turn in (0, 1)
        )
        gated = gate(
            raw, screened=ready.screened, problem=bench.problem, points=points, target=bench.target, again=again
        )
        wanted = {p.workload for p in ready.gated.lowered.plans if _built(p, ready.built)}
        built = bench.builder.build(
            replace(gated.lowered, plans=tuple(p for p in gated.lowered.plans if p.workload in wanted))
        )
        return replace(ready, gated=gated, built=built, parameters=parameters)

    # --- what is kept ---

    def _evidence(self, tuned: Ready, refused: str) -> dict[str, Json]:
        chosen = tuple(p for p in tuned.gated.lowered.plans if p.workload in self.tuners)
        kept: dict[str, Json] = {
            "points": self.bench.tuning.points,
            "seconds": {"at_most": self.bench.tuning.seconds, "taken": round(self._spent(), 3)},
            "rounds": self.rounds,
            "ended": self.ended,
            "workloads": {name: self._tried(name, tuned) for name in self.tuners},
            "checks": list(self.checks.values()),
        }
        if refused:
            kept["refused"] = f"the chosen parameters together were refused, so the defaults stay: {refused[:WHY]}"
        if tuned is not self.ready:
            kept["plan"] = evidence.of_plan(
                replace(tuned.gated, lowered=replace(tuned.gated.lowered, plans=chosen, modules=_used(chosen, tuned)))
            )
            kept["build"] = evidence.of_build(tuned.built, self.bench.builder, assembly=False)
        return kept

    def _tried(self, name: str, tuned: Ready) -> Json:
        tuner = self.tuners[name]
        rows = [
            {"parameters": dict(t.point), **({"infeasible": t.why} if t.value_us is None else {"time_us": t.value_us})}
            for t in tuner.trials
        ]
        return {
            "space": tuner.size,
            "chosen": dict(tuned.parameters[name]),
            "tried": rows,
            "ruled_out": [{"parameters": dict(point), "why": why} for point, why in tuner.refused],
        }


def _by_point(lowered: Lowered) -> Iterator[tuple[tuple[str, str], Lowered]]:
    """Every plan with its own modules, by the point that it says it is for; the gate holds it to that."""
    for plan in lowered.plans:
        needed = {launch.ttir for launch in plan.launches} & lowered.modules.keys()
        alone = Lowered(plans=(plan,), modules={name: lowered.modules[name] for name in sorted(needed)})
        yield _name(plan.workload, dict(plan.parameters)), alone


def _name(workload: str, parameters: Mapping[str, Scalar]) -> tuple[str, str]:
    return workload, repr(named(parameters))


def _built(plan: Plan, built: Built) -> bool:
    return all((launch.ttir, launch.options) in built.binaries for launch in plan.launches)


def _used(plans: Sequence[Plan], ready: Ready) -> dict[str, str]:
    modules = ready.gated.lowered.modules
    return {launch.ttir: modules[launch.ttir] for plan in plans for launch in plan.launches}
