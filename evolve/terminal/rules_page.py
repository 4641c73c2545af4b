"""`evolve show ... --rules`: what rules would do to a candidate, and what they brought in a run.

The figures of a candidate come from `moves.py`, through the command line; a run's are counted here from its journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolve.journal import Journal
from evolve.journal_schema import Row
from evolve.terminal import words

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FACTS = ("registers", "spills", "shared memory", "HGMMA", "UTMALDG", "LDGSTS", "instructions")


@dataclass(kw_only=True)
class Record:
    """One rule in one run."""

    rule: str
    asked: int = 0
    passed: int = 0
    improved: int = 0
    best: float = 0.0
    by: str = ""  # the candidate of the best gain
    verdicts: dict[str, int] = field(default_factory=dict)


def records(rows: Iterable[Row]) -> list[Record]:
    """Of every move that was tried, those that brought most first. What a step replayed beside it is no move of its."""
    found: dict[str, Record] = {}
    for row in rows:
        if row.kind != "rule" or not row.model:
            continue
        moves = row.model.split(" (with ")[0]
        record = found.setdefault(moves, Record(rule=moves))
        record.asked += 1
        record.passed += row.passed
        record.improved += row.improved
        if not row.passed and row.verdict:
            record.verdicts[row.verdict] = record.verdicts.get(row.verdict, 0) + 1
        if row.gain is not None and row.gain > record.best:
            record.best, record.by = row.gain, str(row.candidate_id)
    return sorted(found.values(), key=lambda r: (-r.best, r.rule))


def history(journal: Journal, console: Console) -> None:
    found = records(journal.rows())
    if not found:
        words.one_line(console, words.text("No rule was asked in this run."))
        return
    columns = ("rule", "asked", "passed", "improved", "best gain", "by", "otherwise")
    made = words.table(*columns, right=("asked", "passed", "improved", "best gain"), indent=False)
    cells: list[Sequence[Text | str]] = []
    for r in found:
        gain = f"{r.best:.3f}×" if r.best else ""
        otherwise = ", ".join(f"{count} {verdict}" for verdict, count in sorted(r.verdicts.items()))
        cells.append((r.rule, str(r.asked), str(r.passed), str(r.improved), gain, r.by, otherwise))
    console.print(words.fill(made, cells))


def moves(found: Iterable[Any], console: Console) -> None:
    """A `Subject`, then `Move`s, as `evolve.moves` yields them; printed as they come, because each is a build."""
    declined: list[Any] = []
    for item in found:
        if not hasattr(item, "rule"):
            _subject(item, console)
        elif not item.applies:
            declined.append(item)
        else:
            _move(item, console)
    if declined:
        console.print(words.text(("\nDo not apply", "bold")))
        for item in declined:
            console.print(words.text((f"  {item.rule}: ", "cyan"), words.clean(item.why)), soft_wrap=True)


def _subject(item: Any, console: Console) -> None:
    facts = _listed(item.kernels.facts) if item.kernels else words.clean(item.why)
    where = f"built for {item.target} at workload {item.workload}, not run"
    console.print(words.text(("As it is ", "bold"), (f"({where}): ", "dim"), facts), soft_wrap=True)
    console.print(words.text(("\nApply", "bold")))


def _move(item: Any, console: Console) -> None:
    console.print(words.text((f"  {item.rule}: ", "cyan"), words.clean(item.hypothesis)), soft_wrap=True)
    console.print(
        words.text("    ", (_effect(item), "" if item.after and not item.unmet else "yellow")), soft_wrap=True
    )


def _effect(item: Any) -> str:
    if item.after is None:
        return f"does not build: {words.line(item.why, 200)}"
    missing = f"; its signature is not met: {', '.join(item.unmet)}" if item.unmet else ""
    if item.same:
        return f"identical machine code here{missing}"
    if item.before is None:
        return _listed(item.after.facts) + missing
    changes = [
        f"{name} {item.before.facts.get(name, 0)} → {item.after.facts.get(name, 0)}"
        for name in FACTS
        if item.before.facts.get(name, 0) != item.after.facts.get(name, 0)
    ]
    if item.before.launches != item.after.launches:
        changes.append(f"launches {item.before.launches} → {item.after.launches}")
    return (", ".join(changes) or "other instructions, the same counts") + missing


def _listed(facts: Any) -> str:
    return ", ".join(f"{name} {facts[name]}" for name in FACTS if facts.get(name) or name in ("registers", "spills"))
