"""The stage "lower": from a screened source to launch plans and TTIR, in a jail, as text that nobody has to trust.

What is sent in: the source, shapes and strides of the asked workloads, the parameters. What comes out: bounded JSON of
`Lowered`, for the gate to read. Nothing is believed here, and no candidate is imported here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from evolve.judge.jail import Jail, Limits
from evolve.judge.meta import without_data
from evolve.judge.stages import Point, Ruling, Screened, Target
from evolve.problem import Problem, TensorSpec
from evolve.types import Json, Verdict, Workload

TASK = "evolve.judge.jailed.lowering:lower"
STAGE = "lower"
SECONDS, SECONDS_A_POINT, SECONDS_AT_MOST = 20.0, 2.0, 120.0


def lower(
    jail: Jail,
    screened: Screened,
    problem: Problem,
    points: Sequence[Point],
    target: Target,
    *,
    shuffle_seed: int,
    skip_failures: bool = False,
) -> str:
    """Plans in the order of the points. With `skip_failures` a point that fails is left out (the tuner calls it
    infeasible) and only a crash or a limit ends the whole."""
    order = list(range(len(points)))
    random.Random(shuffle_seed).shuffle(order)
    payload = {
        "source": screened.source,
        "entry": screened.entry,
        "target": {"backend": target.backend, "arch": target.arch, "warp_size": target.warp_size},
        "points": [_told(i, points[i], screened, problem, target) for i in order],
        "skip": skip_failures,
    }
    try:
        return jail.run(TASK, payload, stage=STAGE, limits=_limits(jail.limits, len(points)))
    except Ruling as ruling:
        raise _explained(ruling) from ruling


def _limits(limits: Limits, points: int) -> Limits:
    seconds = min(SECONDS_AT_MOST, SECONDS + SECONDS_A_POINT * points, limits.wall_seconds)
    return replace(limits, wall_seconds=seconds, cpu_seconds=min(limits.cpu_seconds, int(seconds) + 1))


def _explained(ruling: Ruling) -> Ruling:
    """What the compiler's C++ side prints goes to the process's stderr, and belongs to the feedback."""
    feedback = ruling.feedback
    if ruling.verdict is Verdict.BUILD_ERROR and ruling.evidence.get("said"):
        feedback = f"{feedback}\n{ruling.evidence['said']}"
    if ruling.verdict is Verdict.TIMEOUT:
        feedback = f"Lowering to TTIR: {feedback} Unroll less, or give static_range fewer turns."
    return Ruling(ruling.verdict, feedback, stage=STAGE, evidence=ruling.evidence)


def _told(index: int, point: Point, screened: Screened, problem: Problem, target: Target) -> Mapping[str, Json]:
    """A point for the jail. `shown` is what the plan is to carry: without NUM_SMS, which is the judge's."""
    reserved = {"NUM_SMS": target.sms} if "NUM_SMS" in screened.reserved else {}
    return {
        "index": index,
        "workload": point.workload.name,
        "shown": dict(point.parameters),
        "parameters": {**point.parameters, **reserved},
        **described(problem, point.workload),
    }


def described(problem: Problem, workload: Workload) -> dict[str, Json]:
    """Arguments and outputs by shape: all that a candidate's host function needs to know."""
    names = [a.name for a in problem.arguments]
    given = [(i, a) for i, a in enumerate(problem.arguments) if a.role != "out"]
    made = without_data(problem, workload)
    arguments = [{"name": a.name, "position": i, **argument(value)} for (i, a), value in zip(given, made, strict=True)]
    inputs = {a.name for _, a in given}
    return {"arguments": arguments, "outputs": [_output(s, names, inputs) for s in problem.outputs(workload)]}


def argument(value: Any) -> dict[str, Json]:
    if not isinstance(value, torch.Tensor):
        return {"scalar": value}
    storage = value.untyped_storage()
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "stride": list(value.stride()),
        "offset": value.storage_offset(),
        "nbytes": storage.nbytes(),
        "storage": storage._cdata,
    }


def _output(spec: TensorSpec, names: Sequence[str], inputs: set[str]) -> dict[str, Json]:
    stride = spec.stride if spec.stride is not None else torch.empty(spec.shape, device="meta").stride()
    name = spec.argument or spec.name
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "stride": list(stride),
        "argument": spec.argument,
        "in_place": spec.argument in inputs,
        "position": names.index(name) if name in names else None,
    }
