"""A linear layer with its activation: what "correct" and "fast" mean for c = gelu(a @ b + bias)."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import gelu

from evolve.interop.evaluate import evaluator
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

NOTES = """\
c[M,N] = gelu(a[M,K] @ b[K,N] + bias[N]) with gelu(z) = z/2 · (1 + tanh(√(2/π)·(z + 0.044715·z³))), the tanh form. a is
row-major, b is row-major ("row") or column-major ("col", as a Linear keeps its weights), c is row-major in the dtype of
a. Accumulate in float32, and add the bias and apply gelu there too, before the one rounding.
It is a matmul with a free epilogue, if the epilogue is kept off the critical path: an unfused gelu reads and writes c
once more. z/2·(1 + tanh u) = z·sigmoid(2u) is one exp2 and one division; the factor log2(e) folds into the constants.
Large shapes are bound by the tensor cores: WGMMA tiles of 128×256 with eight warps, TMA descriptors, three or four
stages, an order of programs that keeps both panels in L2. With one tile a program the epilogue of 128×256 elements runs
while the tensor cores idle; a persistent loop, warp specialisation or splitting the epilogue along N overlaps it with
the next tile's product. (512,16384,4096) has 256 tiles of 128×256: mind the last wave on 132 SMs.
"""


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    """Weights of 1/√K, so that z is of order one: where gelu bends."""
    m, n, k = workload["M"], workload["N"], workload["K"]
    dtype = getattr(torch, workload["dtype"])
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)

    def drawn(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=rng, device=device) * scale).to(dtype)

    a = drawn(m, k)
    column_major = workload.params.get("b_layout", "row") == "col"
    b = drawn(n, k, scale=k**-0.5).T if column_major else drawn(k, n, scale=k**-0.5)
    return a, b, drawn(n)


def eager(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return gelu(torch.addmm(bias, a, b), approximate="tanh")


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="c", shape=(workload["M"], workload["N"]), dtype=workload["dtype"]),)


def flops(workload: Workload) -> float:
    return 2.0 * workload["M"] * workload["N"] * workload["K"]


def bytes_moved(workload: Workload) -> float:
    m, n, k = workload["M"], workload["N"], workload["K"]
    return float(getattr(torch, workload["dtype"]).itemsize * (m * k + k * n + n + m * n))


# --- What must be beaten ----------------------------------------------------------------------------------------------


def fused(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """cuBLASLt's own epilogue: bias and the tanh form of gelu."""
    return torch._addmm_activation(bias, a, b, use_gelu=True)


def fused_is_there(workload: Workload) -> str | None:
    if not torch.cuda.is_available():
        return "torch._addmm_activation takes the tanh form of gelu on a GPU only"
    return None


def compiled(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> Any:
    return _compiled()(a, b, bias)


@cache
def _compiled() -> Callable[..., Any]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64  # a shape each; beyond the limit it would run eagerly and not say so
    return torch.compile(eager, mode="max-autotune-no-cudagraphs", dynamic=False)


def on_gpu(workload: Workload) -> str | None:
    if not torch.cuda.is_available():
        return "torch.compile is compared on a GPU"
    if workload.role == "check":
        return "torch.compile is compared on timed workloads; compiling for each odd size takes long"
    return None


# --- Contracts and sizes ----------------------------------------------------------------------------------------------

# Rounding c alone is 1.7e-3 of the norm in bf16 and 2.1e-4 in fp16; an unfused gelu rounds z as well: up to 3.1e-3 and
# 4e-4 (H200), and so does cuBLASLt at sizes that its fused kernels do not take.
# A bf16 accumulator is at 3.5e-3 and above, gelu with erf in the place of tanh at 4e-4.
VARIANTS = (
    Variant(
        name="bf16",
        params={"dtype": "bfloat16"},
        comparators={"c": Norm(strict=3.4e-3, at_most=5e-3)},
        stand_in="fp16",
    ),
    Variant(name="fp16", params={"dtype": "float16"}, comparators={"c": Norm(strict=4.5e-4, at_most=8e-4)}),
)


def sized(name: str, m: int, n: int, k: int, **more: Any) -> Workload:
    params = {"M": m, "N": n, "K": k, **({"b_layout": more.pop("b_layout")} if "b_layout" in more else {})}
    return Workload(name=name, params=params, **more)


WORKLOADS = (
    sized("wide", 4096, 16384, 4096),
    sized("square", 8192, 4096, 4096),
    sized("few_rows", 512, 16384, 4096),
    sized("wide_col", 4096, 16384, 4096, b_layout="col"),
    sized("check_ragged", 1000, 1016, 1032, role="check"),
    sized("check_odd", 333, 257, 191, role="check"),
    sized("check_col", 512, 384, 640, role="check", b_layout="col"),
    sized("check_skinny", 1, 512, 768, role="check"),
    sized("held_wide", 1536, 5120, 2560, role="held_out"),
    sized("held_ragged", 2040, 1992, 3080, role="held_out"),
)
INTERPRETED = (
    sized("small_even", 128, 128, 128, role="check"),
    sized("small_ragged", 72, 96, 88, role="check"),
    sized("small_odd", 33, 65, 47, role="check"),
    sized("small_col", 64, 80, 64, role="check", b_layout="col"),
)

PROBLEM = Problem(
    name="matmul_gelu",
    entry="matmul_gelu",
    arguments=(Argument(name="a"), Argument(name="b"), Argument(name="bias")),
    outputs=outputs,
    reference=eager,
    make_inputs=make_inputs,
    variants=VARIANTS,
    workloads=WORKLOADS,
    interpreted=INTERPRETED,
    baselines=(
        Baseline(name="eager", call=eager),
        Baseline(name="cublaslt_fused", call=fused, unavailable=fused_is_there),
        Baseline(name="compiled", call=compiled, unavailable=on_gpu, compiles=True),
    ),
    bytes_moved=bytes_moved,
    flops=flops,
    notes=NOTES,
)
evaluate = evaluator(__file__)  # for `openevolve-run SEED evaluators/matmul_gelu.py`
