"""The child's way with a KernelBench file: what Model takes, holds and gives, at its own size and at smaller ones.

`python -m evolve.adopt.child.modelling` with the order on its standard input and the answer's file as its argument.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evolve.adopt import sizes
from evolve.adopt.child import workloads
from evolve.adopt.child.words import Refused
from evolve.adopt.own import tensors_of
from evolve.adopt.owned import Model, tensors_in
from evolve.judge import inputs
from evolve.judge.compare import compare, norm_error
from evolve.problem import Norm
from evolve.types import Json, Scalar, Workload

MOST = 20_000_000  # elements of arguments: above, a reference in float64 on the CPU takes too long to be tried here
ROOM = 2.0


def observed(order: Mapping[str, Any]) -> dict[str, Json]:
    path = Path(order["model"])
    model = Model(str(path), path.name)
    for name in ("Model", "get_inputs"):
        if not hasattr(model.file, name):
            raise Refused(f"{path.name} has no {name}; a KernelBench file has Model, get_inputs and get_init_inputs.")
    given = Workload(name="given", params=workloads.constants(model.file))
    rows = _arguments(model, given)
    small = [w for w in _smaller(model, given) if _elements(model, w) <= MOST]
    outputs, bound, families, left_out = _measured(model, small, rows)
    return {
        "arguments": rows,
        "outputs": outputs or _specs(model, given),
        "bound": bound,
        "families": families,
        "left_out": left_out,
        "workloads": workloads.rows([given, *_more(model, given)]),
        "interpreted": workloads.rows(small[:3]),
    }


def _arguments(model: Model, given: Workload) -> list[Json]:
    made = model.arguments(given, "meta", 1)
    module = model._module(made)
    names = [n for n in inspect.signature(model.file.Model.forward).parameters if n != "self"]
    weights = [n for n, _ in tensors_in(module)]
    taken = len(made) - len(weights)
    tables = {f"{n}.weight" for n, m in module.named_modules() if isinstance(m, torch.nn.Embedding)}
    if len(names) < taken:
        raise Refused(f"get_inputs gives {taken} values, and forward takes {', '.join(names) or 'none'}.")
    rows: list[Json] = []
    for number, (name, value) in enumerate(zip([*names[:taken], *weights], made, strict=True)):
        if not isinstance(value, torch.Tensor | bool | int | float):
            raise Refused(f"{name} is a {type(value).__name__}; arguments are tensors and numbers.")
        role = "scalar" if not isinstance(value, torch.Tensor) else "value" if value.is_floating_point() else "index"
        rows.append({"name": name, "role": role, "weight": number >= taken, "table": name in tables})
    return rows


def _elements(model: Model, workload: Workload) -> int:
    made = model.arguments(workload, "meta", 1)
    return sum(v.numel() for v in made if isinstance(v, torch.Tensor))


def _specs(model: Model, workload: Workload) -> list[Json]:
    return [{"name": s.name, "dtype": s.dtype} for s in model.outputs(workload)]


# --- Sizes ------------------------------------------------------------------------------------------------------------


def _smaller(model: Model, given: Workload) -> list[Workload]:
    """Each constant as small as the model bears, one after the other; then one of them odd."""
    params: dict[str, Scalar] = dict(given.params)
    for wanted in (sizes.fewer(params), sizes.small(params)):
        for name, value in wanted.items():
            if value != params[name] and _runs(model, tried := {**params, name: value}):
                params = tried
    found = [Workload(name="small", params=params, role="check")]
    for name in sizes.large(given.params):
        odd = {**params, name: int(params[name]) * 3 // 4 | 1}
        if _runs(model, odd):
            found.append(Workload(name=f"small_odd_{name}", params=odd, role="check"))
    return found


def _more(model: Model, given: Workload) -> list[Workload]:
    odd = [n for n in sizes.large(given.params) if _runs(model, {**given.params, n: int(given.params[n]) | 1})]
    found = []
    for name, role, params in (
        ("check_odd", "check", sizes.check(given.params, odd)),
        ("check_even", "check", sizes.check(given.params, [])),
        ("held_near", "held_out", sizes.held_out(given.params, odd)),
    ):
        if params != dict(given.params) and _runs(model, params):
            found.append(Workload(name=name, params=params, role="check" if role == "check" else "held_out"))
    return found or [Workload(name="check_given", params=given.params, role="check")]


def _runs(model: Model, params: Mapping[str, Scalar]) -> bool:
    try:
        model.outputs(Workload(name="tried", params=params))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, ZeroDivisionError):
        return False
    return True


# --- How close --------------------------------------------------------------------------------------------------------


def _measured(
    model: Model, small: Sequence[Workload], rows: list[Json]
) -> tuple[list[Json], float, list[str], dict[str, str]]:
    """The float32 module beside the float64 one, on every kind of inputs; and which arguments no seed changes."""
    if not small:
        return [], 1e-5, ["given"], {}
    roles = [r["role"] for r in rows]
    first, second = (model.arguments(small[0], "cpu", seed) for seed in (1, 2))
    for row, a, b in zip(rows, first, second, strict=True):
        row["varied"] = row["role"] == "value" and torch.equal(a, b)
    worst = max(_error(model, model.arguments(w, "cpu", 5)) for w in small)
    bound = max(4e-6, float(f"{ROOM * worst:.1e}"))
    if worst > 1e-3:
        raise Refused(
            f"the model in float32 is off its float64 self by {worst:.1e} of the norm; nothing can be judged."
        )
    passed, failed = ["given"], {}
    for family in inputs.FAMILIES[1:]:
        made = inputs.fill(model.arguments(small[0], "cpu", 7), roles, family, 7)
        if reason := _fails(model, made, family, bound):
            failed[family] = reason
        else:
            passed.append(family)
    return _specs(model, small[0]), bound, passed, failed


def _error(model: Model, made: Sequence[Any]) -> float:
    pairs = zip(tensors_of(model(*made)), tensors_of(model(*_wide(made))), strict=True)
    return max(norm_error(a, b.to(torch.float64)) for a, b in pairs)


def _fails(model: Model, made: Sequence[Any], family: str, bound: float) -> str:
    for mine, right in zip(tensors_of(model(*made)), tensors_of(model(*_wide(made))), strict=True):
        finding = compare("out", Norm(strict=bound, at_most=2 * bound), mine, right.to(torch.float64), family=family)
        if not finding.ok:
            return finding.sentence
    return ""


def _wide(made: Sequence[Any]) -> list[Any]:
    return [v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in made]


def main() -> None:
    order = json.loads(sys.stdin.read())
    answer: dict[str, Json]
    try:
        answer = observed(order)
    except Refused as refused:
        answer = {"refused": str(refused)}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main()
