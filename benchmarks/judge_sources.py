# ruff: noqa: E501  (candidates stand here as they are written elsewhere)
"""Candidates for the judge's own benchmark: good ones of every kind, slower ones, wrong ones, and ones that misbehave."""

HEAD = """import torch
import triton
import triton.language as tl
"""

GROUPED = """
@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, sam, sak, sbk, sbn, scm, scn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, EVEN_K: tl.constexpr,
):
    pid = tl.program_id(0)
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    width = GROUP_M * tiles_n
    first = pid // width * GROUP_M
    size = min(tiles_m - first, GROUP_M)
    pid_m = first + pid % width % size
    pid_n = pid % width // size
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + rows[:, None] * sam + ks[None, :] * sak
    b_ptrs = b_ptr + ks[:, None] * sbk + cols[None, :] * sbn
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN_K:
            a = tl.load(a_ptrs, mask=rows[:, None] < M, other=0.0)
            b = tl.load(b_ptrs, mask=cols[None, :] < N, other=0.0)
        else:
            a = tl.load(a_ptrs, mask=(rows[:, None] < M) & (ks[None, :] < K - k), other=0.0)
            b = tl.load(b_ptrs, mask=(ks[:, None] < K - k) & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)
        a_ptrs += BLOCK_K * sak
        b_ptrs += BLOCK_K * sbk
    c_ptrs = c_ptr + rows[:, None] * scm + cols[None, :] * scn
    tl.store(c_ptrs, STORED, mask=(rows[:, None] < M) & (cols[None, :] < N))
"""

LAUNCH = """
    M, K = a.shape
    N = b.shape[1]
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    matmul_kernel[grid](
        a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1), c.stride(0), c.stride(1),
        BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP_M=8, EVEN_K=K % BLOCK_K == 0,
        num_warps=num_warps, num_stages=num_stages,
    )
"""
ENTRY = "\ndef matmul(a, b, *, BLOCK_M={m}, BLOCK_N={n}, BLOCK_K={k}, num_warps={warps}, num_stages={stages}):"
STORED = "acc.to(c_ptr.dtype.element_ty)"


def grouped(
    m: int = 128, n: int = 256, k: int = 64, warps: int = 8, stages: int = 3, *, stored: str = STORED, tail: str = ""
) -> str:
    """Pointers, grouped order: what most candidates look like. `stored` and `tail` make it wrong or slow."""
    kernel = GROUPED.replace("STORED", stored)
    entry = ENTRY.format(m=m, n=n, k=k, warps=warps, stages=stages)
    return HEAD + kernel + entry + LAUNCH + tail + "    return c\n"


BURN = """
@triton.jit
def burn_kernel(out_ptr, rounds):
    x = tl.program_id(0).to(tl.float32)
    for _ in range(rounds):
        x = x * 1.0001 + 0.5
    tl.store(out_ptr + tl.program_id(0), x)

"""


def slowed(rounds: int) -> str:
    """The grouped kernel, and behind it one that burns time in a dependent chain: exactly so much slower."""
    tail = (
        "    burnt = torch.empty((132,), device=a.device, dtype=torch.float32)\n"
        f"    burn_kernel[(132,)](burnt, {rounds}, num_warps=1)\n"
    )
    text = grouped(tail=tail)
    return text.replace("\ndef matmul(", BURN + "\ndef matmul(")


HOST_DESCRIPTORS = """import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def matmul_kernel(a_desc, b_desc, c_desc, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    row = pid // tiles_n * BLOCK_M
    col = pid % tiles_n * BLOCK_N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        acc = tl.dot(a_desc.load([row, k]), b_desc.load([k, col]), acc)
    c_desc.store([row, col], acc.to(c_desc.dtype))


@triton.jit
def plain_kernel(
    a_ptr, b_ptr, c_ptr, M, N, K, sam, sak, sbk, sbn, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    pid = tl.program_id(0)
    tiles_n = tl.cdiv(N, BLOCK_N)
    rows = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        inside = ks < K - k
        a = tl.load(a_ptr + rows[:, None] * sam + (k + ks)[None, :] * sak, mask=(rows[:, None] < M) & inside[None, :], other=0.0)
        b = tl.load(b_ptr + (k + ks)[:, None] * sbk + cols[None, :] * sbn, mask=inside[:, None] & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)
    out = c_ptr + rows[:, None] * N + cols[None, :]
    tl.store(out, acc.to(c_ptr.dtype.element_ty), mask=(rows[:, None] < M) & (cols[None, :] < N))


def matmul(a, b, *, BLOCK_M=128, BLOCK_N=256, BLOCK_K=64, num_warps=8, num_stages=3):
    M, K = a.shape
    N = b.shape[1]
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    grid = (triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N),)
    if b.stride(1) == 1 and K % 8 == 0 and N % 8 == 0:
        a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
        b_desc = TensorDescriptor.from_tensor(b, [BLOCK_K, BLOCK_N])
        c_desc = TensorDescriptor.from_tensor(c, [BLOCK_M, BLOCK_N])
        matmul_kernel[grid](
            a_desc, b_desc, c_desc, M, N, K, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
            num_warps=num_warps, num_stages=num_stages,
        )
    else:
        small = (triton.cdiv(M, 64) * triton.cdiv(N, 64),)
        plain_kernel[small](
            a, b, c, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
            BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_warps=4, num_stages=2,
        )
    return c
"""

DEVICE_DESCRIPTORS = (
    HOST_DESCRIPTORS.replace(
        "def matmul_kernel(a_desc, b_desc, c_desc, M, N, K,",
        "def matmul_kernel(a_ptr, b_ptr, c_ptr, M, N, K,",
    )
    .replace(
        "    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)\n    for k in range(0, K, BLOCK_K):\n        acc = tl.dot(a_desc",
        "    a_desc = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BLOCK_M, BLOCK_K])\n"
        "    b_desc = tl.make_tensor_descriptor(b_ptr, [K, N], [N, 1], [BLOCK_K, BLOCK_N])\n"
        "    c_desc = tl.make_tensor_descriptor(c_ptr, [M, N], [N, 1], [BLOCK_M, BLOCK_N])\n"
        "    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)\n    for k in range(0, K, BLOCK_K):\n        acc = tl.dot(a_desc",
    )
    .replace("from triton.tools.tensor_descriptor import TensorDescriptor\n", "")
    .replace(
        """        a_desc = TensorDescriptor.from_tensor(a, [BLOCK_M, BLOCK_K])
        b_desc = TensorDescriptor.from_tensor(b, [BLOCK_K, BLOCK_N])
        c_desc = TensorDescriptor.from_tensor(c, [BLOCK_M, BLOCK_N])
""",
        "",
    )
    .replace("a_desc, b_desc, c_desc, M, N, K, BLOCK_M", "a, b, c, M, N, K, BLOCK_M")
    .replace("c_desc.dtype", "c_ptr.dtype.element_ty")
)

SPLIT_SCRATCH = """import torch
import triton
import triton.language as tl


@triton.jit
def part_kernel(
    a_ptr, b_ptr, part_ptr, M, N, K, sam, sak, sbk, sbn, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    pid = tl.program_id(0)
    part = tl.program_id(1)
    tiles_n = tl.cdiv(N, BLOCK_N)
    rows = pid // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(part * BLOCK_K, K, SPLIT * BLOCK_K):
        inside = k + ks < K
        a = tl.load(a_ptr + rows[:, None] * sam + (k + ks)[None, :] * sak, mask=(rows[:, None] < M) & inside[None, :], other=0.0)
        b = tl.load(b_ptr + (k + ks)[:, None] * sbk + cols[None, :] * sbn, mask=inside[:, None] & (cols[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc)
    out = part_ptr + part * M * N + rows[:, None] * N + cols[None, :]
    tl.store(out, acc, mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def add_kernel(part_ptr, c_ptr, total, SPLIT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), dtype=tl.float32)
    for part in range(SPLIT):
        acc += tl.load(part_ptr + part * total + at, mask=at < total, other=0.0)
    tl.store(c_ptr + at, acc.to(c_ptr.dtype.element_ty), mask=at < total)


def matmul(a, b, *, BLOCK_M=64, BLOCK_N=64, BLOCK_K=64, SPLIT=4, num_warps=4, num_stages=3):
    M, K = a.shape
    N = b.shape[1]
    c = torch.empty((M, N), device=a.device, dtype=a.dtype)
    parts = torch.empty((SPLIT, M, N), device=a.device, dtype=torch.float32)
    part_kernel[(triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N), SPLIT)](
        a, b, parts, M, N, K, a.stride(0), a.stride(1), b.stride(0), b.stride(1),
        SPLIT=SPLIT, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, num_warps=num_warps, num_stages=num_stages,
    )
    add_kernel[(triton.cdiv(M * N, 1024),)](parts, c, M * N, SPLIT=SPLIT, BLOCK=1024, num_warps=4)
    return c
"""

# Programs that wait for a value that nobody writes.
HANGS = grouped(64, 64, 32, 4, 2).replace(
    "    for k in range",
    """    waits = M
    while waits > 0:
        seen = tl.load(a_ptr, volatile=True).to(tl.float32)
        waits = tl.where(seen > 1e30, 0, waits)
    for k in range""",
)
LEAVES_ITS_BUFFER = grouped(64, 64, 32, 4, 2).replace(
    "c_ptrs = c_ptr + rows[:, None] * scm", "c_ptrs = c_ptr + (rows[:, None] + 1073741824).to(tl.int64) * scm * 64"
)
NO_MASK = grouped(64, 64, 32, 4, 2).replace(", mask=(rows[:, None] < M) & (cols[None, :] < N))\n", ")\n")
DROPS_TAIL = grouped(64, 64, 32, 4, 2).replace(
    "for k in range(0, K, BLOCK_K):", "for k in range(0, K - BLOCK_K, BLOCK_K):"
)
LOW_PRECISION = grouped(64, 64, 32, 4, 2).replace(
    "acc = tl.dot(a, b, acc)", "acc = (acc.to(tl.bfloat16) + tl.dot(a, b).to(tl.bfloat16)).to(tl.float32)"
)
COMPILES_FOR_EVER = grouped(64, 64, 32, 4, 2).replace(
    "for k in range(0, K, BLOCK_K):", "for k in tl.static_range(0, 3200000, 32):"
)
GREEDY = (
    grouped(64, 64, 32, 4, 2, tail="    much = torch.empty((1 << 42,), device=a.device, dtype=a.dtype)\n")
    .replace("a, b, c, M, N, K, a.stride(0)", "a, b, much, M, N, K, a.stride(0)")
    .replace("    grid = ", "    much = torch.empty((1 << 42,), device=a.device, dtype=a.dtype)\n    grid = ")
)
DEEP = grouped(64, 64, 32, 4, 2, stored="(" * 150 + STORED + ")" * 150)

GOOD = {
    "grouped 128x256": grouped(),
    "grouped 128x128": grouped(128, 128, 64, 8, 4),
    "host descriptors": HOST_DESCRIPTORS,
    "device descriptors": DEVICE_DESCRIPTORS,
    "split-K in scratch": SPLIT_SCRATCH,
}
WRONG = {"drops the tail of K": DROPS_TAIL, "no mask at the edge": NO_MASK, "bf16 accumulation": LOW_PRECISION}


def variants(count: int) -> list[str]:
    """Honest candidates, no two alike: the storm's better half."""
    shapes = [
        (m, n, k, w, s) for k in (64, 32) for m in (128, 64) for n in (256, 128, 64) for w in (8, 4) for s in (4, 3, 2)
    ]
    fitting = [x for x in shapes if (x[0] + x[1]) * x[2] * 2 * x[4] <= 200_000 and x[0] * x[1] / (32 * x[3]) <= 128]
    return [grouped(*fitting[i % len(fitting)]) for i in range(count)]
