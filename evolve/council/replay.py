"""A member that gives an earlier run's replies again, for nothing: against a new judge, another GPU, other workloads.

A reply belongs to its step. What the new run draws for that step may differ, for its verdicts do; then an edit may
find nothing to change and is UNREADABLE, as it would be from anyone. Costs and tokens are those of now: none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from evolve.types import Draw, Event, Prompt, Replied, Reply


class ReplayMember:
    def __init__(self, replies: Mapping[int, Reply], *, name: str = "replay", source: str = "the recorded run") -> None:
        self._replies = dict(replies)
        self._name = name
        self._source = source

    @classmethod
    def of_events(
        cls, events: Iterable[Event], *, name: str = "replay", source: str = "the recorded run"
    ) -> ReplayMember:
        """The last reply of a step counts: it is the one that was judged."""
        return cls({e.step: e.reply for e in events if isinstance(e, Replied)}, name=name, source=source)

    @classmethod
    def of_run(cls, run: str, *, name: str = "replay") -> ReplayMember:
        """A run by its folder or its name, as everywhere on the command line."""
        from evolve.journal import Journal
        from evolve.runs import find_run

        folder: Path = find_run(run)
        with Journal.open(folder) as journal:
            return cls.of_events((logged.event for logged in journal.events()), name=name, source=str(folder))

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        recorded = self._replies.get(draw.step)
        if recorded is None:
            last = max(self._replies, default=None)
            why = f"{self._source} has no reply for step {draw.step}; its last is for step {last}"
            return Reply(member=self._name, text="", finish_reason=why)
        empty = not recorded.text.strip() and recorded.finish_reason in ("", "stop")
        return replace(
            recorded,
            member=self._name,
            model=recorded.model or recorded.member,
            finish_reason="the recorded reply is empty" if empty else recorded.finish_reason,
            tokens_in=0,
            tokens_out=0,
            cost_usd=0.0,
            seconds=0.0,
        )
