"""Holds an output against the reference: error over bound, where it is worst, and a sentence with a hint.

Works on tensors of any device and leaves them there; the reference comes in float64. No fixed tolerance a element: with
`rand` inputs at K = 16384 that passes kernels which drop the last 32 of K. What inputs were used and which output was
written at all is for the stages that run the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import pad

from evolve.judge import hints
from evolve.judge.inputs import AMPLIFIES, EXACT
from evolve.problem import Codes, Comparator, Custom, Exact, Norm, Ties

TILE = 128
LOCAL = 4.0  # a row or tile may be this much worse than the whole
FEW = 64  # elements below which a norm is no more than its noise; shorter rows are taken together
BASELINE = 1.5
# A row or tile may be off by so many times what the baseline's own is. Where two large terms nearly cancel, what both
# round on the way (attention's weights, to 16 bits) is far above the bound, and differs with the order of the blocks.
LIKE_BASELINE = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One output of one run. `ratio` is error over bound, the worst of tensor, rows and tiles; above 1 is wrong."""

    output: str
    error: float
    bound: float
    ratio: float
    where: str = ""
    sentence: str = ""

    @property
    def ok(self) -> bool:
        return self.ratio <= 1.0


def accepted(
    norm: Norm, *, baseline_error: float | None = None, family: str = "given", dtype: torch.dtype = torch.float32
) -> float:
    """The bound for these inputs. Where the answer is much smaller than its terms, the contract's ceiling does not
    apply; the baseline's own error does, and without a baseline the ceiling grows with the cancellation."""
    own = BASELINE * baseline_error if baseline_error is not None and math.isfinite(baseline_error) else 0.0
    if family in AMPLIFIES and dtype.itemsize >= 4:
        return max(norm.strict, own) if own else norm.at_most * AMPLIFIES[family]
    return min(norm.at_most, max(norm.strict, own))


def norm_error(out: torch.Tensor, ref: torch.Tensor) -> float:
    """‖out − ref‖ / ‖ref‖ over the tensor: what a baseline's error is."""
    return _Norms(out, ref).total


def compare(
    name: str,
    comparator: Comparator,
    out: torch.Tensor,
    ref: torch.Tensor,
    *,
    family: str = "given",
    baseline_error: float | None = None,
    inputs: Sequence[Any] = (),
    references: Mapping[str, torch.Tensor] | None = None,
    rival: torch.Tensor | None = None,
) -> Finding:
    """`references`, by output, are where `Ties` looks up the selected values. A row that is hard for `rival`, the
    baseline's answer, is hard."""
    if out.shape != ref.shape:
        sentence = f"{name} has shape {list(out.shape)}; the reference has {list(ref.shape)}."
        return Finding(output=name, error=math.inf, bound=0.0, ratio=math.inf, sentence=sentence)
    if out.numel() == 0:
        return Finding(output=name, error=0.0, bound=0.0, ratio=0.0)
    match comparator:
        case Norm():
            exact = family in EXACT and _representable(ref, out.dtype)
            if baseline_error is None and out.dtype.itemsize < 4:
                # Where a few elements carry the norm, rounding them once at the store may cost up to half a unit, far
                # above what it costs on average. The best kernel there is has that error.
                baseline_error = norm_error(ref.to(out.dtype), ref)
            bound = accepted(comparator, baseline_error=baseline_error, family=family, dtype=out.dtype)
            return _equal(name, out, ref, family) if exact else _within_norm(name, bound, out, ref, family, rival)
        case Exact():
            return _equal(name, out, ref, family)
        case Ties():
            return _ties(name, comparator, out, ref, inputs, references or {})
        case Codes():
            return _codes(name, comparator, out, ref)
        case Custom():
            error = float(comparator.error(out, ref, inputs))
            ratio = error if math.isfinite(error) else math.inf
            sentence = "" if ratio <= 1 else f"{name}: the problem's own measure gives {error:.3g}; at most 1 is right."
            return Finding(output=name, error=error, bound=1.0, ratio=ratio, sentence=sentence)


def untouched(name: str, before: torch.Tensor, after: torch.Tensor, ref: torch.Tensor) -> Finding:
    """Of an in-place argument, what the reference leaves as it was must stay bit-identical."""
    kept = ref == before.to(ref.dtype)
    wrong = kept & ~_same(after, before)
    return _counted(
        name, wrong, f"{name}: the reference leaves these elements as they were, and the kernel changes them"
    )


# --- Norms ----------------------------------------------------------------------------------------------------------


class _Norms:
    """Sums of squares of the error and of the reference, by row and by tile."""

    def __init__(self, out: torch.Tensor, ref: torch.Tensor) -> None:
        self.out, self.ref = _matrices(out.to(torch.float64)), _matrices(ref.to(torch.float64))
        self.wrong = _not_finite(self.out, self.ref, out.dtype)
        finite = torch.isfinite(self.out) & torch.isfinite(self.ref)
        self.error2 = torch.where(finite, self.out - self.ref, 0.0).square()
        self.ref2 = torch.where(finite, self.ref, 0.0).square()
        self.floor = _quantum(out.dtype) ** 2

    @property
    def total(self) -> float:
        if bool(self.wrong.any()):
            return math.inf
        count = float(self.error2.numel())
        return float((self.error2.sum() / (self.ref2.sum() + count * self.floor)).sqrt())

    def rows(self) -> tuple[torch.Tensor, int]:
        """Errors by row, and how many rows were taken together for want of elements."""
        width = self.error2.shape[-1]
        together = max(1, math.ceil(FEW / width))
        error, ref = self.error2.sum(-1).flatten(), self.ref2.sum(-1).flatten()
        if together > 1:
            more = -len(error) % together
            error, ref = (pad(x, (0, more)).reshape(-1, together).sum(-1) for x in (error, ref))
        return (error / (ref + together * width * self.floor)).sqrt(), together

    def tiles(self) -> torch.Tensor:
        error, ref, count = (_tiled(x) for x in (self.error2, self.ref2, torch.ones_like(self.ref2[:1])))
        found = (error / (ref + count * self.floor)).sqrt()
        return torch.where(count >= FEW, found, 0.0)


def _matrices(x: torch.Tensor) -> torch.Tensor:
    """Batches of matrices over the last two dimensions; a vector becomes rows of a tile's width."""
    if x.ndim >= 2:
        return x.reshape(-1, x.shape[-2], x.shape[-1])
    flat = x.reshape(-1)
    width = min(TILE, len(flat))
    return pad(flat, (0, -len(flat) % width)).reshape(1, -1, width)


def _tiled(x: torch.Tensor) -> torch.Tensor:
    batch, rows, columns = x.shape
    x = pad(x, (0, -columns % TILE, 0, -rows % TILE))
    return x.reshape(batch, x.shape[1] // TILE, TILE, x.shape[2] // TILE, TILE).sum((2, 4))


def _quantum(dtype: torch.dtype) -> float:
    """What an element may be off where the reference is zero or underflows: some of the dtype's smallest steps."""
    if not dtype.is_floating_point:
        return 1e-300
    info = torch.finfo(dtype)
    return 1e4 * info.smallest_normal * info.eps


def _not_finite(out: torch.Tensor, ref: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """NaN and Inf never pass unless the reference, rounded to the output's dtype, has the same there."""
    if not dtype.is_floating_point:
        return torch.zeros_like(ref, dtype=torch.bool)
    expected = ref.to(dtype).to(torch.float64)
    either = ~torch.isfinite(out) | ~torch.isfinite(expected)
    return either & ~((out == expected) | (torch.isnan(out) & torch.isnan(expected)))


def _within_norm(
    name: str, bound: float, out: torch.Tensor, ref: torch.Tensor, family: str, rival: torch.Tensor | None
) -> Finding:
    norms = _Norms(out, ref)
    if bool(norms.wrong.any()):
        return _odd(name, bound, norms)
    rows, together = norms.rows()
    tiles = norms.tiles()
    total = norms.total
    theirs = None if rival is None else _Norms(rival, ref)
    ratio = max(
        total / bound,
        _over(rows, LOCAL * bound, theirs.rows()[0] if theirs else None),
        _over(tiles, LOCAL * bound, theirs.tiles() if theirs else None),
    )
    finding = Finding(output=name, error=total, bound=bound, ratio=ratio)
    if ratio <= 1:
        return finding
    where = hints.where(norms.error2, rows, together, tiles)
    hint = hints.reason(norms.out, norms.ref, norms.error2, bound, ratio, family)
    sentence = f"{name}: error {total:.2e} against {bound:.2e} ({ratio:.3g} × the bound). {where} {hint}".strip()
    return replace(finding, where=where, sentence=sentence)


def _over(errors: torch.Tensor, limit: float, theirs: torch.Tensor | None) -> float:
    """The worst of them over its limit."""
    own = torch.zeros_like(errors) if theirs is None else theirs.nan_to_num(posinf=0.0)
    return float((errors / (LIKE_BASELINE * own).clamp_min(limit)).max())


def _odd(name: str, bound: float, norms: _Norms) -> Finding:
    count = int(norms.wrong.sum())
    at = hints.place(norms.wrong)
    what = "NaN" if bool(torch.isnan(norms.out[norms.wrong]).any()) else "infinite or finite where the reference is not"
    sentence = f"{name}: {count} elements are {what}, the first at {at}. {hints.unwritten(norms.wrong)}".strip()
    return Finding(output=name, error=math.inf, bound=bound, ratio=math.inf, where=at, sentence=sentence)


# --- The others -----------------------------------------------------------------------------------------------------


def _representable(ref: torch.Tensor, dtype: torch.dtype) -> bool:
    return bool((ref.to(dtype).to(ref.dtype) == ref).all())


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    b = b.to(a.dtype)
    return (a == b) | ((a != a) & (b != b))


def _equal(name: str, out: torch.Tensor, ref: torch.Tensor, family: str) -> Finding:
    why = (
        f"{name}: the answer for {hints.SAID_EXACT.get(family, 'this output')} must be exact"
        if family in EXACT
        else (f"{name}: every element must equal the reference")
    )
    finding = _counted(name, ~_same(out, ref), why)
    if finding.ok:
        return finding
    hint = hints.bits(out, ref) if family in EXACT else ""
    return replace(finding, sentence=f"{finding.sentence} {hint}".strip())


def _counted(name: str, wrong: torch.Tensor, why: str) -> Finding:
    count = int(wrong.sum())
    if not count:
        return Finding(output=name, error=0.0, bound=0.0, ratio=0.0)
    at = hints.place(wrong)
    sentence = f"{why}; {count} of {wrong.numel()} elements do not, the first at {at}."
    return Finding(output=name, error=count / wrong.numel(), bound=0.0, ratio=math.inf, where=at, sentence=sentence)


def _ties(
    name: str,
    comparator: Ties,
    out: torch.Tensor,
    ref: torch.Tensor,
    inputs: Sequence[Any],
    references: Mapping[str, torch.Tensor],
) -> Finding:
    """Another index is right where what it selects is as large; none may be selected twice."""
    indices = out.to(torch.int64)
    values = references.get(comparator.values)
    source = next((x for x in inputs if _selects_from(x, out)), None)
    if values is None or source is None:
        return _counted(name, indices != ref.to(torch.int64), f"{name}: indices must equal the reference's")
    size = source.shape[-1]
    outside = (indices < 0) | (indices >= size)
    picked = source.to(torch.float64).gather(-1, indices.clamp(0, size - 1))
    wrong = outside | ((picked - values).abs() > comparator.tolerance)
    ordered, order = indices.sort(-1)
    twice = torch.zeros_like(outside).scatter(-1, order[..., 1:], ordered[..., 1:] == ordered[..., :-1])
    return _counted(name, wrong | twice, f"{name}: each index must select a value that ties with the reference's, once")


def _selects_from(x: Any, out: torch.Tensor) -> bool:
    if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.ndim != out.ndim:
        return False
    return x.shape[:-1] == out.shape[:-1] and x.shape[-1] >= out.shape[-1]


def _codes(name: str, comparator: Codes, out: torch.Tensor, ref: torch.Tensor) -> Finding:
    steps = (_steps(out, out.dtype) - _steps(ref, out.dtype)).abs()
    worst = int(steps.max())
    ratio = worst / comparator.within if comparator.within else (math.inf if worst else 0.0)
    finding = Finding(output=name, error=float(worst), bound=float(comparator.within), ratio=ratio)
    if finding.ok:
        return finding
    at = hints.place(steps == worst)
    sentence = f"{name}: a code is {worst} steps from the reference's at {at}; at most {comparator.within} are allowed."
    return replace(finding, where=at, sentence=sentence)


def _steps(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Codes as consecutive integers. Floating codes (float8) are counted along their own number line."""
    if not dtype.is_floating_point:
        return x.to(torch.int64)
    raw = x.to(dtype).contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]).to(torch.int64)
    lowest = -(1 << (8 * dtype.itemsize - 1))
    return torch.where(raw < 0, lowest - raw, raw)
