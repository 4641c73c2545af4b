"""Attention in two loops: the keys that every query of the block sees without a mask, then the rest with one."""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BLOCK_M": (32, 64, 128), "BLOCK_N": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3, 4)}


@triton.jit
def block(q, k_ptr, v_ptr, start, rows, dims, S, scale, peak, total, acc, MASKED: tl.constexpr, CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr):
    cols = start + tl.arange(0, BLOCK_N)
    if MASKED:
        k = tl.load(k_ptr + cols[None, :] * D + dims[:, None], mask=cols[None, :] < S, other=0.0)
        v = tl.load(v_ptr + cols[:, None] * D + dims[None, :], mask=cols[:, None] < S, other=0.0)
    else:
        k = tl.load(k_ptr + cols[None, :] * D + dims[:, None])
        v = tl.load(v_ptr + cols[:, None] * D + dims[None, :])
    scores = tl.dot(q, k) * scale
    if MASKED:
        seen = cols[None, :] < S
        if CAUSAL:
            seen = seen & (cols[None, :] <= rows[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    p = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
    return higher, total, acc


@triton.jit
def attention_kernel(q_ptr, k_ptr, v_ptr, o_ptr, S, H, HK, scale, CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    q_base = (batch * H + head) * S * D
    kv_base = (batch * HK + head // (H // HK)) * S * D
    first = tl.program_id(0) * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    q = tl.load(q_ptr + q_base + rows[:, None] * D + dims[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, D), dtype=tl.float32)
    last = S
    whole = S // BLOCK_N * BLOCK_N
    if CAUSAL:
        last = tl.minimum(first + BLOCK_M, S)
        whole = tl.minimum(first // BLOCK_N * BLOCK_N, whole)
    for start in range(0, whole, BLOCK_N):
        peak, total, acc = block(q, k_ptr + kv_base, v_ptr + kv_base, start, rows, dims, S, scale, peak, total, acc, False, CAUSAL, D, BLOCK_N)
    for start in range(whole, last, BLOCK_N):
        peak, total, acc = block(q, k_ptr + kv_base, v_ptr + kv_base, start, rows, dims, S, scale, peak, total, acc, True, CAUSAL, D, BLOCK_N)
    o = acc / total[:, None]
    tl.store(o_ptr + q_base + rows[:, None] * D + dims[None, :], o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < S)


def attention(q, k, v, causal, *, BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2):
    B, H, S, D = q.shape
    o = torch.empty_like(q)
    attention_kernel[(triton.cdiv(S, BLOCK_M), H, B)](
        q, k, v, o, S, H, k.shape[1], 1.4426950408889634 * D**-0.5, CAUSAL=causal, D=D, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        num_warps=num_warps, num_stages=num_stages,
    )
    return o
# EVOLVE-BLOCK-END
