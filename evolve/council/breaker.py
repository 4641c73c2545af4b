"""A circuit breaker: a member that fails again and again rests, for longer each time, and says so.

When its rest is over one call is let through; if that succeeds everyone is welcome again, and if not the rest doubles.
It knows nothing of why a call failed, and it does not wait: whoever comes too early is told, so that the council asks
another.
"""

from __future__ import annotations

from collections.abc import Callable

from evolve.errors import MemberUnavailable

FAILURES = 3  # calls in a row, their own retries included
FIRST = 30.0  # seconds of rest
LONGEST = 900.0
TRYING = 1.0  # until it is worth asking what became of the one call that tries


class Breaker:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._rests = 0  # in a row, for how long the next one is
        self._until: float | None = None  # None: nothing is wrong
        self._trying = False  # one call goes ahead, the others wait for what becomes of it
        self._why = ""
        self._returns = True  # by itself

    def admit(self) -> None:
        """Raise MemberUnavailable while it rests. Whoever is admitted says what became of the call, or `left`."""
        if self._until is None:
            return
        left = self._until - self._clock()
        if left > 0:
            again_in = left if self._returns else None
            raise MemberUnavailable(f"it rests for another {_time(left)}: {self._why}", again_in=again_in)
        if self._trying:
            raise MemberUnavailable(f"it is being tried again after a rest: {self._why}", again_in=TRYING)
        self._trying = True

    def succeeded(self) -> None:
        self._failures, self._rests, self._until, self._trying = 0, 0, None, False

    def failed(self, why: str) -> str:
        """How long it rests from now on, as a sentence's end; empty if it does not."""
        self._failures += 1
        resting = self._until is not None and self._until > self._clock()  # others failed meanwhile: one rest for all
        if (self._failures >= FAILURES or self._trying) and not resting:
            seconds = min(LONGEST, FIRST * 2**self._rests)
            self.rest(seconds, f"{self._failures} calls in a row failed, the last: {why}")
            self._rests += 1
            return f"; it rests for {_time(seconds)} now"
        self._trying = False
        return ""

    def rest(self, seconds: float, why: str, *, returns: bool = True) -> None:
        self._until, self._why, self._trying = self._clock() + seconds, why, False
        self._returns = returns

    def left(self) -> None:
        """The call was given up for reasons of the caller's: it proves nothing."""
        self._trying = False


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
