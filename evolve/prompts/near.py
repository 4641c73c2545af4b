"""Replies that are nothing new: the same tokens as a judged candidate's, but for names, comments and their order.

Caught before the judge, so that they cost no build; the member is asked once more, with the twin named. Numbers,
operators, attributes and constants must all be the same: another tile size is another candidate. Whoever insists is
judged, for order can matter; only what differs in nothing but names and comments is ruled out. What the compiler alone
can tell (an edit that leaves the machine code as it was) is the judge's to find.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, replace

from rapidfuzz.distance import Indel

from evolve.types import Asked, Candidate, Evaluation, Judged, digest_of

REMEMBERED = 2000  # judged candidates, the latest
NEAR = 0.97  # of the tokens, in their order
HEADING = "## You are asked once more"
_QUIET = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
_LAYOUT = (tokenize.INDENT, tokenize.DEDENT)


@dataclass(frozen=True, slots=True)
class Print:
    """A source's tokens: `bag` without names and order, `order` a character each, which `words` explain. Names count
    by where they first appear, so that another name for the same thing is no difference."""

    bag: str
    order: str
    words: tuple[str, ...]


def print_of(source: str) -> Print | None:
    """None where Python cannot read it: the judge will say so."""
    names: dict[str, str] = {}
    words: dict[str, int] = {}
    bag: Counter[str] = Counter()
    order = []
    before, begins = "", True
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            word = f"<{token.type}>" if token.type in _LAYOUT else token.string
            if token.type in _QUIET or (begins and token.type == tokenize.STRING):  # a docstring
                begins = begins or token.type == tokenize.NEWLINE
                continue
            begins = token.type in _LAYOUT
            if token.type == tokenize.NAME and before != "." and not keyword.iskeyword(word):
                word, count = names.setdefault(word, f"name{len(names)}"), "name"
            else:
                count = word
            bag[count] += 1
            order.append(chr(0x100 + words.setdefault(word, len(words))))
            before = token.string
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    return Print(digest_of(repr(sorted(bag.items()))), "".join(order), tuple(words))


@dataclass(frozen=True, kw_only=True, slots=True)
class Twin:
    name: str
    evaluation: Evaluation
    same: bool  # but for names and comments


class Near:
    """A fold over judged candidates. Prints are taken when they are first asked for: a replay costs nothing."""

    def __init__(self) -> None:
        self._waiting: deque[Judged] = deque(maxlen=REMEMBERED)
        self._known: OrderedDict[str, tuple[Print, Evaluation]] = OrderedDict()
        self._bags: dict[str, list[str]] = {}

    def observe(self, event: object) -> None:
        if isinstance(event, Judged) and event.candidate is not None:
            self._waiting.append(event)

    def twin(self, source: str) -> Twin | None:
        """A judged candidate that this is nearly the same as; one that it is the same as, if there is one."""
        while self._waiting:
            self._take(self._waiting.popleft())
        own = print_of(source)
        if own is None:
            return None
        names = self._bags.get(own.bag, ())
        likeness = {n: Indel.normalized_similarity(own.order, self._known[n][0].order) for n in names}
        best = max(names, key=lambda n: (own == self._known[n][0], likeness[n]), default=None)
        if best is None or likeness[best] < NEAR:
            return None
        return Twin(name=best, evaluation=self._known[best][1], same=own == self._known[best][0])

    def _take(self, event: Judged) -> None:
        candidate = event.candidate
        if candidate is None or not (own := print_of(candidate.source)):
            return
        self._known[candidate.id] = own, event.evaluation
        self._bags.setdefault(own.bag, []).append(candidate.id)
        if len(self._known) > REMEMBERED:
            name, (oldest, _) = self._known.popitem(last=False)
            self._bags[oldest.bag].remove(name)
            if not self._bags[oldest.bag]:
                del self._bags[oldest.bag]


def asked_anew(near: Near, candidate: Candidate, asked: Asked, *, may_ask: bool) -> Asked | str | None:
    """None if it is for the judge; the prompt that asks once more; or the sentence that rules it out."""
    twin = near.twin(candidate.source)
    again = HEADING in asked.prompt.user
    if twin is None or (again and not twin.same):
        return None
    found = twin.evaluation
    became = f"PASSED with a score of {found.score:.3f}" if found.passed else f"was {found.verdict}"
    if twin.same and (again or not may_ask):
        exactly = "" if candidate.digest.startswith(twin.name[-8:]) else " but for names and comments"
        return f"The same as {twin.name}{exactly}, which {became}; it was not judged again."
    if not may_ask:
        return None
    said = "" if found.passed else f" The judge said of it: {' '.join(found.feedback.split())[:300]}"
    told = (
        f"Your reply was nearly the same as {twin.name}, which {became}: they differ in names, comments or the order "
        f"of lines.{said}\nChange what the chip does. If the order is your point, reply again: it will be judged."
    )
    user = f"{asked.prompt.user.rstrip()}\n\n{HEADING}\n{told}\n"
    return replace(asked, prompt=replace(asked.prompt, user=user))
