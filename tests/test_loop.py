"""The loop's own promises, against partners that keep everything in memory."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from evolve.errors import MachineryError
from evolve.judge.backends.fake import FakeBackend
from evolve.loop import Search, seeds_of
from evolve.seams import Pending
from evolve.types import (
    Asked,
    Attempt,
    Candidate,
    Confirmed,
    Draw,
    Evaluation,
    Event,
    Job,
    Judged,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)


@dataclass
class Memory:
    """Journal, population, council and budget in one: what the loop needs of them, and no more."""

    steps: int = 10
    events: list[Event] = field(default_factory=list)
    best: Attempt | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    answer: Callable[[int], str] = lambda step: f"x = {step}\n"
    delay: float = 0.0
    say: list[str] = field(default_factory=list)

    def append(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events)

    def attempt(self, candidate_id: str) -> Attempt:
        found = [e for e in self.events if isinstance(e, Judged) and e.candidate and e.candidate.id == candidate_id]
        assert found
        assert found[0].candidate
        return Attempt(candidate=found[0].candidate, evaluation=found[0].evaluation)

    def observe(self, event: Event) -> None:
        if isinstance(event, Confirmed) and event.evaluation.passed and event.evaluation.beats_incumbent:
            self.best = Attempt(candidate=self.attempt(event.candidate_id).candidate, evaluation=event.evaluation)

    def ask(self, step: int) -> Draw:
        return Draw(step=step, island=0, parent=self.best)

    def contends(self, evaluation: Evaluation) -> bool:
        return self.best is None or evaluation.score > self.best.score

    def spent(self) -> str | None:
        asked = sum(isinstance(e, Asked) for e in self.events)
        return f"all {self.steps} steps are done" if asked >= self.steps else None

    def warnings(self) -> list[str]:
        said, self.say = self.say, []
        return said


@dataclass
class OneMember:
    memory: Memory

    def observe(self, event: Event) -> None: ...

    def choose(self, draw: Draw) -> tuple[str, str]:
        return "scripted", "rewrite"

    async def ask(self, member: str, draw: Draw, prompt: Prompt) -> Reply:
        await asyncio.sleep(self.memory.delay)
        return Reply(member=member, text=self.memory.answer(draw.step), finish_reason="it was told to say nothing")

    def warnings(self) -> list[str]:
        return self.memory.warnings()


@dataclass
class Hands:
    """An executor over the fake judge that counts, and breaks when told."""

    judged: list[tuple[str, str]] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    breaks_at: int = -1
    delay: float = 0.0

    async def evaluate(self, job: Job) -> Evaluation:
        if job.candidate.step == self.breaks_at:
            raise MachineryError("the GPU fell off the bus")
        self.judged.append((job.mode, job.candidate.id))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        return FakeBackend().evaluate(job)

    def close(self) -> None: ...


def search(memory: Memory, hands: Hands, **settings: int) -> Search:
    def read(reply: Reply, asked: Asked, draw: Draw) -> Candidate | str:
        if "nonsense" in reply.text:
            return "No code found."
        return Candidate(step=asked.step, source=reply.text, member=reply.member, kind="rewrite")

    return Search(
        journal=memory,
        population=memory,
        council=OneMember(memory),
        budget=memory,
        executor=hands,
        render=lambda draw, kind: Prompt(system="", user=str(draw.step), kind=kind),
        read=read,
        secret="s",
        next_step=1,
        **settings,  # type: ignore[arg-type]
    )


def kinds(memory: Memory, step: int) -> list[str]:
    return [type(e).__name__ for e in memory.events if getattr(e, "step", None) == step]


async def test_every_step_is_asked_replied_judged_in_this_order() -> None:
    memory = Memory(steps=5, answer=lambda step: f"# fake: score={1 + step / 10}\n")
    why = await search(memory, Hands()).run()
    assert why == "all 5 steps are done"
    assert [kinds(memory, s) for s in range(1, 6)] == [["Asked", "Replied", "Judged", "Confirmed"]] * 5
    assert memory.best
    assert memory.best.score == pytest.approx(1.5)


async def test_no_reply_and_unreadable_are_verdicts_without_a_candidate() -> None:
    memory = Memory(steps=2, answer=lambda step: "" if step == 1 else "nonsense")
    hands = Hands()
    await search(memory, hands).run()
    judged = [e for e in memory.events if isinstance(e, Judged)]
    assert [e.evaluation.verdict for e in judged] == [Verdict.NO_REPLY, Verdict.UNREADABLE]
    assert "it was told to say nothing" in judged[0].evaluation.feedback
    assert hands.judged == []


async def test_broken_machinery_raises_and_leaves_its_step_pending() -> None:
    memory = Memory(steps=6)
    with pytest.raises(MachineryError, match="fell off the bus"):
        await search(memory, Hands(breaks_at=3), in_flight=2, replies=2).run()
    assert kinds(memory, 3) == ["Asked", "Replied"]
    assert "Judged" in kinds(memory, 2)


async def test_stopping_drops_what_waits_for_a_reply_and_finishes_what_is_judged() -> None:
    memory, hands = Memory(steps=100, delay=30.0), Hands(delay=0.2)
    memory.answer = lambda step: "# fake: score=0.5\n"
    running = search(memory, hands, in_flight=3, replies=2)
    begun = Asked(step=0, member="scripted", prompt=Prompt(system="", user="", kind="rewrite"))
    reply = Reply(member="scripted", text="# fake: score=0.7\n")
    task = asyncio.create_task(running.run([Pending(asked=begun, reply=reply)]))
    await asyncio.sleep(0.05)
    assert running.stop("interrupted") == [1, 2]
    assert await asyncio.wait_for(task, 2) == "interrupted"
    assert "Judged" in kinds(memory, 0)
    assert kinds(memory, 1) == kinds(memory, 2) == ["Asked"]


async def test_a_step_can_be_dropped_before_its_member_is_asked() -> None:
    """An interrupt may come between a step's first event and its task's first line: nobody is asked then, nor paid."""
    memory, hands = Memory(steps=100), Hands()
    running = search(memory, hands, in_flight=3)
    pending = Asked(step=0, member="scripted", prompt=Prompt(system="", user="", kind="rewrite"))
    task = asyncio.create_task(running.run([Pending(asked=pending)]))
    await asyncio.sleep(0)  # one turn: the steps have begun and not yet come to their members
    assert running.stop("interrupted") == [0, 1, 2]
    assert await asyncio.wait_for(task, 2) == "interrupted"
    assert [type(e).__name__ for e in memory.events] == ["Asked", "Asked"]


async def test_a_pending_step_is_taken_up_where_it_was_left() -> None:
    memory, hands = Memory(steps=0), Hands()
    asked = Asked(step=1, member="scripted", prompt=Prompt(system="", user="", kind="rewrite"))
    paid = Reply(member="scripted", text="# fake: score=2\n", cost_usd=1.0)
    seed = Candidate(step=0, source="# fake: score=1\n", member="seed", kind="seed")
    unconfirmed = Attempt(candidate=seed, evaluation=FakeBackend().evaluate(Job(candidate=seed)))
    memory.append(Judged(step=0, candidate=seed, evaluation=unconfirmed.evaluation))
    await search(memory, hands).run([Pending(attempt=unconfirmed), Pending(asked=asked, reply=paid)])
    assert [mode for mode, _ in hands.judged] == ["confirm", "judge", "confirm"]
    assert not any(isinstance(e, Replied) for e in memory.events), "a paid reply is not asked for again"


async def test_nobody_is_judged_before_the_seed_is_confirmed() -> None:
    rivals: list[bool] = []

    class Watching(Hands):
        async def evaluate(self, job: Job) -> Evaluation:
            if job.mode == "judge":
                rivals.append(job.incumbent is not None)
            return await super().evaluate(job)

    memory = Memory(steps=3, answer=lambda step: "# fake: score=0.9\n")
    seed = Candidate(step=0, source="# fake: score=1\n", member="seed", kind="seed")
    unconfirmed = Attempt(candidate=seed, evaluation=FakeBackend().evaluate(Job(candidate=seed)))
    memory.append(Judged(step=0, candidate=seed, evaluation=unconfirmed.evaluation))
    await search(memory, Watching(delay=0.01), in_flight=3, replies=3).run([Pending(attempt=unconfirmed)])
    assert rivals == [True] * 3


async def test_confirmations_come_one_at_a_time_and_must_beat_the_newest_best() -> None:
    memory = Memory(steps=4, answer=lambda step: f"# fake: score={2 - step / 10}\n")
    hands = Hands(delay=0.01)
    await search(memory, hands, in_flight=4, replies=4).run()
    assert hands.most == 4
    assert memory.best
    assert memory.best.score == pytest.approx(1.9)
    assert sum(mode == "confirm" for mode, _ in hands.judged) == 1, "the worse three no longer contend"


async def test_a_confirmation_carries_the_parameters_that_were_judged() -> None:
    jobs: list[Job] = []
    chosen = {"BLOCK_M": 128, "num_warps": 8}

    class Tuned(Hands):
        async def evaluate(self, job: Job) -> Evaluation:
            jobs.append(job)
            found = await super().evaluate(job)
            return replace(found, measurements=tuple(replace(m, parameters=chosen) for m in found.measurements))

    await search(Memory(steps=1, answer=lambda step: "# fake: score=2\n"), Tuned()).run()
    judged, confirmed = jobs
    assert (judged.mode, judged.parameters) == ("judge", {})
    assert confirmed.mode == "confirm"
    assert confirmed.parameters
    assert all(p == chosen for p in confirmed.parameters.values())


async def test_warnings_become_events() -> None:
    memory = Memory(steps=1, say=["twenty steps without a PASSED"])
    await search(memory, Hands()).run()
    assert [e.text for e in memory.events if isinstance(e, Noted)] == ["twenty steps without a PASSED"]


def test_random_seeds_depend_on_the_secret() -> None:
    assert seeds_of("a", "00001-x") == seeds_of("a", "00001-x")
    assert set(seeds_of("a", "00001-x")).isdisjoint(seeds_of("b", "00001-x"))
