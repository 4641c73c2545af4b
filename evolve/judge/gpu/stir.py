"""Contents that nobody has seen: some elements of every input overwritten by others of it, and what shows any change.

It moves elements inside inputs, at secret places, and takes sums over all of their bits. When that is done, and what
follows from a sum that differs, is `timing`'s and `worker`'s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from evolve.judge.gpu.engine import Engine
from evolve.judge.gpu.place import Placed

STIRRED = 64  # elements in a row: enough that a stale row stands out, few enough to cost nothing
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Stir:
    """Overwrites some elements of every input by others of the same input, in two launches for all sets together.

    Values stay what they were, so whatever a problem promises of its inputs still holds; places are secret."""

    def __init__(
        self, engine: Engine, sets: Sequence[Placed], kept: Sequence[torch.Tensor], rng: random.Random
    ) -> None:
        tensors = [t for s in sets for t in s.tensors("value").values()] + list(kept)
        moved = [t for t in tensors if t.is_floating_point() and t.numel() > 1]
        self._groups = [
            _Group(engine, [t for t in moved if t.element_size() == size], size, rng.getrandbits(62))
            for size in sorted({t.element_size() for t in moved})
        ]

    def __bool__(self) -> bool:
        """False where no input is floating: then contents repeat, and the evidence says so."""
        return bool(self._groups)

    def prepare(self, samples: int) -> None:
        """Draw the places for a whole block at once: between samples the host must be quick."""
        for group in self._groups:
            group.prepare(samples)

    def __call__(self, number: int) -> None:
        for group in self._groups:
            group.move(number)


class _Group:
    """All inputs of one element size, as places in one span of addresses with holes in it."""

    def __init__(self, engine: Engine, tensors: Sequence[torch.Tensor], size: int, random_seed: int) -> None:
        self._keep = tensors
        lowest = min(t.data_ptr() for t in tensors)
        highest = max(t.data_ptr() + _extent(t) for t in tensors)
        self._span = engine.span(lowest, (highest - lowest) // size * size).view(_SAME_SIZE[size])
        self._starts = torch.tensor([(t.data_ptr() - lowest) // size for t in tensors])
        counts = torch.tensor([_extent(t) // size for t in tensors])
        self._room = torch.arange(min(STIRRED, int(counts.min())), device=engine.device)
        self._choices = (counts - len(self._room) + 1).to(torch.float64)
        self._generator = torch.Generator().manual_seed(random_seed)
        self._places: torch.Tensor | None = None

    def prepare(self, samples: int) -> None:
        """[sample, from or to, tensor]: where a run of elements starts."""
        drawn = torch.rand((samples, 2, len(self._starts)), generator=self._generator, dtype=torch.float64)
        places = self._starts + (drawn * self._choices).to(torch.int64)
        self._places = places.to(self._room.device, non_blocking=True).unsqueeze(-1) + self._room

    def move(self, number: int) -> None:
        """From one run to another of the same tensor; of strided inputs also what lies between, which nobody reads.
        Where runs overlap some elements stay, which is as good."""
        assert self._places is not None
        source, target = self._places[number].flatten(1)
        self._span[target] = self._span[source]


def _extent(tensor: torch.Tensor) -> int:
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


def fingerprint(placed: Placed) -> torch.Tensor:
    """Two sums over all bits of each input, on the device: any single change shows, and so does an exchange."""
    tensors = [t for t in placed.tensors("value", "index").values() if t.numel()]
    return torch.stack([_sums(t) for t in tensors]) if tensors else torch.zeros(1)


def _sums(tensor: torch.Tensor) -> torch.Tensor:
    """Rows of 1024, so that the weights stay small; wraps around at 64 bits."""
    flat = tensor.as_strided((_extent(tensor) // tensor.element_size(),), (1,)).view(_SAME_SIZE[tensor.element_size()])
    rows = flat[: flat.numel() // 1024 * 1024].view(-1, 1024)
    weights = torch.arange(1, 1025, device=flat.device, dtype=torch.int64)
    columns = rows.sum(0, dtype=torch.int64)
    lines = rows.sum(1, dtype=torch.int64)
    rest = flat[rows.numel() :].to(torch.int64)
    places = torch.arange(1, rest.numel() + 1, device=flat.device, dtype=torch.int64)
    return torch.stack(
        [
            (columns * weights).sum() + (rest * places).sum(),
            (lines * (torch.arange(lines.numel(), device=flat.device, dtype=torch.int64) * 2 + 1)).sum() + rest.sum(),
        ]
    )
