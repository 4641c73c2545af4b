"""The council: picks who is asked and for what, asks, and keeps account of what came of it.

What it knows is a fold over events, its members' memory included (a member with an `observe` gets every event), and
each choice derives from (random_seed, step). A member that breaks for its own reasons costs one empty reply: no
candidate its verdict, and no other member its turn.

What it deliberately does not do: retry (a member's own affair), write prompts, or read replies.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from evolve.council.standings import Standings
from evolve.council.weights import Adaptive, Arm, Fixed, Kinds, Weights
from evolve.errors import ConfigError, EvolveError, MemberUnavailable
from evolve.types import Draw, Event, Member, Prompt, Reply

RULE = "rule"  # the kind of members that rewrite the parent by themselves and read no prompt
DRAFT = "draft"  # the kind of every first candidate; what follows is never a draft
USUAL: Kinds = {"diff": 5.0, "rewrite": 2.0, "crossover": 1.0, "fix": 1.0, "explore": 1.0}
# What other people's code raises when it breaks. Not MemberUnavailable, which is caught first and passes the turn on.
BREAKS = (EvolveError, ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A member's place: the name that its candidates carry, and how often it is asked for what."""

    name: str
    member: Member
    weight: float = 1.0
    kinds: Kinds = field(default_factory=lambda: dict(USUAL))

    @property
    def prompted(self) -> bool:
        return any(weight > 0 for kind, weight in self.kinds.items() if kind != RULE)

    def arm(self, draw: Draw) -> Arm | None:
        """What it may be asked to do with this draw, if anything."""
        kinds = {kind: weight for kind, weight in self.kinds.items() if weight > 0 and fits(kind, draw)}
        if self.prompted and draw.parent is None:
            kinds = {DRAFT: 1.0}
        elif self.prompted and not kinds:  # nothing to fix or to cross yet: it may still improve what there is
            kinds = {"diff": 1.0}
        return Arm(member=self.name, weight=self.weight, kinds=kinds) if kinds else None


def fits(kind: str, draw: Draw) -> bool:
    if kind == DRAFT or draw.parent is None:
        return kind == DRAFT and draw.parent is None
    if kind == "fix":
        return bool(draw.failures)
    return bool(draw.inspirations) if kind == "crossover" else True


class Council:
    def __init__(
        self,
        members: Sequence[Seat],
        *,
        weights: Literal["fixed", "adaptive"] = "fixed",
        when_resting: Literal["wait", "rules"] = "wait",
        random_seed: int,
    ) -> None:
        names = [seat.name for seat in members]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise ConfigError(f'council: two members are named "{twice}"; give each a `name` of its own.')
        self.seats = {seat.name: seat for seat in members if seat.weight > 0}
        if not self.seats:
            raise ConfigError("council: no member has a weight above 0, so nobody would ever be asked.")
        self.random_seed, self.when_resting = random_seed, when_resting
        self.weights: Weights = Adaptive() if weights == "adaptive" else Fixed()
        self.standings = Standings(self.weights, frozenset(self.seats))
        watching = (getattr(seat.member, "observe", None) for seat in self.seats.values())
        self._observers: list[Callable[[Event], None]] = [observe for observe in watching if observe]
        self._said: list[str] = []
        self._absent: set[str] = set()  # members whose absence was said
        self._paused_until = 0.0
        self.told: Callable[[str, int], None] | None = None  # who puts a pause on record

    # --- Choosing -------------------------------------------------------------------------------------------------

    def choose(self, draw: Draw) -> tuple[str, str]:
        """A member and an edit kind."""
        arms = [arm for seat in self.seats.values() if (arm := seat.arm(draw))]
        # Waiting for a person must not hold up the others: a member with a `busy` is passed over while it is.
        arms = [a for a in arms if not getattr(self.seats[a.member].member, "busy", False)] or arms
        if not arms:
            raise ConfigError(
                "council: there is no seed yet, and no member can draft one: rules rewrite what there is. "
                "Give `seeds:` a file, or add a member that writes."
            )
        return self.weights.pick(arms, random.Random(f"{self.random_seed}/{draw.step}/council"))

    # --- Asking ---------------------------------------------------------------------------------------------------

    async def ask(self, member: str, draw: Draw, prompt: Prompt) -> Reply:
        """The member's reply, or another's if it cannot be asked now. While everyone rests it waits; it raises
        MemberUnavailable if nobody comes back by itself."""
        while True:
            try:
                return await self._ask(member, draw, prompt)
            except MemberUnavailable as absent:
                if absent.again_in is None:
                    raise
                self._pause(absent, draw.step)
                await asyncio.sleep(absent.again_in)

    def _pause(self, absent: MemberUnavailable, step: int) -> None:
        """Said at once: while everyone waits no verdict comes with which it could be said. One rest, one sentence."""
        now = time.monotonic()
        if now >= self._paused_until and self.told:
            self.told(f"The run pauses where it needs a reply, and goes on in {absent.again_in:.0f} s. {absent}", step)
        self._paused_until = max(self._paused_until, now + (absent.again_in or 0.0))

    async def _ask(self, member: str, draw: Draw, prompt: Prompt) -> Reply:
        reasons = []
        waits: list[float] = []
        for seat in self._line(member, draw, prompt):
            try:
                reply = await seat.member.ask(draw, prompt)
            except MemberUnavailable as absent:
                reasons.append((seat.name, str(absent)))
                waits += [absent.again_in] if absent.again_in is not None else []
                continue
            except BREAKS as error:
                reply = _empty(seat.name, f"error: {type(error).__name__}: {error}")
            self._absent.discard(seat.name)
            self._say_absent(reasons, draw.step, instead=seat.name)
            return checked(reply, seat.name)
        self._say_absent(reasons, draw.step, instead=None)
        raise MemberUnavailable(
            f"Nobody in the council can be asked for step {draw.step}. {_told(reasons)}",
            again_in=min(waits, default=None),
        )

    def _line(self, first: str, draw: Draw, prompt: Prompt) -> list[Seat]:
        """The member itself, then who might take its place, by weight. The prompt is written, so whoever reads none
        cannot stand in for one who does, nor the other way round; but rules may, at last, where the YAML says so."""
        others = [s for n, s in self.seats.items() if n != first and s.prompted == (prompt.kind != RULE)]
        random.Random(f"{self.random_seed}/{draw.step}/line").shuffle(others)
        others.sort(key=lambda s: -s.weight)
        own = [self.seats[first]] if first in self.seats else []  # a resumed run may have lost it from its YAML
        rules = self.when_resting == "rules" and prompt.kind != RULE and draw.parent is not None
        return own + others + [s for s in self.seats.values() if rules and not s.prompted]

    def _say_absent(self, reasons: list[tuple[str, str]], step: int, *, instead: str | None) -> None:
        fresh = [reason for reason in reasons if reason[0] not in self._absent]
        self._absent.update(name for name, _ in fresh)
        if fresh and instead:
            self._said.append(f'{_told(fresh)} From step {step} on, "{instead}" or another is asked in its place.')

    async def close(self) -> None:
        """At the end of a run, in its loop: connections and the like. A member needs a `close` only if it has some."""
        for seat in self.seats.values():
            if close := getattr(seat.member, "close", None):
                with suppress(*BREAKS):  # the run is over, whatever this one says to it
                    await close()

    # --- Accounts -------------------------------------------------------------------------------------------------

    def observe(self, event: Event) -> None:
        self.standings.observe(event)
        for observe in self._observers:
            observe(event)

    def warnings(self) -> list[str]:
        """Sentences on what goes wrong in silence, each once: the loop notes them down."""
        said, self._said = self._said, []
        return said + self.standings.warnings()

    def shares(self, draw: Draw) -> Mapping[str, float]:
        """How often each member may expect to be asked now, of 1; for display."""
        arms = [arm for seat in self.seats.values() if (arm := seat.arm(draw))]
        if isinstance(self.weights, Adaptive):
            return self.weights.shares(arms)
        total = sum(arm.weight for arm in arms)
        return {arm.member: arm.weight / total for arm in arms}


def _empty(member: str, why: str) -> Reply:
    return Reply(member=member, text="", finish_reason=why)


def _told(reasons: list[tuple[str, str]]) -> str:
    return " ".join(f'"{name}" is unavailable: {why.rstrip(".")}.' for name, why in reasons)


def checked(reply: object, seat: str) -> Reply:
    """A reply that can be kept: under the seat's name, with figures that add up. Anything else is an empty one."""
    if not isinstance(reply, Reply):
        return _empty(seat, f"error: the member returned a {type(reply).__name__}; expected a Reply")
    texts = (reply.text, reply.model, reply.hypothesis, reply.finish_reason)
    if not all(isinstance(text, str) for text in texts):
        return _empty(seat, "error: text, model, hypothesis and finish_reason of a reply must be strings")
    if not all(_counts(n) for n in (reply.tokens_in, reply.tokens_out, reply.cost_usd, reply.seconds)):
        return _empty(seat, "error: tokens, cost and seconds of a reply must be finite numbers, not below 0")
    if not reply.text.strip() and reply.finish_reason in ("", "stop"):
        reply = replace(reply, finish_reason="the reply was empty")
    return reply if reply.member == seat else replace(reply, member=seat)


def _counts(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and number >= 0
