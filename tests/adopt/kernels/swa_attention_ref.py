"""Plain attention with a window and a soft cap, and the sizes that matter to us."""
import torch

WORKLOADS = {
    "long": {"batch": 1, "heads": 16, "kv_heads": 4, "seq": 8192, "dim": 128, "window": 1024},
    "short": {"batch": 4, "heads": 16, "kv_heads": 4, "seq": 2048, "dim": 128, "window": 1024},
}


def make_inputs(workload, device, random_seed):
    torch.manual_seed(random_seed)
    b, h, hk, s, d = (workload[x] for x in ("batch", "heads", "kv_heads", "seq", "dim"))
    q = torch.randn(b, h, s, d, device=device, dtype=torch.bfloat16)
    k = torch.randn(b, hk, s, d, device=device, dtype=torch.bfloat16)
    v = torch.randn(b, hk, s, d, device=device, dtype=torch.bfloat16)
    return q, k, v, workload["window"], 30.0


def attention(q, k, v, window, softcap):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    s = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    s = softcap * torch.tanh(s / softcap)
    i = torch.arange(s.shape[-1], device=q.device)
    s = s.masked_fill(~((i[None] <= i[:, None]) & (i[None] > i[:, None] - window)), float("-inf"))
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)
