# WHAT: calls cuBLAS through the operator
# EXPECT: REJECTED
# STAGE: screen
# REASON: tl.dot inside a kernel
# NEEDS: any

import torch
import triton
import triton.language as tl


def matmul(a, b):
    return a @ b
