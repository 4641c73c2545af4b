"""The page of a candidate: how it came to be first, then everything that its verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evolve import experiments, lineage
from evolve.dashboard import evidence, family, pictures
from evolve.dashboard.diffs import Diff, compare
from evolve.dashboard.run import head
from evolve.dashboard.shelf import Book, Missing
from evolve.errors import EvolveError
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.types import Evaluation, Measurement

CHILDREN = 60
CHAIN = 40  # ancestors of the waterfall; of more, those that gained least are left out
KEPT = 200_000  # characters of a prompt or a reply on the page


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One ancestor in the waterfall. `left_out` is how many stood between it and the one before."""

    row: Row
    outcome: str
    predicted: str
    seen: str
    picture: Any
    total: float | None  # times as fast as the seed
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One workload of the table."""

    m: Measurement
    picture: Any
    fraction: float | None
    model: evidence.Model | None
    over_parent: float | None
    parameters: Mapping[str, Any]
    changed: frozenset[str]


def context(book: Book, journal: Journal, row: Row, against: str = "parent") -> dict[str, Any]:
    name = str(row.candidate_id)
    turn = journal.step(row.step)
    attempt = turn.attempt
    assert attempt is not None
    evaluation = attempt.evaluation
    line = lineage.ancestors(journal, name)
    best = lineage.best(journal)
    parent = _evaluated(journal, line[-2]) if len(line) > 1 else None
    others = _others(journal, line, best, row, parent)
    own = experiments.experiment(journal, name)
    chosen, other = _other(journal, against, line, best)
    return {
        **head(journal),
        "row": row,
        "turn": turn,
        "source": attempt.candidate.source,
        "digest": attempt.candidate.digest,
        "inspirations": attempt.candidate.inspiration_ids,
        "evaluation": evaluation,
        "first": turn.evaluations[0] if len(turn.evaluations) > 1 else None,
        "waterfall": _waterfall(journal, line),
        "generations": len(line) - 1,
        "best": best,
        "is_best": best is not None and best.step == row.step,
        "own": own,
        "lines": _lines(evaluation, parent),
        "roofs": roofs(evaluation, others),
        "traits": _traits(evaluation, parent),
        "samples": evidence.samples(evaluation),
        "diff": _diff(other, row, attempt.candidate.source, journal),
        "against": chosen,
        "other": other,
        "seed": line[0] if line else None,
        "children": _children(journal, name),
        "descendants": book.columns(journal).descendants(row.step),
        "near": family.neighbours(journal, row),
        "replay": evidence.mapping(evaluation.evidence.get("replay")),
        "kept": KEPT,
    }


def find(journal: Journal, selector: str) -> Row:
    """The candidate of an address: an id, the beginning of one, a step, or "best"."""
    try:
        return lineage.find(journal, selector[:80])
    except EvolveError as error:
        raise Missing(str(error)) from error


def _evaluated(journal: Journal, row: Row | None) -> Evaluation | None:
    if row is None or row.candidate_id is None:
        return None
    return journal.attempt(row.candidate_id).evaluation


def _others(
    journal: Journal, line: Sequence[Row], best: Row | None, row: Row, parent: Evaluation | None
) -> list[tuple[str, Evaluation]]:
    """Who is drawn beside it under the roofline: seed, parent and best, those that are another."""
    found: dict[int, tuple[str, Evaluation]] = {}
    if best is not None and best.step != row.step and (evaluation := _evaluated(journal, best)):
        found[best.step] = ("best", evaluation)
    if len(line) > 1 and parent is not None:
        found.setdefault(line[-2].step, ("parent", parent))
    if len(line) > 1 and line[0].step not in found and (evaluation := _evaluated(journal, line[0])):
        found[line[0].step] = ("seed", evaluation)
    return [pair for pair in found.values() if pair[1].passed]


# --- How it came to be ----------------------------------------------------------------------------------------------


def _waterfall(journal: Journal, line: Sequence[Row]) -> list[Stage]:
    shown, gaps = _chosen(line)
    told = {e.row.step: e for e in experiments.of_rows(journal, shown)}
    scores = [r.score for r in shown if r.passed]
    scale = pictures.Scale([*scores, *[r.parent_score for r in shown if r.parent_score]], 4, 176)
    seed = line[0] if line else None
    stages = []
    for row in shown:
        one = told[row.step]
        asked = row.parent_id is not None
        comparable = seed is not None and seed.passed and row.passed and seed.ranking_key == row.ranking_key
        stages.append(
            Stage(
                row=row,
                outcome=one.outcome.value if asked else "",
                predicted=one.predicted if asked else "",
                seen=one.seen if asked or not row.passed else "",
                picture=pictures.rise(row.parent_score, row.score, scale) if row.passed else "",
                total=row.score / seed.score if comparable and seed is not None else None,
                left_out=gaps.get(row.step, 0),
            )
        )
    return stages


def _chosen(line: Sequence[Row]) -> tuple[list[Row], dict[int, int]]:
    """The first, the last, and of those between the ones that moved most; with how many are left out before each."""
    if len(line) <= CHAIN:
        return list(line), {}
    between = sorted(line[1:-1], key=lambda r: -abs(math.log(r.gain)) if r.gain else 0.0)[: CHAIN - 2]
    keep = {line[0].step, line[-1].step, *(r.step for r in between)}
    shown, gaps, missed = [], {}, 0
    for row in line:
        if row.step in keep:
            shown.append(row)
            if missed:
                gaps[row.step] = missed
            missed = 0
        else:
            missed += 1
    return shown, gaps


def _children(journal: Journal, name: str) -> dict[str, Any]:
    """The best of them, and of all of them how many; the seed of a long run has thousands."""
    mine = "s.parent_id = ? AND s.state = 3"
    order = "s.verdict <> 'PASSED', s.score DESC, s.step LIMIT ?"
    sums = "count(*), coalesce(sum(s.verdict = 'PASSED'), 0), coalesce(sum(s.improved), 0)"
    counts = journal.query(f"SELECT {sums} FROM steps s WHERE {mine}", (name,))[0]
    found = dict(zip(("count", "passed", "improved"), counts, strict=True))
    return {"rows": list(journal.rows(mine, (name, CHILDREN), order=order)), **found}


# --- What was measured ----------------------------------------------------------------------------------------------


def _lines(evaluation: Evaluation, parent: Evaluation | None) -> list[Line]:
    models = evidence.models(evaluation)
    old = {}
    if parent is not None and parent.ranking_key == evaluation.ranking_key:
        old = {m.workload: m for m in parent.measurements}
    bounds = [v for m in evaluation.measurements for v in (m.ratio_low, m.ratio_high)]
    scale = pictures.Scale([*bounds, 1.0], 8, 142)
    lines = []
    for m in evaluation.measurements:
        before = old.get(m.workload)
        changed = {k for k, v in m.parameters.items() if before and before.parameters.get(k) != v}
        lines.append(
            Line(
                m=m,
                picture=pictures.interval(m.ratio_low, m.ratio, m.ratio_high, scale),
                fraction=evidence.fraction(models.get(m.workload), m.time_us),
                model=models.get(m.workload),
                over_parent=before.time_us / m.time_us if before else None,
                parameters=m.parameters,
                changed=frozenset(changed),
            )
        )
    return lines


def roofs(evaluation: Evaluation, others: Sequence[tuple[str, Evaluation]]) -> dict[str, Any]:
    """The roofline picture, where the evidence has what it needs; and beside it each workload's share of the roof."""
    models = evidence.models(evaluation)
    marks: list[pictures.Mark] = []
    shares: list[dict[str, Any]] = []
    for m in evaluation.measurements:
        model = models.get(m.workload)
        if model is None:
            continue
        named = [("baseline", m.time_us * m.ratio), *_times(others, m.workload), ("here", m.time_us)]
        shares.append({"workload": m.workload, "bound": model.bound, "ideal_us": model.ideal_us, "time_us": m.time_us,
                       "marks": [(who, min(1.0, model.ideal_us / us), us) for who, us in named],
                       "terms": sorted(model.terms.items(), key=lambda t: -t[1])})  # fmt: skip
        if model.intensity and model.flops:
            marks += [
                pictures.Mark(who=who, what=m.workload, x=model.intensity, y=model.flops / us / 1e6)
                for who, us in named
            ]
    ceilings = next((x for x in models.values() if x.tflops and x.gbs), None)
    picture = None
    if marks and ceilings is not None and ceilings.tflops and ceilings.gbs:
        picture = pictures.roofline(marks, ceilings.tflops, ceilings.gbs)
    return {"picture": picture, "shares": shares, "modelled": evaluation.modelled}


def _times(others: Sequence[tuple[str, Evaluation]], workload: str) -> list[tuple[str, float]]:
    return [(who, m.time_us) for who, e in others for m in e.measurements if m.workload == workload]


def _traits(evaluation: Evaluation, parent: Evaluation | None) -> list[tuple[str, Any, Any, bool]]:
    """Name, here, parent's, changed; what changed comes first."""
    old = parent.traits if parent else {}
    rows = [(n, v, old.get(n), n in old and old[n] != v) for n, v in evaluation.traits.items()]
    return sorted(rows, key=lambda row: not row[3])


# --- The diff -------------------------------------------------------------------------------------------------------


def _other(journal: Journal, against: str, line: Sequence[Row], best: Row | None) -> tuple[str, Row | None]:
    """Whom it is compared with: parent, seed, best, or any other by id or step."""
    if against == "parent":
        return "parent", line[-2] if len(line) > 1 else None
    if against == "seed":
        return "seed", line[0] if line else None
    if against == "best":
        return "best", best
    return against, find(journal, against)


def _diff(other: Row | None, row: Row, source: str, journal: Journal) -> Diff | None:
    if other is None or other.candidate_id is None or other.step == row.step:
        return None
    return compare(journal.attempt(other.candidate_id).candidate.source, source)


def step(journal: Journal, row: Row) -> dict[str, Any]:
    """What one ancestor changed against its own parent, for the waterfall."""
    line = lineage.ancestors(journal, str(row.candidate_id))[-2:]
    source = journal.attempt(str(row.candidate_id)).candidate.source
    return {"diff": _diff(line[0], row, source, journal) if len(line) == 2 else None}
