"""The jail's server: locks itself in, imports what is slow to import, and forks one child a task.

It never sees what a task is about: payload and answer go between the judge and the child through descriptors that are
only passed on, so that a child cannot find another candidate's sizes in memory that it inherited. It holds no secret
and judges nothing; it reports how a child ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from evolve.judge.jailed import confine

NOBODY = 1  # inside the map; outside it is a user who owns nothing
NICE = 5  # like compilers: a process that feeds a GPU must not wait behind it
LAST_WORDS = 6000
GLANCE = 0.02  # seconds between looks where nothing tells that a process has ended


def main() -> None:
    """`python -c "...main()" FD`: the launcher, which stays outside and only waits."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.nice(NICE)
    order = json.loads(control.recv(1 << 20))
    parent = os.getppid()
    watch = _watch(parent)
    reason = "" if order["jail"] else "the configuration asks for none"
    if order["jail"]:
        reason = _leave(control)
    child = os.fork()
    if child == 0:
        confine.die_with_parent()
        serve(control, order, reason)
        os._exit(0)
    control.close()
    _outlive_neither(parent, watch, child)


def _outlive_neither(parent: int, watch: int, child: int) -> None:
    """The wish to die with one's parent is bound to the thread that forked; the judge's threads come and go. So the
    launcher watches the process instead."""
    server = _watch(child)
    ready = select.poll()
    for descriptor in (watch, server):
        if descriptor >= 0:
            ready.register(descriptor, select.POLLIN)
    while not _ended(child) and os.getppid() == parent:
        ready.poll(None if min(watch, server) >= 0 else GLANCE * 1000)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _watch(pid: int) -> int:
    """A descriptor that is ready when the process ends; -1 on kernels without, where one looks now and then."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _ended(child: int) -> bool:
    """Without reaping it."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _leave(control: socket.socket) -> str:
    """Into namespaces of our own; the judge writes the map of users, because it may map more than we may."""
    flags = confine.NEWNS | confine.NEWUTS | confine.NEWIPC | confine.NEWPID | confine.NEWNET
    try:
        confine.unshare(confine.NEWUSER)
        control.send(b'{"map": true}')
        if control.recv(64) != b"mapped":
            return "the map of users could not be written"
        confine.unshare(flags)
    except confine.Refused as error:
        return str(error)
    return ""


def serve(control: socket.socket, order: Mapping[str, Any], reason: str) -> None:
    """The first process of the jail's pid namespace: when it ends, the kernel ends everything in there."""
    os.setsid()
    own_proc, home = False, -1
    if not reason:
        home = os.open("/proc/self/ns/pid", os.O_RDONLY)  # while there surely is a /proc
        try:
            own_proc = confine.change_root(order["show"], order["tmp_bytes"])
            os.environ["TMPDIR"] = confine.SCRATCH
        except confine.Refused as error:
            reason = str(error)
    confine.hide_memory()
    for module in order["preload"]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a child's collector must not touch, and so copy, the pages it shares with us
    room = Room(home=-1 if reason else home, own_proc=own_proc, nobody=_nobody(order, reason), order=order)
    control.send(json.dumps({"ready": True, "reason": reason, "protections": room.protections()}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not message:
            return
        control.send(json.dumps(room.run(control, json.loads(message), descriptors)).encode())


def _nobody(order: Mapping[str, Any], reason: str) -> int | None:
    """The second user of the map, if there is one and it can read what a child has to import."""
    if reason or not order["nobody"]:
        return None
    child = os.fork()
    if child == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os._exit(0 if all(os.access(p, os.R_OK) for p in order["needs"]) else 1)
    return NOBODY if os.waitpid(child, 0)[1] == 0 else None


class Room:
    """How this server keeps its children."""

    def __init__(self, *, home: int, own_proc: bool, nobody: int | None, order: Mapping[str, Any]) -> None:
        self.home = home  # our own pid namespace; -1 where there is no jail
        self.own_proc = own_proc
        self.nobody = nobody
        self.order = order

    def protections(self) -> list[str]:
        """Tried by a child that does nothing, so that the list says what is, not what was asked for."""
        read, write = os.pipe()
        with _folder(self.home) as folder:
            child = self._fork()
            if child == 0:
                try:
                    os.write(write, json.dumps(self._confine(self.order["limits"], folder)).encode())
                finally:
                    os._exit(0)
            os.close(write)
            os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            return list(json.loads(pipe.read() or b"[]"))

    def run(self, control: socket.socket, order: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any]:
        with _folder(self.home) as folder:
            child = self._fork()
            if child == 0:
                self._child(order, descriptors, folder)
            for descriptor in descriptors:
                os.close(descriptor)
            return _wait(control, child, order["limits"]["wall_seconds"])

    def _fork(self) -> int:
        """Each child is the first process of its own pid namespace; whatever it starts ends with it."""
        if self.home >= 0:
            confine.enter(self.home, confine.NEWPID)  # a second unshare is refused until one is back home
            confine.unshare(confine.NEWPID)
        return os.fork()

    def _child(self, order: Mapping[str, Any], descriptors: list[int], folder: str) -> None:
        """Never returns."""
        try:
            payload, reply, log = (fcntl.fcntl(d, fcntl.F_DUPFD, 64) for d in descriptors)
            for target, source in enumerate((log, log, payload, reply), start=1):
                os.dup2(source, target)
            os.closerange(5, 1 << 16)
            self._confine(order["limits"], folder)
            with os.fdopen(3, "rb") as pipe:
                text = pipe.read()
            _work(order["task"], json.loads(text), 4)
            os._exit(0)
        finally:
            os._exit(1)

    def _confine(self, limits: Mapping[str, Any], folder: str) -> list[str]:
        done = []
        os.setpgid(0, 0)
        _die_first()
        if self.home >= 0:
            confine.fresh_tmp(self.order["tmp_bytes"], self.own_proc)
            done = ["pid", "mount", "user", "network", "ipc"]
        os.chdir(folder)
        os.environ.update(HOME=folder, TMPDIR=folder, TRITON_HOME=folder, TRITON_CACHE_DIR=f"{folder}/triton")
        tempfile.tempdir = None
        confine.limit(**{k: limits[k] for k in ("memory_bytes", "cpu_seconds", "file_bytes", "processes")})
        confine.drop_rights(self.nobody)
        confine.die_with_parent()
        if confine.forbid_calls():
            done.append("seccomp")
        return [*([] if self.home >= 0 else ["unjailed"]), *done, "rlimits", "pdeathsig"]


@contextlib.contextmanager
def _folder(home: int) -> Iterator[str]:
    """What a child may write to: in the jail a file system of its own, else a folder that is removed after it."""
    if home >= 0:
        yield confine.SCRATCH
        return
    with tempfile.TemporaryDirectory(prefix="evolve-unjailed-", ignore_cleanup_errors=True) as folder:
        yield folder


def _die_first() -> None:
    """When memory runs out for the whole machine, the candidate goes, not the run."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _wait(control: socket.socket, child: int, wall_seconds: float) -> dict[str, Any]:
    """Until it ends, or its time is up, or the judge says so, or the judge is gone."""
    started = time.monotonic()
    why = _why(control, child, started + wall_seconds)
    for end in (os.kill, os.killpg):  # the group exists only once the child has made it
        with contextlib.suppress(ProcessLookupError):
            end(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"exit": code, "why": why, "cpu": used.ru_utime + used.ru_stime, "wall": time.monotonic() - started}


def _why(control: socket.socket, child: int, deadline: float) -> str:
    watch = _watch(child)
    ready = select.poll()
    ready.register(control, select.POLLIN)
    if watch >= 0:
        ready.register(watch, select.POLLIN)
    try:
        while (left := deadline - time.monotonic()) > 0:
            events = dict(ready.poll((left if watch >= 0 else min(left, GLANCE)) * 1000))
            if control.fileno() in events:
                return control.recv(64).decode() or os._exit(0)  # the judge is gone, and with us goes the whole jail
            if _ended(child):
                return ""
        return "wall"
    finally:
        if watch >= 0:
            os.close(watch)


def _work(task: str, payload: Any, reply: int) -> None:
    """Run the task and write the one line that leaves. This is the edge of the worker process: whatever a candidate
    raises becomes text here."""
    try:
        module, name = task.split(":")
        answer = {"answer": getattr(importlib.import_module(module), name)(payload)}
        text = json.dumps(answer)
    except BaseException as error:
        text = json.dumps({"raised": _told(error)})
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(reply, "w") as pipe:
        pipe.write(text)


def _told(error: BaseException) -> dict[str, str]:
    verdict = getattr(error, "verdict", "RUNTIME_ERROR")
    text = str(error) if hasattr(error, "verdict") else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return {
        "verdict": str(verdict),
        "text": text[-LAST_WORDS:],
        "type": type(error).__name__,
        "trace": trace[-LAST_WORDS:],
    }
