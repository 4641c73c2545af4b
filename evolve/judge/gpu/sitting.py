"""One candidate's tuning on a GPU, from outside its process: quick times, duels and checks, each under the lease.

The lease is asked for when points are built, once for all workloads of a round, and given back before the next are.
A point that faults or hangs costs the candidate its process and nothing more: it is infeasible, the next ones get a
fresh process, which is opened without the lease; only so many are spent on one candidate. Every configuration that was
timed is counted. What is tried and what is made of the times is `judge.tuning`'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from evolve.judge import statistics
from evolve.judge.check import OTHER_SECONDS, Check, contestant, plan_of
from evolve.judge.gpu.device import GpuDevice
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.pool import WorkerFault
from evolve.judge.gpu.session import Asked, Session, say
from evolve.judge.points import LATE, Maker, Shot, merged
from evolve.judge.stages import Point, Ready, Ruling
from evolve.judge.statistics import Interval
from evolve.judge.tune import Tuning
from evolve.tuner import distance, key_of
from evolve.types import Json, Workload

BATCH = 10  # of each workload in one round: two to four rounds of 40 points, so that the GPU is not asked for often,
BATCHES = 10  # and not many more often where there are many points
MOST_LOST = 3  # processes that one candidate's points may take with them before the search is over
LAST_LOST = MOST_LOST + 2  # and until what was found is given up, too
ROUNDS = 8  # of a duel, two samples of each: enough for an interval
POINT_SECONDS = 1.5  # of silence, besides what the baseline's time grants: whoever needs longer is not fast
HUNG = 300.0  # times the baseline's sample
ALIKE = 2  # sizes for checking at which a winner is checked
BRIEF = ("mixed", "last_tile")  # inputs at the check sizes for a winner, beside "changed"; at its own as for any


class GpuClock:
    measures = True

    def __init__(self, device: GpuDevice) -> None:
        self._device = device

    def begin(self, ready: Ready, tuning: Tuning, maker: Maker) -> GpuSitting:
        return GpuSitting(self._device, ready, tuning, maker)


class GpuSitting:
    def __init__(self, device: GpuDevice, ready: Ready, tuning: Tuning, maker: Maker) -> None:
        self._device, self._ready, self._tuning, self._maker = device, ready, tuning, maker
        self._before = device.leased_seconds(ready.job)
        self._best: dict[str, float] = {}  # the best ratio to the anchor, by workload
        self._anchor: dict[str, float] = {}  # microseconds of the anchor at first
        self._written: dict[int, dict[str, Any]] = {}
        self._checked: set[Any] = set()  # sizes for checking, with parameters that were checked at them
        self._deadly: dict[Any, str] = {}  # parameters that took a process on one workload are not tried on another
        self.lost: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}  # under the lease, by workload
        self.timed = 0
        self._brief = Check(
            problem=device.problem,
            variant=device.variant,
            baselines=device.baselines,
            families=device.families,
            brief=[f for f in device.families if f in BRIEF] or device.families,
        )

    # --- what is left ---

    @property
    def batch(self) -> int:
        return max(BATCH, self._tuning.points // BATCHES)

    @property
    def _left(self) -> float:
        return self._tuning.gpu_seconds - (self._device.leased_seconds(self._ready.job) - self._before)

    @property
    def spent(self) -> str:
        if len(self.lost) >= MOST_LOST:
            return f"{len(self.lost)} points took their GPU process with them"
        return "its seconds on the GPU were over" if self._left <= 0 else ""

    def evidence(self) -> Mapping[str, Json]:
        taken = self._device.leased_seconds(self._ready.job) - self._before
        rows = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        seconds = {"at_most": self._tuning.gpu_seconds, "taken": round(taken, 3), "workloads": rows}
        return {"gpu_seconds": seconds, "timed": self.timed, "lost": self.lost}

    @contextmanager
    def _clocked(self, workload: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[workload] = self.seconds.get(workload, 0.0) + time.monotonic() - began

    # --- quick times ---

    def quick(self, shots: Sequence[Shot]) -> list[float | str]:
        found: dict[int, float | str] = {}
        waiting: dict[str, list[Shot]] = {}
        for shot in shots:
            waiting.setdefault(shot.workload, []).append(shot)
        self._write(shots)
        while any(waiting.values()) and not self.spent:
            self._bury(waiting, found)
            session = self._device.session(self._ready)
            with self._device.leased(self._ready, "tune"):
                self._through(session, waiting, found)
        timed = sum(isinstance(each, float) for each in found.values())
        self._device.count(timed)
        self.timed += timed
        return [found.get(id(shot), LATE) for shot in shots]

    def _write(self, shots: Sequence[Shot]) -> None:
        """As the process is told of them; before the lease is asked for, because it takes a while."""
        self._written = {id(shot): contestant(shot.plan, shot.built) for shot in shots}

    def _bury(self, waiting: Mapping[str, list[Shot]], found: dict[int, float | str]) -> None:
        for shots in waiting.values():
            for shot in [s for s in shots if key_of(s.point.parameters) in self._deadly]:
                found[id(shot)] = self._deadly[key_of(shot.point.parameters)]
                shots.remove(shot)

    def _through(self, session: Session, waiting: Mapping[str, list[Shot]], found: dict[int, float | str]) -> None:
        """Workload by workload, until one of the points takes the process with it."""
        for name, shots in waiting.items():
            if not shots or self.spent:
                continue
            order = self._order("quick", name, shots) | {"best": self._best.get(name, 1.0), "seconds": self._left}
            try:
                with self._clocked(name):
                    reply = session.once(partial(_asked, order), workload=shots[0].point.workload)
                rows, fault = reply.get("rows"), None
            except WorkerFault as error:
                rows, fault = error.at.get("done"), error
            rows = _rows(rows, len(shots))
            self._note(name, shots, rows, found)
            if fault is not None:
                self._lose(fault, shots, found)
                return
            if not rows:
                return  # its seconds were over before the first

    def _note(
        self, name: str, shots: list[Shot], rows: Sequence[Mapping[str, Any]], found: dict[int, float | str]
    ) -> None:
        for row in rows:
            shot = shots.pop(0)
            found[id(shot)] = self._outcome(name, row)

    def _outcome(self, name: str, row: Mapping[str, Any]) -> float | str:
        ratio, us = row.get("ratio"), row.get("us")
        if not isinstance(ratio, float) or not isinstance(us, float):
            return str(row.get("why", "no time was given"))
        if not (math.isfinite(ratio) and ratio > 0 and us > 0):
            return f"it took {us} µs"
        self._best[name] = min(ratio, self._best.get(name, 1.0))
        return ratio * self._anchor.setdefault(name, us / ratio)

    def _lose(self, fault: WorkerFault, shots: list[Shot], found: dict[int, float | str]) -> None:
        """Whose fault it was, if anybody's: a fault outside of any point costs a process, and all of them try again."""
        self.lost.append(fault.evidence())
        if shots and fault.in_candidate and "point" in fault.at:
            shot = shots.pop(0)
            found[id(shot)] = self._deadly[key_of(shot.point.parameters)] = say(fault, shot.point.workload)

    def _order(self, deed: str, name: str, shots: Sequence[Shot]) -> dict[str, Any]:
        ready, baseline = self._ready, self._device.baselines[name]
        plan = plan_of(ready.gated.lowered, name)
        assert plan is not None, f"no plan for timed workload {name}"
        return {
            "op": deed,
            "workload": workload_to(shots[0].point.workload),
            "anchor": contestant(plan, ready.built),
            "points": [self._written[id(shot)] for shot in shots],
            "calls": max(1, math.ceil(baseline.calls / 2)),
            "random_seed": int.from_bytes(self._device.seed(ready)[:6], "big"),
            "limits": {"candidate": POINT_SECONDS + HUNG * baseline.us * baseline.calls / 1e6, "other": OTHER_SECONDS},
        }

    # --- duels ---

    def gains(self, leaders: Sequence[Shot]) -> Mapping[int, Interval]:
        waiting: dict[str, list[Shot]] = {}
        for shot in leaders:
            waiting.setdefault(shot.workload, []).append(shot)
        found: dict[int, Interval] = {}
        self._write(leaders)
        while any(waiting.values()) and len(self.lost) < LAST_LOST:
            session = self._device.session(self._ready)
            with self._device.leased(self._ready, "tune"), self._device.pool.quiet():
                self._duels(session, waiting, found)
        return found

    def _duels(self, session: Session, waiting: Mapping[str, list[Shot]], found: dict[int, Interval]) -> None:
        for name, shots in waiting.items():
            if not shots:
                continue
            order = self._order("duel", name, shots) | {"rounds": ROUNDS}
            try:
                with self._clocked(name):
                    reply = session.once(partial(_asked, order), workload=shots[0].point.workload)
            except WorkerFault as fault:
                self.lost.append(fault.evidence())
                guilty = fault.at.get("point")
                shots.pop(guilty if isinstance(guilty, int) and 0 <= guilty < len(shots) else 0)
                return
            rounds = [row for row in reply.get("rounds") or () if _is_round(row, len(shots) + 1)]
            for number, shot in enumerate(shots if rounds else ()):
                found[id(shot)] = statistics.interval([math.log(row[0] / row[number + 1]) for row in rounds])
            shots.clear()

    # --- checks ---

    def check(self, shots: Sequence[Shot]) -> list[Mapping[str, float] | str]:
        """Each at its own timed size, and at the two sizes for checking that are most like it: every size is a build.
        A confirmation checks them all."""
        small = {shot.workload: self._small(shot.point.workload) for shot in shots}
        wanted = {
            _name(point): point
            for shot in shots
            for point in (Point(workload=w, parameters=shot.point.parameters) for w in small[shot.workload])
            if _name(point) not in self._checked
        }
        made = dict(zip(wanted, self._maker.make(self._ready.screened, list(wanted.values())), strict=True))
        said: list[Mapping[str, float] | str] = []
        while len(said) < len(shots):
            if len(self.lost) >= LAST_LOST:
                said += [self.spent] * (len(shots) - len(said))
                break
            session, lost = self._device.session(self._ready), len(self.lost)
            with self._device.leased(self._ready, "tune"):
                while len(said) < len(shots) and lost == len(self.lost):
                    shot = shots[len(said)]
                    said.append(self._checked_one(session, shot, small[shot.workload], made))
        return said

    def _small(self, workload: Workload) -> list[Workload]:
        known = self._device.problem.of_role("check", self._device.variant)
        return sorted(known, key=lambda w: distance(w.params, workload.params))[:ALIKE]

    def _checked_one(
        self, session: Session, shot: Shot, small: Sequence[Workload], made: Mapping[Any, Shot | str]
    ) -> Mapping[str, float] | str:
        parameters = shot.point.parameters
        needed: list[Shot] = [shot]
        names = {_name(Point(workload=w, parameters=parameters)): w for w in small}
        for name, workload in names.items():
            if name in self._checked:
                continue
            found = made[name]
            if isinstance(found, str):
                return f"workload {workload.name}: {found}"
            needed.append(found)
        lowered, built = merged(needed)
        workloads = [n.point.workload for n in needed]
        secret = self._device.seed(self._ready) + repr(key_of(parameters)).encode()
        faults = len(session.faults)
        try:
            with self._clocked(shot.workload):
                errors, _ = self._brief(session, lowered, built, workloads, secret=secret, chances=1)
        except Ruling as ruling:
            self.lost += session.faults[faults:]
            return ruling.feedback
        self._checked |= names.keys()
        return errors


def _name(point: Point) -> tuple[str, Any]:
    return point.workload.name, key_of(point.parameters)


def _asked(order: Mapping[str, Any], worker: Asked) -> dict[str, Any]:
    return worker.ask(order, seconds=OTHER_SECONDS)


def _rows(said: object, most: int) -> list[Mapping[str, Any]]:
    """What a process in which anything may have happened says about its points, no more of it than was asked for."""
    rows = said if isinstance(said, list) else []
    return [row if isinstance(row, dict) else {} for row in rows[:most]]


def _is_round(row: object, length: int) -> bool:
    times = row if isinstance(row, list) else []
    return len(times) == length and all(isinstance(t, float) and 0 < t < math.inf for t in times)
