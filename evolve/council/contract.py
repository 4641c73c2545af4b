"""What a member owes the council, as tests. Make a subclass named Test..., give it a `member()`, and run pytest:

    class TestMine(MemberContract):
        def member(self) -> Member:
            return MyMember(...)

The loop relies on each of these. They say nothing about whether a reply is any good.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

from evolve.errors import MemberUnavailable
from evolve.types import (
    Asked,
    Attempt,
    Candidate,
    Draw,
    Evaluation,
    Event,
    Judged,
    Measurement,
    Member,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

T = TypeVar("T")

SOURCE = """\
import torch
import triton
import triton.language as tl

# EVOLVE-BLOCK-START
TUNE = {"BLOCK": (128, 256), "num_warps": (4, 8)}


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, 2 * tl.load(x_ptr + at, mask=at < n), mask=at < n)


def double(x, *, BLOCK=128, num_warps=4):
    out = torch.empty_like(x)
    double_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), BLOCK=BLOCK, num_warps=num_warps)
    return out
# EVOLVE-BLOCK-END
"""


class MemberContract:
    """Override `member`; also `draw` and `prompt` if yours cannot work with these, and the two bounds if it is slow."""

    patience = 10.0  # seconds for one reply
    stall = 0.5  # seconds for which the event loop may stand still: the GPU waits for nobody

    def member(self) -> Member:
        raise NotImplementedError("return the member that is to be held to the contract")

    def draw(self, step: int = 1) -> Draw:
        parent = _attempt(0, SOURCE, Verdict.PASSED)
        other = _attempt(2, SOURCE.replace("BLOCK=128", "BLOCK=256"), Verdict.PASSED)
        failure = _attempt(3, SOURCE.replace("2 *", "3 *"), Verdict.INCORRECT)
        return Draw(step=step, island=0, parent=parent, inspirations=(other,), failures=(failure,))

    def prompt(self, draw: Draw) -> Prompt:
        shown = f"\n```python\n{draw.parent.candidate.source}```" if draw.parent else ""
        kind = "diff" if draw.parent else "draft"
        return Prompt(system="You write Triton kernels.", user=f"Make it faster.{shown}", kind=kind)

    async def ask(self, member: Member, draw: Draw) -> Reply | None:
        """The reply, or None if the member says that it cannot be asked. Anything else is a breach."""
        try:
            async with asyncio.timeout(self.patience):  # not wait_for, whose own task would hide how ours is cancelled
                reply = await member.ask(draw, self.prompt(draw))
        except MemberUnavailable as absent:
            why = str(absent)
        else:
            _sound(reply, member)
            return reply
        assert why, "MemberUnavailable says why: the sentence is shown"
        return None

    # --- The contract ---------------------------------------------------------------------------------------------

    def test_has_a_name_that_stays(self) -> None:
        member = self.member()
        assert member.name, "candidates carry the member's name"
        assert member.name == member.name.strip() == self.member().name, "the same configuration, the same name"

    async def test_replies(self) -> None:
        assert await self.ask(self.member(), self.draw()) is not None, "it must be able to answer an ordinary draw"

    async def test_copes_with_every_shape_of_draw(self) -> None:
        full, member = self.draw(), self.member()
        for step, draw in enumerate(
            (
                Draw(step=0, island=0),
                replace(full, inspirations=(), failures=()),
                replace(full, failures=()),
                replace(full, inspirations=()),
                full,
            ),
            start=1,
        ):
            await self.ask(member, replace(draw, step=step))

    async def test_answers_several_at_once(self) -> None:
        member = self.member()
        replies = await asyncio.gather(*(self.ask(member, self.draw(step)) for step in range(1, 17)))
        assert len(replies) == 16

    async def test_bears_cancellation_at_any_moment(self) -> None:
        member = self.member()
        for turns in (0, 1, 2, 5):
            task = asyncio.ensure_future(self.ask(member, self.draw(turns + 1)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            began = time.monotonic()
            await asyncio.wait([task], timeout=5)
            assert task.done(), "a cancelled ask comes to its end"
            assert task.cancelled() or task.exception() is None, "cancelling raises nothing but CancelledError"
            assert time.monotonic() - began < 2, "and soon: a person pressed Ctrl-C"
        await self.ask(member, self.draw(100))

    async def test_a_cancelled_ask_disturbs_no_other(self) -> None:
        member = self.member()
        tasks = [asyncio.ensure_future(self.ask(member, self.draw(step))) for step in range(1, 9)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results[1::2]:
            assert not isinstance(result, BaseException), f"another's ask ended with {result!r}"

    async def test_leaves_no_task_behind(self) -> None:
        member, before = self.member(), asyncio.all_tasks()
        await self.ask(member, self.draw())
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before, "what an ask starts, it ends"

    async def test_does_not_hold_up_the_loop(self) -> None:
        member = self.member()
        await self.ask(member, self.draw())  # imports and first connections
        gap = await _longest_gap(asyncio.gather(*(self.ask(member, self.draw(step)) for step in range(2, 6))))
        assert gap < self.stall, f"the loop stood still for {gap:.2f} s: wait with await, compute in a thread"

    async def test_leaves_global_randomness_alone(self) -> None:
        member, before = self.member(), random.getstate()
        await self.ask(member, self.draw())
        assert random.getstate() == before, "randomness derives from (random_seed, step), not from `random`"

    async def test_takes_any_event(self) -> None:
        """Only if it has an `observe`. A replay leaves prompts and texts of replies unread."""
        member, draw = self.member(), self.draw(7)
        observe = getattr(member, "observe", None)
        if observe is None:
            return
        asked = Asked(step=7, member=member.name, prompt=Prompt(system="", user="", kind="diff"))
        wrong = Evaluation(verdict=Verdict.INCORRECT)
        passed = _attempt(9, SOURCE, Verdict.PASSED)
        events: list[Event] = [
            Noted(what="started", text="began"),
            asked,
            Replied(step=7, reply=Reply(member=member.name, text="")),
            Judged(step=7, evaluation=Evaluation(verdict=Verdict.UNREADABLE)),
            Judged(step=8, evaluation=wrong, candidate=_attempt(8, "x = 1\n", Verdict.INCORRECT).candidate),
            Judged(step=9, evaluation=passed.evaluation, candidate=passed.candidate),
        ]
        for event in events:
            observe(event)
        await self.ask(member, replace(draw, step=10))

    async def test_a_replay_restores_it(self) -> None:
        """Only if it has an `observe`: a resumed run goes on as an uninterrupted one would."""
        lived, restored = self.member(), self.member()
        observe, restore = getattr(lived, "observe", None), getattr(restored, "observe", None)
        if observe is None or restore is None:
            return
        for step in range(1, 13):
            draw = self.draw(step)
            reply = await self.ask(lived, draw)
            for event in _story(lived, reply, draw) if reply else ():
                observe(event)
                restore(_unread(event))
        for step in range(13, 19):
            one, other = await self.ask(lived, self.draw(step)), await self.ask(restored, self.draw(step))
            assert one == other, f"step {step}: what a member learns, it learns from events, and not from their texts"


def _story(member: Member, reply: Reply, draw: Draw) -> list[Event]:
    """What the run commits of one step: the reply was read, judged, and found wanting or well."""
    source = reply.text.split("```python\n", 1)[-1].rsplit("```", 1)[0] or f"x = {draw.step}\n"
    made = _attempt(draw.step, source, Verdict.PASSED if draw.step % 2 else Verdict.INCORRECT)
    parent = draw.parent.id if draw.parent else None
    candidate = replace(made.candidate, member=member.name, parent_id=parent)
    return [
        Asked(step=draw.step, member=member.name, prompt=Prompt(system="", user="words", kind="diff")),
        Replied(step=draw.step, reply=reply),
        Judged(step=draw.step, candidate=candidate, evaluation=made.evaluation),
    ]


def _unread(event: Event) -> Event:
    """As a replay sees it."""
    match event:
        case Asked():
            return replace(event, prompt=replace(event.prompt, system="", user=""))
        case Replied():
            return replace(event, reply=replace(event.reply, text=""))
        case _:
            return event


def _sound(reply: object, member: Member) -> None:
    assert isinstance(reply, Reply), f"ask returned a {type(reply).__name__}"
    assert reply.member == member.name, "a reply carries its member's name"
    assert isinstance(reply.text, str)
    if not reply.text.strip():
        assert reply.finish_reason not in ("", "stop"), "an empty reply says why in finish_reason"
    for figure in (reply.tokens_in, reply.tokens_out, reply.cost_usd, reply.seconds):
        assert math.isfinite(figure), "budgets add these up"
        assert figure >= 0, "budgets add these up"


async def _longest_gap(work: Awaitable[T]) -> float:
    """The longest time for which the event loop did not get its turn."""
    longest, done = 0.0, asyncio.ensure_future(work)
    last = time.monotonic()
    while not done.done():
        await asyncio.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    await done
    return longest


def _attempt(step: int, source: str, verdict: Verdict) -> Attempt:
    candidate = Candidate(step=step, source=source, member="seed", kind="seed" if step == 0 else "diff")
    measured = Measurement(workload="large", baseline="eager", time_us=10.0, ratio=1.0, ratio_low=0.99, ratio_high=1.01)
    evaluation = Evaluation(
        verdict=verdict,
        measurements=(measured,) if verdict is Verdict.PASSED else (),
        feedback="" if verdict is Verdict.PASSED else "large: error 3.1 times its bound.",
    )
    return Attempt(candidate=candidate, evaluation=evaluation)
