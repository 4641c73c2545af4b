"""o = softmax(q @ kᵀ / √D) @ v, the way a good engineer writes it first: a block of queries a program, keys stream past.

Memory traffic in bf16, for B heads·batches in all; what must move at least once is 2·(2·H + 2·HK)·B·S·D bytes:
    load q      2·B·H·S·D bytes, once: a program keeps its block
    load k, v   2·2·B·H·S·D·(S/BLOCK_M) bytes, half of it if causal: every block of queries reads all keys it sees, most
                of it from L2, where the S/BLOCK_M programs of a head (and the heads of a group) meet
    scores      stay in registers; written out they would be 4·B·H·S² bytes, twice
    store o     2·B·H·S·D bytes, once
"""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {
    "BLOCK_M": (32, 64, 128),
    "BLOCK_N": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4),
    "MASKS_APART": (True, False),
    "HEAVY_FIRST": (True, False),
}


@triton.jit
def attention_kernel(
    q_ptr,  # B×H×S×D
    k_ptr,  # B×HK×S×D
    v_ptr,  # B×HK×S×D
    o_ptr,  # B×H×S×D
    S,
    H,
    HK,
    scale,  # log2(e)/√D: exp2 is what the hardware has
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKS_APART: tl.constexpr,
    HEAVY_FIRST: tl.constexpr,
):
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    kv_head = head // (H // HK)
    q_base = (batch * H + head) * S * D
    kv_base = (batch * HK + kv_head) * S * D
    place = tl.program_id(0)
    if HEAVY_FIRST:
        place = tl.num_programs(0) - 1 - place
    first = place * BLOCK_M
    rows = first + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, D)
    q = tl.load(q_ptr + q_base + rows[:, None] * D + dims[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    acc = tl.zeros((BLOCK_M, D), dtype=tl.float32)
    last = S
    if CAUSAL:
        last = tl.minimum(first + BLOCK_M, S)
    whole = 0
    if MASKS_APART:
        whole = last
        whole = tl.minimum(whole, S)
        if CAUSAL:
            whole = tl.minimum(whole, first + 1)
        whole = whole // BLOCK_N * BLOCK_N
        for start in range(0, whole, BLOCK_N):
            cols = start + tl.arange(0, BLOCK_N)
            k = tl.load(k_ptr + kv_base + cols[None, :] * D + dims[:, None])
            v = tl.load(v_ptr + kv_base + cols[:, None] * D + dims[None, :])
            scores = tl.dot(q, k) * scale
            higher = tl.maximum(peak, tl.max(scores, axis=1))
            p = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(peak - higher)
            total = total * shrink + tl.sum(p, axis=1)
            acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
            peak = higher
    for start in range(whole, last, BLOCK_N):
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
    o_ptrs = o_ptr + q_base + rows[:, None] * D + dims[None, :]
    tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < S)


def attention(q, k, v, causal, *, BLOCK_M=64, BLOCK_N=64, num_warps=4, num_stages=2, MASKS_APART=True, HEAVY_FIRST=True):
    B, H, S, D = q.shape
    HK = k.shape[1]
    o = torch.empty_like(q)
    grid = (triton.cdiv(S, BLOCK_M), H, B)
    attention_kernel[grid](
        q,
        k,
        v,
        o,
        S,
        H,
        HK,
        1.4426950408889634 * D**-0.5,
        CAUSAL=causal,
        D=D,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=num_warps,
        num_stages=num_stages,
        MASKS_APART=MASKS_APART,
        HEAVY_FIRST=HEAVY_FIRST,
    )
    return o
# EVOLVE-BLOCK-END
