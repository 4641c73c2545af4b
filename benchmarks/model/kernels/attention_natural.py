"""Attention with natural exponentials, the scale in the loop and the accumulator rescaled after the product."""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BM": (32, 64, 128), "BN": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3, 4)}


@triton.jit
def attend(Q, K, V, O, S, HEADS, GROUP, scale, CAUSAL: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    pid = tl.program_id(0)
    head = tl.program_id(1)
    rows = pid * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    base = head.to(tl.int64) * S * D
    kv = (head // GROUP).to(tl.int64) * S * D
    q = tl.load(Q + base + rows[:, None] * D + d[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, D), dtype=tl.float32)
    last = tl.minimum((pid + 1) * BM, S) if CAUSAL else S
    for n in range(0, last, BN):
        cols = n + tl.arange(0, BN)
        k = tl.load(K + kv + cols[None, :] * D + d[:, None], mask=cols[None, :] < S, other=0.0)
        scores = tl.dot(q, k) * scale
        inside = cols[None, :] < S
        if CAUSAL:
            inside = inside & (cols[None, :] <= rows[:, None])
        scores = tl.where(inside, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp(scores - new_peak[:, None])
        correction = tl.exp(peak - new_peak)
        total = total * correction + tl.sum(p, axis=1)
        v = tl.load(V + kv + cols[:, None] * D + d[None, :], mask=cols[:, None] < S, other=0.0)
        acc = acc * correction[:, None] + tl.dot(p.to(v.dtype), v)
        peak = new_peak
    acc = acc / total[:, None]
    tl.store(O + base + rows[:, None] * D + d[None, :], acc.to(O.dtype.element_ty), mask=rows[:, None] < S)


def attention(q, k, v, causal, *, BM=64, BN=64, num_warps=4, num_stages=2):
    B, H, S, D = q.shape
    o = torch.empty_like(q)
    attend[(triton.cdiv(S, BM), B * H)](
        q, k, v, o, S, H, H // k.shape[1], D**-0.5, CAUSAL=causal, D=D, BM=BM, BN=BN,
        num_warps=num_warps, num_stages=num_stages,
    )
    return o
# EVOLVE-BLOCK-END
