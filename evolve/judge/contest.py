"""A candidate beside everything that does the same: each on one workload, interleaved in one process, with intervals.

This is what `evolve bench` and the seeds' table show. The candidate was judged before, so that here are only times: of
its built plan, of other plans (the plain seed), and of the problem's baselines, those included that compile at their
first call, because here one process compares them all. A contestant that cannot run, fails, misses the problem's bound
or takes its process down is left out by name with the reason, and the rest is measured.

Nothing is ranked or promoted by it, and where there is no GPU the model speaks for the plans and says that it does.
"""

from __future__ import annotations

import math
import secrets
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolve.errors import MachineryError
from evolve.judge import statistics
from evolve.judge.backends.cpu import CpuDevice
from evolve.judge.calibrate import LIMITS, calls_for
from evolve.judge.check import OTHER_SECONDS, candidate_seconds, contestant, plan_of, seed_of
from evolve.judge.check import Baseline as Pace
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.lease import lease
from evolve.judge.gpu.nvml import Gpu
from evolve.judge.gpu.pool import Pool, Worker, WorkerFault
from evolve.judge.roofline import Roof, roof
from evolve.judge.sampling import hard, warm_us
from evolve.judge.stages import Ready, Ruling, Target
from evolve.judge.statistics import HALF_WIDTH, LOOKS, Block, Interval
from evolve.problem import Problem, Variant
from evolve.types import NOTHING, Json, Scalar, Verdict, Workload

STAGE = "bench"
FAR = 0.1  # an interval narrower than this part of the distance decides as well as a narrow one does
SECONDS = 10.0  # of blocks, a workload
LETTERS = [x for x in string.ascii_uppercase if x not in "CI"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """One contestant. `ratio` is of logarithms: its time over the candidate's, above 0 the candidate is faster."""

    name: str
    time_us: float
    ratio: Interval
    error: float | None = None  # of a baseline, over the problem's bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One workload. `own` is the candidate's time, as a logarithm of microseconds, with its interval."""

    workload: Workload
    own: Interval
    beside: tuple[Beside, ...]
    skipped: Mapping[str, str]
    roof: Roof
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    eager_us: float | None = None
    calls: int = 1
    discarded: float = 0.0
    why: str = ""  # why no more blocks were taken
    clock: Json = None
    foreigners: tuple[str, ...] = ()
    modelled: bool = False

    @property
    def time_us(self) -> float:
        return math.exp(self.own.median)


@dataclass(frozen=True, kw_only=True)
class Field:
    """Who takes part: the candidate's plans, the other plans by name, the names of baselines."""

    ready: Ready
    rivals: Mapping[str, Ready]
    baselines: Sequence[str]
    absent: Mapping[str, str] = field(default_factory=dict)  # a rival that is not there, and why


# --- On a GPU -------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Arena:
    """One process beside the GPU for all workloads; another one only where a contestant took it down."""

    problem: Problem
    variant: Variant
    target: Target  # with the measured ceilings
    pool: Pool
    gpu: Gpu
    seconds: float = SECONDS
    compiles: bool = True  # whether baselines that compile at their first call take part
    _worker: Worker | None = None
    too_large: dict[str, str] = field(default_factory=dict)  # workloads that do not fit, and what was said
    _lost: dict[str, str] = field(default_factory=dict)  # contestants that took a process down; they are out for good

    def contests(self, entered: Field, workloads: Sequence[Workload]) -> Iterator[Contest]:
        """A workload that does not fit into the GPU's memory is passed over, and `too_large` says so."""
        for workload in workloads:
            with lease(self.gpu.uuid, label=f"evolve bench {workload.name}"):
                found = self._contest(entered, workload)
            if found is not None:
                yield found

    def close(self) -> None:
        if self._worker is not None:
            self._worker.drop()
        self._worker = None

    def _contest(self, entered: Field, workload: Workload) -> Contest | None:
        while workload.name not in self.too_large:
            try:
                return self._attempt(entered, workload)
            except WorkerFault as fault:
                self._worker = None
                self._leave_out(fault, workload)
        return None

    def _leave_out(self, fault: WorkerFault, workload: Workload) -> None:
        """Who it was says the place that the process named last. The candidate has passed its check a moment ago."""
        if fault.kind == "memory" and not fault.in_candidate:
            self.too_large[workload.name] = f"too little GPU memory: {fault.text.strip().splitlines()[0][:300]}"
            return
        name = fault.at.get("contestant") or fault.at.get("name")
        if name and name not in self._lost:
            self._lost[name] = (
                f"it took its process down on {workload.name}: {fault.text.strip().splitlines()[0][:300]}"
            )
            return
        if fault.at.get("phase") == "candidate":
            verdict = Verdict.TIMEOUT if fault.kind == "hung" else Verdict.RUNTIME_ERROR
            raise Ruling(verdict, f'workload "{workload.name}": {fault.text}', stage=STAGE) from fault
        raise MachineryError(f"the comparison on {workload.name} failed at {fault.at}: {fault.text}") from fault

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._worker = self.pool.take()
        return self._worker

    def _attempt(self, entered: Field, workload: Workload) -> Contest:
        names = [n for n in entered.baselines if n not in self._lost]
        answers = self._survey(workload, names)
        skipped = {**entered.absent, **self._lost, **_refused(answers)}
        rivals = {n: r for n, r in entered.rivals.items() if n not in skipped}
        usable = {n: row for n, row in answers.items() if n not in skipped}
        sides, contestants = _sides(entered.ready, rivals, list(usable), workload)
        pace = self._pace(workload, usable, len(sides))
        with self.pool.quiet():
            opened = self.worker.ask(self._order(workload, contestants, sides, pace), seconds=OTHER_SECONDS)
            blocks, why, clock = self._blocks(workload, sides, next(iter(usable), None))
            self.worker.ask({"op": "end"}, seconds=OTHER_SECONDS)
        good, discarded = statistics.kept(blocks)
        return Contest(
            workload=workload,
            own=statistics.interval([b.log_mean("C") for b in good or blocks]),
            beside=tuple(_beside(good or blocks, letter, name, answers) for letter, name in sides.items()),
            skipped=skipped,
            roof=roof(self.problem, self.variant, workload, self.target),
            parameters=entered.ready.parameters[workload.name],
            eager_us=opened.get("eager_us"),
            calls=pace.calls,
            discarded=discarded,
            why=why,
            clock=clock,
            foreigners=self.gpu.foreigners(self.pool.pids()),
        )

    def _survey(self, workload: Workload, names: Sequence[str]) -> dict[str, Any]:
        """Each baseline by itself: why not, or its error and roughly its time."""
        order = {
            "op": "baseline",
            "workload": workload_to(workload),
            "variant": self.variant.name,
            "only": list(names),
            "compiles": self.compiles,
            "lenient": True,
            "timed": True,
            "random_seed": seed_of(secrets.token_bytes(16), STAGE, workload.name),
            "limits": LIMITS,
        }
        found: dict[str, Any] = self.worker.ask(order, seconds=LIMITS["baseline"])["baselines"]
        return found

    def _pace(self, workload: Workload, usable: Mapping[str, Any], sides: int) -> Pace:
        """As many calls a sample as the fastest baseline needs for a long enough one; every side's outputs are kept."""
        fastest = min(usable, key=lambda n: usable[n]["us"], default=None)
        us = usable[fastest]["us"] if fastest else roof(self.problem, self.variant, workload, self.target).us
        nbytes = max((row["bytes"] for row in usable.values()), default=self.problem.bytes_moved(workload))
        free = float(self.worker.opened.get("opened", {}).get("free_bytes") or 8 << 30)
        return Pace(name=fastest or "", us=us, calls=calls_for(us, nbytes * (1 + sides / 2), free))

    def _order(
        self, workload: Workload, contestants: Mapping[str, Any], sides: Mapping[str, str], pace: Pace
    ) -> dict[str, Any]:
        return {
            "op": "time",
            "workload": workload_to(workload),
            "variant": self.variant.name,
            "contestants": contestants,
            "names": dict(sides),
            "calls": pace.calls,
            "random_seed": seed_of(secrets.token_bytes(16), STAGE, workload.name),
            "warm_us": warm_us(hard(self.problem, workload, self.target, pace.us), hot=None),
            "limits": {**LIMITS, "candidate": candidate_seconds(pace, 8 * pace.calls)},
        }

    def _blocks(
        self, workload: Workload, sides: Mapping[str, str], trusted: str | None
    ) -> tuple[list[Block], str, Json]:
        """Looks until every pair is decided. During the first one a sample of the candidate is compared in full."""
        began, blocks = time.monotonic(), list[Block]()
        for look in LOOKS:
            order = {
                "op": "blocks",
                "count": look - len(blocks),
                "watch": look == LOOKS[0],
                "variant": self.variant.name,
                "baseline": trusted,
            }
            found = self.worker.ask(order, seconds=OTHER_SECONDS)
            if wrong := found.get("watched", {}).get("wrong"):
                raise Ruling(Verdict.INCORRECT, f'workload "{workload.name}", while it was timed: {wrong}', stage=STAGE)
            blocks += [
                Block(order=r["order"], times_us=tuple(r["times_us"]), slowed=r["slowed"], place=r["place"])
                for r in found["blocks"]
            ]
            good = statistics.kept(blocks)[0] or blocks
            if all(_decided(statistics.interval([b.log_ratio(letter) for b in good])) for letter in sides):
                return blocks, "every interval is narrow enough", found.get("clock")
            if time.monotonic() - began > self.seconds:
                return blocks, f"{self.seconds:g} s were up", found.get("clock")
        return blocks, f"no more than {LOOKS[-1]} blocks", found.get("clock")


def _refused(answers: Mapping[str, Any]) -> dict[str, str]:
    """No number for a wrong answer either: a baseline that misses the problem's bound is left out."""
    found = {}
    for name, row in answers.items():
        if row.get("unavailable"):
            found[name] = row["unavailable"]
        elif bad := next((r for r in row["rows"] if r["ratio"] > 1), None):
            found[name] = f"its answer is wrong: output {bad['output']} has an error of {bad['ratio']:.3g} × the bound"
    return found


def _sides(
    ready: Ready, rivals: Mapping[str, Ready], baselines: Sequence[str], workload: Workload
) -> tuple[dict[str, str], dict[str, Any]]:
    """A letter each, and what the process gets to know: plans, or names of baselines. Plans are in the other's place
    where judge's blocks have the incumbent."""
    plans = {"C": ready}
    sides = dict(zip(["I", *LETTERS[len(baselines) :]], rivals, strict=False))
    plans |= {letter: rivals[name] for letter, name in sides.items()}
    contestants: dict[str, Any] = {}
    for letter, each in plans.items():
        plan = plan_of(each.gated.lowered, workload.name)
        if plan is None:
            raise MachineryError(f"workload {workload.name} was not lowered; the judge and the comparison disagree.")
        contestants[letter] = contestant(plan, each.built)
    named = dict(zip(LETTERS, baselines, strict=False))
    return {**sides, **named}, {**contestants, **named}


def _beside(blocks: Sequence[Block], letter: str, name: str, answers: Mapping[str, Any]) -> Beside:
    rows = answers.get(name, {}).get("rows")
    return Beside(
        name=name,
        time_us=math.exp(statistics.median([b.log_mean(letter) for b in blocks])),
        ratio=statistics.interval([b.log_ratio(letter) for b in blocks]),
        error=max((r["ratio"] for r in rows), default=None) if rows else None,
    )


def _decided(found: Interval) -> bool:
    return found.half_width <= max(HALF_WIDTH, FAR * abs(found.median))


# --- Without one ----------------------------------------------------------------------------------------------------


def modelled(device: CpuDevice, entered: Field, workloads: Sequence[Workload]) -> Iterator[Contest]:
    """What the cost model says of the plans. Libraries have no plan, so nothing can be said of them."""
    own = device.predict(entered.ready)
    others = {name: device.predict(ready) for name, ready in entered.rivals.items()}
    absent = dict.fromkeys(entered.baselines, "there is no GPU here, and the model knows only kernels with a plan")
    for workload in workloads:
        mine = math.log(own[workload.name].time_us)
        yield Contest(
            workload=workload,
            own=_point(mine),
            beside=tuple(
                Beside(
                    name=n, time_us=p[workload.name].time_us, ratio=_point(math.log(p[workload.name].time_us) - mine)
                )
                for n, p in others.items()
            ),
            skipped={**entered.absent, **absent},
            roof=roof(device.problem, device.variant, workload, device.target),
            parameters=entered.ready.parameters.get(workload.name, NOTHING),
            why="modelled",
            modelled=True,
        )


def _point(value: float) -> Interval:
    return Interval(median=value, low=value, high=value, blocks=0)


# --- Over all workloads ---------------------------------------------------------------------------------------------


def geomean(contests: Sequence[Contest], name: str) -> Interval | None:
    """The weighted mean over the workloads on which both ran; None where there is none."""
    pairs = [(b.ratio, c.workload.weight) for c in contests for b in c.beside if b.name == name]
    return statistics.combine([r for r, _ in pairs], [w for _, w in pairs]) if pairs else None


def fastest(contest: Contest, names: Sequence[str]) -> Beside | None:
    """The one of these that must be beaten on this workload."""
    return min((b for b in contest.beside if b.name in names), key=lambda b: b.ratio.median, default=None)
