"""Decoding over a paged KV cache: what "correct" and "fast" mean for one query token a sequence."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from evolve.interop.evaluate import evaluator
from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

NOTES = """\
o[B,H,D] = softmax(q @ kᵀ / √D) @ v, one query token a sequence: q is [B,H,D]; k_pages and v_pages are
[pages, page, HK, D]; block_table[B, most] (int32) names a sequence's pages in order, lengths[B] (int32) says how many
of its keys count (at least one). Query head h reads head h // (H // HK). Entries of block_table past the last page
point at some valid page whose keys do not count. Everything is contiguous; page is a power of two. Scores, softmax and
sums in float32; probabilities may be rounded to the dtype of v for the second product.
This is bound by reading the cache once: 4·lengths·HK·D bytes a sequence and nothing else of weight. So: (1) read each
page once for all query heads of its group, the group as the rows of one tl.dot (pad to 16); a head a program reads it
H // HK times. (2) Batch 1 at 32k has 8 (sequence, kv head) pairs for 132 SMs: split the keys over programs and combine
the parts (maximum, sum, accumulator) in a second small kernel or by the last one to finish; about 2 to 4 programs an
SM. At batch 64 there are enough pairs, and splitting costs. (3) Latency: a page's address comes from a load. Take
several pages an iteration and let loads run ahead; with pages of 64 keys × 128 one page is 16 KiB of k. (4) Lengths
differ in practice: give each split a share of its own sequence.
"""


def make_inputs(workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
    """Pages lie in the pool in random order, as they do after a while of serving."""
    b, h, hk, d = (workload[name] for name in ("B", "H", "HK", "D"))
    page, most = workload["page"], pages_of(workload)
    dtype = getattr(torch, workload["dtype"])
    rng = torch.Generator("cpu" if device == "meta" else device).manual_seed(random_seed)
    q = torch.randn((b, h, d), generator=rng, device=device).to(dtype)
    # In the cache's own dtype at once: at batch 64 and 32k, float32 would be 8 GiB a tensor more.
    k, v = (torch.randn((b * most, page, hk, d), generator=rng, device=device, dtype=dtype) for _ in range(2))
    if device == "meta":
        return (
            q,
            k,
            v,
            torch.empty((b, most), dtype=torch.int32, device=device),
            torch.empty((b,), dtype=torch.int32, device=device),
        )
    table = torch.randperm(b * most, generator=rng, device=device).to(torch.int32).view(b, most)
    lengths = torch.full((b,), workload["context"], dtype=torch.int32, device=device)
    if workload["ragged"]:
        lengths.random_(max(1, workload["context"] // 2), workload["context"] + 1, generator=rng)
    return q, k, v, table, lengths


def pages_of(workload: Workload) -> int:
    return -(-int(workload["context"]) // int(workload["page"]))


def reference(
    q: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, block_table: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    b, h, d = q.shape
    page, hk = k_pages.shape[1:3]
    out = torch.empty_like(q)
    for n in range(b):
        length = int(lengths[n])
        pages = block_table[n, : -(-length // page)].long()
        k, v = (x[pages].flatten(0, 1)[:length] for x in (k_pages, v_pages))
        scores = torch.einsum("gid,kgd->gik", q[n].view(hk, h // hk, d), k) * d**-0.5
        out[n] = torch.einsum("gik,kgd->gid", torch.softmax(scores, dim=-1), v).reshape(h, d)
    return out


def outputs(workload: Workload) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="o", shape=(workload["B"], workload["H"], workload["D"]), dtype=workload["dtype"]),)


def keys_of(workload: Workload) -> float:
    """At the least: ragged lengths are drawn from half the context up."""
    context = float(workload["context"])
    return workload["B"] * (max(1.0, context // 2) if workload["ragged"] else context)


def flops(workload: Workload) -> float:
    return 4.0 * workload["H"] * workload["D"] * keys_of(workload)


def bytes_moved(workload: Workload) -> float:
    b, h, hk, d = (workload[name] for name in ("B", "H", "HK", "D"))
    cache_and_query = 2 * keys_of(workload) * hk * d + 2 * b * h * d
    tables = 4 * (keys_of(workload) / workload["page"] + b)
    return float(getattr(torch, workload["dtype"]).itemsize * cache_and_query + tables)


# --- What must be beaten ----------------------------------------------------------------------------------------------

Tensor = torch.Tensor


def gathered(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    """Pages copied together, then SDPA. A group's query heads stand as rows, so that k and v need no repetition."""
    return _gathered(q, k_pages, v_pages, block_table, None)


def gathered_masked(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    context = block_table.shape[1] * k_pages.shape[1]
    seen = torch.arange(context, device=q.device) < lengths[:, None]
    return _gathered(q, k_pages, v_pages, block_table, seen[:, None, None])


def _gathered(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, seen: Tensor | None) -> Tensor:
    b, h, d = q.shape
    hk = k_pages.shape[2]
    k, v = (x[block_table.long()].flatten(1, 2).transpose(1, 2) for x in (k_pages, v_pages))
    return scaled_dot_product_attention(q.view(b, hk, h // hk, d), k, v, attn_mask=seen).reshape(b, h, d)


def flex(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    """The pool as one long sequence that the batch shares; a block mask of whole pages is the block table itself."""
    return _flex()(q, k_pages, v_pages, block_table, lengths)


@cache
def _flex() -> Callable[..., Any]:
    import torch._dynamo
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    torch._dynamo.config.recompile_limit = 64  # a shape each; beyond the limit it would run eagerly and not say so

    def call(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Any:
        b, most = block_table.shape
        pages, page, hk, d = k_pages.shape
        k, v = (x.view(1, pages * page, hk, d).transpose(1, 2) for x in (k_pages, v_pages))
        whole = (lengths // page).view(b, 1, 1)
        none, order = torch.zeros_like(whole), block_table.view(b, 1, 1, most)
        mask = BlockMask.from_kv_blocks(
            none, order, whole, order, BLOCK_SIZE=(128, page), seq_lengths=(1, pages * page), compute_q_blocks=False
        )
        return flex_attention(q[:, :, None], k, v, block_mask=mask, enable_gqa=True)[:, :, 0]

    return torch.compile(call, dynamic=False)


def flash_attention_3(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    function = import_module("flash_attn_interface").flash_attn_with_kvcache
    out = function(q[:, None], k_pages, v_pages, cache_seqlens=lengths, page_table=block_table)
    return (out[0] if isinstance(out, tuple) else out)[:, 0]


def vllm(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    """vLLM's own build of FlashAttention reads pages in our layout."""
    function = import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    starts = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device)
    return function(
        q,
        k_pages,
        v_pages,
        max_seqlen_q=1,
        cu_seqlens_q=starts,
        max_seqlen_k=block_table.shape[1] * k_pages.shape[1],
        seqused_k=lengths,
        block_table=block_table,
    )


def flashinfer(q: Tensor, k_pages: Tensor, v_pages: Tensor, block_table: Tensor, lengths: Tensor) -> Tensor:
    """The entry without a planning step on the host, which no graph could hold."""
    function = import_module("flashinfer.decode").trtllm_batch_decode_with_kv_cache
    return function(
        q,
        (k_pages, v_pages),
        _workspace(str(q.device)),
        block_table,
        lengths,
        block_table.shape[1] * k_pages.shape[1],
        bmm1_scale=q.shape[-1] ** -0.5,
        bmm2_scale=1.0,
        kv_layout="NHD",
    )


@cache
def _workspace(device: str) -> Tensor:
    return torch.zeros(128 << 20, dtype=torch.uint8, device=device)


def elements(workload: Workload) -> int:
    """Of k_pages."""
    return int(workload["B"]) * pages_of(workload) * int(workload["page"]) * int(workload["HK"]) * int(workload["D"])


def whole_pages(workload: Workload) -> bool:
    """Every key of every page counts: nothing to mask."""
    return not workload["ragged"] and workload["context"] % workload["page"] == 0


def whole_only(workload: Workload) -> str | None:
    return None if whole_pages(workload) else "it does not look at lengths; gathered_masked does"


def ragged_only(workload: Workload) -> str | None:
    return "a mask would only slow it down; gathered is the same without one" if whole_pages(workload) else None


def runs(call: Callable[..., Tensor], library: str = "") -> Any:
    """Whether a library is there and takes this head size, grouping and page size: tried on a small case."""

    def unavailable(workload: Workload) -> str | None:
        if not torch.cuda.is_available():
            return "it needs a GPU"
        if not library and not whole_pages(workload):
            return "its block mask is made of whole pages"
        if not library and elements(workload) >= 1 << 31:
            return "its decoding kernel does not index a cache of 2^31 elements"
        if not library and workload.role == "check":
            return "torch.compile is compared on timed workloads; compiling for each odd size takes long"
        return tried(call, library, workload["H"], workload["HK"], workload["D"], workload["page"], workload["dtype"])

    return unavailable


@cache
def tried(call: Callable[..., Tensor], library: str, h: int, hk: int, d: int, page: int, dtype: str) -> str | None:
    try:
        if library:
            import_module(library)
        params = {"B": 2, "H": h, "HK": hk, "D": d, "page": page, "context": 4 * page, "ragged": False, "dtype": dtype}
        call(*make_inputs(Workload(name="trial", params=params), "cuda", 0))
    except (ImportError, OSError) as error:
        return f"{library} is not installed here ({error})"
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, AssertionError) as error:
        return f"it does not take this case: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None


BASELINES = (
    Baseline(name="gathered", call=gathered, unavailable=whole_only),
    Baseline(name="gathered_masked", call=gathered_masked, unavailable=ragged_only),
    Baseline(name="compiled_flex", call=flex, unavailable=runs(flex), compiles=True),
    Baseline(
        name="flash_attention_3", call=flash_attention_3, unavailable=runs(flash_attention_3, "flash_attn_interface")
    ),
    Baseline(name="vllm", call=vllm, unavailable=runs(vllm, "vllm")),
    Baseline(name="flashinfer", call=flashinfer, unavailable=runs(flashinfer, "flashinfer")),
)


# --- Contracts and sizes ----------------------------------------------------------------------------------------------

# As for attention: good kernels 2-2.5e-3 (bf16), 3e-4 (fp16); a page left out at 8k is at 0.1, fp8 at 3e-2.
VARIANTS = (
    Variant(
        name="bf16",
        params={"dtype": "bfloat16"},
        comparators={"o": Norm(strict=5e-3, at_most=8e-3)},
        stand_in="fp16",
    ),
    Variant(name="fp16", params={"dtype": "float16"}, comparators={"o": Norm(strict=1e-3, at_most=2e-3)}),
)

# Not "integers": with logits beyond 2^24 float32 sums are off by one, which moves a near tie between two keys; a right
# kernel would fail by chance. "one_hot" has exact logits.
FAMILIES = (
    *("given", "uniform", "log_uniform", "heavy_tail", "planted", "last_tile", "cancellation", "mixed", "one_hot"),
    *("peaked", "flat", "extreme"),
)


def sized(name: str, batch: int, context: int, **more: Any) -> Workload:
    usual = {"H": 32, "HK": 8, "D": 128, "page": 64, "ragged": False}
    params = {name: more.pop(name, value) for name, value in usual.items()}
    return Workload(name=name, params={"B": batch, "context": context, **params}, **more)


WORKLOADS = (
    sized("b1_2k", 1, 2048),
    sized("b1_8k", 1, 8192),
    sized("b1_32k", 1, 32768),
    sized("b8_2k", 8, 2048),
    sized("b8_8k", 8, 8192),
    sized("b8_32k", 8, 32768),
    sized("b64_2k", 64, 2048),
    sized("b64_8k", 64, 8192),
    sized("b64_32k", 64, 32768),
    sized("check_ragged", 5, 1000, ragged=True, role="check"),
    sized("check_pages", 3, 333, page=16, ragged=True, role="check"),
    sized("check_group", 2, 700, HK=4, role="check"),
    sized("check_d64", 7, 200, H=16, HK=16, D=64, ragged=True, role="check"),
    sized("check_short", 2, 1, role="check"),
    sized("held_ragged", 24, 6000, ragged=True, role="held_out"),
    sized("held_group", 6, 16384, HK=4, role="held_out"),
)
INTERPRETED = (
    sized("small_even", 2, 64, H=4, HK=2, D=64, page=16, role="check"),
    sized("small_ragged", 3, 90, H=2, HK=1, D=64, page=32, ragged=True, role="check"),
    sized("small_group", 1, 50, H=8, HK=1, D=128, page=16, role="check"),
    sized("small_short", 2, 3, H=2, HK=2, D=64, page=16, ragged=True, role="check"),
)

PROBLEM = Problem(
    name="paged_decode",
    entry="paged_decode",
    arguments=(
        Argument(name="q"),
        Argument(name="k_pages"),
        Argument(name="v_pages"),
        Argument(name="block_table", role="index"),
        Argument(name="lengths", role="index"),
    ),
    outputs=outputs,
    reference=reference,
    make_inputs=make_inputs,
    variants=VARIANTS,
    workloads=WORKLOADS,
    interpreted=INTERPRETED,
    baselines=BASELINES,
    bytes_moved=bytes_moved,
    flops=flops,
    library=gathered_masked,
    families=FAMILIES,
    notes=NOTES,
)
evaluate = evaluator(__file__)  # for `openevolve-run SEED evaluators/paged_decode.py`
