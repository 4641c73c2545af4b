"""Matrix product: what "correct" and "fast" mean for c = a @ b, in eight contracts of precision."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from evolve.interop.evaluate import evaluator
from evolve.problem import Argument, Baseline, Custom, Exact, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

NOTES = """\
c[M,N] = a[M,K] @ b[K,N]; a is row-major, b is row-major ("row") or column-major ("col"), c is row-major. c has the
dtype of a, but for float8_e4m3fn (c is bfloat16) and int8 (c is int32, exact). Accumulate in float32, int8 in int32.
Large squares are bound by the tensor cores: what counts is WGMMA (BLOCK_M at least 64, four warps a 64 rows), loads
that run ahead (TMA descriptors, three or four stages), tiles of 128×256 with eight warps and no spills, and an order of
programs that keeps both panels in L2. A short K (8192,8192,512) is half prologue and epilogue: a persistent loop that
overlaps one tile's store with the next one's loads. Skinny shapes (M = 1, 16) are bound by reading b once at full
memory bandwidth: small BLOCK_M, many programs, split K, wide loads along b's contiguous side. (512,512,16384) has
sixteen 128×128 tiles for 132 SMs: only splitting K fills the chip.
A K or N that is not known to be divisible by 16 costs the asynchronous copies of an operand; a mask on K that is not
needed costs one of them: branch on a tl.constexpr such as EVEN_K, mask ragged M and N and do not wrap them with a
modulo, or take descriptors, which ask for strides of multiples of 16 bytes and mask by themselves.
float32 under the ieee contract has no tensor cores: tl.dot needs input_precision="ieee", its default is tf32. Where
tf32 is allowed, say input_precision="tf32": eight times the speed. fp8 and int8 want both operands K-major (b "col")
and BLOCK_K 128. fp8 sums in 14 bits inside the tensor core: max_num_imprecise_acc of 32 to 128 adds them up in float32
now and then and keeps the fast instruction, 0 silently takes the slow one.
The normwise contracts hold the error against the norms of a and b and not of c: room for Strassen, not for fewer bits.
"""

LARGEST = 6.0  # of millions of random sums, in units of their root mean square


# --- Inputs and outputs -----------------------------------------------------------------------------------------------


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    m, n, k = workload["M"], workload["N"], workload["K"]
    dtype = getattr(torch, workload["dtype"])
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)
    a = drawn((m, k), dtype, device, rng)
    if workload.params.get("b_layout", "row") == "col":
        return a, drawn((n, k), dtype, device, rng).T
    return a, drawn((k, n), dtype, device, rng)


def drawn(shape: tuple[int, int], dtype: torch.dtype, device: str, rng: torch.Generator) -> torch.Tensor:
    if not dtype.is_floating_point:
        return torch.randint(-128, 128, shape, generator=rng, device=device, dtype=dtype)
    return torch.randn(shape, generator=rng, device=device).to(dtype)


def reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Integers come as they are: in float64 their sums are exact up to K = 2^39."""
    return torch.matmul(a.double(), b.double())


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    dtype = workload.params.get("out_dtype", workload["dtype"])
    return (TensorSpec(name="c", shape=(workload["M"], workload["N"]), dtype=str(dtype)),)


def flops(workload: Workload) -> float:
    return 2.0 * workload["M"] * workload["N"] * workload["K"]


def bytes_moved(workload: Workload) -> float:
    m, n, k = workload["M"], workload["N"], workload["K"]
    read = getattr(torch, workload["dtype"]).itemsize * (m * k + k * n)
    return float(read + getattr(torch, outputs(workload)[0].dtype).itemsize * m * n)


def normwise(bound: float) -> Custom:
    """Error against ‖a‖‖b‖, over the whole and at most four times the bound in each 128×128 tile: all that algorithms
    promise which add rows of different size before they multiply. `bound` is in units of what c would be if a and b
    were random of these norms, so that for N(0,1) it is the same as the norm-wise bound on c; where few outliers make
    some of c far larger than that, their part."""

    def error(out: torch.Tensor, ref: torch.Tensor, inputs: Any) -> float:
        a, b = (x.double() for x in inputs[:2])
        usual = a.norm() / a.shape[0] ** 0.5 * b.norm() / b.shape[1] ** 0.5 / a.shape[1] ** 0.5
        scale = max(float(usual), float(ref.abs().max()) / LARGEST)
        wrong = (out.double() - ref).square()
        if not bool(torch.isfinite(wrong).all()):
            return float("inf")
        tiles = torch.nn.functional.avg_pool2d(wrong[None], 128, ceil_mode=True, count_include_pad=False)
        worst = max(float(wrong.mean()), float(tiles.max()) / 16)
        return worst**0.5 / (bound * max(scale, 1e-300))

    return Custom(error=error)


# --- What must be beaten ----------------------------------------------------------------------------------------------


def with_tf32(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call where the library may round float32 operands to tf32, as the contract does."""

    def run(a: torch.Tensor, b: torch.Tensor) -> Any:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return call(a, b)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return run


def compiled(a: torch.Tensor, b: torch.Tensor) -> Any:
    return _compiled(torch.matmul)(a, b)


def compiled_fp8(a: torch.Tensor, b: torch.Tensor) -> Any:
    return _compiled(_scaled_mm)(a, b, _one(str(a.device)))


def compiled_int8(a: torch.Tensor, b: torch.Tensor) -> Any:
    return _compiled(int_mm)(a, b)


@cache
def _compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 64  # a shape each; beyond the limit it would run eagerly and not say so
    return torch.compile(call, mode="max-autotune-no-cudagraphs", dynamic=False)


def scaled_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _scaled_mm(a, b, _one(str(a.device)))


def _scaled_mm(a: torch.Tensor, b: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """cuBLAS takes multiples of 16 of fp8, b column-major; other sizes are padded, at their own cost."""
    m, k, n = a.shape[0], *(-(-x // 16) * 16 for x in b.shape)
    x, y = padded(a, m, k), padded(b.T, n, k).T
    return torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)[
        :, : b.shape[1]
    ]


@cache
def _one(device: str) -> torch.Tensor:
    return torch.ones((), device=device, dtype=torch.float32)


def int_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """cuBLAS takes more than 16 rows, and multiples of 8; other sizes are padded, at their own cost."""
    m, k, n = max(32, a.shape[0]), *(-(-x // 8) * 8 for x in b.shape)
    x = padded(a, m, k)
    y = padded(b, k, n) if b.stride(1) == 1 else padded(b.T, n, k).T
    return torch._int_mm(x, y)[: a.shape[0], : b.shape[1]]


def padded(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    if x.shape == (rows, columns):
        return x
    out = x.new_zeros((rows, columns))
    out[: x.shape[0], : x.shape[1]] = x
    return out


def only(dtypes: str, **params: Any) -> Callable[[Workload], str | None]:
    """Why not: another dtype, or a contract that does not allow it."""

    def unavailable(workload: Workload) -> str | None:
        if workload["dtype"] not in dtypes.split():
            return f"it takes {dtypes.replace(' ', ', ')}, not {workload['dtype']}"
        lacking = next((k for k, v in params.items() if workload.params.get(k) != v), None)
        if lacking is not None:
            return f"the contract of this variant does not allow {lacking}"
        if workload["dtype"] == "float8_e4m3fn" and workload.params.get("b_layout") != "col":
            return "cuBLAS multiplies fp8 only with b column-major"
        return None

    return unavailable


def on_gpu(unavailable: Callable[[Workload], str | None]) -> Callable[[Workload], str | None]:
    """What is compiled first is compared where it is timed, and nowhere else."""

    def why_not(workload: Workload) -> str | None:
        if not torch.cuda.is_available():
            return "torch.compile is compared on a GPU"
        if workload.role == "check":
            return "torch.compile is compared on timed workloads; compiling for each odd size takes long"
        return unavailable(workload)

    return why_not


def library(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """What people call today."""
    dtype = getattr(a, "dtype", None)  # what is no tensor is torch.matmul's to refuse
    if dtype == torch.float8_e4m3fn:
        return scaled_mm(a, b)
    return int_mm(a, b) if dtype == torch.int8 else torch.matmul(a, b)


def gradient(grad: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return grad @ b.mT, a.mT @ grad


BASELINES = (
    Baseline(name="cublas", call=torch.matmul, unavailable=only("bfloat16 float16 float32")),
    Baseline(name="cublas_tf32", call=with_tf32(torch.matmul), unavailable=only("float32", tf32=True)),
    Baseline(name="cublas_fp8", call=scaled_mm, unavailable=only("float8_e4m3fn")),
    Baseline(name="cublas_int8", call=int_mm, unavailable=only("int8")),
    Baseline(name="compiled", call=compiled, unavailable=on_gpu(only("bfloat16 float16 float32")), compiles=True),
    Baseline(
        name="compiled_tf32", call=with_tf32(compiled), unavailable=on_gpu(only("float32", tf32=True)), compiles=True
    ),
    Baseline(name="compiled_fp8", call=compiled_fp8, unavailable=on_gpu(only("float8_e4m3fn")), compiles=True),
    Baseline(name="compiled_int8", call=compiled_int8, unavailable=on_gpu(only("int8")), compiles=True),
)


# --- Contracts and sizes ----------------------------------------------------------------------------------------------

# Bounds, from an H200, cuBLAS and Triton alike where nothing else is said. bf16: good kernels 1.7e-3, sums in bf16
# 3.5e-3 and above. fp16: 2.1e-4, and 4.4e-4. tf32: cuBLAS rounds its operands, 2.9e-4; tl.dot cuts them off, 7.7e-4 to
# 8e-4; operands in bf16 2.4e-3. float32: sums lose more the longer they are, 4e-7 at K = 512, 1.2e-6 at 4096, 2.3e-6 at
# 16384. fp8: the tensor core's accumulator has 14 bits, 1.7e-3 at K = 512, 3.6e-3 at 16384, and 1.9e-2 there where the
# sum cancels, which the baseline's own error then grants; c rounded to fp8 is at 2.6e-2. One level of Strassen: 1.4
# times the classical error in float32, 3.2e-6 at most, and 9.5e-4 in tf32; c rounded to bf16 is at 1.7e-3.
VARIANTS = (
    Variant(
        name="bf16",
        params={"dtype": "bfloat16"},
        comparators={"c": Norm(strict=2.5e-3, at_most=5e-3)},
        stand_in="fp16",
    ),
    Variant(name="fp16", params={"dtype": "float16"}, comparators={"c": Norm(strict=3.5e-4, at_most=8e-4)}),
    Variant(name="fp32", params={"dtype": "float32"}, comparators={"c": Norm(strict=4e-6, at_most=1e-5)}),
    Variant(
        name="tf32",
        params={"dtype": "float32", "tf32": True},
        comparators={"c": Norm(strict=1e-3, at_most=1.2e-3)},
        allows=frozenset({"tf32"}),
    ),
    Variant(
        name="fp8",
        params={"dtype": "float8_e4m3fn", "out_dtype": "bfloat16", "b_layout": "col"},
        comparators={"c": Norm(strict=5e-3, at_most=2.5e-2)},
        stand_in="fp16",  # the interpreter rounds to bf16 wrongly, and c is bf16
    ),
    Variant(
        name="int8",
        params={"dtype": "int8", "out_dtype": "int32", "b_layout": "col"},
        comparators={"c": Exact()},
    ),
    Variant(name="fp32_normwise", params={"dtype": "float32"}, comparators={"c": normwise(4e-6)}),
    Variant(
        name="tf32_normwise",
        params={"dtype": "float32", "tf32": True},
        comparators={"c": normwise(1.4e-3)},
        allows=frozenset({"tf32"}),
    ),
)


def sized(name: str, m: int, n: int, k: int, **more: Any) -> Workload:
    params = {"M": m, "N": n, "K": k, **({"b_layout": more.pop("b_layout")} if "b_layout" in more else {})}
    return Workload(name=name, params=params, **more)


WORKLOADS = (
    sized("1024", 1024, 1024, 1024),
    sized("4096", 4096, 4096, 4096),
    sized("8192", 8192, 8192, 8192),
    sized("short_k", 8192, 8192, 512),
    sized("mlp_up", 4096, 14336, 4096),  # Llama's, the weights as they would be stored for x @ w
    sized("mlp_down", 4096, 4096, 14336, b_layout="col"),  # and as a Linear keeps them
    sized("skinny1", 1, 4096, 4096, mode="weights_cold"),
    sized("skinny16", 16, 4096, 4096, mode="weights_cold"),
    sized("split_k", 512, 512, 16384),
    sized("ragged", 3001, 4096, 4096),  # tokens as they come
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
    name="matmul",
    entry="matmul",
    arguments=(Argument(name="a"), Argument(name="b")),
    outputs=outputs,
    reference=reference,
    make_inputs=make_inputs,
    variants=VARIANTS,
    workloads=WORKLOADS,
    interpreted=INTERPRETED,
    baselines=BASELINES,
    bytes_moved=bytes_moved,
    flops=flops,
    library=library,
    gradient=gradient,
    notes=NOTES,
)
evaluate = evaluator(__file__)  # for `openevolve-run SEED evaluators/matmul.py`
