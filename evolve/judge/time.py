"""The stage "time" on a GPU: how much faster than the baseline, and is it really faster than the incumbent.

For each workload: blocks of C I B B I C until `statistics.decide` says stop. The score comes from the baseline's ratio,
promotion from the incumbent's, and only if the gain's lower end beats what luck and the machine's own unrest can make.
At secret blocks the GPU process compares what was just timed with the reference (`gpu.timing`). What a time under the
roofline means is said here too: nobody reads memory faster than it can be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from evolve.judge import statistics
from evolve.judge.check import OTHER_SECONDS, Baseline, candidate_seconds, contestant, plan_of, seed_of
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.place import nbytes_of
from evolve.judge.gpu.session import Asked, Session
from evolve.judge.plan import Lowered
from evolve.judge.stages import Built, Ruling, Target
from evolve.judge.statistics import Block, Decision, Interval
from evolve.problem import Problem, Variant
from evolve.types import Json, Measurement, Scalar, Verdict, Workload

STAGE = "time"
WARM_US = 10_000.0  # of samples thrown away: clocks rise in that time
# Where the tensor cores work hard, power capping takes a while to find its level. On an H200 4096×14336×4096 began at
# 1980 MHz and 170 W and was at 1500 MHz and 600 W a second later, and a kernel's ratio to cuBLAS moved by 3 % on the
# way: the steady state is what counts, and what users see.
WARM_HARD_US = 200_000.0
HARD = 0.25  # of the chip's dense rate
FLOOR = 0.95  # of the roofline's time: below it, something was not done
Quiet = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The incumbent as it was built."""

    id: str
    lowered: Lowered
    built: Built


@dataclass(kw_only=True)
class Timed:
    """One workload's samples and what they say."""

    workload: Workload
    baseline: Baseline
    blocks: list[Block] = field(default_factory=list)
    clocks: list[Any] = field(default_factory=list)
    watched: list[Any] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)
    decision: Decision = field(default_factory=lambda: Decision(call="open", stop=False, why=""))
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def good(self) -> list[Block]:
        """Without those that heat spoiled; if it spoiled them all, with them: nothing is promoted then anyway."""
        good, _ = statistics.kept(self.blocks)
        return good or self.blocks

    @property
    def discarded(self) -> float:
        return statistics.kept(self.blocks)[1]

    def logs(self, over: str) -> list[float]:
        return [b.log_ratio(over) for b in self.good]

    @property
    def against_baseline(self) -> Interval:
        return statistics.interval(self.logs("B"))

    @property
    def has_incumbent(self) -> bool:
        return "I" in "".join(self.opened.get("orders", ()))

    def time_us(self, side: str) -> float:
        return statistics.median([t for b in self.good for s, t in zip(b.order, b.times_us, strict=True) if s == side])

    def evidence(self) -> dict[str, Json]:
        return {
            "mode": self.workload.mode,
            "calls": self.baseline.calls,
            "orders": self.opened.get("orders"),
            "blocks": [
                {"order": b.order, "place": b.place, "times_us": list(b.times_us), "slowed": b.slowed}
                for b in self.blocks
            ],
            "discarded": round(self.discarded, 4),
            "decision": {"call": self.decision.call, "why": self.decision.why},
            "clocks": self.clocks,
            "watched": self.watched,
            "inputs_stirred": self.opened.get("stirs"),
            "l2_flushed": self.opened.get("flushes"),
            "memory": self.opened.get("memory"),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class Result:
    measurements: tuple[Measurement, ...]
    beats_incumbent: bool
    evidence: Mapping[str, Json]
    configurations: int  # how many were timed, for the luck of the next


@dataclass(frozen=True, kw_only=True)
class Timer:
    """What holds for every candidate of a run. `aa_spread` by workload is what a kernel gains over itself here."""

    problem: Problem
    variant: Variant
    target: Target  # with the data sheet's bandwidth: a floor must not be beaten by a good day
    baselines: Mapping[str, Baseline]
    aa_spread: Mapping[str, float]
    quiet: Quiet = nullcontext

    def __call__(
        self,
        session: Session,
        lowered: Lowered,
        built: Built,
        workloads: Sequence[Workload],
        *,
        rival: Rival | None,
        parameters: Mapping[str, Mapping[str, Scalar]],
        configurations: int,
        secret: bytes,
        foreigners: Sequence[str] = (),
        half_width: float = statistics.HALF_WIDTH,
    ) -> Result:
        timed = []
        for workload in workloads:
            order = self._order(workload, lowered, built, rival, secret)
            timed.append(
                session.attempt(
                    partial(self._sample, workload, order, configurations, half_width), stage=STAGE, workload=workload
                )
            )
            self._possible(timed[-1])
        measurements = tuple(self._measurement(t, parameters.get(t.workload.name, {})) for t in timed)
        beats, word = self._promotion(timed, rival, configurations, foreigners)
        evidence = {t.workload.name: t.evidence() for t in timed}
        evidence["promotion"] = {**word, "incumbent": rival.id if rival else None, "configurations": configurations}
        return Result(
            measurements=measurements,
            beats_incumbent=beats,
            evidence={**evidence, "faults": session.faults},
            configurations=configurations + 1,
        )

    # --- samples ---

    def _order(
        self, workload: Workload, lowered: Lowered, built: Built, rival: Rival | None, secret: bytes
    ) -> dict[str, Any]:
        plan, baseline = plan_of(lowered, workload.name), self.baselines[workload.name]
        assert plan is not None, f"no plan for timed workload {workload.name}"
        contestants: dict[str, Any] = {"C": contestant(plan, built), "B": baseline.name}
        old = plan_of(rival.lowered, workload.name) if rival else None
        if rival is not None and old is not None:
            contestants["I"] = contestant(old, rival.built)
        return {
            "op": "time",
            "workload": workload_to(workload),
            "variant": self.variant.name,
            "contestants": contestants,
            "calls": baseline.calls,
            "random_seed": seed_of(secret, STAGE, workload.name),
            "warm_us": warm_us(self.problem, workload, self.target, baseline.us),
            "limits": {"candidate": candidate_seconds(baseline, 8 * baseline.calls), "other": OTHER_SECONDS},
        }

    def _sample(
        self, workload: Workload, order: Mapping[str, Any], configurations: int, half_width: float, worker: Asked
    ) -> Timed:
        timed = Timed(workload=workload, baseline=self.baselines[workload.name])
        with self.quiet():
            timed.opened = worker.ask(order, seconds=OTHER_SECONDS)
            _add(timed.seconds, timed.opened)
            while not timed.decision.stop:
                self._look(worker, timed)
                timed.decision = statistics.decide(
                    timed.logs("B"),
                    timed.logs("I") if timed.has_incumbent else None,
                    aa_spread=self.aa_spread.get(workload.name, 0.0),
                    configurations=configurations,
                    half_width=half_width,
                )
            ended = worker.ask({"op": "end"}, seconds=OTHER_SECONDS)
        if not ended.get("intact", True):
            raise Ruling(
                Verdict.INCORRECT,
                f'workload "{workload.name}": memory around its buffers changed while it was timed; mask every store.',
                stage=STAGE,
            )
        return timed

    def _look(self, worker: Asked, timed: Timed) -> None:
        """Blocks up to the next look. From the first full look on, one of them is watched."""
        have = len(timed.blocks)
        count = statistics.next_look(have) - have
        watch = have + count >= statistics.LOOKS[0]
        order = {
            "op": "blocks",
            "count": count,
            "watch": watch,
            "variant": self.variant.name,
            "baseline": timed.baseline.name,
        }
        found = worker.ask(order, seconds=OTHER_SECONDS)
        _add(timed.seconds, found)
        for row in found["blocks"]:
            timed.blocks.append(_block(timed, row))
        timed.clocks.append(found.get("clock"))
        if watch:
            timed.watched.append(found["watched"])
            if found["watched"]["wrong"]:
                raise _dishonest(timed, found["watched"])

    # --- judgement ---

    def _possible(self, timed: Timed) -> None:
        if timed.workload.mode != "cold":
            return
        floor = FLOOR * roof_us(self.problem, timed.workload, self.target, timed.baseline.calls)
        found = timed.time_us("C")
        if found < floor:
            raise Ruling(
                Verdict.IMPOSSIBLE,
                f'workload "{timed.workload.name}": {found:.2f} µs a call, and moving its bytes once takes at least '
                f"{floor:.2f} µs on {self.target.device}: some of the work is not done.",
                stage=STAGE,
                evidence={"time": {timed.workload.name: timed.evidence()}, "floor_us": floor},
            )

    def _measurement(self, timed: Timed, parameters: Mapping[str, Scalar]) -> Measurement:
        found = timed.against_baseline
        return Measurement(
            workload=timed.workload.name,
            baseline=timed.baseline.name,
            time_us=timed.time_us("C"),
            ratio=math.exp(found.median),
            ratio_low=math.exp(found.low),
            ratio_high=math.exp(found.high),
            # Held-out ones are measured and decide on promotion, but not on the score: nobody else was timed on them,
            # and a mean over other workloads would be another scale.
            weight=0.0 if timed.workload.role == "held_out" else timed.workload.weight,
            samples=found.blocks,
            parameters=dict(parameters),
            eager_us=timed.opened.get("eager_us"),
        )

    def _promotion(
        self, timed: Sequence[Timed], rival: Rival | None, configurations: int, foreigners: Sequence[str]
    ) -> tuple[bool, dict[str, Json]]:
        """Whether it is the new best, and why not."""
        bars = [f"other processes are on the GPU: {', '.join(foreigners)}"] if foreigners else []
        bars += [
            f"{t.discarded:.0%} of the blocks of {t.workload.name} were discarded for heat or slowdown"
            for t in timed
            if t.discarded > statistics.MOST_DISCARDED
        ]
        if rival is None:
            return not bars, {"why": "; ".join(bars) or "there is no incumbent"}
        against = [t for t in timed if t.has_incumbent]
        if len(against) < len(timed):
            return False, {"why": "the incumbent was not built for every workload"}
        logs = [t.logs("I") for t in against]
        beats, gain, needed = statistics.promotes(
            [statistics.interval(x) for x in logs],
            [t.workload.weight for t in against],
            [statistics.spread(x) for x in logs],
            aa_spread=max((self.aa_spread.get(t.workload.name, 0.0) for t in against), default=0.0),
            configurations=configurations,
        )
        why = "; ".join(bars) or f"the gain's lower end {gain:.2%} against {needed:.2%}"
        return beats and not bars, {"why": why, "gain_low": gain, "needed": needed}


def roof_us(problem: Problem, workload: Workload, target: Target, calls: int) -> float:
    """The least time of one call: bytes that must come from memory, or operations. Of what is written, up to an L2
    full may still be on its way when a sample ends, and of what is read, some may lie there yet from set to set."""
    written = min(nbytes_of(problem.outputs(workload)) * calls, target.l2_bytes) / calls
    moved = max(0.0, problem.bytes_moved(workload) - written)
    from_memory = moved / (target.memory_gbs * 1e3)
    peak = max(target.tflops.values(), default=0.0)
    computed = problem.flops(workload) / (peak * 1e6) if problem.flops and peak else 0.0
    return max(from_memory, computed)


def warm_us(problem: Problem, workload: Workload, target: Target, baseline_us: float) -> float:
    rate = problem.flops(workload) / (baseline_us * 1e6) if problem.flops else 0.0
    return WARM_HARD_US if rate > HARD * max(target.tflops.values(), default=math.inf) else WARM_US


def _block(timed: Timed, row: Mapping[str, Any]) -> Block:
    times = tuple(float(t) for t in row["times_us"])
    if not all(math.isfinite(t) and t > 0 for t in times):
        raise Ruling(
            Verdict.IMPOSSIBLE, f'workload "{timed.workload.name}": a sample took {min(times)} µs.', stage=STAGE
        )
    return Block(order=str(row["order"]), times_us=times, slowed=row["slowed"], place=int(row["place"]))


def _dishonest(timed: Timed, watched: Mapping[str, Any]) -> Ruling:
    return Ruling(
        Verdict.INCORRECT,
        f'workload "{timed.workload.name}", what it computed while it was timed: {watched["wrong"]} '
        f"In the check before, the same sizes were right: the answer must not depend on what was computed earlier.",
        stage=STAGE,
        errors={timed.workload.name: float(watched.get("worst", 0.0))},
        evidence={"time": {timed.workload.name: timed.evidence()}},
    )


def _add(total: dict[str, float], reply: Mapping[str, Any]) -> None:
    for phase, seconds in reply.get("seconds", {}).items():
        total[phase] = total.get(phase, 0.0) + float(seconds)
