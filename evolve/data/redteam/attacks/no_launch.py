# WHAT: allocates the answer and launches nothing
# EXPECT: REJECTED
# STAGE: gate
# REASON: no kernel is launched
# NEEDS: any

import torch
import triton
import triton.language as tl


def matmul(a, b):
    return torch.empty((a.shape[0], b.shape[1]), device=a.device, dtype=a.dtype)
