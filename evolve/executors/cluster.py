"""Judging on the GPUs of a Ray cluster, or of one machine through Ray: an actor a GPU, owning the judge's processes.

The driver is the run's one writer and the only one that knows the search; it sends jobs and gets evaluations. Once a
second it looks which machines there are: a GPU that joins gets an actor, one whose actor ended gets another after a
while, one whose machine is gone is forgotten. Ray itself retries nothing of a candidate's.

What each part does stands beside it: `cluster_judge` is what runs in an actor, `cluster_slot` its way there,
`cluster_station` the actor as the driver sees it, `cluster_builds` compiling, `cluster_known` the list of duplicates,
and `spread`, which the local executor shares, who gets which candidate.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import evolve
from evolve.errors import MachineryError, UsageError
from evolve.executors.cluster_judge import Opening, opening_of
from evolve.executors.cluster_known import Known, Ledger
from evolve.executors.cluster_slot import Slots
from evolve.executors.cluster_station import PLACES
from evolve.executors.spread import CLOSED, Spread
from evolve.judge.backends import Opened, Settings
from evolve.types import Evaluation, Job, Json, Noted

LOOK = 1.0  # seconds between two looks at the cluster
PATIENCE = 600.0  # seconds without any GPU, after which a run ends; it can be resumed
__all__ = ["PLACES", "ClusterExecutor", "open_cluster"]
STORE_BYTES = 512 << 20  # of a Ray of our own, which would take a third of the memory: evidence is all that lies there
ANSWER = 10.0  # seconds for a cluster's head to answer at all
START = 300.0  # seconds for the first GPU to be ready


class ClusterExecutor:
    def __init__(self, opening: Opening, kept: Sequence[Mapping[str, Json]], *, ours: bool, limit: float) -> None:
        """`ours` says that this Ray was started by us and goes with us."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray: Any = ray
        self._ours = ours
        self._heard: list[Noted] = []
        self._spread = Spread(lambda text: self._heard.append(Noted(what="warning", text=text)))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._ledger = ray.remote(num_cpus=0, max_restarts=0)(Ledger).options(scheduling_strategy=here).remote()
        self.slots = Slots(
            opening=opening,
            kept=list(kept),
            known=Known(self._ledger),
            limit=limit,
            spread=self._spread,
            told=self._heard.append,
        )
        self._since = time.monotonic()  # when there was last a GPU
        self._ended = threading.Event()
        self._broken: Exception | None = None
        self._watcher = threading.Thread(target=self._watch, name="cluster", daemon=True)
        self._watcher.start()

    @property
    def stations(self) -> int:
        return len(self._spread.stations)

    def present(self) -> Mapping[str, int]:
        return self._spread.present()

    def heard(self) -> list[Noted]:
        """What goes on record, once: GPUs that came and went."""
        heard, self._heard[:] = list(self._heard), []
        return heard

    async def evaluate(self, job: Job) -> Evaluation:
        if self._ended.is_set():
            raise MachineryError(CLOSED)
        if self._broken:
            raise MachineryError(f"the watch over the cluster broke: {self._broken}") from self._broken
        return await asyncio.wrap_future(self._spread.submit(job))

    def close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._watcher.join(timeout=10)
        self._spread.close()
        self.slots.close()
        self._ray.kill(self._ledger)
        if self._ours:
            self._ray.shutdown()

    def _watch(self) -> None:
        from ray.exceptions import RayError

        while not self._ended.wait(LOOK):
            try:
                self.slots.look()
            except (RayError, MachineryError) as error:  # the cluster's head is gone, and with it every judge
                self._broken = error
                self._spread.give_up(MachineryError(f"the Ray cluster does not answer: {error}"))
                return
            now = time.monotonic()
            if self._spread.stations or not self._spread.waits:
                self._since = now
            elif now - self._since > PATIENCE:
                self._spread.give_up(MachineryError(f"for {PATIENCE:.0f} s no GPU has judged. {self.slots.why()}"))


def open_cluster(
    settings: Settings,
    *,
    address: str | None,
    seed: str | None,
    calibration: Mapping[str, Json] | None = None,
    others: Sequence[Mapping[str, Json]] = (),
    limit: float | None = None,
) -> tuple[ClusterExecutor, Opened]:
    """The executor, and what the first GPU that stands ready is: the run's own kind, where it is resumed."""
    ours = _connected(address)
    kept = [*([calibration] if calibration else []), *others]
    executor = ClusterExecutor(
        opening_of(settings, seed, evolve.__version__),
        kept,
        ours=ours,
        limit=limit or settings.timeout * 4 + min(60.0, settings.timeout),
    )
    try:
        return executor, _first(executor.slots, calibration)
    except BaseException:
        executor.close()
        raise


def _first(slots: Slots, calibration: Mapping[str, Json] | None) -> Opened:
    """A resumed run waits for its own kind, as long as GPUs that might be it are still being opened."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if slots.refused:
            raise slots.refused
        ready = slots.ready()
        own = [each for each in ready if calibration is None or each.calibration == calibration]
        if own:
            return own[0]
        if ready and not slots.opening_some:
            return ready[0]
        time.sleep(0.05)
    raise MachineryError(f"executor ray: no GPU stood ready within {START:.0f} s. {slots.why()}")


def _connected(address: str | None) -> bool:
    """Whether this Ray is ours. One that the program runs in already is taken as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("executor ray: Ray is not installed here; `pip install 'evolve[cluster]'`.") from error
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    try:
        if address is None:
            ray.init("local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        else:
            ray.init(_answering(address), **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = f'ray.address "{address}"' if address else "a Ray of its own on this machine"
        raise UsageError(
            f"executor ray: {where}: {error}. Start one with `ray start --head` and `ray start --address=HEAD:6379`, "
            "see docs/cluster.md; a cluster that asks for a token needs RAY_AUTH_MODE=token here too. Without "
            "ray.address one is started for this machine alone."
        ) from error
    # Ray prints every death of a worker into the driver's terminal, `log_to_driver` or not; here they are events.
    printing: Any = ray._private.worker
    printing._worker_logs_enabled = False
    return True


def _answering(address: str) -> str:
    """host:port where something listens. Where nothing does, Ray ends the whole program after a minute."""
    from ray._private import services

    if "://" in address:
        raise ValueError("expected auto or HOST:PORT; the run is written on a machine of the cluster itself")
    found: str | None = services.canonicalize_bootstrap_address(address)
    if not found:
        raise ConnectionError("no Ray cluster was started on this machine")
    host, _, port = found.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
        return found
