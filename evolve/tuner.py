"""Numbers by search: a candidate's declared parameters, by ask and tell.

    tuner = Tuner(space, start=[parents_best, defaults, *priors(space)], random_seed=1, points=40, feasible=limits)
    while asked := tuner.ask(4):
        for point in asked:
            tuner.tell(point, time_us)          # or: tuner.tell(point, None, why="needs 300 KiB of shared memory")
    tuner.best

A space that fits into the budget is tried whole; in a larger one Optuna's TPE proposes. The same numbers told to the
same random seed give the same questions, and no point is asked twice. Beside it `nearest`, which answers for sizes that
were never tuned; what is known of a point before anything is built stands in `tuner_known`. What a point means, how it
is built and timed, and what all that costs is the judge's business: nothing here knows a kernel, a clock or a GPU.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from evolve.tuner_sampler import Key as Key
from evolve.tuner_sampler import Sampler, are_numbers
from evolve.types import NOTHING, Scalar

Point: TypeAlias = Mapping[str, Scalar]
Pair: TypeAlias = tuple[str, str, int]  # two parameters, and 1 where they grow together, -1 where one for the other
Feasible: TypeAlias = Callable[[Point], str | None]  # why a point cannot work; None: nothing is known against it

TRIES = 2  # proposals in a row that are known or ruled out, before another way is taken; each costs 4 ms
WALKABLE = 20_000  # points of a space that may be gone through one by one
INFEASIBLE = 1e3  # told to the sampler, whose other figures are logarithms of microseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    point: Point
    value_us: float | None  # None: infeasible, and `why` says so
    why: str = ""


class Tuner:
    def __init__(
        self,
        space: Mapping[str, Sequence[Scalar]],
        *,
        start: Sequence[Point] = (),
        random_seed: int = 0,
        points: int = 40,
        feasible: Feasible | None = None,
        pairs: Sequence[Pair] = (),
        plain: Point = NOTHING,
        favour: Sequence[str] = (),
    ) -> None:
        """`start` comes first, in this order; a point of it may lie outside the space, may name more than the space
        does, and is asked whatever `feasible` thinks, because somebody has reason to believe in it. `pairs` are
        parameters that are worth a step together; `plain` says at what value a switch is off; steps of those to
        `favour` come before others."""
        self.space = {name: _ordered(values) for name, values in space.items() if values}
        self.size = math.prod(len(values) for values in self.space.values())
        self.points = points
        self.trials: list[Trial] = []
        self._feasible: Feasible = feasible or (lambda point: None)
        self._pairs = [pair for pair in pairs if {pair[0], pair[1]} <= self.space.keys()]
        self._favour = frozenset(favour)
        self._plain = {name: off for name, off in plain.items() if name in self.space}
        self._random = random.Random(random_seed)
        self._asked: dict[Key, Point] = {}  # in the order of asking
        self._open: set[Key] = set()
        self._refused: dict[Key, tuple[Point, str]] = {}
        self._start = deque(self._completed(start))
        self._whole = self._shuffled() if self.size <= points else None
        self._sampler = None if self._whole is not None else Sampler(self.space, random_seed, points)

    def ask(self, n: int = 1, *, near: bool = False) -> list[Point]:
        """Up to `n` points, each of which is to be told. Fewer where the budget or the space ends; none: it is over.
        With `near` only points beside the best: the sampler finds the valley and is slow to its bottom."""
        found: list[Point] = []
        while len(found) < min(n, self.points) and len(self._asked) < self.points:
            point = self._next(near)
            if point is None:
                break
            key = key_of(point)
            self._asked[key] = point
            self._open.add(key)
            self._refused.pop(key, None)
            found.append(point)
        return found

    def suggest(self, points: Sequence[Point]) -> None:
        """Points that somebody has reason to believe in by now: asked next, if they never were and may work."""
        for point in self._completed(points):
            if self._usable(point):
                self._start.append(point)

    def tell(self, point: Point, value_us: float | None, why: str = "") -> None:
        key = key_of(point)
        if key not in self._open:
            raise ValueError(f"told of {dict(point)}, which is not waiting; tell each point that was asked for, once.")
        if value_us is not None and not (math.isfinite(value_us) and value_us > 0):
            raise ValueError(
                f"told {value_us} µs for {dict(point)}; a time is positive and finite, None is infeasible."
            )
        self._open.remove(key)
        self.trials.append(Trial(point=point, value_us=value_us, why=why))
        if self._sampler:
            self._sampler.tell(key, point, INFEASIBLE if value_us is None else math.log(value_us))

    @property
    def asked(self) -> int:
        return len(self._asked)

    @property
    def spent(self) -> bool:
        """Nothing more will be asked. False says only that something may be: the rest could be infeasible."""
        return len(self._asked) >= self.points or (not self._start and len(self._asked) >= self.size)

    @property
    def best(self) -> Trial | None:
        """The fastest, and of equals the first."""
        return next(iter(self.leaders(1)), None)

    def stale(self, better: float) -> int:
        """Points told since the first that the best is less than `better` times as fast as."""
        best = self.best
        if best is None or best.value_us is None:
            return 0
        most = best.value_us * better
        first = next(i for i, t in enumerate(self.trials) if t.value_us is not None and t.value_us <= most)
        return len(self.trials) - first - 1

    def settled(self, *, pairs: bool = True) -> bool:
        """Every point beside the best was asked, or cannot work; without `pairs`, those one step away are enough."""
        return self._first(self._neighbours(pairs=pairs)) is None

    def leaders(self, n: int) -> list[Trial]:
        return sorted((t for t in self.trials if t.value_us is not None), key=lambda t: t.value_us or 0.0)[:n]

    @property
    def refused(self) -> list[tuple[Point, str]]:
        """Points that were ruled out before anything was built, of those that came up."""
        return list(self._refused.values())

    # --- where points come from ---

    def _next(self, near: bool) -> Point | None:
        while self._start:
            point = self._start.popleft()
            if key_of(point) not in self._asked:
                return point
        if self._whole is not None:
            return self._first(self._whole)
        if near:
            return self._first(self._neighbours())
        return self._proposed() or self._first(self._neighbours()) or self._first(self._anywhere())

    def _proposed(self) -> Point | None:
        assert self._sampler is not None
        for _ in range(TRIES):
            point = self._sampler.ask()
            if self._usable(point):
                self._sampler.take(key_of(point))
                return point
        return None

    def _neighbours(self, *, pairs: bool = True) -> list[Point]:
        """The best with a switch off, or one step from it in one parameter; then one step in each of a pair."""
        if self.best is None:
            return []
        best = self.best.point
        off: list[Point] = [{**best, name: value} for name, value in self._plain.items()]
        names = self._random.sample(list(self.space), len(self.space))
        names.sort(key=lambda name: name not in self._favour)
        steps: list[Point] = [{**best, name: v} for name in names for v in self._beside(best, name, (-1, 1))]
        further: list[Point] = [
            {**best, one: first, other: second}
            for one, other, sense in (self._pairs if pairs else ())
            for way in (-1, 1)
            for first in self._beside(best, one, (way,))
            for second in self._beside(best, other, (way * sense,))
        ]
        self._random.shuffle(further)
        return [*off, *steps, *further]

    def _beside(self, point: Point, name: str, ways: Sequence[int]) -> list[Scalar]:
        values = self.space[name]
        at = next((i for i, v in enumerate(values) if repr(v) == repr(point.get(name))), None)
        return [] if at is None else [values[at + way] for way in ways if 0 <= at + way < len(values)]

    def _anywhere(self) -> Iterator[Point] | list[Point]:
        if self.size <= WALKABLE:
            return self._shuffled()
        draws = range(WALKABLE // 10)
        return ({name: self._random.choice(values) for name, values in self.space.items()} for _ in draws)

    def _shuffled(self) -> list[Point]:
        points: list[Point] = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        self._random.shuffle(points)
        return points

    def _first(self, points: Iterator[Point] | list[Point]) -> Point | None:
        return next((point for point in points if self._usable(point)), None)

    def _usable(self, point: Point) -> bool:
        key = key_of(point)
        if key in self._asked:
            return False
        why = self._feasible(point)
        if why is not None:
            self._refused[key] = (point, why)
        return why is None

    def completed(self, point: Point) -> Point:
        """As it is asked where it comes first."""
        return self._completed([point])[0]

    def _completed(self, start: Sequence[Point]) -> list[Point]:
        """Each with all names of the space: what one leaves open is taken from the first that says it."""
        usual: dict[str, Scalar] = {name: values[0] for name, values in self.space.items()}
        for point in reversed(start):
            usual |= {name: value for name, value in point.items() if name in self.space}
        return [{name: point.get(name, usual[name]) for name in self.space} for point in start]


def key_of(point: Point) -> Key:
    """By repr: 1, 1.0 and True are equal in Python and not in a kernel."""
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def _ordered(values: Sequence[Scalar]) -> tuple[Scalar, ...]:
    distinct = tuple({repr(value): value for value in values}.values())
    return tuple(sorted(distinct, key=float)) if are_numbers(distinct) else distinct


# --- Sizes that were never tuned --------------------------------------------------------------------------------------

OTHERWISE = 4.0  # a flag or layout that differs weighs as much as a size that is 16 times another


def nearest(table: Sequence[tuple[Mapping[str, Scalar], Point]], params: Mapping[str, Scalar]) -> Point:
    """The parameters of the row whose sizes are nearest by their ratios, the first of equals; none of an empty table.
    By ratios, because tiles that suit 4096 suit 5000, and do not suit 900."""
    if not table:
        return NOTHING
    return min(table, key=lambda row: distance(row[0], params))[1]


def distance(one: Mapping[str, Scalar], other: Mapping[str, Scalar]) -> float:
    return sum(_apart(one.get(name), other.get(name)) for name in sorted({*one, *other}))


def _apart(a: Scalar | None, b: Scalar | None) -> float:
    if a == b and isinstance(a, bool) == isinstance(b, bool):
        return 0.0
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool) | isinstance(b, bool):
        return abs(math.log2(a / b)) if a > 0 and b > 0 else OTHERWISE
    return OTHERWISE
