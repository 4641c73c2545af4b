"""Writes down what the host function does: storages, views and launches, as the plan's JSON.

One `Recorder` a workload and parameter point. The modules of a whole lowering are shared in `Modules`, so that each
distinct specialisation is lowered once. What is written is a claim: the gate holds it against the workload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from evolve.judge.jailed.host import unwatched
from evolve.judge.jailed.triton_glue import Bound, CompilationError, JITFunction, Lowering, TensorDescriptor
from evolve.judge.jailed.words import BuildFault, Fault, Refused

OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
Json = Any


class Modules:
    """TTIR by digest. Warps, stages and the register cap come after TTIR, so that launches which differ in nothing
    else share a module (`tl.extra`, through which a kernel could ask for its warps, does not pass the screen)."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.texts: dict[str, str] = {}
        self._digests: dict[str, str] = {}

    def digest(self, kernel: JITFunction, bound: Bound, options: Any) -> str:
        constants = [
            (n, _plain(v)) for (n, v), k in zip(bound.values.items(), bound.kinds, strict=True) if k == "constexpr"
        ]
        key = repr((kernel.__name__, bound.kinds, bound.hints, constants, options.num_ctas))
        if key not in self._digests:
            text = self._lower(kernel, bound, options)
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._digests[key] = digest
            self.texts[digest] = text
        return self._digests[key]

    def _lower(self, kernel: JITFunction, bound: Bound, options: Any) -> str:
        try:
            return self.lowering.ttir(kernel, bound, options)
        except CompilationError as error:
            raise BuildFault(f"Triton refuses kernel {kernel.__name__}: {_chain(error)}") from error
        except (RuntimeError, ValueError, TypeError, AssertionError, KeyError, NotImplementedError) as error:
            told = f"{type(error).__name__}: {error}"
            raise BuildFault(f"Triton fails on kernel {kernel.__name__}: {told}") from error


def _chain(error: BaseException) -> str:
    """From the line in the kernel down to the reason in what it calls."""
    told, seen = [], error
    while seen is not None:
        text = str(seen) if isinstance(seen, CompilationError) else f"{type(seen).__name__}: {seen}"
        if text not in told:
            told.append(text)
        seen = seen.__cause__  # type: ignore[assignment]
    return "\n".join(told)


class Recorder:
    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self.launches: list[Json] = []
        self._roots: dict[int, dict[str, Json]] = {}  # by storage
        self._kept: list[torch.Tensor] = []  # a storage that went could lend its address to another
        self._used: set[int] = set()

    # --- storages ---

    def argument(self, tensor: torch.Tensor, position: int) -> None:
        """Two arguments may share a storage; it carries the first one's position."""
        self._add(tensor, name=f"in{position}", kind="input", argument=position, zeroed=False)

    def given_output(self, tensor: torch.Tensor, index: int, position: int | None) -> None:
        self._add(tensor, name=f"out{index}", kind="output", argument=position, zeroed=False)

    def allocate(self, tensor: torch.Tensor, zeroed: bool) -> torch.Tensor:
        self._add(tensor, name="", kind="scratch", argument=None, zeroed=zeroed)
        return tensor

    def _add(self, tensor: torch.Tensor, **facts: Json) -> None:
        key = _storage(tensor)
        if key not in self._roots:
            self._roots[key] = {**facts, "nbytes": tensor.untyped_storage().nbytes()}
            self._kept.append(tensor)

    def view(self, tensor: torch.Tensor) -> dict[str, Json]:
        """With the root's storage in place of its name, which it gets at the end."""
        key = _storage(tensor)
        if key not in self._roots:
            raise Refused("a tensor that is neither an argument nor allocated by the host function is passed on.")
        self._used.add(key)
        return {
            "root": key,
            "offset": tensor.storage_offset(),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "dtype": str(tensor.dtype).removeprefix("torch."),
        }

    # --- launches ---

    def launch_method(self) -> Callable[..., None]:
        """To stand in the class in the place of `JITFunction.run`."""
        return lambda kernel, *args, **kwargs: self.launch(kernel, *args, **kwargs)

    def launch(self, kernel: JITFunction, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        with unwatched():
            bound = self._bind(kernel, args, kwargs)
            options, given = self._options(kernel, kwargs)
            names = list(bound.values)
            kinds = dict(zip(names, bound.kinds, strict=True))
            plain = {n: v for n, v in bound.values.items() if kinds[n] != "constexpr"}
            fixed = {n: v for n, v in bound.values.items() if kinds[n] == "constexpr"}
            self.launches.append(
                {
                    "kernel": kernel.__name__,
                    "grid": _grid(kernel, grid, bound.values),
                    "arguments": [[n, self._passed(kernel, n, v)] for n, v in plain.items()],
                    "signature": [[n, _kind(kernel, n, kinds[n])] for n in names],
                    "constexprs": [[n, _plain(v)] for n, v in fixed.items()],
                    "options": [[n, given[n]] for n in OPTIONS if n in given],
                    "ttir": self.modules.digest(kernel, bound, options),
                }
            )

    def _bind(self, kernel: JITFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Bound:
        try:
            bound = self.modules.lowering.bind(kernel, args, kwargs)
        except TypeError as error:
            told = str(error).replace("dynamic_func", kernel.__name__)
            raise Fault(f"Launch of kernel {kernel.__name__}: {told}.") from error
        unknown = [k for k in kwargs if k not in bound.values and k not in OPTIONS]
        if unknown:
            options = ", ".join(OPTIONS)
            raise Refused(
                f"Launch of kernel {kernel.__name__}: it has no parameter {unknown[0]}; options are {options}."
            )
        return bound

    def _options(self, kernel: JITFunction, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, int]]:
        given = {k: kwargs[k] for k in OPTIONS if kwargs.get(k) is not None}
        for name, value in given.items():
            if type(value) is not int:
                raise Refused(f"Launch of kernel {kernel.__name__}: {name}={value!r} is not an integer.")
        try:
            resolved = self.modules.lowering.options(given)
        except (ValueError, AssertionError) as error:
            raise BuildFault(f"Launch of kernel {kernel.__name__}: {error}.") from error
        found = {n: getattr(resolved, n, None) for n in OPTIONS}
        return resolved, {n: v for n, v in found.items() if v is not None}

    def _passed(self, kernel: JITFunction, name: str, value: Any) -> Json:
        if isinstance(value, torch.Tensor):
            return self.view(value)
        if isinstance(value, TensorDescriptor):
            return self._descriptor(value)
        if isinstance(value, bool | int | float):
            return value
        raise Refused(
            f"Kernel {kernel.__name__}: {name} gets a {type(value).__name__}; pass tensors and numbers one by one."
        )

    def _descriptor(self, value: TensorDescriptor) -> Json:
        if getattr(value, "round_f32_to_tf32", False):
            raise Refused("TensorDescriptor(round_f32_to_tf32=True): the judge cannot pass that; leave it out.")
        view = {**self.view(value.base), "shape": list(value.shape), "stride": list(value.strides)}
        return {"view": view, "block_shape": list(value.block_shape), "padding": value.padding}

    # --- the end ---

    def plan(self, workload: str, parameters: Mapping[str, Json], outputs: Sequence[torch.Tensor]) -> Json:
        views = [self.view(tensor) for tensor in outputs]
        for index, view in enumerate(views):
            root = self._roots[view["root"]]
            if root["kind"] == "scratch":
                root.update(kind="output", name=f"out{index}")
        names = self._names()
        return {
            "workload": workload,
            "parameters": [[k, v] for k, v in parameters.items()],
            "roots": [root for key, root in self._roots.items() if key in self._used],
            "launches": [_renamed(launch, names) for launch in self.launches],
            "outputs": [_renamed(view, names) for view in views],
        }

    def _names(self) -> dict[int, str]:
        scratch = 0
        for key, root in self._roots.items():
            if root["kind"] == "scratch" and key in self._used:
                root["name"] = f"scratch{scratch}"
                scratch += 1
        return {key: root["name"] for key, root in self._roots.items()}


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _renamed(value: Json, names: Mapping[int, str]) -> Json:
    if isinstance(value, dict):
        return {k: names[v] if k == "root" else _renamed(v, names) for k, v in value.items()}
    return [_renamed(v, names) for v in value] if isinstance(value, list) else value


def _grid(kernel: JITFunction, grid: Any, values: Mapping[str, Any]) -> list[int]:
    found = grid(values) if callable(grid) else grid
    if not isinstance(found, tuple | list) or not 1 <= len(found) <= 3 or any(type(n) is not int for n in found):
        raise Fault(
            f"Launch of kernel {kernel.__name__}: the grid is {found!r}; expected a tuple of one to three integers."
        )
    return [*found, *[1] * (3 - len(found))]


def _kind(kernel: JITFunction, name: str, kind: Any) -> str:
    if not isinstance(kind, str):
        raise Refused(f"Kernel {kernel.__name__}: {name} gets a tuple; pass its parts one by one.")
    return kind


def _plain(value: Any) -> Json:
    """A constexpr as evidence: the TTIR holds what it did."""
    value = getattr(value, "value", value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.__name__ if isinstance(value, JITFunction) else str(value)
