"""Run folders: how they are named, found and locked, and what `RUN:ID` means.

A run is `runs/<config>-NNN` unless it was named otherwise. What is inside the journal is `journal.py`'s affair; here a
folder is a run when it holds a `journal.sqlite`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from evolve.errors import JournalError, UsageError

JOURNAL = "journal.sqlite"
LOCK = "lock"


def is_run(folder: Path) -> bool:
    return (folder / JOURNAL).is_file()


def list_runs(runs_dir: str | Path) -> list[Path]:
    """Every run in the folder, by name. Half-made ones begin with a dot and are passed over."""
    root = Path(runs_dir)
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if not p.name.startswith(".") and is_run(p))


def new_run_folder(runs_dir: str | Path, config_name: str) -> Path:
    """The next free `<config>-NNN`. Nothing is made: `Journal.create` does that, and refuses if another was quicker."""
    root = Path(runs_dir)
    names = [p.name for p in root.iterdir()] if root.is_dir() else []
    return root / f"{config_name}-{max(_numbers(names, config_name), default=0) + 1:03d}"


def latest_run(runs_dir: str | Path, config_name: str) -> Path | None:
    """The run of that configuration with the highest number."""
    numbered = {n: p for p in list_runs(runs_dir) for n in _numbers([p.name], config_name)}
    return numbered[max(numbered)] if numbered else None


def _numbers(names: list[str], config_name: str) -> list[int]:
    pattern = re.compile(re.escape(config_name) + r"-(\d{3,})")
    return [int(found[1]) for name in names if (found := pattern.fullmatch(name))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What a person wrote to name a run, or a candidate in it. `selector` is what stood behind the colon."""

    folder: Path
    selector: str | None = None


def named(text: str, runs_dir: str | Path = "runs") -> Named:
    """`RUN` or `RUN:ID`. RUN is a folder, its journal, a name in `runs_dir`, or a configuration, for its latest."""
    place, colon, selector = text.partition(":") if not is_run(Path(text)) else (text, "", "")
    if colon and not selector:
        raise UsageError(f'"{text}": nothing behind the colon; write {place}:best, {place}:42 or {place}:ID.')
    if not place:
        raise UsageError(f'"{text}": no run before the colon; write RUN:ID, such as runs/quickstart-001:best.')
    return Named(folder=find_run(place, runs_dir), selector=selector or None)


def find_run(text: str, runs_dir: str | Path = "runs") -> Path:
    given = Path(text)
    if given.name == JOURNAL and given.is_file():
        return given.parent
    for folder in (given, Path(runs_dir) / text):
        if is_run(folder):
            return folder
    if latest := latest_run(runs_dir, given.stem):
        return latest
    known = [p.name for p in list_runs(runs_dir)]
    near = difflib.get_close_matches(given.name, known, n=1, cutoff=0.6)
    if given.is_dir():
        raise JournalError(f"{text}: a folder without {JOURNAL}, so not a run.{_hint(near, known, runs_dir)}")
    raise JournalError(f"{text}: no such run.{_hint(near, known, runs_dir)}")


def _hint(near: list[str], known: list[str], runs_dir: str | Path) -> str:
    if near:
        return f' Did you mean "{near[0]}"?'
    if known:
        return f" {runs_dir}/ holds {', '.join(known[-5:])}{' and others' if len(known) > 5 else ''}."
    return f" {runs_dir}/ holds no run yet; `evolve run` makes one."


# --- The lock: one writer -------------------------------------------------------------------------------------------


class Lock:
    """The kernel's lock on a file of the run, so that a killed writer frees it by dying. The file holds the writer's
    pid for the sentence that a second one gets; it is left behind, for deleting it would let two in."""

    def __init__(self, folder: Path, *, name: Path | None = None) -> None:
        self._file = _open_lock(folder)
        shown = name or folder
        for patience in (0.05, 0.1, 0.2, 0.4, None):  # a reader that asks `writer_of` holds it for an instant
            if _take(self._file):
                break
            if patience is None:
                self._file.seek(0)
                pid = self._file.read().strip() or "unknown"
                self._file.close()
                raise JournalError(
                    f"{shown}: process {pid} is writing this run; wait for it or stop it, or begin another with --name."
                )
            time.sleep(patience)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()
        _held.add(self)

    def release(self) -> None:
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()
        _held.discard(self)

    def let_go(self) -> None:
        """In a forked child: it shares the open file, and would keep the run locked after its parent's death."""
        with open(os.devnull, "r+b") as nothing:
            os.dup2(nothing.fileno(), self._file.fileno())


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for lock in _held:
        lock.let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_of_all)


def writer_of(folder: str | Path) -> int | None:
    """The pid of the process that writes this run now, or None."""
    try:
        file = (Path(folder) / LOCK).open("r")
    except OSError:
        return None
    with file:
        if _take(file, shared=True):
            return None
        text = file.read().strip()
        return int(text) if text.isdigit() else None


def _open_lock(folder: Path) -> IO[str]:
    try:
        return (folder / LOCK).open("a+")
    except OSError as error:
        raise JournalError(f"{folder}: cannot be written: {error.strerror}; look at it, or copy it first.") from error


def _take(file: IO[str], *, shared: bool = False) -> bool:
    if sys.platform == "win32":
        if shared:
            return True
        raise JournalError("a run can be looked at on Windows, and written on Linux or macOS only: it needs flock.")
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
