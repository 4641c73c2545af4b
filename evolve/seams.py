"""What the loop needs of its four partners, as protocols, so that it imports none of them.

`Member` and `Executor`, the seams that a user may fill from YAML, stand in `types.py` beside the nouns they exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from evolve.types import Asked, Attempt, Draw, Evaluation, Event, Prompt, Reply


class Observer(Protocol):
    """Whoever keeps a state that is a fold over events."""

    def observe(self, event: Event) -> None: ...


class Journal(Protocol):
    def append(self, event: Event) -> int: ...

    def attempt(self, candidate_id: str) -> Attempt: ...


class Population(Observer, Protocol):
    def ask(self, step: int) -> Draw: ...

    def contends(self, evaluation: Evaluation) -> bool: ...

    @property
    def best(self) -> Attempt | None: ...

    @property
    def known(self) -> Mapping[str, str]: ...


class Council(Observer, Protocol):
    def choose(self, draw: Draw) -> tuple[str, str]: ...

    async def ask(self, member: str, draw: Draw, prompt: Prompt) -> Reply: ...

    def warnings(self) -> list[str]: ...


class Budget(Observer, Protocol):
    def spent(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A step that an earlier session began: how far it came."""

    asked: Asked | None = None
    reply: Reply | None = None
    attempt: Attempt | None = None  # judged, and still to be confirmed
