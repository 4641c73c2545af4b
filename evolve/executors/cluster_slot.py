"""Every GPU of the cluster has a slot here, and a slot has an actor: asked what it is, opened, at work, lost, again.

A state machine that is looked at once a second and never waits. A GPU that others hold leaves its actor waiting in
Ray's queue and nothing else. GPUs of one kind share the calibration of the first of them, so that their scores have the
same baselines; the others wait until it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolve.errors import EvolveError, UsageError
from evolve.executors.cluster_judge import Judge, Opening
from evolve.executors.cluster_known import Known
from evolve.executors.cluster_station import PLACES, ActorStation, said_of
from evolve.executors.spread import Spread
from evolve.judge.backends import Opened
from evolve.types import Json, Noted

CLOSING = 5.0  # seconds for judges to end in order
AGAIN = (1.0, 5.0, 30.0, 120.0)  # seconds before a lost actor's GPU gets the next one


@dataclass(eq=False, kw_only=True)
class Slot:
    node: str
    number: int  # of the GPUs of its machine
    gpus: float
    cores: int  # of the machine, its share
    actor: Any = None
    asked: Any = None  # the reference of what it was asked last
    kind: str = ""
    opened: Opened | None = None
    station: ActorStation | None = None
    failures: int = 0
    not_before: float = 0.0
    said: str = ""  # why the last one ended

    @property
    def name(self) -> str:
        """By Ray's own name for the machine: addresses have no place in a run's record."""
        return f"GPU {self.number} of node {self.node[:8]}" if self.gpus else f"the judge of node {self.node[:8]}"


@dataclass(kw_only=True)
class Slots:
    opening: Opening
    kept: list[Mapping[str, Json]]  # calibrations
    known: Known
    limit: float
    spread: Spread
    told: Callable[[Noted], object]
    refused: UsageError | None = None  # by the problem itself: no machine will do
    _slots: dict[tuple[str, int], Slot] = field(default_factory=dict)
    _calibrated: set[str] = field(default_factory=set)  # kinds that `kept` has, or need none

    # --- What others ask ----------------------------------------------------------------------------------------------

    def ready(self) -> list[Opened]:
        return [s.opened for s in list(self._slots.values()) if s.opened and s.station and not s.station.dead]

    @property
    def opening_some(self) -> bool:
        """Whether a GPU is on its way to being ready."""
        return any(s.actor is not None and s.opened is None for s in list(self._slots.values()))

    def why(self) -> str:
        """For the sentence that says that no GPU judges."""
        slots = list(self._slots.values())
        if not slots:
            return "The cluster has no machine with a GPU; `ray status` shows what it has."
        said = [f"{s.name}: {s.said}" for s in slots if s.said]
        waits = [s.name for s in slots if s.actor is not None and not s.kind]
        held = f"{', '.join(waits)}: not given to this run yet; others may hold it." if waits else ""
        return " ".join(filter(None, [f"Of {len(slots)} GPUs none is ready.", *said[:3], held]))

    # --- Once a second ------------------------------------------------------------------------------------------------

    def look(self) -> None:
        alive = {node["NodeID"]: node for node in _nodes() if node["Alive"]}
        for key in [key for key in self._slots if key[0] not in alive]:
            slot = self._slots.pop(key)
            self.told(Noted(what="lost", text=f"{slot.name} was lost: its machine is gone."))
            self._forget(slot)
        measured = self.opening.backend == "gpu" or any(_gpus(node) for node in alive.values())
        for node in alive.values():
            self._found(node, measured)
        for slot in self._slots.values():
            self._step(slot)

    def _found(self, node: Mapping[str, Any], measured: bool) -> None:
        """A slot for each GPU. A machine without any has one judge, where GPUs are neither asked for nor to be had."""
        gpus = _gpus(node) if self.opening.backend != "cpu" else 0
        count = gpus or (0 if measured and self.opening.backend != "cpu" else 1)
        for number in range(count):
            if (node["NodeID"], number) in self._slots:
                continue
            cores = max(1, int(node["Resources"].get("CPU", 1)) // count)
            slot = Slot(
                node=node["NodeID"],
                number=number,
                gpus=1.0 if gpus else 0.0,
                cores=cores,
            )
            self._slots[node["NodeID"], number] = slot

    def _step(self, slot: Slot) -> None:
        import ray

        if slot.actor is None:
            if time.monotonic() >= slot.not_before and not self.refused:
                self._start(slot)
        elif slot.station is not None:
            self._watched(slot, slot.station)
        elif slot.asked is None:
            self._open(slot)
        elif ray.wait([slot.asked], timeout=0)[0]:
            self._answered(slot)

    def _start(self, slot: Slot) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # No CPU is taken: what it needs of them are builds, which are tasks of their own, and would find none free.
        slot.actor = (
            ray.remote(Judge)
            .options(
                num_gpus=slot.gpus,
                num_cpus=0,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=PLACES + 2,  # two more, for its pulse and its end
                scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
            )
            .remote(self.opening, slot.cores)
        )
        slot.kind, slot.asked = "", slot.actor.kind.remote()

    def _answered(self, slot: Slot) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(slot.asked)
        except RayTaskError as error:
            if isinstance(error.cause, UsageError) and not self.ready():
                self.refused = error.cause
            self._lost(slot, str(error.cause if isinstance(error.cause, EvolveError) else error))
            return
        except RayError as error:
            self._lost(slot, said_of(error))
            return
        slot.asked = None
        if not slot.kind:
            slot.kind = answer
            self._open(slot)
        else:
            self._joined(slot, answer)

    def _open(self, slot: Slot) -> None:
        """Unless another GPU of its kind is being calibrated."""
        busy = {s.kind for s in self._slots.values() if s is not slot and s.asked is not None and s.station is None}
        if slot.kind in self._calibrated or slot.kind not in busy:
            slot.asked = slot.actor.open.remote(self.kept)

    def _joined(self, slot: Slot, opened: Opened) -> None:
        first = opened.calibration not in self.kept
        if first and opened.calibration:
            self.kept.append(opened.calibration)
        self._calibrated.add(slot.kind)
        slot.opened, slot.failures, slot.said = opened, 0, ""
        slot.station = ActorStation(
            slot.actor,
            name=slot.name,
            ranking_key=opened.ranking_key,
            limit=self.limit,
            known=self.known,
            node_lives=lambda: self._lives(slot.node),
        )
        data = {"ranking_key": opened.ranking_key, **({"calibration": opened.calibration} if first else {})}
        self.told(Noted(what="joined", text=f"{slot.name} joined: {opened.device}.", data=data))
        self.spread.add(slot.station)

    def _watched(self, slot: Slot, station: ActorStation) -> None:
        import ray
        from ray.exceptions import RayError

        station.kill_overdue(ray.kill)
        if slot.asked is None:
            slot.asked = slot.actor.kind.remote()  # its pulse: nobody else notices when an idle one dies
        elif ray.wait([slot.asked], timeout=0)[0]:
            try:
                ray.get(slot.asked)
                slot.asked = None
            except RayError as error:
                station.dead, station.ended = True, station.ended or said_of(error)
        if station.dead:
            self._lost(slot, station.ended)

    def _lost(self, slot: Slot, why: str) -> None:
        """Its GPU gets another actor, later with each time in a row that it did not get to judging."""
        slot.said = why.rstrip(".")
        self.told(Noted(what="lost", text=f"{slot.name} was lost: {slot.said}."))
        self._forget(slot)
        slot.not_before = time.monotonic() + AGAIN[min(slot.failures, len(AGAIN) - 1)]
        slot.failures += 1

    def _forget(self, slot: Slot) -> None:
        import ray

        if slot.station is not None:
            slot.station.dead = True
            self.spread.remove(slot.station)
        if slot.actor is not None:
            ray.kill(slot.actor)
        slot.actor = slot.asked = slot.opened = slot.station = None

    def _lives(self, node: str) -> bool:
        return any(each["NodeID"] == node and each["Alive"] for each in _nodes())

    def close(self) -> None:
        """In order where it can be had: an actor's processes end with it either way."""
        import ray

        slots = [slot for slot in self._slots.values() if slot.actor is not None]
        for slot in slots:
            if slot.station is not None:
                slot.station.close()
        if slots:
            ray.wait([s.actor.close.remote() for s in slots], num_returns=len(slots), timeout=CLOSING)
        for slot in slots:
            ray.kill(slot.actor)
        self._slots.clear()


def _gpus(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("GPU", 0))


def _nodes() -> list[Mapping[str, Any]]:
    import ray

    nodes: Any = ray.nodes
    return list(nodes())
