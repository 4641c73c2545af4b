"""A product with a bias and an activation on its tile, K in blocks that are counted, the grid a lambda."""

import torch
import triton
import triton.language as tl

TUNE = {"TM": (32, 64, 128), "TN": (32, 64, 128), "TK": (32, 64)}


@triton.jit
def activated(A, B, BIAS, C, m, n, k, TM: tl.constexpr, TN: tl.constexpr, TK: tl.constexpr):
    pid = tl.program_id(0)
    across = tl.cdiv(n, TN)
    i = pid // across
    j = pid % across
    rm = i * TM + tl.arange(0, TM)
    rn = j * TN + tl.arange(0, TN)
    rk = tl.arange(0, TK)
    pa = A + rm[:, None] * k + rk[None, :]
    pb = B + rk[:, None] * n + rn[None, :]
    acc = tl.zeros((TM, TN), dtype=tl.float32)
    for step in range(tl.cdiv(k, TK)):
        a = tl.load(pa, mask=(rm[:, None] < m) & (rk[None, :] < k - step * TK), other=0.0)
        b = tl.load(pb, mask=(rk[:, None] < k - step * TK) & (rn[None, :] < n), other=0.0)
        acc += tl.dot(a, b)
        pa += TK
        pb += TK * n
    bias = tl.load(BIAS + rn, mask=rn < n, other=0.0).to(tl.float32)
    z = acc + bias[None, :]
    z = z * tl.sigmoid(1.702 * z)
    tl.store(C + rm[:, None] * n + rn[None, :], z.to(C.dtype.element_ty), mask=(rm[:, None] < m) & (rn[None, :] < n))


def linear(a, b, bias, *, TM=64, TN=64, TK=32, num_warps=4, num_stages=3):
    m, k = a.shape
    n = b.shape[1]
    c = torch.empty((m, n), device=a.device, dtype=a.dtype)
    grid = lambda meta: (triton.cdiv(m, meta["TM"]) * triton.cdiv(n, meta["TN"]),)
    activated[grid](a, b, bias, c, m, n, k, TM=TM, TN=TN, TK=TK, num_warps=num_warps, num_stages=num_stages)
    return c
