"""What a user's file binds at module level, as values: constants, dtypes, kernels with their decorators' contents.

Read off the imported module, not off its text: configurations may come from a comprehension, a filter or a function.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import triton.language as tl
from triton.runtime.autotuner import Autotuner, Heuristics

from evolve.types import Json

OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
USUAL = {"num_warps": 4, "num_stages": 3, "num_ctas": 1, "maxnreg": None}  # what a Config has unless it says otherwise


def of(module: ModuleType) -> dict[str, Json]:
    constants: dict[str, Json] = {}
    dtypes: dict[str, str] = {}
    kernels: dict[str, Json] = {}
    for name, value in vars(module).items():
        if name.startswith("__"):
            continue
        value = value.value if isinstance(value, tl.constexpr) else value
        if isinstance(value, torch.dtype):
            dtypes[name] = str(value)
        elif isinstance(value, tl.dtype):
            dtypes[name] = _tl_name(value)
        elif _plain(value):
            constants[name] = value
        elif hasattr(value, "arg_names") or isinstance(value, Autotuner | Heuristics):
            kernels[name] = _kernel(value)
    return {"constants": constants, "dtypes": dtypes, "kernels": kernels}


def _tl_name(value: tl.dtype) -> str:
    names = (n for n in dir(tl) if getattr(tl, n) is value)
    return f"tl.{next(names, value)}"


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _kernel(value: Any) -> dict[str, Json]:
    """From the outermost decorator inwards."""
    found: dict[str, Json] = {"configs": [], "keys": [], "heuristics": [], "hooks": [], "order": []}
    while isinstance(value, Autotuner | Heuristics):
        if isinstance(value, Autotuner):
            found["order"].append("autotune")
            found["configs"] = [_config(c) for c in value.configs]
            found["keys"] = list(value.keys)
            found["hooks"] = _hooks(value)
        else:
            found["order"].append("heuristics")
            found["heuristics"].append(list(value.values))
        value = value.fn
    return found


def _config(config: Any) -> Mapping[str, Json]:
    options = {n: getattr(config, n) for n in OPTIONS if getattr(config, n, None) != USUAL[n]}
    return {"kwargs": dict(config.kwargs), "options": options, "pre_hook": config.pre_hook is not None}


def _hooks(tuner: Any) -> list[str]:
    """What else the autotuner was told; a name each."""
    said = {
        "reset_to_zero": bool(getattr(tuner, "reset_to_zero", None)),
        "restore_value": bool(getattr(tuner, "restore_value", None)),
        "prune_configs_by": tuner.early_config_prune is not None or tuner.perf_model is not None,
        "pre_hook": bool(getattr(tuner, "user_defined_pre_hook", False)),
    }
    return [name for name, there in said.items() if there]


def signature(function: Any) -> list[dict[str, Json]]:
    rows = []
    for parameter in inspect.signature(function).parameters.values():
        default = parameter.default
        required = default is inspect.Parameter.empty
        row: dict[str, Json] = {"name": parameter.name, "kind": parameter.kind.name, "required": required}
        if not required:
            row["default"] = written(default)
        rows.append(row)
    return rows


def written(value: Any) -> str | None:
    """A value as a candidate may write it; None where it cannot."""
    if isinstance(value, torch.dtype):
        return str(value)
    return repr(value) if _plain(value) else None
