# Copyright (c) 2025, the authors.
# Sliding-window causal attention with logit soft-capping (forward only), GQA.
import math
import os

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NEG_INF = tl.constexpr(-1.0e30)
DEBUG = os.environ.get("SWA_DEBUG", "0") == "1"
TORCH_HAS_FP8 = hasattr(torch, "float8_e5m2")
DEFAULT_WINDOW = 1 << 10

configs = [
    triton.Config({"BLOCK_M": BM, "BLOCK_N": BN}, num_stages=s, num_warps=w)
    for BM in [64, 128]
    for BN in [32, 64]
    for s in [2, 3]
    for w in [4, 8]
]


def keep(conf):
    return not (conf.kwargs["BLOCK_M"] * conf.kwargs["BLOCK_N"] < 128 * 64 and conf.num_warps == 8)


def prune_too_large(configs, named_args, **kwargs):
    return [c for c in configs if c.kwargs["BLOCK_M"] <= max(64, named_args["SEQLEN"])]


@triton.jit
def fast_tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _inner(acc, l_i, m_i, q, kv_start, kv_end, k_ptrs, v_ptrs, stride_kn, stride_vn, offs_m, offs_n, SEQLEN, scale,
           window, SOFTCAP: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr):
    for start in tl.range(kv_start, kv_end, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        n = start + offs_n
        k = tl.load(k_ptrs + n[None, :] * stride_kn, mask=n[None, :] < SEQLEN, other=0.0)
        s = tl.dot(q, k) * scale
        if SOFTCAP > 0:
            s = SOFTCAP * fast_tanh(s / SOFTCAP)
        s = s * LOG2E
        if MASKED:
            ok = (n[None, :] <= offs_m[:, None]) & (n[None, :] > offs_m[:, None] - window) & (n[None, :] < SEQLEN)
            s = tl.where(ok, s, NEG_INF)
        m_new = tl.maximum(m_i, tl.max(s, 1))
        alpha = tl.math.exp2(m_i - m_new)
        p = tl.math.exp2(s - m_new[:, None])
        if MASKED:
            p = tl.where(ok, p, 0.0)
        l_i = l_i * alpha + tl.sum(p, 1)
        v = tl.load(v_ptrs + n[:, None] * stride_vn, mask=n[:, None] < SEQLEN, other=0.0)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v)
        m_i = m_new
    return acc, l_i, m_i


@triton.autotune(list(filter(keep, configs)), key=["SEQLEN", "HEAD_DIM", "window"],
                 prune_configs_by={"early_config_prune": prune_too_large})
@triton.jit
def _fwd_kernel(Q, K, V, Out, Lse, scale,
                stride_qb, stride_qh, stride_qm,
                stride_kb, stride_kh, stride_kn,
                stride_vb, stride_vh, stride_vn,
                stride_ob, stride_oh, stride_om,
                H, SEQLEN, window,
                GROUP: tl.constexpr, SOFTCAP: tl.constexpr, HEAD_DIM: tl.constexpr,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    tl.static_assert(HEAD_DIM >= 16)
    block_m = tl.program_id(0)
    b = tl.program_id(1) // H
    h = tl.program_id(1) % H
    offs_m = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, HEAD_DIM)
    q_ptrs = Q + b.to(tl.int64) * stride_qb + h * stride_qh + offs_m[:, None] * stride_qm + offs_d[None, :]
    k_ptrs = K + b.to(tl.int64) * stride_kb + (h // GROUP) * stride_kh + offs_d[:, None]
    v_ptrs = V + b.to(tl.int64) * stride_vb + (h // GROUP) * stride_vh + offs_d[None, :]
    q = tl.load(q_ptrs, mask=offs_m[:, None] < SEQLEN, other=0.0)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], dtype=tl.float32)
    m_i = tl.full([BLOCK_M], NEG_INF, dtype=tl.float32)
    l_i = tl.zeros([BLOCK_M], dtype=tl.float32)
    lo = tl.maximum(0, (block_m * BLOCK_M - window + 1) // BLOCK_N * BLOCK_N)
    hi = tl.minimum(SEQLEN, (block_m + 1) * BLOCK_M)
    acc, l_i, m_i = _inner(acc, l_i, m_i, q, lo, hi, k_ptrs, v_ptrs, stride_kn, stride_vn, offs_m, offs_n, SEQLEN,
                           scale, window, SOFTCAP, BLOCK_N, True)
    acc = acc / l_i[:, None]
    o_ptrs = Out + b.to(tl.int64) * stride_ob + h * stride_oh + offs_m[:, None] * stride_om + offs_d[None, :]
    tl.store(o_ptrs, acc.to(Out.dtype.element_ty), mask=offs_m[:, None] < SEQLEN)
    tl.store(Lse + tl.program_id(1) * SEQLEN + offs_m, m_i / LOG2E + tl.log(l_i), mask=offs_m < SEQLEN)


def _check(q, k, v):
    assert q.dtype == k.dtype == v.dtype
    for t in (q, k, v):
        assert t.stride(-1) == 1
    return q.shape[1] // k.shape[1]


class SlidingAttention(torch.nn.Module):
    """For models; calls the function below."""

    def forward(self, q, k, v):
        return sliding_attention(q, k, v)[0]


@torch.inference_mode()
def sliding_attention(q, k, v, window: int = DEFAULT_WINDOW, softcap: float = 30.0, sm_scale=None):
    """q [B, H, S, D], k and v [B, Hkv, S, D] -> (out, lse)"""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    B, H, S, D = q.shape
    group = _check(q, k, v)
    if sm_scale is None:
        sm_scale = 1.0 / math.sqrt(D)
    if D not in (32, 64, 128, 256):
        raise NotImplementedError(f"head dim {D} is not supported")
    if DEBUG:
        print("sliding_attention", q.shape, window)
    o = torch.empty_like(q)
    lse = torch.empty((B, H, S), device=q.device, dtype=torch.float32)
    grid = lambda args: (triton.cdiv(S, args["BLOCK_M"]), B * H, 1)  # noqa: E731
    _fwd_kernel[grid](
        q, k, v, o, lse, sm_scale,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *o.stride()[:3],
        H, S, window,
        GROUP=group, SOFTCAP=softcap, HEAD_DIM=D,
    )
    return o, lse
