"""One candidate before the judge, without a run: `evolve judge`, and the red team's bench.

A candidate of a run is judged again from its journal, under that run's configuration and calibration, so that its
score means the same. A file is judged against the problem's own baselines; where there is no GPU the baseline is the
problem's plain seed under the model, or, where none is found, the file itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from evolve import wiring
from evolve.config import RunConfig, load_config
from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.judge import redteam as suite
from evolve.judge.backends import gpu_present
from evolve.loop import seeds_of
from evolve.problem import Problem
from evolve.runs import named
from evolve.types import Candidate, Evaluation, Job, Json, Scalar, Workload

RUNS = Path("runs")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to judge, and how. `target` is a file or RUN:ID."""

    target: str
    problem: str | None = None
    variant: str | None = None
    backend: str | None = None
    workload: str | None = None
    random_seeds: tuple[int, ...] = ()  # of an earlier judgement, to run that one again
    parameters: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)  # a file's, by workload
    timed: tuple[Workload, ...] = ()  # in the place of the problem's own
    tuned: bool = False  # search for its parameters on each workload, as a run with a tuner does


@dataclass(frozen=True, kw_only=True)
class Report:
    candidate: Candidate
    evaluation: Evaluation
    device: str


def seeds_in(text: str) -> tuple[int, ...]:
    """ "1,2,3" as the evidence of a judgement gives them."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--random-seeds {text}: expected whole numbers with commas between, as in the evidence.")
    return tuple(map(int, parts))


def judge(order: Order) -> Report:
    """Raises for the caller's mistakes and for broken machinery; whatever the candidate does is in the report."""
    asked = wanted(order)
    problem = narrowed(wiring.problem(asked.config), (order.workload,) if order.workload is not None else ())
    seed = plain_seed(asked.config, problem) or asked.job.candidate.source
    bench = wiring.open_single(asked.config, problem, seed, calibration=asked.calibration)
    with closing(bench.executor):
        evaluation = asyncio.run(bench.executor.evaluate(asked.job))
        return Report(candidate=asked.job.candidate, evaluation=evaluation, device=bench.device)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an order comes to. `chosen` are the parameters that a run's candidate was timed at, by workload."""

    job: Job
    config: RunConfig
    calibration: Mapping[str, Json] | None = None
    chosen: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)


def wanted(order: Order) -> Wanted:
    if Path(order.target).is_file():
        if not order.problem:
            raise UsageError(f"{order.target}: say which problem it solves, such as --problem evaluators/matmul.py.")
        source = Path(order.target).read_bytes().decode("utf-8", "surrogateescape")
        config = _with(RunConfig(problem=order.problem, source=order.target, workloads=order.timed), order)
        job = _job(Candidate(step=0, source=source, member="you", kind="seed"), order, {})
        return Wanted(job=job, config=config, chosen=order.parameters)
    if order.target.endswith(".py") and ":" not in order.target:
        raise UsageError(f"{order.target}: no such file; a candidate is named as FILE or as RUN:ID.")
    place = named(order.target, RUNS)
    with closing(Journal.open(place.folder)) as journal:
        attempt = journal.attempt(journal.resolve(place.selector or "best"))
        config = _with(load_config(place.folder / "config.yaml"), order)
        if order.problem:  # as that file has it, its timing list included
            config = replace(config, workloads=())
        same = not (order.problem or order.variant or order.backend or order.workload)
        job = _job(attempt.candidate, order, attempt.evaluation.evidence.get("replay", {}) if same else {})
        calibration = journal.environment.get("calibration") if same else None
        return Wanted(job=job, config=config, calibration=calibration, chosen=attempt.evaluation.parameters)


def _job(candidate: Candidate, order: Order, kept: Mapping[str, Json]) -> Job:
    """With the seeds of an earlier judgement it is that one again; otherwise with fresh ones."""
    seeds = order.random_seeds or tuple(kept.get("random_seeds", ())) or seeds_of(secrets.token_hex(8), candidate.id)
    return Job(
        candidate=candidate,
        random_seeds=seeds,
        mode=kept.get("mode", "judge"),
        parameters=kept.get("parameters", {}),
    )


def _with(config: RunConfig, order: Order) -> RunConfig:
    given = {k: v for k in ("problem", "variant", "backend") if (v := getattr(order, k)) is not None}
    tuner = replace(config.tuner, enabled=order.tuned or config.tuner.enabled)
    return replace(config, tuner=tuner, **given)


def narrowed(problem: Problem, workloads: Sequence[str]) -> Problem:
    """Timed on these workloads only, or on all where none is named; it is checked on all the same."""
    timed = [w for w in problem.workloads if w.role == "time"]
    for name in workloads:
        if name not in {w.name for w in timed}:
            names = ", ".join(w.name for w in timed)
            raise UsageError(f"--workload {name}: {problem.path} times no such workload; it has {names}.")
    chosen = [w for w in timed if w.name in workloads or not workloads]
    return replace(problem, workloads=(*chosen, *(w for w in problem.workloads if w.role != "time")))


def plain_seed(config: RunConfig, problem: Problem) -> str | None:
    usual = Path(problem.path).parent.parent / "seeds" / f"{problem.name}.py"
    places = [*map(Path, config.seeds), usual]
    return next((place.read_bytes().decode("utf-8", "surrogateescape") for place in places if place.is_file()), None)


def redteam(names: tuple[str, ...], backend: str) -> Iterator[suite.Row]:
    """The packaged cases through the whole judge, row by row. One judge stays open for each problem and variant."""
    cases = suite.cases(names)
    name = ("gpu" if gpu_present() else "cpu") if backend == "auto" else backend
    with ExitStack() as stack:

        def opened(problem: str | None, variant: str | None) -> suite.Evaluate:
            path = problem or str(wiring.shipped("evaluators/matmul.py"))
            config = RunConfig(problem=path, variant=variant, backend=name, source=path)
            loaded = wiring.problem(config)
            made = wiring.open_backend(config, loaded, plain_seed(config, loaded))
            stack.callback(made.backend.close)
            return made.backend.evaluate

        yield from suite.run(cases, opened, has_gpu=name == "gpu")


def calibrations(backend: str = "gpu") -> Iterator[tuple[str, Mapping[str, Json]]]:
    """What this GPU is and does, by variant of the matrix product: `evolve doctor --gpu`."""
    path = str(wiring.shipped("evaluators/matmul.py"))
    problem = wiring.problem(RunConfig(problem=path, source=path))
    for variant in problem.variants:
        config = RunConfig(problem=path, variant=variant.name, backend=backend, source=path)
        opened = wiring.open_backend(config, problem, None)
        opened.backend.close()
        yield variant.name, opened.calibration
