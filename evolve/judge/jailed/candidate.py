"""Loads a screened source and calls its entry the way that a problem is called."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evolve.judge.jailed.words import Fault

FILE = "candidate.py"


def load(source: str, entry: str) -> Callable[..., Any]:
    """From a real file: Triton asks `inspect` for a kernel's lines."""
    path = Path(FILE).resolve()
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("candidate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["candidate"] = module
    try:
        spec.loader.exec_module(module)
    except (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise Fault(f"The file does not load: {told(error)}.") from error
    found = getattr(module, entry, None)
    if not callable(found):
        raise Fault(f"The file has no function {entry}().")
    return found  # type: ignore[no-any-return]


def call(
    function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[torch.Tensor], parameters: Mapping[str, Any]
) -> Any:
    """Failures of the host function become a sentence with its line; faults of a launch inside it pass through."""
    try:
        return function(*inputs, *outputs, **parameters)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NameError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise Fault(f"{function.__name__}() raises {told(error)}.") from error


def takes(function: Callable[..., Any]) -> int:
    """How many positional arguments the entry takes: the inputs alone, or buffers for the outputs after them."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(function).parameters.values())


def told(error: BaseException) -> str:
    """What was raised, and in which line of the candidate."""
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.endswith(FILE):
            where = f" in `{frame.line}`"
    said = str(error)
    return f"{type(error).__name__}{f': {said}' if said else ''}{where}"
