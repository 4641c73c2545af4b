"""Attention in two launches: keys in SPLIT parts, each with its own maximum and sum in scratch, then put together."""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BLOCK_M": (64, 128), "BLOCK_N": (32, 64, 128), "SPLIT": (2, 4), "num_warps": (4, 8), "num_stages": (2, 3)}


@triton.jit
def part_kernel(q_ptr, k_ptr, v_ptr, part_ptr, sums_ptr, S, H, HK, scale, CAUSAL: tl.constexpr, SPLIT: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    part = tl.program_id(0) % SPLIT
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    at = batch * H + head
    kv_base = (batch * HK + head // (H // HK)) * S * D
    first = tl.program_id(0) // SPLIT * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    q = tl.load(q_ptr + at * S * D + rows[:, None] * D + dims[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((BLOCK_M,), -1.0e30, dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, D), dtype=tl.float32)
    last = S
    if CAUSAL:
        last = tl.minimum(first + BLOCK_M, S)
    for start in range(part * BLOCK_N, last, SPLIT * BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + kv_base + cols[None, :] * D + dims[:, None], mask=cols[None, :] < S, other=0.0)
        v = tl.load(v_ptr + kv_base + cols[:, None] * D + dims[None, :], mask=cols[:, None] < S, other=0.0)
        scores = tl.dot(q, k) * scale
        seen = cols[None, :] < S
        if CAUSAL:
            seen = seen & (cols[None, :] <= rows[:, None])
        scores = tl.where(seen, scores, -1.0e30)
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    own = (at * SPLIT + part) * S
    tl.store(part_ptr + own * D + rows[:, None] * D + dims[None, :], acc, mask=rows[:, None] < S)
    tl.store(sums_ptr + own * 2 + rows, peak, mask=rows < S)
    tl.store(sums_ptr + own * 2 + S + rows, total, mask=rows < S)


@triton.jit
def join_kernel(part_ptr, sums_ptr, o_ptr, S, SPLIT: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr):
    at = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, D)
    peak = tl.full((ROWS,), -1.0e30, dtype=tl.float32)
    for part in tl.static_range(SPLIT):
        peak = tl.maximum(peak, tl.load(sums_ptr + (at * SPLIT + part) * S * 2 + rows, mask=rows < S, other=-1.0e30))
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, D), dtype=tl.float32)
    for part in tl.static_range(SPLIT):
        own = (at * SPLIT + part) * S
        factor = tl.exp2(tl.load(sums_ptr + own * 2 + rows, mask=rows < S, other=-1.0e30) - peak)
        total += factor * tl.load(sums_ptr + own * 2 + S + rows, mask=rows < S, other=1.0)
        acc += factor[:, None] * tl.load(part_ptr + own * D + rows[:, None] * D + dims[None, :], mask=rows[:, None] < S, other=0.0)
    o = acc / total[:, None]
    tl.store(o_ptr + at * S * D + rows[:, None] * D + dims[None, :], o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < S)


def attention(q, k, v, causal, *, BLOCK_M=64, BLOCK_N=64, SPLIT=2, num_warps=4, num_stages=2):
    B, H, S, D = q.shape
    o = torch.empty_like(q)
    parts = torch.empty((B, H, SPLIT, S, D), device=q.device, dtype=torch.float32)
    sums = torch.empty((B, H, SPLIT, 2, S), device=q.device, dtype=torch.float32)
    part_kernel[(triton.cdiv(S, BLOCK_M) * SPLIT, H, B)](
        q, k, v, parts, sums, S, H, k.shape[1], 1.4426950408889634 * D**-0.5, CAUSAL=causal, SPLIT=SPLIT, D=D, BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N, num_warps=num_warps, num_stages=num_stages,
    )
    join_kernel[(triton.cdiv(S, 32), B * H)](parts, sums, o, S, SPLIT=SPLIT, D=D, ROWS=32, num_warps=4, num_stages=2)
    return o
# EVOLVE-BLOCK-END
