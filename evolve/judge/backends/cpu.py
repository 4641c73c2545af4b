"""Judging without a GPU: built for a chosen chip, checked under the Triton interpreter, timed by a model.

The answer is checked on small stand-ins of the workloads, in another dtype where the interpreter cannot compute the
variant's own, and the evidence says so. The time is modelled and called so wherever it goes: its ranking key differs
from every measured one, and its baseline is the seed at its defaults under the same model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil

from evolve.errors import MachineryError
from evolve.judge import interpret
from evolve.judge.backends import Opened, Settings, prompt_facts
from evolve.judge.backends.assembly import open_shop
from evolve.judge.feedback import speed_feedback
from evolve.judge.jail import Jail, Limits
from evolve.judge.model import Prediction, predict
from evolve.judge.pipeline import Pipeline, Record
from evolve.judge.plan import Plan
from evolve.judge.points import Maker, Shot
from evolve.judge.share import LEAST
from evolve.judge.stages import Built, Checked, Ready, Ruling, Target, Timed
from evolve.judge.targets import find
from evolve.judge.traits import traits
from evolve.judge.tune import Tuning
from evolve.judge.tuning_clock import Sitting
from evolve.problem import Problem, Variant
from evolve.tuner import Key as PointKey
from evolve.tuner import key_of
from evolve.types import Candidate, Job, Json, Measurement, Scalar, Verdict, Workload

# The model's own ranking is not finer than this; a smaller gain is no reason to replace the incumbent.
CLEARLY = 1.01
UNCHECKED = (
    "Answers were checked under Triton's interpreter at small sizes, at the parameters that are timed; the built "
    "kernels were never run, so races, alignment and whatever happens at other sizes were not seen."
)
NO_GPU = "There is no GPU here: times are modelled, so a change must show in the machine code to count."


@dataclass(kw_only=True)
class CpuDevice:
    problem: Problem
    variant: Variant
    target: Target
    jail: Jail  # one that interprets
    measures = False
    baselines: Mapping[str, float]  # workload -> modelled time of the seed at its defaults, in microseconds
    work_factors: dict[str, float] = field(default_factory=dict)  # of the candidates that are here, as interpreted

    def check(self, ready: Ready) -> Checked:
        """At every choice of parameters that is timed: a judgement has one, a confirmation what the tuner chose."""
        timed = [ready.parameters[w.name] for w in self.problem.of_role("time", self.variant)]
        first, *others = {key_of(p): p for p in timed or [ready.screened.defaults]}.values()
        errors, evidence = self.interpreted(ready, first)
        more = [(parameters, *self.interpreted(ready, parameters)) for parameters in others]
        for _, found, _ in more:
            errors = {name: max(errors.get(name, 0.0), error) for name, error in found.items()}
        if more:
            evidence["parameters"] = dict(first)
            evidence["also"] = [{"parameters": dict(parameters), **said} for parameters, _, said in more]
        return Checked(errors=errors, evidence=evidence)

    def interpreted(self, ready: Ready, parameters: Mapping[str, Scalar]) -> tuple[dict[str, float], dict[str, Json]]:
        errors, evidence = interpret.check(
            self.jail,
            ready.screened,
            self.problem,
            self.variant,
            random_seeds=ready.job.random_seeds,
            parameters=parameters,
        )
        if factor := evidence.get("work_factor"):
            self.work_factors.setdefault(ready.job.candidate.id, float(factor))
        return errors, evidence

    def modelled(self, ready: Ready, plan: Plan, built: Built, workload: Workload) -> Prediction:
        """The model's word, with what the interpreter counted where the TTIR leaves something open."""
        counted = self.work_factors.get(ready.job.candidate.id)
        return predict(plan, built, self.target, workload, self.problem, counted=counted)

    def begin(self, ready: Ready, tuning: Tuning, maker: Maker) -> Sitting:
        return Modelled(self, ready)

    def time(self, ready: Ready) -> Timed:
        predictions = self.predict(ready)
        for name, prediction in predictions.items():
            enough(name, prediction)
        measurements = tuple(self._measured(ready, name, p) for name, p in predictions.items())
        heaviest = self.heaviest()
        plan = next(p for p in ready.gated.lowered.plans if p.workload == heaviest)
        found = traits(plan, ready.built, self.target)
        parent = ready.job.parent
        timed = Timed(
            measurements=measurements,
            beats_incumbent=False,
            traits=found,
            feedback="\n".join(
                [
                    speed_feedback(measurements, predictions, found, parent.traits if parent else {}),
                    *unjudged(self.target),
                ]
            ),
            evidence={name: prediction.evidence() for name, prediction in predictions.items()},
        )
        return replace(timed, beats_incumbent=self._beats(ready, measurements))

    def predict(self, ready: Ready) -> dict[str, Prediction]:
        """The model's word on each timed workload."""
        timed = {w.name: w for w in self.problem.of_role("time", self.variant)}
        return {
            plan.workload: self.modelled(ready, plan, ready.built, timed[plan.workload])
            for plan in ready.gated.lowered.plans
            if plan.workload in timed
        }

    def heaviest(self) -> str:
        """The workload that traits are taken from: the one that weighs most, and of those the longest."""
        timed = self.problem.of_role("time", self.variant)
        return max(timed, key=lambda w: (w.weight, self.baselines.get(w.name, 0.0))).name

    def _measured(self, ready: Ready, name: str, prediction: Prediction) -> Measurement:
        workload = self.problem.workload(name, self.variant)
        baseline = self.baselines.get(name)  # none: there was no seed to model, and the roofline takes its place
        ratio = baseline / prediction.time_us if baseline else prediction.roofline
        return Measurement(
            workload=name,
            baseline="seed (modelled)" if baseline else "roofline (modelled)",
            time_us=prediction.time_us,
            ratio=ratio,
            ratio_low=ratio,
            ratio_high=ratio,
            weight=workload.weight,
            parameters=ready.parameters[name],
            modelled=True,
        )

    def _beats(self, ready: Ready, measurements: tuple[Measurement, ...]) -> bool:
        incumbent = ready.job.incumbent
        if incumbent is None or not incumbent.evaluation.measurements:
            return True
        score = replace(incumbent.evaluation, measurements=measurements).score
        return score > incumbent.score * CLEARLY

    def leased_seconds(self, job: Job) -> float:
        return 0.0

    def leave(self, job: Job) -> None:
        self.work_factors.pop(job.candidate.id, None)

    def close(self) -> None:
        self.jail.close()


class Modelled:
    """One candidate's tuning where nothing runs: the model's times, the interpreter's checks."""

    batch = 4  # enough for two cores, few enough that the next ones know of them
    spent = ""

    def __init__(self, device: CpuDevice, ready: Ready) -> None:
        self._device, self._ready = device, ready
        self._said: dict[PointKey, Mapping[str, float] | str] = {}  # by parameters

    def quick(self, shots: Sequence[Shot]) -> list[float | str]:
        return [self._predicted(shot) for shot in shots]

    def _predicted(self, shot: Shot) -> float | str:
        """A point that leaves work out is no point, so that it cannot win by it."""
        device = self._device
        prediction = device.modelled(self._ready, shot.plan, shot.built, shot.point.workload)
        try:
            enough(shot.workload, prediction)
        except Ruling as ruling:
            return ruling.feedback
        return prediction.time_us

    def gains(self, leaders: Sequence[Shot]) -> None:
        return None

    def check(self, shots: Sequence[Shot]) -> list[Mapping[str, float] | str]:
        return [{} if self._as_checked(shot) else self._checked(shot.point.parameters) for shot in shots]

    def _as_checked(self, shot: Shot) -> bool:
        """It launches the very kernels on the very grid that were checked; only warps, stages and the like differ."""
        first = next(p for p in self._ready.gated.lowered.plans if p.workload == shot.workload)
        mine, theirs = ([(x.kernel, x.ttir, x.grid, x.arguments) for x in p.launches] for p in (shot.plan, first))
        return mine == theirs

    def _checked(self, parameters: Mapping[str, Scalar]) -> Mapping[str, float] | str:
        key = key_of(parameters)
        if key not in self._said:
            try:
                self._said[key] = self._device.interpreted(self._ready, parameters)[0]
            except Ruling as ruling:
                self._said[key] = ruling.feedback
        return self._said[key]

    def evidence(self) -> Mapping[str, Json]:
        return {}


def open_cpu(settings: Settings, seed: str | None, calibration: Mapping[str, Json] | None) -> Opened:
    """Two jails: one lowers, the other interprets, and a process's Triton is one or the other from its first import
    on."""
    target, limits = find(settings.target), _limits(settings)
    interpreting = Jail(slots=settings.width, interpret=True, limits=limits)
    # Its imports take seconds: they pass while the other jail starts and the seed is built.
    threading.Thread(target=_warm, args=(interpreting,), daemon=True).start()
    shop = open_shop(settings, target, limits)
    device = CpuDevice(
        problem=settings.problem, variant=settings.variant, target=target, jail=interpreting, baselines={}
    )
    pipeline = shop.pipeline(
        device,
        device,
        ranking_key=shop.ranking_key(
            "modelled", target.name, *shop.versions.values(), settings.problem.digest, settings.variant.name
        ),
        environment={"backend": "cpu", "judged": target.judged, "not_covered": [UNCHECKED, *unjudged(target)]},
        builds=("time",),
    )
    try:
        baselines = dict(calibration or {}) or {"baselines": _modelled(pipeline, device, seed)}
    except BaseException:
        pipeline.close()
        raise
    device.baselines = baselines["baselines"]
    return shop.opened(
        pipeline,
        device=f"no GPU: built for {target.name} ({target.device}), interpreted, modelled",
        calibration=baselines,
        facts=(*prompt_facts(target, shop.versions, "data sheet"), NO_GPU, *unjudged(target)),
        warnings=unjudged(target),
    )


def enough(workload: str, prediction: Prediction) -> None:
    """Nothing was run at this size; what is plainly not the whole work cannot be the answer. Where something could not
    be counted, the model has made up for it instead."""
    share = prediction.share
    if share.part >= LEAST or prediction.notes:
        return
    raise Ruling(
        Verdict.IMPOSSIBLE,
        f"workload {workload}: its launches account for {share.part:.0%} of the {share.what} that the answer takes. "
        "Do the whole work at every size.",
        stage="time",
        evidence={"time": {workload: prediction.evidence()}},
    )


def unjudged(target: Target) -> tuple[str, ...]:
    """A chip that we build for without ever having had one."""
    if target.judged:
        return ()
    return (f"{target.name} ({target.device}) was never judged: kernels build for it, and none was ever run on one.",)


def _limits(settings: Settings) -> Limits:
    """A stage takes no longer than the whole may."""
    usual = Limits()
    seconds = min(usual.wall_seconds, settings.timeout)
    return replace(usual, wall_seconds=seconds, cpu_seconds=min(usual.cpu_seconds, ceil(seconds)))


def _warm(jail: Jail) -> None:
    """What goes wrong here goes wrong again where somebody waits for it."""
    with suppress(MachineryError):
        _ = jail.protections


def _modelled(pipeline: Pipeline, device: CpuDevice, seed: str | None) -> Mapping[str, float]:
    """The seed's own time at its defaults. A seed that does not build has its say when it is judged."""
    if seed is None:
        return {}
    candidate = Candidate(step=0, source=seed, member="seed", kind="seed")
    try:
        ready = pipeline.prepare(Job(candidate=candidate), Record())
    except Ruling:
        return {}
    return {name: prediction.time_us for name, prediction in device.predict(ready).items()}
