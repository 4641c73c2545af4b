"""Workers for the GPU: a fresh process for each candidate, and some standing by with their contexts open.

The parent's half: it starts the fork server, asks for workers, talks to them, and kills them. It never opens CUDA and
knows nothing of kernels. To open and rehearse takes a process more than a second; standbys do that while others are
judged, and hold still while others are timed. One standby is not enough where most of the time is timing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import evolve
from evolve.errors import MachineryError
from evolve.judge.gpu.server import MARK, mark_of, sweep
from evolve.judge.gpu.wire import Channel, Closed, Malformed, Silent, WireError
from evolve.types import NOTHING

WORKER = "evolve.judge.gpu.worker:main"
START_SECONDS = 120.0  # the first import of torch on a cold disk
OPEN_SECONDS = 60.0  # a context, a problem file and its first library handle
FINAL_SECONDS = 600.0  # no single order may take longer, whatever a worker says about its own limits
# API keys and tokens have no business beside a GPU; what is not named here stays behind.
_KEEP = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH")
_KEEP_PREFIXES = ("NVIDIA_", "TORCHINDUCTOR_", "TRITON_")

FaultKind = Literal["hung", "died", "cuda", "memory", "error"]


class WorkerFault(Exception):
    """A worker ended without its final record. `at` is the last place it named: whose kernel, which workload."""

    def __init__(self, kind: FaultKind, text: str, at: Mapping[str, Any] = NOTHING) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.at = dict(at)

    @property
    def in_candidate(self) -> bool:
        return self.at.get("phase") == "candidate"

    def evidence(self) -> dict[str, Any]:
        at = {name: value for name, value in self.at.items() if name != "done"}  # what was found before is no fault
        return {"kind": self.kind, "text": self.text[-2000:], "at": at}


class Worker:
    """One GPU process. After any fault it is dead, and `ask` must not be called again."""

    def __init__(self, server: Server, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.opened: dict[str, Any] = {}
        self._server = server
        self._channel = channel
        self._at: dict[str, Any] = {}

    def post(self, message: Mapping[str, Any]) -> None:
        self._channel.send(message)

    def ask(self, message: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Send an order and wait for its final record. `seconds` is the longest silence; a worker that says where it
        is ("at") may say how long it may be silent there."""
        try:
            self.post(message)
        except WireError as error:
            raise self._fault("died", str(error)) from error
        return self.wait(seconds=seconds)

    def wait(self, *, seconds: float) -> dict[str, Any]:
        deadline, silence = time.monotonic() + FINAL_SECONDS, seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                reply = self._channel.receive(seconds=min(silence, left))
            except Silent as error:
                raise self._fault("hung", f"nothing was heard for {min(silence, left):.1f} s") from error
            except (Closed, Malformed) as error:
                raise self._fault("died", str(error)) from error
            if "at" in reply:
                self._at, silence = _as_dict(reply["at"]), _as_seconds(reply.get("seconds"), seconds)
            elif "fault" in reply:
                raise self._fault(_as_kind(reply["fault"]), str(reply.get("text", ""))[-4000:])
            else:
                return reply

    def _fault(self, kind: FaultKind, text: str) -> WorkerFault:
        status = self.kill()
        if kind == "died" and status is not None:
            text = f"the process ended with status {status} and no final record ({text})"
        return WorkerFault(kind, text, self._at)

    def kill(self) -> int | None:
        """SIGKILL to the whole group, and its exit status. A process with a kernel in flight dies in about 0.1 s."""
        try:
            self._server.command({"do": "kill", "pid": self.pid})
            status = self._server.command({"do": "reap", "pid": self.pid, "seconds": 20.0}, seconds=40.0).get("status")
        except WireError:
            return None  # the server is gone, and its workers with it
        finally:
            self.hang_up()
        return status if isinstance(status, int) else None

    def drop(self) -> None:
        """Done with it: SIGKILL, and nobody waits. Its context is torn down while the next one works."""
        with contextlib.suppress(WireError):
            self._server.command({"do": "drop", "pid": self.pid})
        self.hang_up()

    def hang_up(self) -> None:
        """A worker that is told nothing more ends by itself."""
        self._channel.close()
        self._server.workers.discard(self)

    def pause(self) -> None:
        with contextlib.suppress(WireError):
            self._server.command({"do": "pause", "pid": self.pid})

    def resume(self) -> None:
        with contextlib.suppress(WireError):
            self._server.command({"do": "resume", "pid": self.pid})


class Server:
    """The fork server as the parent sees it."""

    def __init__(self, *, entry: str, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._channel = Channel(ours)
        self._lock = threading.Lock()
        self.workers: set[Worker] = set()
        self.forked: set[int] = set()  # all of them: one that was dropped may stay on the GPU's list for a moment
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evolve.judge.gpu.server", str(theirs.fileno()), entry, *preload],
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
            )
        try:
            self._channel.receive(seconds=START_SECONDS)
        except WireError as error:
            self.close()
            raise MachineryError(
                f"the GPU fork server did not start: {error} What it wrote to stderr says why."
            ) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def command(self, message: Mapping[str, Any], *, seconds: float = 10.0) -> dict[str, Any]:
        with self._lock:
            self._channel.send(message)
            return self._channel.receive(seconds=seconds)

    def fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            self._channel.send({"do": "fork"})
            socket.send_fds(self._control, [b"\0"], [theirs.fileno()])
            pid = int(self._channel.receive(seconds=10.0)["pid"])
        worker = Worker(self, pid, Channel(ours, ahead=True))
        self.workers.add(worker)
        self.forked.add(pid)
        return worker

    def close(self) -> None:
        """Closing the socket ends the server and every worker of it; SIGKILL only if it does not."""
        self._channel.close()
        for worker in list(self.workers):
            worker.hang_up()
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pool:
    """A server, the workers at work, and those that stand by. `opening` is what each fresh worker is told first."""

    def __init__(
        self,
        *,
        opening: Mapping[str, Any],
        environment: Mapping[str, str] = NOTHING,
        entry: str = WORKER,
        preload: Sequence[str] = ("torch",),
        standbys: int = 1,
    ) -> None:
        self._opening = dict(opening)
        self._start: dict[str, Any] = {"entry": entry, "preload": preload, "environment": surroundings(environment)}
        self._lock = threading.RLock()
        self._server: Server | None = None
        self._standbys: deque[Worker] = deque()
        self._most = standbys
        self._awaited: set[Worker] = set()  # taken, and not open yet
        self._measuring: list[int] = []  # threads that want quiet
        self._paused: set[Worker] = set()
        sweep()

    @property
    def server(self) -> Server:
        if self._server is None or not self._server.alive:
            if self._server is not None:
                self._server.close()
            self._standbys.clear()
            self._paused.clear()
            self._server = Server(**self._start)
        return self._server

    def prepare(self) -> None:
        """Have standbys, and do not wait for them."""
        with self._lock:
            self._prepare(self._most)

    def _prepare(self, count: int) -> None:
        server = self.server
        while len(self._standbys) < count:
            worker = server.fork()
            worker.post(self._opening)
            self._standbys.append(worker)
            self._hush()

    def take(self) -> Worker:
        """A worker with an open context, never used before. A standby that died waiting is replaced once."""
        for attempt in (0, 1):
            with self._lock:
                self._prepare(1)
                worker = self._standbys.popleft()
                self._awaited.add(worker)
                self._prepare(self._most)  # whoever comes next finds one that is open, or soon will be
                if threading.get_ident() in self._measuring:
                    self._rouse(worker)  # whoever measures and waits for it would wait for ever
            try:
                worker.opened = worker.wait(seconds=OPEN_SECONDS)
            except WorkerFault as fault:
                if attempt:
                    raise MachineryError(f"a GPU process cannot be opened: {fault.text}.") from fault
            else:
                return worker
            finally:
                with self._lock:
                    self._awaited.discard(worker)
                    self._rouse(worker)  # it may have been open already when it was paused
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """While samples are taken: a process that opens its context beside them would be measured too, whether it
        stands by or somebody waits for it already. On an H200 such a workload's blocks were up to 40 % apart."""
        with self._lock:
            self._measuring.append(threading.get_ident())
            self._hush()
        try:
            yield
        finally:
            with self._lock:
                self._measuring.remove(threading.get_ident())
                if not self._measuring:
                    self._rouse(*self._paused)

    def _hush(self) -> None:
        for worker in {*self._standbys, *self._awaited} - self._paused if self._measuring else ():
            worker.pause()
            self._paused.add(worker)

    def _rouse(self, *workers: Worker) -> None:
        for worker in self._paused.intersection(workers):
            worker.resume()
            self._paused.discard(worker)

    def pids(self) -> set[int]:
        """Every process of ours that may be on the GPU."""
        if self._server is None:
            return set()
        return {self._server.pid, *self._server.forked}

    def close(self) -> None:
        """May be called twice. Nothing of ours is left afterwards."""
        with self._lock:
            if self._server is not None:
                self._server.close()
            self._server = None
            self._standbys.clear()


def surroundings(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of GPU processes, by allow-list, with the mark that `sweep` looks for."""
    kept = {k: v for k, v in os.environ.items() if k in _KEEP or k.startswith(_KEEP_PREFIXES)}
    house = str(Path(evolve.__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [house, kept.get("PYTHONPATH", "")]))
    return {**kept, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", **more, MARK: mark_of(os.getpid())}


def _as_dict(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _as_seconds(value: object, otherwise: float) -> float:
    return min(float(value), FINAL_SECONDS) if isinstance(value, (int, float)) and value > 0 else otherwise


def _as_kind(value: object) -> FaultKind:
    for kind in ("hung", "died", "cuda", "memory"):
        if value == kind:
            return kind
    return "error"
