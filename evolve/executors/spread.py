"""Candidates spread over stations: who judges what, and what becomes of a candidate whose station ended under it.

A station is one GPU's judge, wherever it stands. Each takes a few candidates at once, because most of a judgement is
not the GPU's; the one with the fewest gets the next. A candidate whose station was lost is judged elsewhere, alone, and
blamed only if it is lost again; what is lost without end gets a verdict, so that nothing is retried for ever.

Here are threads and locks, not an event loop: stations answer from threads of their own, and a run opens more than one
loop. It knows no backend, no Ray and no journal.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from evolve.errors import MachineryError
from evolve.types import Attempt, Evaluation, Job, Verdict

CLOSED = "The executor is closed; nothing more is judged."
# worker: its process died. late: it was killed, for this candidate was overdue. node: its machine is gone.
# beside: another one was overdue. Only the first two say something about a candidate.
Why = Literal["worker", "late", "node", "beside"]
# How long a thread keeps the interpreter while others want it. Whoever holds a GPU exchanges messages with its process,
# and others parse and model meanwhile: with three of those a message took 15 ms at Python's own 5 ms, 0.3 ms at this.
TURN_SECONDS = 0.001
BLAMED_AT = 2  # the second time it was alone there
LOST_AT = 4  # machines that went under one candidate: spot machines do, but hardly so often by chance


def take_short_turns() -> None:
    """For a process that judges with several threads."""
    sys.setswitchinterval(min(sys.getswitchinterval(), TURN_SECONDS))


class Lost(Exception):
    """A station ended before its verdict."""

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why: Why = why


class Station(Protocol):
    """One GPU's judge. `begin` returns at once; its future ends in an evaluation, in `Lost`, or in MachineryError,
    after which the station is not asked again. `close` leaves nothing behind and may be called twice."""

    @property
    def name(self) -> str: ...

    @property
    def ranking_key(self) -> str: ...

    @property
    def places(self) -> int:
        """How many candidates it takes at once."""
        ...

    def begin(self, job: Job) -> Future[Evaluation]: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Order:
    """A job on its way to its verdict."""

    job: Job
    done: Future[Evaluation] = field(default_factory=Future)
    lost: list[tuple[Why, str]] = field(default_factory=list)
    broken: int = 0  # stations that gave up on it with a MachineryError

    @property
    def suspect(self) -> bool:
        """Judged with nothing beside it, so that whatever happens then is its own doing."""
        return any(why in ("worker", "late") for why, _ in self.lost)


@dataclass(eq=False)
class _Manned:
    station: Station
    at_work: list[Order] = field(default_factory=list)
    alone: Order | None = None  # for whom it is kept free

    def takes(self, order: Order) -> bool:
        if self.alone not in (None, order):
            return False
        return not self.at_work if order.suspect else len(self.at_work) < self.station.places


class Spread:
    """`submit` a job; `add` and `remove` stations at any time."""

    def __init__(self, told: Callable[[str], object] = lambda text: None) -> None:
        """`told` hears what a person should know, a sentence each, from any thread."""
        self._lock = threading.RLock()
        self._manned: list[_Manned] = []
        self._waiting: deque[Order] = deque()
        self._closed = False
        self._told = told

    @property
    def stations(self) -> tuple[Station, ...]:
        with self._lock:
            return tuple(m.station for m in self._manned)

    def present(self) -> Mapping[str, int]:
        """How many there are, by ranking key."""
        return Counter(station.ranking_key for station in self.stations)

    @property
    def waits(self) -> int:
        """Candidates that no station has taken yet."""
        with self._lock:
            return len(self._waiting)

    def submit(self, job: Job) -> Future[Evaluation]:
        order = Order(job)
        with self._lock:
            if self._closed:
                raise MachineryError(CLOSED)
            self._waiting.append(order)
        self._pump()
        return order.done

    def add(self, station: Station) -> None:
        with self._lock:
            self._manned.append(_Manned(station))
        self._pump()

    def remove(self, station: Station) -> None:
        """No further candidate goes there; those that are there end as they end."""
        with self._lock:
            self._manned = [m for m in self._manned if m.station is not station]

    def give_up(self, error: MachineryError) -> None:
        """Whoever waits is told that nobody will come."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for order in waiting:
            end(order.done, error)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
        for order in waiting:
            order.done.cancel()

    # --- Who goes where -----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while begun := self._next():
            manned, order = begun
            try:
                future = manned.station.begin(self._for(order.job, manned.station.ranking_key))
            except RuntimeError as error:  # its threads are shut: it was closed meanwhile
                future = Future()
                future.set_exception(MachineryError(f"{manned.station.name} is closed: {error}"))
            future.add_done_callback(lambda f, m=manned, o=order: self._over(m, o, f))  # type: ignore[misc]

    def _next(self) -> tuple[_Manned, Order] | None:
        with self._lock:
            for order in list(self._waiting):
                manned = self._place(order)
                if manned is None:
                    continue
                self._waiting.remove(order)
                if not order.done.running() and not order.done.set_running_or_notify_cancel():
                    continue  # whoever wanted to know has gone
                manned.at_work.append(order)
                return manned, order
            return None

    def _place(self, order: Order) -> _Manned | None:
        """The least busy of those that rank as the job wants; of any, where none of those is there."""
        fitting = [m for m in self._manned if m.station.ranking_key == order.job.ranking_key] or self._manned
        free = [m for m in fitting if m.takes(order)]
        if free:
            manned = min(free, key=lambda m: len(m.at_work))
        elif order.suspect and fitting and not any(m.alone is order for m in fitting):
            manned = min(fitting, key=lambda m: (m.alone is not None, len(m.at_work)))
            manned.alone = manned.alone or order
            return None
        else:
            return None
        if order.suspect:
            manned.alone = order
        return manned

    def _for(self, job: Job, key: str) -> Job:
        """The incumbent of one ranking is no measure in another."""
        incumbent: Attempt | None = job.incumbents.get(key, job.incumbent) if key else job.incumbent
        if incumbent is not None and key and incumbent.evaluation.ranking_key not in ("", key):
            incumbent = None
        return replace(job, incumbent=incumbent, peers=max(1, self.present().get(key, 1)))

    # --- What came of it ----------------------------------------------------------------------------------------------

    def _over(self, manned: _Manned, order: Order, future: Future[Evaluation]) -> None:
        error = CancelledError() if future.cancelled() else future.exception()
        with self._lock:
            manned.at_work.remove(order)
            for each in self._manned:
                if each.alone is order:
                    each.alone = None
            again = error is not None and self._goes_on(manned, order, error)
            if again:
                self._waiting.appendleft(order)
        if not again:
            if error is None:
                end(order.done, future.result())
            elif isinstance(error, Lost):
                end(order.done, MachineryError(CLOSED) if self._closed else _blamed(order, manned.station))
            else:
                end(order.done, error)
        self._pump()

    def _goes_on(self, manned: _Manned, order: Order, error: BaseException) -> bool:
        """Whether another station is to try."""
        if self._closed:
            return False
        if isinstance(error, Lost):
            self.remove(manned.station)
            order.lost.append((error.why, str(error)))
            whys = [why for why, _ in order.lost]
            blamed = sum(why in ("worker", "late") for why in whys) >= BLAMED_AT
            return not blamed and sum(why != "beside" for why in whys) < LOST_AT
        if not isinstance(error, MachineryError):
            return False
        self.remove(manned.station)
        order.broken += 1
        if not self._manned or order.broken > 1:
            return False
        self._told(f"{manned.station.name} judges no more: {error}")
        return True


def _blamed(order: Order, station: Station) -> Evaluation:
    why, text = order.lost[-1]
    times = len([each for each, _ in order.lost if each != "beside"])
    what = {
        "late": "It did not end in its time",
        "node": "The machine that judged it was lost",
    }.get(why, "The judge's process died under it")
    return Evaluation(
        verdict=Verdict.TIMEOUT if why == "late" else Verdict.RUNTIME_ERROR,
        feedback=f"{what}, {times} times by now, the last time with nothing beside it; it is not tried again. {text}",
        stage="executor",
        evidence={"lost": [{"why": why, "text": text} for why, text in order.lost]},
        ranking_key=station.ranking_key,
    )


def end(done: Future[Evaluation], came: Evaluation | BaseException) -> None:
    """Unless whoever waited has gone."""
    try:
        if isinstance(came, BaseException):
            done.set_exception(came)
        else:
            done.set_result(came)
    except InvalidStateError:
        return
