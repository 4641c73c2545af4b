"""The child's way: import both files, run both functions, conclude, answer. `python -m evolve.adopt.child.observing`
with the order on its standard input and the answer's file as its argument.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from evolve.adopt import own
from evolve.adopt.child import bounds, facts, roles, standin, workloads
from evolve.adopt.child.running import Runner
from evolve.adopt.child.words import Refused, Trial
from evolve.adopt.child.workloads import Smaller
from evolve.judge.targets import find
from evolve.types import Json, Scalar, Workload


def observed(order: Mapping[str, Any]) -> dict[str, Json]:
    device = order["device"]
    if device == "cpu":
        standin.install(find(order["target"]))
    kernel = _loaded(order["kernel"], device)
    reference = _loaded(order["reference"], device)
    function = _function(kernel, order["kernel"], order["function"])
    found = facts.of(kernel)
    configurations = _Configurations(kernel)
    configurations.first()
    runner = Runner(reference, function, _function(reference, order["reference"], order["reference_function"]), device)
    timed = [w for w in workloads.given(reference) if w.role == "time"]
    try:
        smaller, floats = _smaller(runner, timed[0], device)
    except Refused:
        if device == "cpu":
            raise
        configurations.every()  # the first one may not be for this chip
        smaller, floats = _smaller(runner, timed[0], device)
    trials, best = list(smaller.trials), {}
    if device != "cpu":
        configurations.every()
        trials += _whole(runner, timed, floats)
        best = _best(kernel)
        configurations.first()
    return {
        **found,
        "best": best,
        "signature": facts.signature(function),
        "floats": floats.get(own.FLOATS),
        **_concluded(runner, smaller, trials, floats),
        **_sizes(runner, timed, smaller),
    }


def _loaded(path: str, device: str) -> ModuleType:
    try:
        return standin.module(Path(path), f"own_{Path(path).stem}") if device == "cpu" else own.module(Path(path))
    except (Exception, SystemExit) as error:  # a user's file may raise anything; the sentence names it
        line = next((f":{f.lineno}" for f in reversed(_frames(error)) if f.filename == path), "")
        raise Refused(f"{path}{line}: does not load: {type(error).__name__}: {error}.") from error


def _frames(error: BaseException) -> Any:
    import traceback

    return traceback.extract_tb(error.__traceback__)


def _function(module: ModuleType, path: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        there = ", ".join(
            n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
        )
        raise Refused(f"{path}: there is no {name}; it has {there or 'no function'}.")
    if hasattr(found, "arg_names") or hasattr(found, "configs"):
        raise Refused(f"{path}: {name} is a kernel; name the function that launches it, which you call today.")
    if not inspect.isfunction(found):
        kind = "a method of an autograd function" if inspect.ismethod(found) else f"a {type(found).__name__}"
        raise Refused(f"{path}: {name} is {kind}; name a plain function that allocates and launches.")
    return found


class _Configurations:
    """Of every autotuner in the file: the first one for trying things out, all of them where the choice matters. Each
    new size would otherwise be tuned for, which takes minutes."""

    def __init__(self, module: ModuleType) -> None:
        self._all: list[tuple[Any, Any]] = []
        for value in vars(module).values():
            kernel = value
            while hasattr(kernel, "fn"):
                if hasattr(kernel, "configs"):
                    self._all.append((kernel, kernel.configs))
                kernel = kernel.fn

    def first(self) -> None:
        for kernel, configs in self._all:
            kernel.configs = configs[:1]

    def every(self) -> None:
        for kernel, configs in self._all:
            kernel.configs = configs


def _best(module: ModuleType) -> dict[str, Json]:
    """What each autotuner chose for the workload that ran last: the first that the user names."""
    return {
        name: {**value.best_config.kwargs, **{o: getattr(value.best_config, o, None) for o in facts.OPTIONS}}
        for name, value in vars(module).items()
        if hasattr(value, "configs") and getattr(value, "best_config", None) is not None
    }


def _smaller(runner: Runner, timed: Workload, device: str) -> tuple[Smaller, dict[str, Scalar]]:
    """On the CPU bfloat16 runs as float16, which the interpreter computes rightly, if the original takes it."""
    choices: list[dict[str, Scalar]] = [{own.FLOATS: "bfloat16"}]
    if device == "cpu":
        choices.insert(0, {own.FLOATS: "float16"})
    if not _has_bfloat16(runner, timed):
        choices = [{}]
    for floats in choices:
        smaller = Smaller(runner, floats)
        try:
            smaller.find(timed)
        except Refused:
            if floats is choices[-1]:
                raise
        else:
            return smaller, floats
    raise AssertionError


def _has_bfloat16(runner: Runner, timed: Workload) -> bool:
    made = runner.given(timed, 1, "meta")
    return any(isinstance(v, torch.Tensor) and v.dtype == torch.bfloat16 for v in made.values())


def _whole(runner: Runner, timed: list[Workload], floats: Mapping[str, Scalar]) -> list[Trial]:
    """At the sizes that matter, where there is a GPU."""
    bound = [Workload(name=w.name, params={**floats, **w.params}) for w in reversed(timed)]
    return [runner.run(w) for w in bound]


def _concluded(runner: Runner, smaller: Smaller, trials: list[Trial], floats: Mapping[str, Scalar]) -> dict[str, Json]:
    rows, fixed = roles.arguments(trials, runner)
    outputs = roles.outputs(trials, rows)
    exact = floats.get(own.FLOATS) == "bfloat16" and runner.device == "cpu"
    bounds.comparators(trials, outputs, rows, interpreted=runner.device == "cpu", dots=_dots(runner.original))
    small = sorted(
        smaller.trials, key=lambda t: sum(v.numel() for v in t.given.values() if isinstance(v, torch.Tensor))
    )
    families, left_out = (["given"], {}) if exact else bounds.families(runner, small, outputs, rows)
    _follow(runner, smaller, outputs, floats)
    assert runner.call is not None
    return {
        "arguments": rows,
        "fixed": fixed,
        "outputs": outputs,
        "reference": {"arguments": dict(runner.call.reference), "narrow": any(t.narrow for t in trials)},
        "names": runner.names,
        "call": [*runner.call.names, *runner.call.missing],
        "families": families,
        "left_out": left_out,
        "notes": [*_instead(runner.device, floats, outputs), *smaller.notes],
    }


def _instead(device: str, floats: Mapping[str, Scalar], outputs: list[Json]) -> list[str]:
    """What the interpreter could not run as it is."""
    if device != "cpu":
        return []
    said = {
        "float16": "bfloat16 ran as float16 here, because Triton's interpreter computes it wrongly; "
        "a GPU judges bfloat16",
        "bfloat16": "the original takes bfloat16 only, which Triton's interpreter computes wrongly: "
        "it can be judged on a GPU only",
    }
    notes = [said[str(floats[own.FLOATS])]] if floats else []
    coarse = [o["name"] for o in outputs if o["dtype"].startswith("float8")]
    if coarse:
        notes.append(
            f"{', '.join(coarse)}: Triton's interpreter flushes float8's subnormals to zero, so codes may be 8 steps "
            "apart here; on a GPU one"
        )
    return notes


def _dots(function: Any) -> bool:
    """Whether the file multiplies in tf32, as tl.dot does in float32 unless it is told otherwise."""
    text = Path(inspect.getfile(function)).read_text(encoding="utf-8")
    return ".dot(" in text and "ieee" not in text and "allow_tf32=False" not in text


def _follow(runner: Runner, smaller: Smaller, outputs: list[Json], floats: Mapping[str, Scalar]) -> None:
    """Which outputs have the inputs' half precision, whichever that is."""
    if not floats:
        return
    here = floats[own.FLOATS]
    candidates = [o for o in outputs if o["dtype"] == here]
    if runner.device == "cpu":  # float16 in place of bfloat16: what is float16 now followed
        follow = candidates if here == "float16" else []
    else:
        params = {k: v for k, v in smaller.trials[0].workload.params.items() if k != own.FLOATS}
        other = Smaller(runner, {own.FLOATS: "float16"})
        other.trials = smaller.trials  # what it disagrees with, and that something has run
        trial = other.attempt("stand_in", params)
        follow = []
        if isinstance(trial, Trial):
            follow = [o for o in candidates if own.dtype_name(roles.tensor_of(o, trial)) == "float16"]
    for output in follow:
        output["dtype"] = own.FLOATS


def _sizes(runner: Runner, timed: list[Workload], smaller: Smaller) -> dict[str, Json]:
    every = workloads.given(runner.file)
    more = [w for w in every if w.role != "time"]
    if not more:
        more = list(workloads.derived(timed, smaller.odd))
        if runner.device != "cpu":
            more = [w for w in more if isinstance(smaller.attempt(w.name, w.params), Trial)]
    return {
        "derived": len(every) == len(timed),
        "workloads": workloads.rows([*timed, *more]),
        "interpreted": workloads.rows([t.workload for t in smaller.trials]),
    }


def main() -> None:
    order = json.loads(sys.stdin.read())
    answer: dict[str, Json]
    try:
        answer = observed(order)
    except Refused as refused:
        answer = {"refused": str(refused)}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # a user's file may have left threads


if __name__ == "__main__":
    main()
