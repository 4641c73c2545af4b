"""What the parts of the child tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolve.types import Workload


class Refused(Exception):
    """The kernel cannot be adopted; the message is a sentence for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """How the two functions are called with what make_inputs gives."""

    names: tuple[str, ...]  # the original's parameters that get a value, in its order
    reference: Mapping[str, str]  # the reference's parameter -> ours
    missing: tuple[str, ...] = ()  # the original's parameters without a value: outputs, as the reference tells


@dataclass(kw_only=True, slots=True)
class Trial:
    """One run of both. Tensors are as they were when the call came back."""

    workload: Workload
    given: dict[str, Any]  # before the call
    returned: list[Any]  # tensors, or the name of the argument that came back
    changed: dict[str, Any]  # arguments that were written to, as they are afterwards
    kept: dict[str, bool]  # of those: whether what was there before shows in what came out
    results: list[Any]  # what the reference returned
    written: dict[str, Any]  # what the reference wrote to
    narrow: bool = False  # the reference does not take float64, and got the inputs in their own type
    notes: list[str] = field(default_factory=list)
