"""Who descends from whom, what came of it, and what it cost: questions to the journal, answered by its rows.

Every function is a pure reading: the same journal gives the same answer, and nothing is remembered in between. Only
`best_so_far`, `experiments` and `descendants` take time that grows with the run. Scores of different ranking keys are
never compared: a function that compares takes one key, by default the run's present one.

What it deliberately leaves out: how a journal is kept (`journal.py`), and every word that a person reads (`terminal/`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from evolve.journal import Journal
from evolve.journal_find import best_step, find_step, present_key
from evolve.journal_schema import Row
from evolve.runs import writer_of
from evolve.types import Verdict

# --- Descent --------------------------------------------------------------------------------------------------------

# A parent is older than its child; saying so ends the walk even in a journal that someone wrote by hand.
_UP = """WITH RECURSIVE up (step, depth) AS (
  SELECT step, 0 FROM steps WHERE candidate_id = ?
  UNION ALL
  SELECT p.step, up.depth + 1 FROM up JOIN steps c ON c.step = up.step
  JOIN steps p ON p.candidate_id = c.parent_id AND p.step < c.step)"""
_DOWN = """WITH RECURSIVE down (id) AS (
  VALUES (?)
  UNION SELECT c.candidate_id FROM down JOIN steps c ON c.parent_id = down.id WHERE c.candidate_id IS NOT NULL)"""


def ancestors(journal: Journal, candidate_id: str) -> list[Row]:
    """From the seed to the candidate, both included."""
    return list(journal.select("FROM up JOIN steps s USING (step) ORDER BY up.depth DESC", (candidate_id,), before=_UP))


def children(journal: Journal, candidate_id: str) -> list[Row]:
    """Every step that was drawn with this parent and came to an end or not, by step."""
    return list(journal.rows("s.parent_id = ?", (candidate_id,)))


def descendants(journal: Journal, candidate_id: str) -> int:
    """How many candidates came of this one, in any generation."""
    return int(journal.query(f"{_DOWN} SELECT count(*) - 1 FROM down", (candidate_id,))[0][0])


def find(journal: Journal, selector: str) -> Row:
    """What stands behind the colon of RUN:ID: a candidate's id or the beginning of one, a step's number, or "best"."""
    return _row(journal, find_step(journal.query, journal.folder, selector))


def _row(journal: Journal, step: int) -> Row:
    return next(journal.rows("s.step = ?", (step,)))


# --- What the model said --------------------------------------------------------------------------------------------

LATEST = 300  # judged candidates that are looked at: enough to tell, and quick to read


@dataclass(frozen=True, slots=True)
class Foretold:
    """One workload of one measured candidate: what the cost model predicted for it, and what was measured."""

    candidate_id: str
    workload: str
    predicted_us: float
    measured_us: float


def foretold(journal: Journal, latest: int = LATEST) -> list[Foretold]:
    """Of the latest PASSED candidates that were measured on a GPU. Where times are modelled there is nothing to
    compare."""
    found = []
    rows = journal.rows("s.verdict = 'PASSED'", (latest,), order="s.step DESC LIMIT ?")
    for name in [row.candidate_id for row in rows if row.candidate_id]:
        evaluation = journal.attempt(name).evaluation
        timed = evaluation.evidence.get("time")
        said = timed.get("model", {}) if isinstance(timed, Mapping) else {}
        for m in evaluation.measurements:
            predicted = said.get(m.workload, {}).get("time_us") if not m.modelled else None
            if isinstance(predicted, int | float) and predicted > 0:
                found.append(Foretold(name, m.workload, float(predicted), m.time_us))
    return found


def rank_correlation(pairs: Sequence[Foretold]) -> float | None:
    """Spearman's, of predicted with measured times of one workload; None for fewer than three, or equal times."""
    predicted, measured = [p.predicted_us for p in pairs], [p.measured_us for p in pairs]
    if len(pairs) < 3 or len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    from scipy.stats import spearmanr  # half a second, for those who ask

    return float(spearmanr(predicted, measured).statistic)


# --- The best -------------------------------------------------------------------------------------------------------


def ranking_key(journal: Journal) -> str:
    """The key by which the run ranks: its own, and where nothing has that, its latest PASSED candidate's."""
    return present_key(journal.query)


def top(journal: Journal, count: int, key: str | None = None) -> list[Row]:
    """The best by score, unconfirmed ones included."""
    key = ranking_key(journal) if key is None else key
    where = "s.verdict = 'PASSED' AND s.ranking_key = ?"
    return list(journal.rows(where, (key, count), order="s.score DESC, s.source_chars, s.step LIMIT ?"))


def best(journal: Journal, key: str | None = None) -> Row | None:
    """The best that was confirmed to be ahead; where nothing is confirmed yet, the best on a first figure."""
    step = best_step(journal.query, key)
    return None if step is None else _row(journal, step)


def other_bests(journal: Journal) -> list[Row]:
    """What was confirmed to lead on each further kind of GPU that the run had."""
    keys = journal.query("SELECT DISTINCT ranking_key FROM steps WHERE verdict = 'PASSED' AND confirmed_seq NOT NULL")
    found = [best(journal, key) for (key,) in sorted(keys) if key != ranking_key(journal)]
    return [row for row in found if row is not None and row.confirmed]


def waiting(journal: Journal) -> list[Row]:
    """Would-be bests that still have to be confirmed, the best one first."""
    present = best(journal)
    if present is None:
        return []
    # Few steps are pending, and the planner does not know it: told to, it passes over all others.
    pending = "(s.state < 3 OR (s.beats AND s.confirmed_seq IS NULL))"
    where = f"{pending} AND s.verdict = 'PASSED' AND s.ranking_key = ?"
    ahead_of = present.score if present.confirmed else 0.0
    found = journal.select(f"FROM steps s INDEXED BY pending WHERE {where}", (present.ranking_key,))
    return sorted((row for row in found if row.score > ahead_of), key=lambda row: (-row.score, row.step))


def best_so_far(journal: Journal, key: str | None = None, *, confirmed: bool = False) -> list[Row]:
    """The steps at which the best rose, each at its present figure; with `confirmed`, as it was confirmed."""
    key = ranking_key(journal) if key is None else key
    sql = "SELECT step, score FROM steps WHERE verdict = 'PASSED' AND ranking_key = ? ORDER BY step"
    if confirmed:
        sql = sql.replace("ORDER", "AND confirmed_seq IS NOT NULL AND beats ORDER")
    risen, high = [], -math.inf
    for step, score in journal.query(sql, (key,)):
        if score > high:
            high = score
            risen.append(step)
    return [_row(journal, step) for step in risen]


def running_best(scores: Iterable[float]) -> list[float]:
    """The best-of-N curve of draws in their order: what was in hand after each."""
    curve: list[float] = []
    for score in scores:
        curve.append(max(score, curve[-1]) if curve else score)
    return curve


def expected_best(scores: Sequence[float], count: int) -> float:
    """What the best of `count` draws would be on average, from more draws than that: unbiased, without luck of order.
    The k-th smallest of n is the best of a subset in C(k-1, count-1) of C(n, count) cases."""
    ordered, n = sorted(scores), len(scores)
    if not 1 <= count <= n:
        raise ValueError(f"the best of {count} out of {n} draws; expected 1 to {n}.")
    whole = math.comb(n, count)
    return math.fsum(x * (math.comb(k, count - 1) / whole) for k, x in enumerate(ordered))


# --- What it cost, and whom -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberScore:
    """A member's line. `improved` counts candidates that are better than their parent by more than their interval."""

    member: str
    asked: int
    passed: int
    improved: int
    cost_usd: float
    tokens_in: int
    tokens_out: int
    seconds: float
    gpu_seconds: float

    @property
    def cost_per_improvement(self) -> float | None:
        return self.cost_usd / self.improved if self.improved else None


def scoreboard(journal: Journal) -> list[MemberScore]:
    """A line for each member that was asked, by name. Seeds were not asked for and have none."""
    rows = journal.query(
        "SELECT member, sum(asked), sum(steps * (verdict = 'PASSED')), sum(improved), sum(cost_usd), sum(tokens_in),"
        " sum(tokens_out), sum(reply_seconds), sum(gpu_seconds) FROM tallies GROUP BY member HAVING sum(asked) > 0"
        " ORDER BY member"
    )
    names = MemberScore.__dataclass_fields__
    return [MemberScore(**dict(zip(names, row, strict=True))) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """All that a run has cost. `seconds` is the time it ran, without the pauses between its sessions."""

    steps: int  # without the seeds, as a budget counts them
    cost_usd: float
    tokens_in: int
    tokens_out: int
    reply_seconds: float
    judge_seconds: float
    gpu_seconds: float
    seconds: float
    sessions: int


def spend(journal: Journal) -> Spend:
    sums = journal.query(
        "SELECT coalesce(sum(steps * (member <> 'seed')), 0), total(cost_usd), coalesce(sum(tokens_in), 0),"
        " coalesce(sum(tokens_out), 0), total(reply_seconds), total(judge_seconds), total(gpu_seconds) FROM tallies"
    )[0]
    names = ("steps", "cost_usd", "tokens_in", "tokens_out", "reply_seconds", "judge_seconds", "gpu_seconds")
    seconds, sessions = _running_time(journal)
    return Spend(**dict(zip(names, sums, strict=True)), seconds=seconds, sessions=sessions)


def _running_time(journal: Journal) -> tuple[float, int]:
    """From first event to last, less the gap before each "resumed"."""
    ends = journal.query(
        "SELECT at FROM events WHERE seq = (SELECT min(seq) FROM events)"
        " UNION ALL SELECT at FROM events WHERE seq = (SELECT max(seq) FROM events)"
    )
    if not ends:
        return 0.0, 0
    gaps = journal.query(
        "SELECT e.at - p.at FROM events e JOIN events p ON p.seq = e.seq - 1"
        " WHERE e.kind = 'noted' AND json_extract(e.body, '$.what') = 'resumed'"
    )
    return max(0.0, ends[-1][0] - ends[0][0] - sum(max(0.0, gap) for (gap,) in gaps)), 1 + len(gaps)


def verdict_counts(journal: Journal) -> dict[Verdict, int]:
    """How many steps came to each verdict, in the order of the stages; those that none came to are left out."""
    found = dict(journal.query("SELECT verdict, sum(steps) FROM tallies WHERE verdict <> '' GROUP BY verdict"))
    return {verdict: found[verdict.value] for verdict in Verdict if verdict.value in found}


def unfinished(journal: Journal) -> int:
    """Steps that were begun and have no verdict yet."""
    return int(journal.query("SELECT coalesce(sum(steps), 0) FROM tallies WHERE verdict = ''")[0][0])


State = Literal["running", "finished", "stopped", "died", "empty"]


def state(journal: Journal) -> tuple[State, str]:
    """What the run is doing, and the sentence that it ended with, or who writes it."""
    pid = writer_of(journal.folder)
    if pid is not None:
        return "running", f"process {pid} is at it"
    for (body,) in journal.query("SELECT body FROM events WHERE kind = 'noted' ORDER BY seq DESC LIMIT 50"):
        note = json.loads(body)
        if note["what"] == "finished":
            return "finished", note["text"]
        if note["what"] == "interrupted":
            return "stopped", note["text"]
        if note["what"] in ("started", "resumed"):
            return "died", "its process ended without a word"
    return ("died", "its process ended without a word") if journal.last_seq() else ("empty", "nothing happened yet")


def experiments(journal: Journal, *, count: int | None = None) -> list[Row]:
    """The judged steps that had a hypothesis, oldest first: all, or the last `count`."""
    rows = list(
        journal.rows(
            "s.hypothesis <> '' AND s.state = 3", (-1 if count is None else count,), order="s.step DESC LIMIT ?"
        )
    )
    return rows[::-1]
