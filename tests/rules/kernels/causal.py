"""Causal attention that masks in one loop, keys as rows transposed by `tl.trans`-free addressing, powers of two."""

import torch
import triton
import triton.language as tl


@triton.jit
def causal_kernel(Q, K, V, O, LEN, scale, HEAD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    begin = tl.program_id(0) * ROWS
    start = tl.program_id(1) * LEN * HEAD
    r = begin + tl.arange(0, ROWS)
    d = tl.arange(0, HEAD)
    q = tl.load(Q + start + r[:, None] * HEAD + d[None, :], mask=r[:, None] < LEN, other=0.0)
    top = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    norm = tl.zeros((ROWS,), dtype=tl.float32)
    out = tl.zeros((ROWS, HEAD), dtype=tl.float32)
    for at in range(0, tl.minimum(begin + ROWS, LEN), COLS):
        c = at + tl.arange(0, COLS)
        k = tl.load(K + start + c[None, :] * HEAD + d[:, None], mask=c[None, :] < LEN, other=0.0)
        v = tl.load(V + start + c[:, None] * HEAD + d[None, :], mask=c[:, None] < LEN, other=0.0)
        s = tl.dot(q, k) * scale
        s = tl.where((c[None, :] < LEN) & (c[None, :] <= r[:, None]), s, float("-inf"))
        new = tl.maximum(top, tl.max(s, axis=1))
        p = tl.exp2(s - new[:, None])
        fix = tl.exp2(top - new)
        norm = norm * fix + tl.sum(p, axis=1)
        out = out * fix[:, None] + tl.dot(p.to(v.dtype), v)
        top = new
    out = out / norm[:, None]
    tl.store(O + start + r[:, None] * HEAD + d[None, :], out.to(O.dtype.element_ty), mask=r[:, None] < LEN)


def causal(q, k, v, *, ROWS=64, COLS=64, num_warps=4, num_stages=3):
    heads, length, depth = q.shape
    o = torch.empty_like(q)
    causal_kernel[(triton.cdiv(length, ROWS), heads)](
        q, k, v, o, length, 1.4426950408889634 * depth**-0.5,
        HEAD=depth, ROWS=ROWS, COLS=COLS, num_warps=num_warps, num_stages=num_stages,
    )
    return o
