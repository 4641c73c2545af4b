"""What `evolve export` and `evolve refresh` did: the rows of the table, and what to know before one relies on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text


class Report(Protocol):
    @property
    def folder(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def rows(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def sentences(self) -> tuple[str, ...]: ...
    @property
    def import_seconds(self) -> float: ...


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """For what takes the better part of a minute: one line that changes, or a line each where nothing can change."""
    if console.is_terminal and not console.is_dumb_terminal:
        with console.status("Reading the run") as status:
            yield status.update
    else:
        yield lambda text: console.print(f"{text}.", highlight=False)


def show(report: Report, console: Console) -> None:
    console.print(Text(f"{report.folder}: import {report.name}; {report.name}.{report.op}(...)", style="bold"))
    for row in report.rows:
        runs = "library" if row["parameters"] == "baseline" else "kernel"
        line = Text("  ").append(f"{runs:<8}", style="green" if runs == "kernel" else "yellow")
        line.append(f"{row['workload']:<16} {row['device']}, Triton {row['triton']}  ").append(row["why"], style="dim")
        console.print(line, soft_wrap=True)
    for sentence in report.sentences:
        console.print(Text(sentence), soft_wrap=True)
    beyond = f"Imported in {report.import_seconds:.3f} s beyond torch and triton, in a fresh process."
    console.print(Text(beyond, style="dim"))
