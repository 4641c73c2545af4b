"""Numbers by search: a candidate's declared parameters, by ask and tell.

    tuner = Tuner(space, start=[parents_best, defaults, *priors(space)], random_seed=1, points=40, feasible=limits)
    while asked := tuner.ask(4):
        for point in asked:
            tuner.tell(point, time_us)          # or: tuner.tell(point, None, why="needs 300 KiB of shared memory")
    tuner.best

A space that fits into the budget is tried whole; in a larger one Optuna's TPE proposes. The same numbers told to the
same random seed give the same questions, and no point is asked twice. Beside it: `Limits`, which rules points out
before anything is built, `Race`, which spends samples on the leaders, and `nearest`, which answers for sizes that were
never tuned. What a point means, how it is built and timed, and what all that costs is the judge's business: nothing
here knows a kernel, a clock or a GPU.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from typing import Any, TypeAlias

from evolve.types import NOTHING, Scalar

Point: TypeAlias = Mapping[str, Scalar]
Feasible: TypeAlias = Callable[[Point], str | None]  # why a point cannot work; None: nothing is known against it
Key: TypeAlias = tuple[tuple[str, str], ...]

TRIES = 2  # proposals in a row that are known or ruled out, before another way is taken; each costs 4 ms
WALKABLE = 20_000  # points of a space that may be gone through one by one
INFEASIBLE = 1e3  # told to the sampler, whose other figures are logarithms of microseconds
STARTUP = (3, 10)  # random points before TPE has something to go by: a quarter of the budget, within these


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
    ) -> None:
        """`start` comes first, in this order; a point of it may lie outside the space, may name more than the space
        does, and is asked whatever `feasible` thinks, because somebody has reason to believe in it."""
        self.space = {name: _ordered(values) for name, values in space.items() if values}
        self.size = math.prod(len(values) for values in self.space.values())
        self.points = points
        self.trials: list[Trial] = []
        self._feasible: Feasible = feasible or (lambda point: None)
        self._random = random.Random(random_seed)
        self._asked: dict[Key, Point] = {}  # in the order of asking
        self._open: set[Key] = set()
        self._refused: dict[Key, tuple[Point, str]] = {}
        self._start = deque(self._completed(start))
        self._whole = self._shuffled() if self.size <= points else None
        self._sampler = None if self._whole is not None else _Sampler(self.space, random_seed, points)

    def ask(self, n: int = 1) -> list[Point]:
        """Up to `n` points, each of which is to be told. Fewer where the budget or the space ends; none: it is over."""
        found: list[Point] = []
        while len(found) < min(n, self.points) and len(self._asked) < self.points:
            point = self._next()
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

    def leaders(self, n: int) -> list[Trial]:
        return sorted((t for t in self.trials if t.value_us is not None), key=lambda t: t.value_us or 0.0)[:n]

    @property
    def refused(self) -> list[tuple[Point, str]]:
        """Points that were ruled out before anything was built, of those that came up."""
        return list(self._refused.values())

    # --- where points come from ---

    def _next(self) -> Point | None:
        while self._start:
            point = self._start.popleft()
            if key_of(point) not in self._asked:
                return point
        if self._whole is not None:
            return self._first(self._whole)
        return self._proposed() or self._first(self._neighbours()) or self._first(self._anywhere())

    def _proposed(self) -> Point | None:
        assert self._sampler is not None
        for _ in range(TRIES):
            point = self._sampler.ask()
            if self._usable(point):
                self._sampler.take(key_of(point))
                return point
        return None

    def _neighbours(self) -> list[Point]:
        """One step from the best in one parameter: where a sampler that repeats itself has settled."""
        if self.best is None:
            return []
        steps: list[Point] = []
        for name, values in self.space.items():
            at = next((i for i, v in enumerate(values) if repr(v) == repr(self.best.point.get(name))), None)
            for i in () if at is None else (at - 1, at + 1):
                if 0 <= i < len(values):
                    steps.append({**self.best.point, name: values[i]})
        self._random.shuffle(steps)
        return steps

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
    return tuple(sorted(distinct, key=float)) if _numbers(distinct) else distinct


def _numbers(values: Sequence[Scalar]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


class _Sampler:
    """Optuna's TPE over positions in the lists of values. Numbers keep their order, so that it sees that 128 lies
    between 64 and 256; what has no order is categorical; what has one value is left out."""

    def __init__(self, space: Mapping[str, tuple[Scalar, ...]], random_seed: int, points: int) -> None:
        import optuna  # late: whoever never tunes does not pay for it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._space = optuna, space
        kinds = optuna.distributions
        self._distributions: dict[str, Any] = {
            name: kinds.IntDistribution(0, len(values) - 1)
            if _numbers(values)
            else kinds.CategoricalDistribution(range(len(values)))
            for name, values in space.items()
            if len(values) > 1
        }
        startup = max(STARTUP[0], min(STARTUP[1], points // 4))
        sampler = optuna.samplers.TPESampler(seed=random_seed, multivariate=True, n_startup_trials=startup)
        self._study = optuna.create_study(sampler=sampler)
        self._taken: dict[Key, Any] = {}
        self._last: Any = None

    def ask(self) -> Point:
        """A proposal; unless it is taken, the next one makes it void."""
        if self._last is not None:
            self._study.tell(self._last, state=self._optuna.trial.TrialState.FAIL)
        self._last = self._study.ask(self._distributions)
        return {name: values[self._last.params.get(name, 0)] for name, values in self._space.items()}

    def take(self, key: Key) -> None:
        self._taken[key], self._last = self._last, None

    def tell(self, key: Key, point: Point, value: float) -> None:
        if key in self._taken:
            self._study.tell(self._taken.pop(key), value)
            return
        places = {name: _place(self._space[name], point[name]) for name in self._distributions}
        if None not in places.values():  # a start outside the space teaches nothing about positions in it
            make = self._optuna.trial.create_trial
            self._study.add_trial(make(params=places, distributions=self._distributions, value=value))


def _place(values: Sequence[Scalar], value: Scalar) -> int | None:
    return next((i for i, each in enumerate(values) if repr(each) == repr(value)), None)


# --- What cannot work, known before anything is built -----------------------------------------------------------------

ACCUMULATORS = 128  # float32 of a tile that one thread can hold beside everything else; twice that spills by hundreds
WARPS = 32


@dataclass(kw_only=True)
class Limits:
    """Rules over the usual names (BLOCK_*, num_warps, num_stages): each holds only where a point has all the names it
    needs. They are guesses about what the names mean, so `overrule` drops every rule that a built point contradicts."""

    shared_bytes: int  # most that one block may take
    element_bytes: int = 1  # of the narrowest input: too small refuses too little, which costs a build and no more
    dropped: set[str] = field(default_factory=set)

    def __call__(self, point: Point) -> str | None:
        return next(iter(self._against(point).values()), None)

    def overrule(self, point: Point) -> None:
        """This point was built, whatever is thought of it here."""
        self.dropped.update(self._against(point))

    def _against(self, point: Point) -> dict[str, str]:
        whole = {name: v for name, v in point.items() if isinstance(v, int) and not isinstance(v, bool)}
        said = {
            "powers": _not_powers(whole),
            "accumulators": _accumulators(whole),
            "shared": _shared(whole, self.shared_bytes, self.element_bytes),
        }
        return {rule: why for rule, why in said.items() if why and rule not in self.dropped}


def _not_powers(point: Mapping[str, int]) -> str:
    for name, value in point.items():
        if (name.startswith("BLOCK_") or name == "num_warps") and (value < 1 or value & (value - 1)):
            return f"{name}={value} is no power of two"
    if point.get("num_warps", 1) > WARPS:
        return f"num_warps={point['num_warps']}; a block has at most {WARPS}"
    return ""


def _accumulators(point: Mapping[str, int]) -> str:
    if not point.keys() >= {"BLOCK_M", "BLOCK_N", "num_warps"} or point["num_warps"] < 1:
        return ""
    each = point["BLOCK_M"] * point["BLOCK_N"] / (32 * point["num_warps"])
    return f"{each:g} accumulators a thread; more than {ACCUMULATORS} spill" if each > ACCUMULATORS else ""


def _shared(point: Mapping[str, int], most: int, element_bytes: int) -> str:
    """The tiles of a product that its pipeline keeps at once; one stage may be on its way through registers."""
    if not point.keys() >= {"BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages"}:
        return ""
    tile = (point["BLOCK_M"] + point["BLOCK_N"]) * point["BLOCK_K"] * element_bytes
    needs = tile * max(1, point["num_stages"] - 1)
    return f"its tiles need at least {needs:,} B of shared memory; there are {most:,}" if needs > most else ""


# --- Where to begin ---------------------------------------------------------------------------------------------------

# Of what wins on Hopper: square products, products of few rows, and attention's two block sizes.
_NAMES = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_stages", "num_warps")
_PRODUCTS = ((128, 256, 64, 3, 8), (128, 128, 64, 4, 4), (64, 128, 64, 4, 4), (64, 64, 128, 4, 4), (16, 64, 128, 4, 4))
_ATTENTION = ((128, 64, 3, 8), (128, 128, 3, 8), (128, 128, 3, 4))


def priors(space: Mapping[str, Sequence[Scalar]]) -> list[Point]:
    """Points that are worth a try before any search, as far as the space has their names and all of their values."""
    if not {"BLOCK_M", "BLOCK_N"} <= space.keys():
        return []
    product_like = "BLOCK_K" in space
    names = _NAMES if product_like else tuple(name for name in _NAMES if name != "BLOCK_K")
    rows = _PRODUCTS if product_like else _ATTENTION
    points = [{n: v for n, v in zip(names, row, strict=True) if n in space} for row in rows]
    return [point for point in points if all(value in space[name] for name, value in point.items())]


# --- Samples for those who may still win ------------------------------------------------------------------------------


class Race:
    """Successive looks: a few samples for all, more for those in front. Who is within `tie` of the leader stays in
    whatever the share, because noise must not decide; the last look decides by the median of all samples."""

    def __init__(
        self, points: Sequence[Point], *, looks: Sequence[int] = (3, 10, 30), keep: float = 0.4, tie: float = 0.01
    ) -> None:
        self._times: dict[Key, list[float]] = {key_of(point): [] for point in points}
        self._points = {key_of(point): point for point in points}
        self._running, self._waiting = list(self._points), set(self._points)
        self._looks, self._keep, self._tie = deque(looks), keep, tie

    def ask(self) -> list[tuple[Point, int]]:
        """Who is to be sampled now, and how often. Empty: it is decided."""
        if not self._looks or (len(self._running) < 2 and any(self._times.values())):
            return []
        return [(self._points[key], self._looks[0]) for key in self._running if key in self._waiting]

    def tell(self, point: Point, times_us: Sequence[float] | None) -> None:
        """None: it failed, and is out."""
        key = key_of(point)
        if key not in self._waiting:
            raise ValueError(f"told of {dict(point)}, which is not being sampled in this look.")
        self._waiting.remove(key)
        if times_us:
            self._times[key] += times_us
        else:
            self._running.remove(key)
        if not self._waiting:
            self._next_look()

    def _next_look(self) -> None:
        self._looks.popleft()
        ranked = sorted(self._running, key=self._median)
        share = math.ceil(len(ranked) * self._keep)
        close = self._median(ranked[0]) * (1 + self._tie) if ranked else 0.0
        self._running = [key for i, key in enumerate(ranked) if i < share or self._median(key) <= close]
        self._waiting = set(self._running)

    def _median(self, key: Key) -> float:
        return median(self._times[key])

    @property
    def best(self) -> Trial | None:
        """Of those still running, who have the most samples."""
        sampled = [key for key in self._running if self._times[key]]
        key = min(sampled, key=self._median, default=None)
        return None if key is None else Trial(point=self._points[key], value_us=self._median(key))


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
