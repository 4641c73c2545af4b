"""Two sources side by side, coloured as Python, with what changed within a line marked.

The text is a stranger's: every piece is escaped, and a source too long to compare is shown without comparison.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from markupsafe import Markup, escape
from pygments.lexers.python import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Token

from evolve.terminal.words import clean

AROUND = 4  # equal lines that are shown around a change
LONGEST = 4000  # lines that are compared
WIDEST = 2000  # characters of a line that is coloured and compared within
# The classes of style.css, the first that fits.
KINDS = (
    (Comment, "tc"), (String.Doc, "tc"), (String, "ts"), (Number, "tn"), (Keyword, "tk"), (Name.Decorator, "td"),
    (Name.Function, "tf"), (Name.Builtin, "tb"), (Operator.Word, "tk"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Side:
    number: int | None
    html: Markup
    kind: str = ""  # "", "del", "ins", "none"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of both; `skipped` equal ones instead where it is not 0."""

    old: Side | None = None
    new: Side | None = None
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class Diff:
    lines: tuple[Line, ...]
    added: int
    removed: int
    note: str = ""

    @property
    def same(self) -> bool:
        return not (self.added or self.removed)


NOTHING = Side(number=None, html=Markup(""), kind="none")


@lru_cache(maxsize=32)
def coloured(source: str) -> tuple[Markup, ...]:
    """A line of HTML each. An ancestor is compared with several, and a page is fetched again while a run writes."""
    lines: list[list[Markup]] = [[]]
    for token, text in PythonLexer(stripnl=False, ensurenl=False).get_tokens(clean(source)):
        kind = next((name for family, name in KINDS if token in family), "") if token is not Token.Text else ""
        for place, part in enumerate(text.split("\n")):
            if place:
                lines.append([])
            if part:
                lines[-1].append(Markup('<span class="{}">{}</span>').format(kind, part) if kind else escape(part))
    return tuple(Markup("").join(parts) for parts in lines)


def compare(old: str, new: str) -> Diff:
    before, after = clean(old).split("\n"), clean(new).split("\n")
    if max(len(before), len(after)) > LONGEST:
        note = f"{len(before):,} and {len(after):,} lines: too long to compare here; `evolve show --diff` does."
        return Diff(lines=(), added=0, removed=0, note=note)
    left, right = coloured(old), coloured(new)
    lines: list[Line] = []
    added = removed = 0
    operations = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for place, (what, a, b, c, d) in enumerate(operations):
        if what == "equal":
            lines += _equal(left, right, (a, b, c), place == 0, place == len(operations) - 1)
            continue
        removed, added = removed + b - a, added + d - c
        lines += _changed(before, after, left, right, (a, b, c, d))
    return Diff(lines=tuple(lines), added=added, removed=removed)


def _equal(
    left: Sequence[Markup], right: Sequence[Markup], span: tuple[int, int, int], first: bool, last: bool
) -> Iterator[Line]:
    """Equal lines, but for those far from any change."""
    a, b, c = span
    head, tail = 0 if first else AROUND, 0 if last else AROUND
    hidden = b - a - head - tail
    for i in range(a, b):
        if hidden > 1 and a + head <= i < b - tail:
            if i == a + head:
                yield Line(skipped=hidden)
            continue
        yield Line(old=Side(number=i + 1, html=left[i]), new=Side(number=c + i - a + 1, html=right[c + i - a]))


def _changed(
    before: Sequence[str],
    after: Sequence[str],
    left: Sequence[Markup],
    right: Sequence[Markup],
    span: tuple[int, int, int, int],
) -> Iterator[Line]:
    a, b, c, d = span
    for i in range(max(b - a, d - c)):
        old, new = a + i, c + i
        has_old, has_new = old < b, new < d
        html = (left[old] if has_old else Markup(""), right[new] if has_new else Markup(""))
        if has_old and has_new and (within := _within(before[old], after[new])):
            html = within
        yield Line(
            old=Side(number=old + 1, html=html[0], kind="del") if has_old else NOTHING,
            new=Side(number=new + 1, html=html[1], kind="ins") if has_new else NOTHING,
        )


def _within(old: str, new: str) -> tuple[Markup, Markup] | None:
    """Where two lines are much alike, the words that differ stand out; otherwise they are coloured as Python."""
    if max(len(old), len(new)) > WIDEST:
        return None
    words = _words(old), _words(new)
    told = [[w for w in side if not w.isspace()] for side in words]
    if difflib.SequenceMatcher(None, told[0], told[1], autojunk=False).ratio() < 0.5:
        return None
    matcher = difflib.SequenceMatcher(None, words[0], words[1], autojunk=False)
    sides = [Markup(""), Markup("")]
    for what, a, b, c, d in matcher.get_opcodes():
        for side, part in ((0, "".join(words[0][a:b])), (1, "".join(words[1][c:d]))):
            if part:
                sides[side] += escape(part) if what == "equal" else Markup("<mark>{}</mark>").format(part)
    return sides[0], sides[1]


def _words(line: str) -> list[str]:
    """Names and numbers whole, everything else sign by sign."""
    found: list[str] = []
    for sign in line:
        if found and (sign.isalnum() or sign == "_") and (found[-1][-1].isalnum() or found[-1][-1] == "_"):
            found[-1] += sign
        else:
            found.append(sign)
    return found
