"""The chips we build for, as ceilings: `data/devices.json` read into `Target`s.

It deliberately asks no driver: what is plugged in is the GPU process's affair. It says the name and the figures it
measured, `find` gives the table's row and `calibrated` puts the measured ceilings in the data sheet's place.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from evolve.errors import ConfigError
from evolve.judge.stages import Target

# ALUs of one SM that do a float32 multiply-add each clock: what turns a float32 rate into a clock.
FP32_LANES: Mapping[str, int] = {"sm_80": 64}
RESERVED_SHARED_BYTES = 1024  # of each block, taken by CUDA from sm_80 on


@functools.cache
def targets() -> tuple[Target, ...]:
    """Every device of the table, in its order."""
    text = (files("evolve") / "data" / "devices.json").read_text(encoding="utf-8")
    return tuple(Target(**row) for row in json.loads(text)["devices"])


def find(name: str, device: str | None = None) -> Target:
    """The chip called `name` ("sm_90"), or a device's own name ("NVIDIA H200"). `device` picks among chips that share
    an architecture; one that the table does not know gets its architecture's default under its own name."""
    rows = [t for t in targets() if name in (t.name, t.device)]
    if not rows:
        known = ", ".join(dict.fromkeys(t.name for t in targets()))
        raise ConfigError(f'target "{name}" is not one that evolve builds for; it knows {known}.')
    if device is None:
        return rows[0]
    return next((t for t in rows if t.device == device), replace(rows[0], device=device))


def calibrated(target: Target, ceilings: Mapping[str, Any]) -> Target:
    """The target with measured figures: `memory_gbs`, `l2_gbs`, `launch_us`, `sms`, and `tflops` by dtype."""
    allowed = {"memory_gbs", "l2_gbs", "launch_us", "sms", "l2_bytes", "tflops"}
    unknown = set(ceilings) - allowed
    if unknown:
        raise ConfigError(f'calibration gives "{min(unknown)}"; expected some of {", ".join(sorted(allowed))}.')
    figures = dict(ceilings)
    figures["tflops"] = {**target.tflops, **figures.get("tflops", {})}
    return replace(target, **figures, measured=True)


def lanes(target: Target) -> int:
    return FP32_LANES.get(target.name, 128)


def clock_ghz(target: Target) -> float:
    """The clock that the float32 rate was stated at."""
    return target.tflops["float32"] * 1e3 / (2 * lanes(target) * target.sms)


def shared_of_sm(target: Target) -> int:
    """What all blocks of one SM share. NVIDIA keeps 1 KiB of it for each block, AMD keeps nothing."""
    return target.shared_bytes + (RESERVED_SHARED_BYTES if target.backend == "cuda" else 0)
