"""Hides the GPU from a problem's own functions while this process asks them about the CPU.

It hides torch's way there and nothing else: a library that opens CUDA by itself is not held back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def untouched_gpu() -> Iterator[None]:
    """A problem's functions see no GPU. A library that they try on one would open a CUDA context in this process, which
    holds hundreds of megabytes, and which the judge on that GPU rightly takes for somebody else's."""
    cuda = cast("Any", torch.cuda)
    before = cuda.is_available, cuda._lazy_init
    cuda.is_available, cuda._lazy_init = (lambda: False), _no_cuda
    try:
        yield
    finally:
        cuda.is_available, cuda._lazy_init = before


def _no_cuda() -> None:
    raise RuntimeError("CUDA is not used here: what is examined on the CPU leaves the GPU to the judge")
