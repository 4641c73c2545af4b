"""Who of those that wait gets the GPU next: the most promising by the cost model, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST_PASSED = 4  # how often others may go first; what the model thinks little of is a guess


@dataclass(eq=False)
class _Waiting:
    promise: float
    passed: int = 0


class Turns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []  # in order of coming
        self._taken = False

    @contextmanager
    def turn(self, promise: float) -> Iterator[None]:
        """`promise`: the predicted time over the parent's; the smallest goes first."""
        self._wait(_Waiting(promise))
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    def _wait(self, mine: _Waiting) -> None:
        with self._changed:
            self._waiting.append(mine)
            try:
                while self._taken or self._first() is not mine:
                    self._changed.wait()
            except BaseException:
                self._waiting.remove(mine)
                self._changed.notify_all()
                raise
            for other in self._waiting[: self._waiting.index(mine)]:
                other.passed += 1
            self._waiting.remove(mine)
            self._taken = True

    def _first(self) -> _Waiting:
        late = [w for w in self._waiting if w.passed >= MOST_PASSED]
        return late[0] if late else min(self._waiting, key=lambda w: w.promise)
