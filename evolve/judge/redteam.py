"""The red-team suite: packaged cheats, each with the verdict and the reason that it must get, and honest controls.

A judge that refuses everything would pass the first half and one that refuses nothing the second, so both are run.
The files lie in `evolve/data/redteam/`: `attacks/` and `honest/`, one candidate a file, `problems/` for those that are
no matrix product. Here they are read and held against what a judge says; the judge itself is passed in.

A file says in comment lines at its top, of which the last four may be absent:
    # WHAT: what it tries
    # EXPECT: REJECTED, or several: INCORRECT|RUNTIME_ERROR
    # NEEDS: any, or gpu
    # STAGE: screen, or several: check|time (the first on a GPU, which runs the timed sizes, the other without one)
    # REASON: text that the feedback must contain, or several: error|differ
    # VARIANT: fp32
    # PROBLEM: name of a file in problems/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal, TypeAlias

from evolve.errors import UsageError
from evolve.types import Candidate, Evaluation, Job, Verdict

Kind = Literal["attack", "honest"]
FIELD = re.compile(r"^\ufeff?# ([A-Z]+): (.*)$", re.MULTILINE)
KNOWN = ("WHAT", "EXPECT", "STAGE", "REASON", "NEEDS", "VARIANT", "PROBLEM")

Evaluate: TypeAlias = Callable[[Job], Evaluation]
# (problem's path or None for the matrix product, variant's name or None for its first) -> the judge for it
Open: TypeAlias = Callable[[str | None, str | None], Evaluate]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    kind: Kind
    source: str
    what: str
    expect: tuple[Verdict, ...]
    stage: str = ""
    reasons: tuple[str, ...] = ()  # any of them
    needs_gpu: bool = False
    variant: str | None = None
    problem: str | None = None  # path of the problem's file

    @property
    def expected(self) -> str:
        """As the table shows it."""
        verdicts = " or ".join(self.expect)
        return f"{verdicts} at {' or '.join(self.stage.split('|'))}" if self.stage else verdicts

    @property
    def candidate(self) -> Candidate:
        return Candidate(step=0, source=self.source, member="redteam", kind="seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table. `right` is None where the case was skipped, and `reason` then says why."""

    case: Case
    got: str
    reason: str
    right: bool | None


def cases(names: Sequence[str] = ()) -> tuple[Case, ...]:
    """The packaged suite, or those of it that are named."""
    found = tuple(sorted((*_folder("attack"), *_folder("honest")), key=lambda c: (c.kind, c.name)))
    unknown = sorted(set(names) - {case.name for case in found})
    if unknown:
        raise UsageError(f"redteam: no case {unknown[0]!r}; the suite has {', '.join(case.name for case in found)}.")
    return tuple(case for case in found if not names or case.name in names)


def run(
    suite: Iterable[Case], judge: Open, *, has_gpu: bool, random_seeds: tuple[int, ...] = (1, 2, 3)
) -> Iterator[Row]:
    """Each case through the judge of its problem and variant, as they come, so that a table can grow."""
    judges: dict[tuple[str | None, str | None], Evaluate] = {}
    for case in suite:
        if case.needs_gpu and not has_gpu:
            yield Row(case=case, got="skipped", reason="needs a GPU", right=None)
            continue
        key = (case.problem, case.variant)
        if key not in judges:
            judges[key] = judge(*key)
        yield held(case, judges[key](Job(candidate=case.candidate, random_seeds=random_seeds)))


def held(case: Case, evaluation: Evaluation) -> Row:
    """What the judge said, against what it had to say."""
    text = evaluation.feedback.casefold()
    right = evaluation.verdict in case.expect
    right = right and (not case.stage or evaluation.stage in case.stage.split("|"))
    right = right and (not case.reasons or any(reason.casefold() in text for reason in case.reasons))
    got = f"{evaluation.verdict} at {evaluation.stage}" if evaluation.stage else str(evaluation.verdict)
    first = evaluation.feedback.strip().splitlines()
    return Row(case=case, got=got, reason=first[0] if first else "", right=right)


def _folder(kind: Kind) -> Iterator[Case]:
    home = files("evolve") / "data" / "redteam"
    for file in (home / ("attacks" if kind == "attack" else kind)).iterdir():
        if file.name.endswith(".py"):
            yield read(file, kind, home)


def read(file: Traversable, kind: Kind, home: Traversable) -> Case:
    # Bytes that are no UTF-8 are a case too; they come back as they were when the screen asks for UTF-8.
    source = file.read_bytes().decode("utf-8", "surrogateescape")
    said = {key: value.strip() for key, value in FIELD.findall(source) if key in KNOWN}
    try:
        expect = tuple(Verdict(name) for name in said["EXPECT"].split("|"))
        needs_gpu = {"any": False, "gpu": True}[said["NEEDS"]]
    except (KeyError, ValueError) as error:
        raise UsageError(f"{file.name}: its header lacks or misspells {error}; see evolve/judge/redteam.py.") from error
    return Case(
        name=file.name.removesuffix(".py"),
        kind=kind,
        source=source,
        what=said.get("WHAT", ""),
        expect=expect,
        stage=said.get("STAGE", ""),
        reasons=tuple(reason for reason in said.get("REASON", "").split("|") if reason),
        needs_gpu=needs_gpu,
        variant=said.get("VARIANT"),
        problem=str(home / "problems" / f"{said['PROBLEM']}.py") if "PROBLEM" in said else None,
    )
