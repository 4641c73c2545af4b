"""Kernels that use every operation on the list, and TTIR of them without a GPU."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource
from triton.language.extra import libdevice


@triton.jit
def add_fn(a, b):
    return a + b


@triton.jit
def max2(v1, i1, v2, i2):
    g = v1 > v2
    return tl.where(g, v1, v2), tl.where(g, i1, i2)


@triton.jit
def mapper(a, b):
    return a * b, a + b


@triton.jit
def elementwise(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    o = tl.max_contiguous(tl.multiple_of(o, BLOCK), BLOCK)
    m = o < n
    tl.assume(n > 0)
    x = tl.load(x_ptr + o, mask=m, other=0.0, cache_modifier=".ca", eviction_policy="evict_first")
    v = tl.load(x_ptr + o, volatile=True)
    y = (
        tl.abs(x)
        + tl.exp(x)
        + tl.exp2(x)
        + tl.log(x)
        + tl.log2(x)
        + tl.sqrt(x)
        + tl.rsqrt(x)
        + tl.sin(x)
        + tl.cos(x)
        + tl.erf(x)
        + tl.floor(x)
        + tl.ceil(x)
    )
    y += (
        tl.sqrt_rn(tl.abs(x))
        + tl.div_rn(x, y)
        + tl.fma(x, y, x)
        + tl.fdiv(x, y)
        + tl.sigmoid(x)
        + tl.clamp(x, 0.0, 1.0)
        + tl.maximum(x, y)
        + tl.minimum(x, y)
    )
    y += (
        tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
        + tl.clamp(x, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        - v % 2.0
        + (-x)
    )
    i = tl.load(i_ptr + o, mask=m, other=0)
    i = (i << 2) >> 1 ^ 3 | 5 & (~i)
    i = tl.umulhi(i, i) + i // 3 + i % 7 + tl.cdiv(i, 4) - (x).to(tl.int32)
    u = i.to(tl.uint32)
    u = (u >> 3) + u // 3 + u % 5 + tl.umulhi(u, u) + tl.minimum(u, 7) + tl.maximum(u, 3)
    h = x.to(tl.float16) + x.to(tl.bfloat16).to(tl.float16) + i.to(tl.float16) + u.to(tl.float16)
    f8 = x.to(tl.float8e5).to(tl.float16) + x.to(tl.float8e4nv).to(tl.float16)
    b = x.to(tl.int32, bitcast=True).to(tl.float32, bitcast=True)
    d = x.to(tl.float64)
    y = tl.where(
        (x > y) & (x >= 0) | (x != y) ^ (x == y), y + h.to(tl.float32) + f8.to(tl.float32) + b + d.to(tl.float32), x
    )
    y = (
        y.to(tl.float16, fp_downcast_rounding="rtz").to(tl.float32)
        + (i > 3).to(tl.float32)
        + (u <= 3).to(tl.float32)
        + (x <= 2).to(tl.int32)
    )
    tl.store(y_ptr + o, y, mask=m, cache_modifier=".wt", eviction_policy="evict_last")
    tl.debug_barrier()


@triton.jit
def shapes(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    r = tl.arange(0, BLOCK)
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r[:, None] * BLOCK + c[None, :])
    a = tl.trans(x) + x.T + tl.permute(x, (1, 0))
    b = tl.reshape(x, (BLOCK * BLOCK,)) + tl.ravel(x) + tl.view(x, (BLOCK * BLOCK,))
    j = tl.join(x, a)
    s, t = tl.split(j)
    s = s + tl.reshape(b, (BLOCK, BLOCK))
    k = tl.interleave(s, t)
    k = tl.reshape(k, (BLOCK, 2, BLOCK)).permute(0, 2, 1).split()[0]
    e = (
        tl.expand_dims(tl.sum(x, 1), 1)
        + tl.broadcast_to(tl.max(x, 0)[None, :], (BLOCK, BLOCK))
        + tl.min(x, 1, keep_dims=True)
    )
    e += tl.zeros_like(x) + tl.full((BLOCK, BLOCK), 1.5, tl.float32)
    am, ai = tl.max(x, 1, return_indices=True)
    e += tl.argmax(x, 1)[:, None].to(tl.float32) + tl.argmin(x, 1)[:, None] + am[:, None] + ai[:, None]
    q, w = tl.reduce((x, tl.broadcast_to(c[None, :], (BLOCK, BLOCK))), 1, max2)
    e += q[:, None] + w[:, None] + tl.reduce(x, 1, add_fn)[:, None]
    e += tl.cumsum(x, 1) + tl.cumprod(x, 0) + tl.associative_scan(x, 1, add_fn) + tl.cumsum(x, 0, reverse=True)
    e += tl.sort(x) + tl.flip(x, 1) + tl.softmax(x) + tl.gather(x, tl.broadcast_to(c[None, :], (BLOCK, BLOCK)), 1)
    e += (
        tl.xor_sum(tl.broadcast_to(c[None, :], (BLOCK, BLOCK)), 1)[:, None]
        + tl.cat(r, c, can_reorder=True).to(tl.float32).reshape((2, BLOCK)).sum(0)[None, :]
    )
    h = tl.histogram(c, BLOCK)
    tk = tl.topk(x, 4)
    p1, p2 = tl.map_elementwise(mapper, x, s)
    i, jj = tl.swizzle2d(tl.program_id(0), tl.program_id(1), 8, 8, 4)
    e += h[None, :] + tl.sum(tk, 1)[:, None] + p1 + p2 + i + jj + tl.num_programs(2) + tl.reduce_or(c, 0)
    tl.store(y_ptr + r[:, None] * BLOCK + c[None, :], e + k)
    tl.store(i_ptr + r, tl.sum(x, 1).to(tl.int32))


@triton.jit
def atomics(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o)
    i = tl.load(i_ptr + o)
    tl.atomic_add(y_ptr + o, x, mask=o < n, sem="relaxed", scope="gpu")
    tl.atomic_max(y_ptr + o, x)
    tl.atomic_min(y_ptr + o, x)
    tl.atomic_max(i_ptr + o, i)
    tl.atomic_min(i_ptr + o, i, sem="acquire", scope="cta")
    tl.atomic_and(i_ptr + o, i, sem="release", scope="sys")
    tl.atomic_or(i_ptr + o, i)
    tl.atomic_xor(i_ptr + o, i)
    tl.atomic_xchg(i_ptr + o, i)
    old = tl.atomic_cas(i_ptr, 0, 1)
    while tl.atomic_cas(i_ptr, 0, 1) == 1:
        pass
    tl.store(y_ptr + o, old)


@triton.jit
def random(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    a, b, c, d = tl.rand4x(n, o)
    e, f, g, h = tl.randn4x(n, o)
    i, j, k, m = tl.randint4x(n, o)
    z = tl.rand(n, o) + tl.randn(n, o) + tl.randint(n, o) + a + b + c + d + e + f + g + h + i + j + k + m
    tl.store(y_ptr + o, z)


@triton.jit
def flow(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    if pid > n:
        return
    acc = tl.zeros((BLOCK,), tl.float32)
    o = tl.arange(0, BLOCK)
    for t in tl.range(
        pid,
        n,
        132,
        num_stages=3,
        flatten=True,
        warp_specialize=True,
        disallow_acc_multi_buffer=True,
        loop_unroll_factor=2,
        disable_licm=True,
    ):
        if t % 2 == 0:
            acc += tl.load(x_ptr + t * BLOCK + o)
        else:
            acc -= 1.0
        for u in tl.static_range(2):
            acc *= 2.0 + u
    k = 0
    while k < n:
        k += 1 if k > 3 else 2
        acc += k
    for q in range(n, 0, -1):
        acc += q
    s = tl.sum(acc)
    if (s > 0 and n > 3) or pid == 0:
        acc = acc / s
    tl.store(y_ptr + o, acc)
    tl.static_assert(BLOCK > 1)


@triton.jit
def dots(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    r = tl.arange(0, 32)
    x = tl.load(x_ptr + r[:, None] * 32 + r[None, :])
    acc = tl.dot(x, x, input_precision="ieee")
    acc = tl.dot(x, x, acc, input_precision="tf32x3")
    acc = tl.dot(x, x, acc, input_precision="bf16x3")
    acc = tl.dot(x, x, acc, input_precision="bf16x6")
    acc = tl.dot(x, x, acc, allow_tf32=False)
    h = x.to(tl.float16)
    acc += tl.dot(h, h, out_dtype=tl.float16)
    f = x.to(tl.float8e5)
    acc = tl.dot(f, f, acc, max_num_imprecise_acc=32)
    b = x.to(tl.int8)
    acc += tl.dot(b, b).to(tl.float32)
    sc = tl.full((32, 1), 127, tl.uint8)
    acc = tl.dot_scaled(f, sc, "e5m2", f, sc, "e5m2", acc)
    w = x.to(tl.uint8)
    acc2 = tl.dot_scaled(
        x.to(tl.bfloat16),
        None,
        "bf16",
        tl.reshape(w, (16, 64)),
        tl.full((64, 1), 127, tl.uint8),
        "e2m1",
        tl.zeros((32, 64), tl.float32),
    )
    acc += tl.sum(acc2)
    tl.store(y_ptr + r[:, None] * 32 + r[None, :], acc)


@triton.jit
def descriptors(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    d = tl.make_tensor_descriptor(x_ptr, shape=[n, n], strides=[n, 1], block_shape=[BLOCK, BLOCK], padding_option="nan")
    e = tl.make_tensor_descriptor(y_ptr, shape=[n, n], strides=[n, 1], block_shape=[BLOCK, BLOCK])
    x = d.load([0, 0]) + tl.load_tensor_descriptor(d, [0, BLOCK])
    e.store([0, 0], x)
    tl.store_tensor_descriptor(e, [0, 0], x)
    e.atomic_add([0, 0], x)
    g = tl.make_tensor_descriptor(y_ptr, shape=[n, n], strides=[n, 1], block_shape=[1, BLOCK])
    idx = tl.arange(0, BLOCK)
    z = g.gather(idx, 0)
    g.scatter(z, idx, 0)
    k = tl.make_tensor_descriptor(i_ptr, shape=[n, n], strides=[n, 1], block_shape=[BLOCK, BLOCK])
    iz = k.load([0, 0])
    k.atomic_max([0, 0], iz)
    k.atomic_min([0, 0], iz)
    k.atomic_and([0, 0], iz)
    k.atomic_or([0, 0], iz)
    k.atomic_xor([0, 0], iz)
    bp = tl.make_block_ptr(x_ptr, (n, n), (n, 1), (0, 0), (BLOCK, BLOCK), (1, 0))
    q = tl.load(bp, boundary_check=(0, 1), padding_option="zero")
    bp = tl.advance(bp, (0, BLOCK))
    q += tl.load(bp)
    tl.store(tl.make_block_ptr(y_ptr, (n, n), (n, 1), (0, 0), (BLOCK, BLOCK), (1, 0)), q, boundary_check=(0,))


@triton.jit
def bools(x_ptr, y_ptr, b_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    m = tl.load(b_ptr + o)
    tl.store(b_ptr + o, m & (o > 3))
    tl.store(y_ptr + o, m.to(tl.float32))


@triton.jit
def lib(x_ptr, y_ptr, i_ptr, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + o)
    y = (
        libdevice.tanh(x)
        + libdevice.pow(x, x)
        + libdevice.fast_expf(x)
        + libdevice.rsqrt(x)
        + libdevice.float_as_int(x)
        + libdevice.isnan(x).to(tl.float32)
    )
    tl.store(y_ptr + o, y)


@triton.jit
def host_desc(d, y_ptr, e, n, BLOCK: tl.constexpr):
    x = d.load([0, 0])
    e.store([0, 0], x)
    tl.store(y_ptr + tl.arange(0, 16), tl.sum(x.to(tl.float32), 1))


SIG = {"x_ptr": "*fp32", "y_ptr": "*fp32", "i_ptr": "*i32", "n": "i32", "BLOCK": "constexpr"}
KERNELS = {f.__name__: (f, SIG) for f in (elementwise, shapes, atomics, random, flow, dots, descriptors, lib)}
KERNELS["bools"] = (bools, {"x_ptr": "*fp32", "y_ptr": "*fp32", "b_ptr": "*i1", "n": "i32", "BLOCK": "constexpr"})
KERNELS["host_desc"] = (
    host_desc,
    {
        "d": "tensordesc<fp16[16, 16]>",
        "y_ptr": "*fp32",
        "e": "tensordesc<fp16[16,16]>",
        "n": "i32",
        "BLOCK": "constexpr",
    },
)


@triton.jit
def scale_kernel(x_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0) * factor, mask=at < n)


SCALE = {"x_ptr": "*fp32", "y_ptr": "*fp32", "n": "i32", "factor": "fp32", "BLOCK": "constexpr"}


def ttir(function: Any, signature: dict[str, str], *, hints: Any = None, passes: bool = True) -> str:
    """The module as Triton writes it: right behind the front end, or (`passes`) as the compiler goes on with it."""
    target = GPUTarget("cuda", 90, 32)
    backend = CUDABackend(target)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options({})
    source = ASTSource(fn=function, signature=signature, constexprs={"BLOCK": 16}, attrs=hints or {})
    made = backend.get_codegen_implementation(options), backend.get_module_map()
    module = source.make_ir(target, options, *made, context)
    return str(backend.make_ttir(module, {}, options, 90) if passes else module)
