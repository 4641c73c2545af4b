"""The builder's hold on its server: one process that has triton loaded and forks a compiler for each order.

It starts the process in an environment of our making, sends orders, waits for how they ended, and starts it again once
if it died. What the order means is `buildworker.py`'s affair, what its end means `build.py`'s.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from evolve.errors import MachineryError
from evolve.judge.stages import Target

# Nothing else of the user's surroundings reaches a compiler: no TRITON_*, no PTXAS_OPTIONS, no MLIR_*.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CC", "USER")
START_SECONDS = 120.0  # importing triton on a cold disk
GRACE_SECONDS = 30.0  # for the supervisor to kill and to answer


class Compilers(Protocol):
    """Where a builder's orders go. `run` says how the order's compiler ended; what it made lies in the order's folder.
    Called from several threads."""

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Server:
    """The process that forks a compiler for each order; started again, once an order, if it dies."""

    def __init__(self, folder: Path, target: Target) -> None:
        self.folder = folder
        self.target = {"backend": target.backend, "arch": target.arch, "warp_size": target.warp_size}
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        environment |= {
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "TRITON_HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "TRITON_DUMP_PTXAS_LOG": "1",
        }
        command = [sys.executable, "-s", "-P", "-m", "evolve.judge.buildworker"]
        with theirs, open(self.folder / "server.txt", "ab") as log:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(self.target)],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._socket = ours

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """How the order's compiler ended: `late`, or its exit code (negative: the signal)."""
        for _ in range(2):
            answer = self._ask({**order, "target": self.target})
            if answer:
                ended: dict[str, Any] = json.loads(answer)
                return ended
            with self._lock:
                if not self._closed and self._process.poll() is not None:
                    self._socket.close()
                    self._start()
        tail = text_of(self.folder / "server.txt")[-2000:]
        raise MachineryError(f"the build server did not answer twice; its last words: {tail or 'none'}")

    def _ask(self, order: Mapping[str, Any]) -> bytes:
        mine, theirs = os.pipe()
        try:
            with self._lock:
                if self._closed:
                    raise MachineryError("the builder is closed; nothing more is built.")
                socket.send_fds(self._socket, [json.dumps(order).encode()], [theirs])
        except (BrokenPipeError, ConnectionResetError):
            os.close(mine)
            return b""
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(mine, select.POLLIN)
        heard = poll.poll((order["timeout"] + START_SECONDS + GRACE_SECONDS) * 1000)
        answer = os.read(mine, 4096) if heard else b""
        os.close(mine)
        return answer

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._socket.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def text_of(path: Path) -> str:
    """A log's text, or nothing where there is no such file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
