"""The way of a candidate through the judge, in order, on either backend.

screen → lower → gate → build → check → tune → time, stopping at the first failure, whose text becomes feedback. Both
backends run the same stages up to the build; they differ in the `Device` that checks and times. This file knows the
order, the clock and the evidence; what a stage holds against a candidate stands in the file of its name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from evolve.judge import evidence
from evolve.judge.build import Builder
from evolve.judge.confirm import KNOWN, roles, told
from evolve.judge.feedback import same_as
from evolve.judge.gate import gate
from evolve.judge.jail import Jail
from evolve.judge.lower import lower
from evolve.judge.neighbours import specialised
from evolve.judge.plan import Plan
from evolve.judge.promise import TRAIT, evidence_of, promise_of, skipped
from evolve.judge.promise import ruling as refusal
from evolve.judge.screen import screen
from evolve.judge.stages import Checked, Gated, Point, Ready, Ruling, Target, Timed
from evolve.judge.tune import Tune, first_points, untuned
from evolve.judge.verdicts import duplicate_of
from evolve.problem import Problem, Variant
from evolve.types import Evaluation, Job, Json, Role, Scalar, Verdict, digest_of


class Device(Protocol):
    """Where built kernels are checked and timed. Both may raise `Ruling`."""

    def check(self, ready: Ready) -> Checked: ...

    def time(self, ready: Ready) -> Timed: ...

    def leased_seconds(self, job: Job) -> float:
        """How long the job held a GPU, so far."""
        ...

    def leave(self, job: Job) -> None:
        """The judgement is over, whatever came of it: nothing is kept for it any longer."""
        ...

    def close(self) -> None: ...


@dataclass(kw_only=True)
class Record:
    """What is known of a candidate so far; it becomes the evaluation, whatever the verdict."""

    evidence: dict[str, Json] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(kw_only=True)
class Pipeline:
    problem: Problem
    variant: Variant
    target: Target
    jail: Jail
    builder: Builder
    device: Device
    ranking_key: str
    environment: Mapping[str, Json] = field(default_factory=dict)  # versions and protections, part of the evidence
    # Whose kernels are built. Without a GPU nothing runs the check workloads' machine code, and each odd size is a
    # specialisation of its own, so they wait for the confirmation.
    builds: tuple[Role, ...] = KNOWN
    tune: Tune = untuned
    # A chip to model for, where a candidate that the model thinks little of is to be kept from it.
    modelled_on: Target | None = None

    def evaluate(self, job: Job) -> Evaluation:
        record = Record()
        try:
            return self._judge(job, record)
        except Ruling as ruling:
            return Evaluation(
                verdict=ruling.verdict,
                feedback=told(ruling, job),
                stage=ruling.stage,
                errors=ruling.errors or record.errors,
                evidence=evidence.finite({**record.evidence, **ruling.evidence, "ruling": ruling.feedback}),
                digests=tuple(record.digests),
                ranking_key=self.ranking_key,
                seconds=self._seconds(job, record),
            )
        finally:
            self.device.leave(job)

    def _seconds(self, job: Job, record: Record) -> Mapping[str, float]:
        leased = self.device.leased_seconds(job)
        return {**record.seconds, "gpu": leased} if leased else record.seconds

    def _judge(self, job: Job, record: Record) -> Evaluation:
        ready, modelled = self._promised(self.prepare(job, record), record)
        with record.stage("check"):
            checked = self.device.check(ready)
        record.errors = checked.errors
        record.evidence["check"] = checked.evidence
        with record.stage("tune"):
            ready = self.tune(ready)
        if ready.tuning:
            record.evidence["tune"] = ready.tuning
        with record.stage("time"):
            timed = self.device.time(ready)
        self.device.leave(job)  # what is left to do needs none: its place is the next one's
        record.evidence["time"] = timed.evidence
        with record.stage("lower"):
            made_for_these, record.evidence["neighbours"] = self._neighbours(ready)
        return Evaluation(
            verdict=Verdict.PASSED,
            feedback=timed.feedback,
            stage="confirm" if job.mode == "confirm" else "time",
            measurements=timed.measurements,
            traits={**timed.traits, **modelled, "specialised": made_for_these},
            errors=checked.errors,
            evidence=evidence.finite(record.evidence),
            digests=tuple(record.digests),
            ranking_key=self.ranking_key,
            seconds=self._seconds(job, record),
            beats_incumbent=timed.beats_incumbent,
        )

    def prepare(self, job: Job, record: Record) -> Ready:
        """Everything that needs no device: screen, lower, gate, build. Each new digest may find a twin."""
        record.evidence["environment"] = self.environment
        record.evidence["replay"] = evidence.of_job(job, self.problem, self.variant)
        with record.stage("screen"):
            screened = screen(job.candidate.source, entry=self.problem.entry)
            record.evidence["source"] = evidence.of_source(job, screened)
            self._dedupe(f"ast:{screened.digest}", "screen", job, record)
        workloads = [w for role in roles(job) for w in self.problem.of_role(role, self.variant)]
        points = first_points(screened, workloads, job.parameters)
        with record.stage("lower"):
            raw, again = (  # twice, in different orders: a host function that remembers gives itself away
                lower(self.jail, screened, self.problem, points, self.target, shuffle_seed=_shuffle(job) + turn)
                for turn in (0, 1)
            )
        with record.stage("gate"):
            gated = gate(raw, screened=screened, problem=self.problem, points=points, target=self.target, again=again)
            record.evidence["plan"] = evidence.of_plan(gated)
            record.evidence["certificate"] = gated.certificate
            self._dedupe(f"plan:{gated.digest}", "gate", job, record)
        with record.stage("build"):
            plans = self._to_build(gated, job)
            built = self.builder.build(replace(gated.lowered, plans=plans))
            record.evidence["build"] = evidence.of_build(built, self.builder, assembly=job.mode == "confirm")
            self._dedupe(f"sass:{built.digest(plans)}:{digest_of(repr(screened.tune))}", "build", job, record)
        return Ready(
            job=job,
            screened=screened,
            gated=gated,
            built=built,
            parameters={p.workload.name: p.parameters for p in points},
        )

    def _promised(self, ready: Ready, record: Record) -> tuple[Ready, Mapping[str, Scalar]]:
        """What the model says before anything runs, and the trait that its children are compared with."""
        if self.modelled_on is None:
            return ready, {}
        with record.stage("model"):
            promise = promise_of(self._as_it_came(ready), self.modelled_on, self.problem, self.variant)
        if skipped(promise, ready.job, tuned=self.tune is not untuned and bool(ready.screened.tune)):
            raise refusal(promise)
        record.evidence["model"] = evidence_of(promise, skips=False)
        trait = {TRAIT: round(promise.modelled_us, 3)} if promise.modelled_us else {}
        return replace(ready, promise=promise.ratio), trait

    def _as_it_came(self, ready: Ready) -> Ready:
        """At its own parameters: what a confirmation was given are a tuner's, and no child comes tuned."""
        if not ready.job.parameters:
            return ready
        timed = self.problem.of_role("time", self.variant)
        points = first_points(ready.screened, timed)
        raw = lower(self.jail, ready.screened, self.problem, points, self.target, shuffle_seed=0)
        gated = gate(raw, screened=ready.screened, problem=self.problem, points=points, target=self.target)
        return replace(ready, gated=gated, built=self.builder.build(gated.lowered))

    def _neighbours(self, ready: Ready) -> tuple[bool, Json]:
        timed = {w.name: w for w in self.problem.of_role("time", self.variant)}
        plans = [plan for plan in ready.gated.lowered.plans if plan.workload in timed]
        points = [Point(workload=timed[p.workload], parameters=ready.parameters[p.workload]) for p in plans]
        return specialised(
            self.jail, ready.screened, self.problem, points, plans, self.target, random_seed=_shuffle(ready.job)
        )

    def _to_build(self, gated: Gated, job: Job) -> tuple[Plan, ...]:
        if job.mode == "confirm":
            return gated.lowered.plans
        names = {w.name for role in self.builds for w in self.problem.of_role(role, self.variant)}
        return tuple(plan for plan in gated.lowered.plans if plan.workload in names)

    def _dedupe(self, digest: str, stage: str, job: Job, record: Record) -> None:
        record.digests.append(digest)
        twin = duplicate_of([digest], job)
        if twin:
            same = {"screen": "source", "gate": "launch plan", "build": "machine code"}[stage]
            raise Ruling(Verdict.DUPLICATE, same_as(twin, same, job.candidate.parent_id), stage=stage)

    def close(self) -> None:
        for part in (self.device, self.builder, self.jail):
            part.close()


def _shuffle(job: Job) -> int:
    return job.random_seeds[0] if job.random_seeds else 0
