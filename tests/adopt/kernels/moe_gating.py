# SPDX-License-Identifier: Apache-2.0
"""Softmax + top-k expert selection for the router of a mixture of experts."""

from __future__ import annotations

import argparse
import logging

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

logger = logging.getLogger(__name__)


@triton.heuristics(
    {
        "BLOCK_E": lambda args: triton.next_power_of_2(args["num_experts"]),
        "EVEN_E": lambda args: args["num_experts"] == triton.next_power_of_2(args["num_experts"]),
    }
)
@triton.jit
def _topk_gating_kernel(
    logits_ptr,
    weights_ptr,
    ids_ptr,
    num_tokens,
    num_experts,
    stride_lm,
    TOP_K: tl.constexpr,
    RENORM: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr,
    EVEN_E: tl.constexpr,
):
    pid = tl.program_id(axis=0)
    tokens = pid * BLOCK_T + tl.arange(0, BLOCK_T)
    experts = tl.arange(0, BLOCK_E)
    token_mask = tokens < num_tokens
    if EVEN_E:
        mask = token_mask[:, None]
    else:
        mask = token_mask[:, None] & (experts[None, :] < num_experts)
    x = tl.load(logits_ptr + tokens[:, None] * stride_lm + experts[None, :], mask=mask, other=-float("inf"))
    x = x.to(tl.float32)

    # softmax over the experts
    x = x - tl.max(x, axis=1)[:, None]
    e = tl.exp(x)
    probs = e / tl.sum(e, axis=1)[:, None]
    if not EVEN_E:
        probs = tl.where(experts[None, :] < num_experts, probs, -1.0)

    total = tl.zeros([BLOCK_T], dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        best = tl.max(probs, axis=1)
        where = tl.argmax(probs, axis=1)
        total += best
        tl.store(weights_ptr + tokens * TOP_K + k, best, mask=token_mask)
        tl.store(ids_ptr + tokens * TOP_K + k, where.to(tl.int32), mask=token_mask)
        probs = tl.where(experts[None, :] == where[:, None], -1.0, probs)

    if RENORM:
        tl.debug_barrier()
        for k in tl.static_range(TOP_K):
            w = tl.load(weights_ptr + tokens * TOP_K + k, mask=token_mask, other=0.0)
            tl.store(weights_ptr + tokens * TOP_K + k, w / total, mask=token_mask)


def topk_gating(
    gating_output: torch.Tensor,
    topk: int,
    renormalize: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (weights [tokens, topk] in float32, expert ids [tokens, topk] in int32)."""
    assert gating_output.is_cuda, "the router runs on the GPU"
    assert gating_output.dim() == 2 and gating_output.stride(-1) == 1
    if not isinstance(topk, int) or topk < 1:
        raise TypeError(f"topk must be a positive int, got {topk!r}")
    M, E = gating_output.shape
    weights = torch.empty(M, topk, dtype=torch.float32, device="cuda")
    ids = torch.empty(M, topk, dtype=torch.int32, device="cuda")
    BLOCK_T = 16 if E <= 64 else 4
    _topk_gating_kernel[(triton.cdiv(M, BLOCK_T),)](
        gating_output,
        weights,
        ids,
        M,
        E,
        gating_output.stride(0),
        TOP_K=topk,
        RENORM=renormalize,
        BLOCK_T=BLOCK_T,
        num_warps=4,
    )
    return weights, ids


def torch_topk_gating(gating_output, topk, renormalize=True):
    weights, ids = F.softmax(gating_output.float(), dim=-1).topk(topk, dim=-1)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids.to(torch.int32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    opts = parser.parse_args()
    scores = torch.randn(opts.tokens, 128, device="cuda")
    print(triton.testing.do_bench(lambda: topk_gating(scores, 8)))
