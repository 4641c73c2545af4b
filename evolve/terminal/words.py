"""How figures, names and strangers' text look in a terminal: small pieces that the pages of `evolve show` are made of.

Whatever comes from a model or a candidate goes through `clean`: a terminal obeys what it is told, and a reply may
tell it to hide a line or to type a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evolve.experiments import Outcome
from evolve.journal_schema import Row
from evolve.sentences import first_line
from evolve.types import Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# A colour a verdict: green passed, red wrong, yellow not let in or not run, grey nothing new.
COLOURS = {
    Verdict.PASSED: "green",
    Verdict.INCORRECT: "red",
    Verdict.IMPOSSIBLE: "red",
    Verdict.RUNTIME_ERROR: "red",
    Verdict.DUPLICATE: "bright_black",
    Verdict.NO_REPLY: "bright_black",
}
OTHERWISE = "yellow"
OUTCOMES = {
    Outcome.CONFIRMED: "green",
    Outcome.REFUTED: "magenta",
    Outcome.WITHOUT_EFFECT: "bright_black",
    Outcome.NOT_MEASURED: "yellow",
}
# Control characters but tab and newline, halves of surrogate pairs, and marks that turn the direction of reading.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    return _UNSAFE.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def line(text: str, longest: int = 160) -> str:
    return clean(first_line(text, longest))


def one_line(console: Console, line: Text) -> None:
    """One line stays one line: cut at the edge of a terminal, whole in a file."""
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True, highlight=False)
    else:
        console.print(line, soft_wrap=True, highlight=False)


def text(*parts: str | tuple[str, str]) -> Text:
    """`Text.assemble`, without a markup language in between."""
    from rich.text import Text

    return Text.assemble(*parts)


def table(*columns: str, right: Iterable[str] = (), indent: bool = True, wrap: bool = False) -> Table:
    """Plain columns; those named in `right` hold figures. What does not fit is cut from the last, or wrapped in it."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    if indent:
        made.add_column("", width=0)
    for name in columns[:-1]:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=True, overflow="ellipsis")
    made.add_column(columns[-1], no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", ratio=1)
    return made


def fill(made: Table, rows: Iterable[Sequence[Text | str]]) -> Table:
    from rich.text import Text

    before = [""] * (made.columns[0].width == 0)
    for row in rows:
        made.add_row(*before, *(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def score_of(row: Row) -> str:
    """A score as it must be read: with its interval, or marked as modelled."""
    if not row.passed:
        return row.verdict or "not judged yet"
    if row.modelled:
        return f"{row.score:.3f}{modelled(row)}"
    return f"{row.score:.3f} {interval(row.score_low, row.score_high)}"


def modelled(row: Row) -> str:
    """Behind every figure that no GPU has shown."""
    return " (modelled)" if row.modelled else ""


def interval(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]"


def percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def mark(row: Row) -> tuple[str, str]:
    """What became of a step in one word and its colour. `same` is a change within the interval."""
    if not row.passed:
        return row.verdict or "pending", colour(row.verdict)
    if row.gain is None or row.improved:
        return "better" if row.improved else "first", "green"
    return ("worse", "magenta") if row.parent_score and row.score_high < row.parent_score else ("same", "bright_black")


def colour(verdict: str) -> str:
    return COLOURS.get(Verdict(verdict), OTHERWISE) if verdict in Verdict.__members__ else OTHERWISE


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def money(usd: float) -> str:
    if not usd:
        return "free"
    return f"${usd:.4f}" if usd < 0.01 else f"${usd:.3f}" if usd < 1 else f"${usd:,.2f}"


def microseconds(us: float) -> str:
    return f"{us:.4g} µs" if us < 1e4 else f"{us / 1e3:.4g} ms"


def parameters(values: Mapping[str, Any]) -> str:
    return clean("  ".join(f"{name}={value}" for name, value in values.items()))


def value(fact: Any) -> str:
    return f"{fact:.4g}" if isinstance(fact, float) else line(str(fact), 60)


def bar(share: float, width: int = 24) -> str:
    """A bar in eighths of a character, so that small shares are seen."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    eighths = max(1, eighths) if share > 0 else 0
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def spark(values: Sequence[float]) -> str:
    """A curve in a line."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[int(7.999 * (v - low) / (high - low)) if high > low else 0] for v in values)
