"""Events with their place, and all events of one step put together. How they are read is `journal.py`'s affair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from evolve.seams import Pending
from evolve.types import Asked, Attempt, Confirmed, Evaluation, Event, Judged, Noted, Replied


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """An event with its place in the journal and the time it was committed."""

    seq: int
    at: float
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """All that is on record of one step."""

    step: int
    asked: Asked | None = None
    replied: Replied | None = None
    judged: Judged | None = None
    confirmed: tuple[Confirmed, ...] = ()
    noted: tuple[Noted, ...] = ()

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The first one first; the last one counts."""
        first = (self.judged.evaluation,) if self.judged else ()
        return (*first, *(c.evaluation for c in self.confirmed))

    @property
    def attempt(self) -> Attempt | None:
        if self.judged is None or self.judged.candidate is None:
            return None
        return Attempt(candidate=self.judged.candidate, evaluation=self.evaluations[-1])


def turn_of(step: int, events: Iterable[Event]) -> Turn:
    """Of several askings the last counts: the earlier ones came to nothing."""
    found: dict[str, Any] = {}
    confirmed: list[Confirmed] = []
    noted: list[Noted] = []
    for event in events:
        match event:
            case Asked():
                found |= {"asked": event, "replied": None}
            case Replied():
                found["replied"] = event
            case Judged():
                found["judged"] = event
            case Confirmed():
                confirmed.append(event)
            case Noted():
                noted.append(event)
    return Turn(step=step, confirmed=tuple(confirmed), noted=tuple(noted), **found)


def pending_of(turn: Turn) -> Pending:
    reply = turn.replied.reply if turn.replied else None
    return Pending(asked=turn.asked, reply=reply, attempt=turn.attempt)
