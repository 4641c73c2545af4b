"""Rows of x scaled where they lie: the smallest problem that works in place, for the red-team suite.

The rows behind the first `rows` stay as they are, bit for bit.
"""

from typing import Any

import torch

from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)
    x = torch.randn((workload["M"], workload["N"]), generator=rng, device=device).to(getattr(torch, workload["dtype"]))
    return x, workload["rows"], 0.5


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    shape = (workload["M"], workload["N"])
    return (TensorSpec(name="x", shape=shape, dtype=workload["dtype"], argument="x"),)


def reference(x: torch.Tensor, rows: int, factor: float) -> torch.Tensor:
    x = x.clone()
    x[:rows] *= factor
    return x


def baseline(x: torch.Tensor, rows: int, factor: float) -> torch.Tensor:
    x[:rows].mul_(factor)
    return x


def bytes_moved(workload: Workload) -> float:
    return 2.0 * workload["rows"] * workload["N"] * getattr(torch, workload["dtype"]).itemsize


def sized(name: str, m: int, n: int, rows: int, **more: Any) -> Workload:
    return Workload(name=name, params={"M": m, "N": n, "rows": rows}, **more)


PROBLEM = Problem(
    name="scale_rows",
    entry="scale_rows",
    arguments=(Argument(name="x", role="in_out"), Argument(name="rows", role="scalar"), Argument(name="factor", role="scalar")),
    outputs=outputs,
    reference=reference,
    make_inputs=make_inputs,
    variants=(Variant(name="fp32", params={"dtype": "float32"}, comparators={"x": Norm(strict=1e-6, at_most=1e-6)}),),
    workloads=(
        sized("wide", 8192, 4096, 6000),
        sized("check_ragged", 333, 257, 200, role="check"),
        sized("held_narrow", 5000, 1000, 4000, role="held_out"),
    ),
    interpreted=(sized("small", 33, 65, 20, role="check"),),
    baselines=(Baseline(name="eager", call=baseline),),
    bytes_moved=bytes_moved,
    notes="x[:rows] *= factor, in place; the rows behind stay as they are.",
)
