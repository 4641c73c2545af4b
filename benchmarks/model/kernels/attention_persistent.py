"""Attention with one program an SM that takes block after block of queries, the tallest first; keys come before use."""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "OVER": (1, 2), "num_warps": (4, 8), "num_stages": (2, 3, 4)}


@triton.jit
def attention_kernel(q_ptr, k_ptr, v_ptr, o_ptr, S, H, HK, BLOCKS, TILES, scale, CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PROGRAMS: tl.constexpr):
    dims = tl.arange(0, D)
    for tile in range(tl.program_id(0), TILES, PROGRAMS):
        heads = TILES // BLOCKS
        first = (BLOCKS - 1 - tile // heads) * BLOCK_M
        at = (tile % heads).to(tl.int64)
        q_base = at * S * D
        kv_base = (at // H * HK + at % H // (H // HK)) * S * D
        rows = first + tl.arange(0, BLOCK_M)
        q = tl.load(q_ptr + q_base + rows[:, None] * D + dims[None, :], mask=rows[:, None] < S, other=0.0)
        peak = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((BLOCK_M,), dtype=tl.float32)
        acc = tl.zeros((BLOCK_M, D), dtype=tl.float32)
        last = S
        if CAUSAL:
            last = tl.minimum(first + BLOCK_M, S)
        for start in range(0, last, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            k = tl.load(k_ptr + kv_base + cols[None, :] * D + dims[:, None], mask=cols[None, :] < S, other=0.0)
            v = tl.load(v_ptr + kv_base + cols[:, None] * D + dims[None, :], mask=cols[:, None] < S, other=0.0)
            scores = tl.dot(q, k) * scale
            seen = cols[None, :] < S
            if CAUSAL:
                seen = seen & (cols[None, :] <= rows[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            higher = tl.maximum(peak, tl.max(scores, axis=1))
            p = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(peak - higher)
            total = total * shrink + tl.sum(p, axis=1)
            acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
            peak = higher
        o = acc / total[:, None]
        tl.store(o_ptr + q_base + rows[:, None] * D + dims[None, :], o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < S)


def attention(q, k, v, causal, *, BLOCK_M=64, BLOCK_N=64, OVER=1, num_warps=4, num_stages=2, NUM_SMS=132):
    B, H, S, D = q.shape
    o = torch.empty_like(q)
    blocks = triton.cdiv(S, BLOCK_M)
    tiles = blocks * B * H
    programs = min(tiles, NUM_SMS * OVER)
    attention_kernel[(programs,)](
        q, k, v, o, S, H, k.shape[1], blocks, tiles, 1.4426950408889634 * D**-0.5, CAUSAL=causal, D=D, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N,
        PROGRAMS=programs, num_warps=num_warps, num_stages=num_stages,
    )
    return o
# EVOLVE-BLOCK-END
