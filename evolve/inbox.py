"""What others bring to a run while it is written: orders and replies as files in its mailbox, taken in by its writer.

    mailbox/ask-ID.json      hand out prompts to someone          {"count": 16, "member": "hand"}
    mailbox/judge-ID.json    judge a candidate                    {"source", "parent", "hypothesis", "member"}
    mailbox/00042.reply.md   the reply to a prompt handed out

A file appears whole, by renaming, or is left until it has settled. Each order becomes ordinary steps, asked, replied
and judged, and a note that names them, by which whoever gave the order finds them. Handed-out steps wait in no lane:
nobody else is held up, and a resumed run still knows them.

Who writes such files, and what happens when nobody writes the run, is `byhand.py`'s affair.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evolve.config import RunConfig
from evolve.council.council import Seat
from evolve.council.mailbox import SETTLED, fingerprint, reply_in
from evolve.council.weights import by_weight
from evolve.errors import JournalError
from evolve.journal import Journal
from evolve.loop import Search
from evolve.seams import Pending
from evolve.types import Asked, Attempt, Draw, Noted, Prompt, Replied, Reply

BOX = "mailbox"
LOOK = 0.5  # seconds between two looks
TAKEN, HANDED = "taken in", "handed out"
MOST_PROMPTS = 1000
MOST_BYTES = 4 * 2**20
AGAIN = "again"  # what leads elsewhere, measured for another ranking: its member and its kind
KIND = "rewrite"  # of what was proposed unasked: it is a whole file
NAME = re.compile(r"[\w.:@+-]{1,60}")


class Fault(Exception):
    """What is wrong with an order, for whoever wrote it."""


@dataclass(kw_only=True)
class Inbox:
    search: Search
    folder: Path  # of the run
    seats: frozenset[str]
    random_seed: int
    kinds: Mapping[str, float]
    settled: float = SETTLED
    handed: dict[int, Asked] = field(default_factory=dict)  # steps that wait for someone
    verdicts: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _seen: dict[Path, tuple[object, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, search: Search, config: RunConfig, *, settled: float = SETTLED) -> Inbox:
        journal = search.journal
        assert isinstance(journal, Journal)
        seats = frozenset(m.name for m in config.council)
        made = cls(
            search=search, folder=journal.folder, seats=seats, random_seed=config.random_seed,
            kinds=config.prompt.kinds, settled=settled,
        )  # fmt: skip
        out = handed_out(journal)
        made.handed = {p.asked.step: p.asked for p in journal.pending() if p.asked and made._waits(p, out)}
        return made

    def _waits(self, begun: Pending, out: set[int]) -> bool:
        return bool(begun.asked and begun.asked.step in out and not begun.reply and not begun.attempt)

    def holds(self, begun: Pending) -> bool:
        """Steps that this takes care of, and no member is to be asked for."""
        return bool(begun.asked and begun.asked.step in self.handed)

    async def watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK)

    async def rest(self) -> None:
        """What was taken in comes to its end."""
        if self.verdicts:
            await asyncio.gather(*self.verdicts.values())

    def look(self) -> None:
        box = self.folder / BOX
        if not box.is_dir():
            return
        for path in sorted(box.glob("ask-*.json")) + sorted(box.glob("judge-*.json")):
            settled = self._has_settled(path)
            if settled or _whole(path):  # ours appear whole
                self._order(path)
        for step in list(self.handed):
            if self._has_settled(answer := box / f"{step:05d}.reply.md"):
                self._begin(self.handed.pop(step), reply_in(answer, member=""))

    def _has_settled(self, path: Path) -> bool:
        found, now = fingerprint(path), time.monotonic()
        if found is None:
            return False
        seen, since = self._seen.get(path, (None, 0.0))
        if found != seen:
            self._seen[path] = (found, now)
            return self.settled == 0 or time.time() - found[2] / 1e9 >= self.settled  # it lay there before we came
        return now - since >= self.settled

    # --- Orders ---------------------------------------------------------------------------------------------------

    def _order(self, path: Path) -> None:
        self._seen.pop(path, None)
        kind, _, name = path.stem.partition("-")
        steps: list[int] = []
        try:
            order = _read(path)
            member = self._member(order)
            steps = self._hand_out(order, member) if kind == "ask" else [self._propose(order, member)]
            what = f"{member} was handed {len(steps)} prompts" if kind == "ask" else f"{member} proposed a candidate"
            text = f"{what}: step {', '.join(map(str, steps[:3]))}{' and on' if len(steps) > 3 else ''}."
            data: dict[str, Any] = {"order": name, "steps": steps}
        except Fault as fault:
            text, data = f"{path.name} was refused: {fault}", {"order": name, "fault": str(fault)}
        path.unlink(missing_ok=True)
        self.search.commit(Noted(what=TAKEN, text=text, data=data, step=steps[0] if steps else None))

    def _member(self, order: Mapping[str, Any]) -> str:
        member = order.get("member")
        if not isinstance(member, str) or not NAME.fullmatch(member) or member == "seed":
            raise Fault(f"member is {str(member)[:60]!r}; expected up to 60 letters, digits and . : @ + - _.")
        if member in self.seats:
            raise Fault(f'"{member}" sits in this run\'s council, and its record is its own; take another name.')
        return member

    def _hand_out(self, order: Mapping[str, Any], member: str) -> list[int]:
        count = order.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_PROMPTS:
            raise Fault(f"count is {count!r}; expected 1 to {MOST_PROMPTS}.")
        steps = []
        for _ in range(count):
            step = self._next()
            draw = self.search.population.ask(step)
            rng = random.Random(f"{self.random_seed}/{step}/council")
            asked = draw.asked(member, self.search.render(draw, by_weight(self._kinds(draw), rng)))
            self.search.commit(asked)
            self.search.commit(Noted(what=HANDED, text=f"Step {step} is handed out to {member}.", step=step))
            self.handed[step] = asked
            steps.append(step)
        return steps

    def _kinds(self, draw: Draw) -> Mapping[str, float]:
        """As for a member that reads prompts: nobody sits there."""
        nobody: Any = None
        arm = Seat(name="", member=nobody, kinds=self.kinds).arm(draw)
        assert arm is not None, "who reads prompts can always be asked for something"
        return arm.kinds

    def _propose(self, order: Mapping[str, Any], member: str) -> int:
        source, hypothesis, parent_id = (order.get(key) for key in ("source", "hypothesis", "parent"))
        if (
            not isinstance(source, str)
            or not isinstance(hypothesis, str)
            or not source.strip()
            or not hypothesis.strip()
        ):
            raise Fault("a proposal has the text of its `source` and a `hypothesis`.")
        draw = Draw(step=self._next(), island=0, parent=self._parent(parent_id) if parent_id is not None else None)
        if draw.parent:
            draw = Draw(step=draw.step, island=draw.parent.candidate.island, parent=draw.parent)
        asked = draw.asked(member, Prompt(system="", user=f"{member} proposed this unasked.", kind=KIND))
        self.search.commit(asked)
        self._begin(asked, Reply(member=member, text=as_reply(source, hypothesis)))
        return asked.step

    def measure_again(self, attempt: Attempt, key: str, words: str) -> None:
        """As a step like any other, so that a crash loses nothing of it."""
        draw = Draw(step=self._next(), island=attempt.candidate.island, inspirations=(attempt,), ranking_key=key)
        asked = draw.asked(AGAIN, Prompt(system="", user=words, kind=AGAIN))
        self.search.commit(asked)
        self._begin(asked, Reply(member=AGAIN, text=as_reply(attempt.candidate.source, words)))

    def _parent(self, name: object) -> Attempt:
        try:
            return self.search.journal.attempt(str(name))
        except JournalError as error:
            raise Fault(str(error)) from error

    def _next(self) -> int:
        step = self.search.next_step
        self.search.next_step += 1
        return step

    def _begin(self, asked: Asked, reply: Reply) -> None:
        reply = replace(reply, member=asked.member)
        self.search.commit(Replied(step=asked.step, reply=reply))
        self.verdicts[asked.step] = asyncio.create_task(self.search.finish(Pending(asked=asked, reply=reply)))


def _whole(path: Path) -> bool:
    try:
        _read(path)
    except Fault:
        return False
    return True


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        order = json.loads(content) if len(content) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise Fault(f"it cannot be read: {error}.") from error
    if not isinstance(order, dict):
        raise Fault("expected one JSON object, of at most 4 MiB.")
    return order


def as_reply(source: str, hypothesis: str) -> str:
    """As a member would write it: within a fence that nothing in the source closes."""
    longest = max((len(run) for run in re.findall(r"`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"Hypothesis: {hypothesis.strip()}\n\n{fence}python\n{source.rstrip()}\n{fence}\n"


def handed_out(journal: Journal) -> set[int]:
    rows = journal.query("SELECT step, body FROM events WHERE kind = 'noted' AND step IS NOT NULL")
    return {step for step, body in rows if json.loads(body)["what"] == HANDED}
