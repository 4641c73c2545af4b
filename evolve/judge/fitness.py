"""Is a problem fit for use? A judge is no better than the problem that it judges by.

Reference and baselines must agree, the answer must move with every input and seed, and answers that are wrong on
purpose must fail. All of it runs on the problem's own functions, on the CPU with the interpreted stand-ins or on a GPU
with the check workloads; no candidate has a part in it. A run asks `unfit` before its first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from evolve.judge import compare, inputs
from evolve.judge.interpret import reference_of
from evolve.judge.untouched import untouched_gpu
from evolve.problem import Baseline, Norm, Problem, TensorSpec, Variant
from evolve.types import Workload

# What a dtype is cut down to by the mutant that computes with less: the next coarser one.
COARSER = {
    torch.float64: torch.float32,
    torch.float32: torch.bfloat16,
    torch.float16: torch.float8_e4m3fn,
    torch.bfloat16: torch.float8_e4m3fn,
}
TAIL = 16  # rows or columns that a lost tile leaves out


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was tried. `workload` is empty where it concerns the problem as a whole."""

    what: str
    state: Literal["ok", "skipped", "wrong"]
    sentence: str
    workload: str = ""


def unfit(problem: Problem, variant: Variant, *, device: str = "cpu") -> str | None:
    """Why nothing should be judged by this problem, or None."""
    return next(
        (f"{f.what}: {f.sentence}" for f in examine(problem, variant, device=device) if f.state == "wrong"), None
    )


def examine(problem: Problem, variant: Variant, *, device: str = "cpu", random_seed: int = 1) -> Iterator[Finding]:
    """Every finding, as it comes."""
    judged = problem.variant(variant.stand_in) if variant.stand_in and device == "cpu" else variant
    workloads = problem.small(variant) if device == "cpu" else problem.of_role("check", variant)
    if not workloads:
        yield Finding(what="workloads", state="wrong", sentence=_no_workloads(device))
    unmoved = set(_given(problem)) if workloads else set()
    for workload in workloads:
        with untouched_gpu() if device == "cpu" else nullcontext():
            found = [*_shapes(problem, workload, device, random_seed)]
            found += _baselines(problem, judged, workload, device, random_seed)
            found += _moves(problem, workload, device, random_seed, unmoved)
            found += _mutants(problem, judged, workload, device, random_seed)
        yield from found
    # At one size an input may be without effect (what a single key is asked does not matter), not at all of them.
    moving = [a.name for a in problem.arguments if a.role in ("value", "in_out")]
    for name in [name for name in moving if name in unmoved]:
        sentence = f"the answer does not depend on {name}; is it passed to the reference?"
        yield Finding(what="inputs", state="wrong", sentence=sentence)


def _no_workloads(device: str) -> str:
    if device == "cpu":
        return "there are no `interpreted` workloads; without a GPU nothing could be checked."
    return 'no workload has role "check"; give a few of modest and odd sizes.'


# --- What the problem promises --------------------------------------------------------------------------------------


def _shapes(problem: Problem, workload: Workload, device: str, random_seed: int) -> Iterator[Finding]:
    """`make_inputs` on meta tensors and for real are the same shapes, and `outputs` are the reference's."""
    made, meta = problem.make_inputs(workload, device, random_seed), problem.make_inputs(workload, "meta", random_seed)
    for argument, real, shadow in zip(_given(problem), made, meta, strict=True):
        if isinstance(real, torch.Tensor) and _layout(real) != _layout(shadow):
            sentence = f"make_inputs gives {argument} {_layout(real)} on {device} and {_layout(shadow)} on meta."
            yield Finding(what="make_inputs", state="wrong", sentence=sentence, workload=workload.name)
    references = reference_of(problem, workload, made)
    for spec in problem.outputs(workload):
        shape = tuple(references[spec.name].shape)
        if shape != spec.shape:
            sentence = f"outputs() says {spec.name} is {list(spec.shape)}, the reference's is {list(shape)}."
            yield Finding(what="outputs", state="wrong", sentence=sentence, workload=workload.name)


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _given(problem: Problem) -> list[str]:
    return [a.name for a in problem.arguments if a.role != "out"]


def _roles(problem: Problem) -> list[str]:
    return [a.role for a in problem.arguments if a.role != "out"]


# --- Baselines ------------------------------------------------------------------------------------------------------


def _baselines(
    problem: Problem, judged: Variant, workload: Workload, device: str, random_seed: int
) -> Iterator[Finding]:
    for baseline in problem.baselines:
        what = f"baseline {baseline.name}"
        if why := baseline.unavailable(workload):
            yield Finding(what=what, state="skipped", sentence=why, workload=workload.name)
            continue
        try:
            yield _agrees(problem, judged, workload, baseline, device, random_seed)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # what torch raises, and users do
            state: Literal["skipped", "wrong"] = "skipped" if device == "cpu" else "wrong"
            sentence = f"does not run on {device}: {type(error).__name__}: {str(error).splitlines()[0]}"
            yield Finding(what=what, state=state, sentence=sentence, workload=workload.name)


def _agrees(
    problem: Problem, judged: Variant, workload: Workload, baseline: Baseline, device: str, random_seed: int
) -> Finding:
    """On every family of inputs: without a GPU under the bound that candidates have without a baseline's help, on one
    under the contract's ceiling, as in calibration. What a library's long sums round is no fault of the problem's."""
    worst, at = 0.0, "given"
    for family in inputs.families(problem):
        arguments = _filled(problem, judged, workload, family, device, random_seed)
        references = reference_of(problem, workload, arguments)
        out = _outputs(problem, workload, baseline.call(*arguments), arguments)
        for name, tensor in out.items():
            own = _own_error(judged, name, tensor, references[name]) if device != "cpu" else None
            # Libraries may add up parts of a sum in the coarser type: near, and not exact where kernels have to be.
            held_as = "given" if own is not None and family in inputs.EXACT else family
            finding = _held(judged, name, tensor, references, held_as, arguments, own=own)
            if not finding.ok:
                return Finding(
                    what=f"baseline {baseline.name}",
                    state="wrong",
                    sentence=f"disagrees with the reference on {inputs.SAID[family]}: {finding.sentence} One of the "
                    "two is wrong, or the bound is.",
                    workload=workload.name,
                )
            if finding.ratio > worst:
                worst, at = finding.ratio, family
    sentence = f"agrees with the reference; at most {worst:.2f} of the bound ({inputs.SAID[at]})."
    return Finding(what=f"baseline {baseline.name}", state="ok", sentence=sentence, workload=workload.name)


def _own_error(judged: Variant, name: str, out: torch.Tensor, ref: torch.Tensor) -> float | None:
    known = isinstance(judged.comparators[name], Norm) and out.shape == ref.shape
    return compare.norm_error(out, ref) if known else None


def _filled(
    problem: Problem, judged: Variant, workload: Workload, family: str, device: str, random_seed: int
) -> tuple[Any, ...]:
    made = problem.make_inputs(workload, device, random_seed)
    return inputs.fill(made, _roles(problem), family, random_seed, allows=judged.allows)


def _outputs(problem: Problem, workload: Workload, result: Any, arguments: Sequence[Any]) -> dict[str, torch.Tensor]:
    """A baseline returns its outputs, or has written them into in-place arguments."""
    specs = problem.outputs(workload)
    if result is None:
        by_name = dict(zip(_given(problem), arguments, strict=True))
        return {spec.name: by_name[spec.argument or spec.name] for spec in specs}
    found = tuple(result) if isinstance(result, tuple | list) else (result,)
    return {spec.name: tensor for spec, tensor in zip(specs, found, strict=True)}


def _held(
    judged: Variant,
    name: str,
    out: torch.Tensor,
    references: Mapping[str, torch.Tensor],
    family: str,
    arguments: Sequence[Any],
    *,
    own: float | None = None,
) -> compare.Finding:
    return compare.compare(
        name,
        judged.comparators[name],
        out,
        references[name],
        family=family,
        baseline_error=own,
        inputs=arguments,
        references=references,
    )


# --- The answer must depend on what it is asked ---------------------------------------------------------------------


def _moves(problem: Problem, workload: Workload, device: str, random_seed: int, unmoved: set[str]) -> Iterator[Finding]:
    """Takes out of `unmoved` what the answer depends on at this size."""
    first = problem.make_inputs(workload, device, random_seed)
    answer = reference_of(problem, workload, first)
    for position, (name, role) in enumerate(zip(_given(problem), _roles(problem), strict=True)):
        if role not in ("value", "in_out") or not isinstance(first[position], torch.Tensor):
            unmoved.discard(name)
            continue
        other = list(problem.make_inputs(workload, device, random_seed))
        other[position] = problem.make_inputs(workload, device, random_seed + 1)[position]
        if torch.equal(other[position], first[position]):
            sentence = f"two random seeds give the same {name}; candidates could learn the answer by heart."
            yield Finding(what="random seeds", state="wrong", sentence=sentence, workload=workload.name)
            unmoved.discard(name)
        elif name in unmoved and not _equal(answer, reference_of(problem, workload, other)):
            unmoved.discard(name)


def _equal(these: Mapping[str, torch.Tensor], those: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(these[name], those[name]) for name in these)


# --- Wrong answers must fail ----------------------------------------------------------------------------------------


def _mutants(problem: Problem, judged: Variant, workload: Workload, device: str, random_seed: int) -> Iterator[Finding]:
    """Each wrong answer on the problem's own inputs, one output at a time, the others right."""
    arguments = _filled(problem, judged, workload, "given", device, random_seed)
    references = reference_of(problem, workload, arguments)
    for spec in problem.outputs(workload):
        right = references[spec.name].to(getattr(torch, spec.dtype))
        for name, mutate in MUTANTS.items():
            wrong = mutate(right, spec)
            if wrong is None or torch.equal(wrong, right):
                continue
            finding = _held(judged, spec.name, wrong, references, "given", arguments)
            state: Literal["ok", "wrong"] = "wrong" if finding.ok else "ok"
            sentence = (
                f"{spec.name} passes as right when {WRONG_BY[name]}: the comparator is too lax."
                if finding.ok
                else f"fails at {_times(finding.ratio)} the bound."
            )
            yield Finding(what=f"mutant {name} of {spec.name}", state=state, sentence=sentence, workload=workload.name)


def _times(ratio: float) -> str:
    return f"{ratio:.3g} ×" if math.isfinite(ratio) else "any multiple of"


def _zeros(right: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    return torch.zeros_like(right)


def _mean(right: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    return torch.full_like(right, right.to(torch.float64).mean().item())


def _lost_tile(right: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    wrong = right.clone()
    wrong[..., -min(TAIL, wrong.shape[-1]) :] = 0
    return wrong


def _lost_row(right: torch.Tensor, spec: TensorSpec) -> torch.Tensor | None:
    """What a mask that is off by one leaves undone."""
    if right.ndim == 0:
        return None
    wrong = right.clone()
    wrong.view(-1, wrong.shape[-1])[-1] = 0
    return wrong


def _coarse(right: torch.Tensor, spec: TensorSpec) -> torch.Tensor | None:
    if right.dtype not in COARSER:
        return None
    coarse = COARSER[right.dtype]
    most = torch.finfo(coarse).max
    return right.clamp(-most, most).to(coarse).to(right.dtype)


Mutate = Callable[[torch.Tensor, TensorSpec], torch.Tensor | None]
MUTANTS: Mapping[str, Mutate] = {
    "zeros": _zeros,
    "mean": _mean,
    "lost tile": _lost_tile,
    "lost row": _lost_row,
    "lower precision": _coarse,
}
WRONG_BY = {
    "zeros": "it is zero everywhere",
    "mean": "it is its mean everywhere",
    "lost tile": f"its last {TAIL} columns are zero",
    "lost row": "its last row is zero",
    "lower precision": "it was rounded to the next coarser type",
}
