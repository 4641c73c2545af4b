"""What `evolve init` shows: the diff, what was found out, what was left out, and how the seed fared."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from evolve.types import Evaluation

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def say(text: str, console: Console, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def written(paths: Sequence[Path], console: Console) -> None:
    for path in paths:
        say(f"wrote {path}", console)


def following(problem: Path, config: Path, console: Console) -> None:
    say("\nNext:", console, "bold")
    say(f"  evolve check {problem}  is it fit for use, and does its seed pass", console)
    say(f"  evolve run --config {config}  evolve it", console)


def diff(before: str, after: str, name: str, seed: str, console: Console) -> None:
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), name, seed, lineterm="", n=2):
        say(line, console, COLOURS.get(line[:1], "dim"))
    console.print()


def found(rows: Sequence[tuple[str, str, str]], console: Console) -> None:
    """What each argument and output is taken for, and why."""
    say("What it was seen to do", console, "bold")
    name_width, role_width = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    for name, role, why in rows:
        line = Text(f"  {name:<{name_width}}  {role:<{role_width}}  ").append(why, style="dim")
        console.print(line, soft_wrap=True)
    console.print()


def notes(lines: Sequence[str], console: Console) -> None:
    if not lines:
        return
    say("What was changed or left out", console, "bold")
    for line in lines:
        say(f"  {line}", console)
    console.print()


def verdict(evaluation: Evaluation, console: Console) -> None:
    if not evaluation.passed:
        say(f"\nThe seed: {evaluation.verdict} in {evaluation.stage}.\n{evaluation.feedback}", console, "bold red")
        return
    worst = max(evaluation.errors.values(), default=0.0)
    say(f"\nThe seed passes; at most {worst:.2f} of its bound.", console, "bold green")
    for m in evaluation.measurements:
        if m.modelled:
            say(f"  {m.workload}: {m.time_us:.1f} µs (modelled)", console)
        else:
            said = f"{m.ratio:.3f} × {m.baseline} [{m.ratio_low:.3f}, {m.ratio_high:.3f}]"
            say(f"  {m.workload}: {m.time_us:.1f} µs, {said}", console)


def slower(lines: Sequence[str], console: Console) -> None:
    if lines:
        say("\nSlower than the original by more than 2 %:", console, "bold yellow")
        for line in lines:
            say(f"  {line}", console)
