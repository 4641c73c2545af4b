import torch

WORKLOADS = [
    dict(tokens=8192, experts=128, topk=8),
    dict(tokens=16384, experts=64, topk=6),
    dict(tokens=512, experts=256, topk=8),
]


def reference(gating_output, topk, renormalize=True):
    weights, ids = torch.softmax(gating_output, dim=-1).topk(topk, dim=-1)
    if renormalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, ids.to(torch.int32)


def make_inputs(workload, device, random_seed):
    torch.manual_seed(random_seed)
    return torch.randn(workload["tokens"], workload["experts"], device=device), workload["topk"]
