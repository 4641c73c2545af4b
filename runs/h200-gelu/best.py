"""c = gelu(a @ b + bias), the way a good engineer writes it first: a matmul, and gelu on the tile before it is stored.

Memory traffic in bf16; what must move at least once is 2·(M·K + K·N + N + M·N) bytes:
    load a      2·M·N·K/BLOCK_N bytes: every tile of c reads its whole row panel of a, most of it from L2
    load b      2·M·N·K/BLOCK_M bytes: and its whole column panel of b
    load bias   2·BLOCK_N bytes a program, from L2 but for the first
    z, gelu     stay in registers; as a kernel of its own gelu would move 4·M·N bytes more
    store c     2·M·N bytes, once
"""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
from triton.tools.tensor_descriptor import TensorDescriptor

TUNE = {
    "BLOCK_M": (64, 128, 256),
    "BLOCK_N": (64, 128, 256),
    "BLOCK_K": (64, 128),
    "GROUP_M": (4, 8, 16),
    "num_warps": (4, 8),
    "num_stages": (3, 4),
    "PERSISTENT": (True, False),
}


@triton.jit
def activated(acc, bias):
    """z·sigmoid(2u) = z / (1 + 2^(-2u·log2 e)), one exp2 and one division; -2.302208 is -2·√(2/π)·log2 e."""
    z = acc + bias[None, :]
    return z / (1.0 + tl.exp2(-2.302208198144325 * z * (1.0 + 0.044715 * z * z)))


@triton.jit
def load_bias(bias_ptr, first, N, COUNT: tl.constexpr):
    cols = first + tl.arange(0, COUNT)
    return tl.load(bias_ptr + cols, mask=cols < N, other=0.0).to(tl.float32)


@triton.jit
def matmul_gelu_kernel(
    a_ptr,  # M×K
    b_ptr,  # K×N, either layout
    bias_ptr,  # N
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
):
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid_m = pid // tiles_n
    pid_n = pid % tiles_n
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * stride_am + ks[None, :] * stride_ak
    b_ptrs = b_ptr + ks[:, None] * stride_bk + cols[None, :] * stride_bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (ks[None, :] < K - k), other=0.0)
        b = tl.load(b_ptrs, mask=(ks[:, None] < K - k) & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
    bias = tl.load(bias_ptr + cols, mask=cols < N, other=0.0).to(tl.float32)
    c = activated(acc, bias)
    c_ptrs = c_ptr + rows[:, None] * stride_cm + cols[None, :] * stride_cn
    tl.store(c_ptrs, c.to(c_ptr.dtype.element_ty), mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def tile_kernel(
    a_desc,  # M×K
    b_desc,  # K×N, or N×K where b is column-major
    bias_ptr,  # N
    c_desc,  # M×N
    M,
    N,
    K,
    COLUMNS: tl.constexpr,  # b is column-major
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    in_group = GROUP_M * tiles_n
    number = tl.program_id(0)
    tile = number
    first_m = tile // in_group * GROUP_M
    rows_in_group = tl.minimum(tiles_m - first_m, GROUP_M)
    m = (first_m + tile % in_group % rows_in_group) * BLOCK_M
    n = tile % in_group // rows_in_group * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for block in range(tl.cdiv(K, BLOCK_K)):
        k = block * BLOCK_K
        a = a_desc.load([m, k])
        if COLUMNS:
            b = b_desc.load([n, k]).T
        else:
            b = b_desc.load([k, n])
        acc = tl.dot(a, b, acc)
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
    left, right = halves.split()  # stored in turn, in half the shared memory
    c_desc.store([m, n], activated(left, load_bias(bias_ptr, n, N, BLOCK_N // 2)).to(c_desc.dtype))
    c_desc.store([m, n + BLOCK_N // 2], activated(right, load_bias(bias_ptr, n + BLOCK_N // 2, N, BLOCK_N // 2)).to(c_desc.dtype))


@triton.jit
def every_tile_kernel(
    a_desc,  # M×K
    b_desc,  # K×N, or N×K where b is column-major
    bias_ptr,  # N
    c_desc,  # M×N
    M,
    N,
    K,
    tiles,
    COLUMNS: tl.constexpr,  # b is column-major
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    in_group = GROUP_M * tiles_n
    # One stream of loads over all tiles of a program: the next tile's first blocks arrive while this one is stored.
    for number in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        tile = number
        first_m = tile // in_group * GROUP_M
        rows_in_group = tl.minimum(tiles_m - first_m, GROUP_M)
        m = (first_m + tile % in_group % rows_in_group) * BLOCK_M
        n = tile % in_group // rows_in_group * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for block in range(tl.cdiv(K, BLOCK_K)):
            k = block * BLOCK_K
            a = a_desc.load([m, k])
            if COLUMNS:
                b = b_desc.load([n, k]).T
            else:
                b = b_desc.load([k, n])
            acc = tl.dot(a, b, acc)
        # In halves: a quarter less shared memory, which is a stage of loads more.
        halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
        left, right = halves.split()
        c_desc.store([m, n], activated(left, load_bias(bias_ptr, n, N, BLOCK_N // 2)).to(c_desc.dtype))
        c_desc.store([m, n + BLOCK_N // 2], activated(right, load_bias(bias_ptr, n + BLOCK_N // 2, N, BLOCK_N // 2)).to(c_desc.dtype))


def matmul_gelu(
    a, b, bias, *, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64, GROUP_M=8, num_warps=8, num_stages=3, PERSISTENT=False, NUM_SMS=132
):
    M, K = a.shape
    N = b.shape[1]
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    columns = b.stride(0) == 1 and b.stride(1) != 1
    rows_b = (columns and b.stride(1) % 8 == 0) or (b.stride(1) == 1 and b.stride(0) % 8 == 0)
    if a.stride(1) == 1 and a.stride(0) % 8 == 0 and rows_b and N % 8 == 0 and K >= 8:
        tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
        if columns:
            b_desc = TensorDescriptor.from_tensor(b.T, [BLOCK_N, BLOCK_K])
        else:
            b_desc = TensorDescriptor.from_tensor(b, [BLOCK_K, BLOCK_N])
        if PERSISTENT:
            every_tile_kernel[(min(tiles, NUM_SMS),)](
                TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K]),
                b_desc,
                bias,
                TensorDescriptor.from_tensor(c, [BLOCK_M, BLOCK_N // 2]),
                M,
                N,
                K,
                tiles,
                COLUMNS=columns,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                BLOCK_K=BLOCK_K,
                GROUP_M=GROUP_M,
                num_warps=num_warps,
                num_stages=num_stages,
            )
        else:
            tile_kernel[(tiles,)](
                TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K]),
                b_desc,
                bias,
                TensorDescriptor.from_tensor(c, [BLOCK_M, BLOCK_N // 2]),
                M,
                N,
                K,
                COLUMNS=columns,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                BLOCK_K=BLOCK_K,
                GROUP_M=GROUP_M,
                num_warps=num_warps,
                num_stages=num_stages,
            )
        return c
    matmul_gelu_kernel[(triton.cdiv(M, 64) * triton.cdiv(N, 64),)](
        a,
        b,
        bias,
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
        BLOCK_M=64,
        BLOCK_N=64,
        BLOCK_K=32,
        num_warps=4,
        num_stages=3,
    )
    return c
# EVOLVE-BLOCK-END
