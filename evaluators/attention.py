"""Attention, forward: what "correct" and "fast" mean for o = softmax(q @ k.T / √D) @ v, causal or not."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from evolve.interop.evaluate import evaluator
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

NOTES = """\
o[B,H,S,D] = softmax(q @ kᵀ / √D) @ v for q[B,H,S,D] and k, v[B,HK,S,D], all contiguous; D is 64 or 128; query head h
reads head h // (H // HK) of k and v (GQA: H is a multiple of HK). With causal, query i sees keys 0..i. S may be any
number, not only a multiple of a block. Scores, softmax and both sums in float32; probabilities may be rounded to the
dtype of v for the second product.
Never write scores to memory: a block of queries stays, blocks of keys and values stream past, the running maximum and
sum rescale the accumulator (exp2 with log2(e)/√D folded into one factor). On Hopper cuDNN is at 600-670 TFLOP/s for D
128 and FlashAttention-3 near it, at 740 in fp16 by its paper; a plain Triton kernel with 128×128 blocks and eight warps
reaches 470. What closes the gap: WGMMA for both products, TMA descriptors for k and v with two or three stages, warp
specialisation, and overlapping the softmax of one block (exp2 runs at 16 a clock and SM: at D 64 it is the bottleneck)
with the products of another. Causal: run the blocks below the diagonal without a mask and mask only those on it; start
the longest programs first, or pair long with short ones, for the last wave is ragged. 128 queries × D 128 on four warps
spill; use eight. tl.range(.., warp_specialize=True) is worth 1.1 to 1.2 times, and declines silently: it wants
descriptor loads, num_warps=4, two stages or more, and one loop without an `if` (a causal mask that is always applied;
two loops crash the compiler). With GQA the heads of a group share k and v: let them be neighbours in the order of
programs.
"""

GIB = 1 << 30


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    b, h, hk, s, d = (workload[name] for name in ("B", "H", "HK", "S", "D"))
    dtype = getattr(torch, workload["dtype"])
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)

    def drawn(heads: int) -> torch.Tensor:
        return torch.randn((b, heads, s, d), generator=rng, device=device).to(dtype)

    return drawn(h), drawn(hk), drawn(hk), workload["causal"]


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Some queries at a time: all scores of 16k keys in float64 would be 64 GiB."""
    b, h, s, d = q.shape
    k, v = (x.repeat_interleave(h // k.shape[1], dim=1) for x in (k, v))
    rows = max(16, GIB // 8 // (h * s))
    keys = torch.arange(s, device=q.device)
    out = torch.empty_like(q)
    for n in range(b):
        for first in range(0, s, rows):
            scores = q[n, :, first : first + rows] @ k[n].mT * d**-0.5
            if causal:
                scores = scores.masked_fill(keys > keys[first : first + rows, None], float("-inf"))
            out[n, :, first : first + rows] = torch.softmax(scores, dim=-1) @ v[n]
    return out


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    shape = tuple(workload[name] for name in ("B", "H", "S", "D"))
    return (TensorSpec(name="o", shape=shape, dtype=workload["dtype"]),)


def flops(workload: Workload) -> float:
    """Of the scores that count: a causal kernel may skip the others."""
    s = workload["S"]
    scores = s * (s + 1) / 2 if workload["causal"] else s * s
    return 4.0 * workload["B"] * workload["H"] * workload["D"] * scores


def bytes_moved(workload: Workload) -> float:
    b, h, hk, s, d = (workload[name] for name in ("B", "H", "HK", "S", "D"))
    return float(getattr(torch, workload["dtype"]).itemsize * b * s * d * (2 * h + 2 * hk))


# --- What must be beaten ----------------------------------------------------------------------------------------------


def unfused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Scores written out in float32: rounded to the inputs' dtype they would miss the bound where logits are large."""
    b, h, s, d = q.shape
    k, v = (x.repeat_interleave(h // x.shape[1], dim=1).flatten(0, 1) for x in (k, v))
    flat = q.flatten(0, 1)
    scores = torch.bmm(flat, k.mT, out_dtype=torch.float32) if q.is_cuda else torch.bmm(flat.float(), k.float().mT)
    scores *= d**-0.5
    if causal:
        keys = torch.arange(s, device=q.device)
        scores.masked_fill_(keys > keys[:, None], float("-inf"))
    return torch.bmm(torch.softmax(scores, dim=-1).to(q.dtype), v).view(b, h, s, d)


def sdpa(backend: SDPBackend) -> Callable[..., torch.Tensor]:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

    return call


def library(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """What people call today: torch picks the backend."""
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def flash_attention_3(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """It takes B,S,H,D; transposed views of ours are such."""
    function = import_module("flash_attn_interface").flash_attn_func
    out = function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), causal=causal)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def flashinfer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    function = import_module("flashinfer").single_prefill_with_kv_cache
    return function(q[0].transpose(0, 1), k[0], v[0], causal=causal, kv_layout="HND").transpose(0, 1)[None]


def fits(workload: Workload) -> str | None:
    size = 4.0 * workload["B"] * workload["H"] * workload["S"] ** 2 / GIB
    return f"its scores alone would take {size:.0f} GiB" if size > 8 else None


def runs(call: Callable[..., torch.Tensor], library: str = "", one_sequence: bool = False) -> Any:
    """Whether a library is there and takes this head size, grouping and mask: tried on a small case."""

    def unavailable(workload: Workload) -> str | None:
        if not torch.cuda.is_available():
            return "it needs a GPU"
        if one_sequence and workload["B"] > 1:
            return "without a planning step it takes one sequence at a time"
        group = workload["H"] // workload["HK"]
        return tried(call, library, group, workload["D"], workload["dtype"], workload["causal"], workload["S"] % 16)

    return unavailable


@cache
def tried(
    call: Callable[..., torch.Tensor], library: str, group: int, d: int, dtype: str, causal: bool, odd: int
) -> str | None:
    try:
        if library:
            import_module(library)
        shapes = ((1, group, 128 + odd, d), *[(1, 1, 128 + odd, d)] * 2)
        call(*(torch.zeros(shape, device="cuda", dtype=getattr(torch, dtype)) for shape in shapes), causal)
    except (ImportError, OSError) as error:
        return f"{library} is not installed here ({error})"
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        return f"it does not take this case: {str(error).splitlines()[0]}"
    return None


CUDNN, FLASH = sdpa(SDPBackend.CUDNN_ATTENTION), sdpa(SDPBackend.FLASH_ATTENTION)
BASELINES = (
    Baseline(name="unfused", call=unfused, unavailable=fits),
    Baseline(name="sdpa_flash", call=FLASH, unavailable=runs(FLASH)),
    Baseline(name="sdpa_cudnn", call=CUDNN, unavailable=runs(CUDNN)),
    Baseline(
        name="flash_attention_3", call=flash_attention_3, unavailable=runs(flash_attention_3, "flash_attn_interface")
    ),
    Baseline(name="flashinfer", call=flashinfer, unavailable=runs(flashinfer, "flashinfer", one_sequence=True)),
)


# --- Contracts and sizes ----------------------------------------------------------------------------------------------

# Good kernels 1.9-2.4e-3 (bf16), 3e-4 (fp16, H200); fp8 for the second product is at 3.4e-2 and above, skipped keys at
# 0.23.
VARIANTS = (
    Variant(
        name="bf16",
        params={"dtype": "bfloat16"},
        comparators={"o": Norm(strict=5e-3, at_most=8e-3)},
        stand_in="fp16",
    ),
    Variant(name="fp16", params={"dtype": "float16"}, comparators={"o": Norm(strict=1e-3, at_most=2e-3)}),
)

# Not "integers": with logits of 2^24 the best of float32 sums is off by one, which moves a near tie between two keys;
# a right kernel would fail by chance. "one_hot" has exact logits.
FAMILIES = (
    *("given", "uniform", "log_uniform", "heavy_tail", "planted", "last_tile", "cancellation", "mixed", "one_hot"),
    *("peaked", "flat", "extreme"),
)


def sized(name: str, b: int, h: int, s: int, d: int, causal: bool, hk: int = 0, **more: Any) -> Workload:
    return Workload(name=name, params={"B": b, "H": h, "HK": hk or h, "S": s, "D": d, "causal": causal}, **more)


WORKLOADS = (
    sized("4k", 4, 32, 4096, 128, False),
    sized("4k_causal", 4, 32, 4096, 128, True),
    sized("16k_causal", 1, 32, 16384, 128, True),
    sized("2k_d64_causal", 8, 32, 2048, 64, True),
    sized("1k_d64", 16, 16, 1024, 64, False),
    sized("8k_gqa_causal", 2, 32, 8192, 128, True, hk=4),
    sized("ragged_causal", 4, 32, 3001, 128, True),
    sized("check_ragged", 2, 4, 1000, 64, True, role="check"),
    sized("check_odd", 1, 3, 333, 128, False, role="check"),
    sized("check_gqa", 2, 16, 777, 128, True, hk=2, role="check"),
    sized("check_short", 3, 2, 17, 64, False, role="check"),
    sized("held_ragged", 2, 16, 3000, 128, True, role="held_out"),
    sized("held_gqa", 3, 16, 1537, 64, False, hk=2, role="held_out"),
)
INTERPRETED = (
    sized("small_even", 1, 2, 64, 64, False, role="check"),
    sized("small_ragged", 1, 1, 88, 64, True, role="check"),
    sized("small_odd", 2, 1, 33, 64, False, role="check"),
    sized("small_gqa", 1, 16, 40, 128, True, hk=2, role="check"),
)

PROBLEM = Problem(
    name="attention",
    entry="attention",
    arguments=(Argument(name="q"), Argument(name="k"), Argument(name="v"), Argument(name="causal", role="scalar")),
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
    families=FAMILIES,
    notes=NOTES,
)
evaluate = evaluator(__file__)  # for `openevolve-run SEED evaluators/attention.py`
