"""The fork server: torch imported, CUDA untouched; every worker is a fork of it and starts in milliseconds.

`multiprocessing`'s own fork server is one per program and imports the program's main file into each child; two rooms
of the judge would share it, and somebody's script would run beside the GPU. So this one is ours: commands are JSON over
a socket, a worker's end of its channel travels with the command. It never imports a candidate and never opens CUDA.

It ends when its parent's end of the socket closes, whatever became of the parent; its workers die with it (parent-death
signal). What even that could miss, `sweep` finds by a mark in the environment and kills at the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evolve.judge.gpu.wire import Channel, Closed, Malformed

MARK = "EVOLVE_GPU_PARENT"  # "pid:start" of the process that started this server; forks keep it
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

Entry = Callable[[Channel], None]


def serve(control: socket.socket, entry: Entry) -> None:
    """Answer commands until the parent is gone: fork, kill, pause, resume, reap."""
    channel, children = Channel(control), Children()
    channel.send({"ready": True, "pid": os.getpid()})
    while True:
        if not select.select([control], [], [], 1.0)[0]:
            children.collect()
            continue
        try:
            command = channel.receive(seconds=10)
            if command.get("do") == "fork":
                _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
                pid = _fork(descriptors[0], control, entry)
                children.status[pid] = None
                channel.send({"pid": pid})
            else:
                channel.send(_obey(command, children))
        except (Closed, Malformed):
            break
    for pid, status in children.status.items():
        if status is None:
            _signal(pid, signal.SIGKILL)


class Children:
    """Exit status by pid: None while it runs. Those that were dropped are forgotten when they end."""

    def __init__(self) -> None:
        self.status: dict[int, int | None] = {}
        self.dropped: set[int] = set()

    def collect(self) -> None:
        for pid in [p for p, status in self.status.items() if status is None]:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self.status[pid] = os.waitstatus_to_exitcode(status)
                _signal(pid, signal.SIGKILL)  # what it may have started is in its group
        for pid in [p for p in self.dropped if self.status[p] is not None]:
            self.dropped.remove(pid)
            del self.status[pid]


def _obey(command: dict[str, Any], children: Children) -> dict[str, Any]:
    """Signals go only to children that were not collected yet, so a number in use by a stranger is never hit."""
    children.collect()
    deed, pid = str(command.get("do")), int(command.get("pid", 0))
    if pid not in children.status:
        return {"error": f"no child {pid}"}
    signals = dict.fromkeys(("kill", "drop"), signal.SIGKILL)
    signals |= {"pause": signal.SIGSTOP, "resume": signal.SIGCONT}
    if deed in signals and children.status[pid] is None:
        _signal(pid, signals[deed])
    if deed == "drop":
        children.dropped.add(pid)
    return _reap(pid, float(command.get("seconds", 5.0)), children) if deed == "reap" else {}


def _reap(pid: int, seconds: float, children: Children) -> dict[str, Any]:
    deadline = time.monotonic() + min(30.0, seconds)
    while children.status[pid] is None and time.monotonic() < deadline:
        time.sleep(0.002)
        children.collect()
    status = children.status[pid]
    if status is not None:
        del children.status[pid]
    return {"status": status}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _fork(descriptor: int, control: socket.socket, entry: Entry) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # both sides do it: whoever comes first, no kill can miss the group
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        die_with(server)
        control.close()
        entry(Channel(socket.socket(fileno=descriptor)))
        code = 0
    finally:
        os._exit(code)  # never the server's own exit handlers, nor CUDA's


def die_with(server: int) -> None:
    """If the server goes, so do we, also where it went before the call took effect."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"evolve-gpu", 0, 0, 0)
    if os.getppid() != server:
        os._exit(71)


def mark_of(pid: int) -> str:
    """A process by number and start time; the number alone is used again some day."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return f"{pid}:{fields[19]}"
    except (OSError, IndexError):
        return ""


def sweep() -> list[int]:
    """Kill servers and workers of ours whose parent is gone. Returns what was killed."""
    killed = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        mark = _mark_in(entry)
        if mark and mark_of(int(mark.partition(":")[0])) != mark:
            try:
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
            except (ProcessLookupError, PermissionError):
                continue
    return killed


def _mark_in(entry: Path) -> str:
    try:
        for item in (entry / "environ").read_bytes().split(b"\0"):
            if item.startswith(MARK.encode() + b"="):
                mark = item.partition(b"=")[2].decode()
                return mark if mark.partition(":")[0].isdigit() else ""
    except OSError:
        pass
    return ""


def main(arguments: list[str]) -> None:
    """`python -m evolve.judge.gpu.server FD MODULE:FUNCTION [PRELOAD...]`, started by `pool` alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent, which closes us in its own time
    descriptor, target, *preload = arguments
    control = socket.socket(fileno=int(descriptor))
    for name in preload:
        importlib.import_module(name)
    module, _, function = target.partition(":")
    serve(control, getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main(sys.argv[1:])
