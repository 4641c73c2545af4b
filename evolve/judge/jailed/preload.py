"""Imported once by the jail's server, so that no child pays for it.

It also makes torch and triton do once what they put off until first use: meta tensors and modes cost 0.8 s the first
time, Triton's code generator 0.2 s. Nothing here may start a thread: threads do not survive a fork.
"""

from __future__ import annotations

import numpy  # noqa: F401  the interpreter's arithmetic
import torch
import triton.compiler.code_generator
import triton.language.extra.libdevice  # noqa: F401
from triton.backends import backends

from evolve.judge.jailed import host, interpreting, lowering  # noqa: F401


def _first_use() -> None:
    torch.set_num_threads(1)
    a = torch.empty((32, 64), dtype=torch.float16, device="meta")
    with host.watched("meta", lambda tensor, zeroed: tensor):
        torch.zeros((3, 3), device=a.device)
        torch.empty_like(a).reshape(64, 32).view(-1)[3:].unsqueeze(0).expand(2, -1).permute(1, 0)
        a.new_empty((3, 1)).squeeze(1).transpose(0, 0)
        a.t()
        a.select(0, 0).narrow(0, 1, 2)


_first_use()
for backend in backends.values():
    _ = backend.compiler
