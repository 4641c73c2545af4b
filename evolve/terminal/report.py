"""What the judge said, for a person or, as JSON, for a program: `evolve judge` and `evolve redteam`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Protocol

from rich.text import Text

from evolve.sentences import figure
from evolve.terminal import words
from evolve.terminal.candidate_page import workloads
from evolve.terminal.console import Out
from evolve.types import Candidate, Evaluation


def as_object(candidate: Candidate, evaluation: Evaluation, device: str) -> dict[str, Any]:
    return {
        "candidate": candidate.id,
        "digest": candidate.digest,
        "device": device,
        "verdict": str(evaluation.verdict),
        "stage": evaluation.stage,
        "feedback": evaluation.feedback,
        "score": evaluation.score,
        "score_low": evaluation.score_low,
        "score_high": evaluation.score_high,
        "modelled": evaluation.modelled,
        "traits": dict(evaluation.traits),
        "measurements": [asdict(m) for m in evaluation.measurements],
        "errors": dict(evaluation.errors),
        "seconds": dict(evaluation.seconds),
        "ranking_key": evaluation.ranking_key,
        "digests": list(evaluation.digests),
        "evidence": evaluation.evidence,
    }


def show(candidate: Candidate, evaluation: Evaluation, device: str, *, as_json: bool) -> None:
    console = Out()
    if as_json:
        console.out(json.dumps(as_object(candidate, evaluation, device), default=str), highlight=False)
        return
    verdict = Text(str(evaluation.verdict), style=f"bold {words.colour(evaluation.verdict)}")
    console.print(Text("verdict  ").append(verdict).append(f"  in {evaluation.stage}" if not evaluation.passed else ""))
    console.print(Text(f"on       {words.line(device)}"), soft_wrap=True)
    if evaluation.passed:
        console.print(Text(f"score    {figure(evaluation)}"))
        workloads(console, evaluation)
    if evaluation.errors:
        worst = max(evaluation.errors, key=lambda name: evaluation.errors[name])
        told = f"errors   worst is {evaluation.errors[worst]:.2f} of its bound, on {words.line(worst)}"
        console.print(Text(told), soft_wrap=True)
    if evaluation.feedback:
        console.print(Text(f"\n{words.clean(evaluation.feedback)}"), soft_wrap=True)
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in evaluation.seconds.items())
    console.print(Text(f"\nseconds  {stages}", style="dim"), soft_wrap=True)


class Case(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def expected(self) -> str: ...


class Row(Protocol):
    @property
    def case(self) -> Case: ...
    @property
    def got(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def right(self) -> bool | None: ...


def redteam(rows: Iterable[Row], *, as_json: bool) -> bool:
    """A line a case as it comes, then the count. True if every case that ran was ruled on rightly."""
    console, seen = Out(), list[Row]()
    for row in rows:
        seen.append(row)
        if not as_json:
            console.print(_line(row), soft_wrap=True)
    wrong = [row for row in seen if row.right is False]
    if as_json:
        console.out(json.dumps([_as_object(row) for row in seen]), highlight=False)
    else:
        skipped = sum(row.right is None for row in seen)
        right = len(seen) - skipped - len(wrong)
        console.print(Text(f"\n{right} ruled on rightly, {len(wrong)} wrongly, {skipped} skipped.", style="bold"))
        for row in wrong:
            console.print(Text(f"  {row.case.name}: {row.case.what}", style="red"), soft_wrap=True)
    return not wrong


def _line(row: Row) -> Text:
    mark, style = {True: ("ok  ", "green"), False: ("FAIL", "bold red"), None: ("skip", "yellow")}[row.right]
    text = Text("  ").append(mark, style=style).append(f"  {row.case.kind:<6} {row.case.name:<24} ")
    expected = "" if row.right is not False else f"expected {row.case.expected}, "
    return text.append(f"{expected}got {row.got}").append(f"  {row.reason}", style="dim")


def _as_object(row: Row) -> dict[str, Any]:
    return {
        "name": row.case.name,
        "kind": row.case.kind,
        "what": row.case.what,
        "expected": row.case.expected,
        "got": row.got,
        "reason": row.reason,
        "right": row.right,
    }
