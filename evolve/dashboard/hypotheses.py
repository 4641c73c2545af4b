"""The experiments page: every hypothesis with what it predicted and what came of it, to be filtered; and the lessons.

A page holds `PAGE` of them, the latest first. What became of a prediction is worked out when it is read, so a filter
by outcome looks through the latest `LOOKED` and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolve import experiments
from evolve.dashboard.columns import Columns
from evolve.experiments_held import Outcome
from evolve.experiments_lessons import lessons
from evolve.journal import Journal

PAGE = 100
LOOKED = 2000
CHUNK = 400


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What stands in the address."""

    q: str = ""
    member: str = ""
    kind: str = ""
    verdict: str = ""
    outcome: str = ""
    before: int | None = None  # only steps under this one: the next page

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Filter:
        words = {name: query.get(name, "").strip()[:200] for name in ("q", "member", "kind", "verdict", "outcome")}
        before = query.get("before", "")
        ok = before.isascii() and before.isdigit() and len(before) < 16
        return cls(**words, before=int(before) if ok else None)

    @property
    def query(self) -> dict[str, str]:
        return {k: str(v) for k, v in vars(self).items() if v not in ("", None)}

    def where(self) -> tuple[str, list[Any]]:
        sql, values = ["s.hypothesis <> ''", "s.state = 3"], []
        for name in ("member", "kind", "verdict"):
            if chosen := getattr(self, name):
                sql.append(f"s.{name} = ?")
                values.append(chosen.encode("utf-8", "replace").decode())
        if self.q:
            sql.append("(instr(lower(s.hypothesis), lower(?)) OR instr(lower(s.headline), lower(?)))")
            values += [self.q.encode("utf-8", "replace").decode()] * 2
        if self.before is not None:
            sql.append("s.step < ?")
            values.append(self.before)
        return " AND ".join(sql), values


def context(journal: Journal, columns: Columns, chosen: Filter) -> dict[str, Any]:
    found, looked, more = _page(journal, chosen)
    return {
        "chosen": chosen,
        "found": found,
        "looked": looked if chosen.outcome else 0,
        "more": found[-1].row.step if more and found else None,
        "outcomes": [o.value for o in Outcome],
        "members": [w for w in columns.members.words if w and w != "seed"],
        "kinds": [w for w in columns.kinds.words if w and w != "seed"],
        "verdicts": [v for v in columns.verdicts.words if v != "pending"],
    }


def _page(journal: Journal, chosen: Filter) -> tuple[list[experiments.Experiment], int, bool]:
    """A page of them, how many were looked at, and whether there are more."""
    where, values = chosen.where()
    if not chosen.outcome:
        rows = list(journal.rows(where, (*values, PAGE + 1), order="s.step DESC LIMIT ?"))
        return experiments.of_rows(journal, rows[:PAGE]), len(rows), len(rows) > PAGE
    found: list[experiments.Experiment] = []
    looked = 0
    while looked < LOOKED:
        rows = list(journal.rows(where, (*values, CHUNK, looked), order="s.step DESC LIMIT ? OFFSET ?"))
        looked += len(rows)
        found += [e for e in experiments.of_rows(journal, rows) if e.outcome == chosen.outcome]
        if len(found) > PAGE or len(rows) < CHUNK:
            return found[:PAGE], looked, len(found) > PAGE
    return found[:PAGE], looked, True


def learned(journal: Journal) -> tuple[str, ...]:
    """The lessons that the run's prompts would be given now."""
    return lessons(journal)
