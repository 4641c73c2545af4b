"""One token's attention over a paged cache, as a good engineer writes it first: a program a sequence and kv head.

Memory traffic in bf16, for n keys over all sequences; all of it must move at least once:
    load q             2·B·H·D bytes
    load lengths       4 bytes a program
    load block_table   4 bytes a page and kv head; each address of a page waits for one
    load k, v          2·2·n·HK·D bytes, once: the query heads of a group are the rows of one tile and share them
    store o            2·B·H·D bytes
The group's rows are padded to 16, which is what a product on tensor cores needs; arithmetic is free here. Long contexts
in small batches leave most of the chip idle: B·HK programs are all there are.
"""

import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4)}


@triton.jit
def paged_decode_kernel(
    q_ptr,  # B×H×D
    k_ptr,  # pages×PAGE×HK×D
    v_ptr,  # pages×PAGE×HK×D
    table_ptr,  # B×most
    lengths_ptr,  # B
    o_ptr,  # B×H×D
    most,
    H,
    HK,
    scale,  # log2(e)/√D: exp2 is what the hardware has
    GROUP: tl.constexpr,  # query heads a kv head
    ROWS: tl.constexpr,  # GROUP rounded up, at least 16
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,  # PAGE, at least 16
    D: tl.constexpr,
):
    kv_head = tl.program_id(0)
    batch = tl.program_id(1)
    length = tl.load(lengths_ptr + batch)
    rows = tl.arange(0, ROWS)
    keys = tl.arange(0, BLOCK)
    dims = tl.arange(0, D)
    q_base = (batch * H + kv_head * GROUP) * D
    q = tl.load(q_ptr + q_base + rows[:, None] * D + dims[None, :], mask=rows[:, None] < GROUP, other=0.0)
    peak = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, D), dtype=tl.float32)
    for i in range(0, tl.cdiv(length, PAGE)):
        page = tl.load(table_ptr + batch * most + i).to(tl.int64)
        base = (page * PAGE * HK + kv_head) * D
        seen = (keys < PAGE) & (i * PAGE + keys < length)
        k = tl.load(k_ptr + base + keys[None, :] * HK * D + dims[:, None], mask=seen[None, :], other=0.0)
        v = tl.load(v_ptr + base + keys[:, None] * HK * D + dims[None, :], mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(q, k) * scale, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    o = acc / total[:, None]
    o_ptrs = o_ptr + q_base + rows[:, None] * D + dims[None, :]
    tl.store(o_ptrs, o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < GROUP)


def paged_decode(q, k_pages, v_pages, block_table, lengths, *, num_warps=4, num_stages=2):
    B, H, D = q.shape
    page, HK = k_pages.shape[1], k_pages.shape[2]
    group = H // HK
    o = torch.empty_like(q)
    paged_decode_kernel[(HK, B)](
        q,
        k_pages,
        v_pages,
        block_table,
        lengths,
        o,
        block_table.shape[1],
        H,
        HK,
        1.4426950408889634 * D**-0.5,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        PAGE=page,
        BLOCK=max(16, page),
        D=D,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return o
# EVOLVE-BLOCK-END
