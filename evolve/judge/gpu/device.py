"""The GPU as the judge's pipeline sees it: check, time, close. Everything on it happens under the machine's lease.

    GpuDevice(problem=..., variant=..., target=..., calibration=..., gpu=0)
        .check(ready) -> Checked     Ruling(RUNTIME_ERROR | TIMEOUT | INCORRECT, stage="check")
        .time(ready)  -> Timed       Ruling(IMPOSSIBLE | INCORRECT | TIMEOUT | RUNTIME_ERROR, stage="time")
        .leave(job)                  whatever came of it
        .close()

A candidate keeps its process from check to time and nobody else's; what a tuner does in between is
`gpu.points`'. The incumbent is timed beside it from the plans and
binaries that were remembered when it passed, or that `restore` builds again. One object serves one GPU and may be
called from several threads; they take turns.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from evolve.judge import calibrate as calibration_of
from evolve.judge import statistics
from evolve.judge.check import Check, seed_of
from evolve.judge.feedback import speed_feedback
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.lease import Held, lease
from evolve.judge.gpu.nvml import Gpu, visible
from evolve.judge.gpu.pool import WORKER, Pool
from evolve.judge.gpu.session import Session
from evolve.judge.gpu.turns import Turns
from evolve.judge.inputs import families
from evolve.judge.model import predict
from evolve.judge.sampling import Rival
from evolve.judge.stages import Checked, Ready, Target, Timed
from evolve.judge.targets import calibrated
from evolve.judge.time import Timer
from evolve.judge.traits import traits
from evolve.judge.witnesses import profile, sanitize
from evolve.problem import Problem, Variant
from evolve.types import Attempt, Job, Json, Workload

REMEMBERED = 256  # passed candidates whose plans are kept, for the day they are the incumbent
CONTROL_EVERY = 50
QUICKLY = "Timed quickly: it is slower than the best by more than so few samples can be wrong."
MOST_SESSIONS = 8  # candidates from check to time at once; each holds a context. Who comes next waits for one to leave
STANDBYS = 3  # processes that open meanwhile: each takes over a second, and stands still while somebody is timed
CONTEXT_BYTES = 1 << 30  # that one may hold, at most
PRELOAD = ("torch", "evolve.judge.gpu.worker")
Restore = Callable[[Attempt], Ready | None]


def open_pool(
    problem: Problem, variant: Variant, gpu: int = 0, *, entry: str = WORKER, preload: Sequence[str] = PRELOAD
) -> Pool:
    """GPU processes for one problem on one GPU. Each rehearses on the problem's smallest workload while it opens."""
    name = visible(gpu)
    smallest = min(
        problem.of_role("check", variant) or problem.of_role("time", variant), key=problem.bytes_moved, default=None
    )
    opening = {
        "op": "open",
        "problem": problem.path,
        "variant": variant.name,
        "gpu": name,
        "rehearse": workload_to(smallest) if smallest is not None else None,
    }
    # A baseline in files of the user's own is a Triton kernel: imported once here, not by every process anew.
    more = ("triton",) if problem.parts and preload == PRELOAD else ()
    room = Gpu(name).free_bytes() or 0
    return Pool(
        opening=opening,
        environment={"CUDA_VISIBLE_DEVICES": name},
        entry=entry,
        preload=(*preload, *more),
        standbys=STANDBYS if room > STANDBYS * CONTEXT_BYTES * 4 else 1,
    )


class GpuDevice:
    def __init__(
        self,
        *,
        problem: Problem,
        variant: Variant,
        target: Target,
        calibration: Mapping[str, Any],
        gpu: int = 0,
        pool: Pool | None = None,
        restore: Restore | None = None,
        secret: bytes | None = None,
        configurations: int = 0,
        lease_seconds: float | None = None,
        witnesses: bool = False,
    ) -> None:
        """`target` is the data sheet's; measured ceilings come from `calibration`. `configurations` is how many were
        timed in this run before it was resumed; `lease_seconds` is how long to wait for the GPU. `witnesses` lets
        sanitizer and profiler look at what is confirmed, at the cost of some tens of seconds each time."""
        self.problem, self.variant, self.target = problem, variant, target
        self.calibration = dict(calibration)
        self.measured = calibrated(target, calibration_of.ceilings_for_target(calibration))
        self.pool = pool or open_pool(problem, variant, gpu)
        self.gpu = Gpu(visible(gpu))
        self.seconds: OrderedDict[str, float] = OrderedDict()  # under the lease, by candidate id
        self._restore, self._secret = restore, secret or secrets.token_bytes(32)
        self._configurations, self._wait, self._witnesses = configurations, lease_seconds, witnesses
        self.baselines = calibration_of.baselines(calibration)
        # Half of what was free at calibration: standby and finished processes hold some, a stuck one holds a lot.
        self._least_free = int(calibration["gpu"].get("free_bytes") or 0) // 2
        self._spreads = calibration_of.aa_spreads(calibration)
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._passed: OrderedDict[str, Rival] = OrderedDict()
        self._turns, self._books = Turns(), threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_SESSIONS)
        self._judged = 0
        self.families = families(problem)
        self._check = Check(problem=problem, variant=variant, baselines=self.baselines, families=self.families)
        self.pool.prepare()

    @property
    def ranking_key(self) -> str:
        facts = self.calibration["gpu"]
        triton = version("triton")
        name = facts.get("device", "GPU")
        return f"gpu|{name}|torch {facts['torch']}|triton {triton}|{self.problem.digest}|{self.variant.name}"

    # --- stages ---

    def check(self, ready: Ready) -> Checked:
        session = self.session(ready)
        with self.leased(ready, "check") as held:
            errors, evidence = self._check(
                session,
                ready.gated.lowered,
                ready.built,
                self._planned(ready, ("check", "held_out", "time")),
                secret=self.seed(ready),
            )
        where = {"gpu_process": session.worker.opened.get("opened"), "lease_waited": held.waited_seconds}
        return Checked(errors=errors, evidence={**evidence, **where})

    def time(self, ready: Ready) -> Timed:
        """Also for a candidate whose check was elsewhere: it then gets a process of its own now."""
        session, rival = self.session(ready), self._rival(ready)
        with self.leased(ready, "time"):
            foreigners = self.gpu.foreigners(self.pool.pids())
            workloads = self._planned(ready, ("time", "held_out"))
            confirming = ready.job.mode == "confirm"  # its figure is the recorded one: every workload to the full
            result = self._timer()(
                session,
                ready.gated.lowered,
                ready.built,
                workloads,
                rival=rival,
                parameters=ready.parameters,
                configurations=max(2, self._configurations * ready.job.peers),
                secret=self.seed(ready),
                foreigners=foreigners,
                half_width=statistics.HALF_WIDTH if confirming else statistics.enough(len(workloads)),
                race=not confirming,
                missing=self._missing(ready, rival),
            )
            self.count(1)
            self._judged += 1
            control = {**self._control(session), **self._witnessed(ready)}
        self._remember(ready)
        return self._told(ready, result.measurements, result.beats_incumbent, {**result.evidence, **control})

    def _timer(self) -> Timer:
        return Timer(
            problem=self.problem,
            variant=self.variant,
            target=self.target,
            baselines=self.baselines,
            aa_spread=self._spreads,
            quiet=self.pool.quiet,
        )

    def _planned(self, ready: Ready, roles: Sequence[str]) -> list[Workload]:
        """The workloads that this candidate was lowered for: held-out ones only at confirm."""
        planned = {p.workload for p in ready.gated.lowered.plans}
        found = [w for role in roles for w in self.problem.of_role(role, self.variant)]  # type: ignore[arg-type]
        return [w for w in found if w.name in planned and (w.role == "check" or w.name in self.baselines)]

    def _told(self, ready: Ready, measurements: Any, beats: bool, evidence: Mapping[str, Json]) -> Timed:
        """With what the machine code and the model say about why it is as fast as it is."""
        plans = {p.workload: p for p in ready.gated.lowered.plans}
        timed = {w.name: w for w in self._planned(ready, ("time",))}
        predictions = {
            name: predict(plans[name], ready.built, self.measured, workload, self.problem)
            for name, workload in timed.items()
        }
        heaviest = max(timed.values(), key=lambda w: (w.weight, self.baselines[w.name].us)).name
        found = traits(plans[heaviest], ready.built, self.measured)
        parent = ready.job.parent
        shown = [m for m in measurements if m.workload in timed]
        said = speed_feedback(shown, predictions, found, parent.traits if parent else {})
        return Timed(
            measurements=tuple(measurements),
            beats_incumbent=beats,
            traits=found,
            feedback=f"{QUICKLY}\n{said}" if any(m.quick for m in shown) else said,
            evidence={
                **evidence,
                "model": {name: prediction.evidence() for name, prediction in predictions.items()},
                "lease_seconds": self.leased_seconds(ready.job),
            },
        )

    # --- incumbent, control ---

    @staticmethod
    def _missing(ready: Ready, rival: Rival | None) -> str:
        incumbent = ready.job.incumbent
        absent = rival is None and incumbent is not None and incumbent.id != ready.job.candidate.id
        return incumbent.id if absent and incumbent is not None else ""

    def _rival(self, ready: Ready) -> Rival | None:
        incumbent = ready.job.incumbent
        if incumbent is None or incumbent.id == ready.job.candidate.id:
            return None
        known = self._passed.get(incumbent.id)
        if known is None and self._restore is not None:
            again = self._restore(incumbent)
            if again is not None:
                known = self._remember(again, incumbent.id)
        return known

    def _remember(self, ready: Ready, name: str | None = None) -> Rival:
        name = name or ready.job.candidate.id
        rival = Rival(id=name, lowered=replace(ready.gated.lowered, modules={}), built=ready.built)
        self._passed[name] = rival
        self._passed.move_to_end(name)
        while len(self._passed) > REMEMBERED:
            self._passed.popitem(last=False)
        return rival

    def _control(self, session: Session) -> dict[str, Json]:
        """A/A now and then: if the machine has become restless, from now on a gain has to be larger."""
        if self._judged % CONTROL_EVERY:
            return {}
        workload = max(self.problem.of_role("time", self.variant), key=lambda w: w.weight)
        baseline = self.baselines[workload.name]
        found = calibration_of.control(
            session.worker, workload, self.variant, baseline.name, baseline.calls, self._secret, blocks=12
        )
        self._spreads[workload.name] = max(self._spreads.get(workload.name, 0.0), found["spread"])
        return {"control": {workload.name: found}}

    def _witnessed(self, ready: Ready) -> dict[str, Json]:
        """At confirm, on the smallest workload that is checked and the heaviest that is timed."""
        if not self._witnesses or ready.job.mode != "confirm":
            return {}
        small = min(self._planned(ready, ("check", "time")), key=self.problem.bytes_moved)
        heavy = max(self._planned(ready, ("time",)), key=lambda w: w.weight)
        subject = (ready.gated.lowered, ready.built)
        return {
            **sanitize(self.problem, small, *subject, gpu=self.gpu.name),
            **profile(self.problem, heavy, *subject, gpu=self.gpu.name),
        }

    # --- processes and the lease ---

    def session(self, ready: Ready) -> Session:
        """The candidate's own process, opened before the lease is asked for."""
        key = self._key(ready.job)
        with self._books:
            session = self._sessions.get(key)
        if session is None:
            self._places.acquire()
            names = {n: b.name for n, b in self.baselines.items()}
            session = Session(self.pool, baselines=names, least_free_bytes=self._least_free)
            with self._books:
                self._sessions[key] = session
        _ = session.worker
        return session

    def leave(self, job: Job) -> None:
        with self._books:
            session = self._sessions.pop(self._key(job), None)
        if session is not None:
            session.close()
            self._places.release()

    @contextmanager
    def leased(self, ready: Ready, stage: str) -> Iterator[Held]:
        label = f"evolve {stage} {ready.job.candidate.id}"
        with self._turns.turn(ready.promise), lease(self.gpu.uuid, seconds=self._wait, label=label) as held:
            try:
                yield held
            finally:
                key = self._key(ready.job)
                self.seconds[key] = self.seconds.get(key, 0.0) + held.seconds
                while len(self.seconds) > 4 * REMEMBERED:
                    self.seconds.popitem(last=False)

    def leased_seconds(self, job: Job) -> float:
        """How long this judgement held the GPU, so far."""
        return self.seconds.get(self._key(job), 0.0)

    def count(self, configurations: int) -> None:
        """So many more were timed: the best of many is lucky, and has to gain more."""
        with self._books:
            self._configurations += configurations

    def _key(self, job: Job) -> str:
        return f"{job.candidate.id}/{job.mode}"

    def seed(self, ready: Ready) -> bytes:
        """From the run's secret, or from the job's seeds where a judgement is to be run again exactly."""
        if ready.job.random_seeds:
            return repr(ready.job.random_seeds).encode()
        return seed_of(self._secret, self._key(ready.job)).to_bytes(8, "big")

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self.pool.close()
