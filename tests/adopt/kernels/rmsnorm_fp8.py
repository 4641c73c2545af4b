import torch
import triton
import triton.language as tl
from triton import cdiv

FP8_DTYPE = torch.float8_e4m3fn
FP8_MAX = tl.constexpr(torch.finfo(FP8_DTYPE).max)
MIN_SCALE = tl.constexpr(1.0 / (448.0 * 512.0))
MAX_FUSED_SIZE = 65536


@triton.jit
def _rms(x, n, eps):
    return tl.math.rsqrt(tl.sum(x * x, axis=0) / n + eps)


@triton.autotune(
    configs=[
        triton.Config({}, num_warps=4),
        triton.Config({}, num_warps=8),
        triton.Config({}, num_warps=16),
    ],
    key=["N"],
)
@triton.jit
def _rms_norm_fp8_fwd(
    OUT,  # codes
    SCALE,  # one scale per row
    X,
    W,
    stride_x_row,
    stride_out_row,
    N,
    eps,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0)
    X += row.to(tl.int64) * stride_x_row
    OUT += row.to(tl.int64) * stride_out_row
    cols = tl.arange(0, BLOCK_N)
    mask = cols < N
    x = tl.load(X + cols, mask=mask, other=0.0).to(tl.float32)
    w = tl.load(W + cols, mask=mask, other=0.0).to(tl.float32)
    y = x * _rms(x, N, eps) * w
    amax = tl.max(tl.abs(y), axis=0)
    scale = tl.maximum(amax / FP8_MAX, MIN_SCALE)
    tl.store(SCALE + row, scale)
    y = tl.clamp(y / scale, -FP8_MAX, FP8_MAX)
    tl.store(OUT + cols, y.to(OUT.dtype.element_ty), mask=mask)


def rms_norm_dynamic_per_token_quant(
    out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, eps: float = 1e-6
) -> None:
    """Same signature as the C++ op that it replaces: results go into `out` and `scales`."""
    x = input.reshape(-1, input.shape[-1])
    M, N = x.shape
    BLOCK_N = triton.next_power_of_2(N)
    if BLOCK_N > MAX_FUSED_SIZE // x.element_size():
        raise RuntimeError("This norm doesn't support feature dim >= 64KB.")
    if not weight.is_contiguous():
        weight = weight.contiguous()
    assert out.dtype == FP8_DTYPE, out.dtype
    _rms_norm_fp8_fwd[(cdiv(M, 1),)](
        out, scales, x, weight, x.stride(0), out.stride(0), N, eps, BLOCK_N=BLOCK_N
    )
