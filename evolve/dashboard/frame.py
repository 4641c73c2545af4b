"""From facts to HTML: the templates, and how figures, ages and strangers' text read in them.

Everything is escaped unless it was made here; `words.clean` takes out what turns the direction of reading or hides
text. Numbers look as they do in the terminal, for they come from the same functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from evolve.dashboard import diffs, pictures
from evolve.journal_schema import Row
from evolve.terminal import words

# What a step came to, as a class that style.css gives a colour.
TONES = {
    "better": "good", "first": "good", "same": "dull", "worse": "poor", "pending": "dull",
    "PASSED": "good", "INCORRECT": "bad", "IMPOSSIBLE": "bad", "RUNTIME_ERROR": "bad", "DUPLICATE": "dull",
    "NO_REPLY": "dull",
}  # fmt: skip


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("evolve.dashboard", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "clean": words.clean,
        "line": words.line,
        "duration": words.duration,
        "money": words.money,
        "micro": words.microseconds,
        "value": words.value,
        "percent": words.percent,
        "parameters": words.parameters,
        "tone": tone,
        "island": data_island,
        "pretty": pretty,
        "ago": ago,
    }
    made.globals |= {"outcome": outcome, "score": score, "pictures": pictures, "code": code, "version": version()}
    return made


def version() -> str:
    """Of scripts and styles: a browser keeps them until they change."""
    found = hashlib.sha256()
    for file in sorted((Path(__file__).parent / "static").rglob("*.*")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def render(template: str, values: Mapping[str, Any]) -> str:
    return environment().get_template(template).render(values)


def data_island(value: Any) -> Markup:
    """JSON inside a page, such that no text in it can end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def pretty(value: Any, longest: int = 200_000) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return words.clean(text if len(text) <= longest else f"{text[:longest]}\n… {len(text) - longest:,} more characters")


def ago(then: float, now: float) -> str:
    return f"{words.duration(max(0.0, now - then))} ago"


def code(source: str) -> Markup:
    """A source with its line numbers."""
    rows = (
        Markup('<tr><td class="ln">{}</td><td>{}</td></tr>').format(i, line)
        for i, line in enumerate(diffs.coloured(source), start=1)
    )
    head = '<div class="scroll" tabindex="0" role="region" aria-label="Source"><table class="diff one"><tbody>'
    return Markup(head) + Markup("").join(rows) + Markup("</tbody></table></div>")


def outcome(row: Row) -> str:
    """In one word: better, same, worse, or the verdict."""
    return words.mark(row)[0]


def tone(word: str) -> str:
    return TONES.get(word, "warn")


def score(row: Row) -> str:
    return words.score_of(row)
