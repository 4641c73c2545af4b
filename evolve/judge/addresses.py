"""Which bytes one program instance touches: TTIR's index tensors, computed for it as an interpreter would.

Only what addresses and masks are made of is computed, with numpy, from the launch's own arguments; loops are looked at
in their first turn. So a load's active lanes, the 32-byte sectors that it touches and how long its contiguous runs are
come out exactly, at full size, in milliseconds, and without running a line of the candidate's. Values loaded from
memory are unknown, and what depends on them is too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolve.judge.scalars import arithmetic
from evolve.judge.ttir import ITEMSIZE, Op

Tensor: TypeAlias = NDArray[np.int64]
SECTOR = 32  # bytes that the L2 moves at once
MOST = 1 << 18  # elements of a tensor that is looked at; larger ones stay unknown
NUMBERS = re.compile(r"(\w+) = (-?\d+)")
ORDER = re.compile(r"array<i32: ([\d, ]+)>")
DENSE = re.compile(r"dense<(-?\d+|true|false)>")


@dataclass(frozen=True, slots=True)
class Touch:
    """One execution of a load or store: what part of its lanes is active, bytes of the sectors touched, and the bytes
    of a contiguous run."""

    active: float
    sector_bytes: float
    run_bytes: float


def shaped(op: Op, operands: Sequence[Tensor | None]) -> Tensor | None:
    """A tensor's value in the chosen program; None where it is not known. Scalars come as arrays without a shape."""
    try:
        return _shaped(op, operands)
    except ValueError:  # shapes that do not go together: what is known by this name is another block's
        return None


def _shaped(op: Op, operands: Sequence[Tensor | None]) -> Tensor | None:
    shape = op.tile.shape
    if not shape or op.tile.numel > MOST:
        return None
    if op.name == "tt.make_range":
        found = dict(NUMBERS.findall(f"{op.text} {op.types}"))  # a type follows the first number
        return np.arange(int(found["start"]), int(found["end"]), dtype=np.int64)
    if op.name == "arith.constant":
        dense = DENSE.search(op.text)
        if not dense:
            return None
        return np.full(shape, {"true": 1, "false": 0}.get(dense[1]) if dense[1].isalpha() else int(dense[1]))
    if not operands or any(o is None for o in operands):
        return None
    first = operands[0]
    assert first is not None
    if op.name in ("tt.splat", "tt.broadcast"):
        return np.asarray(np.broadcast_to(first, shape))
    if op.name == "tt.expand_dims":
        return np.expand_dims(first, int(dict(NUMBERS.findall(op.text)).get("axis", 0)))
    if op.name == "tt.trans":
        order = ORDER.search(op.text)
        return np.transpose(first, [int(n) for n in order[1].split(",")]) if order else first.T
    if op.name == "tt.reshape":
        return first.reshape(shape)
    return arithmetic(op, operands)


def touched(pointers: Tensor, mask: Tensor | None, itemsize: int) -> Touch:
    """`pointers` in elements from the start of a storage, which is aligned."""
    flat = pointers.reshape(-1)
    active = np.ones(flat.shape, dtype=bool) if mask is None else np.broadcast_to(mask, pointers.shape).reshape(-1) != 0
    chosen = np.unique(flat[active])
    if not len(chosen):
        return Touch(0.0, 0.0, float(itemsize))
    sectors = len(np.unique(chosen * itemsize // SECTOR))
    runs = 1 + int((np.diff(chosen) != 1).sum())
    return Touch(float(active.mean()), float(sectors * SECTOR), len(chosen) * itemsize / runs)


def touch_of(op: Op, values: Mapping[str, Tensor]) -> Touch | None:
    """Of a load or store through pointers. None where its addresses are not known."""
    if not op.operands or op.operands[0] not in values:
        return None
    pointers: Any = values[op.operands[0]]
    if not pointers.ndim:
        return None
    at = 2 if op.name == "tt.store" or "atomic_rmw" in op.name else 1  # a store names its value before its mask
    mask = values.get(op.operands[at]) if len(op.operands) > at else None
    if mask is not None and mask.shape != pointers.shape:
        mask = None
    tiles = op.tiles()
    return touched(pointers, mask, ITEMSIZE.get(tiles[0].element, 1) if tiles else 4)
