"""c = a @ b, the way a good engineer writes it first: one program a tile of c, pointers, masks, a loop over K.

Memory traffic, in bf16; what must move at least once is 2·(M·K + K·N + M·N) bytes:
    load a     2·M·N·K/BLOCK_N bytes: every tile of c reads its whole row panel of a, most of it from L2
    load b     2·M·N·K/BLOCK_M bytes: and its whole column panel of b
    acc        stays in registers
    store c    2·M·N bytes, once

Sums are float32, for int8 int32. float32 operands are multiplied as they are ("ieee"); where the contract allows tf32,
PRECISION="tf32" is the first thing to try. It is not in TUNE: under the ieee contract it would win and be wrong.
"""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {
    "BLOCK_M": (16, 32, 64, 128, 256),
    "BLOCK_N": (32, 64, 128, 256),
    "BLOCK_K": (32, 64, 128),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5, 6),
    "GROUP_M": (1, 2, 4, 8, 16),
}


@triton.jit
def matmul_kernel(
    a_ptr,  # M×K
    b_ptr,  # K×N, either layout
    c_ptr,  # M×N
    M,
    N,
    K,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    stride_cm,
    stride_cn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNED: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    # Multiples of 8 stay what they are, and the compiler sees that they are.
    if ALIGNED & 1:
        M = M // 8 * 8
    if ALIGNED & 2:
        N = N // 8 * 8
    if ALIGNED & 4:
        K = K // 8 * 8
    if ALIGNED & 8:
        stride_am = stride_am // 8 * 8
    if ALIGNED & 16:
        stride_ak = stride_ak // 8 * 8
    if ALIGNED & 32:
        stride_bk = stride_bk // 8 * 8
    if ALIGNED & 64:
        stride_bn = stride_bn // 8 * 8
    if ALIGNED & 128:
        stride_cm = stride_cm // 8 * 8
    if ALIGNED & 256:
        stride_cn = stride_cn // 8 * 8
    ACC: tl.constexpr = tl.int32 if c_ptr.dtype.element_ty == tl.int32 else tl.float32
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles_in_group = GROUP_M * tiles_n
    first_row = pid // tiles_in_group * GROUP_M
    group_rows = min(tl.cdiv(M, BLOCK_M) - first_row, GROUP_M)
    pid_m = first_row + pid % tiles_in_group % group_rows
    pid_n = pid % tiles_in_group // group_rows
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * stride_am + ks[None, :] * stride_ak
    b_ptrs = b_ptr + ks[:, None] * stride_bk + cols[None, :] * stride_bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for k in range(0, K, BLOCK_K):
        a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (ks[None, :] < K - k), other=0.0)
        b = tl.load(b_ptrs, mask=(ks[:, None] < K - k) & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
    c_ptrs = c_ptr + rows[:, None] * stride_cm + cols[None, :] * stride_cn
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=(rows[:, None] < M) & (cols[None, :] < N))


def matmul(a, b, *, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_warps=4, num_stages=2, PRECISION="ieee", GROUP_M=4):
    M, K = a.shape
    N = b.shape[1]
    dtype = a.dtype
    if dtype == torch.float8_e4m3fn:
        dtype = torch.bfloat16
    if dtype == torch.int8:
        dtype = torch.int32
    c = torch.empty((M, N), device=a.device, dtype=dtype)
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    ALIGNED = (
        (M % 8 == 0)
        + (N % 8 == 0) * 2
        + (K % 8 == 0) * 4
        + (a.stride(0) % 8 == 0) * 8
        + (a.stride(1) % 8 == 0) * 16
        + (b.stride(0) % 8 == 0) * 32
        + (b.stride(1) % 8 == 0) * 64
        + (c.stride(0) % 8 == 0) * 128
        + (c.stride(1) % 8 == 0) * 256
    )
    matmul_kernel[grid](
        a,
        b,
        c,
        M,
        N,
        K,
        a.stride(0),
        a.stride(1),
        b.stride(0),
        b.stride(1),
        c.stride(0),
        c.stride(1),
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        PRECISION=PRECISION,
        num_warps=num_warps,
        num_stages=num_stages,
        ALIGNED=ALIGNED,
        GROUP_M=GROUP_M,
    )
    return c


# EVOLVE-BLOCK-END
