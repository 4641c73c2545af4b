"""`evolve init`: writes a problem, a seed and a configuration, judges the seed, and says what to do next.

What is written is `adopt/`'s affair; here is the order of things, and that a mistake leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from evolve.adopt import plain
from evolve.adopt.place import Place, free
from evolve.errors import UsageError
from evolve.judge.backends import gpu_present


@dataclass(frozen=True, kw_only=True)
class Order:
    name: str
    kernel: str | None = None
    reference: str | None = None
    model: Path | None = None


def make(order: Order, console: Console) -> int:
    """0 if what was written is fit for use."""
    if order.model and (order.kernel or order.reference):
        raise UsageError("--model with --kernel or --reference: a model is its own reference; leave the others out.")
    if bool(order.kernel) != bool(order.reference):
        raise UsageError(
            "--kernel and --reference go together: --kernel my.py:fn --reference ref.py:fn; the reference says what is "
            "right, and its file holds WORKLOADS and make_inputs(workload, device, random_seed), or get_inputs()."
        )
    place = free(order.name, seed=order.model is None)
    place.write(plain.texts(place, gpu=gpu_present()))
    _written(place, console)
    console.print(
        "They compute an RMS norm and run as they are; every field says what to put there instead.", soft_wrap=True
    )
    _next(place, console)
    return 0


def _written(place: Place, console: Console, *, seed: bool = True) -> None:
    for path in (place.problem, *([place.seed] if seed else []), place.config):
        console.print(f"wrote {path}", markup=False, highlight=False)


def _next(place: Place, console: Console) -> None:
    console.print("\nNext:", style="bold")
    for line in (
        f"  evolve check {place.problem}    is it fit for use, and does its seed pass",
        f"  evolve run --config {place.config}    evolve it",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
