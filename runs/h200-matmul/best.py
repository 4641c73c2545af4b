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
from triton.tools.tensor_descriptor import TensorDescriptor

TUNE = {
    "BLOCK_M": (64, 128, 256),
    "BLOCK_N": (64, 128, 256),
    "BLOCK_K": (64, 128),
    "GROUP_M": (8, 16),
    "SPLIT_K": (4, 8),  # where the output has few tiles
    "FEW_COLS": (32, 64),  # where a has few rows
    "FEW_SPLIT": (1, 2, 4),
    "num_warps": (4, 8),
    "num_stages": (3, 4),
    "PERSISTENT": (True, False),
    "DESCRIPTORS": (True, False),
    "GROUP_M_2": (1, 2, 4, 8, 16, 64),
    "WARP_SPECIALIZE": (True, False),
}
# Sizes, and what suited them best so far.
TUNED = (
    ({"dtype": 'bfloat16', "M": 1024, "N": 1024, "K": 1024}, {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP_M": 8, "SPLIT_K": 8, "num_warps": 4, "num_stages": 4, "FEW_COLS": 64, "FEW_DEPTH": 128, "FEW_SPLIT": 1, "PERSISTENT": False, "PRECISION": 'ieee', "DESCRIPTORS": False, "GROUP_M_2": 1, "WARP_SPECIALIZE": False}),
    ({"dtype": 'bfloat16', "M": 4096, "N": 4096, "K": 4096}, {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 16, "SPLIT_K": 8, "num_warps": 8, "num_stages": 4, "FEW_COLS": 64, "FEW_DEPTH": 128, "FEW_SPLIT": 1, "PERSISTENT": True, "PRECISION": 'ieee', "DESCRIPTORS": False, "GROUP_M_2": 1, "WARP_SPECIALIZE": False}),
    ({"dtype": 'bfloat16', "M": 8192, "N": 8192, "K": 512}, {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8, "SPLIT_K": 8, "num_warps": 8, "num_stages": 4, "FEW_COLS": 64, "FEW_DEPTH": 128, "FEW_SPLIT": 1, "PERSISTENT": True, "PRECISION": 'ieee', "DESCRIPTORS": False, "GROUP_M_2": 1, "WARP_SPECIALIZE": False}),
    ({"dtype": 'bfloat16', "M": 16, "N": 4096, "K": 4096}, {"BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 128, "GROUP_M": 8, "SPLIT_K": 8, "num_warps": 4, "num_stages": 6, "FEW_COLS": 64, "FEW_DEPTH": 128, "FEW_SPLIT": 1, "PERSISTENT": False, "PRECISION": 'ieee', "DESCRIPTORS": False, "GROUP_M_2": 1, "WARP_SPECIALIZE": False}),
    ({"dtype": 'bfloat16', "M": 512, "N": 512, "K": 16384}, {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP_M": 8, "SPLIT_K": 4, "num_warps": 4, "num_stages": 4, "FEW_COLS": 64, "FEW_DEPTH": 128, "FEW_SPLIT": 1, "PRECISION": 'ieee', "DESCRIPTORS": False, "GROUP_M_2": 1, "WARP_SPECIALIZE": False, "PERSISTENT": False}),
)


@triton.jit
def pointer_kernel(
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
    USE_DESC: tl.constexpr,
    B_COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr,
    GROUP_M_2: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
    split_stride,
    SPLITS: tl.constexpr,
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
    if USE_DESC:
        a_desc_2 = tl.make_tensor_descriptor(
            a_ptr,
            shape=[M, K],
            strides=[stride_am, 1],
            block_shape=[BLOCK_M, BLOCK_K],
        )
        if B_COLUMNS:
            b_desc_2 = tl.make_tensor_descriptor(
                b_ptr,
                shape=[N, K],
                strides=[stride_bn, 1],
                block_shape=[BLOCK_N, BLOCK_K],
            )
        else:
            b_desc_2 = tl.make_tensor_descriptor(
                b_ptr,
                shape=[K, N],
                strides=[stride_bk, 1],
                block_shape=[BLOCK_K, BLOCK_N],
            )
        c_desc_2 = tl.make_tensor_descriptor(
            c_ptr,
            shape=[M, N],
            strides=[stride_cm, 1],
            block_shape=[BLOCK_M, BLOCK_N],
        )
    ACC: tl.constexpr = tl.int32 if c_ptr.dtype.element_ty == tl.int32 else tl.float32
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles_in_group = GROUP_M_2 * tiles_n
    first_row = pid // tiles_in_group * GROUP_M_2
    group_rows = min(tl.cdiv(M, BLOCK_M) - first_row, GROUP_M_2)
    pid_m = first_row + pid % tiles_in_group % group_rows
    pid_n = pid % tiles_in_group // group_rows
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * stride_am + ks[None, :] * stride_ak
    b_ptrs = b_ptr + ks[:, None] * stride_bk + cols[None, :] * stride_bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    split_2 = tl.program_id(1) if SPLITS > 1 else 0
    split_steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLITS)
    first_step = split_2 * split_steps
    a_ptrs += first_step * (BLOCK_K * stride_ak)
    b_ptrs += first_step * (BLOCK_K * stride_bk)
    for k in tl.range(first_step * BLOCK_K, min(K, (first_step + split_steps) * BLOCK_K), BLOCK_K, warp_specialize=USE_DESC and WARP_SPECIALIZE):
        if USE_DESC:
            a = a_desc_2.load([pid_m * BLOCK_M, k])
            if B_COLUMNS:
                b = b_desc_2.load([pid_n * BLOCK_N, k]).T
            else:
                b = b_desc_2.load([k, pid_n * BLOCK_N])
        else:
            a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (ks[None, :] < K - k), other=0.0)
            b = tl.load(b_ptrs, mask=(ks[:, None] < K - k) & (cols[None, :] < N), other=0.0)
            a_ptrs += BLOCK_K * stride_ak
            b_ptrs += BLOCK_K * stride_bk
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    c_ptrs = c_ptr + rows[:, None] * stride_cm + cols[None, :] * stride_cn
    if USE_DESC and SPLITS == 1:
        c_desc_2.store([pid_m * BLOCK_M, pid_n * BLOCK_N], acc.to(c_ptr.dtype.element_ty))
    else:
        tl.store(c_ptrs + split_2 * split_stride, acc.to(c_ptr.dtype.element_ty), mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def tile_kernel(
    a_desc,  # M×K
    b_desc,  # K×N, or N×K where b is column-major
    c_desc,  # M×N, or SPLIT·M_PARTS rows of partial sums
    M,
    N,
    K,
    parts_k,  # blocks of K in one part
    part_rows,  # rows of one part in c_desc
    COLUMNS: tl.constexpr,  # b is column-major
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    in_group = GROUP_M * tiles_n
    number = tl.program_id(0)
    tile = number // SPLIT
    part = number % SPLIT
    first_m = tile // in_group * GROUP_M
    rows_in_group = tl.minimum(tiles_m - first_m, GROUP_M)
    m = (first_m + tile % in_group % rows_in_group) * BLOCK_M
    n = tile % in_group // rows_in_group * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for block in range(parts_k):
        k = (part * parts_k + block) * BLOCK_K
        a = a_desc.load([m, k])
        if COLUMNS:
            b = b_desc.load([n, k]).T
        else:
            b = b_desc.load([k, n])
        acc = tl.dot(a, b, acc)
    halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
    left, right = halves.split()  # stored in turn, in half the shared memory
    c_desc.store([part * part_rows + m, n], left.to(c_desc.dtype))
    c_desc.store([part * part_rows + m, n + BLOCK_N // 2], right.to(c_desc.dtype))


@triton.jit
def every_tile_kernel(
    a_desc,  # M×K
    b_desc,  # K×N, or N×K where b is column-major
    c_desc,  # M×N, or SPLIT·M_PARTS rows of partial sums
    M,
    N,
    K,
    tiles,
    parts_k,  # blocks of K in one part
    part_rows,  # rows of one part in c_desc
    COLUMNS: tl.constexpr,  # b is column-major
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    in_group = GROUP_M * tiles_n
    # One stream of loads over all tiles of a program: the next tile's first blocks arrive while this one is stored.
    for number in tl.range(tl.program_id(0), tiles * SPLIT, tl.num_programs(0), flatten=True):
        tile = number // SPLIT
        part = number % SPLIT
        first_m = tile // in_group * GROUP_M
        rows_in_group = tl.minimum(tiles_m - first_m, GROUP_M)
        m = (first_m + tile % in_group % rows_in_group) * BLOCK_M
        n = tile % in_group // rows_in_group * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for block in range(parts_k):
            k = (part * parts_k + block) * BLOCK_K
            a = a_desc.load([m, k])
            if COLUMNS:
                b = b_desc.load([n, k]).T
            else:
                b = b_desc.load([k, n])
            acc = tl.dot(a, b, acc)
        # In halves: a quarter less shared memory, which is a stage of loads more.
        halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
        left, right = halves.split()
        c_desc.store([part * part_rows + m, n], left.to(c_desc.dtype))
        c_desc.store([part * part_rows + m, n + BLOCK_N // 2], right.to(c_desc.dtype))


@triton.jit
def few_rows_kernel(
    a_desc,  # M×K
    b_desc,  # K×N, or N×K where b is column-major
    c_desc,  # M×N, or a part's partial sums after the other's
    parts_k,
    COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,  # M, rounded up
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The product turned around: columns of b are the rows of a tensor-core tile, so that none of it is padding but the
    few columns of aᵀ, and b streams past once."""
    n = tl.program_id(0) // SPLIT * COLS
    part = tl.program_id(0) % SPLIT
    acc = tl.zeros((COLS, ROWS), dtype=tl.float32)
    for block in range(parts_k):
        k = (part * parts_k + block) * DEPTH
        if COLUMNS:
            b = b_desc.load([n, k])
        else:
            b = b_desc.load([k, n]).T
        acc = tl.dot(b, a_desc.load([0, k]).T, acc)
    c_desc.store([part * ROWS, n], acc.T.to(c_desc.dtype))


@triton.jit
def add_kernel(parts_ptr, c_ptr, count, part_size, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in tl.static_range(SPLIT):
        total += tl.load(parts_ptr + part * part_size + at, mask=at < count, other=0.0)
    tl.store(c_ptr + at, total.to(c_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def sum_splits(parts_ptr, out_ptr, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    where = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * count + where, mask=where < count, other=0.0)
    tl.store(out_ptr + where, total.to(out_ptr.dtype.element_ty), mask=where < count)


def matmul(
    a, b, *, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64, GROUP_M=8, SPLIT_K=8, num_warps=8, num_stages=3, FEW_COLS=64, FEW_DEPTH=128, FEW_SPLIT=4, PERSISTENT=False, PRECISION="ieee", NUM_SMS=132, DESCRIPTORS=True, GROUP_M_2=8, WARP_SPECIALIZE=True
):
    M, K = a.shape
    N = b.shape[1]
    dtype = a.dtype
    if dtype == torch.float8_e4m3fn:
        dtype = torch.bfloat16
    if dtype == torch.int8:
        dtype = torch.int32
    c = torch.empty((M, N), device=a.device, dtype=dtype)
    columns = b.stride(0) == 1 and b.stride(1) != 1
    rows_a = a.stride(1) == 1 and a.stride(0) % 8 == 0
    rows_b = (columns and b.stride(1) % 8 == 0) or (b.stride(1) == 1 and b.stride(0) % 8 == 0)
    if (dtype == torch.bfloat16 or dtype == torch.float16) and a.dtype == dtype and rows_a and rows_b and N % 8 == 0 and K >= 8:
        tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
        blocks = triton.cdiv(K, BLOCK_K)
        if M <= 32:
            rows = 16
            if M > 16:
                rows = 32
            parts = max(1, min(FEW_SPLIT, triton.cdiv(K, FEW_DEPTH) // 4))
            sums = c
            if parts > 1:
                sums = torch.empty((parts * rows, N), device=a.device, dtype=torch.float32)
            if columns:
                few_desc = TensorDescriptor.from_tensor(b.T, [FEW_COLS, FEW_DEPTH])
            else:
                few_desc = TensorDescriptor.from_tensor(b, [FEW_DEPTH, FEW_COLS])
            few_rows_kernel[(triton.cdiv(N, FEW_COLS) * parts,)](
                TensorDescriptor.from_tensor(a, [rows, FEW_DEPTH]),
                few_desc,
                TensorDescriptor.from_tensor(sums, [rows, FEW_COLS]),
                triton.cdiv(triton.cdiv(K, FEW_DEPTH), parts),
                COLUMNS=columns,
                SPLIT=parts,
                ROWS=rows,
                COLS=FEW_COLS,
                DEPTH=FEW_DEPTH,
                num_warps=4,
                num_stages=num_stages,
            )
            if parts > 1:
                add_kernel[(triton.cdiv(M * N, 512),)](sums, c, M * N, rows * N, SPLIT=parts, BLOCK=512, num_warps=4)
            return c
        split = 1
        if tiles * 2 <= NUM_SMS and blocks >= 4 * SPLIT_K:  # only where most of the chip would idle otherwise
            split = SPLIT_K
        parts_k = triton.cdiv(blocks, split)
        part_rows = triton.cdiv(M, BLOCK_M) * BLOCK_M
        out = c
        if split > 1:
            out = torch.empty((split * part_rows, N), device=a.device, dtype=torch.float32)
        if columns:
            b_desc = TensorDescriptor.from_tensor(b.T, [BLOCK_N, BLOCK_K])
        else:
            b_desc = TensorDescriptor.from_tensor(b, [BLOCK_K, BLOCK_N])
        if PERSISTENT:
            every_tile_kernel[(min(tiles * split, NUM_SMS),)](
                TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K]),
                b_desc,
                TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N // 2]),
                M,
                N,
                K,
                tiles,
                parts_k,
                part_rows,
                COLUMNS=columns,
                SPLIT=split,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                BLOCK_K=BLOCK_K,
                GROUP_M=GROUP_M,
                num_warps=num_warps,
                num_stages=num_stages,
            )
        else:
            tile_kernel[(tiles * split,)](
                TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K]),
                b_desc,
                TensorDescriptor.from_tensor(out, [BLOCK_M, BLOCK_N // 2]),
                M,
                N,
                K,
                parts_k,
                part_rows,
                COLUMNS=columns,
                SPLIT=split,
                BLOCK_M=BLOCK_M,
                BLOCK_N=BLOCK_N,
                BLOCK_K=BLOCK_K,
                GROUP_M=GROUP_M,
                num_warps=num_warps,
                num_stages=num_stages,
            )
        if split > 1:
            add_kernel[(triton.cdiv(M * N, 1024),)](out, c, M * N, part_rows * N, SPLIT=split, BLOCK=1024, num_warps=4)
        return c
    # A descriptor wants one contiguous axis and rows that start at multiples of 16 bytes.
    B_COLUMNS = b.stride(0) == 1 and b.stride(1) * b.element_size() % 16 == 0
    USE_DESC = (
        DESCRIPTORS
        and (a.stride(1) == 1 and a.stride(0) * a.element_size() % 16 == 0)
        and (B_COLUMNS or b.stride(1) == 1 and b.stride(0) * b.element_size() % 16 == 0)
        and (c.stride(1) == 1 and c.stride(0) * c.element_size() % 16 == 0)
    )
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
    splits = 1
    if (triton.cdiv(M, 64) * triton.cdiv(N, 64)) < NUM_SMS:
        splits = max(1, min(SPLIT_K, 4 * NUM_SMS // max(1, (triton.cdiv(M, 64) * triton.cdiv(N, 64))), K // 512))
    parts_2 = c
    if splits > 1:
        parts_2 = torch.empty((splits * c.numel(),), device=c.device, dtype=torch.float32)
    pointer_kernel[(triton.cdiv(M, 64) * triton.cdiv(N, 64), splits)](
        a,
        b,
        parts_2,
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
        PRECISION=PRECISION,
        num_warps=4,
        num_stages=3,
        USE_DESC=USE_DESC,
        B_COLUMNS=B_COLUMNS,
        ALIGNED=ALIGNED,
        GROUP_M_2=GROUP_M_2,
        WARP_SPECIALIZE=WARP_SPECIALIZE,
        split_stride=c.numel(),
        SPLITS=splits,
    )
    if splits > 1:
        sum_splits[(triton.cdiv(c.numel(), 1024),)](parts_2, c, c.numel(), SPLITS=splits, BLOCK=1024)
    return c
# EVOLVE-BLOCK-END
