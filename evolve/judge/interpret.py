"""The cpu backend's check: the candidate runs under Triton's interpreter, in a jail, and its bytes are judged here.

Small workloads, the parameters' defaults, every family of inputs spread over them. The interpreter is Python on raw
memory: the host function and the kernel run in the jail between guard bands, the reference and the comparison run
here. It computes bfloat16 wrongly and in silence, so such a variant is checked as its stand-in, and the evidence says
so. Not seen here: races, alignment, shared memory, anything that only a GPU does; nor tiles other than the defaults.
"""

from __future__ import annotations

import ast
import base64
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from evolve.errors import MachineryError
from evolve.judge import compare, inputs
from evolve.judge.counted import told, work_factor
from evolve.judge.jail import Jail
from evolve.judge.lower import argument, described
from evolve.judge.stages import Ruling, Screened
from evolve.problem import Problem, Variant
from evolve.syntax import parse
from evolve.types import NOTHING, Json, Scalar, Verdict, Workload

TASK = "evolve.judge.jailed.interpreting:interpret"
STAGE = "check"
POISONS = (0xFF, 0x7B)  # NaN in every float format, and something large but finite
NUM_SMS = 12  # enough programs that a persistent kernel has several, few enough to be quick


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One run: which inputs, what it is compared with."""

    workload: Workload
    family: str
    poison: int
    arguments: tuple[Any, ...]
    twin: int | None = None  # an earlier run on the same inputs: the answers must be equal
    differs: int | None = None  # an earlier run on inputs that differ in one element: so must the answers

    @property
    def said(self) -> str:
        sizes = ", ".join(f"{k}={v}" for k, v in self.workload.params.items())
        return f"Workload {self.workload.name} ({sizes}), {inputs.SAID[self.family]}"


@dataclass(frozen=True, kw_only=True)
class _Ran:
    outputs: tuple[torch.Tensor, ...]
    changed: tuple[str, ...]
    outside: tuple[str, ...]
    counts: Mapping[str, float]


@dataclass
class _Worst:
    """Error over bound by workload, and by family for the evidence."""

    by_workload: dict[str, float] = field(default_factory=dict)
    rows: list[Json] = field(default_factory=list)

    def note(self, case: _Case, finding: compare.Finding) -> None:
        name = case.workload.name
        self.by_workload[name] = max(self.by_workload.get(name, 0.0), finding.ratio)
        self.rows.append([name, case.family, finding.output, finding.error, finding.bound])


def check(
    jail: Jail,
    screened: Screened,
    problem: Problem,
    variant: Variant,
    *,
    random_seeds: Sequence[int],
    parameters: Mapping[str, Scalar] = NOTHING,
) -> tuple[dict[str, float], dict[str, Json]]:
    """Worst error over bound by workload, and the evidence. `jail` is one that interprets."""
    usable()
    _refuse_libdevice(screened.source)
    judged = problem.variant(variant.stand_in) if variant.stand_in else variant
    cases = _cases(problem, variant, judged, random_seeds)
    ran = _run(jail, screened, problem, cases, {**screened.defaults, **parameters})
    worst = _Worst()
    references: list[dict[str, torch.Tensor]] = []
    for case, result in zip(cases, ran, strict=True):
        references.append(reference_of(problem, case.workload, case.arguments))
        _judge(problem, judged, case, result, references[-1], worst)
        if case.twin is not None:
            _agree(judged, case, result, ran[case.twin], worst)
        if case.differs is not None and _same(result.outputs, ran[case.differs].outputs):
            _stuck(case, result, references[-1], references[case.differs], worst)
    evidence: dict[str, Json] = {
        "interpreter": True,
        "checked_as": judged.name,
        "runs": len(cases),
        "cases": worst.rows,
        **_counted(problem, cases, ran),
    }
    if judged is not variant:
        evidence["note"] = f"{variant.name} was checked as {judged.name}: the interpreter computes it wrongly."
    return worst.by_workload, evidence


def _counted(problem: Problem, cases: Sequence[_Case], ran: Sequence[_Ran]) -> dict[str, Json]:
    """What the kernels did, by workload, and what that is of the problem's own work."""
    first = {c.workload.name: (c.workload, r.counts) for c, r in reversed(list(zip(cases, ran, strict=True)))}
    factor = work_factor(problem, list(first.values()))
    return {"counted": {name: dict(counts) for name, (_, counts) in first.items()}, "work_factor": factor}


def usable() -> None:
    """Triton up to 3.6 meets numpy 2.4 and later with an error in every kernel; nobody's candidate is to blame."""
    triton, numpy = (tuple(int(p) for p in version(n).split(".")[:2]) for n in ("triton", "numpy"))
    if triton <= (3, 6) and numpy >= (2, 4):
        raise MachineryError(
            f"Triton {version('triton')} cannot interpret with numpy {version('numpy')}; install numpy below 2.4 "
            '(`pip install "numpy<2.4"`) or triton 3.7.'
        )


def _refuse_libdevice(source: str) -> None:
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "libdevice":
            feedback = f"Triton's interpreter cannot run libdevice.{node.attr}; a GPU can. Use an operation of tl here."
            raise Ruling(Verdict.REJECTED, feedback, stage=STAGE)


# --- What is run ----------------------------------------------------------------------------------------------------


def _cases(problem: Problem, variant: Variant, judged: Variant, random_seeds: Sequence[int]) -> list[_Case]:
    """Each family on one of the workloads, in an order of the seed's. One of them, nobody knows which, runs twice over
    differently poisoned memory on the problem's own inputs, and once more with one element changed."""
    rng = random.Random(repr(tuple(random_seeds)))
    workloads = problem.small(variant)
    if not workloads:
        raise MachineryError(f"{problem.name}: no `interpreted` workloads; without a GPU nothing can be checked.")
    families = [f for f in inputs.families(problem) if f != "given"]
    rng.shuffle(families)
    chosen = rng.randrange(len(workloads))
    cases: list[_Case] = []
    for position, workload in enumerate(workloads):
        if position == chosen:
            cases += _thrice(problem, judged, workload, len(cases), rng)
        for family in families[position :: len(workloads)] or [families[position % len(families)]]:
            made = _filled(problem, judged, workload, family, rng.randrange(2**31))
            cases.append(_Case(workload=workload, family=family, poison=rng.choice(POISONS), arguments=made))
    return cases


def _thrice(problem: Problem, judged: Variant, workload: Workload, first: int, rng: random.Random) -> list[_Case]:
    seed = rng.randrange(2**31)
    made = [_filled(problem, judged, workload, "given", seed) for _ in range(3)]
    return [
        _Case(workload=workload, family="given", poison=POISONS[0], arguments=made[0]),
        _Case(workload=workload, family="given", poison=POISONS[1], arguments=made[1], twin=first),
        _Case(
            workload=workload,
            family="given",
            poison=POISONS[0],
            arguments=_nudged(problem, made[2], rng),
            differs=first,
        ),
    ]


def _roles(problem: Problem) -> list[str]:
    return [a.role for a in problem.arguments if a.role != "out"]


def _filled(problem: Problem, judged: Variant, workload: Workload, family: str, seed: int) -> tuple[Any, ...]:
    made = problem.make_inputs(workload, "cpu", seed)
    return inputs.fill(made, _roles(problem), family, seed, allows=judged.allows)


def _nudged(problem: Problem, arguments: tuple[Any, ...], rng: random.Random) -> tuple[Any, ...]:
    """One secret element changed by much: an answer from memory would stay the same."""
    for tensor, role in zip(arguments, _roles(problem), strict=True):
        if role == "value" and isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
            at = tuple(rng.randrange(size) for size in tensor.shape)
            tensor[at] = tensor[at] + 8 * tensor.float().square().mean().sqrt() + 1
            break
    return arguments


def _run(
    jail: Jail, screened: Screened, problem: Problem, cases: Sequence[_Case], parameters: Mapping[str, Scalar]
) -> list[_Ran]:
    storages: dict[str, str] = {}
    filled = {**parameters, **({"NUM_SMS": NUM_SMS} if "NUM_SMS" in screened.reserved else {})}
    told = {c.workload.name: described(problem, c.workload) for c in cases}
    runs = [_order(case, told[case.workload.name], filled, storages, i) for i, case in enumerate(cases)]
    payload = {"source": screened.source, "entry": screened.entry, "runs": runs, "storages": storages}
    try:
        raw = jail.run(TASK, payload, stage=STAGE)
    except Ruling as ruling:
        raise Ruling(
            ruling.verdict, f"Interpreted: {ruling.feedback}", stage=STAGE, evidence=ruling.evidence
        ) from ruling
    answers = json.loads(raw)
    try:
        return [_read(answer, run["outputs"]) for answer, run in zip(answers, runs, strict=True)]
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        feedback = "The interpreted run answered with something that is not the outputs' bytes."
        raise Ruling(Verdict.RUNTIME_ERROR, feedback, stage=STAGE) from error


def _order(
    case: _Case, told: Mapping[str, Json], parameters: Mapping[str, Scalar], storages: dict[str, str], index: int
) -> dict[str, Json]:
    arguments = []
    for facts, value in zip(told["arguments"], case.arguments, strict=True):
        own = {**facts, **argument(value)}
        if isinstance(value, torch.Tensor):
            own["storage"] = f"{index}/{own['storage']}"
            storages.setdefault(own["storage"], _packed(value))
        arguments.append(own)
    return {
        "said": case.said,
        "arguments": arguments,
        "outputs": told["outputs"],
        "parameters": dict(parameters),
        "poison": case.poison,
    }


def _packed(tensor: torch.Tensor) -> str:
    raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return base64.b64encode(raw.numpy().tobytes()).decode()


def _read(answer: Mapping[str, Json], specs: Sequence[Mapping[str, Json]]) -> _Ran:
    """The jail's claim, by the judge's own knowledge of shapes and dtypes."""
    outputs = []
    for data, spec in zip(answer["outputs"], specs, strict=True):
        dtype = getattr(torch, spec["dtype"])
        raw = bytearray(base64.b64decode(data, validate=True))
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        outputs.append(flat.reshape(spec["shape"]))
    changed, outside = (tuple(str(x)[:200] for x in answer[k][:16]) for k in ("changed", "outside"))
    return _Ran(outputs=tuple(outputs), changed=changed, outside=outside, counts=told(answer.get("counts")))


# --- What it is worth -----------------------------------------------------------------------------------------------


def _judge(
    problem: Problem,
    judged: Variant,
    case: _Case,
    result: _Ran,
    references: Mapping[str, torch.Tensor],
    worst: _Worst,
) -> None:
    read_only = [a.name for a in problem.arguments if a.role in ("value", "index")]
    changed = [n for n in result.changed if n in read_only]
    if changed:
        raise _wrong(case, f"the kernel changes its input {changed[0]}; inputs must be left as they are.", worst)
    if result.outside:
        raise _wrong(case, f"it writes outside its tensors: {result.outside[0]}. Check the store's mask.", worst)
    for out, (name, ref) in zip(result.outputs, references.items(), strict=True):
        finding = compare.compare(
            name, judged.comparators[name], out, ref, family=case.family, inputs=case.arguments, references=references
        )
        worst.note(case, finding)
        if not finding.ok:
            raise _wrong(case, finding.sentence, worst)
    for finding in _kept(problem, case, result, references):
        if not finding.ok:
            raise _wrong(case, finding.sentence, worst)


def _kept(problem: Problem, case: _Case, result: _Ran, references: Mapping[str, torch.Tensor]) -> list[compare.Finding]:
    """In-place arguments: what the reference leaves alone."""
    given = dict(zip((a.name for a in problem.arguments if a.role != "out"), case.arguments, strict=True))
    specs = problem.outputs(case.workload)
    return [
        compare.untouched(spec.name, given[spec.argument], out, references[spec.name])
        for spec, out in zip(specs, result.outputs, strict=True)
        if spec.argument in given
    ]


def reference_of(problem: Problem, workload: Workload, arguments: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The problem's reference in float64, by output name."""
    roles = _roles(problem)
    wide = [_widened(value, role) for value, role in zip(arguments, roles, strict=True)]
    result = problem.reference(*wide)
    specs = problem.outputs(workload)
    if result is None:  # one that works in place
        by_name = dict(zip((a.name for a in problem.arguments if a.role != "out"), wide, strict=True))
        result = tuple(by_name[s.argument or s.name] for s in specs)
    found = tuple(result) if isinstance(result, tuple | list) else (result,)
    return {spec.name: ref for spec, ref in zip(specs, found, strict=True)}


def _widened(value: Any, role: str) -> Any:
    if isinstance(value, torch.Tensor) and role in ("value", "in_out"):
        return value.to(torch.float64) if value.is_floating_point() else value.clone()
    return value


def _agree(judged: Variant, case: _Case, result: _Ran, other: _Ran, worst: _Worst) -> None:
    """The same inputs over memory that held something else before."""
    for out, again in zip(result.outputs, other.outputs, strict=True):
        if judged.repeat and out.is_floating_point():
            if compare.norm_error(out, again.to(torch.float64)) <= judged.repeat:
                continue
        elif torch.equal(out.contiguous().view(-1).view(torch.uint8), again.contiguous().view(-1).view(torch.uint8)):
            continue
        reason = "two runs on the same inputs differ: the answer depends on what its memory held before."
        raise _wrong(case, reason, worst)


def _same(these: Sequence[torch.Tensor], those: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(these, those, strict=True))


def _stuck(
    case: _Case,
    result: _Ran,
    references: Mapping[str, torch.Tensor],
    others: Mapping[str, torch.Tensor],
    worst: _Worst,
) -> None:
    """The answer did not move with the input. Wrong only where the right one does, after rounding."""
    rounded = [
        [ref.to(o.dtype) for ref, o in zip(x.values(), result.outputs, strict=True)] for x in (references, others)
    ]
    if not _same(*rounded):
        raise _wrong(case, "one element of the input was changed and the answer stayed the same.", worst)


def _wrong(case: _Case, sentence: str, worst: _Worst) -> Ruling:
    errors = dict(worst.by_workload)
    return Ruling(
        Verdict.INCORRECT,
        f"{case.said}: {sentence}",
        stage=STAGE,
        evidence={"cases": worst.rows},
        errors=errors,
    )
