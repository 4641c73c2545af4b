"""Layer norm of x + residual in three passes over the row, a block at a time: everything is read three times."""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BLOCK": (256, 512, 1024, 2048, 4096), "num_warps": (1, 2, 4, 8, 16), "num_stages": (1, 2, 3, 4)}


@triton.jit
def norm_kernel(x_ptr, residual_ptr, weight_ptr, bias_ptr, y_ptr, s_ptr, hidden, eps, RETURN_SUM: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * hidden
    added = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        added += tl.load(x_ptr + row + cols, mask=cols < hidden, other=0.0).to(tl.float32)
        added += tl.load(residual_ptr + row + cols, mask=cols < hidden, other=0.0).to(tl.float32)
    mean = tl.sum(added, axis=0) / hidden
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, hidden, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        total = tl.load(x_ptr + row + cols, mask=cols < hidden, other=0.0).to(tl.float32)
        total += tl.load(residual_ptr + row + cols, mask=cols < hidden, other=0.0).to(tl.float32)
        centred = tl.where(cols < hidden, total - mean, 0.0)
        squares += centred * centred
    scale = tl.rsqrt(tl.sum(squares, axis=0) / hidden + eps)
    for start in range(0, hidden, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        inside = cols < hidden
        total = tl.load(x_ptr + row + cols, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(residual_ptr + row + cols, mask=inside, other=0.0).to(tl.float32)
        if RETURN_SUM:
            tl.store(s_ptr + row + cols, total.to(s_ptr.dtype.element_ty), mask=inside)
        weight = tl.load(weight_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        tl.store(y_ptr + row + cols, ((total - mean) * scale * weight + bias).to(y_ptr.dtype.element_ty), mask=inside)


def layernorm_residual(x, residual, weight, bias, eps, return_sum, *, BLOCK=1024, num_warps=4, num_stages=2):
    rows, hidden = x.shape
    y = torch.empty_like(x)
    s = y
    if return_sum:
        s = torch.empty_like(x)
    norm_kernel[(rows,)](x, residual, weight, bias, y, s, hidden, eps, RETURN_SUM=return_sum, BLOCK=BLOCK, num_warps=num_warps, num_stages=num_stages)
    if return_sum:
        return y, s
    return y
# EVOLVE-BLOCK-END
