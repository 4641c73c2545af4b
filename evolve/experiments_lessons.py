"""What a run has taught so far, in a short list for its prompts.

A lesson is a count and a figure of this run, never advice of its own, and always a sentence. What is read is bounded,
however long the run, and the same journal gives the same list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from evolve import lineage
from evolve.experiments import Experiment, notebook, undone
from evolve.experiments_held import Outcome
from evolve.journal import Journal
from evolve.sentences import first_line
from evolve.types import Verdict

RECENT = 150  # experiments that lessons are drawn from
MOST = 10
LONGEST = 220  # characters of a lesson
ALIKE = 85  # of 100: two ideas in nearly the same words are one


@dataclass(kw_only=True)
class Theme:
    """Experiments of one idea: the same words but for their numbers."""

    words: str
    tries: list[Experiment] = field(default_factory=list)

    @property
    def faster(self) -> list[Experiment]:
        return [e for e in self.tries if e.change and e.change.beyond > 0]

    @property
    def slower(self) -> list[Experiment]:
        return [e for e in self.tries if e.change and e.change.beyond < 0]

    @property
    def idle(self) -> list[Experiment]:
        """Same machine code, or the same time."""
        return [e for e in self.tries if (e.change and not e.change.beyond) or undone(e.row)]

    @property
    def failed(self) -> list[Experiment]:
        return [e for e in self.tries if not e.row.passed and e.row.verdict != Verdict.DUPLICATE]


def lessons(journal: Journal, parent_id: str | None = None, *, count: int = MOST) -> tuple[str, ...]:
    """A short list for prompts: what was tried on this parent, what paid, what did not, how predictions fared."""
    recent = [e for e in notebook(journal, count=RECENT) if e.row.candidate_id or e.row.verdict]
    best = lineage.best(journal)
    line = {row.step for row in lineage.ancestors(journal, str(best.candidate_id))} if best else set()
    here = [e for e in recent if parent_id and e.row.parent_id == parent_id]
    grouped = themes(recent)
    told = [
        *_tried_here(here),
        *_paid(grouped, line),
        *_surprises(recent),
        *_in_vain(grouped),
        *_failures(grouped),
        *_record(recent),
    ]
    return tuple(first_line(lesson, LONGEST) for lesson in dict.fromkeys(told))[:count]


def themes(experiments: Iterable[Experiment]) -> list[Theme]:
    """In the order in which each was first tried."""
    from rapidfuzz import fuzz, process

    found: list[Theme] = []
    for one in experiments:
        words = _plain(one.idea)
        near = process.extractOne(words, [t.words for t in found], scorer=fuzz.ratio, score_cutoff=ALIKE)
        if near is None:
            found.append(Theme(words=words))
        found[-1 if near is None else near[2]].tries.append(one)
    return found


def _plain(idea: str) -> str:
    """Without figures and the order of words, which say nothing about whether two ideas are one."""
    return " ".join(sorted(re.sub(r"\d+(\.\d+)?", "#", idea.lower()).split()))[:300]


def _short(one: Experiment) -> str:
    """The idea's first clause, if it is one."""
    idea = one.idea.rstrip(".")
    head, *rest = re.split(r": |; |\. ", idea, maxsplit=1)
    return first_line(head if len(head) >= 25 and len("".join(rest)) > 40 else idea, 130).rstrip(".")


def _gain(one: Experiment) -> float:
    return one.change.log if one.change else -math.inf


def _speed(one: Experiment) -> str:
    assert one.change is not None
    modelled = " (modelled)" if one.row.modelled else ""
    times = math.exp(one.change.log)
    if times >= 1:
        return f"{times:.2f} times as fast as its parent{modelled}"
    return f"{100 * (1 / times - 1):.1f} % slower than its parent{modelled}"


def _tried_here(here: Sequence[Experiment]) -> Iterator[str]:
    """Failed children stand in the prompt by themselves; here is what passed and did not help."""
    dull = [e for e in here if e.outcome is not Outcome.CONFIRMED and (e.change is None or e.change.beyond <= 0)]
    dull = [e for e in dull if e.row.passed or undone(e.row)]
    for one in dull[-3:]:
        what = "changed nothing" if not one.row.passed or not one.change or not one.change.beyond else _speed(one)
        yield f"Tried on this very candidate: {_short(one)}: {what}."


def _paid(grouped: Sequence[Theme], line: set[int]) -> Iterator[str]:
    """First what led to the present best, then what else gained, by the best of each idea."""
    helped = [(t, max(t.faster, key=lambda e: (e.row.step in line, _gain(e)))) for t in grouped if t.faster]
    helped.sort(key=lambda pair: (pair[1].row.step not in line, -_gain(pair[1]), pair[1].row.step))
    for theme, one in helped[:3]:
        led = ", on the way to the present best" if one.row.step in line else ""
        often = f"; {len(theme.faster)} of {len(theme.tries)} such tries gained" if len(theme.tries) > 1 else ""
        yield f"Paid: {_short(one)}: {_speed(one)}{led}{often}."


def _surprises(recent: Sequence[Experiment]) -> Iterator[str]:
    """The counter did as predicted and the time did not: the reasoning was at fault, not the edit."""
    for one in reversed(recent):
        counters = [f for f in one.findings if f.said != "faster" and not f.seen.startswith(("time", "score"))]
        moved = [f for f in counters if f.outcome is Outcome.CONFIRMED and "→" in f.seen]
        if moved and one.change and one.change.beyond <= 0:
            what = _speed(one) if one.change.beyond else "no faster"
            yield f"As predicted {', '.join(f.seen for f in moved[:2])}, and yet {what}: {_short(one)}."
            return


def _in_vain(grouped: Sequence[Theme]) -> Iterator[str]:
    never = [t for t in grouped if not t.faster and (t.slower or t.idle)]
    worse = sorted((t for t in never if t.slower), key=lambda t: (-len(t.slower), min(map(_gain, t.slower))))
    for theme in worse[:2]:
        one = min(theme.slower, key=_gain)
        often = f", the worst of {len(theme.tries)} tries of which none gained" if len(theme.tries) > 1 else ""
        yield f"Did not pay: {_short(one)}: {_speed(one)}{often}."
    for theme in sorted((t for t in never if not t.slower), key=lambda t: -len(t.idle))[:2]:
        often = f", {len(theme.idle)} times" if len(theme.idle) > 1 else ""
        yield f"Without effect{often}: {_short(theme.idle[-1])}."


def _failures(grouped: Sequence[Theme]) -> Iterator[str]:
    """An idea that only ever failed, and the last reason."""
    broken = [t for t in grouped if len(t.failed) == len(t.tries)]
    for theme in sorted(broken, key=lambda t: (-len(t.tries), -t.tries[-1].row.step))[:2]:
        one = theme.tries[-1]
        often = f" {len(theme.tries)} times" if len(theme.tries) > 1 else ""
        yield f"{one.row.verdict}{often}: {_short(one)}: {first_line(one.row.headline, 90)}"


def _record(recent: Sequence[Experiment]) -> Iterator[str]:
    """How far predictions could be trusted so far."""
    stated = [e for e in recent if e.prediction and e.findings and e.outcome is not Outcome.NOT_MEASURED]
    if len(stated) < 4:
        return
    counts = ", ".join(f"{n} {o}" for o in Outcome if (n := sum(e.outcome is o for e in stated)))
    gains = [100 * math.expm1(e.change.log) for e in stated if e.change]
    middle = f"; the median gain was {median(gains):+.1f} %" if gains else ""
    yield f"Of the last {len(stated)} predictions that could be tested: {counts}{middle}."
