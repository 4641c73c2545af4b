"""From what runs showed to roles and outputs: which argument is what, which result answers for which output.

Everything concluded here is written into the problem with its reason, for the user to correct.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evolve.adopt.child.facts import written
from evolve.adopt.child.running import Runner
from evolve.adopt.child.words import Refused, Trial
from evolve.adopt.shapes import Run, fitted
from evolve.judge.compare import norm_error
from evolve.types import Json, Workload

TENSOR = torch.Tensor
MOST = 0.8  # a part that changed which counts as all: rotating by zero changes nothing
APART = 0.2  # relative error above which two float tensors are not meant to be the same


def arguments(trials: Sequence[Trial], runner: Runner) -> tuple[list[Json], dict[str, str]]:
    """Every argument with its role and the reason, in the original's order; and what is fixed: never a tensor, not a
    number, the same in every workload."""
    rows: list[Json] = []
    fixed: dict[str, str] = {}
    first = trials[0].given
    for name, value in first.items():
        if isinstance(value, TENSOR):
            row = {"name": name, "tensor": True, "dtype": _name(value.dtype)}
            rows.append({**row, **_tensor(name, trials, runner)})
        elif isinstance(value, bool | int | float):
            rows.append({"name": name, "tensor": False, "role": "scalar", "why": "a number"})
        else:
            fixed[name] = _fixed(name, value, trials)
    return rows, fixed


def _fixed(name: str, value: Any, trials: Sequence[Trial]) -> str:
    text = written(value)
    if text is None:
        raise Refused(f"argument {name!r} is a {type(value).__name__}; arguments are tensors, numbers, dtypes or None.")
    if any(written(t.given[name]) != text for t in trials):
        raise Refused(f"argument {name!r} is {text} in one workload and something else in another; fix one.")
    return text


def _tensor(name: str, trials: Sequence[Trial], runner: Runner) -> dict[str, Json]:
    touched = [t for t in trials if name in t.changed]
    if touched and all(not t.kept[name] for t in touched):
        return {"role": "out", "why": "written; what it held before does not show", "varied": False}
    value = trials[0].given[name]
    assert runner.call is not None
    if name in runner.call.missing:
        raise Refused(f"{name} gets nothing from make_inputs and is not written like an output; give it there.")
    steady = _steady(name, trials[0].workload, runner)
    if touched:
        part = min(_part(t, name) for t in touched)
        said = "written in place" if part > MOST else "some of it written in place, the rest kept"
        return {"role": "in_out", "why": said, "varied": steady and value.is_floating_point(), "part": part}
    if not value.is_floating_point():
        return {"role": "index", "why": f"{_name(value.dtype)}, only read", "varied": False}
    if not steady:
        return {"role": "value", "why": "floating, only read", "varied": False}
    if bool((value == value.flatten()[0]).all()):
        said = "floating, only read; one number throughout in your file, so it is drawn at random here"
        return {"role": "value", "why": said, "varied": True}
    said = "a table, the same for every seed, so it is not varied; make it value if it is data"
    return {"role": "index", "why": said, "varied": False}


def _steady(name: str, workload: Workload, runner: Runner) -> bool:
    one, two = (runner.given(workload, seed)[name] for seed in (1, 2))
    return torch.equal(one.nan_to_num(), two.nan_to_num())


def _part(trial: Trial, name: str) -> float:
    before, after = trial.given[name], trial.changed[name]
    different = (before != after) & ~((before != before) & (after != after))
    return float(different.float().mean())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- Outputs ----------------------------------------------------------------------------------------------------------


def outputs(trials: Sequence[Trial], rows: Sequence[Json]) -> list[Json]:
    """What is returned, in order, then what is written, each with what the reference has for it."""
    first = trials[0]
    roles = {row["name"]: row["role"] for row in rows}
    told: list[Json] = []
    used: set[tuple[str, Any]] = set()
    for index, value in enumerate(first.returned):
        if isinstance(value, TENSOR):
            told.append({"returned": index, "argument": None})
    written_to = dict.fromkeys(n for t in trials for n in t.changed)
    told += [{"returned": None, "argument": n, "role": roles[n]} for n in roles if n in written_to]
    if not told:
        raise Refused("the function returns no tensor and writes to none of its arguments.")
    for number, output in enumerate(told):
        source = _counterpart(output, first, used)
        used.add(source)
        output["source"] = list(source)
        output["name"] = output["argument"] or _called(number, told)
        output["shape"] = _shape(output, trials, roles)
        output["dtype"] = _name(tensor_of(output, first).dtype)
        output["stride"] = _stride(output, trials)
    _mixed(told)
    return told


def _called(number: int, told: Sequence[Json]) -> str:
    return "out" if sum(t["argument"] is None for t in told) == 1 else f"out{number}"


def _mixed(told: Sequence[Json]) -> None:
    kinds = {"returned" if t["argument"] is None else t["role"] for t in told}
    if {"returned", "out"} <= kinds:
        names = ", ".join(t["argument"] for t in told if t.get("role") == "out")
        raise Refused(
            f"it returns a tensor of its own and fills {names} as well; a candidate either returns its outputs or gets "
            "buffers for all of them. Return all, or take buffers for all."
        )


def tensor_of(output: Json, trial: Trial) -> Any:
    """The output as this run had it."""
    if output["argument"] is None:
        return trial.returned[output["returned"]]
    name = output["argument"]
    return trial.changed.get(name, trial.given[name])


def right_of(output: Json, trial: Trial) -> Any:
    """The reference's word for it."""
    kind, which = output["source"]
    return trial.results[which] if kind == "result" else trial.written[which]


def _counterpart(output: Json, trial: Trial, used: set[tuple[str, Any]]) -> tuple[str, Any]:
    mine = tensor_of(output, trial)
    candidates: list[tuple[float, int, Any, Any]] = []
    pool: list[tuple[tuple[str, Any], Any]] = [(("result", i), r) for i, r in enumerate(trial.results)]
    pool += [(("argument", n), w) for n, w in trial.written.items()]
    for order, (key, right) in enumerate(pool):
        if key not in used and right.shape == mine.shape:
            own_name = key == ("argument", output["argument"])
            candidates.append((-1.0 if own_name else apart(mine, right), order, key, right))
    if not candidates:
        shapes = ", ".join(str(list(r.shape)) for _, r in pool) or "nothing"
        called = output["argument"] or "the returned tensor"
        raise Refused(f"{called} is {list(mine.shape)}, and the reference has no answer to it; it gives {shapes}.")
    *_, key, right = min(candidates, key=lambda c: c[:2])
    if mine.is_floating_point() and apart(mine, right) > APART:
        called = output["argument"] or f"returned tensor {output['returned']}"
        raise Refused(
            f"original and reference disagree on workload {trial.workload.name} ({_sizes(trial.workload)}): {called} "
            f"is off by {apart(mine, right):.2g} of its norm. One of the two is wrong; nothing can be judged by them."
        )
    return (str(key[0]), key[1])


def _sizes(workload: Workload) -> str:
    return ", ".join(f"{k}={v}" for k, v in workload.params.items())


def apart(mine: torch.Tensor, right: torch.Tensor) -> float:
    if mine.is_floating_point() or right.is_floating_point():
        return norm_error(mine.to(torch.float64), right.to(torch.float64))
    return float((mine.to(torch.float64) != right.to(torch.float64)).float().mean())


def _shape(output: Json, trials: Sequence[Trial], roles: Mapping[str, str]) -> str | None:
    if output.get("role") == "in_out":
        return f"tuple({output['argument']}.shape)"
    found = fitted([_run(output, trial, roles) for trial in trials])
    if found is None and output["argument"] is not None:
        raise Refused(
            f"the buffer {output['argument']} has a shape that does not follow from the inputs; return the output "
            "instead of taking a buffer for it."
        )
    return found


def _run(output: Json, trial: Trial, roles: Mapping[str, str]) -> Run:
    given: Mapping[str, Any] = {n: v for n, v in trial.given.items() if roles.get(n) != "out"}
    return Run(
        shapes={n: tuple(v.shape) for n, v in given.items() if isinstance(v, TENSOR)},
        numbers={n: v for n, v in given.items() if isinstance(v, int) and not isinstance(v, bool)},
        output=tuple(tensor_of(output, trial).shape),
    )


def _stride(output: Json, trials: Sequence[Trial]) -> str | None:
    """Only what is not contiguous needs to be said."""
    tensors = [tensor_of(output, t) for t in trials]
    if all(t.is_contiguous() for t in tensors):
        return None
    if output["argument"] is not None:
        return f"tuple({output['argument']}.stride())"
    for name, value in trials[0].given.items():
        if isinstance(value, TENSOR) and all(tensor_of(output, t).stride() == t.given[name].stride() for t in trials):
            return f"tuple({name}.stride())"
    raise Refused("the returned tensor is not contiguous, in a way that follows none of its arguments.")
