"""The launch plan: what a candidate's host function did, as data.

It is written by a jail and so untrusted; `gate.py` holds every claim against the schema, the workload and the limits
before anyone acts on it. The TTIR of each launch stands beside it in `Lowered.modules`, by its digest. Here stand only
the shapes of the data and their JSON; no judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evolve.types import Scalar

RootKind = Literal["input", "output", "scratch"]
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """One storage. Inputs and given outputs carry the argument's position; returned outputs and scratch are made anew
    by whoever runs the plan. `zeroed` is a memset before the launches of every run, and is timed."""

    name: str  # "in0", "out0", "scratch0"
    kind: RootKind
    nbytes: int
    argument: int | None = None
    zeroed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A tensor as the kernel sees it: a root from `offset` (in elements of `dtype`) with shape and stride."""

    root: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A host-side `TensorDescriptor` over a view."""

    view: View
    block_shape: tuple[int, ...]
    padding: str = "zero"


Argument: TypeAlias = View | Descriptor | bool | int | float


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One `kernel[grid](...)`. `arguments` are the kernel's non-constexpr parameters in order; `signature` gives their
    Triton types ("*bf16", "i32", "tensordesc<bf16[128,64]>") and "constexpr" for the rest, which stand in `constexprs`
    (specialised values such as an integer 1 among them)."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[tuple[str, Argument], ...]
    signature: tuple[tuple[str, str], ...]
    constexprs: tuple[tuple[str, Scalar | None], ...]
    options: tuple[tuple[str, int], ...]
    ttir: str  # digest of the module's text


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All launches of one workload at one parameter point. `outputs` are in the problem's order."""

    workload: str
    parameters: tuple[tuple[str, Scalar], ...]
    roots: tuple[Root, ...]
    launches: tuple[Launch, ...]
    outputs: tuple[View, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lowered:
    """What leaves the jail: plans and TTIR text, nothing else."""

    plans: tuple[Plan, ...]
    modules: Mapping[str, str]
