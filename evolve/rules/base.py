"""What a rule is: a move that a kernel engineer would try, with its precondition, reason and what to look for after.

Nothing here knows Triton's text; that is `source.py` (where things stand), `symbols.py` (what a pointer points at) and
`match.py` (which loop is a dot loop). A rule never measures: whether a move pays is the judge's to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evolve.types import Scalar, Workload

if TYPE_CHECKING:
    from evolve.rules.source import Source


class No(Exception):
    """The rule does not apply; the message is the sentence that says why. Raised deep in a match, caught in `apply`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What is known beside the source. Everything but the random numbers may be missing."""

    random: random.Random
    workloads: tuple[Workload, ...] = ()
    target: str = "sm_90"
    triton: str = ""
    traits: Mapping[str, Scalar] = field(default_factory=dict)
    parameters: Mapping[str, Scalar] = field(default_factory=dict)  # the parent's best at its heaviest workload
    allows: frozenset[str] = frozenset()  # edits of precision that the variant's contract permits
    repeat: float = 0.0  # what two runs of one launch may differ by; 0: not a bit
    tuned: bool = False  # a tuner chooses numbers, so that a rule need not

    @property
    def version(self) -> tuple[int, ...]:
        """Of Triton; empty when unknown, which compares below everything."""
        digits = [part for part in self.triton.split(".")[:2] if part.isdigit()]
        return tuple(int(d) for d in digits)

    @property
    def hopper(self) -> bool:
        return self.target in ("sm_90", "sm_90a")


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """A rewritten file. `signature` maps SASS opcodes to what their count must be (">0", "=0") if the move took."""

    source: str
    hypothesis: str
    signature: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """`rewrite` returns the move or raises `No`. Where a rule knows several moves, `context.random` picks one."""

    name: str
    reason: str  # one sentence: why an engineer tries it
    rewrite: Callable[[Source, Context], Applied]
    weight: float = 1.0  # how early it is tried, before anything is known about it
    helps: frozenset[str] = frozenset()  # what it is a remedy for, of AILS; empty: for nothing in particular
    then: tuple[str, ...] = ()  # rules that make the move whole: taken in the same step, where they apply


# What may ail a parent, as the judge says or as its traits show.
AILS = ("compute", "memory", "latency", "launch", "few programs", "ragged waves", "spills", "no wgmma", "masks")
