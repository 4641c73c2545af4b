"""The runs that a page may ask for, and their journals, opened for reading.

A name that comes in by an address is looked up among the runs of one folder and never joined to a path first, so no
name leads out of it; a link that points out of the folder is not a run of it either. What was worked out of a journal
is kept until the journal moves on, and between four open pages it is worked out once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from evolve.dashboard.columns import Columns
from evolve.errors import EvolveError
from evolve.journal import Journal
from evolve.runs import JOURNAL, list_runs

T = TypeVar("T")
OPEN = 12  # runs whose journals and columns are kept at hand
IDLE = 4  # connections to each
KEPT = 64  # results of each run
FRESH_SECONDS = 0.3  # what was worked out of a growing journal may be this old


class Missing(EvolveError):
    """The address names nothing that is here."""


@dataclass(kw_only=True)
class Book:
    """One run as it is known here. `mark` tells its file from another that has taken its place."""

    folder: Path
    mark: tuple[int, int]
    idle: list[Journal] = field(default_factory=list)
    made: OrderedDict[Any, tuple[int, float, Any]] = field(default_factory=OrderedDict)
    follow: dict[Any, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _columns: Columns = field(default_factory=Columns)

    @property
    def name(self) -> str:
        return self.folder.name

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """A reader's connection, for the time of one answer."""
        with self.lock:
            journal = self.idle.pop() if self.idle else None
        journal = journal or Journal.open(self.folder)
        try:
            yield journal
        finally:
            with self.lock:
                spare = len(self.idle) >= IDLE
                if not spare:
                    self.idle.append(journal)
            if spare:
                journal.close()

    def columns(self, journal: Journal) -> Columns:
        """As they are now, and stay for whoever holds them, however many pages refresh meanwhile."""
        with self.lock:
            return copy(self._columns.refresh(journal))

    def keep(self, what: Any, journal: Journal, make: Callable[[], T]) -> T:
        """What `make` makes, made again only when the journal has moved on, and not for every single event."""
        seq, now = journal.last_seq(), time.monotonic()
        with self.lock:
            found = self.made.get(what)
            if found and (found[0] == seq or now - found[1] < FRESH_SECONDS):
                self.made.move_to_end(what)
                return found[2]  # type: ignore[no-any-return]
            made = make()
            self.made[what] = (seq, now, made)
            if len(self.made) > KEPT:
                self.made.popitem(last=False)
            return made

    def keep_always(self, what: Any, make: Callable[[], T]) -> T:
        """For what follows the journal by itself."""
        with self.lock:
            if what not in self.follow:
                self.follow[what] = make()
            return self.follow[what]  # type: ignore[no-any-return]

    def close(self) -> None:
        with self.lock:
            while self.idle:
                self.idle.pop().close()


class Shelf:
    """All runs of one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._books: OrderedDict[str, Book] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return [folder.name for folder in self._folders()]

    def book(self, name: str) -> Book:
        """The run of that name, or `Missing`."""
        folder = next((f for f in self._folders() if f.name == name), None)
        if folder is None:
            raise Missing(f'No run "{name}" in {self.root.name}/.')
        found = (folder / JOURNAL).stat()
        mark = (found.st_dev, found.st_ino)
        with self._lock:
            book = self._books.get(name)
            if book is None or book.mark != mark:
                if book is not None:
                    book.close()
                book = self._books[name] = Book(folder=folder, mark=mark)
            self._books.move_to_end(name)
            while len(self._books) > OPEN:
                self._books.popitem(last=False)[1].close()
            return book

    def changed(self, name: str) -> float:
        return (self.root / name / JOURNAL).stat().st_mtime

    def _folders(self) -> list[Path]:
        home = self.root.resolve()
        return [folder for folder in list_runs(self.root) if folder.resolve().parent == home]

    def close(self) -> None:
        with self._lock:
            for book in self._books.values():
                book.close()
            self._books.clear()
