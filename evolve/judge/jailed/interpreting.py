"""The task "interpret": run the entry on real bytes under Triton's interpreter, and answer with the outputs' bytes.

The interpreter works on raw memory, where a small step outside a tensor goes unpunished. So every storage lies between
guard bands of 0xFF: read as a float that is NaN, and a write into it is found afterwards. What the answer is worth is
judged elsewhere; here it is only produced.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from triton.runtime.interpreter import InterpretedFunction, InterpreterError

from evolve.judge.jailed import candidate
from evolve.judge.jailed.counting import counting
from evolve.judge.jailed.host import unwatched, watched
from evolve.judge.jailed.lowering import results
from evolve.judge.jailed.words import Fault, Refused

GUARD = 1 << 16
PATTERN = 0xFF
Json = Any


def interpret(payload: Mapping[str, Json]) -> Json:
    function = candidate.load(payload["source"], payload["entry"])
    answers = []
    for run in payload["runs"]:
        try:
            answers.append(_Run(run, payload["storages"]).answer(function))
        except Fault as fault:
            fault.args = (f"{run['said']}: {fault}",)
            raise
    return answers


class _Buffer:
    """One storage between its guard bands."""

    def __init__(self, nbytes: int, fill: int) -> None:
        self.nbytes = nbytes
        self.whole = torch.full((2 * GUARD + -(-nbytes // 64) * 64,), PATTERN, dtype=torch.uint8)
        self.body = self.whole[GUARD : GUARD + nbytes]
        self.body.fill_(fill)

    def view(self, dtype: torch.dtype, shape: Any, stride: Any, offset: int) -> torch.Tensor:
        return self.whole.view(dtype).as_strided(tuple(shape), tuple(stride), GUARD // dtype.itemsize + offset)

    def overrun(self) -> str:
        before, after = self.whole[:GUARD] != PATTERN, self.whole[GUARD + self.nbytes :] != PATTERN
        if bool(before.any()):
            return f"{GUARD - int(before.to(torch.uint8).argmax())} bytes before its beginning"
        if bool(after.any()):
            return f"{int(after.to(torch.uint8).argmax())} bytes after its end"
        return ""


class _Run:
    """One call of the entry on one set of inputs, with everything new poisoned."""

    def __init__(self, run: Mapping[str, Json], storages: Mapping[str, str]) -> None:
        self.run = run
        self.buffers: list[tuple[str, _Buffer]] = []
        self._inputs = {key: self._input(key, storages[key]) for key in dict.fromkeys(self._keys())}
        self.arguments = [self._argument(a) for a in run["arguments"]]

    def _keys(self) -> Iterator[str]:
        return (a["storage"] for a in self.run["arguments"] if "storage" in a)

    def _input(self, key: str, data: str) -> _Buffer:
        raw = bytearray(base64.b64decode(data))
        buffer = _Buffer(len(raw), 0)
        if raw:
            buffer.body.copy_(torch.frombuffer(raw, dtype=torch.uint8))
        names = ", ".join(a["name"] for a in self.run["arguments"] if a.get("storage") == key)
        self.buffers.append((names, buffer))
        return buffer

    def _argument(self, facts: Mapping[str, Json]) -> Any:
        if "scalar" in facts:
            return facts["scalar"]
        buffer = self._inputs[facts["storage"]]
        return buffer.view(getattr(torch, facts["dtype"]), facts["shape"], facts["stride"], facts["offset"])

    def allocate(self, made: torch.Tensor, zeroed: bool) -> torch.Tensor:
        buffer = _Buffer(made.untyped_storage().nbytes(), 0 if zeroed else self.run["poison"])
        self.buffers.append(("an output or scratch", buffer))
        with unwatched():
            return buffer.view(made.dtype, made.shape, made.stride(), 0)

    def answer(self, function: Callable[..., Any]) -> Json:
        before = {key: buffer.body.clone() for key, buffer in self._inputs.items()}
        specs = self.run["outputs"]
        given = self._given(function)
        with _interpreting(), counting() as counts, watched("cpu", self.allocate):
            loose = [t for t in given if t is not None]
            result = candidate.call(function, self.arguments, loose, self.run["parameters"])
        by_name = {a["name"]: t for a, t in zip(self.run["arguments"], self.arguments, strict=True)}
        outputs = results(result, specs, given, by_name)
        changed = [key for key, was in before.items() if not torch.equal(was, self._inputs[key].body)]
        return {
            "outputs": [_bytes(tensor) for tensor in outputs],
            "changed": sorted({a["name"] for a in self.run["arguments"] if a.get("storage") in changed}),
            "outside": [f"{where} of {name}" for name, buffer in self.buffers if (where := buffer.overrun())],
            "counts": counts,
        }

    def _given(self, function: Callable[..., Any]) -> list[torch.Tensor | None]:
        specs = self.run["outputs"]
        loose = [i for i, spec in enumerate(specs) if not spec["in_place"]]
        given: list[torch.Tensor | None] = [None] * len(specs)
        if loose and candidate.takes(function) == len(self.arguments) + len(loose):
            for i in loose:
                dtype = getattr(torch, specs[i]["dtype"])
                like = torch.empty_strided(specs[i]["shape"], specs[i]["stride"], dtype=dtype, device="meta")
                given[i] = self.allocate(like, False)
        return given


@contextmanager
def _interpreting() -> Iterator[None]:
    """Launches are the interpreter's, and what it does with torch and numpy is not the host function's doing."""
    own = InterpretedFunction.run

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        with unwatched():
            try:
                return own(kernel, *args, **kwargs)
            except InterpreterError as error:
                raise _explained(kernel, error) from error

    InterpretedFunction.run = run
    try:
        yield
    finally:
        InterpretedFunction.run = own


def _explained(kernel: Any, error: BaseException) -> Fault:
    """The innermost reason. What the interpreter lacks is said by name: that kernel can only be judged on a GPU."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    told = candidate.told(cause)
    lacks = isinstance(cause, NotImplementedError) or "'InterpreterBuilder' object has no attribute" in str(cause)
    if lacks:
        return Refused(f"Kernel {kernel.__name__}: Triton's interpreter cannot run this ({told}); a GPU can.")
    return Fault(f"Kernel {kernel.__name__} fails under the interpreter: {told}.")


def _bytes(tensor: torch.Tensor) -> str:
    flat = tensor.contiguous().view(-1)
    raw = flat.view(torch.uint8) if flat.numel() else torch.empty(0, dtype=torch.uint8)
    return base64.b64encode(raw.numpy().tobytes()).decode()
