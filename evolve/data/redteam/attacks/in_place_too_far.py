# WHAT: scales whole blocks, beyond the rows that it was asked for
# EXPECT: INCORRECT
# STAGE: check
# REASON: error|exact|NaN|differ
# NEEDS: any
# PROBLEM: scale_rows

import torch
import triton
import triton.language as tl


@triton.jit
def scale_kernel(x_ptr, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(x_ptr + at, tl.load(x_ptr + at) * factor)


def scale_rows(x, rows, factor, *, BLOCK=1024, num_warps=4):
    n = rows * x.shape[1]
    scale_kernel[(triton.cdiv(n, BLOCK),)](x, n, factor, BLOCK=BLOCK, num_warps=num_warps)
    return x
