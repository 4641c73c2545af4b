"""Matrix product: what "correct" and "fast" mean for c = a @ b."""

from typing import Any

import torch

from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

NOTES = """\
c[M,N] = a[M,K] @ b[K,N]; a is row-major, b is row-major ("row") or column-major ("col"), c is row-major in the dtype
of a. Accumulate in float32. Large squares are bound by the tensor cores: what counts is WGMMA (BLOCK_M at least 64),
loads that run ahead (TMA descriptors, three or four stages), tiles of 128×256 without spills, and an order of programs
that keeps both panels in L2. Skinny shapes (M = 1, 16) are bound by reading b once at full memory bandwidth: small
BLOCK_M, many programs, split K. (512,512,16384) has sixteen 128×128 tiles for 132 SMs: only splitting K fills the chip.
"""


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    m, n, k = workload["M"], workload["N"], workload["K"]
    dtype = getattr(torch, workload["dtype"])
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)
    a = torch.randn((m, k), generator=rng, device=device).to(dtype)
    if workload.params.get("b_layout", "row") == "col":
        return a, torch.randn((n, k), generator=rng, device=device).to(dtype).T
    return a, torch.randn((k, n), generator=rng, device=device).to(dtype)


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="c", shape=(workload["M"], workload["N"]), dtype=workload["dtype"]),)


def flops(workload: Workload) -> float:
    return 2.0 * workload["M"] * workload["N"] * workload["K"]


def bytes_moved(workload: Workload) -> float:
    m, n, k = workload["M"], workload["N"], workload["K"]
    return float(getattr(torch, workload["dtype"]).itemsize * (m * k + k * n + m * n))


def sized(name: str, m: int, n: int, k: int, **more: Any) -> Workload:
    params = {"M": m, "N": n, "K": k, **({"b_layout": more.pop("b_layout")} if "b_layout" in more else {})}
    return Workload(name=name, params=params, **more)


PROBLEM = Problem(
    name="matmul",
    entry="matmul",
    arguments=(Argument(name="a"), Argument(name="b")),
    outputs=outputs,
    reference=torch.matmul,
    make_inputs=make_inputs,
    # Bounds: good kernels 1.7e-3 (bf16), 2.1e-4 (fp16, H200), 4e-7 (ieee); a bf16 accumulator is at 3.5e-3 and above.
    variants=(
        Variant(
            name="bf16",
            params={"dtype": "bfloat16"},
            comparators={"c": Norm(strict=2.5e-3, at_most=5e-3)},
            stand_in="fp16",
        ),
        Variant(name="fp16", params={"dtype": "float16"}, comparators={"c": Norm(strict=3.5e-4, at_most=8e-4)}),
        Variant(name="fp32", params={"dtype": "float32"}, comparators={"c": Norm(strict=2e-6, at_most=1e-5)}),
        Variant(
            name="tf32",
            params={"dtype": "float32"},
            comparators={"c": Norm(strict=6e-4, at_most=1e-3)},
            allows=frozenset({"tf32"}),
        ),
    ),
    workloads=(
        sized("4096", 4096, 4096, 4096),
        sized("8192", 8192, 8192, 8192),
        sized("mlp_up", 4096, 14336, 4096),
        sized("skinny16", 16, 4096, 4096),
        sized("split_k", 512, 512, 16384),
        sized("check_ragged", 1000, 1016, 1032, role="check"),
        sized("check_odd", 333, 257, 191, role="check"),
        sized("check_col", 512, 384, 640, role="check", b_layout="col"),
        sized("check_skinny", 1, 512, 768, role="check"),
        sized("held_wide", 1536, 5120, 2560, role="held_out"),
        sized("held_ragged", 2040, 1992, 3080, role="held_out"),
    ),
    interpreted=(
        sized("small_even", 128, 128, 128, role="check"),
        sized("small_ragged", 72, 96, 88, role="check"),
        sized("small_odd", 33, 65, 47, role="check"),
        sized("small_col", 64, 80, 64, role="check", b_layout="col"),
    ),
    baselines=(Baseline(name="cublas", call=torch.matmul),),
    bytes_moved=bytes_moved,
    flops=flops,
    notes=NOTES,
)
