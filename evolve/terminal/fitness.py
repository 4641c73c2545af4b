"""What `evolve check` found of a problem, a line each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from rich.console import Console
from rich.text import Text

COLOURS = {"ok": "green", "skipped": "yellow", "wrong": "bold red"}


class Finding(Protocol):
    @property
    def what(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def sentence(self) -> str: ...
    @property
    def workload(self) -> str: ...


def show(path: str, findings: Iterable[tuple[str, Finding]], console: Console) -> bool:
    """True if nothing is wrong."""
    wrong, part = 0, ""
    for variant, finding in findings:
        if variant != part:
            part = variant
            console.print(Text(f"\n{path}, variant {variant}", style="bold"))
        wrong += finding.state == "wrong"
        line = Text("  ").append(f"{finding.state:<8}", style=COLOURS[finding.state])
        line.append(f"{finding.what:<32} {finding.workload:<16} ").append(finding.sentence, style="dim")
        console.print(line, soft_wrap=True)
    verdict = f"{wrong} wrong: not fit for use" if wrong else "fit for use"
    console.print(Text(f"\n{path}: {verdict}.", style="bold"))
    return not wrong
