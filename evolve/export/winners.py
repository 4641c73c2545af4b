"""Which candidates are exported: read from the journal, with the parameters that they were judged at.

A candidate that did not pass, or whose problem's file is another one now, is refused with what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evolve import lineage
from evolve.errors import UsageError
from evolve.journal import Journal
from evolve.problem import Problem, Variant
from evolve.runs import named
from evolve.tuner import nearest
from evolve.types import Evaluation, Json, Scalar, Workload


@dataclass(frozen=True, kw_only=True)
class Winner:
    id: str
    source: str
    evaluation: Evaluation
    confirmed: bool
    lineage: tuple[Mapping[str, Json], ...]  # from the seed on


@dataclass(frozen=True, kw_only=True)
class Winners:
    folder: Path
    meta: Mapping[str, Json]
    environment: Mapping[str, Json]
    found: tuple[Winner, ...]

    @property
    def name(self) -> str:
        return self.folder.name


def of_run(targets: Sequence[str], runs: Path) -> Winners:
    """`RUN`, `RUN:ID`, or several; an ID without a run belongs to the first one's. Of a run that had several kinds of
    GPU the best of each, the run's own first."""
    first = named(targets[0], runs)
    selectors = [first.selector or "best", *(_selector(text, first.folder, runs) for text in targets[1:])]
    with closing(Journal.open(first.folder)) as journal:
        ids = dict.fromkeys(journal.resolve(s) for s in selectors)
        if selectors == ["best"]:
            ids |= dict.fromkeys(other.candidate_id for other in lineage.other_bests(journal) if other.candidate_id)
        found = tuple(_winner(journal, each) for each in ids)
        return Winners(folder=first.folder, meta=dict(journal.meta), environment=dict(journal.environment), found=found)


def _selector(text: str, folder: Path, runs: Path) -> str:
    if ":" not in text:
        return text
    other = named(text, runs)
    if other.folder.resolve() != folder.resolve():
        raise UsageError(f"{text}: one package holds candidates of one run, so of one problem; {folder} is the first.")
    return other.selector or "best"


def _winner(journal: Journal, candidate_id: str) -> Winner:
    attempt = journal.attempt(candidate_id)
    if not attempt.evaluation.passed:
        raise UsageError(
            f"{journal.folder}:{candidate_id}: its verdict is {attempt.evaluation.verdict}; only what PASSED is "
            f"exported. `evolve show {journal.folder} --top 5` names some."
        )
    rows = lineage.ancestors(journal, candidate_id)
    return Winner(
        id=candidate_id,
        source=attempt.candidate.source,
        evaluation=attempt.evaluation,
        confirmed=len(journal.history(candidate_id)) > 1,
        lineage=tuple(
            {"id": r.candidate_id, "member": r.member, "kind": r.kind, "score": r.score, "hypothesis": r.hypothesis}
            for r in rows
        ),
    )


def as_judged(winners: Winners, problem: Problem) -> None:
    """The file that a package carries must be the one that the candidates were judged by."""
    digest = winners.meta.get("problem_digest")
    if digest and digest != problem.digest:
        raise UsageError(
            f"{problem.path}: has changed since {winners.folder} was judged by it (digest {digest} then, "
            f"{problem.digest} now). Bring the old file back, or run the search again."
        )


def parameters(evaluation: Evaluation, workload: Workload, problem: Problem, variant: Variant) -> dict[str, Scalar]:
    """What it was judged at, and where it was not timed, what the nearest workload had."""
    known = evaluation.parameters
    if workload.name in known:
        return dict(known[workload.name])
    timed = [w for role in ("time", "held_out") for w in problem.of_role(role, variant)]
    return dict(nearest([(w.params, known[w.name]) for w in timed if w.name in known], workload.params))


def judged(winner: Winner, run: str) -> dict[str, Json]:
    """For provenance.json."""
    evaluation = winner.evaluation
    return {
        "candidate": winner.id,
        "run": run,
        "confirmed": winner.confirmed,
        "score": [evaluation.score, evaluation.score_low, evaluation.score_high],
        "modelled": evaluation.modelled,
        "measurements": measured(evaluation),
        "traits": dict(evaluation.traits),
        "errors": dict(evaluation.errors),
        "digests": list(evaluation.digests),
        "ranking_key": evaluation.ranking_key,
        "certificate": evaluation.evidence.get("certificate"),
        "environment": evaluation.evidence.get("environment"),
        "replay": evaluation.evidence.get("replay"),
        "seconds": dict(evaluation.seconds),
        "lineage": list(winner.lineage),
    }


def measured(evaluation: Evaluation) -> list[dict[str, Json]]:
    return [
        {
            "workload": m.workload,
            "baseline": m.baseline,
            "time_us": m.time_us,
            "ratio": [m.ratio, m.ratio_low, m.ratio_high],
            "samples": m.samples,
            "eager_us": m.eager_us,
            "parameters": dict(m.parameters),
            "modelled": m.modelled,
        }
        for m in evaluation.measurements
    ]
