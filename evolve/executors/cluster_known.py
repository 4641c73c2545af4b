"""Digests of everything judged, where judges on other machines can ask for one.

With each job would go a list that grows with the run. So it lies once in an actor beside the driver, the driver sends
what is new, and a judge asks for the three or four digests that it comes upon. What cannot be asked is not known: the
cost is a twin that is judged again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from evolve.types import Job

CARRIED = 256  # so few travel with their job


class Ledger:
    """The actor."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {}

    def add(self, key: str, items: list[tuple[str, str]]) -> None:
        known = self._known.setdefault(key, {})
        for digest, name in items:
            known.setdefault(digest, name)

    def find(self, key: str, digest: str) -> str | None:
        return self._known.get(key, {}).get(digest)


@dataclass(frozen=True)
class Asking(Mapping[str, str]):
    """The list as a judge sees it: one look-up at a time."""

    ledger: Any
    key: str

    def __getitem__(self, digest: str) -> str:
        import ray
        from ray.exceptions import RayError

        try:
            found = ray.get(self.ledger.find.remote(self.key, digest), timeout=10)
        except RayError:
            found = None
        if found is None:
            raise KeyError(digest)
        return str(found)

    def __iter__(self) -> Iterator[str]:
        raise TypeError("the list of everything judged is asked, not read")

    def __len__(self) -> int:
        raise TypeError("the list of everything judged is asked, not read")


class Known:
    """The driver's side."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._sent: dict[str, int] = {}
        self._lock = threading.Lock()

    def carried(self, job: Job) -> Job:
        """The job as it travels. Mappings grow at their end and never change: the population's is such a one."""
        known = job.known
        if len(known) <= CARRIED or not isinstance(known, dict):
            return job
        with self._lock:
            new = len(known) - self._sent.get(job.ranking_key, 0)
            if new > 0:
                self._ledger.add.remote(job.ranking_key, list(islice(reversed(known.items()), new)))
                self._sent[job.ranking_key] = len(known)
        return replace(job, known=Asking(self._ledger, job.ranking_key))
