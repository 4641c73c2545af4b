"""The tables of a journal, and the one row a step that is kept beside its events.

`events` is the record: append-only, in commit order, with a small JSON body. What is long stands aside so that neither
a replay nor a page of the dashboard reads it by accident: `sources` holds the candidates' text, `heavy` the prompt, the
reply or the evidence of an event, `shared` the system prompts, which are few and repeat.

`steps` and `tallies` are folds of `events`, written in the same transaction, so that a reader finds the twenty best of
a million candidates without reading a million. They can be rebuilt and hold nothing of their own.

What this module leaves to others: opening and committing (`journal.py`), what a body means (`journal_codec.py`).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from evolve.types import Asked, Confirmed, Evaluation, Event, Judged, Replied, Verdict

SCHEMA = 1
APPLICATION = 0x45564F4C  # "EVOL": tells a journal from any other SQLite file

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, at REAL NOT NULL, step INTEGER, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE sources (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE heavy (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE shared (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE steps (
  step INTEGER PRIMARY KEY,
  state INTEGER NOT NULL,        -- 1 asked, 2 replied, 3 judged
  at REAL NOT NULL,              -- of its latest event
  asked_seq INTEGER, replied_seq INTEGER, judged_seq INTEGER, confirmed_seq INTEGER,
  member TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL DEFAULT '',
  island INTEGER NOT NULL DEFAULT 0, generation INTEGER,
  candidate_id TEXT, parent_id TEXT, parent_score REAL,
  verdict TEXT NOT NULL DEFAULT '', stage TEXT NOT NULL DEFAULT '', ranking_key TEXT NOT NULL DEFAULT '',
  modelled INTEGER NOT NULL DEFAULT 0, beats INTEGER NOT NULL DEFAULT 0, improved INTEGER NOT NULL DEFAULT 0,
  score REAL NOT NULL DEFAULT 0, score_low REAL NOT NULL DEFAULT 0, score_high REAL NOT NULL DEFAULT 0,
  first_score REAL NOT NULL DEFAULT 0,
  cost_usd REAL NOT NULL DEFAULT 0, tokens_in INTEGER NOT NULL DEFAULT 0, tokens_out INTEGER NOT NULL DEFAULT 0,
  reply_seconds REAL NOT NULL DEFAULT 0, judge_seconds REAL NOT NULL DEFAULT 0, gpu_seconds REAL NOT NULL DEFAULT 0,
  source_chars INTEGER NOT NULL DEFAULT 0,
  hypothesis TEXT NOT NULL DEFAULT '', headline TEXT NOT NULL DEFAULT ''
);
CREATE TABLE tallies (
  member TEXT NOT NULL, verdict TEXT NOT NULL,  -- '' where there is none yet
  steps INTEGER NOT NULL, asked INTEGER NOT NULL, improved INTEGER NOT NULL,
  cost_usd REAL NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL,
  reply_seconds REAL NOT NULL, judge_seconds REAL NOT NULL, gpu_seconds REAL NOT NULL,
  PRIMARY KEY (member, verdict)
) WITHOUT ROWID;
CREATE INDEX events_of_step ON events (step) WHERE step IS NOT NULL;
CREATE INDEX notes ON events (seq) WHERE kind = 'noted';
CREATE UNIQUE INDEX by_candidate ON steps (candidate_id) WHERE candidate_id IS NOT NULL;
CREATE INDEX by_parent ON steps (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX by_score ON steps (ranking_key, score DESC, source_chars) WHERE verdict = 'PASSED';
CREATE INDEX by_confirmed ON steps (ranking_key, beats DESC, score DESC, source_chars)
  WHERE verdict = 'PASSED' AND confirmed_seq IS NOT NULL;
CREATE INDEX curve ON steps (step, ranking_key, score) WHERE verdict = 'PASSED';
CREATE INDEX pending ON steps (step) WHERE state < 3 OR (beats AND confirmed_seq IS NULL);
"""

_SUMS = ("improved", "cost_usd", "tokens_in", "tokens_out", "reply_seconds", "judge_seconds", "gpu_seconds")
_ADD = f"""
  INSERT INTO tallies (member, verdict, steps, asked, {", ".join(_SUMS)})
  VALUES (NEW.member, NEW.verdict, 1, NEW.asked_seq IS NOT NULL, {", ".join("NEW." + s for s in _SUMS)})
  ON CONFLICT (member, verdict) DO UPDATE SET steps = steps + 1, asked = asked + excluded.asked,
  {", ".join(f"{s} = {s} + excluded.{s}" for s in _SUMS)};
"""
_TAKE = f"""
  UPDATE tallies SET steps = steps - 1, asked = asked - (OLD.asked_seq IS NOT NULL),
  {", ".join(f"{s} = {s} - OLD.{s}" for s in _SUMS)} WHERE member = OLD.member AND verdict = OLD.verdict;
  DELETE FROM tallies WHERE member = OLD.member AND verdict = OLD.verdict AND steps = 0;
"""
TRIGGERS = f"""
CREATE TRIGGER step_begun AFTER INSERT ON steps BEGIN {_ADD} END;
CREATE TRIGGER step_changed AFTER UPDATE ON steps BEGIN {_TAKE} {_ADD} END;
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A step at a glance. `score` is the confirmed figure where there is one, `first_score` what was measured first;
    `beats` is the latest
    judgement's word on the incumbent; `improved` says that the lower end of the score's interval lies above what the
    parent had when this was judged."""

    step: int
    state: int
    at: float
    member: str
    model: str
    kind: str
    island: int
    generation: int | None
    candidate_id: str | None
    parent_id: str | None
    parent_score: float | None
    verdict: str
    stage: str
    ranking_key: str
    modelled: bool
    beats: bool
    improved: bool
    confirmed: bool
    score: float
    score_low: float
    score_high: float
    first_score: float
    cost_usd: float
    tokens_in: int
    tokens_out: int
    reply_seconds: float
    judge_seconds: float
    gpu_seconds: float
    source_chars: int
    hypothesis: str
    headline: str  # of the feedback: its first line

    @property
    def passed(self) -> bool:
        return self.verdict == Verdict.PASSED

    @property
    def gain(self) -> float | None:
        """Score over the parent's: 1.05 is five per cent faster. None without a parent that had a score."""
        return self.score / self.parent_score if self.passed and self.parent_score else None


# Columns of `Row` in its order; `s` is the steps table wherever this is used.
COLUMNS = ", ".join("s.confirmed_seq IS NOT NULL" if f == "confirmed" else f"s.{f}" for f in Row.__dataclass_fields__)
_FLAGS = tuple(list(Row.__dataclass_fields__).index(f) for f in ("modelled", "beats", "improved", "confirmed"))


def row_of(values: tuple[Any, ...]) -> Row:
    mended = list(values)
    for place in _FLAGS:
        mended[place] = bool(mended[place])
    return Row(*mended)


def lay(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty database."""
    connection.executescript(f"BEGIN; {TABLES} {TRIGGERS} COMMIT;")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def plain(text: str) -> str:
    """Text for a column. SQLite's own text is strict UTF-8, and a model may send half a surrogate pair; the event
    keeps it exactly, a column may show a question mark in its place."""
    return text.encode("utf-8", "replace").decode("utf-8")


def project(connection: sqlite3.Connection, seq: int, at: float, event: Event) -> None:
    """Carry one event over into its step's row."""
    if isinstance(event, Asked):
        _asked(connection, seq, at, event)
    elif isinstance(event, Replied):
        _replied(connection, seq, at, event)
    elif isinstance(event, Judged):
        _judged(connection, seq, at, event)
    elif isinstance(event, Confirmed):
        _confirmed(connection, seq, at, event)


def _upsert(connection: sqlite3.Connection, step: int, values: dict[str, Any], added: dict[str, Any]) -> None:
    """Set `values` and add to `added` in the step's row, which is made if there is none."""
    everything = {"step": step, **values, **added}
    names, marks = ", ".join(everything), ", ".join("?" * len(everything))
    changes = ", ".join([*(f"{n} = excluded.{n}" for n in values), *(f"{n} = {n} + excluded.{n}" for n in added)])
    connection.execute(
        f"INSERT INTO steps ({names}) VALUES ({marks}) ON CONFLICT (step) DO UPDATE SET {changes}",
        tuple(everything.values()),
    )


def _asked(connection: sqlite3.Connection, seq: int, at: float, event: Asked) -> None:
    values = {
        "state": 1,
        "at": at,
        "asked_seq": seq,
        "replied_seq": None,  # asked anew: the earlier reply came to nothing, its cost stays
        "member": plain(event.member),
        "kind": plain(event.prompt.kind),
        "island": event.island,
        "parent_id": event.parent_id,
    }
    _upsert(connection, event.step, values, {})


def _replied(connection: sqlite3.Connection, seq: int, at: float, event: Replied) -> None:
    reply = event.reply
    values = {
        "state": 2,
        "at": at,
        "replied_seq": seq,
        "member": plain(reply.member),
        "model": plain(reply.model),
        "hypothesis": plain(reply.hypothesis),
    }
    added = {
        "cost_usd": reply.cost_usd,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "reply_seconds": reply.seconds,
    }
    _upsert(connection, event.step, values, added)


def _judged(connection: sqlite3.Connection, seq: int, at: float, event: Judged) -> None:
    values: dict[str, Any] = {"state": 3, "at": at, "judged_seq": seq, "first_score": event.evaluation.score}
    candidate = event.candidate
    parent = candidate.parent_id if candidate else None
    if candidate is not None:
        values |= {
            "candidate_id": candidate.id,
            "parent_id": candidate.parent_id,
            "member": plain(candidate.member),
            "kind": plain(candidate.kind),
            "island": candidate.island,
            "generation": candidate.generation,
            "source_chars": len(candidate.source),
            "hypothesis": plain(candidate.hypothesis),
        }
    values |= _found(event.evaluation, _score_of(connection, parent, event.evaluation.ranking_key))
    _upsert(connection, event.step, values, _took(event.evaluation))


def _confirmed(connection: sqlite3.Connection, seq: int, at: float, event: Confirmed) -> None:
    """The figure is replaced; what the parent had stays as it was when the candidate was judged."""
    parent_score = connection.execute("SELECT parent_score FROM steps WHERE step = ?", (event.step,)).fetchone()[0]
    values = {"state": 3, "at": at, "confirmed_seq": seq, **_found(event.evaluation, parent_score)}
    _upsert(connection, event.step, values, _took(event.evaluation))


def _score_of(connection: sqlite3.Connection, candidate_id: str | None, key: str) -> float | None:
    """The parent's present score, if it is of the same ranking: others are never compared."""
    found = connection.execute(
        "SELECT score FROM steps WHERE candidate_id = ? AND ranking_key = ? AND verdict = 'PASSED'", (candidate_id, key)
    ).fetchone()
    return found[0] if found else None


def _found(evaluation: Evaluation, parent_score: float | None) -> dict[str, Any]:
    low = evaluation.score_low
    lines = evaluation.feedback.strip().splitlines()
    return {
        "verdict": evaluation.verdict.value,
        "stage": plain(evaluation.stage),
        "ranking_key": plain(evaluation.ranking_key),
        "modelled": evaluation.modelled,
        "beats": evaluation.beats_incumbent,
        "score": evaluation.score,
        "score_low": low,
        "score_high": evaluation.score_high,
        "parent_score": parent_score,
        "improved": evaluation.passed and parent_score is not None and low > parent_score,
        "headline": plain(lines[0][:200]) if lines else "",
    }


def _took(evaluation: Evaluation) -> dict[str, float]:
    seconds = evaluation.seconds
    return {
        "judge_seconds": sum(s for stage, s in seconds.items() if stage != "gpu"),
        "gpu_seconds": seconds.get("gpu", 0.0),
    }
