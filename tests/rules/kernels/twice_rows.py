"""A product, and its bias and activation in a second kernel that takes a row a program."""

import torch
import triton
import triton.language as tl


@triton.jit
def multiply(a_ptr, b_ptr, out_ptr, M, N, K, TM: tl.constexpr, TN: tl.constexpr, TK: tl.constexpr):
    pid = tl.program_id(0)
    across = tl.cdiv(N, TN)
    rm = pid // across * TM + tl.arange(0, TM)
    rn = pid % across * TN + tl.arange(0, TN)
    rk = tl.arange(0, TK)
    total = tl.zeros((TM, TN), dtype=tl.float32)
    for k in range(0, K, TK):
        a = tl.load(a_ptr + rm[:, None] * K + (k + rk)[None, :], mask=(rm[:, None] < M) & ((k + rk)[None, :] < K), other=0.0)
        b = tl.load(b_ptr + (k + rk)[:, None] * N + rn[None, :], mask=((k + rk)[:, None] < K) & (rn[None, :] < N), other=0.0)
        total = tl.dot(a, b, total)
    tl.store(out_ptr + rm[:, None] * N + rn[None, :], total.to(out_ptr.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N))


@triton.jit
def gelu(z):
    return z * tl.sigmoid(1.702 * z)


@triton.jit
def finish(x_ptr, bias_ptr, y_ptr, x_stride, y_stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    bias = tl.load(bias_ptr + cols, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(x_ptr + row * x_stride + cols, mask=inside, other=0.0).to(tl.float32) + bias
    tl.store(y_ptr + row * y_stride + cols, gelu(z).to(y_ptr.dtype.element_ty), mask=inside)



def linear(a, b, bias, *, TM=64, TN=64, TK=32, BLOCK=1024, num_warps=4):
    M, K = a.shape
    N = b.shape[1]
    product = torch.empty((M, N), device=a.device, dtype=torch.float32)
    multiply[(triton.cdiv(M, TM) * triton.cdiv(N, TN),)](a, b, product, M, N, K, TM=TM, TN=TN, TK=TK, num_warps=num_warps)
    out = torch.empty((M, N), device=a.device, dtype=a.dtype)
    finish[(M,)](product, bias, out, product.stride(0), out.stride(0), N, BLOCK=triton.next_power_of_2(N))
    return out
