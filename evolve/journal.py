"""The journal: what happened in a run, in commit order. It never forgets.

A run is a folder: `journal.sqlite`, `config.yaml`, `environment.json`, `best.py`. One process writes, held apart by a
lock that dies with it; any number read, without a lock, while it writes. An event is on record when `append` returns:
a killed process loses nothing acknowledged (WAL, synchronous=NORMAL; a power cut may cost the last moments, and never
consistency). Every state elsewhere, from the population to the budget, is a fold over `events()`.

What it deliberately leaves to others: naming and finding runs (`runs.py`), the tables (`journal_schema.py`), how an
event becomes a row (`journal_codec.py`), and every question about who descends from whom (`lineage.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from evolve import journal_codec as codec
from evolve import journal_schema as schema
from evolve.errors import JournalError, MachineryError
from evolve.journal_disk import connect, look, on_disk, replace_file, vet
from evolve.journal_find import find_step
from evolve.journal_schema import Row
from evolve.journal_turns import Logged, Turn, pending_of, turn_of
from evolve.runs import JOURNAL, Lock, is_run
from evolve.seams import Pending
from evolve.types import (
    NOTHING,
    Asked,
    Attempt,
    Confirmed,
    Evaluation,
    Event,
    Judged,
    digest_of,
)

CHUNK = 500  # events read at once: memory stays flat, and no reader holds a checkpoint back for long
_EVENT = "e.seq, e.at, e.step, e.kind, e.body, s.data"
_BESIDE = "events e LEFT JOIN sources s USING (seq)"


class Journal:
    """Open one with `Journal.create` or `Journal.open`; close it, or use it in a `with`."""

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, lock: Lock | None, clock: Callable[[], float]
    ) -> None:
        self.folder = folder
        self._db = connection
        self._lock = lock
        self._clock = clock
        self._shared: dict[str, int] = {}  # system prompts on record: digest -> place
        self._system = lru_cache(maxsize=100)(self._read_system)
        vet(connection, folder)
        pairs = connection.execute("SELECT key, value FROM meta").fetchall()
        self.meta: Mapping[str, Any] = {key: codec.read(value) for key, value in pairs}

    # --- opening and closing

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        config_text: str,
        environment: Mapping[str, Any] = NOTHING,
        meta: Mapping[str, Any] = NOTHING,
        clock: Callable[[], float] = time.time,
    ) -> Journal:
        """A new run, open for writing. It appears whole or not at all: made beside its place and then renamed.

        `meta` says what the run is; views show what they know of it (`problem`, `variant`, `device`, `budget`, ...)."""
        place = Path(folder)
        if place.exists() or place.is_symlink():
            raise JournalError(f"{place}: exists already; resume it with --resume, or choose another --name.")
        draft = place.with_name(f".{place.name}.{os.getpid()}")
        lock = None
        with on_disk(place):
            try:
                draft.mkdir(parents=True)
                (draft / "config.yaml").write_bytes(config_text.encode("utf-8", "surrogatepass"))
                (draft / "environment.json").write_text(_pretty(environment, "environment"), encoding="utf-8")
                lock = Lock(draft, name=place)
                connection = connect(draft / JOURNAL)
                schema.lay(connection)
                rows = [(key, codec.write(value, f"meta {key}")) for key, value in meta.items()]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
                connection.close()
                draft.rename(place)
            except BaseException:
                if lock:
                    lock.release()
                shutil.rmtree(draft, ignore_errors=True)
                raise
            return cls(place, connect(place / JOURNAL), lock, clock)

    @classmethod
    def open(cls, folder: str | Path, *, write: bool = False, clock: Callable[[], float] = time.time) -> Journal:
        place = Path(folder)
        if not is_run(place):
            what = f"a folder without {JOURNAL}" if place.is_dir() else "no such folder"
            raise JournalError(f"{place}: {what}; a run is made by `evolve run` and lies under runs/.")
        lock = Lock(place) if write else None
        try:
            with on_disk(place):
                connection = connect(place / JOURNAL) if write else look(place / JOURNAL)
                return cls(place, connection, lock, clock)
        except BaseException:
            if lock:
                lock.release()
            raise

    def close(self) -> None:
        """A writer leaves one tidy file, without a log beside it, that opens on a read-only medium too."""
        if self._lock is not None:
            try:
                self._db.execute("PRAGMA analysis_limit = 1000")
                self._db.execute("PRAGMA optimize")
                self._db.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error:  # a reader looks, or the disk is full: the log stays beside it, which is as good
                pass
            self._db.close()
            self._lock.release()
        else:
            self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- writing

    def append(self, event: Event, *, at: float | None = None) -> int:
        """Commit one event and return its number. Only then may anyone act on it."""
        with self._transaction():
            return self._insert(event, self._clock() if at is None else at)

    def append_all(self, events: Iterable[Event | Logged]) -> int:
        """Commit all of them or none; what comes as `Logged` keeps its time. Returns the last number."""
        seq = self.last_seq()
        with self._transaction():
            for event in events:
                if isinstance(event, Logged):
                    seq = self._insert(event.event, event.at)
                else:
                    seq = self._insert(event, self._clock())
        return seq

    def write_best(self, source: str) -> Path:
        """`best.py`, replaced at one stroke."""
        with on_disk(self.folder):
            return replace_file(self.folder / "best.py", source.encode("utf-8", "surrogatepass"))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._lock is None:
            raise JournalError(f"{self.folder}: this journal was opened for reading; open it with write=True.")
        with on_disk(self.folder):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._shared.clear()  # what it named may have been rolled back
                raise

    def _insert(self, event: Event, at: float) -> int:
        self._check(event)
        shared = self._share(event.prompt.system) if isinstance(event, Asked) else None
        row = codec.encode(event, shared)
        cursor = self._db.execute(
            "INSERT INTO events (at, step, kind, body) VALUES (?, ?, ?, ?)", (at, row.step, row.kind, row.body)
        )
        seq = cursor.lastrowid
        assert seq is not None
        if row.source is not None:
            self._db.execute("INSERT INTO sources VALUES (?, ?)", (seq, row.source))
        if row.heavy is not None:
            self._db.execute("INSERT INTO heavy VALUES (?, ?)", (seq, row.heavy))
        schema.project(self._db, seq, at, event)
        return seq

    def _check(self, event: Event) -> None:
        """What no bug elsewhere may put on record: a step judged twice, and a confirmation of nothing."""
        if not isinstance(event, Judged | Confirmed):
            return
        found = self._db.execute("SELECT state, candidate_id FROM steps WHERE step = ?", (event.step,)).fetchone()
        if isinstance(event, Judged):
            if found and found[0] == 3:
                raise MachineryError(f"{self.folder}: step {event.step} is judged already; a step has one verdict.")
            if event.candidate and event.candidate.step != event.step:
                raise MachineryError(f"step {event.step}: its candidate says step {event.candidate.step}.")
        elif not found or found[1] != event.candidate_id:
            raise MachineryError(f"{self.folder}: step {event.step} has no {event.candidate_id} to confirm.")

    def _share(self, text: str) -> int | None:
        """Where the system prompt stands; it is written when it is new."""
        if not text:
            return None
        digest = digest_of(text)
        if digest not in self._shared:
            self._db.execute("INSERT OR IGNORE INTO shared (digest, data) VALUES (?, ?)", (digest, codec.pack(text)))
            found = self._db.execute("SELECT id FROM shared WHERE digest = ?", (digest,)).fetchone()
            if len(self._shared) > 100:  # they are few; if they are not, remembering them is no use
                self._shared.clear()
            self._shared[digest] = found[0]
        return self._shared[digest]

    # --- reading: the record

    def events(self, after: int = 0, *, evidence: bool = True) -> Iterator[Logged]:
        """Everything with a number above `after`, in order. With `evidence=False` what no fold needs is left unread
        and comes back empty: prompts, texts of replies and evidence, most of the file. Sources are always there."""
        while rows := self._read("e.seq > ? ORDER BY e.seq LIMIT ?", (after, CHUNK), evidence):
            for row in rows:
                yield self._logged(row, evidence)
            after = rows[-1][0]

    def event(self, seq: int) -> Logged | None:
        return next(iter([self._logged(row) for row in self._read("e.seq = ?", (seq,))]), None)

    def step(self, number: int) -> Turn:
        """All that is on record of a step."""
        rows = self._read("e.step = ? ORDER BY e.seq", (number,))
        return turn_of(number, (self._logged(row).event for row in rows))

    def attempt(self, candidate_id: str) -> Attempt:
        """The candidate with its latest evaluation: a confirmed figure replaces the first."""
        attempt = self._turn(candidate_id).attempt
        assert attempt is not None
        return attempt

    def resolve(self, selector: str) -> str:
        """The id of the candidate that a person means: an id or its beginning, a step's number, or "best"."""
        step = find_step(self.query, self.folder, selector)
        return str(self.query("SELECT candidate_id FROM steps WHERE step = ?", (step,))[0][0])

    def history(self, candidate_id: str) -> tuple[Evaluation, ...]:
        """Every evaluation of the candidate, the first one first."""
        return self._turn(candidate_id).evaluations

    def _turn(self, candidate_id: str) -> Turn:
        found = self._db.execute("SELECT step FROM steps WHERE candidate_id = ?", (candidate_id,)).fetchone()
        if not found:
            raise JournalError(
                f"{self.folder}: no candidate {candidate_id}; `evolve show {self.folder} --top 20` names the best."
            )
        return self.step(found[0])

    def pending(self) -> list[Pending]:
        """The steps that are not at their end, oldest first: asked, replied, or judged and to be confirmed."""
        where = "state < 3 OR (beats AND confirmed_seq IS NULL)"
        steps = self.query(f"SELECT step FROM steps INDEXED BY pending WHERE {where} ORDER BY step")
        return [pending_of(self.step(step)) for (step,) in steps]

    def last_seq(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])

    def last_step(self) -> int:
        """The highest step begun, or -1: the next one is one more."""
        return int(self._db.execute("SELECT coalesce(max(step), -1) FROM steps").fetchone()[0])

    def _read(self, where: str, values: Sequence[Any], evidence: bool = True) -> list[tuple[Any, ...]]:
        heavy, beside = (", h.data", " LEFT JOIN heavy h USING (seq)") if evidence else (", NULL", "")
        return self._db.execute(f"SELECT {_EVENT}{heavy} FROM {_BESIDE}{beside} WHERE {where}", values).fetchall()

    def _logged(self, row: tuple[Any, ...], evidence: bool = True) -> Logged:
        seq, at, step, kind, body, source, heavy = row
        system = self._system if evidence else None
        event = codec.decode(kind, step, body, source=source, heavy=heavy, system=system)
        return Logged(seq=seq, at=at, event=event)

    def _read_system(self, place: int) -> str:
        found = self._db.execute("SELECT data FROM shared WHERE id = ?", (place,)).fetchone()
        return codec.unpack(found[0]) if found else ""

    # --- reading: steps at a glance

    def rows(self, where: str = "1", values: Sequence[Any] = (), *, order: str = "s.step") -> Iterator[Row]:
        """Rows of the steps table (`s`) that satisfy an SQL condition. Never build one from what a user wrote: give
        that in `values`."""
        return self.select(f"FROM steps s WHERE {where} ORDER BY {order}", values)

    def select(self, rest: str, values: Sequence[Any] = (), *, before: str = "") -> Iterator[Row]:
        """The same for a query of one's own, in which `s` is the steps table."""
        cursor = self._db.execute(f"{before} SELECT {schema.COLUMNS} {rest}", values)
        return map(schema.row_of, cursor)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Any question to the tables of `journal_schema.py`, for pages that count or bin."""
        return self._db.execute(sql, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several questions to one and the same moment. Keep it short: a checkpoint waits for it."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    @property
    def config_text(self) -> str:
        return (self.folder / "config.yaml").read_bytes().decode("utf-8", "surrogatepass")

    @property
    def environment(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
        return found


def _pretty(value: Mapping[str, Any], what: str) -> str:
    return json.dumps(codec.read(codec.write(value, what)), indent=2, ensure_ascii=True) + "\n"
