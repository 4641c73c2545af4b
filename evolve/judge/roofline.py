"""The least time that a workload can take on a chip: its bytes from memory once, or its operations at full rate.

A share of it is for reading and for `--min-roofline`, never for ranking. Where the chip was calibrated the ceilings are
those that were measured on it; what nobody measured is the data sheet's. Another floor stands in `time.py`: that one is
there to refuse the impossible, and so is lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from evolve.judge.meta import without_data
from evolve.judge.stages import Target
from evolve.problem import Problem, Variant
from evolve.types import Workload

# Rates of products by dtype, as targets name them. Products of float32 go to tensor cores only where tf32 is allowed.
RATES: Mapping[torch.dtype, str] = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float8_e4m3fn: "float8",
    torch.float8_e5m2: "float8",
    torch.int8: "int8",
    torch.float64: "float64",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Roof:
    """`us` is the roof. `gbs` and `tflops` are the ceilings it was made of."""

    us: float
    bound: Literal["memory", "compute"]
    nbytes: float
    flops: float
    gbs: float
    tflops: float

    @property
    def intensity(self) -> float:
        return self.flops / self.nbytes


def with_ceilings(target: Target, ceilings: Mapping[str, Any]) -> Target:
    """The target with whatever calibration measured: the better of reading and copying, all rates of products."""
    best = max(ceilings.get("read_gbs") or 0.0, ceilings.get("memory_gbs") or 0.0)
    return replace(
        target,
        memory_gbs=best or target.memory_gbs,
        l2_gbs=ceilings.get("l2_gbs") or target.l2_gbs,
        tflops={**target.tflops, **ceilings.get("tflops", {})},
    )


def roof(problem: Problem, variant: Variant, workload: Workload, target: Target) -> Roof:
    nbytes = problem.bytes_moved(workload)
    flops = problem.flops(workload) if problem.flops else 0.0
    gbs = target.l2_gbs if workload.mode == "hot" else target.memory_gbs
    rate = target.tflops.get(rate_of(problem, variant, workload), target.tflops["float32"])
    moving, computing = nbytes / gbs / 1e3, flops / rate / 1e6
    return Roof(
        us=max(moving, computing),
        bound="memory" if moving >= computing else "compute",
        nbytes=nbytes,
        flops=flops,
        gbs=gbs,
        tflops=rate,
    )


def rate_of(problem: Problem, variant: Variant, workload: Workload) -> str:
    """By the dtype of the largest input."""
    made = [x for x in without_data(problem, workload) if isinstance(x, torch.Tensor)]
    largest = max(made, key=lambda x: x.numel() * x.element_size(), default=None)
    if largest is None or largest.dtype not in RATES:
        return "tf32" if "tf32" in variant.allows else "float32"
    return RATES[largest.dtype]
