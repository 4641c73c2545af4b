"""How much of the problem's work a plan is seen to do: a floor under what a model may be told.

Without a GPU nothing runs at the timed sizes, so a kernel that skips most of its sum there, or stores one tile of the
answer, would be modelled as fast. What must be computed, moved and stored at least is the problem's own word; what the
launches do is counted from their TTIR, masked lanes included, so that the counts are never too low for honest code.
Honest kernels are counted at 1.0, Strassen's algorithm at 0.9, two levels of it at 0.77; `LEAST` lies below those, so
that a kernel which skips a quarter of its work at sizes that only a GPU can run is still not seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod

from evolve.judge.arguments import itemsize
from evolve.judge.counts import ATOMIC, Counts
from evolve.judge.plan import Plan
from evolve.problem import Problem
from evolve.types import Workload

LEAST = 0.7
# FLOPs a byte from which on a problem's FLOPs are products and sums that any code has to do; below, they are a matter
# of taste (how many for an exponential?), and bytes tell more.
TELLING = 8.0
STORES = ("tt.store", "tt.descriptor_store", "tt.descriptor_scatter", *ATOMIC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Of what the problem needs, what part is counted. `what` names the scarcest."""

    part: float
    what: str


ALL = Share(part=1.0, what="work")  # where nothing is asked for


def share_of(plan: Plan, counted: list[Counts], workload: Workload, problem: Problem) -> Share:
    found = {name: seen / need for name, (seen, need) in _needs(plan, counted, workload, problem).items() if need > 0}
    if not found:
        return ALL
    what = min(found, key=lambda name: found[name])
    return Share(part=found[what], what=what)


def _needs(
    plan: Plan, counted: list[Counts], workload: Workload, problem: Problem
) -> Mapping[str, tuple[float, float]]:
    """What is seen and what is needed, by what it is called."""
    flops = float(problem.flops(workload)) if problem.flops else 0.0
    moved = float(problem.bytes_moved(workload))
    if not isfinite(flops) or flops < TELLING * moved:
        flops = 0.0
    answer = sum(prod(view.shape) * itemsize(view.dtype) for view in plan.outputs)
    return {
        "FLOPs": (sum((c.flops + c.floating + c.special) * c.programs for c in counted), flops),
        "bytes moved": (sum(m.nbytes * m.times * c.programs for c in counted for m in c.moves), moved),
        "bytes stored": (
            sum(m.nbytes * m.times * c.programs for c in counted for m in c.moves if m.op in STORES),
            float(answer),
        ),
    }
