"""The task "lower": call the entry on meta tensors for each point, and answer with launch plans and TTIR.

Shapes, dtypes and strides come with the payload; the problem's file is not known here, nor is any workload that was
not asked for. The answer is the JSON of `evolve.judge.plan.Lowered`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evolve.judge.jailed import candidate
from evolve.judge.jailed.host import watched
from evolve.judge.jailed.recorder import Modules, Recorder
from evolve.judge.jailed.triton_glue import JITFunction, Lowering
from evolve.judge.jailed.words import Fault

Json = Any


def lower(payload: Mapping[str, Json]) -> Json:
    """In the payload's order, answered in the order of the points' indices: the judge shuffles to catch a candidate
    whose plan for one workload depends on those it was asked for before."""
    modules = Modules(Lowering(**payload["target"]))
    function = candidate.load(payload["source"], payload["entry"])
    plans: dict[int, Json] = {}
    for point in payload["points"]:
        try:
            plans[point["index"]] = _plan(function, modules, point)
        except Fault as fault:
            if not payload["skip"]:
                fault.args = (f"Workload {point['workload']}: {fault}",)
                raise
    return {"plans": [plans[i] for i in sorted(plans)], "modules": _needed(modules.texts, plans.values())}


def _needed(texts: Mapping[str, str], plans: Any) -> dict[str, str]:
    wanted = {launch["ttir"] for plan in plans for launch in plan["launches"]}
    return {digest: texts[digest] for digest in sorted(wanted)}


def _plan(function: Callable[..., Any], modules: Modules, point: Mapping[str, Json]) -> Json:
    recorder = Recorder(modules)
    storages: dict[int, torch.UntypedStorage] = {}
    arguments = [_made(a, storages) for a in point["arguments"]]
    for tensor, a in zip(arguments, point["arguments"], strict=True):
        if isinstance(tensor, torch.Tensor):
            recorder.argument(tensor, a["position"])
    given = _given(function, point, len(arguments), recorder)
    JITFunction.run = recorder.launch_method()
    with watched("meta", recorder.allocate):
        result = candidate.call(function, arguments, [t for t in given if t is not None], point["parameters"])
    by_name = {a["name"]: t for a, t in zip(point["arguments"], arguments, strict=True)}
    outputs = results(result, point["outputs"], given, by_name)
    return recorder.plan(point["workload"], point["shown"], outputs)


def _made(facts: Mapping[str, Json], storages: dict[int, torch.UntypedStorage]) -> Any:
    """One argument: a number, or a meta tensor that lies in its storage as the problem's own does."""
    if "scalar" in facts:
        return facts["scalar"]
    dtype = getattr(torch, facts["dtype"])
    key = facts["storage"]
    if key not in storages:
        storages[key] = torch.empty(facts["nbytes"], dtype=torch.uint8, device="meta").untyped_storage()
    empty = torch.empty(0, dtype=dtype, device="meta")
    return empty.set_(storages[key], facts["offset"], facts["shape"], facts["stride"])


def _given(
    function: Callable[..., Any], point: Mapping[str, Json], inputs: int, recorder: Recorder
) -> list[torch.Tensor | None]:
    """Buffers for the outputs, if the entry takes some: all that are not written into an argument."""
    loose = [i for i, o in enumerate(point["outputs"]) if not o["in_place"]]
    given: list[torch.Tensor | None] = [None] * len(point["outputs"])
    if candidate.takes(function) == inputs + len(loose) and loose:
        for i in loose:
            facts = point["outputs"][i]
            dtype = getattr(torch, facts["dtype"])
            given[i] = tensor = torch.empty_strided(facts["shape"], facts["stride"], dtype=dtype, device="meta")
            recorder.given_output(tensor, i, facts["position"])
    return given


def results(
    result: Any,
    specs: Sequence[Mapping[str, Json]],
    given: Sequence[torch.Tensor | None],
    arguments: Mapping[str, Any],
) -> list[torch.Tensor]:
    """The outputs in the problem's order: given buffers and in-place arguments as they are, the rest as returned."""
    fixed = [given[i] if given[i] is not None else _in_place(s, arguments) for i, s in enumerate(specs)]
    loose = [i for i, tensor in enumerate(fixed) if tensor is None]
    returned = [] if result is None else list(result) if isinstance(result, tuple | list) else [result]
    if len(returned) == len(specs):
        returned = [returned[i] for i in loose]
    if len(returned) != len(loose) and loose:
        raise Fault(f"The entry returns {len(returned)} outputs; the problem has {len(loose)} to return.")
    for i, tensor in zip(loose, returned, strict=False):
        fixed[i] = tensor
    return [_checked(tensor, spec) for tensor, spec in zip(fixed, specs, strict=True)]


def _in_place(spec: Mapping[str, Json], arguments: Mapping[str, Any]) -> torch.Tensor | None:
    return arguments[spec["argument"]] if spec["in_place"] else None


def _checked(tensor: Any, spec: Mapping[str, Json]) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise Fault(f"Output {spec['name']} is a {type(tensor).__name__}; expected a tensor.")
    found = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    expected = f"{spec['dtype']}{list(spec['shape'])}"
    if found != expected:
        raise Fault(f"Output {spec['name']} is {found}; expected {expected}.")
    return tensor
