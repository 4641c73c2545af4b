"""The board and the log lines, and the board in a real pseudo-terminal: that it fits, moves nothing, and cleans up."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from evolve.council.budget import Budget
from evolve.terminal.console import Out
from evolve.terminal.live import HINT, Board, LiveView
from evolve.types import (
    Asked,
    Attempt,
    Candidate,
    Confirmed,
    Evaluation,
    Judged,
    Measurement,
    Noted,
    Prompt,
    Replied,
    Reply,
    Verdict,
)

PROMPT = Prompt(system="", user="", kind="diff")


def measured(name: str = "4096", ratio: float = 1.25, modelled: bool = True) -> Measurement:
    return Measurement(
        workload=name,
        baseline="cuBLAS",
        time_us=80.0,
        ratio=ratio,
        ratio_low=ratio,
        ratio_high=ratio,
        modelled=modelled,
    )


def attempt(step: int = 3, hypothesis: str = "", measurements: tuple[Measurement, ...] = (measured(),)) -> Attempt:
    candidate = Candidate(
        step=step, source="x", member="gpt-5", kind="diff", parent_id="00000-a", hypothesis=hypothesis
    )
    return Attempt(candidate=candidate, evaluation=Evaluation(verdict=Verdict.PASSED, measurements=measurements))


def judged(step: int, **given: Any) -> Judged:
    made = attempt(step, **given)
    return Judged(step=step, candidate=made.candidate, evaluation=made.evaluation)


def failed(step: int, verdict: Verdict = Verdict.INCORRECT, feedback: str = "off by one") -> Judged:
    return Judged(step=step, evaluation=Evaluation(verdict=verdict, feedback=feedback, stage="check"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def board(best: Attempt | None = None, members: Any = None, clock: Any = None, **limits: Any) -> tuple[Board, Budget]:
    clock = clock or Clock()
    budget = Budget(**limits, clock=clock)
    account = SimpleNamespace(asked=12, passed=7, improved=2, cost_usd=0.5)
    made = Board(
        name="fake-001", best=lambda: best, members=lambda: members or {"gpt-5": account}, budget=budget, clock=clock
    )
    return made, budget


def text(made: Board, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(made.render(height))
    return console.file.getvalue().splitlines()


def test_the_board_shows_everything() -> None:
    made, budget = board(attempt(), steps=60, usd=5.0)
    made.begin()
    for event in (Asked(step=3, member="gpt-5", prompt=PROMPT), Replied(step=3, reply=Reply(member="gpt-5", text="x")),
                  judged(3), Asked(step=4, member="gpt-5", prompt=PROMPT), failed(4),
                  Asked(step=5, member="gpt-5", prompt=PROMPT), Noted(what="warning", text="Look out.")):  # fmt: skip
        made.observe(event)
        budget.observe(event)
    shown = "\n".join(text(made))
    for part in ("evolve · fake-001", "1.250 (modelled)", "00003-", "by gpt-5", "5 of 60, 1 in flight", "ETA —",
                 "steps 57  dollars $5.00", "PASSED 1  INCORRECT 1", "time (modelled)", "4096", "80 µs", "1.250 ×",
                 "cuBLAS", "00004: INCORRECT in check: off by one", "Look out."):  # fmt: skip
        assert part in shown
    assert re.search(r"gpt-5 +12 +7 +2 +\$0.5", shown)


def test_measured_times_are_not_called_modelled() -> None:
    made, _ = board(attempt(measurements=(measured(modelled=False),)), steps=60)
    shown = "\n".join(text(made))
    assert "modelled" not in shown
    assert "1.250 [1.250, 1.250]" in shown


def test_with_nothing_yet() -> None:
    made, _ = board(steps=60)
    shown = "\n".join(text(made))
    assert "none yet" in shown
    assert "ETA —" in shown


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("height", [14, 24, 50])
def test_the_board_fits_and_keeps_its_height(width: int, height: int) -> None:
    """Long sentences are cut, and workloads give way before events: what changes its height jumps."""
    many = tuple(measured(f"workload_{i}") for i in range(20))
    members = {f"m{i}": SimpleNamespace(asked=1, passed=1, improved=1, cost_usd=0.0) for i in range(3)}
    made, _ = board(attempt(measurements=many), members, steps=60, usd=5, tokens=10**7, seconds=7200, gpu_seconds=3600)
    heights = set()
    for step in range(8):
        made.observe(failed(step, feedback=f"{step} is " + "long " * step * 20 + "\nand of two lines"))
        lines = text(made, width, height)
        assert max(map(len, lines)) <= width
        if step >= 3:
            heights.add(len(lines))
    assert max(heights) <= max(height, 16)
    if height == 14:
        assert len(heights) == 1
    if height == 50:
        assert sum("80 µs" in line for line in text(made, width, height)) == 20
    elif height == 24:
        assert "and 12 " in "\n".join(text(made, width, height))


def test_a_reply_cannot_command_the_terminal() -> None:
    made, _ = board(attempt(), steps=60)
    made.observe(judged(4, hypothesis="\x1b[2J\x1b]0;owned\x07 [red]faster[/red]\u202e"))
    shown = "\n".join(text(made, 160))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]faster[/red]" in shown


@pytest.mark.parametrize(
    ("limits", "eta"),
    [
        ({"steps": 20}, "3.0 min"),  # 2 steps in 20 s, 18 to go
        ({"steps": 20, "usd": 3.0}, "40 s"),  # 1 dollar in 20 s
        ({"steps": 1000, "seconds": 100}, "80 s"),  # whatever the pace
        ({"seconds": 100, "patience": 5}, "80 s"),
    ],
)
def test_the_eta_is_when_the_first_limit_is_reached(limits: dict[str, Any], eta: str) -> None:
    clock = Clock()
    made, budget = board(clock=clock, **limits)
    both = (made.observe, budget.observe)

    def happens(*events: Any) -> None:
        for event in events:
            for observe in both:
                observe(event)

    happens(Noted(what="started", text=""))
    made.begin()
    for step in (1, 2):
        paid = Replied(step=step, reply=Reply(member="m", text="x", cost_usd=0.5))
        happens(Asked(step=step, member="m", prompt=PROMPT), paid, failed(step))
    clock.now += 20
    assert made.eta() == eta


def test_the_eta_forgets_what_was_replayed() -> None:
    clock = Clock()
    made, budget = board(clock=clock, steps=120)
    for step in range(1, 101):
        for event in (Asked(step=step, member="m", prompt=PROMPT), failed(step)):
            made.observe(event)
            budget.observe(event)
    made.begin()
    clock.now += 10
    assert made.eta() == "—"
    for event in (Asked(step=101, member="m", prompt=PROMPT), failed(101)):
        made.observe(event)
        budget.observe(event)
    assert made.eta() == "3.2 min"


# --- Without a terminal -----------------------------------------------------------------------------------------------


def plain() -> Console:
    return Out(file=io.StringIO(), width=40)


def test_log_lines_are_whole_and_only_of_this_session() -> None:
    made, _ = board(attempt(), steps=60)
    console = plain()
    view = LiveView(made, console)
    view.observe(judged(1))
    view.observe(Noted(what="resumed", text="fake-001 was resumed."))
    with view:
        view.observe(Asked(step=4, member="m", prompt=PROMPT))
        view.observe(judged(4, hypothesis="a long idea " * 9 + "[bold]\x1b[2J"))
        view.observe(Confirmed(step=4, candidate_id="00004-x", evaluation=attempt(4).evaluation))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "fake-001 was resumed."
    assert lines[1].endswith("a long idea [bold]␛[2J")
    assert "modelled" in lines[2]


async def test_each_minute_a_line_about_the_whole() -> None:
    clock = Clock()
    made, _ = board(attempt(), clock=clock, steps=60)
    console = plain()
    with LiveView(made, console) as view:
        drawing = asyncio.create_task(view.keep_fresh())
        await asyncio.sleep(0.3)
        assert console.file.getvalue() == ""
        clock.now += 61
        await asyncio.sleep(0.3)
        drawing.cancel()
    assert console.file.getvalue() == "-- best 1.250 (modelled); no verdict yet; left: steps 60; ETA —\n"


# --- In a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal of 80 columns with a run in it, and all that it wrote."""

    def __init__(self, folder: Path, *words: str, term: str = "xterm-256color") -> None:
        self.written = b""
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": term}
            os.execve(sys.executable, [sys.executable, "-m", "evolve", *words], environment)
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def until(self, what: bytes, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while what not in self.written and self._read():
            assert time.monotonic() < end, self.written[-2000:]
        assert what in self.written, self.written[-2000:]

    def _read(self) -> bool:
        try:
            data = os.read(self.handle, 65536)
        except OSError:  # the other side is closed
            return False
        self.written += data
        return bool(data)

    def type(self, keys: bytes) -> None:
        os.write(self.handle, keys)

    def ended(self) -> int:
        while self._read():
            pass
        os.close(self.handle)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def screen(self) -> list[str]:
        """What stands on the screen, of the few commands that the board makes use of."""
        rows, row, column = [""], 0, 0
        for word in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.written.decode()):
            if word == "\n":
                row, column = row + 1, column
                rows += [""] * (row + 1 - len(rows))
            elif word == "\r":
                column = 0
            elif found := re.fullmatch(r"\x1b\[(\d*)([A-Za-z])", word):
                number, command = int(found[1] or 1), found[2]
                row = max(0, row - number) if command == "A" else row
                rows[row] = "" if (command, found[1]) == ("K", "2") else rows[row]
            elif not word.startswith("\x1b"):
                line = rows[row].ljust(column)
                rows[row] = line[:column] + word + line[column + len(word) :]
                column += len(word)
        return [line.rstrip() for line in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    replies = [f"```python\n# fake: score={1 + i / 10:.2f} sleep=0.1\nx = {i}\n```" for i in range(40)]
    config = {
        "problem": str(Path(__file__).parents[1] / "data/fake_problem.py"),
        "seeds": ["seed.py"],
        "council": [{"member": "scripted", "replies": replies}],
        "backend": "fake",
        "budget": {"steps": 40},
        "concurrency": {"replies": 1, "cpu": 1, "steps": 1},
    }
    (tmp_path / "seed.py").write_text("# fake: score=1.0\n")
    (tmp_path / "fake.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_run_in_a_terminal(folder: Path) -> None:
    terminal = Terminal(folder, "run", "-c", "fake.yaml", "--set", "budget.steps=6")
    terminal.until(HINT.encode())
    terminal.until(b"Try next:")
    assert terminal.ended() == 0
    shown = terminal.screen()
    assert "\n".join(shown).count("evolve · fake-001") == 1, "one board, drawn over and over"
    assert not any(HINT.strip() in line for line in shown), "no hint is left when it is over"
    assert max(map(len, shown)) <= 80
    assert any("step      6 of 6" in line for line in shown)
    assert any(line.startswith("Best: 00006-") for line in shown)
    assert terminal.written.count(b"\x1b[?25l") == terminal.written.count(b"\x1b[?25h") > 0, "the cursor is back"


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_leaves_the_terminal_as_it_was(folder: Path, again: bool) -> None:
    terminal = Terminal(folder, "run", "-c", "fake.yaml", "--set", "concurrency.steps=2")
    terminal.until(b"00003-")
    modes = termios.tcgetattr(terminal.handle)
    terminal.type(b"\x03")
    if again:
        terminal.until(b"Stopping when")
        terminal.type(b"\x03")
    while terminal._read():
        assert termios.tcgetattr(terminal.handle) == modes
    assert terminal.ended() == 130
    shown = terminal.screen()
    assert "\n".join(shown).count("evolve · fake-001") == 1, "the echo of ^C moves nothing"
    assert terminal.written.count(b"\x1b[?25l") == terminal.written.count(b"\x1b[?25h") > 0
    last = "evolve: stopped at once" if again else "  evolve run --config fake.yaml --resume fake-001"
    assert any(line.startswith(last) for line in shown)


def test_ctrl_c_before_the_first_step(folder: Path) -> None:
    (folder / "seed.py").write_text("# fake: score=1.0 sleep=1\n")
    terminal = Terminal(folder, "run", "-c", "fake.yaml")
    terminal.until(b"Judging the seed")
    terminal.type(b"\x03")
    assert terminal.ended() == 130
    assert b"evolve: interrupted; nothing was written." in terminal.written
    assert b"Traceback" not in terminal.written
    assert terminal.written.count(b"\x1b[?25l") == terminal.written.count(b"\x1b[?25h")
    assert not (folder / "runs").exists()


def test_a_terminal_that_can_do_nothing_gets_lines(folder: Path) -> None:
    terminal = Terminal(folder, "run", "-c", "fake.yaml", "--set", "budget.steps=2", term="dumb")
    assert terminal.ended() == 0
    assert b"\x1b" not in terminal.written
    assert b"00002-" in terminal.written
