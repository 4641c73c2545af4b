"""The trial on a GPU: each workload checked, its launches compared with the judged plan, and timed. See `trial.py`.

The table of the draft is set aside: the kernel is forced, at the parameters that are to be verified, through the public
function. What the kernel does not take is written down as the library's.
"""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from evolve.export import recording, timing
from evolve.export.trying import checked, every, kinds
from evolve.judge.gpu import answers
from evolve.problem import Problem, Variant
from evolve.types import Workload

Json = Any


def on_gpu(
    order: Json, found: dict[str, Json], problem: Problem, variant: Variant, module: Any, save: Callable[[], Any]
) -> None:
    dispatch: Any = importlib.import_module(f"{order['name']}._dispatch")
    found |= {"device": torch.cuda.get_device_name(), "triton": dispatch._choice.triton_version()}
    found["autocast"] = autocast(problem, variant, dispatch)
    dispatch._choice.FORCE = "kernel"
    for candidate in order["candidates"]:
        trial = Trial(problem, variant, module, dispatch, candidate)
        rows: dict[str, Json] = {}
        found["candidates"] = {**found.get("candidates", {}), candidate["kernels"]: rows}
        workloads = every(order)
        for number, workload in enumerate(workloads, 1):
            print(f"{candidate['kernels']}: trying {workload.name}, {number} of {len(workloads)} workloads", flush=True)
            rows[workload.name] = trial.of(workload)
            found["workloads"][f"{candidate['kernels']}, {workload.name}"] = rows[workload.name]
            save()
            torch.cuda.empty_cache()


def autocast(problem: Problem, variant: Variant, dispatch: Any) -> list[str]:
    """For which dtypes rounding the inputs first gives what the library gives under autocast, by dtype and shape."""
    workload = min(problem.of_role("check", variant) or problem.of_role("time", variant), key=problem.bytes_moved)
    wanted = [spec.dtype for spec in problem.outputs(workload)]
    dtype = next((d for d in dispatch.TABLE.spec["dtypes"][0] if d in ("bfloat16", "float16")), None)
    if dtype is None:
        return []
    made = problem.make_inputs(workload, "cuda", 1)
    raised = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in made]
    try:
        with torch.autocast("cuda", dtype=getattr(torch, dtype)):
            result = dispatch.LIBRARY(*raised)
    except (RuntimeError, TypeError, ValueError):
        return []
    listed = result if isinstance(result, list | tuple) else [result]
    return [dtype] if [str(t.dtype).removeprefix("torch.") for t in listed] == wanted else []


@contextmanager
def _taking(row: dict[str, Json], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    row["seconds"][what] = round(time.perf_counter() - began, 2)


class Trial:
    """One candidate of the package."""

    def __init__(
        self, problem: Problem, variant: Variant, module: Any, dispatch: Any, candidate: Mapping[str, Json]
    ) -> None:
        self.problem, self.variant, self.dispatch, self.candidate = problem, variant, dispatch, candidate
        self.public = getattr(module, problem.entry)
        dispatch.TABLE.rows = candidate["rows"]
        dispatch.KNOWN.clear()
        dispatch.OPS.clear()

    def of(self, workload: Workload) -> dict[str, Json]:
        arguments = self.problem.make_inputs(workload, "cuda", random.SystemRandom().randrange(1 << 40))
        try:
            choice = self.dispatch.choose(arguments)
        except RuntimeError as why:
            return {"runs": "library", "why": str(why), "cases": []}
        row: dict[str, Json] = {"runs": "kernel", "parameters": dict(choice.parameters), "seconds": {}}
        with _taking(row, "launches"):
            row["launches"] = self._launches(workload, arguments, choice)
        with _taking(row, "cases"):
            row["cases"] = [self._case(workload, family) for family in kinds(self.problem, workload)]
        with _taking(row, "times"):
            if workload.role != "check" and not row["launches"]["difference"]:
                row |= self._times(workload)
        return row

    def _launches(self, workload: Workload, arguments: Sequence[Any], choice: Any) -> dict[str, Json]:
        judged = self.candidate["plans"].get(workload.name)
        host = self.dispatch.host_of(choice.kernels)
        parameters = host.parameters(choice.parameters, arguments[self.dispatch.TABLE.tensors[0]].device)
        made = recording.plan_of_call(host, self.problem, workload, arguments, parameters)
        torch.cuda.synchronize()
        if judged is None:
            return {"count": len(made["launches"]), "difference": "the judge has no plan of this workload"}
        return {"count": len(made["launches"]), "difference": recording.difference(made, judged)}

    def _case(self, workload: Workload, family: str) -> dict[str, Json]:
        seed = random.SystemRandom().randrange(1 << 40)
        arguments = answers.draw(self.problem, self.variant, workload, family, "cuda", seed)
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        row = checked(self.problem, self.variant, workload, self.public, arguments, family, times=2)
        roles = [a.role for a in self.problem.arguments if a.role != "out"]
        kept = all(
            r == "in_out" or not isinstance(a, torch.Tensor) or answers.difference(a, b) == 0
            for a, b, r in zip(arguments, before, roles, strict=True)
        )
        return row if kept else {**row, "wrong": row["wrong"] or "it writes to its inputs"}

    def _times(self, workload: Workload) -> dict[str, Json]:
        sets = timing.sets_of(self.problem, workload)
        calls = {"kernel": self.public, "library": self.dispatch.LIBRARY}
        rival = self._rival(workload)
        graphs = timing.in_graphs({**calls, **rival}, sets)
        eager = timing.eagerly(calls, sets)
        found = {
            "us": graphs["us"]["kernel"],
            "library_us": graphs["us"]["library"],
            "ratio": graphs["ratios"]["library"],
            "eager": {
                "kernel_us": eager["us"]["kernel"],
                "library_us": eager["us"]["library"],
                "ratio": eager["ratio"],
                "host": self._host(sets[0]),
            },
            "calls": graphs["calls"],
            "sets": len(sets),
        }
        for name in rival:
            found["baseline"] = {"name": name, "us": graphs["us"][name], "ratio": graphs["ratios"][name]}
        return {"measured": found}

    def _rival(self, workload: Workload) -> dict[str, Any]:
        """The judge's baseline there, if it is another call than the package's."""
        name = self.candidate["baselines"].get(workload.name)
        found = next((b for b in self.problem.baselines if b.name == name and not b.compiles), None)
        return {} if found is None or found.call is self.problem.fallback else {found.name: found.call}

    def _host(self, arguments: Sequence[Any]) -> dict[str, Json]:
        """Microseconds of the host a call: the function, torch.empty with the bare kernel[grid], and the library."""
        choice = self.dispatch.choose(arguments)
        host = self.dispatch.host_of(choice.kernels)
        device = arguments[self.dispatch.TABLE.tensors[0]].device
        _, record = host.record(arguments, host.parameters(choice.parameters, device))
        return {
            "function_us": timing.host_us(partial(self.public), arguments),
            "bare_us": timing.host_us(timing.bare(record), arguments),
            "library_us": timing.host_us(self.dispatch.LIBRARY, arguments),
            "replayed": self.dispatch.way(arguments) == "replay",
        }
