"""
Rotary embedding of q and k, in place, fused with the write of k and v into the paged KV cache.

Layout:
    q         [tokens, num_heads,    head_dim]
    k, v      [tokens, num_kv_heads, head_dim]
    k_cache   [blocks, block_size, num_kv_heads, head_dim]   (v_cache alike)
    slots     [tokens]  block * block_size + offset; negative: padding, nothing is written
"""
from typing import Optional
import functools

import torch
import triton
import triton.language as tl


def _configs():
    return [
        triton.Config({"HEADS_PER_STEP": h}, num_warps=w)
        for h in (1, 2, 4)
        for w in (2, 4)
    ]


@functools.lru_cache(maxsize=None)
def num_sms(device_index: int = 0) -> int:
    return torch.cuda.get_device_properties(device_index).multi_processor_count


@triton.jit
def rotate(x1, x2, cos, sin):
    return x1 * cos - x2 * sin, x2 * cos + x1 * sin


@triton.jit
def _rotate_heads(base, tok, heads, stride_t, stride_h, c, s, half, HEADS_PER_STEP: tl.constexpr, HALF: tl.constexpr):
    i = tl.arange(0, HALF)
    for h0 in range(0, heads, HEADS_PER_STEP):
        h = h0 + tl.arange(0, HEADS_PER_STEP)
        m = (h < heads)[:, None] & (i < half)[None, :]
        p = base + tok * stride_t + h[:, None] * stride_h + i[None, :]
        a = tl.load(p, mask=m, other=0.0).to(tl.float32)
        b = tl.load(p + half, mask=m, other=0.0).to(tl.float32)
        a, b = rotate(a, b, c[None, :], s[None, :])
        tl.store(p, a.to(base.dtype.element_ty), mask=m)
        tl.store(p + half, b.to(base.dtype.element_ty), mask=m)


@triton.autotune(configs=_configs(), key=["n_heads", "n_kv_heads"], restore_value=["q", "k"])
@triton.heuristics({"HALF": lambda args: triton.next_power_of_2(args["half"])})
@triton.jit(do_not_specialize=["n_tokens"])
def rope_cache_kernel(
    q, k, v, cos, sin, k_cache, v_cache, slots,
    n_tokens,
    n_heads: int, n_kv_heads: int, half: int,
    q_st, q_sh, k_st, k_sh, v_st, v_sh, c_slot, c_head,
    HEADS_PER_STEP: tl.constexpr,
    HALF: tl.constexpr,
):
    i = tl.arange(0, HALF)
    for tok in range(tl.program_id(0), n_tokens, tl.num_programs(0)):
        c = tl.load(cos + tok * half + i, mask=i < half, other=0.0).to(tl.float32)
        s = tl.load(sin + tok * half + i, mask=i < half, other=0.0).to(tl.float32)
        _rotate_heads(q, tok, n_heads, q_st, q_sh, c, s, half, HEADS_PER_STEP, HALF)
        slot = tl.load(slots + tok).to(tl.int64)
        for h in range(0, n_kv_heads):
            p = k + tok * k_st + h * k_sh + i
            a = tl.load(p, mask=i < half, other=0.0).to(tl.float32)
            b = tl.load(p + half, mask=i < half, other=0.0).to(tl.float32)
            a, b = rotate(a, b, c, s)
            a = a.to(k.dtype.element_ty)
            b = b.to(k.dtype.element_ty)
            tl.store(p, a, mask=i < half)
            tl.store(p + half, b, mask=i < half)
            pv = v + tok * v_st + h * v_sh + i
            va = tl.load(pv, mask=i < half, other=0.0)
            vb = tl.load(pv + half, mask=i < half, other=0.0)
            if slot >= 0:
                dst = slot * c_slot + h * c_head + i
                tl.store(k_cache + dst, a, mask=i < half)
                tl.store(k_cache + dst + half, b, mask=i < half)
                tl.store(v_cache + dst, va, mask=i < half)
                tl.store(v_cache + dst + half, vb, mask=i < half)


def rope_and_cache(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
    out_stream: Optional[torch.cuda.Stream] = None,
) -> None:
    assert q.shape[-1] % 2 == 0, f"head_dim must be even, got {q.shape[-1]}"
    assert k_cache.stride() == v_cache.stride()
    assert out_stream is None, "streams are the caller's business"
    tokens, heads, dim = q.shape
    kv_heads: int = k.shape[1]

    def grid(META):
        return (min(tokens, 4 * num_sms(q.device.index or 0)),)

    with torch.cuda.device(q.device):
        rope_cache_kernel[grid](
            q, k, v, cos, sin, k_cache, v_cache, slots,
            tokens, heads, kv_heads, dim // 2,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
            k_cache.stride(1), k_cache.stride(2),
        )
