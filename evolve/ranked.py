"""What judges may change while a run goes on: GPUs come and go, and may be of different kinds.

Here the run keeps up with them: what came or went is committed, more GPUs mean more steps at once, what leads in one
ranking is measured again for the others, and each job takes along whom it must beat on whichever kind judges it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from evolve.inbox import Inbox
from evolve.loop import Search
from evolve.population import Rankings
from evolve.types import Attempt, Evaluation, Executor, Job
from evolve.wiring import Bench

LOOK = 0.5  # seconds between two looks


class Ranked:
    """The executor, told with each job for which ranking it is and who leads in each."""

    def __init__(self, executor: Executor, rankings: Rankings) -> None:
        self._executor, self._rankings = executor, rankings

    async def evaluate(self, job: Job) -> Evaluation:
        key = job.ranking_key or self._rankings.home_key
        known = self._rankings.of(key).known if job.known else job.known
        return await self._executor.evaluate(
            replace(job, ranking_key=key, known=known, incumbents=self._rankings.bests)
        )

    def close(self) -> None:
        self._executor.close()


async def keep_up(
    search: Search, rankings: Rankings, bench: Bench, inbox: Inbox, in_flight: Callable[[int], int]
) -> None:
    while True:
        for noted in bench.heard():
            search.commit(noted)
        rankings.present = bench.present()
        search.in_flight = in_flight(sum(rankings.present.values()))
        for key, leader in rankings.migrants() if not search.stopping else ():
            inbox.measure_again(leader, key, _words(leader))
        await asyncio.sleep(LOOK)


def _words(leader: Attempt) -> str:
    parts = leader.evaluation.ranking_key.split("|")
    where = parts[1] if len(parts) > 1 else parts[0]
    return f"{leader.id} leads on {where}; scores of one kind of GPU say nothing about another, so it is measured anew."
