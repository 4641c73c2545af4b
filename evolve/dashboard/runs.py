"""The page of all runs: a line each, the latest first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from evolve import lineage
from evolve.dashboard import pictures
from evolve.dashboard.shelf import Book, Missing, Shelf
from evolve.errors import EvolveError
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.terminal.run_page import curve


@dataclass(frozen=True, kw_only=True)
class Line:
    """A run at a glance. `problem` with an exclamation mark stands in `fault` if it cannot be read."""

    name: str
    meta: dict[str, Any]
    state: str = "died"
    told: str = ""
    best: Row | None = None
    spark: Markup | None = None
    spend: lineage.Spend | None = None
    verdicts: tuple[tuple[str, int], ...] = ()
    last: float = 0.0
    waiting: int = 0
    fault: str = ""


def context(shelf: Shelf) -> dict[str, Any]:
    lines = sorted((_line(shelf, name) for name in shelf.names()), key=lambda line: (-line.last, line.name))
    return {"lines": lines, "now": time.time(), "root": shelf.root}


def _line(shelf: Shelf, name: str) -> Line:
    try:
        book = shelf.book(name)
        with book.journal() as journal:
            state, told = lineage.state(journal)
            facts = book.keep("line", journal, lambda: _facts(journal))
        return Line(name=name, meta=dict(journal.meta), state=state, told=told, **facts)
    except (EvolveError, Missing) as error:  # one unreadable run must not hide the others
        return Line(name=name, meta={}, fault=str(error))


def _facts(journal: Journal) -> dict[str, Any]:
    best, rises, last = lineage.best(journal), lineage.best_so_far(journal), journal.last_step()
    at = journal.query("SELECT at FROM events ORDER BY seq DESC LIMIT 1")
    return {
        "best": best,
        "spark": pictures.spark(curve(rises, last)) if rises else None,
        "spend": lineage.spend(journal),
        "verdicts": tuple((v.value, n) for v, n in lineage.verdict_counts(journal).items()),
        "last": at[0][0] if at else 0.0,
        "waiting": len(lineage.waiting(journal)),
    }


def best_of_n(shelf: Shelf, book: Book, key: str) -> Book | None:
    """A run of the same ranking that drew the same seed again and again: what evolution has to be better than."""
    for name in shelf.names():
        if name == book.name:
            continue
        try:
            other = shelf.book(name)
            with other.journal() as journal:
                if journal.meta.get("strategy") == "best_of_n" and journal.meta.get("ranking_key") == key:
                    return other
        except EvolveError:
            continue
    return None
