"""One launch plan on its own, for tools that watch a whole process: a sanitizer, a profiler.

`python -m evolve.judge.gpu.alone ORDER.json` makes the inputs of one workload, runs the plan twice and ends. Buffers
are plain allocations of exactly their size, because that is what a sanitizer knows about; run it with the allocator's
cache off. It compares and measures nothing, and imports no candidate.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch

from evolve.judge.gpu.driver import Cuda
from evolve.judge.gpu.facts import workload_of
from evolve.judge.gpu.launch import Program
from evolve.judge.gpu.memory import Buffer
from evolve.judge.gpu.place import Placed, allocator
from evolve.judge.plan_json import decode
from evolve.problem import load_problem

RUNS = 2


class Exact:
    """Memory without bands: a tool draws the borders."""

    def __init__(self) -> None:
        self._keep: list[Buffer] = []

    def allocate(self, nbytes: int) -> Buffer:
        whole = torch.empty(max(1, nbytes), dtype=torch.uint8, device="cuda")
        self._keep.append(Buffer(whole, 0, max(1, nbytes), 0))
        return self._keep[-1]


def run(order: dict[str, Any]) -> None:
    problem, workload = load_problem(order["problem"]), workload_of(order["workload"])
    torch.empty(1, device="cuda")
    memory: Any = Exact()
    made = problem.make_inputs(workload, "cuda", random.SystemRandom().getrandbits(40))
    placed = Placed(memory, problem, workload, made)
    candidate = order["candidate"]
    program = Program(Cuda(0), decode(candidate["plan"]).plans[0], candidate["folders"], {})
    bound = program.bind(placed.roots(program.plan), allocator(memory))
    torch.cuda.synchronize()
    for _ in range(RUNS):
        bound.run(int(torch.cuda.current_stream().cuda_stream))
    torch.cuda.synchronize()


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print("ran to its end", flush=True)
