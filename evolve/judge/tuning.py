"""A candidate's numbers, searched for each of its timed workloads within a budget.

A round asks for a few points of every workload, has all of them made ready (`points`) and asks the device for quick
times. What a stage holds against a point makes it infeasible and is kept beside it in the evidence. The leaders are
then timed in pairs with the candidate as it came, the winners are checked again where they compute in another way than
what was checked, and all of it is lowered twice and gated as a whole, like any candidate.

It knows no clock of a GPU: `Clock` (`tuning_clock`) is the device's, a model's on the cpu backend. `tuning_begin` says
where a search begins. Points are built while others use the GPU, and what one workload has built is offered to the
next, for which it may cost no build. A round is begun only where the last one's time is left, and is ended once begun;
what the winners' checks take comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evolve.judge import tuning_begin as begin
from evolve.judge import tuning_kept as kept
from evolve.judge.build import Builder
from evolve.judge.gate import gate, named
from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.plan import Plan
from evolve.judge.points import Maker, Shot
from evolve.judge.stages import Built, Point, Ready, Ruling, Target
from evolve.judge.tune import Tuning
from evolve.judge.tuning_clock import Clock
from evolve.judge.tuning_plain import plainest
from evolve.problem import Problem, Variant
from evolve.tuner import Key as PointKey
from evolve.tuner import Tuner, key_of
from evolve.tuner_known import Limits
from evolve.tuner_priors import priors
from evolve.tuner_search import ALL_TRIED, BESIDE_TRIED, Search
from evolve.types import Json, Scalar, Verdict

LEADERS = 4  # of each workload that are timed in pairs
FINALISTS = 3  # how many of them may fail their check before a workload stays at its defaults
SHARED = 3  # leaders of each workload that the others try as well
WHY = 300  # characters of a reason in the evidence


@dataclass(kw_only=True)
class KernelTuner:
    problem: Problem
    variant: Variant
    target: Target
    jail: Jail
    builder: Builder
    clock: Clock
    tuning: Tuning
    width: int = 1  # runs of the jail for one candidate at once

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
    shots: dict[tuple[str, PointKey], Shot] = field(default_factory=dict)  # of the points that have a time
    twins: dict[tuple[str, str], float] = field(default_factory=dict)  # what the same machine code took
    checks: list[Json] = field(default_factory=list)
    duels: dict[str, list[Json]] = field(default_factory=dict)
    timed_as: dict[str, Mapping[str, Scalar]] = field(default_factory=dict)  # before switches that do nothing were off
    rounds: int = 0
    ended: str = ALL_TRIED

    def run(self) -> Ready:
        bench = self.bench
        self.maker = Maker(
            problem=bench.problem,
            target=bench.target,
            jail=bench.jail,
            builder=bench.builder,
            width=bench.width,
            lean=bench.clock.measures,
            over=lambda: self._spent() > bench.tuning.seconds,
        )
        self.sitting = bench.clock.begin(self.ready, bench.tuning, self.maker)
        for workload in bench.problem.of_role("time", bench.variant):
            setting = begin.setting_of(bench.problem, workload, self.ready, bench.target)
            limits = begin.limits_of(self.ready, setting, bench.tuning.points)
            self.limits[workload.name] = limits
            self.tuners[workload.name] = begin.tuner_of(
                bench.problem, workload, self.ready, limits, bench.tuning.points
            )
        self.search = Search(tuners=self.tuners, points=bench.tuning.points, kin=begin.kin(self.ready))
        self._search()
        moved = self._winners()
        tuned, refused = self.ready, ""
        if moved:
            try:
                tuned = self._settled(moved)
            except Ruling as ruling:
                refused = ruling.feedback
        return replace(tuned, tuning=self._evidence(tuned, refused))

    # --- rounds ---

    def _search(self) -> None:
        last, batch = 0.0, self.sitting.batch
        while asked := self.search.ask(batch):
            begun = time.monotonic()
            self.rounds += 1
            self._round([(name, point, self._point(name, point)) for name, point in asked])
            self._recognise()
            self.search.compare(self._speeds())
            last = time.monotonic() - begun
            self.ended = self.sitting.spent or self.search.over
            if self.ended:
                return
            if self._spent() + last > self.bench.tuning.seconds:
                self.ended = "the next round would not have ended in time"
                return
            self.search.share([point for name in self.tuners for point in self._leading(name)])
        self.ended = self.search.over or BESIDE_TRIED

    def _recognise(self) -> None:
        """After the first round: another form than the parent's makes a child strange, and Hopper's priors worth it."""
        parent = self.ready.job.parent
        if self.rounds > 1 or self.search.kin != "familiar" or parent is None:
            return
        points = ((name, key_of(t.completed(parent.parameters.get(name, {})))) for name, t in self.tuners.items())
        if begin.familiar(self.ready, [self.shots[at] for at in points if at in self.shots]):
            return
        self.search.kin = "strange"
        for name, tuner in self.tuners.items():
            known = priors(tuner.space, self.limits[name].setting)
            tuner.suggest([{**self.ready.parameters[name], **point} for point in known])

    def _speeds(self) -> dict[str, tuple[float, float]]:
        """What the incumbent took over the best found so far, and the workload's weight."""
        best = self.ready.job.incumbent
        rows = {m.workload: m for m in best.evaluation.measurements} if best else {}
        times = {name: tuner.best.value_us for name, tuner in self.tuners.items() if tuner.best}
        return {name: (rows[name].time_us / us, rows[name].weight) for name, us in times.items() if us and name in rows}

    def _spent(self) -> float:
        return time.monotonic() - self.began

    def _point(self, name: str, point: Mapping[str, Scalar]) -> Point:
        workload = self.bench.problem.workload(name, self.bench.variant)
        return Point(workload=workload, parameters={**self.ready.parameters[name], **point})

    def _round(self, asked: Sequence[tuple[str, Mapping[str, Scalar], Point]]) -> None:
        made = self.maker.make(self.ready.screened, [point for _, _, point in asked], shuffle_seed=self.rounds)
        times = self._times([shot for shot in made if isinstance(shot, Shot)])
        for (name, point, _), shot in zip(asked, made, strict=True):
            if isinstance(shot, Shot) and not shot.spills_bytes:
                self.limits[name].overrule(point)
            outcome = times[id(shot)] if isinstance(shot, Shot) else shot
            if isinstance(outcome, str):
                self.tuners[name].tell(point, None, why=outcome[:WHY])
            else:
                assert isinstance(shot, Shot)
                self.shots[name, key_of(point)] = shot
                self.tuners[name].tell(point, outcome)

    def _times(self, shots: Sequence[Shot]) -> dict[int, float | str]:
        """Of machine code that was timed under another name, that name's time."""
        new: dict[tuple[str, str], Shot] = {}
        for shot in shots:
            if (shot.workload, shot.twin) not in self.twins:
                new.setdefault((shot.workload, shot.twin), shot)
        outcomes: dict[tuple[str, str], float | str] = dict(
            zip(new, self.sitting.quick(list(new.values())), strict=True)
        )
        self.twins |= {twin: found for twin, found in outcomes.items() if isinstance(found, float)}
        known: dict[tuple[str, str], float | str] = {**outcomes, **self.twins}
        return {id(shot): known[shot.workload, shot.twin] for shot in shots}

    def _leading(self, name: str) -> list[Mapping[str, Scalar]]:
        return [{n: shot.point.parameters[n] for n in self.tuners[name].space} for shot in self._leaders(name, SHARED)]

    # --- winners ---

    def _winners(self) -> dict[str, Shot]:
        """The best of each workload that is right; none where that is the candidate as it came."""
        ranked = self._ranked()
        found: dict[str, Shot] = {}
        for _ in range(FINALISTS):
            first = self._plainest({name: row[0] for name, row in ranked.items() if row and name not in found})
            for (name, shot), said in zip(first.items(), self.sitting.check(list(first.values())), strict=True):
                row: dict[str, Json] = {"workload": name, "parameters": dict(shot.point.parameters)}
                if isinstance(said, str):
                    ranked[name].pop(0)
                    self.checks.append({**row, "failed": said[:WHY]})
                    continue
                found[name] = shot
                if said:
                    self.checks.append({**row, "errors": dict(said)})
        return found

    def _plainest(self, chosen: Mapping[str, Shot]) -> dict[str, Shot]:
        found = plainest(self.maker, self.ready.screened, chosen, known=self.shots, before=begin.parents(self.ready))
        self.timed_as |= {n: chosen[n].point.parameters for n, shot in found.items() if shot is not chosen[n]}
        return {name: shot for name, shot in found.items() if not self._is_as_it_came(shot)}

    def _is_as_it_came(self, shot: Shot) -> bool:
        return named(shot.point.parameters) == named(self.ready.parameters[shot.workload])

    def _ranked(self) -> dict[str, list[Shot]]:
        """By paired times where the device gives them, and then those that beat what there was, and that."""
        leaders = {name: self._leaders(name, LEADERS) for name in self.tuners}
        rivals = [shot for row in leaders.values() for shot in row if not self._is_as_it_came(shot)]
        gains = self.sitting.gains(rivals)
        if gains is None:
            return leaders
        ranked = {}
        for name, row in leaders.items():
            through = sorted((x for x in row if id(x) in gains), key=lambda x: -gains[id(x)].median)
            self.duels[name] = [{"parameters": dict(x.point.parameters), **kept.as_gain(gains[id(x)])} for x in through]
            before = self.shots.get(
                (name, key_of({n: self.ready.parameters[name][n] for n in self.tuners[name].space}))
            )
            ranked[name] = [shot for shot in through if gains[id(shot)].median > 0] + ([before] if before else [])
        return ranked

    def _leaders(self, name: str, count: int) -> list[Shot]:
        """Of points that are the same to the chip only the first."""
        trials = self.tuners[name].leaders(self.bench.tuning.points)
        shots = {shot.twin: shot for trial in reversed(trials) for shot in [self.shots[name, key_of(trial.point)]]}
        order = [self.shots[name, key_of(trial.point)] for trial in trials]
        return [shot for shot in order if shots[shot.twin] is shot][:count]

    def _settled(self, moved: Mapping[str, Shot]) -> Ready:
        """All workloads at their parameters, lowered in two orders: a host function that remembers shows here."""
        bench, ready = self.bench, self.ready
        parameters = {**ready.parameters, **{name: shot.point.parameters for name, shot in moved.items()}}
        workloads = [bench.problem.workload(p.workload, bench.variant) for p in ready.gated.lowered.plans]
        points = [Point(workload=w, parameters=parameters[w.name]) for w in workloads]
        raw, again = (
            lower(bench.jail, ready.screened, bench.problem, points, bench.target, shuffle_seed=turn) for turn in (0, 1)
        )
        gated = gate(
            raw, screened=ready.screened, problem=bench.problem, points=points, target=bench.target, again=again
        )
        plans = {plan.workload: plan for plan in gated.lowered.plans}
        other = next((name for name, shot in moved.items() if plans[name] != shot.plan), None)
        if other is not None:
            raise Ruling(
                Verdict.REJECTED, f"workload {other} is launched in another way than when it was timed", stage="tune"
            )
        wanted = {p.workload for p in ready.gated.lowered.plans if _built(p, ready.built)}
        built = bench.builder.build(
            replace(gated.lowered, plans=tuple(p for p in gated.lowered.plans if p.workload in wanted))
        )
        return replace(ready, gated=gated, built=built, parameters=parameters)

    def _evidence(self, tuned: Ready, refused: str) -> dict[str, Json]:
        before = self.ready.parameters
        rows = {
            name: kept.tried(tuner, before[name], tuned.parameters[name], self.duels.get(name), self.timed_as.get(name))
            for name, tuner in self.tuners.items()
        }
        found: dict[str, Json] = {
            "points": self.bench.tuning.points,
            "seconds": {"at_most": self.bench.tuning.seconds, "taken": round(self._spent(), 3)},
            **self.sitting.evidence(),
            "rounds": self.rounds,
            "kin": self.search.kin,
            "speed": round(self.search.speed, 4),  # over the best candidate's, by quick times
            "ended": self.ended,
            "workloads": rows,
            "checks": self.checks,
        }
        if refused:
            found["refused"] = f"the chosen parameters together were refused, so the defaults stay: {refused[:WHY]}"
        return found if tuned is self.ready else found | kept.of_plans(tuned, self.bench.builder, self.tuners)


def _built(plan: Plan, built: Built) -> bool:
    return all((launch.ttir, launch.options) in built.binaries for launch in plan.launches)
