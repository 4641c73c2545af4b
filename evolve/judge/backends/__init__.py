"""What a candidate is judged on: `gpu`, `cpu`, and `fake` for tests and docs. `open_backend` makes one ready."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evolve.errors import ConfigError, MachineryError
from evolve.judge import Backend
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


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A backend that stands ready, and what must be on record about it."""

    backend: Backend
    device: str
    ranking_key: str
    calibration: Mapping[str, Json] = field(default_factory=dict)
    environment: Mapping[str, Json] = field(default_factory=dict)
    facts: tuple[str, ...] = ()  # for prompts: the chip and the versions, a sentence each


def open_backend(settings: Settings, *, seed: str | None, calibration: Mapping[str, Json] | None = None) -> Opened:
    """`seed` is what a modelled baseline is made of; a calibration from the run's record spares making one."""
    name = settings.backend
    if name == "auto":
        name = "gpu" if gpu_present() else "cpu"
    if name == "fake":
        from evolve.judge.backends.fake import FakeBackend

        return Opened(backend=FakeBackend(), device="the fake judge", ranking_key="fake")
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

        return open_gpu(settings, seed, calibration)
    return _own(name, settings)


def gpu_present() -> bool:
    """Asked of the driver's management library: a CUDA context must never be opened in this process."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return False
    except pynvml.NVMLError:
        return False
    return int(pynvml.nvmlDeviceGetCount()) > 0


def _own(name: str, settings: Settings) -> Opened:
    module, _, attribute = name.partition(":")
    try:
        made: Opened = getattr(importlib.import_module(module), attribute)(settings)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f'backend "{name}": {error}; expected auto, gpu, cpu, fake or package.module:Name.'
        ) from error
    return made
