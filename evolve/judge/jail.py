"""The jail: runs a task over text that came from a candidate, and lets only text out.

`Jail(slots=2).run("evolve.judge.jailed.lowering:lower", payload)` gives the JSON text that the task answered, or raises
`Ruling` for what the candidate did wrong (crash, memory, time) and `MachineryError` when the jail itself broke.

A server a slot lives in namespaces of its own (user, pid, mount, network, ipc, uts) on a read-only root that holds the
libraries and nothing else; it preloads torch and triton and forks one child a run. The child is alone in a pid
namespace, with a private scratch folder, rlimits, no capability, no new privileges, and a list of system calls that
are refused.

What is not covered: a hole in the kernel; a covert channel through the machine's load. Where no namespaces are to be
had (many containers), `protections` says "unjailed" and `reason` says why; limits and the list of system calls then
still hold, but the child can read what the user can read.
"""

from __future__ import annotations

import json
import os
import queue
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from evolve.errors import MachineryError
from evolve.judge import jailend, jailneeds
from evolve.judge.jailend import TAIL, Limits
from evolve.judge.stages import Ruling
from evolve.types import Json, Verdict

__all__ = ["Jail", "Limits"]

PROBE = "evolve.judge.jailed.probe:alive"
PRELOAD = ("torch", "triton", "evolve.judge.jailed.preload")
START_SECONDS = 120.0
GRACE_SECONDS = 10.0  # what a healthy server needs at most to say that a child's time was up


class _ServerDied(Exception):
    pass


class Jail:
    """Thread-safe for `slots` runs at once. Servers start when first needed, or all at once by `start`."""

    def __init__(
        self,
        *,
        slots: int = 1,
        interpret: bool = False,
        limits: Limits | None = None,
        show: Sequence[str] = (),
        preload: Sequence[str] = PRELOAD,
        jailed: bool = True,
    ) -> None:
        """`show`: more folders to make readable and importable inside. `jailed=False` is for machines known to have
        no namespaces, and for trying what `unjailed` means."""
        self.limits = limits or Limits()
        self._settings = {"interpret": interpret, "show": tuple(show), "preload": tuple(preload), "jailed": jailed}
        self._servers: list[_Server | None] = [None] * slots
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        for slot in reversed(range(slots)):
            self._free.put(slot)
        self._closed = False

    def start(self) -> None:
        """Pay for all servers' imports now, side by side."""
        slots = [self._free.get() for _ in self._servers]
        try:
            threads = [threading.Thread(target=self._warm, args=(slot,)) for slot in slots]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for slot in slots:
                self._free.put(slot)
        if self._servers[0] is None:  # what went wrong is told by starting it once more, in this thread
            self._server(0)

    def _warm(self, slot: int) -> None:
        with suppress(MachineryError):
            self._server(slot)

    @property
    def protections(self) -> tuple[str, ...]:
        """What is in force, for the evidence."""
        return self._any().protections

    @property
    def reason(self) -> str:
        """Why there is no jail; empty where there is one."""
        return self._any().reason

    def _any(self) -> _Server:
        slot = self._free.get()
        try:
            return self._server(slot)
        finally:
            self._free.put(slot)

    def run(self, task: str, payload: Json, *, stage: str = "lower", limits: Limits | None = None) -> str:
        """The JSON text of what the task (`package.module:function`) returned for the payload."""
        slot = self._free.get()
        try:
            return self._run(slot, task, json.dumps(payload).encode(), stage, limits or self.limits)
        finally:
            self._free.put(slot)

    def _run(self, slot: int, task: str, payload: bytes, stage: str, limits: Limits) -> str:
        for _ in range(2):
            try:
                return self._server(slot).run(task, payload, stage, limits)
            except _ServerDied as error:
                self._drop(slot)
                died = str(error)
        try:
            self._server(slot).run(PROBE, b"null", stage, limits)
        except (_ServerDied, Ruling) as error:
            raise MachineryError(f"The jail's server dies even when it runs nothing: {error}") from error
        raise Ruling(Verdict.RUNTIME_ERROR, f"The jail broke down twice while this ran: {died}", stage=stage)

    def _server(self, slot: int) -> _Server:
        server = self._servers[slot]
        if self._closed:
            raise MachineryError("The jail is closed; make a new one.")
        if server is None or not server.alive():
            self._drop(slot)
            server = self._servers[slot] = _Server(limits=self.limits, **self._settings)  # type: ignore[arg-type]
            if self._closed:  # while it was starting
                self._drop(slot)
                raise MachineryError("The jail is closed; make a new one.")
        return server

    def _drop(self, slot: int) -> None:
        server, self._servers[slot] = self._servers[slot], None
        if server is not None:
            server.close()

    def close(self) -> None:
        """Ends every server and with it everything inside. May be called twice, and while runs are under way."""
        self._closed = True
        for slot in range(len(self._servers)):
            self._drop(slot)

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server:
    """One slot's launcher and the socket to the server behind it."""

    def __init__(
        self, *, limits: Limits, interpret: bool, show: tuple[str, ...], preload: tuple[str, ...], jailed: bool
    ) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._use = threading.Lock()  # the socket's, by a run or by the end
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
        paths = jailneeds.import_paths(show)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", jailneeds.BOOT, str(theirs.fileno()), jailneeds.package(), *paths],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=jailneeds.environment(interpret),
                cwd="/",
                start_new_session=True,
            )
        order = {
            "jail": jailed,
            "show": jailneeds.shown(paths, show),
            "needs": paths,
            "nobody": os.geteuid() == 0,
            "preload": list(preload),
            "limits": asdict(limits),
            "tmp_bytes": limits.file_bytes + (16 << 20),
        }
        try:
            self._start(order)
        except (_ServerDied, MachineryError):
            self.close()
            raise

    def _start(self, order: Mapping[str, Any]) -> None:
        self._control.send(json.dumps(order).encode())
        deadline = time.monotonic() + START_SECONDS
        message = self._message(deadline)
        if message.get("map"):
            done = jailneeds.write_maps(self._process.pid)
            self._control.send(b"mapped" if done else b"no")
            message = self._message(deadline)
        if not message.get("ready"):
            raise MachineryError(f"The jail's server did not start. It said: {self._last_words()}")
        self.protections: tuple[str, ...] = tuple(message["protections"])
        self.reason: str = message["reason"]

    def _message(self, deadline: float) -> dict[str, Any]:
        if not _readable(self._control, deadline):
            return {}
        try:
            return dict(json.loads(self._control.recv(1 << 16) or b"{}"))
        except ConnectionError:
            return {}

    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, task: str, payload: bytes, stage: str, limits: Limits) -> str:
        with self._use:
            if self._control.fileno() < 0:
                raise _ServerDied("it was closed")
            return self._run(task, payload, stage, limits)

    def _run(self, task: str, payload: bytes, stage: str, limits: Limits) -> str:
        paper = os.memfd_create("payload")
        _write_all(paper, payload)
        os.lseek(paper, 0, os.SEEK_SET)
        reply, reply_end = os.pipe()
        log, log_end = os.pipe()
        theirs = [paper, reply_end, log_end]
        try:
            order = {"task": task, "limits": asdict(limits)}
            socket.send_fds(self._control, [json.dumps(order).encode()], theirs)
            _close(theirs)
            answer, said, ended = self._listen(reply, log, limits)
        except OSError as error:
            raise _ServerDied(f"{error}. It said: {self._last_words()}") from error
        finally:
            _close([*theirs, reply, log])
        return jailend.rule(answer, said, ended, stage, limits)

    def _listen(self, reply: int, log: int, limits: Limits) -> tuple[bytes, str, dict[str, Any]]:
        """Everything the child writes, as much of it as is allowed, and how it ended. The pipes are drained while it
        runs, or it would wait for us."""
        deadline = time.monotonic() + limits.wall_seconds + GRACE_SECONDS
        kept = {reply: bytearray(), log: bytearray()}
        poll = select.poll()
        for descriptor in (reply, log, self._control.fileno()):
            poll.register(descriptor, select.POLLIN)
        ended: dict[str, Any] = {}
        while not ended or any(d in kept for d, _ in poll.poll(0)):
            events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not events:
                raise _ServerDied(f"no word after {limits.wall_seconds:.0f} s and {GRACE_SECONDS:.0f} s of grace")
            for descriptor, _ in events:
                if descriptor in kept:
                    self._take(descriptor, kept[descriptor], poll, limits.reply_bytes if descriptor == reply else None)
                elif not ended:
                    ended = self._message(deadline)
                    if not ended:
                        raise _ServerDied(f"it is gone. It said: {self._last_words()}")
        return bytes(kept[reply]), kept[log].decode("utf-8", "replace"), ended

    def _take(self, descriptor: int, kept: bytearray, poll: select.poll, most: int | None) -> None:
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            poll.unregister(descriptor)
        elif most is None:
            kept += chunk
            del kept[: -4 * TAIL]
        elif len(kept) <= most:
            kept += chunk
            if len(kept) > most:
                self._control.send(b"reply")

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace")[-TAIL:].strip() or "nothing"

    def close(self) -> None:
        """Killing the launcher kills the server (it asked for that), and the kernel everything in its namespace. The
        socket's end is the proof; a run that is under way sees it first, and lets go."""
        self._process.kill()
        self._process.wait()
        with self._use:
            if self._control.fileno() < 0:
                return
            deadline = time.monotonic() + 5.0
            with suppress(OSError):
                while _readable(self._control, deadline) and self._control.recv(1 << 16):
                    pass
            self._control.close()
            self._said.close()


def _readable(control: socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
