"""What is known of the parent, gathered from its evaluation in the terms that words and hints ask for.

Traits are of the costliest launch of the heaviest workload; bound and roofline come from the model, set against the
measured time where there is one. Held-out workloads are left out here, so that nothing downstream can tell of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from evolve.types import Attempt, Evaluation, Measurement, Scalar, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One timed workload of the parent."""

    workload: Workload
    measured: Measurement
    roofline: float | None = None  # of the ideal, between 0 and 1
    bound: str = ""  # "compute", "memory", "latency", "launch"
    terms_us: Mapping[str, float] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that a hint may ask about."""

    source: str
    evaluation: Evaluation
    workloads: tuple[Workload, ...]
    variant: str
    allows: frozenset[str] = frozenset()  # precision edits inside the contract
    target: str = ""
    triton: tuple[int, ...] = ()

    @property
    def traits(self) -> Mapping[str, Scalar]:
        return self.evaluation.traits

    def number(self, name: str) -> float:
        value = self.traits.get(name, 0)
        return float(value) if isinstance(value, int | float) else 0.0

    def count(self, *mnemonics: str) -> float:
        return sum(self.number(f"n_{name}") for name in mnemonics)

    @property
    def counted(self) -> bool:
        """Whether the machine code was disassembled at all."""
        return "n_total" in self.traits

    @property
    def hopper(self) -> bool:
        return self.target == "sm_90"

    @property
    def path(self) -> str:
        return str(self.traits.get("tensor_path", ""))

    @property
    def descriptors(self) -> bool:
        return "descriptors" in self.path or self.count("UTMALDG") > 0

    @property
    def structure(self) -> str:
        return str(self.traits.get("structure", ""))

    @property
    def warps(self) -> int:
        return int(self.number("threads")) // 32

    @property
    def tile(self) -> tuple[int, ...]:
        """Rows, columns and depth of the product; empty without one."""
        found = tuple(int(n) for n in str(self.traits.get("tile", "")).split("x") if n.isdigit())
        return found if len(found) == 3 else ()

    @cached_property
    def code(self) -> str:
        """The source without comments: a word in a comment is no construct."""
        return re.sub(r"#[^\n]*", "", self.source)

    def has(self, pattern: str) -> bool:
        return re.search(pattern, self.code) is not None

    @cached_property
    def timings(self) -> tuple[Timing, ...]:
        told = _model(self.evaluation)
        timed = {m.workload: m for m in self.evaluation.measurements}
        return tuple(_timing(w, timed[w.name], told.get(w.name, {})) for w in self.workloads if w.name in timed)

    def bound_by(self, *bounds: str) -> bool:
        return any(t.bound in bounds for t in self.timings)

    def advised(self, word: str) -> list[str]:
        """Workloads whose advice has this word in it."""
        return [t.workload.name for t in self.timings if any(word in sentence for sentence in t.advice)]


def situation(
    attempt: Attempt,
    workloads: Sequence[Workload],
    variant: str,
    allows: frozenset[str],
    target: str,
    triton: str,
) -> Situation:
    built_for = attempt.evaluation.traits.get("target")
    return Situation(
        source=attempt.candidate.source,
        evaluation=attempt.evaluation,
        workloads=tuple(workloads),
        variant=variant,
        allows=allows,
        target=str(built_for or target),
        triton=tuple(int(n) for n in re.findall(r"\d+", triton)[:2]),
    )


def _model(evaluation: Evaluation) -> Mapping[str, Any]:
    """By workload: on a GPU it stands beside the timing's own evidence, without one it is that evidence."""
    time = evaluation.evidence.get("time")
    if not isinstance(time, Mapping):
        return {}
    found = time.get("model", time)
    return {name: told for name, told in found.items() if isinstance(told, Mapping)}


def _timing(workload: Workload, measured: Measurement, told: Mapping[str, Any]) -> Timing:
    roofline = told.get("roofline")
    if isinstance(roofline, int | float) and not measured.modelled:
        roofline = min(1.0, roofline * float(told.get("time_us", 0.0)) / measured.time_us)
    return Timing(
        workload=workload,
        measured=measured,
        roofline=float(roofline) if isinstance(roofline, int | float) else None,
        bound=str(told.get("bound", "")),
        terms_us=told.get("terms_us", {}),
        advice=tuple(map(str, told.get("advice", ()))),
    )
