"""Counts what kernels do while the interpreter runs them: bytes loaded and stored, FLOPs of products, programs.

The interpreter sees what no reading of the TTIR can: loops whose length lies in memory, branches on data, lanes that
masks leave out. Its loads and stores all pass through one native module, its products through one method; both are
wrapped while a candidate is called. What is counted here comes out of a jail and is a claim like everything else that
does: it sharpens a modelled time and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

NAMES = ("programs", "loaded_bytes", "stored_bytes", "flops")


class _Native:
    """Triton's native module with its doors counted."""

    def __init__(self, own: Any, counts: dict[str, float]) -> None:
        self._own, self._counts = own, counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self._counts["loaded_bytes"] += float(np.count_nonzero(mask)) * np.dtype(dtype).itemsize
        return self._own.load(pointers, mask, other, dtype)

    def store(self, pointers: Any, value: Any, mask: Any) -> Any:
        self._counts["stored_bytes"] += float(np.count_nonzero(mask)) * value.dtype.itemsize
        return self._own.store(pointers, value, mask)

    def atomic_rmw(self, operation: Any, pointers: Any, value: Any, mask: Any, sem: Any) -> Any:
        self._counts["stored_bytes"] += float(np.count_nonzero(mask)) * value.dtype.itemsize
        return self._own.atomic_rmw(operation, pointers, value, mask, sem)


@contextmanager
def counting() -> Iterator[dict[str, float]]:
    """What everything inside does, summed over its launches."""
    counts = dict.fromkeys(NAMES, 0.0)
    builder = interpreter.interpreter_builder
    native, dot, place = interpreter._interpreter, builder.create_dot, builder.set_grid_idx

    def counted_dot(a: Any, b: Any, *others: Any, **named: Any) -> Any:
        counts["flops"] += 2.0 * a.data.size * b.data.shape[-1]
        return dot(a, b, *others, **named)

    def counted_place(*index: Any) -> Any:
        counts["programs"] += 1
        return place(*index)

    interpreter._interpreter = _Native(native, counts)
    builder.create_dot, builder.set_grid_idx = counted_dot, counted_place
    try:
        yield counts
    finally:
        interpreter._interpreter = native
        del builder.create_dot, builder.set_grid_idx
