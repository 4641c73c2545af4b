"""A run as it goes: a live board in a terminal, plain lines elsewhere.

Both are observers of the journal's events, so a resumed run shows what went before. Nothing here decides anything, and
nothing runs in a thread: the loop's own ticks redraw the board, so that what it shows never changes while it is drawn.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from evolve.sentences import figure, first_line, sentence
from evolve.terminal import words
from evolve.terminal.console import ReaderLeft
from evolve.types import Asked, Attempt, Confirmed, Event, Judged, Noted

LAST_EVENTS = 8
FEWEST_EVENTS = 3  # what a low terminal keeps of them; workloads give way first
REDRAW_SECONDS = 0.25
STATUS_SECONDS = 60.0  # between two lines about the whole, where there is no board
HINT = "Ctrl-C ends the run in order, a second one at once "
STOPPING = "Stopping when what is in flight is judged; Ctrl-C again stops at once "


class Account(Protocol):
    """What became of a member's candidates; the council keeps it."""

    @property
    def asked(self) -> int: ...
    @property
    def passed(self) -> int: ...
    @property
    def improved(self) -> int: ...
    @property
    def cost_usd(self) -> float: ...


class Budget(Protocol):
    @property
    def limits(self) -> Mapping[str, float | None]: ...

    def used(self) -> Mapping[str, float]: ...

    def left(self) -> Mapping[str, str]: ...


@dataclass(kw_only=True)
class Board:
    """What the screen shows: a fold over events, beside what population, council and budget know already."""

    name: str
    best: Callable[[], Attempt | None]
    members: Callable[[], Mapping[str, Account]]
    budget: Budget
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    last: deque[Event] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))
    flying: set[int] = field(default_factory=set)  # steps without a verdict
    _since: float = 0.0
    _used: Mapping[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """From here on time counts; what was replayed before tells nothing about this machine's pace."""
        self._since, self._used = self.clock(), self._progress()

    def observe(self, event: Event) -> None:
        if isinstance(event, Asked):
            self.step = max(self.step, event.step)
            self.flying.add(event.step)
        elif isinstance(event, Noted) and event.what == "handed out" and event.step is not None:
            self.flying.discard(event.step)  # it waits for someone outside, and in no lane of ours
        elif isinstance(event, Judged):
            self.flying.discard(event.step)
            self.verdicts[event.evaluation.verdict] += 1
        if isinstance(event, Judged | Confirmed | Noted):
            self.last.append(event)

    # --- How long it will take

    def _progress(self) -> dict[str, float]:
        """What is used of each limit; a step is used when it has its verdict."""
        used = dict(self.budget.used())
        return used | {"steps": used.get("steps", 0.0) - len(self.flying)}

    def eta(self) -> str:
        """When the first of the limits is reached, at the pace since `begin`. Patience has no pace."""
        passed, now = self.clock() - self._since, self._progress()
        waits = []
        for name, limit in self.budget.limits.items():
            pace = (now.get(name, 0.0) - self._used.get(name, 0.0)) / passed if passed > 0 else 0.0
            if limit is not None and name != "patience" and pace > 0:
                waits.append(max(0.0, limit - now[name]) / pace)
        return words.duration(min(waits)) if waits else "—"

    # --- The board

    def render(self, height: int = 40, hint: str = "") -> RenderableType:
        """As high as it needs to be and at most `height`. Under it an empty line: a terminal echoes ^C there."""
        best, members = self.best(), self.members()
        measured = best.evaluation.measurements if best else ()
        room = height - len(self._head()) - len(members) - 2 - 2 - 1  # two headings, the frame, the hint
        events = max(FEWEST_EVENTS, min(LAST_EVENTS, room - len(measured)))
        body = [*self._head(), *self._workloads(best, room - events), self._council(members), *self._events(events)]
        panel = Panel(Group(*body), title=Text(f"evolve · {self.name}"), border_style="blue")
        return Group(panel, Text(hint, style="dim", no_wrap=True, overflow="ellipsis", end=""))

    def _head(self) -> list[Text]:
        best = self.best()
        score = (figure(best.evaluation), "bold green") if best else ("none yet", "yellow")
        name = (f"  {best.id} by {words.line(best.candidate.member)}", "dim") if best else ""
        left = "  ".join(f"{what} {amount}" for what, amount in self.budget.left().items())
        steps = self.budget.limits.get("steps")
        flying = f", {len(self.flying)} in flight" if self.flying else ""
        counts: list[str | tuple[str, str]] = []
        for verdict, count in self.verdicts.most_common():
            counts.append((f"{verdict} {count}  ", words.colour(verdict)))
        return [
            _line(("best      ", "bold"), score, name),
            _line(
                ("step      ", "bold"), f"{self.step}{f' of {steps:.0f}' if steps else ''}{flying}",
                ("   ETA ", "bold"), self.eta(),
            ),
            _line(("left      ", "bold"), left or "no limit"),
            _line(("verdicts  ", "bold"), *counts),
        ]  # fmt: skip

    def _workloads(self, best: Attempt | None, room: int) -> list[RenderableType]:
        if best is None or room < 1:
            return []
        modelled = " (modelled)" if best.evaluation.modelled else ""
        table = _table("workload", f"time{modelled}", "ratio", "baseline")
        measured = best.evaluation.measurements
        shown = measured if len(measured) <= room else measured[: room - 1]
        for m in shown:
            table.add_row(words.line(m.workload), words.microseconds(m.time_us), f"{m.ratio:.3f} ×", m.baseline)
        if len(shown) < len(measured):
            table.add_row(f"and {len(measured) - len(shown)} more", style="dim")
        return [table]

    def _council(self, members: Mapping[str, Account]) -> RenderableType:
        table = _table("member", "asked", "passed", "improved", "cost")
        for name, account in members.items():
            figures = (account.asked, account.passed, account.improved)
            table.add_row(words.line(name), *map(str, figures), words.money(account.cost_usd))
        return table

    def _events(self, count: int) -> list[Text]:
        return [_line((words.clean(first_line(sentence(e), 300)), _style(e))) for e in list(self.last)[-count:]]

    def status(self) -> str:
        """The whole in a line, for a log."""
        best = self.best()
        counts = ", ".join(f"{verdict} {count}" for verdict, count in self.verdicts.most_common())
        left = ", ".join(f"{what} {amount}" for what, amount in self.budget.left().items())
        score = figure(best.evaluation) if best else "none yet"
        return f"-- best {score}; {counts or 'no verdict yet'}; left: {left or 'no limit'}; ETA {self.eta()}"


def _style(event: Event) -> str:
    return words.colour(event.evaluation.verdict) if isinstance(event, Judged) else "cyan"


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line, cut at the frame: a board that changes its height jumps."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in titles:
        words_only = title in ("workload", "member", "baseline")
        table.add_column(title, justify="left" if words_only else "right", no_wrap=True, overflow="ellipsis")
    return table


class LiveView:
    """The board on a terminal; elsewhere a line an event that matters, and one about the whole each minute.

    `reader_left` is called when nobody reads any longer, as with `| head`; from then on nothing is printed."""

    def __init__(self, board: Board, console: Console, reader_left: Callable[[], None] = lambda: None) -> None:
        self.board = board
        self.console = console
        self.reader_left = reader_left
        self._started = False
        self._hint = HINT
        self._live = self._made() if console.is_terminal and not console.is_dumb_terminal else None
        self._session: list[Event] = []  # what was said of this session before it was shown
        self._said = 0.0

    def _made(self) -> Live:
        # No thread: population and journal are the loop's own, and must not be read from beside it.
        return Live(console=self.console, get_renderable=self._render, auto_refresh=False, vertical_overflow="crop")

    def _render(self) -> RenderableType:
        return self.board.render(self.console.height, self._hint if self._started else "")

    def observe(self, event: Event) -> None:
        self.board.observe(event)
        if isinstance(event, Noted) and event.what in ("started", "resumed"):
            self._session = []
        if self._live is not None or not isinstance(event, Judged | Confirmed | Noted):
            return
        if self._started:
            self._print(sentence(event))
        elif len(self._session) < LAST_EVENTS:
            self._session.append(event)

    def _print(self, text: str) -> None:
        try:
            self.console.print(words.line(text, 400), markup=False, highlight=False, soft_wrap=True)
        except ReaderLeft:
            self.reader_left()

    async def keep_fresh(self) -> None:
        """Until cancelled: the board, or now and then a line about the whole."""
        while True:
            await asyncio.sleep(REDRAW_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        if self._live:
            self._live.refresh()
        elif self.board.clock() - self._said >= STATUS_SECONDS:
            self._said = self.board.clock()
            self._print(self.board.status())

    def stopping(self) -> None:
        self._hint = STOPPING
        self.refresh()

    def stop(self) -> None:
        """The terminal as it was, the last board above its cursor."""
        self._started = False
        if self._live:
            self._live.stop()

    def __enter__(self) -> LiveView:
        self._started = True
        self.board.begin()
        self._said = self.board.clock()
        if self._live:
            self._live.start(refresh=True)
        else:
            for event in self._session:
                self._print(sentence(event))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
