"""A member that says what it was told to: for documentation, tests, and trying out a judge.

A list is given out in the order in which it is asked, and that order is part of the journal: a resumed run goes on
with the reply that comes next. A function is called with the draw and the prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

from evolve.errors import ConfigError
from evolve.types import Asked, Draw, Event, Judged, Prompt, Replied, Reply

Script: TypeAlias = Sequence[str | Reply] | Callable[[Draw, Prompt], str | Reply]


class ScriptedMember:
    """`seconds` is how long it takes to answer, `cost_usd` and `tokens` what each answer is said to cost."""

    def __init__(
        self, replies: Script, *, name: str = "scripted", seconds: float = 0.0, cost_usd: float = 0.0, tokens: int = 0
    ) -> None:
        if isinstance(replies, str) or (not callable(replies) and not replies):
            raise ConfigError(f'council: member "{name}": replies is {replies!r}; expected a list of texts.')
        self._replies = replies
        self._name = name
        self._seconds = seconds
        self._cost_usd = cost_usd
        self._tokens = tokens
        self._turns: dict[int, int] = {}  # step -> its place in the list
        self._next = 0

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        said = self._say(draw, prompt)
        await asyncio.sleep(self._seconds)
        if isinstance(said, Reply):
            return said
        return Reply(
            member=self._name,
            text=said,
            model="scripted",
            finish_reason="stop" if said.strip() else "the script has an empty reply here",
            tokens_out=self._tokens,
            cost_usd=self._cost_usd,
            seconds=self._seconds,
        )

    def _say(self, draw: Draw, prompt: Prompt) -> str | Reply:
        if callable(self._replies):
            return self._replies(draw, prompt)
        turn = self._turn(draw.step)
        if turn < len(self._replies):
            return self._replies[turn]
        return Reply(member=self._name, text="", finish_reason=f"the script ended after {len(self._replies)} replies")

    def _turn(self, step: int) -> int:
        if step not in self._turns:
            self._turns[step] = self._next
            self._next += 1
        return self._turns[step]

    def observe(self, event: Event) -> None:
        """Turns are given out when a step is asked (or answered in another's place), so that a replay gives them out
        alike. A step that was asked and not answered keeps its turn."""
        match event:
            case Asked() if event.member == self._name:
                self._turn(event.step)
            case Replied() if event.reply.member == self._name:
                self._turn(event.step)
            case Judged():
                self._turns.pop(event.step, None)
            case _:
                pass
