"""c = a @ b by one level of Strassen over Triton tiles: seven products of half the size instead of eight.

a, b and c are cut into quadrants; masks pad odd sizes with zeros:

    P1 = (A11 + A22)(B11 + B22)    P2 = (A21 + A22) B11    P3 = A11 (B12 - B22)    P4 = A22 (B21 - B11)
    P5 = (A11 + A12) B22           P6 = (A21 - A11)(B11 + B12)    P7 = (A12 - A22)(B21 + B22)
    C11 = P1 + P4 - P5 + P7    C12 = P3 + P5    C21 = P2 + P4    C22 = P1 - P2 + P3 + P6

Memory traffic in float32; what must move at least once is 4·(M·K + K·N + M·N) bytes:
    load a1, a2   4·12/8·M·N·K/BLOCK_N bytes: the seven products take twelve quadrants of a, most of it from L2
    load b1, b2   4·12/8·M·N·K/BLOCK_M bytes: and as many of b (a classical product takes 8/8 of both)
    store p       4·7/4·M·N bytes of scratch
    load p        4·7/4·M·N bytes, in the second kernel
    store c       4·M·N bytes

Error. Sums of quadrants are rounded before they multiply, so an element of c carries rounding from rows and columns
that are not its own: the error is bounded by the norms of a and b, not element by element by |a||b|. To first order in
u = 2^-24, with the largest element as the norm (Higham, "Accuracy and Stability", theorem 23.2, for one level):

    ‖c - exact‖ <= (3·K² + 25·K)·u·‖a‖·‖b‖        where the classical product has K²·u·‖a‖·‖b‖

On random inputs it is 1.4 times the classical error: 1.6e-6 of the norm at K = 4096 and 3.2e-6 at 16384 in float32,
9.5e-4 in tf32 (H200). It is held to 4e-6 by the contract fp32_normwise, to 1.4e-3 by tf32_normwise (PRECISION="tf32").
The contract fp32 refuses it: it asks for small rows beside large ones, and for exact answers on integers whose sum
needs a bit more than the significand has.
"""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {
    "BLOCK_M": (32, 64, 128),
    "BLOCK_N": (32, 64, 128),
    "BLOCK_K": (16, 32, 64),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4),
}

# Which quadrants the products take, a bit a product, P1 the lowest: row and column of the first, of the second, whether
# there is a second, whether it is subtracted.
A1_ROW = tl.constexpr(0b0101010)
A1_COL = tl.constexpr(0b1001000)
A2_ROW = tl.constexpr(0b1000011)
A2_COL = tl.constexpr(0b1010011)
A2_TAKEN = tl.constexpr(0b1110011)
A2_MINUS = tl.constexpr(0b1100000)
B1_ROW = tl.constexpr(0b1011000)
B1_COL = tl.constexpr(0b0010100)
B2_ROW = tl.constexpr(0b1000101)
B2_COL = tl.constexpr(0b1100101)
B2_TAKEN = tl.constexpr(0b1101101)
B2_MINUS = tl.constexpr(0b0001100)


@triton.jit
def bit(bits, position):
    return (bits >> position) & 1


@triton.jit
def tile(
    ptr,
    rows,  # within the quadrant
    cols,
    first_row,  # of the quadrant
    first_col,
    half_rows,
    half_cols,
    all_rows,
    all_cols,
    stride_row,
    stride_col,
    taken,
):
    inside = (rows < half_rows)[:, None] & (cols < half_cols)[None, :]
    inside = inside & (first_row + rows < all_rows)[:, None] & (first_col + cols < all_cols)[None, :] & (taken != 0)
    place = (first_row + rows)[:, None] * stride_row + (first_col + cols)[None, :] * stride_col
    return tl.load(ptr + place, mask=inside, other=0.0)


@triton.jit
def products_kernel(
    a_ptr,  # M×K
    b_ptr,  # K×N, either layout
    p_ptr,  # 7 × half M × half N, float32
    M,
    N,
    K,
    half_m,
    half_n,
    half_k,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    p = tl.program_id(1)
    tiles_n = tl.cdiv(half_n, BLOCK_N)
    rows = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    a1_row = bit(A1_ROW, p) * half_m
    a2_row = bit(A2_ROW, p) * half_m
    a1_col = bit(A1_COL, p) * half_k
    a2_col = bit(A2_COL, p) * half_k
    b1_row = bit(B1_ROW, p) * half_k
    b2_row = bit(B2_ROW, p) * half_k
    b1_col = bit(B1_COL, p) * half_n
    b2_col = bit(B2_COL, p) * half_n
    a2_taken = bit(A2_TAKEN, p)
    b2_taken = bit(B2_TAKEN, p)
    a_sign = 1 - 2 * bit(A2_MINUS, p)
    b_sign = 1 - 2 * bit(B2_MINUS, p)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, half_k, BLOCK_K):
        ks = k + tl.arange(0, BLOCK_K)
        a1 = tile(a_ptr, rows, ks, a1_row, a1_col, half_m, half_k, M, K, stride_am, stride_ak, 1)
        a2 = tile(a_ptr, rows, ks, a2_row, a2_col, half_m, half_k, M, K, stride_am, stride_ak, a2_taken)
        b1 = tile(b_ptr, ks, cols, b1_row, b1_col, half_k, half_n, K, N, stride_bk, stride_bn, 1)
        b2 = tile(b_ptr, ks, cols, b2_row, b2_col, half_k, half_n, K, N, stride_bk, stride_bn, b2_taken)
        acc = tl.dot(a1 + a_sign * a2, b1 + b_sign * b2, acc, input_precision=PRECISION)
    place = tl.cast(p, tl.int64) * half_m * half_n + rows[:, None] * half_n + cols[None, :]
    tl.store(p_ptr + place, acc, mask=(rows < half_m)[:, None] & (cols < half_n)[None, :])


@triton.jit
def combine_kernel(
    p_ptr,  # 7 × half M × half N, float32
    c_ptr,  # M×N
    M,
    N,
    half_m,
    half_n,
    stride_cm,
    stride_cn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tiles_n = tl.cdiv(half_n, BLOCK_N)
    rows = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    cols = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    inside = (rows < half_m) & (cols < half_n)
    each = tl.cast(half_m, tl.int64) * half_n
    p_ptrs = p_ptr + rows * half_n + cols
    p1 = tl.load(p_ptrs, mask=inside)
    p2 = tl.load(p_ptrs + each, mask=inside)
    p3 = tl.load(p_ptrs + 2 * each, mask=inside)
    p4 = tl.load(p_ptrs + 3 * each, mask=inside)
    p5 = tl.load(p_ptrs + 4 * each, mask=inside)
    p6 = tl.load(p_ptrs + 5 * each, mask=inside)
    p7 = tl.load(p_ptrs + 6 * each, mask=inside)
    low_row = rows + half_m
    right_col = cols + half_n
    c11_ptrs = c_ptr + rows * stride_cm + cols * stride_cn
    c12_ptrs = c_ptr + rows * stride_cm + right_col * stride_cn
    c21_ptrs = c_ptr + low_row * stride_cm + cols * stride_cn
    c22_ptrs = c_ptr + low_row * stride_cm + right_col * stride_cn
    tl.store(c11_ptrs, p1 + p4 - p5 + p7, mask=inside)
    tl.store(c12_ptrs, p3 + p5, mask=inside & (right_col < N))
    tl.store(c21_ptrs, p2 + p4, mask=inside & (low_row < M))
    tl.store(c22_ptrs, p1 - p2 + p3 + p6, mask=inside & (low_row < M) & (right_col < N))


def matmul(a, b, *, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_warps=4, num_stages=2, PRECISION="ieee"):
    M, K = a.shape
    N = b.shape[1]
    half_m = triton.cdiv(M, 2)
    half_n = triton.cdiv(N, 2)
    half_k = triton.cdiv(K, 2)
    p = torch.empty((7, half_m, half_n), device=a.device, dtype=torch.float32)
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    tiles = triton.cdiv(half_m, BLOCK_M) * triton.cdiv(half_n, BLOCK_N)
    products_kernel[(tiles, 7)](
        a,
        b,
        p,
        M,
        N,
        K,
        half_m,
        half_n,
        half_k,
        a.stride(0),
        a.stride(1),
        b.stride(0),
        b.stride(1),
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        PRECISION=PRECISION,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    combine_kernel[(tiles,)](
        p,
        c,
        M,
        N,
        half_m,
        half_n,
        c.stride(0),
        c.stride(1),
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=num_warps,
    )
    return c
# EVOLVE-BLOCK-END
