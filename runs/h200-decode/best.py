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
from triton.tools.tensor_descriptor import TensorDescriptor

TUNE = {"A_SM": (2, 4, 8, 16, 32), "num_warps": (1, 2, 4, 8), "num_stages": (2, 3, 4, 6)}


@triton.jit
def part_kernel(
    q_ptr,  # B×H×D
    k_desc,  # pages·PAGE × HK·D, a page of one head at a time
    v_desc,
    k_ptr,  # pages×PAGE×HK×D
    v_ptr,
    table_ptr,  # B×most
    lengths_ptr,  # B
    o_ptr,  # B×H×SPLIT×D, in float32 where there are parts
    peak_ptr,  # B×H×SPLIT: log2 of each part's sum
    most,
    H,
    HK,
    scale,  # log2(e)/√D: exp2 is what the hardware has
    SPLIT: tl.constexpr,
    GROUP: tl.constexpr,  # query heads a kv head
    ROWS: tl.constexpr,  # GROUP rounded up, at least 16
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,  # PAGE, at least 16
    D: tl.constexpr,
    WHOLE: tl.constexpr,  # a page is a block
):
    kv_head = tl.program_id(0)
    part = tl.program_id(1)
    batch = tl.program_id(2)
    length = tl.load(lengths_ptr + batch)
    rows = tl.arange(0, ROWS)
    keys = tl.arange(0, BLOCK)
    dims = tl.arange(0, D)
    head = batch * H + kv_head * GROUP + rows
    q = tl.load(q_ptr + head[:, None] * D + dims[None, :], mask=rows[:, None] < GROUP, other=0.0)
    peak = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    acc = tl.zeros((ROWS, D), dtype=tl.float32)
    pages = tl.cdiv(length, PAGE)
    share = tl.cdiv(pages, SPLIT)
    first = part * share
    last = tl.minimum(first + share, pages)
    full = first
    if WHOLE:
        # Pages that count whole come through the TMA unit, without a mask.
        full = tl.maximum(tl.minimum(last, length // PAGE), first)
        for i in range(first, full):
            page = tl.load(table_ptr + batch * most + i)
            k = k_desc.load([page * PAGE, kv_head * D])
            scores = tl.dot(q, k.T)
            higher = tl.maximum(peak, tl.max(scores, axis=1) * scale)
            p = tl.exp2(scores * scale - higher[:, None])
            shrink = tl.exp2(peak - higher)
            total = total * shrink + tl.sum(p, axis=1)
            v = v_desc.load([page * PAGE, kv_head * D])
            acc = tl.dot(p.to(q.dtype), v, acc * shrink[:, None])
            peak = higher
    for i in range(full, last):
        page = tl.load(table_ptr + batch * most + i).to(tl.int64)
        base = (page * PAGE * HK + kv_head) * D
        seen = (keys < PAGE) & (i * PAGE + keys < length)
        k = tl.load(k_ptr + base + keys[None, :] * HK * D + dims[:, None], mask=seen[None, :], other=0.0)
        v = tl.load(v_ptr + base + keys[:, None] * HK * D + dims[None, :], mask=seen[:, None], other=0.0)
        scores = tl.where(seen[None, :], tl.dot(q, k), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        p = tl.exp2(scores * scale - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(p, axis=1)
        acc = tl.dot(p.to(q.dtype), v, acc * shrink[:, None])
        peak = higher
    # A part without a key has no weight: its sum is 0 and its logarithm -inf.
    o = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    at = (head * SPLIT + part)[:, None] * D + dims[None, :]
    tl.store(o_ptr + at, o.to(o_ptr.dtype.element_ty), mask=rows[:, None] < GROUP)
    if SPLIT > 1:
        tl.store(peak_ptr + head * SPLIT + part, peak + tl.log2(total), mask=rows < GROUP)


@triton.jit
def join_kernel(parts_ptr, peak_ptr, o_ptr, SPLIT: tl.constexpr, D: tl.constexpr):
    head = tl.program_id(0)
    parts = tl.arange(0, SPLIT)
    dims = tl.arange(0, D)
    weight = tl.load(peak_ptr + head * SPLIT + parts)
    weight = tl.exp2(weight - tl.max(weight, axis=0))
    o = tl.load(parts_ptr + (head * SPLIT + parts)[:, None] * D + dims[None, :])
    o = tl.sum(o * weight[:, None], axis=0) / tl.sum(weight, axis=0)
    tl.store(o_ptr + head * D + dims, o.to(o_ptr.dtype.element_ty))


def paged_decode(q, k_pages, v_pages, block_table, lengths, *, A_SM=8, num_warps=4, num_stages=3, NUM_SMS=132):
    B, H, D = q.shape
    pages, page, HK = k_pages.shape[0], k_pages.shape[1], k_pages.shape[2]
    group = H // HK
    most = block_table.shape[1]
    o = torch.empty_like(q)
    # As many programs as fill the chip, and no part of less than four pages.
    wanted = min(NUM_SMS * A_SM // (B * HK), most // 4, 128)
    split = triton.next_power_of_2(max(1, wanted) + 1) // 2
    whole = page >= 16
    into, peaks = o, q
    if split > 1:
        into = torch.empty((B, H, split, D), device=q.device, dtype=torch.float32)
        peaks = torch.empty((B, H, split), device=q.device, dtype=torch.float32)
    block = min(page, 256)
    part_kernel[(HK, split, B)](
        q,
        TensorDescriptor.from_tensor(k_pages.view(pages * page, HK * D), [block, D]),
        TensorDescriptor.from_tensor(v_pages.view(pages * page, HK * D), [block, D]),
        k_pages,
        v_pages,
        block_table,
        lengths,
        into,
        peaks,
        most,
        H,
        HK,
        1.4426950408889634 * D**-0.5,
        SPLIT=split,
        GROUP=group,
        ROWS=max(16, triton.next_power_of_2(group)),
        PAGE=page,
        BLOCK=max(16, page),
        D=D,
        WHOLE=whole,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    if split > 1:
        join_kernel[(B * H,)](into, peaks, o, SPLIT=split, D=D, num_warps=4)
    return o
# EVOLVE-BLOCK-END
