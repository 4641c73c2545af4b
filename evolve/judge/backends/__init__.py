"""What a candidate is judged on: `gpu`, `cpu`, and `fake` for tests and docs. `open_backend` makes one ready."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evolve.errors import ConfigError, MachineryError, ProblemError
from evolve.judge import Backend
from evolve.judge.buildserver import Compilers, Server
from evolve.judge.stages import Target
from evolve.judge.tune import Tuning
from evolve.problem import Problem, Variant
from evolve.types import Json


@dataclass(frozen=True, kw_only=True)
class Settings:
    problem: Problem
    variant: Variant
    backend: str  # "auto", "gpu", "cpu", "fake" or `package.module:Name`
    target: str
    cache: Path
    width: int  # processes that lower and build
    timeout: float  # for all of one candidate's judgement
    tuner: Tuning | None = None  # None: every workload runs at the candidate's defaults
    configurations: int = 0  # timed in this run before it was resumed: luck grows with their number
    compilers: Callable[[Path, Target], Compilers] = Server  # where kernels are compiled


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A backend that stands ready, and what must be on record about it."""

    backend: Backend
    device: str
    ranking_key: str
    calibration: Mapping[str, Json] = field(default_factory=dict)
    environment: Mapping[str, Json] = field(default_factory=dict)
    facts: tuple[str, ...] = ()  # for prompts: the chip and the versions, a sentence each
    warnings: tuple[str, ...] = ()  # what a person should know before trusting a number from here


def open_backend(settings: Settings, *, seed: str | None, calibration: Mapping[str, Json] | None = None) -> Opened:
    """`seed` is what a modelled baseline is made of; a calibration from the run's record spares making one."""
    name = settings.backend
    if name == "auto":
        name = "gpu" if gpu_present() else "cpu"
    if name == "fake":
        from evolve.judge.backends.fake import FakeBackend

        return Opened(backend=FakeBackend(), device="the fake judge", ranking_key="fake")
    if name in ("cpu", "gpu") and calibration is None:
        _fit(settings)
    if name == "cpu":
        from evolve.judge.backends.cpu import open_cpu

        return open_cpu(settings, seed, calibration)
    if name == "gpu":
        if not gpu_present():
            raise MachineryError(
                'backend "gpu": no NVIDIA GPU answers here; use backend "cpu" (modelled times), '
                'or "auto" to take what there is.'
            )
        from evolve.judge.backends.gpu import open_gpu

        return open_gpu(settings, calibration)
    return _own(name, settings)


def open_all(
    settings: Settings,
    *,
    seed: str | None,
    calibration: Mapping[str, Json] | None = None,
    others: Iterable[Mapping[str, Json]] = (),
) -> tuple[Opened, ...]:
    """One backend for each GPU of this machine, or the one that judges without any. The first is the run's own;
    `others` are calibrations of further kinds of GPU, from its record."""
    if settings.backend not in ("auto", "gpu") or not gpu_present():
        return (open_backend(settings, seed=seed, calibration=calibration),)
    if calibration is None:
        _fit(settings)
    from evolve.judge.backends.gpu import open_gpus

    opened = open_gpus(settings, [*([calibration] if calibration else []), *others])
    return tuple(sorted(opened, key=lambda each: bool(calibration) and each.calibration != calibration))


def _fit(settings: Settings) -> None:
    """Nothing is judged by a problem that would let wrong answers pass. What a GPU can add, calibration adds."""
    from evolve.judge.fitness import unfit

    if why := unfit(settings.problem, settings.variant):
        where = settings.problem.path or settings.problem.name
        raise ProblemError(f"{where} is not fit for use: {why} `evolve check {where}` shows everything that was tried.")


def timed_names(settings: Settings) -> list[str]:
    """A score is a mean over these, so another list is another score, and part of its ranking key."""
    return [f"{w.name}:{w.weight:g}" for w in settings.problem.of_role("time", settings.variant)]


# Pairs that this judge was run with. Another may work: TTIR's words and the launcher's ways change between versions.
TRIED = (("2.11", "3.6"), ("2.13", "3.7"))


def version_warnings(versions: Mapping[str, str]) -> tuple[str, ...]:
    pair = tuple(".".join(versions[name].split("+")[0].split(".")[:2]) for name in ("torch", "triton"))
    if pair in TRIED:
        return ()
    tried = " and ".join(f"{torch} with {triton}" for torch, triton in TRIED)
    return (
        f"torch {versions['torch']} with triton {versions['triton']} was never tried with this judge; {tried} were.",
    )


def jail_warnings(protections: Sequence[str], reason: str) -> tuple[str, ...]:
    if "unjailed" not in protections:
        return ()
    return (f"candidates run unjailed here ({reason}); `evolve doctor` says what to do. Judge only what you trust.",)


def prompt_facts(target: Target, versions: Mapping[str, str], whence: str) -> tuple[str, ...]:
    rates = ", ".join(f"{name} {rate:g}" for name, rate in target.tflops.items())
    return (
        f"{target.device} ({target.name}): {target.sms} multiprocessors, {target.shared_bytes} B of shared memory a "
        f"block, {target.l2_bytes >> 20} MiB of L2, {target.memory_gbs:.0f} GB/s, dense TFLOP/s: {rates} ({whence}).",
        f"Triton {versions['triton']}, torch {versions['torch']}.",
    )


def gpu_present() -> bool:
    """Asked of the driver's management library: a CUDA context must never be opened in this process."""
    from evolve.judge.gpu.nvml import usable

    return usable() > 0


def _own(name: str, settings: Settings) -> Opened:
    module, _, attribute = name.partition(":")
    try:
        made: Opened = getattr(importlib.import_module(module), attribute)(settings)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f'backend "{name}": {error}; expected auto, gpu, cpu, fake or package.module:Name.'
        ) from error
    return made
