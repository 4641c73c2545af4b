"""`evolve show`: a run or a candidate, from its journal, for someone who wants to know how a number came about.

Pages are printed to a rich console; nothing here measures, decides or writes. Torch is never imported, and rich only
when something is printed. The two full pages are `run_page.py` and `candidate_page.py`; here are the order that the
command line gives, and the lists.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evolve import lineage
from evolve.errors import UsageError
from evolve.experiments import notebook, of_line
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.runs import named
from evolve.terminal import words
from evolve.types import Candidate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to show. `target` is RUN or RUN:ID; `diff` is "" for the parent, or RUN:B."""

    target: str
    top: int | None = None
    lineage: bool = False
    diff: str | None = None
    log: bool = False
    spend: bool = False


def show(order: Order, console: Console, runs_dir: str | Path = "runs") -> None:
    """Print what was asked for; without a wish, the page of the run or of the candidate."""
    from evolve.terminal.candidate_page import candidate_page
    from evolve.terminal.run_page import run_page, spend

    place = named(order.target, runs_dir)
    with Journal.open(place.folder) as journal:
        chosen = place.selector
        if order.top is not None:
            top(journal, console, order.top)
        if order.lineage:
            tree(journal, console, journal.resolve(chosen or "best"))
        if order.diff is not None:
            diff(journal, console, journal.resolve(chosen or "best"), order.diff, runs_dir)
        if order.log:
            log(journal, console, journal.resolve(chosen) if chosen else None)
        if order.spend:
            spend(journal, console)
        if not (order.top is not None or order.lineage or order.diff is not None or order.log or order.spend):
            if chosen:
                candidate_page(journal, console, journal.resolve(chosen))
            else:
                run_page(journal, console)


def top(journal: Journal, console: Console, count: int) -> None:
    """The best by score. Unconfirmed figures stand among them, and say so."""
    if count < 1:
        raise UsageError(f"--top {count}: expected 1 or more.")
    rows = lineage.top(journal, count)
    if not rows:
        console.print(words.text("Nothing has PASSED yet."))
        return
    figure = f"score{words.modelled(rows[0])}"
    wide = console.width >= 110
    bounds = () if rows[0].modelled else ("interval",)
    columns = ("", figure, *bounds, "× parent", "candidate", *(("gen", "member") if wide else ()), "hypothesis")
    made = words.table(*columns, right=("", "× parent", "gen"), indent=False)
    cells: list[Sequence[Text | str]] = []
    for place, row in enumerate(rows, start=1):
        score = (f"{row.score:.3f}", "bold green"), (" ✓", "green") if row.confirmed else ""
        between = (words.interval(row.score_low, row.score_high),) if bounds else ()
        gain = "" if row.gain is None else f"{row.gain:.3f}"
        name = words.text((str(row.candidate_id), "cyan"))
        by = (str(row.generation), words.line(row.member, 24)) if wide else ()
        cells.append((str(place), words.text(*score), *between, gain, name, *by, words.line(row.hypothesis)))
    console.print(words.fill(made, cells))
    console.print(words.text(("✓ confirmed; the others are first figures, luck included", "dim")))


def tree(journal: Journal, console: Console, candidate_id: str) -> None:
    """The ancestry, from the seed down: a line each with score and hypothesis, and what else came of each."""
    line = lineage.ancestors(journal, candidate_id)
    for place, row in enumerate(line):
        joint = "●" if place == 0 else "└─●" if place == len(line) - 1 else "├─●"
        words.one_line(console, words.text((joint.ljust(4), "cyan"), *_node(row)))
        if place < len(line) - 1:
            others = [c for c in lineage.children(journal, str(row.candidate_id)) if c.step != line[place + 1].step]
            if others:
                words.one_line(console, words.text(("│   ", "cyan"), (_others(others), "dim")))
    below = lineage.descendants(journal, candidate_id)
    if below:
        words.one_line(console, words.text(("    " + f"and {_count(below, 'descendant')} of its own", "dim")))


def _node(row: Row) -> tuple[str | tuple[str, str], ...]:
    word, colour = words.mark(row)
    figure = words.score_of(row) if row.passed else word
    confirmed = " ✓" if row.confirmed and row.passed else ""
    idea = words.line(row.hypothesis) or ("the seed" if row.parent_id is None else f"({row.kind})")
    gain = f"{words.percent(row.gain):>9}" if row.gain is not None else " " * 9
    return (
        (f"{figure + confirmed:<25}", f"bold {colour}" if row.confirmed else colour),
        (gain, colour),
        (f"  {row.candidate_id}", "cyan"),
        (f"  {words.line(row.member)}: ", "dim"),
        idea,
    )


def _others(rows: list[Row]) -> str:
    passed = [r for r in rows if r.passed]
    better = sum(r.improved for r in passed)
    told = f"{_count(len(rows), 'other child', 'other children')}: {len(passed)} passed, {better} better than this"
    return told + (f", at most {max(r.score for r in passed):.3f}{words.modelled(passed[0])}" if passed else "")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def diff(journal: Journal, console: Console, candidate_id: str, other: str = "", runs_dir: str | Path = "runs") -> None:
    """What changed since the parent, or against RUN:B (or :B, of the same run)."""
    new = journal.attempt(candidate_id).candidate
    if other:
        place = named(f"{journal.folder}{other}" if other.startswith(":") else other, runs_dir)
        with Journal.open(place.folder) as second:
            old = second.attempt(second.resolve(place.selector or "best")).candidate
    elif new.parent_id is None:
        raise UsageError(f"{candidate_id} is a {new.kind} and has no parent; compare it with another by --diff RUN:B.")
    else:
        old = journal.attempt(new.parent_id).candidate
    lines = list(unified(old, new))
    for line in lines or [words.text(("The sources are the same.", "dim"))]:
        words.one_line(console, line)


def unified(old: Candidate, new: Candidate) -> list[Text]:
    marks = {"+": "green", "-": "red", "@": "cyan"}
    before, after = (f"{c.id} {words.line(c.hypothesis, 100)}".strip() for c in (old, new))
    lines = difflib.unified_diff(old.source.splitlines(), new.source.splitlines(), before, after, lineterm="")
    return [
        words.text((words.clean(line), "bold" if line[:3] in ("---", "+++") else marks.get(line[:1], "")))
        for line in lines
    ]


def log(journal: Journal, console: Console, candidate_id: str | None = None) -> None:
    """The experiments, oldest first: hypothesis, what it predicted, and what came of it. With a candidate, those on its
    way from the seed."""
    found = notebook(journal) if candidate_id is None else of_line(journal, candidate_id)
    if not found:
        words.one_line(console, words.text("No step with a hypothesis has been judged yet."))
    room = max(24, (console.width - 24) // 2) if console.is_terminal else 0
    for one in found:
        row = one.row
        idea = words.line(row.hypothesis, room or 400) or ("the seed" if row.parent_id is None else f"({row.kind})")
        asked = bool(row.hypothesis) or row.parent_id is not None
        predicted = words.line(one.predicted, room // 2 or 60) if asked else ""
        word, colour = (one.outcome, words.OUTCOMES[one.outcome]) if asked else ("judged", "")
        seen = words.line(one.seen, 200) if asked or not row.passed else words.score_of(row)
        words.one_line(
            console,
            words.text(
                (f"{row.step:05d} ", "cyan"), (f"{words.line(row.member, 14):<14} ", "dim"), f"{idea:<{room}}",
                (" → ", "dim"), predicted, (" → " if asked else "", "dim"),
                (word, colour), f": {seen}", (", confirmed best" if row.confirmed and row.beats else "", "green"),
            ),
        )  # fmt: skip
