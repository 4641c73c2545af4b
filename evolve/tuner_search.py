"""The searches of one candidate's workloads, side by side: who is asked for more points, where, and when it is enough.

A workload without a better point among its last ones is left, once every point beside its best was tried; what leads on
one is tried on the others. A *familiar* candidate, whose parent was tuned, is asked beside its best from the start.
The bounds are the same for both. Points are made ready and timed by whoever asks; nothing here knows a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from evolve.tuner import Point, Tuner

PATIENCE = 0.4  # of the points, without a better one among them, after which a workload is left
FAMILIAR = 0.15  # of a child of its parent's form, which starts from its parent's best
BETTER = 1.01
ALL_TRIED = "every point that it might have was tried"


@dataclass(kw_only=True)
class Search:
    tuners: Mapping[str, Tuner]  # by workload
    points: int  # of each
    familiar: bool = False

    def ask(self, batch: int) -> list[tuple[str, Point]]:
        """So many points of each workload that has hope; none: it is over, and `over` says why."""
        return [
            (name, point)
            for name, tuner in self._hopeful().items()
            for point in tuner.ask(batch, near=self.familiar or self._stale(tuner))
        ]

    def share(self, leaders: Sequence[Point]) -> None:
        for tuner in self.tuners.values():
            tuner.suggest(leaders)

    @property
    def over(self) -> str:
        """Why nothing more will be asked; empty as long as something may be."""
        if all(tuner.spent for tuner in self.tuners.values()):
            return ALL_TRIED
        if all(tuner.spent for tuner in self._hopeful().values()):
            return f"nothing better came up among the last {self._patience} points, nor beside the best"
        return ""

    @property
    def _patience(self) -> int:
        return ceil((FAMILIAR if self.familiar else PATIENCE) * self.points)

    def _hopeful(self) -> dict[str, Tuner]:
        """Workloads for which more points may be worth their builds: a child whose parent was tuned well is done soon.
        Nobody is left before every point beside the best was tried: on an H200 a square product was left after 20 of 72
        points with one stage too few, 8 % behind what trying them all finds."""
        return {n: t for n, t in self.tuners.items() if not self._stale(t) or not t.settled(pairs=not self.familiar)}

    def _stale(self, tuner: Tuner) -> bool:
        """A space that fits into the budget is tried whole all the same."""
        return tuner.size > tuner.points and tuner.stale(BETTER) >= self._patience
