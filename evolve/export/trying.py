"""What the trial process does once the package is imported: check, compare launches, time. See `trial.py`."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from evolve.judge.gpu import answers
from evolve.judge.gpu.facts import workload_of
from evolve.judge.inputs import families
from evolve.problem import Problem, TensorSpec, Variant, load_problem
from evolve.types import Workload

Json = Any
Call = Callable[..., Any]
FIRST_SEED = 7919


def run(order: Json, found: dict[str, Json], save: Callable[[], Any]) -> None:
    problem = load_problem(order["problem"])
    variant = problem.variant(order["variant"])
    module = importlib.import_module(order["name"])
    found |= {"torch": torch.__version__, "python": platform.python_version(), "workloads": {}}
    save()
    if not torch.cuda.is_available():
        _without_gpu(order, found, problem, variant, module)
    else:
        from evolve.export.trying_gpu import on_gpu

        on_gpu(order, found, problem, variant, module, save)
    found["state"] = "done"
    save()


def _without_gpu(order: Json, found: dict[str, Json], problem: Problem, variant: Variant, module: Any) -> None:
    """The library's answers through the function and the operator, on the small workloads."""
    dispatch = importlib.import_module(f"{order['name']}._dispatch")
    chosen = problem.variant(variant.stand_in) if variant.stand_in else variant
    for workload in problem.small(variant):
        arguments = problem.make_inputs(workload, "cpu", FIRST_SEED)
        public = getattr(module, problem.entry)
        try:
            rows = [checked(problem, chosen, workload, f, arguments, "given") for f in (public, dispatch.OPERATOR)]
        except (RuntimeError, TypeError, ValueError) as error:
            if not problem.parts:
                raise
            found["library"] = f"what was adopted is a kernel and needs a GPU ({type(error).__name__}: {error})"[:300]
            return
        found["workloads"][workload.name] = {"cases": rows}


def checked(
    problem: Problem,
    variant: Variant,
    workload: Workload,
    call: Call,
    arguments: Sequence[Any],
    family: str,
    times: int = 1,
) -> dict[str, Json]:
    """One call's answer held against the reference, as the judge holds it. Of several calls it is the last one's: a
    package records the first of its kind and replays it from then on."""
    roles = [a.role for a in problem.arguments if a.role != "out"]
    made: tuple[Any, ...] = ()
    for _ in range(times):
        copies = [a.clone() if r == "in_out" else a for a, r in zip(arguments, roles, strict=True)]
        made = outputs_of(call(*copies), problem.outputs(workload), answers.named(problem, copies))
    reference = answers.reference_of(problem, workload, arguments)
    rival = next((b for b in problem.baselines if not b.compiles and b.unavailable(workload) is None), None)
    held = answers.hold(
        problem,
        variant,
        workload,
        made,
        reference,
        arguments,
        family=family,
        baseline=partial(answers.call, problem, workload, rival, arguments),
    )
    return {"family": family, "worst": answers.worst(held), "wrong": answers.wrong(held)}


def outputs_of(made: Any, specs: Sequence[TensorSpec], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    """In the problem's order: a package returns what it does not write into its arguments."""
    returned = iter(made if isinstance(made, list | tuple) else [made])
    return tuple(
        arguments[s.argument] if s.argument is not None and s.argument in arguments else next(returned) for s in specs
    )


def every(order: Json) -> list[Workload]:
    return [workload_of(w) for w in order["workloads"]]


def kinds(problem: Problem, workload: Workload) -> list[str]:
    """As the judge: everything on what is checked, two kinds at timed sizes."""
    known = list(families(problem))
    return known if workload.role != "time" else [f for f in ("given", "mixed") if f in known]
