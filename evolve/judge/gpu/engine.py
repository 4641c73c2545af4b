"""The device as the worker uses it: a stream, graphs, time stamps, memory. Tests bring one that is a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from evolve.judge.gpu import memory
from evolve.judge.gpu.driver import Cuda, Driver
from evolve.judge.gpu.memory import Pages, over
from evolve.judge.gpu.nvml import Gpu

Replay = Callable[[], None]
Mark = Any


class Engine(Protocol):
    device: str
    driver: Driver
    pages: Pages | None
    l2_bytes: int

    def stream(self) -> int: ...

    def synchronize(self) -> None: ...

    def capture(self, work: Callable[[], Any]) -> Replay:
        """A replay of everything that `work` enqueues. Results of `work` live as long as the replay."""
        ...

    def mark(self) -> Mark:
        """A time stamp in the stream."""
        ...

    def passed(self, mark: Mark) -> bool:
        """Whether the device has come by it already."""
        ...

    def between_us(self, first: Mark, second: Mark) -> float: ...

    def slowed(self) -> bool | None: ...

    def trim(self) -> None:
        """Give back what the framework keeps for later."""
        ...

    def span(self, pointer: int, nbytes: int) -> torch.Tensor:
        """Bytes from `pointer` on as one tensor, holes included: for touching a few places in many buffers at once."""
        ...


class CudaEngine:
    """The first visible GPU. Building one opens the context."""

    def __init__(self, gpu: str) -> None:
        torch.empty(1, device="cuda")  # the primary context, current in this thread, which is the only one
        self.device = "cuda"
        cuda = Cuda(0)
        self.driver: Driver = cuda
        self.pages: Pages | None = cuda if memory.works(cuda, self.device) else None
        properties = torch.cuda.get_device_properties(0)
        self.l2_bytes = int(properties.L2_cache_size)
        self._gpu = Gpu(gpu)
        self._side = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def stream(self) -> int:
        return int(torch.cuda.current_stream().cuda_stream)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def capture(self, work: Callable[[], Any]) -> Replay:
        """By hand, not by `torch.cuda.graph`: that collects garbage and empties the allocator's cache each time."""
        graph = torch.cuda.CUDAGraph()
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                results = work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._side)

        def replay(results: Any = results) -> None:  # the results must not be freed into the next capture's pool
            graph.replay()

        return replay

    def mark(self) -> Mark:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def passed(self, mark: Mark) -> bool:
        return bool(mark.query())

    def between_us(self, first: Mark, second: Mark) -> float:
        return float(first.elapsed_time(second)) * 1e3

    def slowed(self) -> bool | None:
        return self._gpu.slowed()

    def trim(self) -> None:
        torch.cuda.empty_cache()

    def reading(self) -> dict[str, Any] | None:
        reading = self._gpu.read()
        return reading.evidence() if reading is not None else None

    def span(self, pointer: int, nbytes: int) -> torch.Tensor:
        return over(pointer, nbytes, self.device)
