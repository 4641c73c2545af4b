"""Samples of one candidate on each of its workloads, and when there are enough of them.

Against an incumbent it is a race first: a few blocks of every workload, and who cannot win by even the upper end of
what these say is let go with a wide interval. Whoever may win is sampled until `statistics.decide` says stop, and so is
everybody where there is nobody to race against, or where the figure will be the recorded one (`confirm`).

The light workloads go first, those that heat the chip last: after hard work it runs slower for a while, and a light
kernel was 5 % off in its first blocks (H200). Where it is hot already it need not be heated again.

What the samples are worth is `judge.time`'s, what happens in the GPU process is `gpu.timing`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from evolve.judge import statistics
from evolve.judge.check import OTHER_SECONDS, Baseline, candidate_seconds, contestant, plan_of, seed_of
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.session import Asked, Session
from evolve.judge.plan import Lowered
from evolve.judge.stages import Built, Ruling, Target
from evolve.judge.statistics import Block, Decision, Interval
from evolve.problem import Problem, Variant
from evolve.types import Json, Verdict, Workload

STAGE = "time"
WARM_US = 10_000.0  # of samples thrown away: clocks rise in that time
WARM_AFTER_US = 30_000.0  # where the chip may come from hard work
# Where the tensor cores work hard, power capping takes a while to find its level. On an H200 4096×14336×4096 began at
# 1980 MHz and 170 W and was at 1500 MHz and 600 W a second later, and a kernel's ratio to cuBLAS moved by 3 % on the
# way: the steady state is what counts, and what users see.
WARM_HARD_US = 200_000.0
WARM_STILL_US = 50_000.0  # where it worked hard a moment ago
HARD = 0.25  # of the chip's dense rate
EAGER_US, EAGER_CALLS = 3000.0, 20  # of calls one by one, by the baseline's time: a figure that nobody ranks by
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
    def quick(self) -> bool:
        """Too few blocks for more than a race."""
        return len(self.blocks) < statistics.LOOKS[0]

    def against(self, over: str) -> Interval:
        return (statistics.brief if self.quick else statistics.interval)(self.logs(over))

    @property
    def has_incumbent(self) -> bool:
        return "I" in "".join(self.opened.get("orders", ()))

    def time_us(self, side: str) -> float:
        return statistics.median([t for b in self.good for s, t in zip(b.order, b.times_us, strict=True) if s == side])

    def again(self) -> Timed:
        """To go on from, so that what a lost process took down with it is not counted twice."""
        return replace(
            self,
            blocks=[*self.blocks],
            clocks=[*self.clocks],
            watched=[*self.watched],
            opened=dict(self.opened),
            seconds=dict(self.seconds),
        )

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
class Sampler:
    """One candidate's. `configurations` were timed in this run; `half_width` is what each interval must have."""

    problem: Problem
    variant: Variant
    target: Target
    baselines: Mapping[str, Baseline]
    aa_spread: Mapping[str, float]
    session: Session
    lowered: Lowered
    built: Built
    rival: Rival | None
    configurations: int
    secret: bytes
    half_width: float
    quiet: Quiet = nullcontext

    def take(self, workloads: Sequence[Workload], *, race: bool) -> tuple[list[Timed], Interval | None]:
        """In the order of the workloads, and the gain over the incumbent where the race is lost."""
        line = sorted(workloads, key=self._hard)
        begun = [Timed(workload=w, baseline=self.baselines[w.name]) for w in line]
        hot: bool | None = None  # nobody knows what the chip did before
        if race and self.rival is not None:
            watched = seed_of(self.secret, STAGE, "watched") % len(begun)
            for number, timed in enumerate(begun):
                begun[number] = self._one(timed, hot, watch=number == watched, race=True)
                hot = self._hard(timed.workload)
            gain = _lost(begun)
            if gain is not None:
                return _in_order(begun, workloads), gain
            begun.reverse()  # it is hot now
        for number, timed in enumerate(begun):
            begun[number] = self._one(timed, hot)
            hot = self._hard(timed.workload)
        return _in_order(begun, workloads), None

    def _hard(self, workload: Workload) -> bool:
        return hard(self.problem, workload, self.target, self.baselines[workload.name].us)

    def _one(self, begun: Timed, hot: bool | None, *, watch: bool = True, race: bool = False) -> Timed:
        order = self._order(begun.workload, warm_us(self._hard(begun.workload), hot), len(begun.blocks))
        deed = partial(self._sample, begun, order, watch, race)
        return self.session.attempt(deed, stage=STAGE, workload=begun.workload)

    def _order(self, workload: Workload, warm: float, taken: int) -> dict[str, Any]:
        plan, baseline = plan_of(self.lowered, workload.name), self.baselines[workload.name]
        assert plan is not None, f"no plan for timed workload {workload.name}"
        contestants: dict[str, Any] = {"C": contestant(plan, self.built), "B": baseline.name}
        old = plan_of(self.rival.lowered, workload.name) if self.rival else None
        if self.rival is not None and old is not None:
            contestants["I"] = contestant(old, self.rival.built)
        return {
            "op": "time",
            "workload": workload_to(workload),
            "variant": self.variant.name,
            "contestants": contestants,
            "calls": baseline.calls,
            "random_seed": seed_of(self.secret, STAGE, workload.name, *([str(taken)] if taken else [])),
            "taken": taken,
            "warm_us": warm,
            "eager_calls": 0 if taken else min(EAGER_CALLS, max(3, int(EAGER_US / baseline.us))),
            "limits": {"candidate": candidate_seconds(baseline, 8 * baseline.calls), "other": OTHER_SECONDS},
        }

    def _sample(self, begun: Timed, order: Mapping[str, Any], watch: bool, race: bool, worker: Asked) -> Timed:
        timed = begun.again()
        with self.quiet():
            opened = worker.ask(order, seconds=OTHER_SECONDS)
            _add(timed.seconds, opened)
            timed.opened = {**opened, "eager_us": timed.opened.get("eager_us") or opened.get("eager_us")}
            (self._race if race else self._settle)(worker, timed, watch)
            if watch:
                self._verified(worker, timed)
            ended = worker.ask({"op": "end"}, seconds=OTHER_SECONDS)
            _add(timed.seconds, ended)
        if not ended.get("intact", True):
            raise Ruling(
                Verdict.INCORRECT,
                f'workload "{timed.workload.name}": memory around its buffers changed while it was timed; mask every '
                "store.",
                stage=STAGE,
            )
        return timed

    def _race(self, worker: Asked, timed: Timed, watch: bool) -> None:
        """As many as tell who cannot win, fewer where it is plain."""
        self._blocks(worker, timed, statistics.HOPELESS_BLOCKS, watch=watch)
        if not (timed.has_incumbent and statistics.hopeless(timed.logs("I"))):
            self._blocks(worker, timed, statistics.RACE_BLOCKS - statistics.HOPELESS_BLOCKS, watch=False)

    def _settle(self, worker: Asked, timed: Timed, watch: bool) -> None:
        """Look by look until it is decided; in each, one block is watched."""
        while not timed.decision.stop:
            have = len(timed.blocks)
            self._blocks(worker, timed, statistics.next_look(have) - have, watch=watch)
            timed.decision = statistics.decide(
                timed.logs("B"),
                timed.logs("I") if timed.has_incumbent else None,
                aa_spread=self.aa_spread.get(timed.workload.name, 0.0),
                configurations=self.configurations,
                half_width=self._wanted(timed.workload),
            )

    def _wanted(self, workload: Workload) -> float:
        """Held-out workloads are no part of the score, only of the word on promotion."""
        return max(self.half_width, statistics.WIDEST) if workload.role == "held_out" else self.half_width

    def _blocks(self, worker: Asked, timed: Timed, count: int, *, watch: bool) -> None:
        order = {"op": "blocks", "count": count, "watch": watch, "later": True, **self._held(timed)}
        found = worker.ask(order, seconds=OTHER_SECONDS)
        _add(timed.seconds, found)
        timed.blocks += [_block(timed, row) for row in found["blocks"]]
        timed.clocks.append(found.get("clock"))

    def _held(self, timed: Timed) -> dict[str, str]:
        """By which measure."""
        return {"variant": self.variant.name, "baseline": timed.baseline.name}

    def _verified(self, worker: Asked, timed: Timed) -> None:
        """What was watched is compared with the reference when the sampling is over: a pause in between lets the chip
        cool down, and the next blocks ran at another clock (H200)."""
        found = worker.ask({"op": "verify", **self._held(timed)}, seconds=OTHER_SECONDS)
        _add(timed.seconds, found)
        for row in found["watched"]:
            timed.watched.append(row)
            if row["wrong"]:
                raise _dishonest(timed, row)


def _lost(timed: Sequence[Timed]) -> Interval | None:
    """None also where the incumbent was not built for all of them: nobody knows then."""
    if not all(t.has_incumbent for t in timed):
        return None
    gain = statistics.lost([t.against("I") for t in timed], [t.workload.weight for t in timed])
    for each in timed if gain else ():
        each.decision = Decision(call="slower", stop=True, why=f"quick: {len(each.blocks)} blocks, the race is lost")
    return gain


def _in_order(timed: Sequence[Timed], workloads: Sequence[Workload]) -> list[Timed]:
    by_name = {t.workload.name: t for t in timed}
    return [by_name[w.name] for w in workloads]


def hard(problem: Problem, workload: Workload, target: Target, baseline_us: float) -> bool:
    rate = problem.flops(workload) / (baseline_us * 1e6) if problem.flops else 0.0
    return rate > HARD * max(target.tflops.values(), default=math.inf)


def warm_us(is_hard: bool, hot: bool | None) -> float:
    """`hot`: what it did just before was hard; None where nobody knows."""
    if is_hard:
        return WARM_STILL_US if hot else WARM_HARD_US
    return WARM_US if hot is False else WARM_AFTER_US


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
