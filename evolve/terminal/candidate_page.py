"""The page of a candidate: its verdict first, then everything the verdict rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evolve import lineage
from evolve.experiments import experiment
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.journal_turns import Turn
from evolve.sentences import figure
from evolve.terminal import words
from evolve.terminal.words import OUTCOMES
from evolve.types import Evaluation, Measurement

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

CHILDREN = 6


def candidate_page(journal: Journal, console: Console, candidate_id: str) -> None:
    row = lineage.find(journal, candidate_id)
    turn = journal.step(row.step)
    attempt = journal.attempt(candidate_id)
    parent = journal.attempt(str(row.parent_id)).evaluation if _known(journal, row.parent_id) else None
    head(console, row, journal)
    origin(journal, console, row)
    feedback(console, attempt.evaluation)
    if attempt.evaluation.passed:
        _title(console, "Workloads")
        workloads(console, attempt.evaluation, parent)
        first_figure(console, turn)
    traits(console, attempt.evaluation, parent)
    checks(console, attempt.evaluation)
    children(journal, console, candidate_id)
    next_commands(journal, console, row)


def _known(journal: Journal, candidate_id: str | None) -> bool:
    return bool(candidate_id and journal.query("SELECT 1 FROM steps WHERE candidate_id = ?", (candidate_id,)))


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(words.text((text, "bold")))


def head(console: Console, row: Row, journal: Journal) -> None:
    confirmed = ", confirmed" if row.confirmed and row.passed else ", not confirmed" if row.passed else ""
    stage = f" in {words.line(row.stage)}" if row.stage and not row.passed else ""
    console.print(
        words.text(
            (str(row.candidate_id), "bold cyan"), f" of {journal.folder}   ",
            (row.verdict, f"bold {words.colour(row.verdict)}"), f"{stage}{confirmed}",
        )
    )  # fmt: skip
    if row.passed:
        gain = f", {words.percent(row.gain)} over its parent's {row.parent_score:.3f}" if row.gain is not None else ""
        console.print(words.text("score ", (words.score_of(row), "bold green"), gain))


def origin(journal: Journal, console: Console, row: Row) -> None:
    """Who proposed it, why, and at what cost; and whether what was predicted came."""
    parent = f"from {row.parent_id}" if row.parent_id else "without a parent"
    model = f" ({words.line(row.model)})" if row.model and row.model != row.member else ""
    matched = journal.attempt(str(row.candidate_id)).candidate.matched
    loose = f", its edit matched by {matched}" if matched in ("white space", "fuzzy") else ""
    console.print(
        words.text(
            f"step {row.step}, generation {row.generation}, island {row.island}, {parent}, ",
            f"by {words.line(row.member)}{model}, {words.line(row.kind)}{loose}",
        )
    )
    cost = f"{words.money(row.cost_usd)}, " if row.cost_usd else ""
    tokens = f"{row.tokens_in:,} tokens in, {row.tokens_out:,} out, " if row.tokens_in or row.tokens_out else ""
    reply = f"replied in {words.duration(row.reply_seconds)}, " if row.reply_seconds else ""
    gpu = f" (GPU {words.duration(row.gpu_seconds)})" if row.gpu_seconds else ""
    console.print(words.text((f"{cost}{tokens}{reply}judged in {words.duration(row.judge_seconds)}{gpu}", "dim")))
    if row.hypothesis:
        console.print(words.text("hypothesis: ", (words.clean(row.hypothesis.strip()), "italic")))
    if row.hypothesis and row.verdict:
        found = experiment(journal, str(row.candidate_id))
        became = (found.outcome, OUTCOMES[found.outcome])
        console.print(
            words.text(f"prediction: {words.line(found.predicted)}  — ", became, f": {words.line(found.seen)}")
        )


def feedback(console: Console, evaluation: Evaluation) -> None:
    if evaluation.feedback.strip():
        _title(console, "Feedback")
        for line in words.clean(evaluation.feedback.rstrip()).splitlines():
            console.print(words.text(f"  {line}"), soft_wrap=True)


def workloads(console: Console, evaluation: Evaluation, parent: Evaluation | None = None) -> None:
    """What was timed; parameters that are the same everywhere are said once, and leave the table its room."""
    chosen = {words.parameters(m.parameters) for m in evaluation.measurements}
    console.print(measurements(evaluation, parent, parameters=len(chosen) > 1))
    if len(chosen) == 1 and (same := chosen.pop()):
        console.print(words.text(("  at ", "dim"), same), soft_wrap=True)


def measurements(evaluation: Evaluation, parent: Evaluation | None, *, parameters: bool = True) -> Table:
    """A line a workload; against the parent where both were timed under the same key."""
    before: dict[str, Measurement] = {}
    if parent is not None and parent.ranking_key == evaluation.ranking_key:
        before = {m.workload: m for m in parent.measurements}
    modelled = " (modelled)" if evaluation.modelled else ""
    baselines = sorted({m.baseline for m in evaluation.measurements})
    ratio = f"× {words.line(baselines[0])}" if len(baselines) == 1 else "ratio"
    time = f"time{modelled}"
    columns = [
        "workload",
        time,
        ratio,
        *([] if modelled else ["interval"]),
        *(["baseline"] if len(baselines) > 1 else []),
    ]
    columns += [*(["× parent"] if before else []), "parameters" if parameters else ""]
    made = words.table(*columns, right=(time, ratio, "× parent"), wrap=True)
    cells: list[Sequence[Text | str]] = []
    for m in evaluation.measurements:
        old = before.get(m.workload)
        cell: list[Text | str] = [
            words.line(m.workload),
            words.microseconds(m.time_us),
            words.text((f"{m.ratio:.3f}", _shade(m))),
        ]
        cell += [] if modelled else [words.interval(m.ratio_low, m.ratio_high)]
        cell += [words.line(m.baseline)] if len(baselines) > 1 else []
        cell += [f"{old.time_us / m.time_us:.3f}" if old else ""] if before else []
        cells.append([*cell, words.parameters(m.parameters) if parameters else ""])
    return words.fill(made, cells)


def _shade(m: Measurement) -> str:
    """Green is faster than the baseline beyond doubt, red slower; between them it is open."""
    return "green" if m.ratio_low > 1 else "red" if m.ratio_high < 1 else ""


def first_figure(console: Console, turn: Turn) -> None:
    if len(turn.evaluations) > 1:
        told = ", then ".join(figure(e) for e in turn.evaluations)
        console.print(words.text((f"  measured {len(turn.evaluations)} times: {told}; the last one counts", "dim")))


def traits(console: Console, evaluation: Evaluation, parent: Evaluation | None) -> None:
    """The facts of the built kernel; what differs from the parent's stands out, and comes first."""
    if not evaluation.traits:
        return
    _title(console, "Traits")
    old = parent.traits if parent else {}
    changed = [n for n in evaluation.traits if n in old and old[n] != evaluation.traits[n]]
    made = words.table("trait", "here", "parent")
    cells = [
        (
            words.text((words.line(name), "bold" if name in changed else "")),
            words.text((words.value(evaluation.traits[name]), "bold" if name in changed else "")),
            words.text((words.value(old.get(name, "")), "" if name in changed else "dim")),
        )
        for name in (*changed, *(n for n in evaluation.traits if n not in changed))
    ]
    console.print(words.fill(made, cells))


def checks(console: Console, evaluation: Evaluation) -> None:
    if evaluation.errors:
        _title(console, "Errors over their bounds (above 1 is wrong)")
        told = "   ".join(f"{words.line(name)} {error:.3g}" for name, error in evaluation.errors.items())
        console.print(words.text(f"  {told}"))
    if evaluation.evidence:
        console.print()
        console.print(words.text((f"evidence on record: {words.line(', '.join(evaluation.evidence), 400)}", "dim")))


def children(journal: Journal, console: Console, candidate_id: str) -> None:
    rows = [r for r in lineage.children(journal, candidate_id) if r.state == 3]
    if not rows:
        return
    better = sum(r.improved for r in rows)
    _title(console, f"Children: {len(rows)}, of which {sum(r.passed for r in rows)} passed and {better} are better")
    made = words.table("candidate", "outcome", "score", "member", "hypothesis", right=("score",))
    cells: list[Sequence[Text | str]] = []
    for row in sorted(rows, key=lambda r: (-r.score, r.step))[:CHILDREN]:
        word, colour = words.mark(row)
        score = f"{row.score:.3f}{words.modelled(row)}" if row.passed else ""
        name = row.candidate_id or f"{row.step:05d}"
        cells.append(
            (
                words.text((name, "cyan")),
                words.text((word, colour)),
                score,
                words.line(row.member),
                words.line(row.hypothesis),
            )
        )
    console.print(words.fill(made, cells))
    if len(rows) > CHILDREN:
        console.print(words.text((f"  and {len(rows) - CHILDREN} more", "dim")))


def next_commands(journal: Journal, console: Console, row: Row) -> None:
    _title(console, "Next")
    name = f"{journal.folder}:{row.step}"
    told = [(f"evolve show {name} --lineage", "how it came to be")]
    if row.parent_id:
        told.append((f"evolve show {name} --diff", "what it changed"))
    told.append((f"evolve judge {name}", "judge it again on this machine"))
    wide = max(len(command) for command, _ in told)
    for command, what in told:
        console.print(words.text(f"  {command:<{wide}}  ", (what, "dim")), soft_wrap=True)
