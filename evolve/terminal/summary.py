"""The last lines of a run: what was found, and what to try next."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.lineage import ancestors, top
from evolve.sentences import figure
from evolve.terminal.words import line, microseconds, score_of
from evolve.types import Attempt

WIDEST = 50  # of the commands that are aligned; a longer one sticks out


def summary(console: Console, journal: Journal, best: Attempt | None, why: str, *, go_on: str | None = None) -> None:
    """`go_on` is the command by which an interrupted run does."""
    folder = journal.folder
    _say(console, f"\n{folder.name} ended: {why}.")
    if best is None:
        leading = top(journal, 1)
        _say(console, _unpromoted(leading[0]) if leading else "No candidate passed the judge.")
    else:
        _say(console, f"Best: {best.id} by {line(best.candidate.member)}, score {figure(best.evaluation)}.")
        if began := _beginning(journal, best):
            _say(console, began)
        for m in best.evaluation.measurements:
            called = " modelled" if m.modelled else ""
            ratio = f"{m.ratio:.3f} × {line(m.baseline)}"
            _say(console, f"  {line(m.workload):<16} {microseconds(m.time_us):>12}{called}   {ratio}")
        _say(console, f"Source: {folder / 'best.py'}")
    _say(console, "Try next:")
    told = next_commands(folder, best, go_on)
    wide = max((len(command) for command, _ in told if len(command) <= WIDEST), default=0)
    for command, what in told:
        _say(console, f"  {command:<{wide}}  {what}")


def _unpromoted(leading: Row) -> str:
    return (
        f"Nothing was promoted. {leading.candidate_id} leads with {score_of(leading)} on a first figure; its page says "
        "what kept it from being the best, such as another process on the GPU."
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _beginning(journal: Journal, best: Attempt) -> str:
    """What its line came from, where that is to be compared."""
    way = ancestors(journal, best.id)
    if len(way) < 2 or way[0].ranking_key != best.evaluation.ranking_key:
        return ""
    return f"  from {score_of(way[0])} of its first ancestor, in {len(way) - 1} change{'s' * (len(way) > 2)}"


def next_commands(folder: Path, best: Attempt | None, go_on: str | None) -> list[tuple[str, str]]:
    """The three that this run makes worth trying."""
    name = shlex.quote(str(folder))
    told = [(go_on, "go on")] if go_on else []
    if best is None:
        told += [(f"evolve show {name}", "what became of the steps"), ("evolve doctor", "what this machine lacks")]
    elif best.candidate.parent_id:
        told += [
            (f"evolve show {name} --lineage", "how it came to be"),
            (f"evolve show {name}:best --diff", "what its last step changed"),
        ]
    else:
        told += [(f"evolve show {name}:best", "the best in full"), (f"evolve show {name} --spend", "what it cost")]
    return [*told, (f"evolve show {name} --log", "every hypothesis and its outcome")][:3]
