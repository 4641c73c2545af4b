"""Integer arithmetic of TTIR on whole samples of program instances: one array holds a scalar's value in each of them.

Only what sizes, indices and trip counts are made of. What is not known here is `None`, never a guess; overflow is not
modelled, since a launch whose indices overflow is wrong before it is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evolve.judge.ttir import Op

Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Value:
    """`numbers`: a scalar's value in each sampled program, None if unknown. `depends`: the scalars a tensor hangs on.
    `moving`: changes from one iteration of a loop to the next."""

    numbers: Numbers | None = None
    depends: frozenset[bytes] = frozenset()
    arguments: frozenset[int] = frozenset()
    moving: bool = False
    starts_at_program: bool = False


UNKNOWN = Value()


def _nonzero(b: Numbers) -> Numbers:
    """A division by zero is the candidate's own undefined value; any number will do, an exception will not."""
    return np.where(b == 0, 1, b)


def _truncated(a: Numbers, b: Numbers) -> Numbers:
    divisor = _nonzero(b)
    return np.abs(a) // np.abs(divisor) * np.sign(a) * np.sign(divisor)


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "addi": np.add,
    "subi": np.subtract,
    "muli": np.multiply,
    "divsi": _truncated,
    "remsi": lambda a, b: np.fmod(a, _nonzero(b)),
    "ceildivsi": lambda a, b: -(-a // _nonzero(b)),
    "floordivsi": lambda a, b: a // _nonzero(b),
    "minsi": np.minimum,
    "maxsi": np.maximum,
    "andi": np.bitwise_and,
    "ori": np.bitwise_or,
    "xori": np.bitwise_xor,
    "shli": lambda a, b: np.left_shift(a, np.clip(b, 0, 62)),
    "shrsi": lambda a, b: np.right_shift(a, np.clip(b, 0, 62)),
}
# Sizes are not negative, so unsigned is the same.
BINARY |= {
    name.replace("si", "ui"): BINARY[name] for name in ("divsi", "remsi", "minsi", "maxsi", "shrsi", "ceildivsi")
}
COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
SAME = ("extsi", "extui", "trunci", "index_cast", "index_castui", "bitcast", "assume")


def arithmetic(op: Op, operands: Sequence[Numbers | None]) -> Numbers | None:
    """The result of an operation on known scalars; None where it or one of them is not known."""
    known = [n for n in operands if n is not None]
    if not known or len(known) < len(operands):
        return None
    dialect, _, name = op.name.partition(".")
    if len(known) == 2 and ((dialect == "arith" and name in BINARY) or name == "addptr"):
        return np.asarray(BINARY.get(name, np.add)(*known), dtype=np.int64)
    if len(known) == 2 and name == "cmpi":
        compare = COMPARE.get(op.text.split(",")[0].strip().lstrip("su"), np.equal)
        return np.asarray(compare(*known), dtype=np.int64)
    if len(known) == 3 and name == "select":
        return np.where(known[0] != 0, known[1], known[2])
    return known[0] if name in SAME else None
