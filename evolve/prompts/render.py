"""From a draw to the prompt that a member reads.

The words stand in text files beside this module (or in `prompt.template_dir`), readable as prose; what is known of a
candidate is told by `account.py`, what is known of Triton by `hints.py`. Here is which of it a prompt carries, and what
is left out when there is too much: the least useful part goes first, and errors keep their tail.

Nothing about held-out workloads, random seeds or this machine's files may come in here.
"""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from evolve.errors import ConfigError
from evolve.problem import Norm, Problem, Variant
from evolve.prompts import account
from evolve.prompts.hints import gates, hints
from evolve.prompts.situation import Situation, situation
from evolve.types import Attempt, Draw, Prompt, Workload

TEMPLATES = Path(__file__).parent / "templates"
ANSWER = {"diff": "answer_diff.txt", "fix": "answer_diff.txt"}  # the other kinds answer with a whole file
KINDS = ("diff", "rewrite", "crossover", "fix", "explore", "draft", "rule")
SHORTER = 0.6  # of a source, for a difference to be shown in its place
# What goes first when there is too much: the highest. What stands at 0 is the task itself.
TASK, HINTS, CHIP, LESSONS, FAILURES, OTHERS = 0, 3, 2, 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """What every prompt of a run says: the problem, the chip, the versions."""

    problem: Problem
    variant: Variant
    workloads: tuple[Workload, ...]  # the timed ones
    facts: tuple[str, ...] = ()  # about the chip and the versions, a sentence each
    target: str = ""  # the chip as Triton names it: "sm_90"
    triton: str = ""  # its version

    def of(self, attempt: Attempt) -> Situation:
        return situation(attempt, self.workloads, self.variant.name, self.variant.allows, self.target, self.triton)

    @property
    def hidden(self) -> frozenset[str]:
        timed = {w.name for w in self.workloads}
        return frozenset(w.name for w in self.problem.workloads if w.role == "held_out") - timed


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    text: str
    keep: int  # TASK is never dropped; the highest goes first

    def __str__(self) -> str:
        return f"## {self.title}\n{self.text.rstrip()}\n"


@dataclass(kw_only=True)
class Renderer:
    briefing: Briefing
    template_dir: Path | None = None
    longest: int = 60_000  # characters of the user's part
    _texts: dict[str, Template] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template_dir is None:
            return
        if not self.template_dir.is_dir():
            raise ConfigError(f"prompt.template_dir: {self.template_dir} is no folder; name one with templates in it.")
        shipped = {p.name for p in TEMPLATES.glob("*.txt")}
        if strange := sorted(p.name for p in self.template_dir.glob("*.txt") if p.name not in shipped):
            raise ConfigError(
                f"prompt.template_dir: {self.template_dir / strange[0]} replaces no template; there are "
                f"{', '.join(sorted(shipped))}."
            )

    def __call__(self, draw: Draw, kind: str) -> Prompt:
        if kind == "rule":
            return Prompt(system="", user=self._text("rule.txt"), kind=kind)
        problem = self.briefing.problem
        names = ", ".join(a.name for a in problem.arguments)
        contract = self._text("contract.txt", entry=problem.entry, call=f"{problem.entry}({names})")
        at = self.briefing.of(draw.parent) if draw.parent else None
        sections = [
            Section(title="Your task", text=self._text(f"{kind}.txt"), keep=TASK),
            *self._about(draw),
            *(self._parent(draw, kind, at) if at else ()),
            *self._others(draw, kind),
            Section(title="Your answer", text=self._answer(kind, at), keep=TASK),
        ]
        return Prompt(system=self._text("system.txt", contract=contract), user=_fit(sections, self.longest), kind=kind)

    def _text(self, name: str, **values: str) -> str:
        if name not in self._texts:
            own = self.template_dir / name if self.template_dir else None
            path = own if own and own.is_file() else TEMPLATES / name
            self._texts[name] = Template(path.read_text(encoding="utf-8"))
        return self._texts[name].safe_substitute(values).rstrip("\n")

    def _answer(self, kind: str, at: Situation | None) -> str:
        """The example of a prediction is made of this parent's own figures, so that nobody copies it blindly."""
        workload = max(self.briefing.workloads, key=lambda w: w.weight, default=None)
        held = at.number("registers") if at else 0
        registers = f"registers {held:.0f} -> {0.75 * held:.0f}; " if held else ""
        copies = f"LDGSTS {at.count('LDGSTS'):.0f} -> 0; " if at and at.count("LDGSTS") else ""
        example = f"{registers}{copies}{workload.name if workload else 'time'} -8 %"
        workloads = ", ".join(w.name for w in self.briefing.workloads)
        hypothesis = self._text("answer_hypothesis.txt", example=example, workloads=workloads)
        return self._text(ANSWER.get(kind, "answer_rewrite.txt"), hypothesis=hypothesis)

    # --- The problem and the chip ---------------------------------------------------------------------------------

    def _about(self, draw: Draw) -> Iterator[Section]:
        b = self.briefing
        timed = "\n".join(f"- {w.name}: {account.sizes(w)} ({w.mode}, weight {w.weight:g})" for w in b.workloads)
        text = f"{b.problem.notes.strip()}\n\n{self._contract()}\n\nTimed workloads:\n{timed}"
        yield Section(title=f"The problem: {b.problem.name}, {b.variant.name}", text=text, keep=1)
        if draw.parent is None and (source := _reference(b.problem)):
            yield Section(title="The reference", text=_fenced(source), keep=1)
        facts = [*b.facts, *gates(b.of(draw.parent).triton if draw.parent else _version(b.triton))]
        if facts:
            yield Section(title="The chip and the versions", text="\n".join(facts), keep=CHIP)

    def _contract(self) -> str:
        """What an answer may be off by, and which precision edits are inside that."""
        variant = self.briefing.variant
        bounds = [
            f"{name} within {c.strict:g} of a float64 reference (relative norm; four times that for any row or tile)"
            for name, c in variant.comparators.items()
            if isinstance(c, Norm)
        ]
        allowed = f"Allowed besides: {', '.join(sorted(variant.allows))}." if variant.allows else ""
        return " ".join(part for part in (f"Right is {', '.join(bounds)}." if bounds else "", allowed) if part)

    # --- The parent -----------------------------------------------------------------------------------------------

    def _parent(self, draw: Draw, kind: str, at: Situation) -> Iterator[Section]:
        assert draw.parent is not None
        parent, failed = draw.parent, draw.failures[-1] if kind == "fix" and draw.failures else None
        name = "Its parent, which works" if failed else "The candidate you start from"
        if failed:
            text = account.failure(failed, longest=6000)
            yield Section(title=f"The failed child ({failed.id})", text=text, keep=TASK)
            yield Section(title="The failed child's source", text=_fenced(failed.candidate.source), keep=TASK)
        yield Section(title=f"{name} ({parent.id})", text=self._standing(parent, at), keep=1 if failed else TASK)
        if not failed:
            yield Section(title="Its source", text=_fenced(parent.candidate.source), keep=TASK)
        told = hints(at, self._text("hints.txt")) if parent.evaluation.passed else []
        if told:
            text = "\n".join(f"- {hint}" for hint in told)
            yield Section(title="What is known of kernels like this one", text=text, keep=HINTS)

    def _standing(self, parent: Attempt, at: Situation) -> str:
        if not parent.evaluation.passed:
            return parent.evaluation.feedback
        idea = f"Its own idea was: {parent.candidate.hypothesis}" if parent.candidate.hypothesis else ""
        parts = (
            account.times(at),
            account.built(at),
            account.profiled(at),
            account.remarks(at, self.briefing.hidden),
            idea,
        )
        return "\n".join(part for part in parts if part)

    # --- Others ---------------------------------------------------------------------------------------------------

    def _others(self, draw: Draw, kind: str) -> Iterator[Section]:
        for n, other in enumerate(draw.inspirations, 1):
            title = f"The other parent ({other.id})" if kind == "crossover" and n == 1 else f"Another way ({other.id})"
            keep = 1 if kind == "crossover" and n == 1 else OTHERS + n
            at = self.briefing.of(other)
            text = f"{account.times(at, brief=True)}\n{account.built(at)}".rstrip()
            parent = draw.parent if kind != "crossover" or n > 1 else None
            yield Section(title=title, text=f"{text}\n{_source(other, parent)}", keep=keep)
        failures = draw.failures[:-1] if kind == "fix" else draw.failures
        if failures:
            text = "\n".join(f"- {textwrap.indent(account.failure(f, longest=800), '  ').lstrip()}" for f in failures)
            yield Section(title="Tried on this candidate, and failed", text=text, keep=FAILURES)
        if draw.lessons:
            text = "\n".join(f"- {lesson}" for lesson in draw.lessons)
            yield Section(title="What this run has taught so far", text=text, keep=LESSONS)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _reference(problem: Problem) -> str:
    """Its text, for whoever has no candidate to read."""
    try:
        return textwrap.dedent(inspect.getsource(problem.reference))
    except (OSError, TypeError):  # made by a partial, or typed in a shell
        return ""


def _source(other: Attempt, parent: Attempt | None) -> str:
    """Whole, or as what it changes of the source that stands above, where that says it in fewer words."""
    source = other.candidate.source
    if parent is not None:
        before = parent.candidate.source.splitlines()
        lines = list(difflib.unified_diff(before, source.splitlines(), lineterm="", n=2))[2:]
        changed = "\n".join(lines)
        if lines and len(changed) < SHORTER * len(source):
            return f"Against the source above it differs in this:\n```diff\n{changed}\n```"
    return _fenced(source)


def _fenced(source: str) -> str:
    return f"```python\n{source.rstrip()}\n```"


def _fit(sections: Sequence[Section], longest: int) -> str:
    kept = list(sections)
    while sum(len(str(s)) + 1 for s in kept) > longest:
        least = max(kept, key=lambda s: s.keep)
        if least.keep == TASK:
            break  # what remains is the task itself
        kept.remove(least)
    return "\n".join(str(s) for s in kept)
