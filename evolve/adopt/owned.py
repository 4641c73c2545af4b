"""A KernelBench file as a problem uses it: a Model whose weights are arguments.

`Model` builds the module for a workload, hands out its inputs and weights, and calls it with others in their place. A
module is built anew for every shape and device it is asked on; what it was initialised with never shows in an answer.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from evolve.adopt import own
from evolve.errors import ProblemError
from evolve.problem import TensorSpec
from evolve.types import Workload


class Model:
    def __init__(self, here: str, file: str, *, varied: Sequence[int] = ()) -> None:
        """`varied` are positions of arguments that are the same for every seed as the file makes them."""
        self._path = Path(here).parent / file
        self._varied = tuple(varied)
        self._sizes: dict[Any, Mapping[str, Any]] = {}  # by the arguments' shapes
        self._modules: dict[Any, torch.nn.Module] = {}
        self._compiled: Callable[..., Any] | None = None

    @cached_property
    def file(self) -> ModuleType:
        return own.module(self._path)

    def arguments(self, workload: Workload, device: str, random_seed: int) -> tuple[Any, ...]:
        sizes = own.Sizes(workload)
        there = [torch.device(device)] if torch.device(device).type == "cuda" else []
        with torch.random.fork_rng(devices=there), torch.device(device), own.Elsewhere(device):
            torch.manual_seed(random_seed)
            with own.sized(self.file, sizes):
                given = list(self.file.get_inputs())
                module = self._built()
        weights = [t.detach() for _, t in tensors_in(module)]
        made = [*given, *weights]
        for position in self._varied:
            made[position] = own.vary(made[position], random_seed + position)
        self._sizes[_shapes(made)] = sizes
        return tuple(made)

    def _built(self) -> torch.nn.Module:
        inits = list(self.file.get_init_inputs()) if hasattr(self.file, "get_init_inputs") else []
        if len(inits) == 2 and isinstance(inits[0], list) and isinstance(inits[1], dict):
            return self.file.Model(*inits[0], **inits[1]).eval()  # type: ignore[no-any-return]
        return self.file.Model(*inits).eval()  # type: ignore[no-any-return]

    def __call__(self, *arguments: Any) -> Any:
        """The module with these weights on these inputs."""
        module = self._module(arguments)
        names = [name for name, _ in tensors_in(module)]
        given = arguments[: len(arguments) - len(names)]
        weights = dict(zip(names, arguments[len(given) :], strict=True))
        with torch.no_grad():
            result = torch.func.functional_call(module, weights, given)
        return result[0] if isinstance(result, tuple | list) and len(result) == 1 else result

    def _module(self, arguments: Sequence[Any]) -> torch.nn.Module:
        shapes = _shapes(arguments)
        device = next(str(a.device) for a in arguments if isinstance(a, torch.Tensor))
        dtypes = tuple(a.dtype for a in arguments if isinstance(a, torch.Tensor))
        key = (shapes, device, dtypes)
        if key not in self._modules:
            if shapes not in self._sizes:
                raise ProblemError(f"{self._path}: called with shapes that no workload has: {shapes}.")
            here = (torch.random.fork_rng(devices=[]), torch.device(device), own.Elsewhere(device))
            with here[0], here[1], here[2], own.sized(self.file, self._sizes[shapes]):
                module = self._built()
            wide = any(d == torch.float64 for d in dtypes)
            self._modules[key] = module.double() if wide else module
        return self._modules[key]

    def compiled(self, *arguments: Any) -> Any:
        if self._compiled is None:
            self._compiled = torch.compile(self.__call__, mode="max-autotune-no-cudagraphs", dynamic=False)
        return self._compiled(*arguments)

    def outputs(self, workload: Workload) -> tuple[TensorSpec, ...]:
        found = own.tensors_of(self(*self.arguments(workload, "meta", 0)))
        names = ["out"] if len(found) == 1 else [f"out{i}" for i in range(len(found))]
        return tuple(
            TensorSpec(name=name, shape=tuple(t.shape), dtype=own.dtype_name(t))
            for name, t in zip(names, found, strict=True)
        )

    def briefing(self, about: str) -> str:
        return f"{about} This is what is right:\n\n{textwrap.dedent(inspect.getsource(self.file.Model))}"


def tensors_in(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters, then buffers, each once."""
    return [*module.named_parameters(), *module.named_buffers()]


def _shapes(arguments: Sequence[Any]) -> Any:
    return tuple(tuple(a.shape) if isinstance(a, torch.Tensor) else repr(a) for a in arguments)
