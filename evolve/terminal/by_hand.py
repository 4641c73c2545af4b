"""What a person sees of `evolve ask`, `evolve tell` and `evolve judge --run`: files, verdicts, and what they teach.

It decides nothing; a step's outcome is read from the journal like any other's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evolve.experiments import experiment
from evolve.journal import Journal
from evolve.journal_turns import Turn
from evolve.sentences import sentence
from evolve.terminal import report, words
from evolve.terminal.console import Out


def say(*, quiet: bool = False) -> Callable[[str], None]:
    """Onto standard error where standard output is for a program."""

    def said(text: str) -> None:
        if quiet:
            print(text, file=sys.stderr)
        else:
            words.one_line(Out(), words.text((text, "dim")))

    return said


def letters(written: Sequence[Path]) -> None:
    console = Out()
    for path in written:
        words.one_line(console, words.text(str(path)))


def verdicts(folder: Path, turns: Sequence[Turn]) -> int:
    """A line a step; 0 if any of them PASSED."""
    console = Out()
    with Journal.open(folder) as journal:
        for turn in turns:
            assert turn.judged is not None
            words.one_line(console, words.text(words.clean(sentence(turn.judged))))
            for confirmed in turn.confirmed[-1:]:
                words.one_line(console, words.text((words.clean(sentence(confirmed)), "bold green")))
            outcome(journal, turn, console)
    return 0 if any(turn.evaluations[-1].passed for turn in turns) else 1


def proposal(folder: Path, turn: Turn, *, as_json: bool) -> int:
    """The judge's report, as for a file of its own, and the outcome of the hypothesis."""
    assert turn.judged is not None
    evaluation, candidate = turn.evaluations[-1], turn.judged.candidate
    with Journal.open(folder) as journal:
        if candidate is None:
            print(
                json.dumps({"step": turn.step, "verdict": str(evaluation.verdict), "feedback": evaluation.feedback})
                if as_json
                else words.clean(f"{evaluation.verdict}: {evaluation.feedback}")
            )
            return 1
        device = str(journal.meta.get("device", ""))
        report.show(candidate, evaluation, device, as_json=as_json)
        if not as_json:
            console = Out()
            for confirmed in turn.confirmed[-1:]:
                console.print(words.text((words.clean(sentence(confirmed)), "bold green")))
            outcome(journal, turn, console)
            console.print(words.text((f"evolve show {folder}:{turn.step}", "dim")), soft_wrap=True)
    return 0 if evaluation.passed else 1


def outcome(journal: Journal, turn: Turn, console: Out) -> None:
    """Prediction → outcome, where there was a candidate to hold it against."""
    if turn.judged is None or turn.judged.candidate is None:
        return
    found = experiment(journal, turn.judged.candidate.id)
    line = words.text(
        ("  predicted: ", "dim"), words.line(found.predicted), (" → ", "dim"),
        (found.outcome, words.OUTCOMES[found.outcome]), f": {words.line(found.seen, 300)}",
    )  # fmt: skip
    console.print(line, soft_wrap=True, highlight=False)
