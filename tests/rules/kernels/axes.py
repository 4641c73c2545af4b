"""A matrix product on a grid of two axes, `acc += tl.dot`, wrapped rows and columns: the style of Triton's tutorials."""

import torch
import triton
import triton.language as tl


@triton.jit
def gemm(
    x, w, y,
    rows_total, cols_total, depth,
    x_row, x_col, w_row, w_col, y_row, y_col,
    TILE_R: tl.constexpr, TILE_C: tl.constexpr, TILE_D: tl.constexpr,
):
    r = tl.program_id(axis=0)
    c = tl.program_id(axis=1)
    # wrap, so that no mask is needed along the rows
    offs_r = (r * TILE_R + tl.arange(0, TILE_R)) % rows_total
    offs_c = (c * TILE_C + tl.arange(0, TILE_C)) % cols_total
    offs_d = tl.arange(0, TILE_D)
    px = x + (offs_r[:, None] * x_row + offs_d[None, :] * x_col)
    pw = w + (offs_d[:, None] * w_row + offs_c[None, :] * w_col)
    total = tl.zeros((TILE_R, TILE_C), dtype=tl.float32)
    for step in range(0, tl.cdiv(depth, TILE_D)):
        tx = tl.load(px, mask=offs_d[None, :] < depth - step * TILE_D, other=0.0)
        tw = tl.load(pw, mask=offs_d[:, None] < depth - step * TILE_D, other=0.0)
        total += tl.dot(tx, tw)
        px += TILE_D * x_col
        pw += TILE_D * w_row
    out_r = r * TILE_R + tl.arange(0, TILE_R)
    out_c = c * TILE_C + tl.arange(0, TILE_C)
    py = y + y_row * out_r[:, None] + y_col * out_c[None, :]
    inside = (out_r[:, None] < rows_total) & (out_c[None, :] < cols_total)
    tl.store(py, total.to(y.dtype.element_ty), mask=inside)


def multiply(x, w, *, TILE_R=64, TILE_C=64, TILE_D=32):
    m, k = x.shape
    k, n = w.shape
    y = torch.empty((m, n), device=x.device, dtype=x.dtype)
    grid = (triton.cdiv(m, TILE_R), triton.cdiv(n, TILE_C))
    gemm[grid](
        x, w, y, m, n, k, x.stride(0), x.stride(1), w.stride(0), w.stride(1), y.stride(0), y.stride(1),
        TILE_R=TILE_R, TILE_C=TILE_C, TILE_D=TILE_D, num_warps=4, num_stages=3,
    )
    return y
