"""Is the answer right: one workload of one candidate, on inputs of many kinds.

For each kind of inputs, in this order, because an answer must not be lying about while the candidate runs:

    the outputs and the scratch are poisoned, the plan runs, its outputs are kept; poisoned otherwise, it runs again and
    must give the same; inputs and guard bands must be as they were; only then the reference is computed, compared with,
    scrubbed and freed.

Last, one secret change of an input must change the answer as it changes the reference. Which kinds there are is
`judge.inputs`', what close enough means is `judge.compare`'s; the verdict is `judge.check`'s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evolve.judge.compare import Finding
from evolve.judge.gpu import answers
from evolve.judge.gpu.clock import Phases
from evolve.judge.gpu.engine import Engine
from evolve.judge.gpu.launch import Bound, Program
from evolve.judge.gpu.memory import Memory
from evolve.judge.gpu.place import Placed, allocator
from evolve.problem import Baseline, Problem, Variant
from evolve.types import Workload

POISONS = (0xFF, 0x5A)  # NaN in every floating type, and a plausible number
Arguments = Sequence[Any]


@dataclass(kw_only=True)
class Case:
    """What one kind of inputs gave. `wrong` is empty where it passed; otherwise what a person would say."""

    family: str
    findings: list[Finding] = field(default_factory=list)
    wrong: str = ""

    def to_json(self) -> dict[str, Any]:
        rows = [answers.to_json(f) for f in self.findings]
        return {"family": self.family, "worst": answers.worst(self.findings), "wrong": self.wrong, "rows": rows}


class Checking:
    """One workload. `case` may be called many times; buffers are kept, contents are always new."""

    def __init__(
        self,
        engine: Engine,
        problem: Problem,
        variant: Variant,
        workload: Workload,
        program: Program,
        *,
        baseline: Baseline | None,
        rng: random.Random,
        phases: Phases,
    ) -> None:
        self.engine, self.problem, self.variant, self.workload = engine, problem, variant, workload
        self.program, self.baseline = program, baseline
        self._rng, self._phases = rng, phases
        self._memory = Memory(engine.device, engine.pages, rng)
        self._placed: Placed | None = None
        self._bound: Bound | None = None

    def case(self, family: str, random_seed: int) -> Case:
        """One kind of inputs: run twice, compare once."""
        made = self._draw(family, random_seed)
        outputs, wrong = self._run(made, family)
        return Case(family=family, wrong=wrong) if wrong else self._held(outputs, made, family)

    def changed(self, random_seed: int) -> Case:
        """The plain inputs twice, the second time with one secret element of each value argument exchanged: the answer
        must follow. A result kept from the first time does not."""
        made = self._draw(answers.PLAIN, random_seed)
        first, wrong = self._run(made, answers.CHANGED)
        self._exchange(made)
        second, again = self._run(made, answers.CHANGED)
        if wrong or again:
            return Case(family=answers.CHANGED, wrong=wrong or again)
        case = self._held(second, made, answers.CHANGED)
        if case.wrong and all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
            case.wrong = "the answer stays the same when an input changes: it was not computed from it"
        return case

    def rehearse(self, names: Sequence[str]) -> None:
        """Draw every kind of inputs, and compare a reference with itself: what libraries load for it is loaded now."""
        for family in names:
            made = self._draw(family, 1)
        self._held(
            [r.to(o.dtype) for r, o in zip(self._reference(made), self._run(made, "")[0], strict=True)], made, ""
        )
        self._exchange(made)

    def _draw(self, family: str, random_seed: int) -> tuple[Any, ...]:
        with self._phases("inputs", family=family):
            return answers.draw(self.problem, self.variant, self.workload, family, self.engine.device, random_seed)

    def _reference(self, made: Arguments) -> tuple[torch.Tensor, ...]:
        return answers.reference_of(self.problem, self.workload, made)

    def _held(self, outputs: Sequence[torch.Tensor], made: Arguments, family: str) -> Case:
        with self._phases("reference", family=family):
            reference = self._reference(made)
        with self._phases("compare", family=family):
            found = answers.hold(
                self.problem,
                self.variant,
                self.workload,
                outputs,
                reference,
                made,
                family=answers.PLAIN if family == answers.CHANGED else family,
                baseline=lambda: self._baseline(made, family),
            )
            case = Case(family=family, findings=found, wrong=answers.wrong(found))
        scrub(reference)
        return case

    def _exchange(self, made: Arguments) -> None:
        """Takes, of 64 places drawn, the two whose values lie furthest apart: a change that must be seen."""
        for argument, tensor in zip((a for a in self.problem.arguments if a.role != "out"), made, strict=True):
            if argument.role != "value" or not isinstance(tensor, torch.Tensor) or tensor.numel() < 2:
                continue
            if not tensor.is_floating_point():
                continue
            places = [
                tuple(self._rng.randrange(n) for n in tensor.shape)  # by coordinates: any strides will do
                for _ in range(64)
            ]
            index = tuple(torch.tensor(column, device=tensor.device) for column in zip(*places, strict=True))
            values = tensor[index].to(torch.float64)
            low, high = places[int(values.argmin())], places[int(values.argmax())]
            tensor[low] = tensor[high]

    # --- running ---

    def _run(self, made: Arguments, family: str) -> tuple[tuple[torch.Tensor, ...], str]:
        """Outputs of the first run, and what was wrong besides their values."""
        placed = self._place(made)
        first = self._once(placed, POISONS[0], family)
        if self._changes_inputs:
            placed.refill(made)
        second = self._once(placed, POISONS[1], family)
        with self._phases("compare", family=family):
            wrong = self._besides(placed, made, first, second)
        return first, wrong

    @property
    def _changes_inputs(self) -> bool:
        return any(a.role == "in_out" for a in self.problem.arguments)

    def _place(self, made: Arguments) -> Placed:
        """Into the buffers of the last case, where they fit: mapping memory costs more than filling it."""
        with self._phases("memory"):
            if self._placed is not None and self._placed.refill(made):
                return self._placed
            self._free()
            self._placed = Placed(self._memory, self.problem, self.workload, made)
            roots = self._placed.roots(self.program.plan)
            self._bound = self.program.bind(roots, allocator(self._memory))
            return self._placed

    def _once(self, placed: Placed, poison: int, family: str) -> tuple[torch.Tensor, ...]:
        for buffer in placed.written(self.program.plan):
            buffer.body.fill_(poison)
        self.engine.synchronize()
        assert self._bound is not None
        with self._phases("candidate", family=family):
            self._bound.run(self.engine.stream())
            self.engine.synchronize()
        return tuple(o.clone() for o in placed.read(self.program.plan))

    def _besides(self, placed: Placed, made: Arguments, first: Arguments, second: Arguments) -> str:
        touched = placed.untouched(made, "value", "index")
        if touched:
            return f"it writes to its input {touched[0]!r}; inputs may only be read"
        if not self._memory.untouched():
            return "it writes outside its buffers: memory around them has changed; a mask is missing at an edge"
        difference = max((answers.difference(a, b) for a, b in zip(first, second, strict=True)), default=0.0)
        if difference > self.variant.repeat:
            return self._unrepeatable(difference)
        return ""

    def _unrepeatable(self, difference: float) -> str:
        allowed = f"{self.variant.repeat:.1e} is allowed" if self.variant.repeat else "equal bits are asked for"
        return (
            f"two runs on the same inputs, into outputs poisoned differently, differ by {difference:.1e}; {allowed}: "
            "some of the output is not written, or programs race for it"
        )

    def _baseline(self, made: Arguments, family: str) -> tuple[torch.Tensor, ...] | None:
        with self._phases("baseline", family=family):
            return answers.call(self.problem, self.workload, self.baseline, made)

    def close(self) -> None:
        with self._phases("memory"):
            self._free()

    def _free(self) -> None:
        self._placed = self._bound = None
        self.engine.synchronize()
        self._memory.free()


def scrub(tensors: Sequence[torch.Tensor]) -> None:
    """Freed memory keeps its contents: an answer must not wait there for somebody to find it."""
    for tensor in tensors:
        tensor.zero_()
