"""A small matrix product for the fake device; its baseline costs what its operations cost on the fake clock."""

import torch
from gpu_fakes import CLOCK

from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload


def make_inputs(workload, device, random_seed):
    m, n, k = workload["M"], workload["N"], workload["K"]
    rng = torch.Generator("cpu").manual_seed(random_seed)
    return torch.randn((m, k), generator=rng).to(device), torch.randn((k, n), generator=rng).to(device)


def library(a, b):
    CLOCK.run(a.shape[0] * b.shape[1] * a.shape[1] / 1000)
    return a @ b


def missing(workload):
    return "it was never installed"


PROBLEM = Problem(
    name="small",
    entry="matmul",
    arguments=(Argument(name="a"), Argument(name="b")),
    outputs=lambda w: (TensorSpec(name="c", shape=(w["M"], w["N"]), dtype="float32"),),
    reference=torch.matmul,
    make_inputs=make_inputs,
    variants=(Variant(name="fp32", params={}, comparators={"c": Norm(strict=2e-6, at_most=1e-5)}),),
    workloads=(
        Workload(name="square", params={"M": 64, "N": 64, "K": 64}),
        Workload(name="wide", params={"M": 32, "N": 128, "K": 96}, mode="hot", weight=2.0),
        Workload(name="ragged", params={"M": 33, "N": 17, "K": 65}, role="check"),
        Workload(name="hidden", params={"M": 40, "N": 24, "K": 70}, role="held_out"),
    ),
    interpreted=(),
    baselines=(
        Baseline(name="absent", call=library, unavailable=missing),
        Baseline(name="library", call=library),
    ),
    bytes_moved=lambda w: 4.0 * (w["M"] * w["K"] + w["K"] * w["N"] + w["M"] * w["N"]),
    flops=lambda w: 2.0 * w["M"] * w["N"] * w["K"],
)
