"""Judging on this machine, on all of its GPUs: threads wait for the judge's processes, so that the loop never does.

The judge is plain synchronous code whose work happens in its own killable processes; a thread here only waits. How many
candidates are in one backend's hands at once is `width`; how many of those build, and which one holds the GPU, the
judge settles itself. With several backends, one a GPU, candidates of one run are spread over them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from evolve.errors import MachineryError
from evolve.executors.spread import CLOSED, Spread, take_short_turns
from evolve.judge import Backend
from evolve.types import Evaluation, Job, Noted


class Threads:
    """One backend as a station."""

    def __init__(self, backend: Backend, *, name: str, width: int) -> None:
        self.backend, self.name, self.places = backend, name, width
        self.ranking_key: str = getattr(backend, "ranking_key", "")  # a backend of the user's own need not have one
        self._pool = ThreadPoolExecutor(max_workers=width, thread_name_prefix="judge")
        take_short_turns()

    def begin(self, job: Job) -> Future[Evaluation]:
        return self._pool.submit(self.backend.evaluate, job)

    def close(self) -> None:
        """The backend first: its processes die, and the threads that waited for them come back."""
        self.backend.close()
        self._pool.shutdown(wait=True, cancel_futures=True)


class LocalExecutor:
    def __init__(self, *backends: Backend, width: int = 1, heard: Sequence[Noted] = ()) -> None:
        """`heard` is what is to go on record of them from the start."""
        self._heard = list(heard)
        self._spread = Spread(lambda text: self._heard.append(Noted(what="warning", text=text)))
        self._stations = [Threads(b, name=f"GPU {i}", width=width) for i, b in enumerate(backends)]
        for station in self._stations:
            self._spread.add(station)
        self._closed = False

    @property
    def stations(self) -> int:
        return len(self._spread.stations)

    def present(self) -> Mapping[str, int]:
        return self._spread.present()

    def heard(self) -> list[Noted]:
        """What goes on record, once: a GPU that judges no more."""
        heard, self._heard[:] = list(self._heard), []
        return heard

    async def evaluate(self, job: Job) -> Evaluation:
        if self._closed:
            raise MachineryError(CLOSED)
        return await asyncio.wrap_future(self._spread.submit(job))

    def close(self) -> None:
        """Who still waits in line is cancelled. All backends before any thread: they may share a jail and a builder."""
        self._closed = True
        self._spread.close()
        for station in self._stations:
            station.backend.close()
        for station in self._stations:
            station.close()
