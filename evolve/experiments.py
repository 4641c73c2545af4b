"""The notebook of a run: what was thought would help, what was predicted of it, and what came of it.

Pure readings of the journal, for the terminal, the dashboard and the prompts; the same journal gives the same pages.
How a prediction is read and held is told in `experiments_claims.py` and `experiments_held.py`, what goes back into
prompts in `experiments_lessons.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evolve import journal_codec, lineage
from evolve.experiments_claims import claims
from evolve.experiments_held import COUNTERS, Change, Finding, Outcome, change, held, overall
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.sentences import first_line
from evolve.types import Candidate, Evaluation, Judged, Scalar, Verdict

__all__ = ["Experiment", "Finding", "Outcome", "experiment", "notebook", "of_line", "of_rows"]

CHUNK = 400  # steps that are read at once
KEPT = 2048  # decoded judgements: every prompt's lessons look at the same few hundred again


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One judged step as an experiment. `prediction` is what the member stated; none means "faster"."""

    row: Row
    prediction: str = ""
    findings: tuple[Finding, ...] = ()
    outcome: Outcome = Outcome.NOT_MEASURED
    change: Change | None = None  # of the time, against the parent

    @property
    def idea(self) -> str:
        return first_line(self.row.hypothesis, 400)

    @property
    def predicted(self) -> str:
        return first_line(self.prediction, 200) or "faster"

    @property
    def seen(self) -> str:
        """What was found of each claim, or why nothing was."""
        if not self.row.passed:
            return f"{self.row.verdict}{f': {self.row.headline}' if self.row.headline else ''}"
        modelled = " (modelled)" if self.row.modelled else ""
        return ", ".join(finding.seen for finding in self.findings) + modelled

    @property
    def line(self) -> str:
        """Hypothesis → prediction → outcome."""
        return f"{self.idea or f'({self.row.kind})'} → {self.predicted} → {self.outcome}: {self.seen}"


# --- The notebook -----------------------------------------------------------------------------------------------------


def notebook(journal: Journal, *, count: int | None = None) -> list[Experiment]:
    """Every judged step that had a hypothesis, oldest first: all, or the last `count`."""
    return list(_experiments(journal, lineage.experiments(journal, count=count)))


def of_line(journal: Journal, candidate_id: str) -> list[Experiment]:
    """Those on a candidate's way from the seed, which is the first and has none."""
    return list(_experiments(journal, lineage.ancestors(journal, candidate_id)))


def of_rows(journal: Journal, rows: Sequence[Row]) -> list[Experiment]:
    """Those of the rows that a page has chosen, in its order."""
    return list(_experiments(journal, rows))


def experiment(journal: Journal, candidate_id: str) -> Experiment:
    return next(_experiments(journal, [lineage.find(journal, candidate_id)]))


def _experiments(journal: Journal, rows: Sequence[Row]) -> Iterator[Experiment]:
    workloads = [str(name) for name in journal.meta.get("workloads") or ()]
    parents: dict[str, Evaluation | None] = {}
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        found = _judged(journal, [row.step for row in part])
        missing = {row.parent_id for row in part if row.parent_id and row.parent_id not in parents}
        parents |= _by_name(journal, sorted(missing))
        for row in part:
            candidate, evaluation = found.get(row.step, (None, None))
            parent = parents.get(row.parent_id or "")
            yield _experiment(journal, row, candidate, evaluation, parent, workloads)


def _experiment(
    journal: Journal,
    row: Row,
    candidate: Candidate | None,
    evaluation: Evaluation | None,
    parent: Evaluation | None,
    workloads: Sequence[str],
) -> Experiment:
    prediction = candidate.prediction if candidate else ""
    if evaluation is None or not evaluation.passed:
        outcome = Outcome.WITHOUT_EFFECT if undone(row) else Outcome.NOT_MEASURED
        return Experiment(row=row, prediction=prediction, outcome=outcome)
    wanted = claims(prediction, workloads)
    counters = _counters(journal, row) if any(c.quantity in COUNTERS for c in wanted) else {}
    findings = held(wanted, parent, evaluation, counters)
    return Experiment(
        row=row,
        prediction=prediction,
        findings=tuple(findings),
        outcome=overall(findings),
        change=change(parent, evaluation),
    )


_TWIN = re.compile(r"\b\d{5,}-[0-9a-f]{8}\b")


def undone(row: Row) -> bool:
    """The compiler made the same of it. A source that was there before (found in the reply, or by the screen) is no
    experiment, nor is what another line had come to: its twin was."""
    if row.verdict != Verdict.DUPLICATE or row.stage in ("reply", "screen"):
        return False
    twin = _TWIN.search(row.headline)
    return twin is None or twin[0] == row.parent_id


_BODIES = """SELECT s.step, s.candidate_id, j.body, c.body FROM steps s JOIN events j ON j.seq = s.judged_seq
  LEFT JOIN events c ON c.seq = s.confirmed_seq WHERE """


def _judged(journal: Journal, steps: Sequence[int]) -> dict[int, tuple[Candidate | None, Evaluation]]:
    """Without evidence and sources, which are most of a journal."""
    found = journal.query(f"{_BODIES} s.step IN ({_marks(steps)})", steps)
    return {step: _decoded(step, judged, confirmed) for step, _, judged, confirmed in found}


def _by_name(journal: Journal, names: Sequence[str]) -> dict[str, Evaluation | None]:
    found = journal.query(f"{_BODIES} s.candidate_id IN ({_marks(names)})", names)
    known = {name: _decoded(step, judged, confirmed)[1] for step, name, judged, confirmed in found}
    return {name: known.get(name) for name in names}


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


@lru_cache(maxsize=KEPT)
def _decoded(step: int, judged: str, confirmed: str | None) -> tuple[Candidate | None, Evaluation]:
    """A confirmed figure replaces the first."""
    first = journal_codec.decode("judged", step, judged, source=None, heavy=None, system=None)
    assert isinstance(first, Judged)
    if confirmed is None:
        return first.candidate, first.evaluation
    again = journal_codec.decode("confirmed", step, confirmed, source=None, heavy=None, system=None)
    return first.candidate, again.evaluation  # type: ignore[union-attr]


def _counters(journal: Journal, row: Row) -> dict[str, Scalar]:
    """What the profiler read of this candidate and of its parent: only confirmed ones are profiled, and not all."""
    own = _profile(journal, row.candidate_id)
    before = _profile(journal, row.parent_id)
    return {**own, **{f"before:{name}": value for name, value in before.items()}}


def _profile(journal: Journal, name: str | None) -> dict[str, Scalar]:
    if not name or not journal.query(
        "SELECT 1 FROM steps WHERE candidate_id = ? AND confirmed_seq IS NOT NULL", (name,)
    ):
        return {}
    profile = (journal.attempt(name).evaluation.evidence.get("time") or {}).get("profile")
    launches = profile.get("launches") if isinstance(profile, Mapping) else None
    if not launches:
        return {}
    costliest: Mapping[str, Any] = max(launches, key=lambda launch: launch.get("duration", 0.0))
    return {k: v for k, v in costliest.items() if k in COUNTERS and isinstance(v, int | float)}
