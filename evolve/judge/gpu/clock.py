"""Where a worker's time goes, and whose fault the next fault is: every stretch of work says its phase first.

The parent learns each phase before it begins. If nothing more is heard, that is where it happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Tell = Callable[[dict[str, Any]], None]


class Phases:
    """`with phases("candidate", family="normal"):` tells the parent, and adds up seconds by phase."""

    def __init__(self, tell: Tell, limits: Mapping[str, float], **where: Any) -> None:
        self._tell, self._limits, self._where = tell, limits, where
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str, **more: Any) -> Iterator[None]:
        self.enter(phase, **more)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - began

    def add(self, other: Phases) -> None:
        for phase, seconds in other.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def enter(self, phase: str, **more: Any) -> None:
        """Without a clock: for phases that follow each other inside a longer stretch."""
        limit = self._limits.get(phase, self._limits.get("other", 60.0))
        self._tell({"at": {"phase": phase, **self._where, **more}, "seconds": limit})
