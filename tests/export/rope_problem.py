"""Rotary embedding of q and k in place, with k and v written into a paged cache: all that it gives it writes into its
arguments."""

import torch

from evolve.problem import Argument, Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

PAGE = 16
WRITTEN = ("q", "k", "k_cache", "v_cache")


def rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def library(q, k, v, cos, sin, k_cache, v_cache, slots):
    """As people write it today. It returns what it wrote, as such functions do."""
    q.copy_(rotated(q, cos, sin))
    k.copy_(rotated(k, cos, sin))
    used = slots >= 0
    k_cache.view(-1, *k_cache.shape[2:])[slots[used]] = k[used]
    v_cache.view(-1, *v_cache.shape[2:])[slots[used]] = v[used]
    return q, k, k_cache, v_cache


def make_inputs(workload, device, random_seed):
    generator = None if device == "meta" else torch.Generator(device=device).manual_seed(random_seed)
    tokens, heads, kv_heads, dim = (workload[n] for n in ("tokens", "heads", "kv_heads", "dim"))

    def normal(*shape):
        return torch.randn(shape, device=device, generator=generator).to(torch.float16)

    pages = -(-tokens // PAGE) + 2
    angle = torch.arange(tokens, device=device)[:, None] / torch.arange(1, dim // 2 + 1, device=device)
    slots = torch.randperm(pages * PAGE, device=device, generator=generator)[:tokens]
    slots[::7] = -1
    caches = (normal(pages, PAGE, kv_heads, dim) for _ in range(2))
    return (
        normal(tokens, heads, dim), normal(tokens, kv_heads, dim), normal(tokens, kv_heads, dim),
        angle.cos().half(), angle.sin().half(), *caches, slots,
    )  # fmt: skip


def outputs(workload):
    tokens, heads, kv_heads, dim = (workload[n] for n in ("tokens", "heads", "kv_heads", "dim"))
    cache = (-(-tokens // PAGE) + 2, PAGE, kv_heads, dim)
    shapes = ((tokens, heads, dim), (tokens, kv_heads, dim), cache, cache)
    return tuple(TensorSpec(name=n, shape=s, dtype="float16", argument=n) for n, s in zip(WRITTEN, shapes, strict=True))


def sized(name, role, tokens):
    return Workload(name=name, role=role, params={"tokens": tokens, "heads": 8, "kv_heads": 2, "dim": 64})


PROBLEM = Problem(
    name="rope",
    entry="rope_and_cache",
    arguments=(
        Argument(name="q", role="in_out"),
        Argument(name="k", role="in_out"),
        Argument(name="v"),
        Argument(name="cos", role="index"),
        Argument(name="sin", role="index"),
        Argument(name="k_cache", role="in_out"),
        Argument(name="v_cache", role="in_out"),
        Argument(name="slots", role="index"),
    ),
    outputs=outputs,
    reference=library,
    library=library,
    make_inputs=make_inputs,
    variants=(Variant(name="fp16", params={}, comparators={n: Norm(strict=1e-3, at_most=2e-3) for n in WRITTEN}),),
    workloads=(sized("timed", "time", 96), sized("odd", "check", 19), sized("hidden", "held_out", 70)),
    interpreted=(sized("small", "check", 19),),
    baselines=(Baseline(name="today", call=library),),
    bytes_moved=lambda workload: float(workload["tokens"]),
)
