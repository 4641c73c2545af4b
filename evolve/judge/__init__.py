"""The judge: what counts, and nothing else counts.

A candidate is screened, lowered in a jail, gated, built by a trusted builder, checked against the problem's reference,
and timed. `pipeline.py` is that way in order; each stage is a file of its name. The judge sees problems and jobs; it
cannot see the search, and so cannot favour anyone.

Covered: see `evolve/data/redteam`, one executable cheat a file. Not covered: hardware that lies, a problem whose
reference is wrong in the same way as its baseline, and what the jail's kernel lets through.
"""

from __future__ import annotations

from typing import Protocol

from evolve.types import Evaluation, Job


class Backend(Protocol):
    """What judges on one kind of machine. `evaluate` may be called from several threads; it never raises for a
    candidate's fault. `close` kills every process it started, and may be called twice."""

    def evaluate(self, job: Job) -> Evaluation: ...

    def close(self) -> None: ...
