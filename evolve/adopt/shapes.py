"""Output shapes as expressions over the arguments, fitted to what was seen: `x.shape[0]`, `topk`, `tuple(q.shape)`.

Pure arithmetic; where nothing fits the answer is None and somebody else has to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one run had: shapes of the tensor arguments, values of the whole-number ones, and the output's shape."""

    shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, int]
    output: tuple[int, ...]


def fitted(runs: Sequence[Run]) -> str | None:
    """An expression for the whole shape, in terms of the arguments' names."""
    if not runs or len({len(run.output) for run in runs}) != 1:
        return None
    for name in runs[0].shapes:
        if all(run.shapes.get(name) == run.output for run in runs):
            return f"tuple({name}.shape)"
    dims = [_dim(runs, index) for index in range(len(runs[0].output))]
    if any(dim is None for dim in dims):
        return None
    return "(" + ", ".join(str(dim) for dim in dims) + ("," if len(dims) == 1 else "") + ")"


def _dim(runs: Sequence[Run], index: int) -> str | None:
    wanted = [run.output[index] for run in runs]
    atoms = list(_atoms(runs))
    for text, values in atoms:  # before constants: a dimension that is 8 everywhere may well be an argument
        if values == wanted:
            return text
    if len(set(wanted)) == 1:
        return str(wanted[0])
    for a, xs in atoms:
        for b, ys in atoms:
            if [x * y for x, y in zip(xs, ys, strict=True)] == wanted:
                return f"{a} * {b}"
            if all(y and x // y == w for x, y, w in zip(xs, ys, wanted, strict=True)):
                return f"{a} // {b}"
    return None


def _atoms(runs: Sequence[Run]) -> list[tuple[str, list[int]]]:
    first = runs[0]
    found = []
    for name, shape in first.shapes.items():
        if all(len(run.shapes.get(name, ())) == len(shape) for run in runs):
            found += [(f"{name}.shape[{i}]", [run.shapes[name][i] for run in runs]) for i in range(len(shape))]
    found += [(name, [run.numbers[name] for run in runs]) for name in first.numbers]
    return sorted(found, key=lambda atom: len(set(atom[1])) == 1)  # those that vary say more
