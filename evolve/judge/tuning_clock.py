"""What a search asks of the device: one candidate's sitting, with quick times, duels and checks.

The device's own is `gpu.sitting`; the cpu backend's reads its times off the code. What is tried, and what is made of
the answers, is `tuning`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from evolve.judge.points import Maker, Shot
from evolve.judge.stages import Ready
from evolve.judge.statistics import Interval
from evolve.judge.tune import Tuning
from evolve.types import Json


class Sitting(Protocol):
    """One candidate at the device. Nothing here raises for a point that will not do."""

    @property
    def batch(self) -> int:
        """Points of one workload in one round."""
        ...

    @property
    def spent(self) -> str:
        """Why nothing more is timed for this candidate; empty as long as something is."""
        ...

    def quick(self, shots: Sequence[Shot]) -> Sequence[float | str]:
        """Microseconds, or why not."""
        ...

    def gains(self, leaders: Sequence[Shot]) -> Mapping[int, Interval] | None:
        """By id of the shot: what it gains over the candidate as it was checked, as a log-ratio from samples in pairs.
        None where quick times are exact; a leader that is missing did not get through."""
        ...

    def check(self, shots: Sequence[Shot]) -> Sequence[Mapping[str, float] | str]:
        """Is it right: the worst errors over their bounds by workload, none where nothing new is computed; or what is
        wrong."""
        ...

    def evidence(self) -> Mapping[str, Json]: ...


class Clock(Protocol):
    measures: bool  # False: it reads its times off the code

    def begin(self, ready: Ready, tuning: Tuning, maker: Maker) -> Sitting: ...
