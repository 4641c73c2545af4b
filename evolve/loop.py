"""The whole search on one page.

A step is one turn: draw a parent, ask a member, read its reply into a candidate, let the judge rule on it, and, if it
would be the best, have it confirmed. Everything that happens is an event. `commit` writes it to the journal first and
only then lets anyone see it, so that population, council and budget are folds over the journal, and resuming a run is
replaying it: a paid reply is judged after a crash without being asked again, and nothing is judged twice.

Nothing about a candidate may raise out of a step. Whatever breaks the machinery must, and leaves its step pending.

This module knows no third-party package, no GPU and no file: what it works with is handed in.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evolve.errors import MachineryError, MemberUnavailable
from evolve.seams import Budget, Council, Journal, Observer, Pending, Population
from evolve.types import (
    Asked,
    Attempt,
    Candidate,
    Confirmed,
    Draw,
    Evaluation,
    Event,
    Executor,
    Job,
    Judged,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)


@dataclass(kw_only=True)
class Search:
    journal: Journal
    population: Population
    council: Council
    budget: Budget
    executor: Executor
    render: Callable[[Draw, str], Prompt]
    read: Callable[[Reply, Asked, Draw], Candidate | str]  # a candidate, or why there is none
    again: Callable[[Candidate, Asked], Asked | str | None] = lambda *_: None  # nothing new: ask anew, or say so
    secret: str  # of the run: no candidate can foresee its inputs
    next_step: int
    replies: int = 1  # calls to members at once
    in_flight: int = 1  # steps at once; 1 makes a run repeatable to the event
    watch: Sequence[Observer] = ()
    stopping: str = ""
    _waiting: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # steps that wait for a reply

    def __post_init__(self) -> None:
        self._asking = asyncio.Semaphore(self.replies)
        self._confirming = asyncio.Lock()

    async def run(self, pending: Iterable[Pending] = ()) -> str:
        """Search until a budget is spent or `stop` is called; return the sentence that says why it ended."""
        broken: MachineryError | MemberUnavailable | None = None
        queue, flying = list(pending), set[asyncio.Task[None]]()
        while self.population.best is None and queue and queue[0].attempt:
            await self.finish(queue.pop(0))  # what is judged beside the first incumbent must have it to beat
        while True:
            while len(flying) < self.in_flight and not self.stopping and not broken:
                if queue:
                    flying.add(self._take_up(queue.pop(0)))
                elif ended := self.budget.spent():
                    self.stopping = ended
                else:
                    flying.add(self._start())
            if not flying:
                break
            done, flying = await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = None if task.cancelled() else task.exception()
                if error is not None and not isinstance(error, MachineryError | MemberUnavailable):
                    raise error
                broken = broken or error
        if broken:
            raise broken
        return self.stopping

    def stop(self, why: str) -> list[int]:
        """Begin no further step and drop those that wait for a reply; what is being judged comes to its end.
        A dropped step stays in the journal as asked, and resuming asks it again."""
        self.stopping = self.stopping or why
        dropped = sorted(self._waiting)
        for task in self._waiting.values():
            task.cancel()
        return dropped

    def _start(self) -> asyncio.Task[None]:
        step = self.next_step
        self.next_step += 1
        draw = self.population.ask(step)
        member, kind = self.council.choose(draw)
        asked = draw.asked(member, self.render(draw, kind))
        self.commit(asked)
        return self._droppable(step, self._step(asked, draw))

    def _take_up(self, begun: Pending) -> asyncio.Task[None]:
        if begun.asked and not begun.reply and not begun.attempt:
            return self._droppable(begun.asked.step, self.finish(begun))
        return asyncio.create_task(self.finish(begun))

    def _droppable(self, step: int, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that `stop` drops, from before its first line until its reply is there."""
        self._waiting[step] = task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._waiting.pop(step, None))
        return task

    async def finish(self, begun: Pending) -> None:
        if begun.attempt:
            await self._confirm(begun.attempt)
        elif begun.asked:
            await self._step(begun.asked, self._redraw(begun.asked), begun.reply)

    async def _step(self, asked: Asked, draw: Draw, reply: Reply | None = None) -> None:
        reply = reply or await self._reply(asked, draw)
        if not reply.text.strip():
            self._rule_out(asked, Verdict.NO_REPLY, f"{reply.member} gave no reply: {reply.finish_reason}.")
        elif isinstance(candidate := self.read(reply, asked, draw), str):
            self._rule_out(asked, Verdict.UNREADABLE, candidate)
        elif isinstance(again := self.again(candidate, asked), Asked):
            self.commit(again)
            await self._droppable(asked.step, self._step(again, draw))
        elif again:
            self._rule_out(asked, Verdict.DUPLICATE, again, candidate)
        elif (attempt := await self._judge(candidate, draw)).evaluation.beats_incumbent:
            await self._confirm(attempt)

    async def _reply(self, asked: Asked, draw: Draw) -> Reply:
        async with self._asking:
            reply = await self.council.ask(asked.member, draw, asked.prompt)
        self._waiting.pop(asked.step, None)
        self.commit(Replied(step=asked.step, reply=reply))
        return reply

    async def _judge(self, candidate: Candidate, draw: Draw) -> Attempt:
        parent = draw.parent.evaluation if draw.parent else None
        evaluation = await self.executor.evaluate(self._job(candidate, parent, draw.ranking_key))
        self.commit(Judged(step=candidate.step, candidate=candidate, evaluation=evaluation))
        return Attempt(candidate=candidate, evaluation=evaluation)

    async def _confirm(self, attempt: Attempt) -> None:
        """One at a time: the second would-be best has to beat the first, not the one that both of them beat."""
        async with self._confirming:
            if not self.population.contends(attempt.evaluation):
                return
            chosen, key = attempt.evaluation.parameters, attempt.evaluation.ranking_key
            job = replace(self._job(attempt.candidate, None, key), mode="confirm", known={}, parameters=chosen)
            evaluation = await self.executor.evaluate(job)
            if key and evaluation.ranking_key not in ("", key):
                return  # its kind of GPU is gone, and another's word is none on it: it stays to be confirmed
            self.commit(Confirmed(step=attempt.candidate.step, candidate_id=attempt.id, evaluation=evaluation))

    def _job(self, candidate: Candidate, parent: Evaluation | None, ranking_key: str) -> Job:
        return Job(
            candidate=candidate,
            incumbent=self.population.best,
            parent=parent,
            known=self.population.known,
            random_seeds=seeds_of(self.secret, candidate.id),
            ranking_key=ranking_key,
        )

    def _rule_out(self, asked: Asked, verdict: Verdict, feedback: str, candidate: Candidate | None = None) -> None:
        found = Evaluation(verdict=verdict, feedback=feedback, stage="reply")
        self.commit(Judged(step=asked.step, evaluation=found, candidate=candidate))

    def _redraw(self, asked: Asked) -> Draw:
        """The draw as it was when the step was asked: the journal remembers what the population may have forgotten."""
        return Draw(
            step=asked.step,
            island=asked.island,
            parent=self.journal.attempt(asked.parent_id) if asked.parent_id else None,
            inspirations=tuple(self.journal.attempt(i) for i in asked.inspiration_ids),
            failures=tuple(self.journal.attempt(f) for f in asked.failure_ids),
            ranking_key=asked.ranking_key,
        )

    def commit(self, event: Event) -> None:
        self.journal.append(event)
        for observer in (self.population, self.council, self.budget, *self.watch):
            observer.observe(event)
        for sentence in self.council.warnings() if isinstance(event, Judged) else ():
            self.commit(Noted(what="warning", text=sentence, step=event.step))


def seeds_of(secret: str, name: str, count: int = 3) -> tuple[int, ...]:
    """Random seeds that no prompt, candidate or jail can know: they derive from the run's secret."""
    digest = hashlib.sha256(f"{secret}/{name}".encode()).digest()
    return tuple(int.from_bytes(digest[4 * i : 4 * i + 4], "big") >> 1 for i in range(count))
