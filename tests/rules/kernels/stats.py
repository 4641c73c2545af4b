"""Softmax in two passes over a row that does not fit a block: a loop without a dot, exponentials, a running sum."""

import torch
import triton
import triton.language as tl


@triton.jit
def long_softmax(X, Y, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for at in range(0, width, BLOCK):
        x = tl.load(X + row * stride + at + cols, mask=at + cols < width, other=float("-inf")).to(tl.float32)
        new = tl.maximum(top, x)
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - safe) + tl.exp(x - safe)
        top = new
    peak = tl.max(top, axis=0)
    whole = tl.sum(total * tl.exp(top - peak), axis=0)
    for at in range(0, width, BLOCK):
        x = tl.load(X + row * stride + at + cols, mask=at + cols < width, other=float("-inf")).to(tl.float32)
        tl.store(Y + row * stride + at + cols, tl.exp(x - peak) / whole, mask=at + cols < width)


def softmax(x, *, BLOCK=64, num_warps=4):
    y = torch.empty_like(x)
    long_softmax[(x.shape[0],)](x, y, x.shape[1], x.stride(0), BLOCK=BLOCK, num_warps=num_warps)
    return y
