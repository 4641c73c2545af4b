"""A run as it goes: a live board in a terminal, plain lines elsewhere.

Both are observers of the journal's events, so a resumed run shows what went before. Nothing here decides anything.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from evolve.sentences import figure, first_line, sentence
from evolve.types import Asked, Attempt, Confirmed, Event, Judged, Noted, Replied

LAST_EVENTS = 8
COLOURS = {"PASSED": "green", "DUPLICATE": "bright_black", "INCORRECT": "red", "REJECTED": "yellow"}


@dataclass
class MemberLine:
    asked: int = 0
    passed: int = 0
    improved: int = 0
    cost_usd: float = 0.0


@dataclass
class Board:
    """What the screen shows, folded from events."""

    name: str
    steps: int | None  # the budget's, if it has one
    best: Callable[[], Attempt | None]
    left: Callable[[], Mapping[str, str]]
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    judged: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    members: dict[str, MemberLine] = field(default_factory=dict)
    last: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))
    scores: dict[str, float] = field(default_factory=dict)
    _since: float = 0.0
    _judged_before: int = 0

    def begin(self) -> None:
        """From here on time counts; what was replayed before tells nothing about this machine's pace."""
        self._since, self._judged_before = self.clock(), self.judged

    def observe(self, event: Event) -> None:
        match event:
            case Asked():
                self.step = max(self.step, event.step)
                self._member(event.member).asked += 1
            case Replied():
                self._member(event.reply.member).cost_usd += event.reply.cost_usd
            case Judged():
                self._judge(event)
            case _:
                pass
        if isinstance(event, Judged | Confirmed | Noted):
            style = COLOURS.get(event.evaluation.verdict, "white") if isinstance(event, Judged) else "cyan"
            self.last.append((style, first_line(sentence(event), 200)))

    def _judge(self, event: Judged) -> None:
        self.judged += 1
        self.verdicts[event.evaluation.verdict] += 1
        if event.candidate is None:
            return
        score = event.evaluation.score
        self.scores[event.candidate.id] = score
        if event.evaluation.passed and event.candidate.parent_id:
            line = self._member(event.candidate.member)
            line.passed += 1
            line.improved += score > self.scores.get(event.candidate.parent_id, 0.0)

    def _member(self, name: str) -> MemberLine:
        return self.members.setdefault(name, MemberLine())

    def eta(self) -> str:
        done = self.judged - self._judged_before
        if not self.steps or not done:
            return "—"
        seconds = (self.clock() - self._since) / done * max(0, self.steps - self.judged)
        return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"

    def render(self) -> RenderableType:
        return Panel(
            Group(self._head(), self._workloads(), self._council(), self._events()),
            title=f"evolve · {self.name}",
            border_style="blue",
        )

    def _head(self) -> Text:
        best = self.best()
        verdicts = "  ".join(f"{name} {count}" for name, count in self.verdicts.most_common())
        budget = "  ".join(f"{name}: {left}" for name, left in self.left().items()) or "no limit"
        score = figure(best.evaluation) if best else "none yet"
        return Text.assemble(
            ("best ", "bold"), (score, "bold green"), (f"  {best.id}" if best else "", "dim"), "\n",
            ("step ", "bold"), f"{self.step}" + (f" of {self.steps}" if self.steps else ""),
            ("   ETA ", "bold"), self.eta(), ("   left  ", "bold"), budget, "\n",
            ("verdicts ", "bold"), verdicts,
        )  # fmt: skip

    def _workloads(self) -> RenderableType:
        best = self.best()
        if best is None:
            return Text("")
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        modelled = " (modelled)" if best.evaluation.modelled else ""
        for title in ("workload", f"time{modelled}", "× baseline", "baseline"):
            table.add_column(title, justify="left" if title in ("workload", "baseline") else "right")
        for m in best.evaluation.measurements:
            table.add_row(m.workload, f"{m.time_us:.4g} µs", f"{m.ratio:.3f}", m.baseline)
        return table

    def _council(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for title in ("member", "asked", "passed", "improved", "cost"):
            table.add_column(title, justify="left" if title == "member" else "right")
        for name, line in self.members.items():
            table.add_row(name, str(line.asked), str(line.passed), str(line.improved), f"${line.cost_usd:.2f}")
        return table

    def _events(self) -> Text:
        return Text("\n").join(Text(text, style=style, no_wrap=True, overflow="ellipsis") for style, text in self.last)


class LiveView:
    """The board on a terminal, redrawn four times a second; elsewhere one line an event that matters."""

    def __init__(self, board: Board, console: Console) -> None:
        self.board = board
        self.console = console
        self._live = (
            Live(console=console, get_renderable=board.render, refresh_per_second=4) if console.is_terminal else None
        )
        self._started = False

    def observe(self, event: Event) -> None:
        self.board.observe(event)
        if self._live is None and self._started and isinstance(event, Judged | Confirmed | Noted):
            self.console.print(sentence(event).split("\n")[0], markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> LiveView:
        self._started = True
        self.board.begin()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started = False
        if self._live:
            self._live.stop()
