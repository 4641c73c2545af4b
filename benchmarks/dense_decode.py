"""A yardstick that no kernel over pages can be: SDPA over the same keys in one dense cache, as graph replays.

    python benchmarks/dense_decode.py --out FILE.json [--seconds 8]

What it computes on is not the problem's input, so it is no baseline there and no pair with the kernel: its time stands
beside, taken within the same minute, with the interval of its own samples. Caches rotate and are together far larger
than L2. Where the two differ, memory does most of the work in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

SIZES = {"b1_8k": (1, 8192), "b8_8k": (8, 8192), "b64_8k": (64, 8192), "b64_2k": (64, 2048)}
H, HK, D = 32, 8, 128
APART = 512 << 20  # bytes that rotating caches have together, at the least
LEAST_US = 100.0


def replays(batch: int, context: int, dtype: torch.dtype) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of as many calls as it has caches."""
    one = 2 * 2 * batch * HK * context * D
    sets = max(2, -(-APART // one))
    made = [
        tuple(torch.randn(shape, device="cuda").to(dtype) for shape in ((batch, HK, H // HK, D), *2 * (kv,)))
        for kv in [(batch, HK, context, D)]
        for _ in range(sets)
    ]
    for q, k, v in made[:2]:
        scaled_dot_product_attention(q, k, v)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [scaled_dot_product_attention(q, k, v) for q, k, v in made]
    graph.kept = (made, kept)  # type: ignore[attr-defined]
    return graph, sets


def times_us(graph: torch.cuda.CUDAGraph, calls: int, seconds: float) -> list[float]:
    found: list[float] = []
    until = time.monotonic() + seconds
    repeats = 1
    for _ in range(5):
        graph.replay()
    while time.monotonic() < until and len(found) < 200:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            graph.replay()
        end.record()
        end.synchronize()
        us = start.elapsed_time(end) * 1e3
        if us < LEAST_US:
            repeats *= 2
            continue
        found.append(us / repeats / calls)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--dtype", default="bfloat16")
    order = parser.parse_args()
    rows = {}
    for name, (batch, context) in SIZES.items():
        graph, calls = replays(batch, context, getattr(torch, order.dtype))
        samples = sorted(times_us(graph, calls, order.seconds / len(SIZES)))
        n = len(samples)
        rank = int(n / 2 - 1.29 * n**0.5)  # of the 99 % interval of a median
        rows[name] = {
            "time_us": statistics.median(samples),
            "time_low_us": samples[max(0, rank)],
            "time_high_us": samples[min(n - 1, n - 1 - rank)],
            "samples": n,
        }
        del graph
        torch.cuda.empty_cache()
    order.out.write_text(json.dumps(rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
