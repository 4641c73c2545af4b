"""A member that is whoever looks into a folder: each prompt is a file, and its answer another beside it.

    mailbox/00042.prompt.md      written by evolve, whole or not at all
    mailbox/00042.reply.md       by a person in an editor, an agent, a batch job

A reply is taken once it has kept its size and time for a moment, so that a half-written one is not. Nothing is kept in
memory that the files do not say: after a resume the same prompt stands there, and a reply written meanwhile is taken.
How many prompts lie unanswered is bounded by `busy`, which the council heeds, so that waiting for a person holds up
nobody else.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import MemberUnavailable
from evolve.journal_disk import replace_file
from evolve.types import Asked, Draw, Event, Judged, Prompt, Replied, Reply

SETTLED = 2.0  # seconds without a change
LOOK = 0.5  # seconds between two looks
MOST_BYTES = 8 * 2**20
MOST_TOKENS = 10**9
HEAD = """\
<!--
Step {step} ({kind}). Answer in {reply}, beside this file: a hypothesis, then the code, as is asked below.
Write it under another name and rename it, or save it in place: it is taken once it has not changed for {settled:g} s.
It may begin with what it cost, each line optional:
---
model: a-name
tokens_in: 1200
tokens_out: 300
cost_usd: 0.02
---
-->

"""
_FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_WHOLE = re.compile(r"\d{1,10}", re.ASCII)
_AMOUNT = re.compile(r"\d{1,9}(\.\d{1,12})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a reply says of itself, and what was wrong with how it says it."""

    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    fault: str = ""


class MailboxMember:
    def __init__(
        self,
        *,
        name: str,
        folder: Path,  # of the run
        timeout: float | None = None,
        slots: int = 1,  # prompts that may lie unanswered before others are asked instead
        settled: float = SETTLED,
        look: float = LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._folder, self._timeout = name, Path(folder) / "mailbox", timeout
        self._slots, self._settled, self._look, self._clock = slots, settled, look, clock
        self._open: set[int] = set()

    @property
    def name(self) -> str:
        return self._name

    @property
    def busy(self) -> bool:
        return len(self._open) >= self._slots

    def observe(self, event: Event) -> None:
        match event:
            case Asked() if event.member == self._name:
                self._open.add(event.step)
            case Replied() | Judged():
                self._open.discard(event.step)
            case _:
                pass

    async def ask(self, draw: Draw, prompt: Prompt) -> Reply:
        letter, answer = (self._folder / f"{draw.step:05d}.{what}.md" for what in ("prompt", "reply"))
        self._post(letter, answer, draw.step, prompt)
        until = math.inf if self._timeout is None else self._clock() + self._timeout
        seen, since = None, 0.0
        while True:
            now, mark = self._clock(), fingerprint(answer)
            if mark != seen:
                seen, since = mark, now
            elif mark is not None and now - since >= self._settled:
                return self._take(letter, answer)
            if now >= until and mark is None:  # one that is being written is waited for
                return self._give_up(letter)
            await asyncio.sleep(self._look)

    def _post(self, letter: Path, answer: Path, step: int, prompt: Prompt) -> None:
        """Found again after a resume; what stands there is what was asked."""
        head = HEAD.format(step=step, kind=prompt.kind, reply=answer.name, settled=self._settled)
        said = head + "\n\n".join(part for part in (prompt.system, prompt.user) if part) + "\n"
        content = said.encode("utf-8", "replace")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not letter.is_file() or letter.read_bytes() != content:
                replace_file(letter, content)
        except OSError as error:
            raise MemberUnavailable(f"{letter} cannot be written: {error.strerror}") from error

    def _take(self, letter: Path, answer: Path) -> Reply:
        return reply_in(answer, member=self._name, letter=letter)

    def _give_up(self, letter: Path) -> Reply:
        letter.unlink(missing_ok=True)  # so that nobody answers in vain
        return Reply(
            member=self._name, text="", finish_reason=f"nobody answered {letter.name} within {self._timeout:g} s"
        )


def reply_in(answer: Path, *, member: str, letter: Path | None = None) -> Reply:
    """What a file says, read as a reply: it may be anything. `letter` is what it answers, for how long that took."""
    try:
        with open(answer, "rb") as file:
            content = file.read(MOST_BYTES + 1)
            written = os.fstat(file.fileno()).st_mtime
    except OSError as error:
        return Reply(member=member, text="", finish_reason=f"{answer.name} cannot be read: {error.strerror}")
    if len(content) > MOST_BYTES:
        why = f"{answer.name} is longer than {MOST_BYTES >> 20} MiB; it was not read"
        return Reply(member=member, text="", finish_reason=why)
    took = 0.0
    with suppress(OSError):  # whoever answered may have put the prompt away
        took = max(0.0, written - letter.stat().st_mtime) if letter else 0.0
    text, stated = read_front(content.decode("utf-8-sig", "replace"))
    why = f"stop; {answer.name}: {stated.fault}" if stated.fault else "stop"
    if not text.strip():
        why = f"{answer.name} says nothing" + (f"; {stated.fault}" if stated.fault else "")
    return Reply(
        member=member,
        text=text,
        model=stated.model,
        finish_reason=why,
        tokens_in=stated.tokens_in,
        tokens_out=stated.tokens_out,
        cost_usd=stated.cost_usd,
        seconds=took,
    )


def fingerprint(answer: Path) -> tuple[int, int, int] | None:
    """What changes when a file does. None if there is nothing to read yet: an editor may begin with an empty one."""
    try:
        found = os.stat(answer)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_front(text: str) -> tuple[str, Stated]:
    """The reply, and what its head states. All of the head counts or none of it: a figure half understood is wrong."""
    front = _FRONT.match(text)
    if front is None:
        return text, Stated()
    found: dict[str, str] = {}
    for number, line in enumerate(front[1].splitlines(), start=2):
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if fault := _fault(key, colon, value, found):
            return text[front.end() :], Stated(fault=f"line {number}: {fault}; nothing of its head was counted")
        found[key] = value
    return text[front.end() :], Stated(
        model=found.get("model", ""),
        tokens_in=int(found.get("tokens_in", 0)),
        tokens_out=int(found.get("tokens_out", 0)),
        cost_usd=float(found.get("cost_usd", 0)),
    )


def _fault(key: str, colon: str, value: str, found: dict[str, str]) -> str:
    if not colon or key not in ("model", "tokens_in", "tokens_out", "cost_usd"):
        return f"got {(key + colon)[:40]!r}; expected model:, tokens_in:, tokens_out: or cost_usd:"
    if key in found:
        return f"{key} is given twice"
    if key == "model" and not 0 < len(value) <= 100:
        return "model: expected a name of up to 100 letters"
    if key.startswith("tokens") and not (_WHOLE.fullmatch(value) and int(value) <= MOST_TOKENS):
        return f"{key}: got {value[:40]!r}; expected a whole number, such as 1200"
    if key == "cost_usd" and not _AMOUNT.fullmatch(value):
        return f"cost_usd: got {value[:40]!r}; expected dollars, such as 0.02"
    return ""
