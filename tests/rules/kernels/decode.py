"""One query a head over a dense cache: a program a head, keys in a loop that counts blocks, natural exponentials."""

import torch
import triton
import triton.language as tl


@triton.jit
def decode_kernel(Q, K, V, O, keys, scale, ROWS: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr):
    head = tl.program_id(0)
    row = tl.arange(0, ROWS)
    d = tl.arange(0, D)
    q_start = head * D
    kv_start = head * keys * D
    q = tl.load(Q + q_start + row[:, None] * D + d[None, :], mask=row[:, None] < 1, other=0.0)
    peak = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, D), dtype=tl.float32)
    for i in range(0, tl.cdiv(keys, STEP)):
        n = i * STEP + tl.arange(0, STEP)
        k = tl.load(K + kv_start + n[None, :] * D + d[:, None], mask=n[None, :] < keys, other=0.0)
        v = tl.load(V + kv_start + n[:, None] * D + d[None, :], mask=n[:, None] < keys, other=0.0)
        scores = tl.where(n[None, :] < keys, tl.dot(q, k) * scale, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    o = acc / total[:, None]
    tl.store(O + q_start + row[:, None] * D + d[None, :], o.to(O.dtype.element_ty), mask=row[:, None] < 1)


def decode(q, k, v, *, STEP=32, num_warps=4, num_stages=2):
    heads, keys, depth = k.shape
    o = torch.empty_like(q)
    decode_kernel[(heads,)](q, k, v, o, keys, 0.125, ROWS=16, D=depth, STEP=STEP, num_warps=num_warps, num_stages=num_stages)
    return o
