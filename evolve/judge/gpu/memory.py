"""Buffers that a kernel cannot leave unnoticed.

Where the driver maps memory by page, every buffer is a mapping of its own, pushed against its end, with unmapped space
of random size on either side: a read or write past the end faults at once, and nothing can be stashed between buffers.
What is left of the first and last page holds a secret pattern that is looked at afterwards. Where pages cannot be
mapped, bands with that pattern are all there is; `kind` says which, and goes into the evidence.

Addresses are never used twice in a process: a pointer kept from an earlier call leads nowhere.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import torch

ALIGNMENT = 512  # what torch's own allocator gives; kernels were specialised for no less than 16
BAND_BYTES = 1 << 16


class Pages(Protocol):
    """What the driver must do to map by page."""

    @property
    def granularity(self) -> int: ...

    def place(self, nbytes: int, gap: int) -> int:
        """An address that no buffer of this process had before, `gap` bytes behind the last buffer."""
        ...

    def map(self, pointer: int, nbytes: int) -> int: ...

    def unmap(self, pointer: int, nbytes: int, handle: int) -> None: ...


class Buffer:
    """`body` is exactly `nbytes` of uint8; `before` and `after` hold the secret."""

    def __init__(self, whole: torch.Tensor, start: int, nbytes: int, secret: int) -> None:
        self.nbytes = nbytes
        self.whole = whole
        self.body = whole[start : start + nbytes]
        first_after = -(-(start + nbytes) // 8) * 8
        self._bands = (whole[:start], whole[first_after:])
        self._slack = whole[start + nbytes : first_after]
        self._secret = secret
        for band in self._bands:
            if band.numel():
                band.view(torch.int64).fill_(secret)
        self._slack.fill_(secret & 0xFF)

    @property
    def pointer(self) -> int:
        return self.body.data_ptr()

    def untouched(self) -> torch.Tensor:
        """A boolean on the device: the bands still hold the secret. Not waited for here."""
        same = (self._slack == (self._secret & 0xFF)).all()
        for band in self._bands:
            if band.numel():
                same = same & (band.view(torch.int64) == self._secret).all()
        return same


class Memory:
    """Allocates buffers and frees them together. One for each case that is checked or timed."""

    def __init__(self, device: str, pages: Pages | None, rng: random.Random) -> None:
        self._device = device
        self._pages = pages
        self._rng = rng
        self._secret = rng.getrandbits(62) | 1 << 61  # never all zeros, never a poison pattern
        self._buffers: list[Buffer] = []
        self._mapped: list[tuple[int, int, int]] = []

    @property
    def kind(self) -> str:
        return "unmapped gaps and canaries" if self._pages is not None else "canaries"

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)

    def allocate(self, nbytes: int) -> Buffer:
        nbytes = max(1, nbytes)
        buffer = self._paged(nbytes) if self._pages is not None else self._banded(nbytes)
        self._buffers.append(buffer)
        return buffer

    def _paged(self, nbytes: int) -> Buffer:
        assert self._pages is not None
        page = self._pages.granularity
        size = -(-(-(-nbytes // ALIGNMENT) * ALIGNMENT) // page) * page
        pointer = self._pages.place(size, self._rng.randrange(1, 65) * page)
        handle = self._pages.map(pointer, size)
        self._mapped.append((pointer, size, handle))
        whole = over(pointer, size, self._device)
        return Buffer(whole, size - -(-nbytes // ALIGNMENT) * ALIGNMENT, nbytes, self._secret)

    def _banded(self, nbytes: int) -> Buffer:
        size = -(-nbytes // ALIGNMENT) * ALIGNMENT + 2 * BAND_BYTES
        whole = torch.empty(size, dtype=torch.uint8, device=self._device)
        return Buffer(whole, BAND_BYTES, nbytes, self._secret)

    def untouched(self) -> bool:
        """Every band of every buffer. Waits for the device."""
        if not self._buffers:
            return True
        return bool(torch.stack([b.untouched() for b in self._buffers]).all().item())

    def free(self) -> None:
        """Only after the device is idle: unmapping under a running kernel is that kernel's illegal access."""
        self._buffers.clear()
        for pointer, size, handle in self._mapped:
            assert self._pages is not None
            self._pages.unmap(pointer, size, handle)
        self._mapped.clear()


class _Interface:
    """Lets torch look at memory that it did not allocate."""

    def __init__(self, pointer: int, nbytes: int) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": None,
            "version": 3,
        }


def over(pointer: int, nbytes: int, device: str) -> torch.Tensor:
    return torch.as_tensor(_Interface(pointer, nbytes), device=device)


def works(pages: Pages, device: str) -> bool:
    """Whether mapping by page does on this machine what it should; tried once, when a worker opens."""
    memory = Memory(device, pages, random.Random(0))
    try:
        buffer = memory.allocate(1000)
        buffer.body.fill_(7)
        right = int(buffer.body.sum(dtype=torch.int64).item()) == 7000 and memory.untouched()
        torch.cuda.synchronize()
        memory.free()
    except (RuntimeError, ValueError, AttributeError, TypeError):  # an old driver, a sandbox that forwards no mapping
        return False
    return right
