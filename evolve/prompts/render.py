"""From a draw to the prompt that a member reads.

The words stand in text files beside this module (or in `prompt.template_dir`), readable as prose; here is only what is
filled in and what is left out when there is too much: the least useful part goes first, and errors keep their tail.
Nothing about held-out workloads, random seeds or this machine's files may come in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from evolve.errors import ConfigError
from evolve.problem import Problem, Variant
from evolve.types import Attempt, Draw, Evaluation, Prompt, Workload

TEMPLATES = Path(__file__).parent / "templates"
ANSWER = {"diff": "answer_diff.txt", "fix": "answer_diff.txt"}  # the other kinds answer with a whole file
KINDS = ("diff", "rewrite", "crossover", "fix", "explore", "draft", "rule")


@dataclass(frozen=True, kw_only=True)
class Briefing:
    """What every prompt of a run says: the problem, the chip, the versions."""

    problem: Problem
    variant: Variant
    workloads: tuple[Workload, ...]  # the timed ones
    facts: tuple[str, ...] = ()  # about the chip and the versions, a sentence each


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    text: str
    keep: int  # 0 is never dropped; the highest goes first

    def __str__(self) -> str:
        return f"## {self.title}\n{self.text.rstrip()}\n"


@dataclass(kw_only=True)
class Renderer:
    briefing: Briefing
    template_dir: Path | None = None
    longest: int = 60_000  # characters of the user's part
    _texts: dict[str, Template] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template_dir is not None and not self.template_dir.is_dir():
            raise ConfigError(f"prompt.template_dir: {self.template_dir} is no folder; name one with templates in it.")

    def __call__(self, draw: Draw, kind: str) -> Prompt:
        if kind == "rule":
            return Prompt(system="", user=self._text("rule.txt"), kind=kind)
        problem = self.briefing.problem
        names = ", ".join(a.name for a in problem.arguments)
        contract = self._text("contract.txt", entry=problem.entry, call=f"{problem.entry}({names})")
        sections = [
            Section(title="Task", text=self._text(f"{kind}.txt"), keep=0),
            *self._about(),
            *self._parent(draw, kind),
            *self._others(draw, kind),
            Section(title="Answer", text=self._text(ANSWER.get(kind, "answer_rewrite.txt")), keep=0),
        ]
        return Prompt(system=self._text("system.txt", contract=contract), user=_fit(sections, self.longest), kind=kind)

    def _text(self, name: str, **values: str) -> str:
        if name not in self._texts:
            own = self.template_dir / name if self.template_dir else None
            path = own if own and own.is_file() else TEMPLATES / name
            self._texts[name] = Template(path.read_text(encoding="utf-8"))
        return self._texts[name].safe_substitute(values).rstrip("\n")

    def _about(self) -> list[Section]:
        b = self.briefing
        timed = "\n".join(f"- {w.name} ({w.mode}, weight {w.weight:g}): {_params(w)}" for w in b.workloads)
        text = f"{b.problem.notes.strip()}\n\nVariant {b.variant.name}. Timed workloads:\n{timed}"
        sections = [Section(title=f"Problem: {b.problem.name}", text=text, keep=1)]
        if b.facts:
            sections.append(Section(title="Chip and versions", text="\n".join(f"- {f}" for f in b.facts), keep=2))
        return sections

    def _parent(self, draw: Draw, kind: str) -> list[Section]:
        if draw.parent is None:
            return []
        title = "The candidate" if kind != "fix" else "Its parent's measurements"
        sections = [Section(title=f"{title} ({draw.parent.id})", text=_outcome(draw.parent.evaluation), keep=0)]
        source = draw.failures[0] if kind == "fix" and draw.failures else draw.parent
        if source is not draw.parent:
            sections.append(
                Section(title=f"The failed child ({source.id})", text=_failure(source, longest=4000), keep=0)
            )
        sections.append(Section(title="Its source", text=_fenced(source.candidate.source), keep=0))
        return sections

    def _others(self, draw: Draw, kind: str) -> list[Section]:
        sections = [
            Section(
                title=f"Inspiration {n} ({i.id}, score {i.score:.3f})",
                text=_outcome(i.evaluation) + "\n" + _fenced(i.candidate.source),
                keep=(2 if kind == "crossover" and n == 1 else 5) + n,
            )
            for n, i in enumerate(draw.inspirations, 1)
        ]
        failures = draw.failures[1:] if kind == "fix" else draw.failures
        if failures:
            text = "\n".join(_failure(f, longest=800) for f in failures)
            sections.append(Section(title="Tried on this candidate, and failed", text=text, keep=4))
        if draw.lessons:
            text = "\n".join(f"- {lesson}" for lesson in draw.lessons)
            sections.append(Section(title="Lessons of this run", text=text, keep=3))
        return sections


def _params(workload: Workload) -> str:
    return ", ".join(f"{k}={v}" for k, v in workload.params.items())


def _fenced(source: str) -> str:
    return f"```python\n{source.rstrip()}\n```"


def _outcome(evaluation: Evaluation) -> str:
    if not evaluation.passed:
        return evaluation.feedback
    called = "modelled time" if evaluation.modelled else "time"
    rows = [
        f"- {m.workload}: {called} {m.time_us:.4g} us, {m.ratio:.3f} x {m.baseline} "
        f"[{m.ratio_low:.3f}, {m.ratio_high:.3f}]" + (f" at {dict(m.parameters)}" if m.parameters else "")
        for m in evaluation.measurements
        if m.weight > 0  # the others are held out, and their names would tell the sizes
    ]
    traits = ", ".join(f"{k}={v}" for k, v in evaluation.traits.items())
    return "\n".join(
        [f"Score {evaluation.score:.4f}.", *rows, *([f"Traits: {traits}."] if traits else []), evaluation.feedback]
    ).rstrip()


def _failure(attempt: Attempt, *, longest: int) -> str:
    why = _tail(attempt.evaluation.feedback, longest)
    idea = f" (hypothesis: {attempt.candidate.hypothesis})" if attempt.candidate.hypothesis else ""
    return f"- {attempt.evaluation.verdict}{idea}: {why}"


def _tail(text: str, longest: int) -> str:
    """Compilers say what is wrong at the end."""
    return text if len(text) <= longest else "[...] " + text[-longest:]


def _fit(sections: Sequence[Section], longest: int) -> str:
    kept = list(sections)
    while sum(len(str(s)) + 1 for s in kept) > longest:
        least = max(kept, key=lambda s: s.keep)
        if least.keep == 0:
            break  # what remains is the task itself
        kept.remove(least)
    return "\n".join(str(s) for s in kept)
