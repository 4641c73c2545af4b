"""One GPU of the cluster as the driver sees it: an actor that judges, the jobs it has, and how it ended if it did.

Ray restarts nothing here and repeats nothing: whether a candidate is judged again is `spread.py`'s to decide, and
whether a GPU gets another actor is `cluster.py`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from evolve.errors import EvolveError, MachineryError
from evolve.executors.cluster_known import Known
from evolve.executors.spread import CLOSED, Lost, Why, end
from evolve.types import Attempt, Evaluation, Job

PLACES = 6  # candidates in one judge's hands: enough that its GPU never waits, few enough that a death costs little


class ActorStation:
    def __init__(
        self,
        actor: Any,
        *,
        name: str,
        ranking_key: str,
        limit: float,
        known: Known,
        node_lives: Callable[[], bool],
    ) -> None:
        """`limit` is how many seconds a job may take there before the actor is killed for it."""
        self.name, self.ranking_key, self.places = name, ranking_key, PLACES
        self._actor, self._limit, self._known, self._node_lives = actor, limit, known, node_lives
        self._lock = threading.Lock()
        self._since: dict[Future[Evaluation], float] = {}
        self._late: set[Future[Evaluation]] = set()
        self.dead = False
        self.ended = ""  # what is known of why

    def begin(self, job: Job) -> Future[Evaluation]:
        done: Future[Evaluation] = Future()
        with self._lock:
            if self.dead:
                done.set_exception(Lost("beside", f"{self.name} had ended before it began."))
                return done
            self._since[done] = time.monotonic()
            told = self._actor.evaluate.remote(_slim(self._known.carried(job)))
        told.future().add_done_callback(lambda came: self._came(done, came))
        return done

    def kill_overdue(self, kill: Callable[[Any], object]) -> None:
        """The judge's own limits end what hangs; this is for the judge that hangs itself."""
        end = time.monotonic() - self._limit
        with self._lock:
            self._late |= {done for done, since in self._since.items() if since < end}
            if not self._late or self.dead:
                return
            self.dead = True
            self.ended = f"it was killed, for a candidate took more than {self._limit:.0f} s"
        kill(self._actor)

    def close(self) -> None:
        """Whoever waits is told, for no answer comes once Ray is gone."""
        with self._lock:
            self.dead = True
            waiting, self._since = list(self._since), {}
        for done in waiting:
            end(done, MachineryError(CLOSED))

    def _came(self, done: Future[Evaluation], came: Future[Any]) -> None:
        from ray.exceptions import RayTaskError

        error = came.exception()
        with self._lock:
            if self._since.pop(done, None) is None:
                return  # closed meanwhile
        if error is None:
            end(done, came.result())
        elif isinstance(error, RayTaskError):
            cause = error.cause  # a fault of the judge's own; where it arose is in Ray's error behind it
            told = cause if isinstance(cause, EvolveError) else MachineryError(f"{self.name}: {cause!r}")
            told.__cause__ = error
            end(done, told)
        else:
            self.dead, self.ended = True, self.ended or said_of(error)
            end(done, Lost(self._why(done, error), f"{self.name}: {said_of(error)}."))

    def _why(self, done: Future[Evaluation], error: BaseException) -> Why:
        """Who cannot be reached may be no more than cut off, and that is no candidate's doing."""
        if self._late:
            return "late" if done in self._late else "beside"
        return "worker" if not _unreachable(error) and self._node_lives() else "node"


def _slim(job: Job) -> Job:
    """Without the evidence of others, which no judge reads and which is most of what they are."""
    return replace(
        job,
        parent=replace(job.parent, evidence={}) if job.parent else None,
        incumbent=_bare(job.incumbent) if job.incumbent else None,
        incumbents={},
    )


def _bare(attempt: Attempt) -> Attempt:
    return replace(attempt, evaluation=replace(attempt.evaluation, evidence={}))


def _unreachable(error: BaseException) -> bool:
    from ray.exceptions import ActorUnavailableError

    return isinstance(error, ActorUnavailableError)


def said_of(error: BaseException) -> str:
    """What is worth telling of Ray's pages of it."""
    if _unreachable(error):
        return "it cannot be reached"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:300].rstrip(".")
