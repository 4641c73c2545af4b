"""The member contract can fail: each of these members breaks one promise, and the test that guards it says so."""

import asyncio
import random
import time
from dataclasses import dataclass, field

import pytest

from evolve.council.contract import MemberContract
from evolve.errors import MachineryError, MemberUnavailable
from evolve.types import Asked, Draw, Event, Member, Prompt, Replied, Reply

KEPT: list[asyncio.Task[None]] = []


@dataclass
class Good:
    name: str = "good"

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        await asyncio.sleep(0)
        return Reply(member=self.name, text="x = 1")


class SaysNothingWhy(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member=self.name, text=" \n")


class Anonymous(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member="someone else", text="x")


class CostsNaN(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member=self.name, text="x", cost_usd=float("nan"))


class NeedsAParent(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        assert draw.parent
        return Reply(member=self.name, text=draw.parent.candidate.source)


class Sulks(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        raise MemberUnavailable


class Blocks(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        time.sleep(0.3)
        return Reply(member=self.name, text="x")


class Rolls(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member=self.name, text=str(random.random()))


class Litters(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        KEPT.append(asyncio.ensure_future(asyncio.sleep(0.2)))
        return Reply(member=self.name, text="x")


class TurnsCancellationIntoAnError(Good):
    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            raise MachineryError("cancelled?") from None
        return Reply(member=self.name, text="x")


@dataclass
class OneAtATime(Good):
    busy: bool = False

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        if self.busy:
            raise RuntimeError("one at a time, please")
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return Reply(member=self.name, text="x")


@dataclass
class SharesOneCall(Good):
    """A cancelled ask takes the others with it."""

    call: list[asyncio.Task[None]] = field(default_factory=list)

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        if not self.call or self.call[0].done():
            self.call[:] = [asyncio.ensure_future(asyncio.sleep(0.01))]
        await self.call[0]
        return Reply(member=self.name, text="x")


class ReadsPromptsOfAReplay(Good):
    def observe(self, event: Event) -> None:
        if isinstance(event, Asked):
            event.prompt.user.splitlines()[0]


async def run(case: MemberContract, test: str) -> None:
    found = getattr(case, test)()
    if found is not None:
        await found


@dataclass
class LearnsFromTexts(Good):
    learned: int = 0

    def observe(self, event: Event) -> None:
        if isinstance(event, Replied):
            self.learned += len(event.reply.text)

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        return Reply(member=self.name, text=f"after {self.learned} letters")


@pytest.mark.parametrize(
    ("member", "test"),
    [
        (Good(name=""), "test_has_a_name_that_stays"),
        (Sulks(), "test_replies"),
        (SaysNothingWhy(), "test_replies"),
        (Anonymous(), "test_replies"),
        (CostsNaN(), "test_replies"),
        (NeedsAParent(), "test_copes_with_every_shape_of_draw"),
        (OneAtATime(), "test_answers_several_at_once"),
        (TurnsCancellationIntoAnError(), "test_bears_cancellation_at_any_moment"),
        (SharesOneCall(), "test_a_cancelled_ask_disturbs_no_other"),
        (Litters(), "test_leaves_no_task_behind"),
        (Blocks(), "test_does_not_hold_up_the_loop"),
        (Rolls(), "test_leaves_global_randomness_alone"),
        (ReadsPromptsOfAReplay(), "test_takes_any_event"),
        (LearnsFromTexts, "test_a_replay_restores_it"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
async def test_a_broken_promise_is_caught(member: Member | type[Member], test: str) -> None:
    class Case(MemberContract):
        stall = 0.2

        def member(self) -> Member:
            return member() if isinstance(member, type) else member

    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        await run(Case(), test)
    for task in KEPT:
        task.cancel()


async def test_a_good_member_passes_all_of_it() -> None:
    class Case(MemberContract):
        def member(self) -> Member:
            return Good()

    for name in dir(Case):
        if name.startswith("test_"):
            await run(Case(), name)
