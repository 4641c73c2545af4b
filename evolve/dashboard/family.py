"""The lineage page: every candidate, failures included, as a scatter that is cut to what is seen, or as a tree.

The server sends one window of at most `MOST` points; what falls on the same few pixels is sent once, the best of it.
Failures have no score and stand in a lane under the axis, one row a verdict. What is said of a single point is asked
for when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evolve import lineage
from evolve.dashboard.columns import PENDING, VERDICTS, Array, Columns
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.terminal import words

MOST = 3000
ACROSS, UP = 220, 28  # cells of the picture; of each the best is sent if there are too many
COLOURS = ("verdict", "island", "member", "kind")
AXES = ("step", "generation", "hour")
FAILED = tuple(v for v in VERDICTS if v != "PASSED")
CHAIN = 1200  # ancestors of the best that are drawn
CHILDREN = 40  # of a node of the tree


@dataclass(frozen=True, kw_only=True)
class View:
    """What stands in the address. Bounds are those of the picture; without them it shows everything."""

    axis: str = "step"
    colour: str = "verdict"
    x0: float | None = None
    x1: float | None = None
    y0: float | None = None
    y1: float | None = None
    member: str = ""
    kind: str = ""
    verdict: str = ""
    island: str = ""
    of: str = "best"  # whose ancestors are drawn: a candidate, or the best

    @classmethod
    def read(cls, query: Mapping[str, str]) -> View:
        """From an address that anyone may have written: what makes no sense is left at its default."""
        values: dict[str, Any] = {name: _number(query.get(name)) for name in ("x0", "x1", "y0", "y1")}
        values |= {name: query.get(name, "")[:100] for name in ("member", "kind", "verdict", "island")}
        axis, colour = query.get("axis", "step"), query.get("colour", "verdict")
        return cls(
            axis=axis if axis in AXES else "step",
            colour=colour if colour in COLOURS else "verdict",
            of=query.get("of", "best")[:40] or "best",
            **values,
        )

    @property
    def query(self) -> dict[str, str]:
        """The parts that are not at their default, as an address has them."""
        return {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in vars(self).items() if v != _DEFAULT[k]}


_DEFAULT = vars(View())


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def points(journal: Journal, columns: Columns, view: View) -> dict[str, Any]:
    """The window as columns: x, y (None for a failure), the place in `names` for its colour, step, confirmed."""
    x = _axis(columns, view.axis)
    chosen = _chosen(columns, view)
    ranked = columns.ranked
    failed = chosen & ~columns.passed
    drawn = chosen & ranked
    bounds = _bounds(view, x, columns.score, drawn, failed)
    inside = chosen & (x >= bounds["x0"]) & (x <= bounds["x1"])
    high = inside & ranked & (columns.score >= bounds["y0"]) & (columns.score <= bounds["y1"])
    low = inside & ~columns.passed
    kept, whole = _thinned(columns, x, high, low, bounds)
    kinds, names = _colours(columns, view.colour)
    finite = [round(float(v), 5) if p else None for v, p in zip(columns.score[kept], ranked[kept], strict=True)]
    return {
        "axis": view.axis,
        "colour": view.colour,
        "bounds": bounds,
        "x": [round(float(v), 4) for v in x[kept]],
        "y": finite,
        "c": kinds[kept].tolist(),
        "v": columns.verdict[kept].tolist(),
        "s": columns.step[kept].tolist(),
        "sure": (columns.confirmed & columns.beats & columns.passed)[kept].astype(int).tolist(),
        "names": names,
        "verdicts": [*VERDICTS, "pending"],
        "modelled": bool(journal.query("SELECT 1 FROM steps WHERE verdict = 'PASSED' AND modelled LIMIT 1")),
        "shown": len(kept),
        "inside": whole,
        "all": len(columns.step),
        "other": int((columns.passed & ~ranked).sum()),
        "chain": chain(journal, columns, x, view.of),
    }


def _axis(columns: Columns, name: str) -> Array:
    if name == "generation":
        return columns.generation.astype(float)
    if name == "hour":
        return (columns.at - (columns.at[0] if len(columns.at) else 0.0)) / 3600
    return columns.step.astype(float)


def _chosen(columns: Columns, view: View) -> Array:
    chosen = np.ones(len(columns.step), dtype=bool)
    for wanted, names, values in (
        (view.member, columns.members.words, columns.member),
        (view.kind, columns.kinds.words, columns.kind),
        (view.verdict, columns.verdicts.words, columns.verdict),
    ):
        if wanted:
            chosen &= values == (names.index(wanted) if wanted in names else -1)
    if view.island:
        chosen &= columns.island == (int(view.island) if view.island.isdecimal() and len(view.island) < 5 else -1)
    if view.axis == "generation":
        chosen &= columns.generation >= 0
    return chosen


def _bounds(view: View, x: Array, y: Array, drawn: Array, failed: Array) -> dict[str, float]:
    """The picture's edges: the address's, or what there is with a little room."""
    seen = x[drawn | failed]
    x0, x1 = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    y0, y1 = (float(y[drawn].min()), float(y[drawn].max())) if drawn.any() else (0.0, 1.0)
    room_x, room_y = max((x1 - x0) * 0.01, 0.01 if view.axis == "hour" else 0.5), max((y1 - y0) * 0.04, 1e-3)
    found = {"x0": x0 - room_x, "x1": x1 + room_x, "y0": y0 - room_y, "y1": y1 + room_y}
    for low, high in (("x0", "x1"), ("y0", "y1")):
        given = getattr(view, low), getattr(view, high)
        if given[0] is not None and given[1] is not None and given[0] < given[1]:
            found[low], found[high] = given
    return found


def _thinned(columns: Columns, x: Array, high: Array, low: Array, bounds: Mapping[str, float]) -> tuple[Array, int]:
    """Places to send, in order, and how many there would be. Of those that fall into one cell the best is kept, and
    whoever was confirmed is always kept."""
    whole = int(high.sum() + low.sum())
    places = np.flatnonzero(high | low)
    if whole <= MOST:
        return places, whole
    across = np.floor((x[places] - bounds["x0"]) / (bounds["x1"] - bounds["x0"]) * ACROSS)
    rise = np.floor((columns.score[places] - bounds["y0"]) / (bounds["y1"] - bounds["y0"]) * UP)
    lane = np.where(low[places], UP + 1 + columns.verdict[places], rise)
    cell = across * (UP + PENDING + 3) + lane
    order = np.lexsort((-columns.score[places], cell))
    first = np.concatenate([[True], np.diff(cell[order]) != 0])
    kept = places[order[first]]
    sure = np.flatnonzero(high & columns.confirmed & columns.beats)
    if len(kept) > MOST:  # the lanes of failures alone can be too many
        kept = kept[:: -(-len(kept) // MOST)]
    return np.unique(np.concatenate([kept, sure[-500:]])), whole


def _colours(columns: Columns, by: str) -> tuple[Array, list[str]]:
    if by == "island":
        return columns.island, [f"island {i}" for i in range(int(columns.island.max(initial=0)) + 1)]
    names = {"verdict": columns.verdicts, "member": columns.members, "kind": columns.kinds}[by]
    return getattr(columns, by), list(names.words)


def chain(journal: Journal, columns: Columns, x: Array, of: str) -> dict[str, Any]:
    """The ancestors of the best, or of whoever was asked for, from the seed on."""
    row = lineage.best(journal) if of == "best" else _find(journal, of)
    if row is None:
        return {"x": [], "y": [], "s": [], "id": None}
    parent_of = dict(zip(columns.step.tolist(), columns.parent.tolist(), strict=True)) if row else {}
    steps: list[int] = []
    at = row.step
    while at >= 0 and len(steps) < CHAIN and at in parent_of:
        steps.append(at)
        older = parent_of[at]
        at = older if older < at else -1
    places = columns.places(sorted(steps))
    ok = columns.ranked
    return {
        "x": [round(float(x[p]), 4) for p in places],
        "y": [round(float(columns.score[p]), 5) if ok[p] else None for p in places],
        "s": [int(columns.step[p]) for p in places],
        "id": row.candidate_id,
    }


def _find(journal: Journal, of: str) -> Row | None:
    found = list(journal.rows("s.candidate_id = ?", (of,)))
    return found[0] if found else None


# --- One point ------------------------------------------------------------------------------------------------------


def point(journal: Journal, step: int) -> dict[str, Any] | None:
    """Who, what and why of one step, and where the arrow keys lead from it."""
    rows = list(journal.rows("s.step = ?", (step,)))
    if not rows:
        return None
    row = rows[0]
    near = neighbours(journal, row)
    return {
        "step": row.step,
        "id": row.candidate_id,
        "verdict": row.verdict or "pending",
        "score": words.score_of(row),
        "outcome": words.mark(row)[0],
        "gain": words.percent(row.gain),
        "confirmed": row.confirmed and row.passed,
        "member": words.line(row.member, 40),
        "kind": words.line(row.kind, 40),
        "island": row.island,
        "generation": row.generation,
        "why": words.line(row.hypothesis, 300),
        "said": "" if row.passed else words.line(row.headline, 300),
        "parent": row.parent_id,
        **{name: other.step if other else None for name, other in near.items()},
    }


def neighbours(journal: Journal, row: Row) -> dict[str, Row | None]:
    """Along the ancestry: left the parent, right the child that came furthest, up and down the parent's others."""
    one = "LIMIT 1"
    left = list(journal.rows("s.candidate_id = ?", (row.parent_id,))) if row.parent_id else []
    right = list(
        journal.rows(
            "s.parent_id = ? AND s.candidate_id IS NOT NULL",
            (row.candidate_id,),
            order=f"s.confirmed_seq IS NULL, s.score DESC, s.step {one}",
        )
    )
    sibling = "s.parent_id = ? AND s.candidate_id IS NOT NULL AND s.step"
    up = list(journal.rows(f"{sibling} < ?", (row.parent_id, row.step), order=f"s.step DESC {one}"))
    down = list(journal.rows(f"{sibling} > ?", (row.parent_id, row.step), order=f"s.step {one}"))
    found = {"left": left, "right": right, "up": up, "down": down}
    return {name: rows[0] if rows else None for name, rows in found.items()}


# --- The tree -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Node:
    row: Row
    children: int
    path: bool  # an ancestor of the one that is shown
    below: tuple[Node, ...] = ()
    more: int = 0


def tree(journal: Journal, of: str) -> list[Node]:
    """The seeds, open along the way to the best or to `of`; everything else is a count until it is asked for."""
    row = lineage.best(journal) if of == "best" else _find(journal, of)
    line = [r.step for r in lineage.ancestors(journal, str(row.candidate_id))] if row and row.candidate_id else []
    roots = list(
        journal.rows("s.parent_id IS NULL AND s.candidate_id IS NOT NULL", (CHILDREN,), order="s.step LIMIT ?")
    )
    return [_grown(journal, root, line, 0) for root in roots]


def _grown(journal: Journal, row: Row, line: list[int], depth: int) -> Node:
    """Along the line every child of each ancestor, the best first; a very long line is cut after its first part."""
    count = _count(journal, row.candidate_id)
    if depth >= len(line) or line[depth] != row.step or depth > 60:
        return Node(row=row, children=count, path=False)
    following = line[depth + 1] if depth + 1 < len(line) else -1
    rows = branches(journal, str(row.candidate_id), following)
    below = tuple(_grown(journal, child, line, depth + 1) for child in rows)
    return Node(row=row, children=count, path=True, below=below, more=count - len(rows))


def branches(journal: Journal, candidate_id: str, first: int = -1, skip: int = 0) -> list[Row]:
    """Children of a node, the one on the line first, then by score."""
    order = "s.step <> ?, s.score DESC, s.step LIMIT ? OFFSET ?"
    where = "s.parent_id = ? AND s.candidate_id IS NOT NULL"
    size = 8 if first >= 0 and not skip else CHILDREN
    return list(journal.rows(where, (candidate_id, first, size, skip), order=order))


def nodes(journal: Journal, candidate_id: str, skip: int = 0) -> dict[str, Any]:
    """What opens under a node when it is clicked."""
    rows = branches(journal, candidate_id, skip=skip)
    count = _count(journal, candidate_id)
    below = [Node(row=r, children=_count(journal, r.candidate_id), path=False) for r in rows]
    return {"nodes": below, "parent": candidate_id, "more": count - skip - len(rows), "skip": skip + len(rows)}


def _count(journal: Journal, candidate_id: str | None) -> int:
    sql = "SELECT count(*) FROM steps WHERE parent_id = ? AND candidate_id IS NOT NULL"
    return int(journal.query(sql, (candidate_id,))[0][0])


def choices(columns: Columns) -> dict[str, list[str]]:
    """What the filters offer."""
    islands = int(columns.island.max(initial=0)) + 1 if len(columns.step) else 0
    return {
        "member": [w for w in columns.members.words if w],
        "kind": [w for w in columns.kinds.words if w],
        "verdict": [columns.verdicts.words[int(v)] for v in np.unique(columns.verdict)],
        "island": [str(i) for i in range(islands)] if islands > 1 else [],
    }
