"""The grid of cells, one an island: which kinds of kernel were reached, how far, and who holds each.

A cell is read off the traits of what was built. The holder is the best candidate that was made for the island; copies
that migrated from another are the population's affair and stand in no journal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from evolve.dashboard.columns import Columns
from evolve.journal import Journal

OTHER = "other"  # a label that the problem's axes do not name
SHADES = 8
Key: TypeAlias = tuple[str, ...]


@dataclass(kw_only=True)
class Places:
    """The cell of every step that passed. It follows a growing journal: only what is new is read."""

    axes: tuple[str, ...]
    seq: int = 0
    of: dict[int, Key] = field(default_factory=dict)
    _same: dict[str, Key] = field(default_factory=dict)  # a hundred thousand steps share a few dozen keys

    def refresh(self, journal: Journal) -> Places:
        last = journal.last_seq()
        if last > self.seq and self.axes:
            # The second path is there so that one axis gives an array too; a body is then read once for all of them.
            paths = [f'$.evaluation.traits."{axis.replace(chr(34), "")}"' for axis in self.axes]
            marks = ", ".join("?" * (len(paths) + 1))
            found = journal.query(
                f"SELECT s.step, json_extract(e.body, {marks}) FROM events e JOIN steps s ON s.step = e.step"
                " WHERE e.seq > ? AND e.seq <= ? AND e.seq IN (s.judged_seq, s.confirmed_seq)"
                " AND s.verdict = 'PASSED' ORDER BY e.seq",
                (*paths, "$.none", self.seq, last),
            )
            for step, labels in found:
                key = self._same.get(labels)
                if key is None:
                    values = json.loads(labels)[:-1]
                    key = self._same[labels] = tuple(OTHER if value is None else str(value) for value in values)
                self.of[step] = key
        self.seq = last
        return self


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`shade` is how far the holder is between the worst and the best holder anywhere, in steps of the heat map."""

    step: int | None = None
    score: float = 0.0
    confirmed: bool = False
    count: int = 0
    shade: int = 0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The first axis across, the others down."""

    island: int | None  # None: all islands together
    across: tuple[str, ...]
    down: tuple[Key, ...]
    rows: tuple[tuple[Cell, ...], ...]
    filled: int


def context(journal: Journal, columns: Columns, places: Places) -> dict[str, Any]:
    axes: Mapping[str, Sequence[str]] = journal.meta.get("axes") or {}
    holders = _holders(columns, places)
    islands = sorted({island for island, _ in holders})
    shown: list[int | None] = [None, *islands] if len(islands) > 1 else list(islands)
    scores = [cell["score"] for cell in holders.values()]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    grids = [_grid(island, axes, holders, low, high) for island in shown]
    steps = sorted({c.step for g in grids for row in g.rows for c in row if c.step is not None})
    rows = {r.step: r for s in steps for r in journal.rows("s.step = ?", (s,))}
    whole = 1
    for labels in axes.values():
        whole *= len(labels)
    return {
        "axes": list(axes), "grids": grids, "rows": rows, "low": low, "high": high, "whole": whole, "shades": SHADES
    }  # fmt: skip


def _holders(columns: Columns, places: Places) -> dict[tuple[int, Key], dict[str, Any]]:
    """The best of each island and cell; at equal score the earlier one."""
    found: dict[tuple[int, Key], dict[str, Any]] = {}
    ranked = np.flatnonzero(columns.ranked)
    facts = zip(
        columns.step[ranked].tolist(), columns.island[ranked].tolist(), columns.score[ranked].tolist(),
        columns.confirmed[ranked].tolist(), strict=True,
    )  # fmt: skip
    for step, island, score, confirmed in facts:
        key = places.of.get(step)
        if key is None:
            continue
        held = found.setdefault((island, key), {"score": -1.0, "count": 0})
        held["count"] += 1
        if score > held["score"]:
            held |= {"step": step, "score": score, "confirmed": confirmed}
    return found


def _grid(
    island: int | None,
    axes: Mapping[str, Sequence[str]],
    holders: Mapping[tuple[int, Key], Mapping[str, Any]],
    low: float,
    high: float,
) -> Grid:
    mine: dict[Key, dict[str, Any]] = {}
    for (where, key), held in holders.items():
        if island is not None and where != island:
            continue
        best = mine.setdefault(key, {**held, "count": 0})
        count = best["count"] + held["count"]
        mine[key] = {**(held if held["score"] > best["score"] else best), "count": count}
    labels = [_labels(list(names), {key[i] for key in mine}) for i, names in enumerate(axes.values())]
    across, down = tuple(labels[0]) if labels else (), tuple(product(*labels[1:]))
    span = (high - low) or 1.0
    rows = tuple(tuple(_cell(mine.get((label, *rest)), low, span) for label in across) for rest in down)
    return Grid(island=island, across=across, down=down, rows=rows, filled=len(mine))


def _cell(held: Mapping[str, Any] | None, low: float, span: float) -> Cell:
    if held is None:
        return Cell()
    return Cell(**held, shade=1 + min(SHADES - 1, int((held["score"] - low) / span * SHADES)))


def _labels(names: list[str], found: set[str]) -> list[str]:
    """The problem's labels, and behind them what turned up beside them."""
    return [*names, *sorted(found - set(names))]
