"""What the rules member remembers of a run: which moves made each candidate, and who is best at what.

A line is the list of moves from the seed to a candidate. The front is what the best have that others lack: the moves of
the best overall, and those of whoever wins a workload that the best does not. It is a fold over events that needs no
source, so that a resumed run knows as much as one that was never interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evolve.rules.ails import ails
from evolve.types import Evaluation, Measurement, Scalar

WINS = 1.02  # by which another must be ahead on a workload, so that its moves are worth having: less may be noise
JOIN, NUMBERS = "join", "numbers again"  # steps without a move of their own
UNDO = "undo"


def named(new: Sequence[str], replayed: Sequence[str], bare: str = JOIN) -> str:
    """A step's moves as one name: what was tried, and what was taken over from other lines before."""
    head = " + ".join(new) or bare
    return f"{head} (with {' + '.join(replayed)})" if replayed else head


def read(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The new moves and the replayed ones of such a name."""
    found = re.fullmatch(r"(.*?)(?: \(with (.*)\))?", name)
    new, old = (found[1], found[2] or "") if found else (name, "")
    return tuple(m for m in new.split(" + ") if m not in ("", JOIN, NUMBERS)), tuple(m for m in old.split(" + ") if m)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A candidate that passed: its moves in order, and its figures."""

    moves: tuple[str, ...]
    score: float
    measurements: Mapping[str, Measurement]
    ailing: frozenset[str]


@dataclass(kw_only=True)
class Lines:
    moves: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by candidate, whatever became of it
    passed: dict[str, Made] = field(default_factory=dict)
    tried: set[frozenset[str]] = field(default_factory=set)  # sets of moves that some candidate was made of

    def add(self, name: str, parent: str | None, own: Sequence[str], evaluation: Evaluation) -> None:
        line = self.moves.get(parent or "", ())
        line = tuple(dict.fromkeys((*line, *own)))
        self.moves[name] = line
        self.tried.add(frozenset(line))
        self.judged(name, evaluation)

    def judged(self, name: str, evaluation: Evaluation) -> None:
        """A first figure, or one that replaces it."""
        if evaluation.passed:
            found = {m.workload: m for m in evaluation.measurements}
            line = self.moves.get(name, ())
            self.passed[name] = Made(moves=line, score=evaluation.score, measurements=found, ailing=ails(evaluation))
        else:
            self.passed.pop(name, None)

    @property
    def best(self) -> str | None:
        return max(self.passed, key=lambda name: self.passed[name].score, default=None)

    @property
    def ailing(self) -> frozenset[str]:
        """What ails the best."""
        return self.passed[self.best].ailing if self.best else frozenset()

    def winners(self) -> dict[str, str]:
        """By workload, who is fastest on it; the best overall where nobody is clearly ahead of it."""
        best = self.best
        if best is None:
            return {}
        found = {}
        for workload, own in self.passed[best].measurements.items():
            rivals = [name for name, made in self.passed.items() if workload in made.measurements]
            first = max(rivals, key=lambda name: self.passed[name].measurements[workload].ratio)
            ahead = self.passed[first].measurements[workload].ratio > own.ratio * WINS
            found[workload] = first if ahead else best
        return found

    def front(self) -> tuple[str, ...]:
        """The moves of the best, then what winners of single workloads have besides, each once and in their order."""
        best = self.best
        if best is None:
            return ()
        lines = [self.passed[name].moves for name in (best, *self.winners().values())]
        return tuple(dict.fromkeys(move for line in lines for move in line if move != UNDO))

    def numbers(self) -> dict[str, Mapping[str, Scalar]]:
        """For each workload what its winner ran at."""
        found = {w: self.passed[name].measurements[w].parameters for w, name in self.winners().items()}
        return {workload: parameters for workload, parameters in found.items() if parameters}
