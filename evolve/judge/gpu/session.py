"""One candidate's way past the GPU: a worker, a second chance after a fault, and the blame only when it is due.

A fault may be the candidate's, ours, or the machine's. After one, the device is probed in another process: a known
answer, and the baseline on the very workload. Then the candidate gets one retry in a third process. Only if it fails
again while the probe passed is it to blame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from evolve.errors import MachineryError
from evolve.judge.gpu.facts import workload_to
from evolve.judge.gpu.pool import WorkerFault
from evolve.judge.gpu.wire import WireError
from evolve.judge.stages import Ruling
from evolve.types import Verdict, Workload

PROBE_SECONDS = 60.0
MEMORY_TRIES, MEMORY_SECONDS = 10, 0.5
T = TypeVar("T")


class Asked(Protocol):
    """A worker as stages see it."""

    def ask(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]: ...


class Owned(Asked, Protocol):
    @property
    def opened(self) -> dict[str, Any]: ...

    def drop(self) -> None: ...


class Workers(Protocol):
    """`pool.Pool`, or a test's."""

    def take(self) -> Any: ...


class Session:
    def __init__(self, pool: Workers, *, baselines: Mapping[str, str], least_free_bytes: int = 0) -> None:
        """`baselines` by workload; `least_free_bytes` is what the device had at the start, less what is usual."""
        self._pool, self._baselines, self._least = pool, baselines, least_free_bytes
        self._worker: Owned | None = None
        self.faults: list[dict[str, Any]] = []

    @property
    def worker(self) -> Owned:
        if self._worker is None:
            self._worker = self._pool.take()
        assert self._worker is not None
        return self._worker

    def attempt(self, deed: Callable[[Asked], T], *, stage: str, workload: Workload, chances: int = 2) -> T:
        """Do it, twice if the worker is lost the first time and it has a second chance."""
        try:
            return deed(self.worker)
        except (WorkerFault, WireError) as error:
            first = self._lost(error)
        _unless_ours(first, workload)
        if chances < 2:
            raise self._blame(first, {}, stage, workload)
        probed = self._probe(workload)
        try:
            return deed(self.worker)
        except (WorkerFault, WireError) as error:
            second = self._lost(error)
        _unless_ours(second, workload)
        raise self._blame(second, probed, stage, workload)

    def once(self, deed: Callable[[Asked], T], *, workload: Workload) -> T:
        """Many points in one order: the fault that costs them their worker is raised and says which of them it was.
        Whoever asks next gets another worker."""
        try:
            return deed(self.worker)
        except (WorkerFault, WireError) as error:
            fault = self._lost(error)
        _unless_ours(fault, workload)
        raise fault

    def _lost(self, error: Exception) -> WorkerFault:
        fault = error if isinstance(error, WorkerFault) else WorkerFault("died", str(error))
        self.faults.append(fault.evidence())
        if self._worker is not None:
            self._worker.drop()
        self._worker = None
        return fault

    def _probe(self, workload: Workload) -> dict[str, Any]:
        """In a process of its own: what it finds must not depend on what the candidate left behind."""
        probe = self._pool.take()
        order = {"op": "probe", "workload": workload_to(workload), "baseline": self._baselines.get(workload.name)}
        try:
            found: dict[str, Any] = self._asked(probe, order)
        except (WorkerFault, WireError) as error:
            raise MachineryError(
                f"after a fault on {workload.name} the GPU does not answer a trusted kernel either: {error}. "
                f"Look at `nvidia-smi` and the kernel log; the candidate keeps its turn."
            ) from error
        finally:
            probe.drop()
        if not found.get("healthy"):
            raise MachineryError("after a fault the GPU gives a wrong answer to a known product; stop using it.")
        return found

    def _asked(self, probe: Asked, order: Mapping[str, Any]) -> dict[str, Any]:
        """Memory of a process that was killed comes back a moment later; if it does not, something is stuck."""
        found = probe.ask(order, seconds=PROBE_SECONDS)
        for _ in range(MEMORY_TRIES):
            if (found.get("free_bytes") or self._least) >= self._least:
                return found
            time.sleep(MEMORY_SECONDS)
            found = probe.ask({"op": "probe"}, seconds=PROBE_SECONDS)
        raise MachineryError(
            f"after a fault only {found['free_bytes'] >> 20} MiB of GPU memory are free, at least {self._least >> 20} "
            f"were before: a process of the candidate's is stuck. Look at `nvidia-smi`."
        )

    def _blame(self, fault: WorkerFault, probed: Mapping[str, Any], stage: str, workload: Workload) -> Ruling:
        verdict = Verdict.TIMEOUT if fault.kind == "hung" else Verdict.RUNTIME_ERROR
        evidence = {"faults": self.faults, "probe": dict(probed)}
        return Ruling(verdict, say(fault, workload), stage=stage, evidence=evidence)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.drop()
        self._worker = None


def _unless_ours(fault: WorkerFault, workload: Workload) -> None:
    """What no candidate can be blamed for: our own bugs, and a device too small for the reference."""
    if fault.kind == "error":
        raise MachineryError(f"a GPU process failed on {workload.name}: {fault.text}")
    if fault.kind == "memory" and not fault.in_candidate:
        raise MachineryError(
            f"too little GPU memory for workload {workload.name} ({fault.at.get('phase', 'open')}: {fault.text}). "
            f"Leave it out, or use a larger GPU."
        )


def say(fault: WorkerFault, workload: Workload) -> str:
    text = next(
        iter(fault.text.strip().splitlines()), "The GPU process failed"
    )  # the rest is torch's advice to programmers
    where = f'on workload "{workload.name}"'
    if fault.at.get("family"):
        where += f" ({fault.at['family']} inputs)"
    if fault.kind == "hung":
        return f"{text} {where}: the kernel did not end. Look for a loop or a spin-wait that has no end."
    if fault.kind == "memory":
        return f"{text} {where}: it asks for more scratch than the GPU has left."
    if "illegal" in fault.text or "misaligned" in fault.text:
        return (
            f"{text} {where}: a load or store leaves its buffer. Check masks at ragged edges, offsets, strides "
            f"and the sizes of descriptors."
        )
    return f"{text} {where}."
