"""Which candidate is meant: the best, and what stands behind the colon of RUN:ID.

Works on the tables of `journal_schema.py` through a function that asks them, so that `journal.py` and `lineage.py`
answer alike. Scores of different ranking keys are never compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from evolve.errors import UsageError

Query: TypeAlias = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


def present_key(query: Query) -> str:
    """The key by which the run ranks: its own, and where nothing has that, its latest PASSED candidate's."""
    own = query("SELECT value FROM meta WHERE key = 'ranking_key'", ())
    key = json.loads(own[0][0]) if own else ""
    if query("SELECT 1 FROM steps WHERE verdict = 'PASSED' AND ranking_key = ? LIMIT 1", (key,)):
        return str(key)
    found = query("SELECT ranking_key FROM steps WHERE verdict = 'PASSED' ORDER BY step DESC LIMIT 1", ())
    return str(found[0][0]) if found else ""


def best_step(query: Query, key: str | None = None) -> int | None:
    """The best that was confirmed to be ahead; where none is, the best confirmed; where none is, the best. A first
    figure won a draw among many, noise included, and a confirmed one may still lie within the noise of the best.
    At equal score the shorter source wins."""
    key = present_key(query) if key is None else key
    passed = "SELECT step FROM steps WHERE verdict = 'PASSED' AND ranking_key = ?"
    order = "score DESC, source_chars, step LIMIT 1"
    found = query(f"{passed} AND confirmed_seq IS NOT NULL ORDER BY beats DESC, {order}", (key,))
    found = found or query(f"{passed} ORDER BY {order}", (key,))
    return int(found[0][0]) if found else None


def find_step(query: Query, folder: Path, selector: str) -> int:
    """The step of a candidate: its id or the beginning of it, the step's number, or "best"."""
    if selector == "best":
        step = best_step(query)
        if step is None:
            raise UsageError(f"{folder}: nothing has PASSED yet, so there is no best; `evolve show {folder}` says why.")
        return step
    if selector.isascii() and selector.isdigit():
        return _numbered(query, folder, int(selector))
    sql = "SELECT step, candidate_id FROM steps WHERE candidate_id >= ? AND candidate_id < ?"
    found = query(f"{sql} ORDER BY candidate_id LIMIT 4", (_columnar(selector), _columnar(selector) + "\U0010ffff"))
    if len(found) == 1:
        return int(found[0][0])
    if found:
        several = ", ".join(name for _, name in found[:3]) + (" and others" if len(found) > 3 else "")
        raise UsageError(f'{folder}: "{selector}" is the beginning of {several}; give more of it.')
    raise UsageError(f'{folder}: no candidate "{selector}"; give an id, its beginning, a step{_range(query)}, or best.')


def _columnar(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # SQLite cannot even be asked for half a surrogate pair


def _numbered(query: Query, folder: Path, step: int) -> int:
    sql = "SELECT candidate_id, verdict, headline FROM steps WHERE step = ?"
    found = query(sql, (step,)) if step < 2**63 else []
    if not found:
        has = _range(query)
        raise UsageError(f"{folder}: no step {step}; {f'it has steps{has}' if has else 'it has none yet'}.")
    candidate_id, verdict, headline = found[0]
    if candidate_id is None:
        why = f"is {verdict} and has no candidate: {headline}" if verdict else "is not judged yet and has no candidate."
        raise UsageError(f"{folder}: step {step} {why}")
    return step


def _range(query: Query) -> str:
    first, last = query("SELECT min(step), max(step) FROM steps", ())[0]
    return "" if last is None else f" from {first} to {last}"
