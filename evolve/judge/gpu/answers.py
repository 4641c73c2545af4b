"""Inputs, references and comparisons as a GPU process needs them: a thin layer over `judge.inputs` and `judge.compare`.

The baseline's own error is asked for only where it could matter, because it costs a run. Whether an error ends a
candidate's way is for `judge.check` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from evolve.judge import inputs
from evolve.judge.compare import Finding, compare, norm_error, untouched
from evolve.judge.gpu.place import as_outputs
from evolve.problem import Baseline, Norm, Problem, Variant
from evolve.types import Workload

PLAIN = "given"
CHANGED = "changed"  # the plain inputs, then one secret element exchanged
LARGEST = 1e12  # what infinity is written as: JSON has none
Outputs = Sequence[torch.Tensor]


def draw(
    problem: Problem, variant: Variant, workload: Workload, family: str, device: str, random_seed: int
) -> tuple[Any, ...]:
    made = problem.make_inputs(workload, device, random_seed)
    if family == PLAIN:
        return tuple(made)
    roles = [a.role for a in problem.arguments if a.role != "out"]
    return inputs.fill(made, roles, family, random_seed, allows=variant.allows)


def named(problem: Problem, arguments: Sequence[Any]) -> dict[str, Any]:
    return dict(zip((a.name for a in problem.arguments if a.role != "out"), arguments, strict=True))


def reference_of(problem: Problem, workload: Workload, arguments: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """The right answer, in float64 from the inputs as rounded to their dtype."""
    roles = [a.role for a in problem.arguments if a.role != "out"]
    raised = [_raised(a) if r in ("value", "in_out") else a for a, r in zip(arguments, roles, strict=True)]
    result = as_outputs(problem.reference(*raised), problem.outputs(workload), named(problem, raised))
    return tuple(r.to(torch.float64) if r.is_floating_point() else r for r in result)


def call(
    problem: Problem, workload: Workload, baseline: Baseline | None, arguments: Sequence[Any]
) -> tuple[torch.Tensor, ...] | None:
    """A baseline's answer; what it works on in place is copied first."""
    if baseline is None:
        return None
    roles = [a.role for a in problem.arguments if a.role != "out"]
    copies = [a.clone() if r == "in_out" else a for a, r in zip(arguments, roles, strict=True)]
    return as_outputs(baseline.call(*copies), problem.outputs(workload), named(problem, copies))


def hold(
    problem: Problem,
    variant: Variant,
    workload: Workload,
    outputs: Outputs,
    reference: Outputs,
    arguments: Sequence[Any],
    *,
    family: str,
    baseline: Callable[[], Outputs | None],
) -> list[Finding]:
    """Each output against its reference. `baseline` is called at most once, and only where its error may decide."""
    specs = problem.outputs(workload)
    references = {s.name: r for s, r in zip(specs, reference, strict=True)}
    rival: list[Outputs | None] = []
    found = []
    for number, spec in enumerate(specs):
        comparator, error = variant.comparators[spec.name], None
        if isinstance(comparator, Norm) and family in inputs.AMPLIFIES:
            error = _baseline_error(rival, baseline, number, reference)
        finding = _one(spec.name, comparator, outputs[number], references, family, error, arguments)
        if not finding.ok and isinstance(comparator, Norm) and error is None and family not in inputs.EXACT:
            error = _baseline_error(rival, baseline, number, reference)
            theirs = rival[0][number] if rival[0] is not None else None
            finding = _one(spec.name, comparator, outputs[number], references, family, error, arguments, theirs)
        found.append(finding)
        found += _kept(problem, spec.argument, outputs[number], reference[number], arguments)
    return found


def _one(
    name: str,
    comparator: Any,
    out: torch.Tensor,
    references: Mapping[str, torch.Tensor],
    family: str,
    error: float | None,
    arguments: Sequence[Any],
    theirs: torch.Tensor | None = None,
) -> Finding:
    return compare(
        name,
        comparator,
        out,
        references[name],
        family=family,
        baseline_error=error,
        inputs=arguments,
        references=references,
        rival=theirs,
    )


def _baseline_error(
    rival: list[Outputs | None], baseline: Callable[[], Outputs | None], number: int, reference: Outputs
) -> float | None:
    if not rival:
        rival.append(baseline())
    return norm_error(rival[0][number], reference[number]) if rival[0] is not None else None


def _kept(
    problem: Problem, argument: str | None, out: torch.Tensor, ref: torch.Tensor, arguments: Sequence[Any]
) -> list[Finding]:
    """Of an argument that is written in place, what the reference leaves alone."""
    roles = {a.name: a.role for a in problem.arguments}
    if argument is None or roles[argument] != "in_out":
        return []
    before = named(problem, arguments)[argument]
    finding = untouched(argument, before, out, ref)
    return [] if finding.ok else [finding]


def wrong(findings: Sequence[Finding]) -> str:
    """The first thing to say, or nothing."""
    return next((f.sentence or f"{f.output} is wrong" for f in findings if not f.ok), "")


def worst(findings: Sequence[Finding]) -> float:
    return max((finite(f.ratio) for f in findings), default=0.0)


def finite(value: float) -> float:
    return value if abs(value) < LARGEST else LARGEST


def to_json(finding: Finding) -> dict[str, Any]:
    row = replace(finding, error=finite(finding.error), ratio=finite(finding.ratio))
    return {"output": row.output, "error": row.error, "bound": row.bound, "ratio": row.ratio, "where": row.where}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Between two runs on the same inputs: 0 for equal bits."""
    if torch.equal(_bytes(a), _bytes(b)):
        return 0.0
    if not a.is_floating_point():
        return 1.0
    return finite(norm_error(a, b.to(torch.float64)))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _raised(argument: Any) -> Any:
    floating = isinstance(argument, torch.Tensor) and argument.is_floating_point()
    return argument.to(torch.float64) if floating else argument
