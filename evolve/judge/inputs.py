"""Families of inputs that bring out what a sloppy kernel hides.

`fill` rewrites `value` arguments in place, so that storages, strides and shared memory stay as the problem made them;
indices, scalars and in-place arguments are left alone. It works on any device, with torch's generator there, and keeps
each tensor's root mean square (a problem's scaling of weights is part of the problem), but for the families whose
answers must be exact. Which families a stage runs, and with which seeds, is the stage's affair.

Widths follow the dtype: in float16 everything wide is shifted down by 2^-6, or honest sums would overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from evolve.problem import Problem
from evolve.types import digest_of

# "given" is what the problem makes itself, as a rule N(0,1).
FAMILIES = (
    *("given", "uniform", "log_uniform", "heavy_tail", "planted", "last_tile", "cancellation", "mixed"),
    *("one_hot", "integers"),
)
# Where the answer is representable, it must be met exactly: there is nothing to round.
EXACT = frozenset({"one_hot", "integers"})
# For problems with a softmax over q·k: the first two value arguments are scaled.
LOGITS = ("peaked", "flat", "extreme")
SCALED = {"peaked": 3.0, "flat": 2.0**-8, "extreme": 12.0}
# How much a relative error may grow for a good kernel, because the answer is that much smaller than its terms. Only in
# 32 bits and more: in fewer, rounding the answer itself hides what an honest accumulator loses.
AMPLIFIES = {"cancellation": 16.0}

SAID = {
    "given": "the problem's own inputs",
    "uniform": "inputs U(-1,1)",
    "log_uniform": "inputs of all magnitudes (log-uniform)",
    "heavy_tail": "heavy-tailed inputs",
    "planted": "inputs with 1 % planted outliers",
    "last_tile": "inputs that are zero except in the last tile of one dimension",
    "cancellation": "inputs whose sums nearly cancel",
    "mixed": "inputs with several magnitudes inside one tensor",
    "one_hot": "one-hot times integers",
    "integers": "integers times one-hot",
    "peaked": "peaked logits",
    "flat": "flat logits",
    "extreme": "extreme logits",
}

# Contracts that round operands before they multiply, and the bits that remain.
CONTRACT_BITS = {"tf32": 11, "bf16x3": 16, "tf32x3": 21}
LAST = 32  # the tail that a wrong loop drops is a tile at most; 32 is the smallest tile of a dot's long dimension

Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def families(problem: Problem) -> tuple[str, ...]:
    """Every kind of inputs that says something about this problem. Logits are recognised by the names q and k."""
    if problem.families:
        return problem.families
    names = [a.name for a in problem.arguments if a.role == "value"][:2]
    attention = len(names) == 2 and names[0].startswith("q") and names[1].startswith("k")
    return (*FAMILIES, *(LOGITS if attention else ()))


def significand_bits(dtype: torch.dtype, allows: frozenset[str] = frozenset()) -> int:
    """How many bits an integer may have and still go through the contract unharmed."""
    own = 1 - round(torch.log2(torch.tensor(torch.finfo(dtype).eps)).item())
    return min([own, *(CONTRACT_BITS.get(name, own) for name in allows)])


def fill(
    arguments: Sequence[Any],
    roles: Sequence[str],
    family: str,
    random_seed: int,
    *,
    allows: frozenset[str] = frozenset(),
) -> tuple[Any, ...]:
    """The same arguments, with the floating tensors of role `value` rewritten in place. `roles` goes with `arguments`,
    so without the problem's `out` ones; `allows` is the variant's."""
    tensors = [t for t, role in zip(arguments, roles, strict=True) if role == "value" and _can_take(t)]
    tensors = [t if t.ndim else t.reshape(1) for t in tensors]  # still the same storage
    for index, tensor in enumerate(tensors):
        rng = torch.Generator(tensor.device).manual_seed(_seed(random_seed, family, index))
        values = _values(tensors, index, family, random_seed, rng, allows)
        if values is not None:
            tensor.copy_(_in_range(values, tensor.dtype))
    return tuple(arguments)


def _can_take(value: Any) -> bool:
    """A tensor that stands on itself (an expanded one has several elements in one place) cannot be filled freely."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.numel() == 0:
        return False
    return all(stride or size == 1 for stride, size in zip(value.stride(), value.shape, strict=True))


def _seed(random_seed: int, family: str, index: int) -> int:
    return int(digest_of(f"{random_seed}/{family}/{index}"), 16) % 2**63


def _values(
    tensors: Sequence[torch.Tensor],
    index: int,
    family: str,
    random_seed: int,
    rng: torch.Generator,
    allows: frozenset[str],
) -> torch.Tensor | None:
    tensor = tensors[index]
    if family == "given":
        return None
    if family in SCALED:
        return tensor.float() * SCALED[family] if index < 2 else None
    if family in EXACT:
        return _exact(tensors, index, family, rng, allows)
    scale = tensor.float().square().mean().sqrt()
    if family == "last_tile":
        return _last_tile(tensors, index, random_seed)
    return DRAWS[family](tensor, rng) * torch.where(scale > 0, scale, torch.ones_like(scale))


# --- Draws of unit scale --------------------------------------------------------------------------------------------


def _rand(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return torch.rand(tensor.shape, generator=rng, device=tensor.device)


def _normal(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=rng, device=tensor.device)


def _shift(dtype: torch.dtype) -> float:
    return 2.0**-6 if dtype is torch.float16 else 1.0


def _spread(dtype: torch.dtype) -> float:
    return 8.0 if dtype.itemsize > 1 else 3.0


def _uniform(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    return _rand(tensor, rng) * 2 - 1


def _log_uniform(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    magnitude = torch.exp2((_rand(tensor, rng) * 2 - 1) * _spread(tensor.dtype))
    return magnitude * _rand(tensor, rng).sub(0.5).sign() * _shift(tensor.dtype)


def _heavy_tail(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Student's t with two degrees of freedom: its variance is infinite, so it is cut at the planted outliers' size."""
    most = 2.0 ** _spread(tensor.dtype)
    drawn = _normal(tensor, rng) / (-torch.log(_rand(tensor, rng).clamp_min(1e-9))).clamp_min(1e-9).sqrt()
    return drawn.clamp(-most, most) * _shift(tensor.dtype)


def _planted(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    factor = torch.where(_rand(tensor, rng) < 0.01, 2.0 ** _spread(tensor.dtype), 1.0)
    return _normal(tensor, rng) * factor * _shift(tensor.dtype)


def _cancellation(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The second half of the last dimension is nearly the opposite of the first, of the one before nearly the same:
    whichever of the two a product sums over, the sum grows for half of the way and then falls back to a sixteenth.
    (Opposite neighbours would cancel at once, and no accumulator would be strained.)"""
    drawn = _normal(tensor, rng)
    noise = 1 + _normal(tensor, rng) / AMPLIFIES["cancellation"]
    half = tensor.shape[-1] // 2
    if half:
        drawn[..., half : 2 * half] = -drawn[..., :half]
    if tensor.ndim > 1:
        half = tensor.shape[-2] // 2
        drawn[..., half : 2 * half, :] = drawn[..., :half, :].clone()
    return drawn * noise


def _mixed(tensor: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Stripes of 16 rows and 64 columns in turn from four families, so that no statistic of the tensor tells which."""
    columns = torch.arange(tensor.shape[-1], device=tensor.device) // 64
    kind = columns
    if tensor.ndim > 1:
        kind = kind[None, :] + (torch.arange(tensor.shape[-2], device=tensor.device) // 16)[:, None]
    kind = (kind % 4).expand(tensor.shape)
    drawn = _normal(tensor, rng) * _shift(tensor.dtype)
    drawn = torch.where(kind == 1, _log_uniform(tensor, rng), drawn)
    drawn = torch.where(kind == 2, _planted(tensor, rng), drawn)
    return torch.where(kind == 3, drawn * 2.0**-4, drawn)


DRAWS: dict[str, Draw] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "heavy_tail": _heavy_tail,
    "planted": _planted,
    "cancellation": _cancellation,
    "mixed": _mixed,
}


# --- Families about one tensor among several ------------------------------------------------------------------------


def _last_tile(tensors: Sequence[torch.Tensor], index: int, random_seed: int) -> torch.Tensor | None:
    """One tensor is zero but for its tail: the first along its last dimension, or the last along the one before."""
    tensor = tensors[index]
    first = random_seed % 2 == 0
    if index != (0 if first else len(tensors) - 1):
        return None
    dim = tensor.ndim - 1 if first or tensor.ndim == 1 else tensor.ndim - 2
    size = tensor.shape[dim]
    keep = torch.arange(size, device=tensor.device) >= size - min(LAST, max(1, size // 2))
    shape = [size if i == dim else 1 for i in range(tensor.ndim)]
    return tensor.float() * keep.reshape(shape)


def _exact(
    tensors: Sequence[torch.Tensor], index: int, family: str, rng: torch.Generator, allows: frozenset[str]
) -> torch.Tensor:
    """One tensor selects (a single 1 in each row, or in each column), the others hold odd integers that fill the
    significand: what comes out is one of them, and no order of summation can be blamed for a difference."""
    tensor = tensors[index]
    wide = [i for i, t in enumerate(tensors) if t.ndim > 1]
    selector = (wide[0] if family == "one_hot" else wide[-1]) if wide else 0
    if index == selector and len(tensors) > 1:
        return _selection(tensor, rng, along=-1 if family == "one_hot" or tensor.ndim == 1 else -2)
    bits = significand_bits(tensor.dtype, allows)
    low, high = 2 ** (bits - 1), 2**bits
    drawn = torch.randint(low, high, tensor.shape, generator=rng, device=tensor.device, dtype=torch.int64) | 1
    signs = torch.randint(0, 2, tensor.shape, generator=rng, device=tensor.device, dtype=torch.int64) * 2 - 1
    return (drawn * signs).to(torch.float64)


def _selection(tensor: torch.Tensor, rng: torch.Generator, *, along: int) -> torch.Tensor:
    dim = tensor.ndim + along
    size = tensor.shape[dim]
    shape = [1 if i == dim else n for i, n in enumerate(tensor.shape)]
    chosen = torch.randint(0, size, shape, generator=rng, device=tensor.device)
    zeros = torch.zeros(tensor.shape, device=tensor.device)
    return zeros.scatter_(dim, chosen, 1.0)


def _in_range(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A value beyond the dtype's largest would become infinite, or in some float8 NaN."""
    most = min(torch.finfo(dtype).max, torch.finfo(values.dtype).max)
    return values.clamp(-most, most).to(dtype)
