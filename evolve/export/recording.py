"""What the host function launches beside a real GPU, written down as the judge's jail wrote it, and held against that.

Judging is over here, so the candidate's own Python may run beside the GPU: it is what the user will run. That it does
then what it did in the jail, on tensors without data, is shown and not assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

from evolve.judge.jailed.host import ALLOCATES, ZEROES, unwatched
from evolve.judge.jailed.lowering import results
from evolve.judge.jailed.recorder import Modules, Recorder
from evolve.judge.jailed.triton_glue import Lowering
from evolve.judge.lower import described
from evolve.problem import Problem
from evolve.types import Scalar, Workload

Json = Any
PARTS = ("roots", "outputs")
RESERVED = "NUM_SMS"


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Everything runs; what is allocated is told to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in ALLOCATES or name in ZEROES:
            with unwatched():
                self.recorder.allocate(made, name in ZEROES)
        return made


def plan_of_call(
    host: Any, problem: Problem, workload: Workload, arguments: Sequence[Any], parameters: Mapping[str, Scalar]
) -> dict[str, Json]:
    """The launches of one call of the exported host function, which do happen."""
    recorder = Recorder(Modules(_lowering()))
    positions = [i for i, a in enumerate(problem.arguments) if a.role != "out"]
    for position, value in zip(positions, arguments, strict=True):
        if isinstance(value, torch.Tensor):
            recorder.argument(value, position)
    own = JITFunction.run

    def both(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        recorder.launch(kernel, *args, grid=grid, **kwargs)
        with unwatched():
            return own(kernel, *args, grid=grid, warmup=warmup, **kwargs)

    JITFunction.run = both
    try:
        with _Allocations(recorder):
            result = host.call(arguments, parameters)
    finally:
        JITFunction.run = own
    names = [a.name for a in problem.arguments if a.role != "out"]
    specs = described(problem, workload)["outputs"]
    outputs = results(result, specs, [None] * len(specs), dict(zip(names, arguments, strict=True)))
    shown = {k: v for k, v in parameters.items() if k != RESERVED}
    return dict(recorder.plan(workload.name, shown, outputs))


def _lowering() -> Lowering:
    from triton.runtime import driver

    target = driver.active.get_current_target()
    return Lowering(target.backend, target.arch, target.warp_size)


def difference(found: Mapping[str, Json], judged: Mapping[str, Json]) -> str:
    """In what a call's launches differ from the judged plan's; nothing if they do not."""
    ours, theirs = _plain(found), _plain(judged)
    if len(ours["launches"]) != len(theirs["launches"]):
        return f"it launches {len(ours['launches'])} kernels, and was judged with {len(theirs['launches'])}"
    for number, (mine, yours) in enumerate(zip(ours["launches"], theirs["launches"], strict=True)):
        part = next((key for key in yours if mine.get(key) != yours[key]), None)
        if part is not None:
            return f"launch {number} ({yours['kernel']}): its {part} is {mine.get(part)}, and was {yours[part]}"
    part = next((key for key in PARTS if ours[key] != theirs[key]), None)
    return f"its {part} are {ours[part]}, and were {theirs[part]}" if part else ""


def _plain(plan: Mapping[str, Json]) -> dict[str, Json]:
    """As JSON has it. Who gave an output its memory is all that may differ: the package allocates it itself."""
    made: dict[str, Json] = json.loads(json.dumps(dict(plan)))
    made["roots"] = sorted(
        ({**r, "argument": None if r["kind"] == "output" else r["argument"]} for r in made["roots"]),
        key=lambda r: str(r["name"]),
    )
    return made
