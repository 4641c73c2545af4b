import torch
from evolve.types import Workload

WORKLOADS = (
    Workload(name="prefill", params={"tokens": 8192, "heads": 32, "kv_heads": 8, "dim": 128}, weight=2.0),
    Workload(name="decode", params={"tokens": 256, "heads": 32, "kv_heads": 8, "dim": 128}),
)
BLOCK = 16


def rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def rope_and_cache(q, k, v, cos, sin, k_cache, v_cache, slots):
    q.copy_(rotated(q, cos, sin))
    k.copy_(rotated(k, cos, sin))
    used = slots >= 0
    flat = slots[used].long()
    k_cache.view(-1, *k_cache.shape[2:])[flat] = k[used]
    v_cache.view(-1, *v_cache.shape[2:])[flat] = v[used]


def make_inputs(workload, device, random_seed):
    g = torch.Generator(device=device).manual_seed(random_seed)
    tokens, heads, kv_heads, dim = (workload[n] for n in ("tokens", "heads", "kv_heads", "dim"))
    bf16 = torch.bfloat16
    q = torch.randn(tokens, heads, dim, device=device, generator=g).to(bf16)
    k = torch.randn(tokens, kv_heads, dim, device=device, generator=g).to(bf16)
    v = torch.randn(tokens, kv_heads, dim, device=device, generator=g).to(bf16)
    inv = 10000.0 ** (-torch.arange(0, dim, 2, device=device).float() / dim)
    angle = torch.arange(tokens, device=device).float()[:, None] * inv
    blocks = (tokens + BLOCK - 1) // BLOCK + 2
    k_cache = torch.zeros(blocks, BLOCK, kv_heads, dim, device=device, dtype=bf16)
    v_cache = torch.zeros_like(k_cache)
    slots = torch.randperm(blocks * BLOCK, device=device, generator=g)[:tokens]
    slots[::7] = -1
    return dict(
        q=q, k=k, v=v, cos=angle.cos().to(bf16), sin=angle.sin().to(bf16), k_cache=k_cache, v_cache=v_cache, slots=slots
    )
