"""What an executor owes the loop, as tests. Make a subclass named Test..., say how to open one and which candidates it
can be tried with, and run pytest with pytest-asyncio in its auto mode:

    class TestMine(ExecutorContract):
        passing = SEED
        failing = {Verdict.REJECTED: "import os"}

        def open(self, folder: Path) -> Executor:
            return MyExecutor(...)

What a verdict is worth is the backend's affair (`evolve.judge.contract`); here it must arrive, in order or not, while
the event loop goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from evolve.errors import MachineryError
from evolve.judge.contract import job_of, left_behind_nothing, sound
from evolve.types import Evaluation, Executor, Job, Verdict


class ExecutorContract:
    passing: ClassVar[str]
    failing: ClassVar[Mapping[Verdict, str]] = {}
    many = 8  # jobs at once, more than it can do
    patience = 120.0  # seconds for all of them
    stall = 0.25  # seconds for which the event loop may stand still: dashboards and members live there
    ends_in = 15.0  # seconds for `close` and for those who wait while it happens

    def open(self, folder: Path) -> Executor:
        raise NotImplementedError("return the executor that is to be held to the contract")

    async def judged(self, executor: Executor, job: Job) -> Evaluation:
        async with asyncio.timeout(self.patience):
            return sound(await executor.evaluate(job), job)

    async def test_verdicts_arrive_while_the_event_loop_goes_on(self) -> None:
        asked = [(Verdict.PASSED, self.passing), *self.failing.items()] * 3
        with left_behind_nothing() as trace:
            executor = self.open(trace.folder)
            try:
                found, longest = await _with_longest_gap(
                    [self.judged(executor, job_of(source)) for _, source in asked[: self.many]]
                )
                trace.look()
            finally:
                executor.close()
        assert [e.verdict for e in found] == [verdict for verdict, _ in asked[: self.many]]
        assert longest < self.stall, f"the event loop stood still for {longest:.2f} s"

    async def test_a_cancelled_wait_disturbs_no_other(self) -> None:
        with left_behind_nothing() as trace:
            executor = self.open(trace.folder)
            try:
                tasks = [
                    asyncio.ensure_future(self.judged(executor, job_of(self.passing, step=s))) for s in range(self.many)
                ]
                await asyncio.sleep(0.05)
                for task in tasks[1::2]:
                    task.cancel()
                found = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(one, Evaluation) and one.passed for one in found[::2])
                assert all(isinstance(one, Evaluation | asyncio.CancelledError) for one in found[1::2])
                assert (await self.judged(executor, job_of(self.passing, step=99))).passed
                trace.look()
            finally:
                executor.close()

    async def test_closing_while_it_judges(self) -> None:
        with left_behind_nothing() as trace:
            executor = self.open(trace.folder)
            tasks = [asyncio.ensure_future(executor.evaluate(job_of(self.passing, step=s))) for s in range(self.many)]
            await asyncio.sleep(0.1)
            trace.look()
            began = time.monotonic()
            executor.close()
            async with asyncio.timeout(self.ends_in):
                found = await asyncio.gather(*tasks, return_exceptions=True)
            assert time.monotonic() - began < self.ends_in
            for one in found:
                assert isinstance(one, Evaluation | MachineryError | asyncio.CancelledError), repr(one)
            assert not any(isinstance(one, Evaluation) and not one.passed for one in found), "an end is no verdict"

    async def test_closing_twice_and_asking_afterwards(self) -> None:
        with left_behind_nothing() as trace:
            executor = self.open(trace.folder)
            trace.look()
            executor.close()
            executor.close()
            (came,) = await asyncio.gather(executor.evaluate(job_of(self.passing)), return_exceptions=True)
            assert isinstance(came, MachineryError), f"a closed executor says so; this gave {came!r}"


async def _with_longest_gap(work: Sequence[Awaitable[Evaluation]]) -> tuple[list[Evaluation], float]:
    """The results, and the longest time for which the event loop did not get its turn."""
    longest, done = 0.0, asyncio.ensure_future(asyncio.gather(*work))
    last = time.monotonic()
    while not done.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return await done, longest
