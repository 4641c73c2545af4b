"""Watches the host function: it may allocate, make views and launch; everything else is refused by name.

Two modes of torch do it. One sees the Python calls and answers for devices (`device="cuda"` means "where the inputs
are"); the other sees every operation that is dispatched and so also what a harmless looking `reshape` or `contiguous`
turns into. Launches are not seen here: `recorder.py` and `interpreting.py` take them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from evolve.judge.jailed.words import Refused

ALLOCATES = frozenset({"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "empty_permuted"})
ZEROES = frozenset({"zeros", "zeros_like", "new_zeros"})
VIEWS = frozenset(
    {
        *("alias", "as_strided", "detach", "diagonal", "expand", "movedim", "narrow", "permute", "select", "slice"),
        *(
            "split",
            "split_with_sizes",
            "squeeze",
            "swapaxes",
            "t",
            "transpose",
            "unbind",
            "unfold",
            "unsqueeze",
            "view",
        ),
        *("_reshape_alias", "lift_fresh"),
    }
)
FACTORIES = (torch.empty, torch.zeros, torch.empty_strided)
COPIES = {"clone", "_to_copy", "copy_", "contiguous"}

# (what torch would have allocated, on "meta"; whether it is zeroed) -> the tensor that the host gets
Allocate = Callable[[torch.Tensor, bool], torch.Tensor]


class _Devices(TorchFunctionMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        asked = given.get("device")
        if asked is not None:
            if torch.device(asked).type not in ("cuda", self.device.type):
                raise Refused(
                    f"a tensor on {asked}: the host may allocate beside its inputs only; write device=a.device."
                )
            given["device"] = self.device
        elif func in FACTORIES:
            raise Refused(f"torch.{func.__name__} without device= allocates on the CPU; write device=a.device.")
        return func(*args, **given)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, allocate: Allocate) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allocate = allocate

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in VIEWS:
            return func(*args, **(kwargs or {}))
        if name in ALLOCATES or name in ZEROES:
            made = func(*args, **{**(kwargs or {}), "device": torch.device("meta")})
            return self.allocate(made, name in ZEROES)
        why = "copies" if name in COPIES else "computes"
        raise Refused(f"aten.{name} {why}: the host may allocate, view and launch.")


@contextmanager
def watched(device: str, allocate: Allocate) -> Iterator[None]:
    with _Devices(torch.device(device)), _Operations(allocate):
        yield


@contextmanager
def unwatched() -> Iterator[None]:
    """For our own work in the middle of the host function: a launch."""
    with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
        yield
