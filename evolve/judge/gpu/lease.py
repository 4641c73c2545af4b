"""One lock a GPU for the whole machine: whoever measures holds it, and nobody else does.

It is an advisory `flock`, so it ends with the process that holds it, however that dies. It does not keep strangers
off the GPU: `nvml.Gpu.foreigners` names those, and nothing is promoted while one is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evolve.errors import MachineryError

_LOOK_SECONDS = 0.01  # between two tries: short beside any judgement, long beside a system call


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A lease that was got: how long it took to get, and since when (monotonic seconds) it is held."""

    path: Path
    waited_seconds: float
    since: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def lease_path(gpu: str, folder: str | Path | None = None) -> Path:
    """`gpu` is the UUID where one is known: two containers may call the same chip by different numbers."""
    name = re.sub(r"[^A-Za-z0-9-]", "_", gpu)
    return Path(folder or tempfile.gettempdir()) / f"evolve-{name}.lock"


@contextmanager
def lease(
    gpu: str, *, seconds: float | None = None, label: str = "", folder: str | Path | None = None
) -> Iterator[Held]:
    """Hold the GPU. Waits for `seconds` (for ever if None), then says who has it."""
    path = lease_path(gpu, folder)
    began = time.monotonic()
    file = _open(path)
    try:
        while not _try(file):
            if seconds is not None and time.monotonic() - began > seconds:
                raise MachineryError(
                    f"{gpu} is leased by {holder(path)}; waited {seconds:g} s. Wait for it, or choose another GPU."
                )
            time.sleep(_LOOK_SECONDS)
        _sign(file, label)
        yield Held(path=path, waited_seconds=time.monotonic() - began, since=time.monotonic())
    finally:
        os.close(file)  # closing releases the lock


def holder(path: Path) -> str:
    """Who signed last. Only for messages: the lock itself is the truth."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"process {int(note['pid'])} ({str(note['label'])[:80] or 'evolve'})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _open(path: Path) -> int:
    """Open for everybody on the machine. A second user may not create in a sticky folder what a first one owns
    (fs.protected_regular), but may open it."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            file = os.open(path, flags | os.O_CREAT, 0o666)
        except PermissionError:
            return os.open(path, flags)
    except OSError as error:
        raise MachineryError(
            f"{path}: the GPU's lock file cannot be opened ({error.strerror}); "
            f"remove it, or set TMPDIR to a folder that all users of this GPU share."
        ) from error
    if os.fstat(file).st_uid == os.getuid():
        os.fchmod(file, 0o666)  # the umask would have kept other users out
    return file


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(file: int, label: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps({"pid": os.getpid(), "label": label}).encode(), 0)
