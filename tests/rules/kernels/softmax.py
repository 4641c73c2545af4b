"""A softmax over rows: no dot, one axis; most rules have nothing to do here and must say so."""

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_kernel(out, inp, stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    x = tl.load(inp + row * stride + cols, mask=cols < width, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out + row * stride + cols, e / tl.sum(e, axis=0), mask=cols < width)


def softmax(x, *, num_warps=4):
    y = torch.empty_like(x)
    softmax_kernel[(x.shape[0],)](y, x, x.stride(0), x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=num_warps)
    return y
