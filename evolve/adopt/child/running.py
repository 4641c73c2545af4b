"""One run of the original beside the reference on the same inputs: what came back, what was written to, what was kept.

Nothing is concluded here. Out-parameters are told from in-place ones by a second run over other contents: what shows
through was read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

from evolve.adopt import own
from evolve.adopt.child.words import Call, Refused, Trial
from evolve.types import Workload

TENSOR = torch.Tensor


class Runner:
    def __init__(self, file: ModuleType, original: Any, reference: Any, device: str) -> None:
        self.file, self.original, self.reference, self.device = file, original, reference, device
        self.call: Call | None = None
        self.names: list[str] = []  # what a sequence of make_inputs' values is called
        self._shows: dict[str, bool] = {}  # by argument, found out once

    def given(self, workload: Workload, random_seed: int, device: str | None = None) -> dict[str, Any]:
        """make_inputs' values by the original's names, or by the reference's where they are meant for it."""
        names = [p.name for p in own.parameters_of(self.original)]
        made = own.inputs(self.file, names, workload, device or self.device, random_seed)
        needed = [p.name for p in own.parameters_of(self.original) if p.default is inspect.Parameter.empty]
        theirs = [p.name for p in own.parameters_of(self.reference)]
        if not set(needed) <= set(made) and set(made) != set(theirs):
            again = own.inputs(self.file, theirs, workload, device or self.device, random_seed)
            if set(again) <= set(names):
                self.names = theirs
                return again
        self.names = names
        return made

    def run(self, workload: Workload, random_seed: int = 1) -> Trial:
        given = self.given(workload, random_seed)
        if self.call is None:
            self.call = called(self.original, self.reference, given)
        results, written, narrow = self.right(given)
        full = {**given, **self._missing(given)}
        before = _clones(full)
        returned, changed = self.ours(full, workload)
        kept = self._kept(before, returned, changed, workload) if changed else {}
        return Trial(
            workload=workload,
            given=before,
            returned=returned,
            changed=changed,
            kept=kept,
            results=results,
            written=written,
            narrow=narrow,
        )

    def ours(self, arguments: Mapping[str, Any], workload: Workload) -> tuple[list[Any], dict[str, Any]]:
        before = _clones(arguments)
        with self._elsewhere():
            result = self.original(**arguments)
        if self.device != "cpu":
            torch.cuda.synchronize()
        changed = {n: v for n, v in arguments.items() if isinstance(v, TENSOR) and not same(v, before[n])}
        return _returned(result, arguments), changed

    def _elsewhere(self) -> AbstractContextManager[Any]:
        return own.Elsewhere("cpu") if self.device == "cpu" else nullcontext()

    def right(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any], bool]:
        """The reference in float64, as the judge calls it; in float32 where it does not take that."""
        try:
            return (*self._right({n: widened(v) for n, v in given.items()}), False)
        except (RuntimeError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        try:
            return (*self._right({n: own.single(v) for n, v in _clones(given).items()}), True)
        except (RuntimeError, TypeError, ValueError):
            raise Refused(f"the reference fails: {told}. It is called with make_inputs' values.") from None

    def _right(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        assert self.call is not None
        before = _clones(arguments)
        with self._elsewhere():
            result = self.reference(**{theirs: arguments[name] for theirs, name in self.call.reference.items()})
        written = {n: v for n, v in arguments.items() if isinstance(v, TENSOR) and not same(v, before[n])}
        return [t for t in own.tensors_of(result) if isinstance(t, TENSOR)], written

    def _missing(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Buffers for the original's parameters that make_inputs says nothing of: one for each result."""
        assert self.call is not None
        if not self.call.missing:
            return {}
        results, _ = self._right(_clones(given))
        if len(results) != len(self.call.missing):
            raise Refused(
                f"make_inputs gives nothing for {', '.join(self.call.missing)}, and the reference returns "
                f"{len(results)} tensors; give the buffers in make_inputs, as the original is called."
            )
        return {n: torch.empty_like(r) for n, r in zip(self.call.missing, results, strict=True)}

    def _kept(
        self, before: Mapping[str, Any], returned: list[Any], changed: Mapping[str, Any], workload: Workload
    ) -> dict[str, bool]:
        """Whether the earlier contents of what was written to show in any output. An output buffer's do not."""
        for name in [n for n in changed if n not in self._shows]:
            other = _clones(before)
            other[name] = _otherwise(other[name])
            again, now = self.ours(other, workload)
            outputs = [v for v in returned if isinstance(v, TENSOR)] + list(changed.values())
            others = [v for v in again if isinstance(v, TENSOR)] + [now.get(n, other[n]) for n in changed]
            self._shows[name] = not all(same(a, b) for a, b in zip(outputs, others, strict=True))
        return {name: self._shows[name] for name in changed}


def called(original: Callable[..., Any], reference: Callable[..., Any], given: Mapping[str, Any]) -> Call:
    """Which parameter of each gets which of the values."""
    parameters = own.parameters_of(original)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise Refused("the function takes *args or **kwargs; name each parameter.")
    unknown = [n for n in given if n not in {p.name for p in parameters}]
    if unknown:
        raise Refused(f"make_inputs gives {unknown[0]!r}, which the function does not take.")
    names = tuple(p.name for p in parameters if p.name in given)
    missing = tuple(p.name for p in parameters if p.name not in given and p.default is p.empty)
    theirs = own.parameters_of(reference)
    needed = [p.name for p in theirs if p.default is p.empty]
    if set(needed) <= set(names):
        return Call(names=names, reference={p.name: p.name for p in theirs if p.name in names}, missing=missing)
    if len(needed) <= len(names) <= len(theirs):
        by_place = zip((p.name for p in theirs), names, strict=False)
        return Call(names=names, reference=dict(by_place), missing=missing)
    raise Refused(
        f"the reference takes {', '.join(needed)} and make_inputs gives {', '.join(names)}; give the reference's "
        "parameters the names of the original's, so that it is clear which is which."
    )


def _returned(result: Any, arguments: Mapping[str, Any]) -> list[Any]:
    """Tensors; an argument that comes back is named instead."""
    found: list[Any] = []
    for value in own.tensors_of(result):
        if not isinstance(value, TENSOR):
            raise Refused(
                f"the function returns a {type(value).__name__}; outputs are tensors, one or a tuple of them."
            )
        place = value.untyped_storage().data_ptr()
        owner = (n for n, v in arguments.items() if isinstance(v, TENSOR) and v.untyped_storage().data_ptr() == place)
        found.append(next(owner, value) if value.numel() else value)
    return found


def _clones(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {n: v.clone() if isinstance(v, TENSOR) else v for n, v in arguments.items()}


def widened(value: Any) -> Any:
    if not isinstance(value, TENSOR):
        return value
    return value.to(torch.float64) if value.is_floating_point() else value.clone()


def _otherwise(tensor: torch.Tensor) -> torch.Tensor:
    """Other contents of the same kind."""
    if tensor.is_floating_point():
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        return torch.empty_like(tensor).copy_(noise.to(tensor.device) + 1)
    return torch.zeros_like(tensor) if bool(tensor.any()) else torch.ones_like(tensor)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (a, b)))
