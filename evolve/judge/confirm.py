"""The stage "confirm": a would-be best is judged once more, and this figure is the one that counts.

It is the same way as before with everything fresh: another process, seeds that derive from the run's secret anew,
the held-out workloads besides the known ones, every machine code built and compared. What fails here is told in one
fixed sentence, because the compiler's or an assertion's words would teach the council the hidden sizes; the evidence
keeps the truth for people.
"""

from __future__ import annotations

from evolve.judge.stages import Ruling
from evolve.types import Job, Role

KNOWN: tuple[Role, ...] = ("check", "time")
ALL: tuple[Role, ...] = ("check", "time", "held_out")
HIDDEN = (
    "It does not hold when it is confirmed on fresh inputs and on workloads that are not shown. "
    "Make it right for every size, layout and alignment it can be called with."
)


def roles(job: Job) -> tuple[Role, ...]:
    """The workloads that a job is lowered, checked and timed on."""
    return ALL if job.mode == "confirm" else KNOWN


def told(ruling: Ruling, job: Job) -> str:
    """What the council hears of a failure."""
    return HIDDEN if job.mode == "confirm" else ruling.feedback
