"""The page of a run: what it is, what it found, how, and at what cost."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from evolve import lineage
from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.sentences import sentence
from evolve.terminal import words
from evolve.terminal.candidate_page import workloads
from evolve.types import Judged

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LAST_EVENTS = 8
STATES = {"running": "green", "finished": "cyan", "stopped": "yellow", "died": "red", "empty": "yellow"}


def run_page(journal: Journal, console: Console) -> None:
    head(journal, console)
    best(journal, console)
    verdicts(journal, console)
    model(journal, console)
    council(journal, console)
    spend_lines(journal, console)
    last_events(journal, console)
    next_commands(journal, console)


def title(console: Console, text: str) -> None:
    console.print()
    console.print(words.text((text, "bold")))


def head(journal: Journal, console: Console) -> None:
    meta, name = journal.meta, journal.folder.name
    count = len(meta.get("workloads") or ())
    facts = [meta.get("problem"), meta.get("variant"), f"{count} workloads" if count else None, meta.get("device")]
    facts += [meta.get("strategy") if meta.get("strategy") != "evolution" else None]
    what = " · ".join(words.line(str(f)) for f in facts if f)
    console.print(words.text((name, "bold cyan"), f"  {what}"))
    state, told = lineage.state(journal)
    console.print(words.text((state, STATES[state]), f": {words.line(told)}" if told else ""))
    first, spent = journal.event(1), lineage.spend(journal)
    if first:
        sessions = f" in {spent.sessions} sessions" if spent.sessions > 1 else ""
        began = f"began {datetime.fromtimestamp(first.at):%Y-%m-%d %H:%M}"
        console.print(words.text((f"{began}, {spent.steps} steps in {words.duration(spent.seconds)}{sessions}", "dim")))


def best(journal: Journal, console: Console) -> None:
    title(console, "Best")
    row = lineage.best(journal)
    if row is None or row.candidate_id is None:
        console.print(words.text("  Nothing has PASSED yet."))
        return
    attempt = journal.attempt(row.candidate_id)
    baselines = sorted({m.baseline for m in attempt.evaluation.measurements})
    over = f" over {words.line(baselines[0])}" if len(baselines) == 1 else " over its baselines"
    standing = ("confirmed", "green") if row.confirmed else ("not confirmed yet", "yellow")
    console.print(
        words.text("  ", (words.score_of(row), "bold green"), over, ", ", standing, "   ", (row.candidate_id, "cyan"))
    )
    idea = f": {words.line(row.hypothesis)}" if row.hypothesis else ""
    console.print(words.text(f"  step {row.step}, generation {row.generation}, by {words.line(row.member)}{idea}"))
    _climb(journal, console, row)
    for other in lineage.waiting(journal)[:3]:
        if other.step != row.step:
            console.print(
                words.text(("  waits for confirmation: ", "yellow"), f"{other.candidate_id} at {words.score_of(other)}")
            )
    workloads(console, attempt.evaluation)


def _climb(journal: Journal, console: Console, row: Row) -> None:
    """From where it began, and the curve of the best over the steps."""
    line = lineage.ancestors(journal, str(row.candidate_id))
    seed = line[0] if line else row
    if seed.step != row.step and seed.passed and seed.ranking_key == row.ranking_key:
        times = f"{row.score / seed.score:.2f} times as fast as its seed at {seed.score:.3f}{words.modelled(row)}"
        console.print(words.text(f"  {times}, in {len(line) - 1} change{'s' * (len(line) > 2)}"))
    rises, last = lineage.best_so_far(journal), journal.last_step()
    if len(rises) > 1:
        span = f"{rises[0].score:.3f} → {rises[-1].score:.3f}{words.modelled(row)}"
        told = f"  {span} over {last} steps, first figures included"
        console.print(words.text("  ", (words.spark(curve(rises, last)), "green"), (told, "dim")))


def curve(rises: Sequence[Row], last: int, width: int = 60) -> list[float]:
    """The best at the end of each of `width` equal stretches of the run."""
    width = min(width, last + 1)
    ends = [(last + 1) * (place + 1) // width - 1 for place in range(width)]
    return [max((r.score for r in rises if r.step <= end), default=0.0) for end in ends]


def verdicts(journal: Journal, console: Console) -> None:
    counts = lineage.verdict_counts(journal)
    if not counts:
        return
    title(console, "Verdicts")
    whole = sum(counts.values())
    made = words.table("verdict", "steps", "", "bar", right=("steps", ""))
    made.show_header = False
    cells = [
        (v.value, f"{n}", f"{100 * n / whole:.0f} %", words.text((words.bar(n / whole, 40), words.colour(v))))
        for v, n in sorted(counts.items(), key=lambda pair: -pair[1])
    ]
    console.print(words.fill(made, cells))
    waiting = lineage.unfinished(journal)
    if waiting:
        console.print(words.text((f"  {waiting} without a verdict yet", "dim")))


def model(journal: Journal, console: Console) -> None:
    """How well the cost model foretold what the GPU measured, workload by workload."""
    pairs = lineage.foretold(journal)
    if not pairs:
        return
    title(console, "Cost model")
    made = words.table(
        "workload", "measured", "rank correlation", "off by", right=("measured", "rank correlation", "off by")
    )
    cells = []
    for name in sorted({p.workload for p in pairs}):
        own = [p for p in pairs if p.workload == name]
        ranks = lineage.rank_correlation(own)
        off = statistics.median(abs(math.log(p.predicted_us / p.measured_us)) for p in own)
        told = "too few to tell" if ranks is None else f"{ranks:.2f}"
        cells.append((words.line(name, 32), f"{len(own)}", told, f"{100 * math.expm1(off):.0f} %"))
    console.print(words.fill(made, cells))
    console.print(words.text(("  Spearman's, of predicted with measured times; off by: in the median", "dim")))


def council(journal: Journal, console: Console) -> None:
    members = lineage.scoreboard(journal)
    if not members:
        return
    title(console, "Council")
    figures = ("asked", "passed", "improved", "cost", "cost per improvement", "GPU time")
    made = words.table("member", *figures, "", right=figures)
    cells: list[Sequence[Text | str]] = []
    for m in sorted(members, key=lambda m: (-m.improved, m.member)):
        each = m.cost_per_improvement
        price = "none yet" if each is None else words.money(each)
        cells.append(
            (
                words.line(m.member, 32),
                f"{m.asked}",
                f"{m.passed}",
                f"{m.improved}",
                words.money(m.cost_usd),
                price,
                words.duration(m.gpu_seconds),
            )
        )
    console.print(words.fill(made, cells))
    console.print(words.text(("  improved: better than its parent by more than the interval", "dim")))


def spend_lines(journal: Journal, console: Console) -> None:
    """What was spent, beside what may be."""
    spent, budget = lineage.spend(journal), journal.meta.get("budget") or {}
    tokens = spent.tokens_in + spent.tokens_out
    lines = (
        ("steps", spent.steps, f"{spent.steps}", "steps", str),
        ("dollars", spent.cost_usd, words.money(spent.cost_usd), "usd", words.money),
        ("tokens", tokens, f"{tokens:,} ({spent.tokens_in:,} in, {spent.tokens_out:,} out)", "tokens", "{:,}".format),
        ("time", spent.seconds, words.duration(spent.seconds), "seconds", words.duration),
        ("GPU time", spent.gpu_seconds, words.duration(spent.gpu_seconds), "gpu_seconds", words.duration),
    )
    made = words.table("what", "spent", "of", "bar")
    made.show_header = False
    cells: list[Sequence[Text | str]] = []
    for name, value, shown, key, tell in lines:
        limit = _limit(budget, key)
        if value or limit:
            of = f"of {tell(limit)}" if limit else ""
            cells.append((name, shown, of, words.text((words.bar(value / limit, 30) if limit else "", "blue"))))
    if not cells:
        return
    title(console, "Spent")
    console.print(words.fill(made, cells))


def _limit(budget: Mapping[str, Any], key: str) -> Any:
    found = budget.get(key)
    return found if isinstance(found, int | float) and found > 0 else None


def spend(journal: Journal, console: Console) -> None:
    """`--spend`: totals, members, and what the verdicts cost."""
    head(journal, console)
    spend_lines(journal, console)
    council(journal, console)
    figures = ("steps", "cost", "reply time", "judge time", "GPU time")
    made = words.table("verdict", *figures, "", right=figures)
    sums = journal.query(
        "SELECT verdict, sum(steps), total(cost_usd), total(reply_seconds), total(judge_seconds), total(gpu_seconds)"
        " FROM tallies GROUP BY verdict ORDER BY 2 DESC"
    )
    cells: list[Sequence[Text | str]] = [
        (
            words.text((verdict or "none yet", words.colour(verdict))),
            f"{steps}",
            words.money(usd),
            *map(words.duration, times),
        )
        for verdict, steps, usd, *times in sums
    ]
    if not cells:
        return
    title(console, "By verdict")
    console.print(words.fill(made, cells))


def last_events(journal: Journal, console: Console) -> None:
    seqs = journal.query(
        "SELECT seq FROM events WHERE kind IN ('judged', 'confirmed', 'noted') ORDER BY seq DESC LIMIT ?",
        (LAST_EVENTS,),
    )
    if not seqs:
        return
    title(console, "Last events")
    now = time.time()
    for (seq,) in reversed(seqs):
        logged = journal.event(seq)
        assert logged is not None
        event = logged.event
        style = words.colour(event.evaluation.verdict) if isinstance(event, Judged) else "cyan"
        ago = f"{words.duration(max(0.0, now - logged.at))} ago"
        words.one_line(console, words.text((f"  {ago:>12}  ", "dim"), (words.line(sentence(event), 400), style)))


def next_commands(journal: Journal, console: Console) -> None:
    title(console, "Next")
    run = journal.folder
    told = [(f"evolve show {run} --log", "every hypothesis and its outcome")]
    row = lineage.best(journal)
    if row is not None:
        told.append((f"evolve show {run}:best", "the best in full"))
        told.append((f"evolve show {run} --lineage", "how it came to be"))
    if row is not None and row.parent_id:
        told.append((f"evolve show {run}:best --diff", "what its last step changed"))
    wide = max(len(command) for command, _ in told)
    for command, what in told:
        console.print(words.text(f"  {command:<{wide}}  ", (what, "dim")), soft_wrap=True)
