"""Times of the public function against the library and the judge's baseline, as a user's process would see them.

In CUDA graphs over several sets of inputs, interleaved block by block, as ratios with an interval; and outside of
graphs, where for short kernels the host is what one waits for. Nothing is guarded here as in the judge, so these
figures do not replace the judge's: they show that the package keeps what the judge measured.
"""

from __future__ import annotations

import contextvars
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import triton

from evolve.judge.statistics import interval
from evolve.problem import Problem
from evolve.types import Workload

Json = Any
Call = Callable[..., Any]
SAMPLE_US, MOST_CALLS = 300.0, 128
BLOCKS, WARM_BLOCKS = 24, 3
L2_FULLS, MOST_SETS, MEMORY_SHARE = 3, 128, 0.25
ROUNDS, ROUND_SECONDS, MOST_LOOP = 9, 0.004, 400
HOST_CALLS, HOST_SECONDS = 200, 0.3


def sets_of(problem: Problem, workload: Workload) -> list[tuple[Any, ...]]:
    """So many sets of inputs that none is still in L2 when its turn comes again, as far as memory goes."""
    first = problem.make_inputs(workload, "cuda", 1)
    nbytes = max(1, sum(a.nbytes for a in first if isinstance(a, torch.Tensor)))
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    fitting = int(MEMORY_SHARE * torch.cuda.mem_get_info()[0] / (3 * nbytes))
    wanted = math.ceil(L2_FULLS * l2 / nbytes)
    count = max(1, min(MOST_SETS, wanted, fitting))
    return [first, *(problem.make_inputs(workload, "cuda", 1 + i) for i in range(1, count))]


def in_graphs(calls: Mapping[str, Call], sets: Sequence[tuple[Any, ...]]) -> dict[str, Json]:
    """Median microseconds a call, and the log-ratios of each other one over the first."""
    names = list(calls)
    count = _calls(next(iter(calls.values())), sets)
    graphs = {name: _graph(call, sets, count) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for block in range(WARM_BLOCKS + BLOCKS):
        turn = names[block % len(names) :] + names[: block % len(names)]
        times = {name: [_sample(graphs[name][0].replay)] for name in turn}
        for name in reversed(turn):  # there and back, so that a drift over the block cancels
            times[name].append(_sample(graphs[name][0].replay))
        for name in names if block >= WARM_BLOCKS else ():
            samples[name].append(sum(times[name]) / 2 / count)
    first = names[0]
    ratios = {
        name: shown([math.log(b / a) for a, b in zip(samples[first], samples[name], strict=True)]) for name in names[1:]
    }
    return {"us": {n: statistics.median(s) for n, s in samples.items()}, "ratios": ratios, "calls": count}


def shown(logs: Sequence[float]) -> dict[str, Json]:
    found = interval(logs)
    return {
        "median": math.exp(found.median),
        "low": math.exp(found.low),
        "high": math.exp(found.high),
        "blocks": found.blocks,
    }


def _calls(call: Call, sets: Sequence[tuple[Any, ...]]) -> int:
    graph, _ = _graph(call, sets, 4)
    return max(1, min(MOST_CALLS, math.ceil(SAMPLE_US / max(0.1, min(_sample(graph.replay) for _ in range(5)) / 4))))


def _graph(call: Call, sets: Sequence[tuple[Any, ...]], calls: int) -> tuple[Any, list[Any]]:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for arguments in sets[:2]:
            call(*arguments)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call(*sets[i % len(sets)]) for i in range(calls)]
    return graph, kept


def _sample(replay: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def eagerly(calls: Mapping[str, Call], sets: Sequence[tuple[Any, ...]]) -> dict[str, Json]:
    """Microseconds a call from Python, many in a row: the host's time or the kernel's, whichever is longer."""
    names = list(calls)
    once = max(1e-6, _loop(calls[names[0]], sets, 3))
    count = max(3, min(MOST_LOOP, math.ceil(ROUND_SECONDS / once)))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        for name in names if turn % 2 else reversed(names):
            taken = _loop(calls[name], sets, count) * 1e6
            if turn:
                samples[name].append(taken)
    first, second = samples[names[0]], samples[names[1]]
    return {
        "us": {n: statistics.median(s) for n, s in samples.items()},
        "ratio": shown([math.log(b / a) for a, b in zip(first, second, strict=True)]),
        "calls": count,
    }


def _loop(call: Call, sets: Sequence[tuple[Any, ...]], count: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for i in range(count):
        call(*sets[i % len(sets)])
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def host_us(call: Call, arguments: Sequence[Any]) -> float:
    """What the host does for one call: the GPU is not waited for. The least of some, since it is only interrupted."""
    found: list[float] = []
    ends = time.perf_counter() + HOST_SECONDS  # the GPU is waited for between the rounds, and may be slow
    while len(found) < 2 or (len(found) < 7 and time.perf_counter() < ends):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(HOST_CALLS):
            call(*arguments)
        found.append((time.perf_counter() - began) / HOST_CALLS)
    torch.cuda.synchronize()
    return min(found) * 1e6


def bare(record: Any) -> Callable[..., Any]:
    """What a person would write without a package: allocate, and `kernel[grid]` with the very arguments."""
    made = [(tuple(t.shape), t.dtype, t.device) for t, _ in record.watch.made]
    launches = [(kernel, grid, args, kwargs) for kernel, _, grid, args, kwargs in record.launches]

    def call(*_: Any) -> None:
        for shape, dtype, device in made:
            torch.empty(shape, dtype=dtype, device=device)
        for kernel, grid, args, kwargs in launches:
            kernel[grid](*args, **kwargs)

    if not any(compiled.metadata.global_scratch_size for _, compiled, *_ in record.launches):
        return call
    context = contextvars.copy_context()  # descriptors made on the device want an allocator; that person set one, too
    context.run(triton.set_allocator, _allocate)
    return partial(context.run, call)


def _allocate(nbytes: int, alignment: int, stream: int | None) -> torch.Tensor:
    return torch.empty(nbytes, dtype=torch.int8, device="cuda")
