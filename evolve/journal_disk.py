"""Connections to a journal's file, and sentences for what a disk does to us.

A writer and a reader open the same file in different ways; here is how, and why. What stands in it is for
`journal_schema.py` to say.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evolve.errors import DiskFull, JournalError, MachineryError
from evolve.journal_schema import APPLICATION, SCHEMA

PATIENCE = 10.0  # seconds that SQLite waits for another connection's instant of locking
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def connect(path: Path) -> sqlite3.Connection:
    """For the one writer. NORMAL syncs at checkpoints only: thousands of commits a second, none lost to a kill."""
    db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA cache_size = -16000")
    db.execute("PRAGMA secure_delete = OFF")  # some builds blank what a row leaves behind: a tenth of an append
    db.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MB: a quarter of the syncs, and a sixth of the slow appends
    return db


def look(path: Path) -> sqlite3.Connection:
    """For readers. `mode=ro` sees what a living writer commits. Where not even the log's index can be made beside the
    file, on a read-only medium, the file is taken as it lies; that would hide a log, so a log is refused there."""
    place = path.resolve().as_uri()
    db = _reader(f"{place}?mode=ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        db.close()
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            raise JournalError(
                f"{path.parent}: was not closed, and its log {log.name} cannot be read in a place that cannot be "
                "written; copy the folder to where it can."
            ) from error
        db = _reader(f"{place}?immutable=1")
    return db


def _reader(uri: str) -> sqlite3.Connection:
    # Readers are handed from thread to thread by a web server; SQLite itself is built to bear it.
    return sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def vet(db: sqlite3.Connection, folder: Path) -> None:
    """Refuse what is not ours, and what is from after our time."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION:
        raise JournalError(f"{folder}: its journal.sqlite is not a journal of evolve.")
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA:
        raise JournalError(
            f"{folder}: written by a newer evolve (journal schema {found}, this one knows up to {SCHEMA}); update it."
        )


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Around every write: what SQLite and the system say, in our own words."""
    try:
        yield
    except sqlite3.Error as error:
        raise _told(error, folder) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _full(folder, error.strerror or "no space") from error
        if error.errno in _REFUSED:
            raise JournalError(f"{folder}: cannot be written: {error.strerror}; choose another place.") from error
        raise MachineryError(f"{folder}: {error.strerror}: {error.filename}.") from error


def _told(error: sqlite3.Error, folder: Path) -> JournalError | MachineryError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):  # a file-size limit and a quota come as the second
        return _full(folder, str(error))
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return JournalError(f"{folder}: its journal.sqlite cannot be read: {error}; restore it from a copy.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return JournalError(f"{folder}: cannot be written: {error}; look at it there, or copy it first.")
    if code == sqlite3.SQLITE_BUSY:
        return MachineryError(f"{folder}: another program has held journal.sqlite for {PATIENCE:.0f} s; close it.")
    return MachineryError(f"{folder}: the journal refused a write: {error}.")


def _full(folder: Path, why: str) -> DiskFull:
    place = next((p for p in (folder, *folder.resolve().parents) if p.is_dir()), Path("/"))
    free = shutil.disk_usage(place).free / 2**20
    return DiskFull(
        f"{folder}: nothing more can be written: {why} ({free:,.0f} MB free). What is on record is safe; make room, "
        "then go on with --resume."
    )


def replace_file(path: Path, data: bytes) -> Path:
    """The file is the old one or the new one, whole, at every moment."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path
