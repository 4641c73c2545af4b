"""Judging on this machine: threads that wait for the judge's processes, so that the loop never does.

The judge is plain synchronous code whose work happens in its own killable processes; a thread here only waits. How many
candidates are in the judge's hands at once is `width`; how many of those build, and which one holds the GPU, the judge
settles itself.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from evolve.errors import MachineryError
from evolve.judge import Backend
from evolve.types import Evaluation, Job


class LocalExecutor:
    def __init__(self, backend: Backend, *, width: int = 1) -> None:
        self._backend = backend
        self._pool = ThreadPoolExecutor(max_workers=width, thread_name_prefix="judge")
        self._closed = False

    async def evaluate(self, job: Job) -> Evaluation:
        if self._closed:
            raise MachineryError("The executor is closed; nothing more is judged.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._backend.evaluate, job)

    def close(self) -> None:
        """The backend first: its processes die, and the threads that waited for them come back. Who still waits in
        line is cancelled."""
        self._closed = True
        self._backend.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
