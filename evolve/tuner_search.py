"""The searches of one candidate's workloads, side by side: who is asked for more points, where, and when it is enough.

A workload without a better point among its last ones is left, once every point beside its best was tried; what leads on
one is tried on the others. A child asks few points at first, its parent's and what lies beside them: compilers, not the
GPU, are what a search waits for. Only one that contends with the best candidate may ask more, and most the one that
leads. A *familiar* child differs from its parent in nothing that suits sizes. Points are made ready and timed by
whoever asks; nothing here knows a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, TypeAlias

from evolve.tuner import Point, Tuner

Kin: TypeAlias = Literal["none", "strange", "familiar"]  # to a parent that was tuned

PATIENCE = 0.4  # of the points, without a better one among them, after which a workload is left
FAMILIAR = 0.15  # of a child of its parent's form, which starts from its parent's best
# Of the points, what a child may ask: before it is known how it does beside the best candidate, where it contends with
# that, and where it leads already.
FIRST: Mapping[Kin, float] = {"none": 1.0, "strange": 0.15, "familiar": 0.125}
CONTENDING, LEADING = 0.3, {"none": 1.0, "strange": 0.6, "familiar": 0.4}
# It contends at so much of the best one's speed: a new structure has more to gain by numbers of its own.
CONTENDS: Mapping[Kin, float] = {"none": 0.0, "strange": 0.93, "familiar": 0.97}
HOPELESS = 1 / 1.3  # of the best one's speed, on every workload
BETTER = 1.01
ALL_TRIED = "every point that it might have was tried"
BESIDE_TRIED = "every point beside the best was tried"


@dataclass(kw_only=True)
class Search:
    tuners: Mapping[str, Tuner]  # by workload
    points: int  # of each
    kin: Kin = "none"
    speed: float = 0.0  # of what was found, over the best candidate's
    hopeless: bool = False

    def ask(self, batch: int) -> list[tuple[str, Point]]:
        """So many points of each workload that has hope; none: it is over, and `over` says why."""
        most = self._most
        return [
            (name, point)
            for name, tuner in self._hopeful().items()
            for point in tuner.ask(min(batch, most - tuner.asked), near=self.kin != "none" or self._stale(tuner))
        ]

    def share(self, leaders: Sequence[Point]) -> None:
        for tuner in self.tuners.values():
            tuner.suggest(leaders)

    def compare(self, speeds: Mapping[str, tuple[float, float]]) -> None:
        """By workload: the best one's time over the best found here, and the workload's weight."""
        weight = sum(each for _, each in speeds.values())
        if weight <= 0:  # nothing to be compared with: it may be the best
            self.speed = 1.0
            return
        mean = 1.0
        for speed, each in speeds.values():
            mean *= speed ** (each / weight)
        self.speed = max(self.speed, mean)
        self.hopeless = self.kin != "none" and all(speed < HOPELESS for speed, _ in speeds.values())

    @property
    def over(self) -> str:
        """Why nothing more will be asked; empty as long as something may be."""
        if all(tuner.spent for tuner in self.tuners.values()):
            return ALL_TRIED
        if self.hopeless:
            return f"on every workload it is more than {1 / HOPELESS:.1f} times slower than the best"
        if all(tuner.asked >= self._most for tuner in self.tuners.values()):
            return f"it is at {self.speed:.2f} of the best candidate's speed after {self._most} points"
        if all(tuner.spent for tuner in self._hopeful().values()):
            return f"nothing better came up among the last {self._patience} points, nor beside the best"
        return ""

    @property
    def _most(self) -> int:
        share = FIRST[self.kin]
        if self.speed >= CONTENDS[self.kin]:
            share = max(share, LEADING[self.kin] if self.speed >= 1 else CONTENDING)
        return ceil(share * self.points)

    @property
    def _patience(self) -> int:
        return ceil((FAMILIAR if self.kin == "familiar" else PATIENCE) * self.points)

    def _hopeful(self) -> dict[str, Tuner]:
        """Workloads for which more points may be worth their builds: a child whose parent was tuned well is done soon.
        Nobody is left before every point beside the best was tried: on an H200 a square product was left after 20 of 72
        points with one stage too few, 8 % behind what trying them all finds."""
        pairs = self.kin != "familiar"
        return {n: t for n, t in self.tuners.items() if not self._stale(t) or not t.settled(pairs=pairs)}

    def _stale(self, tuner: Tuner) -> bool:
        """A space that fits into the budget is tried whole all the same."""
        return tuner.size > tuner.points and tuner.stale(BETTER) >= self._patience
