"""The arguments of a workload without their data, made once for each: shapes, strides, dtypes and who shares a storage.

Torch takes a few milliseconds to make one, all of it in Python; every point of a tuner's is lowered and gated for the
same few workloads, and while this thread holds the interpreter, the one that talks to the GPU process waits for it.
Whoever asks may look at the tensors and must not write to them: there is nothing in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from evolve.problem import Problem
from evolve.types import Workload

MOST = 1024  # neighbours of timed sizes are drawn anew for each candidate
_Key: TypeAlias = tuple[Callable[..., Any], str, str]
_known: dict[_Key, tuple[Any, ...]] = {}


def without_data(problem: Problem, workload: Workload) -> tuple[Any, ...]:
    """What `make_inputs` gives on `meta`."""
    key = (problem.make_inputs, workload.name, repr(sorted(workload.params.items())))
    found = _known.get(key)
    if found is None:
        if len(_known) >= MOST:
            _known.clear()
        found = _known[key] = tuple(problem.make_inputs(workload, "meta", 0))
    return found
