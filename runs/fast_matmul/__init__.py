"""matmul(a, b) in bf16, on an evolved Triton kernel.

    import fast_matmul
    fast_matmul.matmul(a, b)

It was evolved and judged by evolve; provenance.json says how and with what figures. It needs torch and triton and
nothing else.

So far the library runs everywhere: the kernel was verified on no device.
Gradients are computed by the backward that the problem defines, from the library's operations.
"""

import torch

from ._dispatch import KNOWN as _KNOWN
from ._dispatch import LIBRARY as _LIBRARY
from ._dispatch import RESTING as _RESTING
from ._dispatch import call as _call

__all__ = ["matmul"]
__version__ = "0.1.0"
_traced = torch.compiler.is_dynamo_compiling
_latest = _KNOWN.latest
_modes = torch._C._len_torch_dispatch_stack
_NOT_PLAIN = (AttributeError, NotImplementedError, RuntimeError, TypeError)


def matmul(a, b, *, out=None):
    """matmul in bf16: the kernel or the library, as dispatch.json says."""
    if _traced():
        return _call((a, b,), out)
    if _RESTING and out is None and not _modes():
        return _LIBRARY(a, b)
    try:
        known = _latest.get(a.numel() * 31 + b.numel())
    except _NOT_PLAIN:
        known = None
    # The guard says whether a call like this one was decided; modes of Python's it may overlook.
    if known is not None and out is None and known[0](a, b) and not _modes():
        return known[1](a, b)
    return _call((a, b,), out)
