"""From a configuration to the parts that it names.

One function a part; what needs torch is imported where it is made, so that commands that only look stay quick. Short
names stand here in tables; anything else is `package.module:Name`.
"""

from __future__ import annotations

import importlib
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import evolve
from evolve.config import RunConfig
from evolve.council import Council, Seat
from evolve.council.budget import Budget
from evolve.council.council import RULE
from evolve.council.registry import seat
from evolve.errors import ConfigError
from evolve.executors.local import LocalExecutor
from evolve.experiments_lessons import lessons
from evolve.inbox import AGAIN
from evolve.journal import Journal
from evolve.judge import backends
from evolve.judge.targets import find as find_target
from evolve.judge.tune import Tuning
from evolve.population import Population, Rankings, Selection
from evolve.problem import Problem, Variant, load_problem, with_workloads
from evolve.prompts import Briefing, Renderer, read
from evolve.prompts.near import Near, asked_anew
from evolve.types import Asked, Candidate, Draw, Executor, Json, Noted, Prompt, Reply


def writable(folder: Path) -> bool:
    """Whether it is, or could be made. Nothing is."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists() or p.is_symlink())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@cache
def cache_folder() -> Path:
    """`~/.cache/evolve`; where that cannot be written, as in many a container, a folder that lives as long as we do."""
    with suppress(RuntimeError):  # nobody knows where this user is at home
        folder = Path.home() / ".cache" / "evolve"
        if writable(folder):
            return folder
    _passing.append(made := tempfile.TemporaryDirectory(prefix="evolve-"))
    return Path(made.name)


_passing: list[tempfile.TemporaryDirectory[str]] = []  # removed at the interpreter's end


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A judge that stands ready: calibrated, and known by the key under which its scores may be compared."""

    executor: Executor
    device: str  # as a person would name it
    ranking_key: str
    width: int  # candidates in its hands at once
    calibration: Mapping[str, Json]
    environment: Mapping[str, Json]
    facts: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    # GPUs that judge at present, by their ranking key: on a cluster they come and go
    present: Callable[[], Mapping[str, int]] = dict
    heard: Callable[[], list[Noted]] = list  # what is to go on record about them, each once


@dataclass(frozen=True, kw_only=True)
class Parts:
    population: Rankings
    council: Council
    budget: Budget
    render: Callable[[Draw, str], Prompt]
    read: Callable[[Reply, Asked, Draw], Candidate | str]
    near: Near
    again: Callable[[Candidate, Asked], Asked | str | None]


def problem(config: RunConfig) -> Problem:
    return with_workloads(load_problem(config.problem), config.workloads)


def variant(config: RunConfig, problem: Problem) -> Variant:
    return problem.variant(config.variant)


def open_bench(
    config: RunConfig,
    problem: Problem,
    seed: str | None,
    *,
    calibration: Mapping[str, Json] | None = None,
    others: Iterable[Mapping[str, Json]] = (),
    configurations: int = 0,
) -> Bench:
    """The judge, on this machine's GPUs or on a cluster's, behind its executor. `calibration` is that of a run that is
    resumed, `others` those of further kinds of GPU that it had; `configurations` were timed in it before."""
    made = settings(config, problem, configurations)
    if config.executor == "ray":
        from evolve.executors.cluster import PLACES, open_cluster

        cluster, opened = open_cluster(
            made, address=config.ray.address, seed=seed, calibration=calibration, others=tuple(others)
        )
        return _bench(cluster, [opened], cluster.heard, cluster.present, config.concurrency.cpu or PLACES)
    own = None if config.executor == "local" else _own_executor(config)
    every = backends.open_all(made, seed=seed, calibration=calibration, others=others)
    if own:
        return _bench(own(*(each.backend for each in every), width=width(config)), every, list, dict, width(config))
    local = LocalExecutor(*(each.backend for each in every), width=width(config), heard=_other_kinds(every))
    return _bench(local, every, local.heard, local.present, width(config))


def _own_executor(config: RunConfig) -> Callable[..., Executor]:
    """Called as the local one is: with a backend for each GPU, and `width`."""
    module, _, attribute = config.executor.partition(":")
    try:
        found: Callable[..., Executor] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f'{config.source}: executor "{config.executor}": {error}; expected local (the GPUs of this machine), ray '
            "(those of a Ray cluster), or package.module:Name."
        ) from error
    return found


def open_single(
    config: RunConfig, problem: Problem, seed: str | None, *, calibration: Mapping[str, Json] | None = None
) -> Bench:
    """The judge on one GPU of this machine, wherever a run's judge is: for whoever has one candidate."""
    opened = open_backend(config, problem, seed, calibration=calibration)
    local = LocalExecutor(opened.backend, width=width(config))
    return _bench(local, [opened], local.heard, local.present, width(config))


def _bench(
    executor: Executor,
    opened: Sequence[backends.Opened],
    heard: Callable[[], list[Noted]],
    present: Callable[[], Mapping[str, int]],
    width: int,
) -> Bench:
    """The first one's are the run's own ranking and calibration."""
    first = opened[0]
    return Bench(
        executor=executor,
        device=devices([each.device for each in opened]),
        ranking_key=first.ranking_key,
        width=width,
        calibration=first.calibration,
        environment={**environment(), **first.environment},
        facts=first.facts,
        warnings=tuple(dict.fromkeys(warning for each in opened for warning in each.warnings)),
        present=present,
        heard=heard,
    )


def _other_kinds(every: Sequence[backends.Opened]) -> list[Noted]:
    """Their calibrations, so that a resumed run has the same baselines for them."""
    first = {each.ranking_key: each for each in reversed(every)}
    return [
        Noted(what="joined", text=f"{o.device} joined.", data={"ranking_key": key, "calibration": o.calibration})
        for key, o in first.items()
        if key != every[0].ranking_key
    ]


def devices(names: Sequence[str]) -> str:
    """ "2 × NVIDIA H200" """
    counted = Counter(names)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counted.items())


def width(config: RunConfig) -> int:
    """Candidates that are lowered and built at once."""
    return config.concurrency.cpu or max(1, os.cpu_count() or 1)


def open_backend(
    config: RunConfig,
    problem: Problem,
    seed: str | None,
    *,
    calibration: Mapping[str, Json] | None = None,
    configurations: int = 0,
) -> backends.Opened:
    """Without a calibration it makes one, from the seed where there is no GPU."""
    return backends.open_backend(settings(config, problem, configurations), seed=seed, calibration=calibration)


def settings(config: RunConfig, problem: Problem, configurations: int = 0) -> backends.Settings:
    return backends.Settings(
        problem=problem,
        variant=variant(config, problem),
        backend=config.backend,
        target=config.target,
        cache=cache_folder(),
        width=width(config),
        timeout=config.evaluator.timeout,
        tuner=tuning(config),
        configurations=configurations,
    )


def tuning(config: RunConfig) -> Tuning | None:
    tuner = config.tuner
    auto = config.backend == "gpu" or (config.backend == "auto" and backends.gpu_present())
    if not (auto if tuner.enabled == "auto" else tuner.enabled):
        return None
    return Tuning(points=tuner.points, seconds=tuner.seconds, gpu_seconds=tuner.gpu_seconds)


def shipped(name: str) -> Path:
    """A file that comes with evolve: from the checkout, or from inside the wheel."""
    inside = Path(evolve.__file__).parent
    return next((p for p in (inside.parent / name, inside / "data" / name) if p.is_file()), inside.parent / name)


def environment() -> dict[str, Json]:
    """What a number depends on beside the GPU: versions, never this machine's paths or names."""
    versions: dict[str, str | None] = {"evolve": evolve.__version__}
    for name in ("torch", "triton", "numpy", "openevolve", "libcst", "optuna"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"python": platform.python_version(), "system": platform.system(), "versions": versions}


def meta(config: RunConfig, problem: Problem, bench: Bench, own_version: str) -> dict[str, Json]:
    """What a run is, for whoever looks at its journal."""
    limits = {k: v for k in ("steps", "usd", "tokens", "seconds", "gpu_seconds") if (v := getattr(config.budget, k))}
    chosen = variant(config, problem)
    return {
        "config": config.source,
        "problem": problem.name,
        "problem_path": config.problem,
        "problem_digest": problem.digest,
        "variant": chosen.name,
        "workloads": [w.name for w in problem.of_role("time", chosen)],
        "target": config.target,
        "device": bench.device,
        "backend": config.backend,
        "ranking_key": bench.ranking_key,
        "strategy": config.strategy,
        "seeds": list(config.seeds),
        "random_seed": config.random_seed,
        "axes": {name: list(labels) for name, labels in problem.axes.items()},
        "evolve": own_version,
        "budget": limits,
    }


def parts(config: RunConfig, problem: Problem, bench: Bench, journal: Journal, council: Council) -> Parts:
    near = Near()

    def again(candidate: Candidate, asked: Asked) -> Asked | str | None:
        """Rules know what they proposed, and who proposed unasked cannot be asked."""
        if asked.prompt.kind in (RULE, AGAIN):
            return None
        return asked_anew(near, candidate, asked, may_ask=asked.member in council.seats)

    return Parts(
        near=near,
        again=again,
        population=Rankings(lambda key: population(config, problem, key, journal), bench.ranking_key),
        council=council,
        budget=budget(config),
        render=with_lessons(renderer(config, problem, bench.facts), config, journal),
        read=read,
    )


def with_lessons(render: Renderer, config: RunConfig, journal: Journal) -> Callable[[Draw, str], Prompt]:
    """What the run has taught goes into prompts, but not where each step shall be one of N alike."""

    def rendered(draw: Draw, kind: str) -> Prompt:
        if kind == RULE or config.strategy == "best_of_n":
            return render(draw, kind)
        return render(replace(draw, lessons=lessons(journal, draw.parent.id if draw.parent else None)), kind)

    return rendered


def population(config: RunConfig, problem: Problem, ranking_key: str, journal: Journal) -> Population:
    d = config.database
    selection = Selection(
        population_size=d.population_size,
        archive_size=d.archive_size,
        exploration_ratio=d.exploration_ratio,
        exploitation_ratio=d.exploitation_ratio,
        elite_selection_ratio=d.elite_selection_ratio,
        num_top_programs=config.prompt.num_top_programs,
        num_diverse_programs=config.prompt.num_diverse_programs,
        migration_interval=d.migration_interval,
        migration_rate=d.migration_rate,
    )
    return Population(
        axes=problem.axes,
        islands=d.num_islands,
        random_seed=config.random_seed,
        attempt=journal.attempt,
        strategy=config.strategy,
        ranking_key=ranking_key,
        selection=selection,
    )


def council(config: RunConfig, problem: Problem, folder: Path) -> Council:
    """Every member in its seat, told what the run knows of the chip, the sizes, and where it lies."""
    chosen = variant(config, problem)
    mailboxes = sum(m.member == "mailbox" for m in config.council)
    lanes = min(config.concurrency.replies, config.concurrency.steps or config.concurrency.replies)
    knows = {
        "workloads": problem.of_role("time", chosen),
        "target": config.target,
        "triton": environment()["versions"]["triton"] or "",
        "random_seed": config.random_seed,
        "allows": chosen.allows,
        "repeat": chosen.repeat,
        "tuned": tuning(config) is not None,
        "folder": folder,
        "slots": max(1, (lanes - 1) // max(1, mailboxes)),  # one lane is always left to the others
    }
    seats: list[Seat] = [
        seat(
            m.member,
            name=m.name,
            weight=m.weight,
            kinds=m.kinds,
            options=m.options,
            usual=config.prompt.kinds,
            knows=knows,
        )
        for m in config.council
    ]
    return Council(seats, weights=config.weights, when_resting=config.when_resting, random_seed=config.random_seed)


def budget(config: RunConfig) -> Budget:
    b = config.budget
    return Budget(
        steps=b.steps,
        usd=b.usd,
        tokens=b.tokens,
        seconds=b.seconds,
        gpu_seconds=b.gpu_seconds,
        patience=config.early_stopping_patience,
        threshold=config.convergence_threshold,
    )


def sheet_facts(config: RunConfig) -> tuple[str, ...]:
    """Of the chip that is built for where there is no GPU, before anything is calibrated."""
    chip = find_target(config.target)
    versions = {name: version or "not installed" for name, version in environment()["versions"].items()}
    return backends.prompt_facts(chip, versions, "data sheet")


def renderer(config: RunConfig, problem: Problem, facts: tuple[str, ...]) -> Renderer:
    chosen = variant(config, problem)
    briefing = Briefing(
        problem=problem,
        variant=chosen,
        workloads=problem.of_role("time", chosen),
        facts=facts,
        target=config.target,
        triton=environment()["versions"]["triton"] or "",
    )
    folder = Path(config.prompt.template_dir) if config.prompt.template_dir else None
    return Renderer(briefing=briefing, template_dir=folder, longest=config.prompt.max_chars)
