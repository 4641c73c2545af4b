"""The stage "time" on a GPU: how much faster than the baseline, and is it really faster than the incumbent.

The score comes from the baseline's ratio, promotion from the incumbent's, and only if the gain's lower end beats what
luck and the machine's own unrest can make. A race that was lost gives a score too, with the wide interval of few
samples and a mark that says so. What a time under the roofline means is said here too: nobody reads memory faster than
it can be read. Samples are `judge.sampling`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from evolve.judge import statistics
from evolve.judge.check import Baseline
from evolve.judge.gpu.place import nbytes_of
from evolve.judge.gpu.session import Session
from evolve.judge.plan import Lowered
from evolve.judge.sampling import STAGE, Quiet, Rival, Sampler, Timed
from evolve.judge.stages import Built, Ruling, Target
from evolve.judge.statistics import Interval
from evolve.problem import Problem, Variant
from evolve.types import Json, Measurement, Scalar, Verdict, Workload

FLOOR = 0.95  # of the roofline's time: below it, something was not done


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
        race: bool = True,
        missing: str = "",
    ) -> Result:
        """`missing` is an incumbent that could not be built again: without it beside them, nothing is promoted."""
        sampler = Sampler(
            problem=self.problem,
            variant=self.variant,
            target=self.target,
            baselines=self.baselines,
            aa_spread=self.aa_spread,
            session=session,
            lowered=lowered,
            built=built,
            rival=rival,
            configurations=configurations,
            secret=secret,
            half_width=half_width,
            quiet=self.quiet,
        )
        timed, lost = sampler.take(workloads, race=race)
        for each in timed:
            self._possible(each)
        measurements = tuple(self._measurement(t, parameters.get(t.workload.name, {})) for t in timed)
        if lost is not None:
            beats, word = False, _lost(lost)
        else:
            beats, word = self._promotion(timed, rival, configurations, foreigners, missing)
        evidence = {t.workload.name: t.evidence() for t in timed}
        evidence["promotion"] = {**word, "incumbent": rival.id if rival else None, "configurations": configurations}
        return Result(
            measurements=measurements,
            beats_incumbent=beats,
            evidence={**evidence, "faults": session.faults},
            configurations=configurations + 1,
        )

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
        found = timed.against("B")
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
            quick=timed.quick,
            parameters=dict(parameters),
            eager_us=timed.opened.get("eager_us"),
        )

    def _promotion(
        self,
        timed: Sequence[Timed],
        rival: Rival | None,
        configurations: int,
        foreigners: Sequence[str],
        missing: str,
    ) -> tuple[bool, dict[str, Json]]:
        """Whether it is the new best, and why not."""
        bars = [f"other processes are on the GPU: {', '.join(foreigners)}"] if foreigners else []
        bars += [f"the incumbent {missing} could not be built again to be timed beside it"] if missing else []
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


def _lost(gain: Interval) -> dict[str, Json]:
    """What the evidence says of a race that was lost, and with which certainty."""
    low, middle, high = (math.expm1(x) for x in (gain.low, gain.median, gain.high))
    return {
        "quick": True,
        "why": f"timed quickly: {middle:+.1%} [{low:+.1%}, {high:+.1%}] against the incumbent, so it cannot beat it",
    }


def roof_us(problem: Problem, workload: Workload, target: Target, calls: int) -> float:
    """The least time of one call: bytes that must come from memory, or operations. Of what is written, up to an L2
    full may still be on its way when a sample ends, and of what is read, some may lie there yet from set to set."""
    written = min(nbytes_of(problem.outputs(workload)) * calls, target.l2_bytes) / calls
    moved = max(0.0, problem.bytes_moved(workload) - written)
    from_memory = moved / (target.memory_gbs * 1e3)
    peak = max(target.tflops.values(), default=0.0)
    computed = problem.flops(workload) / (peak * 1e6) if problem.flops and peak else 0.0
    return max(from_memory, computed)
