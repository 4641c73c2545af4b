"""What tuning did, for a person or, as JSON, for a program: `evolve tune`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.text import Text

from evolve.terminal import report, words
from evolve.terminal.console import Out
from evolve.types import Candidate, Evaluation, Scalar


class Line(Protocol):
    @property
    def workload(self) -> str: ...
    @property
    def space(self) -> int: ...
    @property
    def tried(self) -> int: ...
    @property
    def timed(self) -> int: ...
    @property
    def infeasible(self) -> Sequence[str]: ...
    @property
    def before_us(self) -> float | None: ...
    @property
    def after_us(self) -> float: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def interval(self) -> tuple[float, float] | None: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def parameters(self) -> Mapping[str, Scalar]: ...


class Tuned(Protocol):
    @property
    def candidate(self) -> Candidate: ...
    @property
    def evaluation(self) -> Evaluation: ...
    @property
    def device(self) -> str: ...
    @property
    def lines(self) -> Sequence[Line]: ...
    @property
    def file(self) -> object: ...
    @property
    def ended(self) -> str: ...


def show(tuned: Tuned, *, as_json: bool) -> None:
    if as_json:
        Out().out(json.dumps(_as_object(tuned), default=str), highlight=False)
    elif tuned.evaluation.passed:
        _page(tuned, Out())
    else:
        report.show(tuned.candidate, tuned.evaluation, tuned.device, as_json=False)


def _page(tuned: Tuned, console: Out) -> None:
    modelled = tuned.evaluation.modelled
    console.print(Text(f"on       {words.line(tuned.device)}"), soft_wrap=True)
    mark = " (modelled)" if modelled else ""
    measured = [] if modelled else ["interval"]
    columns = ["workload", f"before{mark}", f"after{mark}", "gain", *measured, "tried", "of"]
    columns += [] if modelled else ["GPU s"]
    made = words.table(*columns, right=(columns[1], columns[2], "gain", "tried", "of", "GPU s"))
    console.print(words.fill(made, [_cells(line, modelled) for line in tuned.lines]))
    for names, parameters in _alike(tuned.lines):
        console.print(words.text(("  at ", "dim"), parameters, (f"  {names}", "dim")), soft_wrap=True)
    for why, count in _reasons(tuned.lines):
        console.print(Text(f"  infeasible {count}: {words.line(why)}", style="dim"), soft_wrap=True)
    seconds = tuned.evaluation.seconds
    gpu = f", {seconds['gpu']:.1f} of them on the GPU" if "gpu" in seconds else ""
    console.print(Text(f"{sum(v for k, v in seconds.items() if k != 'gpu'):.1f} s{gpu}; {tuned.ended}.", style="dim"))
    if modelled:
        console.print("There is no GPU here: times are a model's. Tune again where it will run.")
    if tuned.file:
        console.print(Text(f"written to {tuned.file}: these defaults, and a row for each workload"), soft_wrap=True)
    else:
        console.print("Nothing was better than what it had, so nothing was written.")


def _cells(line: Line, modelled: bool) -> list[Text | str]:
    before = words.microseconds(line.before_us) if line.before_us else ""
    cells: list[Text | str] = [words.line(line.workload), before, words.microseconds(line.after_us)]
    cells.append(f"{line.ratio:.3f}" if line.ratio else "none")
    if not modelled:
        cells.append(words.interval(*line.interval) if line.interval else "")
    cells += [str(line.tried), str(line.space)]
    if not modelled:
        cells.append(f"{line.seconds:.2f}" if line.seconds else "")
    return cells


def _alike(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Workloads that want the same are named together."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(str(words.parameters(line.parameters)), []).append(words.line(line.workload))
    return [(", ".join(names), parameters) for parameters, names in found.items()]


def _reasons(lines: Sequence[Line], most: int = 4) -> list[tuple[str, int]]:
    """By their words, whatever the figures in them; each with its first."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for why in (why for line in lines for why in line.infeasible):
        kind = " ".join(word for word in why.split() if not any(c.isdigit() for c in word))
        first.setdefault(kind, why.split("\n")[0][:100])
        counts[kind] += 1
    return [(first[kind], count) for kind, count in counts.most_common(most)]


def _as_object(tuned: Tuned) -> dict[str, Any]:
    names = (
        "workload",
        "space",
        "tried",
        "timed",
        "infeasible",
        "before_us",
        "after_us",
        "ratio",
        "interval",
        "seconds",
    )
    rows = [{**{n: getattr(line, n) for n in names}, "parameters": dict(line.parameters)} for line in tuned.lines]
    judged = report.as_object(tuned.candidate, tuned.evaluation, tuned.device)
    return {"file": tuned.file and str(tuned.file), "ended": tuned.ended, "tuned": rows, **judged}
