"""Runs one program and ends it with everything that it started: as soon as it is done, or when the leash is let go.

    python -I -S leash.py FD PROGRAM ARGUMENT...

FD is the reading end of a pipe whose other end evolve holds, so that evolve's own death lets go as well, however it
dies. What the program started and left becomes a child of this process, whatever session it made for itself, and is
found and killed. A process of its own because all of this is about processes; it imports the standard library only.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(leash: int, command: list[str]) -> int:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        program = subprocess.Popen(
            command, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    watched = select.poll()
    ended = os.pidfd_open(program.pid)
    for descriptor in (leash, ended):
        watched.register(descriptor, select.POLLIN | select.POLLHUP)
    done = {descriptor for descriptor, _ in watched.poll()}
    status = program.wait() if ended in done else -signal.SIGKILL
    end_all()
    return status if status >= 0 else 128 - status


def end_all() -> None:
    """Kill until nothing is left to wait for: what is killed leaves its own children to us."""
    while True:
        for child in children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(entry))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
