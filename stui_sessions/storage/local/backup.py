"""Copies of a database: made while the server writes, verified before they are used.

A copy is one file: the tables and what of the log goes with them, as of one moment.
Synchronous, for a thread or for the command line.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from stui_sessions.domain.entities import Damaged
from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage import files
from stui_sessions.storage.border import CAUGHT, Log, translate
from stui_sessions.storage.counting import MAX_INTEGER
from stui_sessions.storage.local import meta, migration, schema, segments, start
from stui_sessions.storage.local.lookup import Rows
from stui_sessions.storage.local.reader import begin_reading, connect_reading
from stui_sessions.storage.local.start import Start
from stui_sessions.storage.local.statements import Plan
from stui_sessions.storage.local.tables import META, write
from stui_sessions.storage.rows import ENTITY, WHOLE, decode_entity, decode_session, decode_text

ROWS = 1000
"""Sessions verified between two reports of progress."""

PAGES = 1024
"""Copied in one step; between two steps the copying can be stopped."""

ATTEMPTS = 5
"""To read tables and log together, while a server takes files of the log out of use."""

SYNC_PAGES = 16 * PAGES
"""Copied between two syncs, so that the last one does not take long."""


def _no_time() -> int:
    """A clock for those who want no lines about the progress."""
    return 0


class Stop:
    """Ends copying soon, from another thread."""

    def __init__(self) -> None:
        self.is_set = False
        self._busy: sqlite3.Connection | None = None

    def set(self) -> None:
        """Stop the copying.  To be called again until it has ended: an interrupt may come too early."""
        self.is_set = True
        if self._busy is not None:
            self._busy.interrupt()

    def check(self) -> None:
        """Raises Stopped."""
        if self.is_set:
            raise Stopped

    @contextmanager
    def watching(self, connection: sqlite3.Connection) -> Iterator[None]:
        """What this connection does takes long, and is to be interrupted."""
        self._busy = connection
        try:
            self.check()
            yield
        finally:
            self._busy = None


class Stopped(Exception):
    """The copying was told to stop."""


def copy(source: Path, target: Path, log: Log, stop: Stop | None = None) -> None:
    """Copy the database at `source` to the new file `target`, as of one moment, and look at the copy.

    Raises StartError and StorageError, and Stopped; what was made of the copy is
    removed then.  What is at `target` already is left as it is, and StorageError raised.
    """
    try:
        files.make_new(target)
    except OSError as error:
        raise translate("copying the database", error) from error
    stop = stop or Stop()
    try:
        found = _copy_moment(source, target, log, stop)
        _complete(target, found, stop)
        files.sync_file(target)
    except BaseException as error:
        files.remove(target)
        if isinstance(error, CAUGHT):
            raise translate("copying the database", error) from error
        raise


def _copy_moment(source: Path, target: Path, log: Log, stop: Stop) -> Start | None:
    """Copy the tables; what of the log goes with them.  None for a former version, which has its log in the tables.

    The reading transaction lasts for all of it, so that no write comes between and
    none is held up.
    """
    for attempt in range(ATTEMPTS):
        with closing(connect_reading(source, any_thread=True)) as reading:
            begin_reading(reading)
            try:
                found = _look(reading, source, log)
            except (StartError, FileNotFoundError):
                if attempt + 1 == ATTEMPTS:
                    raise
                continue  # a segment was taken out of use, or is being written, just now
            _copy_pages(reading, target, stop)
            return found
    raise AssertionError


def _look(reading: sqlite3.Connection, source: Path, log: Log) -> Start | None:
    if schema.version_of(reading) != schema.SCHEMA_VERSION:
        return None
    return start.recovered(reading, segments.directory_of(source), False, _no_time, log)


def _copy_pages(reading: sqlite3.Connection, target: Path, stop: Stop) -> None:
    unsynced = 0
    fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)

    def progress(_status: int, _remaining: int, _total: int) -> None:
        nonlocal unsynced
        stop.check()
        unsynced += PAGES
        if unsynced >= SYNC_PAGES:
            os.fdatasync(fd)
            unsynced = 0

    try:
        with closing(schema.connect(target, "rw")) as writing:
            writing.execute("PRAGMA synchronous = OFF")  # synced here
            reading.backup(writing, pages=PAGES, progress=progress, sleep=0)
        os.fdatasync(fd)
    finally:
        os.close(fd)  # not before: that would drop the locks that SQLite has on it


def _complete(target: Path, found: Start | None, stop: Stop) -> None:
    """Bring the copy up to date, so that it needs no log, and look at it."""
    with closing(schema.connect(target, "rw")) as copied:
        copied.execute("PRAGMA journal_mode = DELETE").fetchone()  # one file, without a log beside it
        copied.execute("PRAGMA synchronous = OFF")
        with stop.watching(copied):
            if found is not None:
                copied.execute("BEGIN IMMEDIATE")
                _write_tail(copied, found)
                copied.execute("COMMIT")
            findings = schema.quick_check(copied)
    if findings:
        raise StorageDamaged(f"the copy is damaged: {findings[0]}")


def _write_tail(copied: sqlite3.Connection, found: Start) -> None:
    replay = found.replay
    plan = Plan()
    plan.add(replay.entities.values())
    write(copied, plan.statements(replay.removed, MAX_INTEGER))
    values = {
        "tables_commit": found.tail.last,
        "last_number": replay.last_number,
        "totals": meta.encode_totals(replay.tally.counters()),
        # Another history from here on: the log of the original must never meet it.
        "log_id": os.urandom(16),
        "log_segment": 0,
        "needs_log": 0,
    }
    copied.executemany(META, values.items())


def verify(path: Path, log: Log, on_progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Look at a database as a start would, and at every session in it too; returns how many there are.

    `on_progress(done, total)` hears of sessions looked at.  Raises StartError or
    StorageError with what is wrong.
    """
    files.refuse_other_kinds(path)
    if not path.exists():
        raise StartError(f"{path} does not exist")
    if files.inspect_header(path, schema.SCHEMA_VERSION) != "ours":
        raise StartError(f"{path} is empty: it holds no backup")
    try:
        with closing(schema.connect(path, "ro")) as connection:
            schema.inspect(connection, path)
            findings = schema.quick_check(connection)
            if findings:
                raise StorageDamaged("; ".join(findings))
            if schema.version_of(connection) != schema.SCHEMA_VERSION:
                return migration.known(connection, log)
        with closing(connect_reading(path)) as connection:
            begin_reading(connection)
            return _verify_rows(connection, path, log, on_progress)
    except CAUGHT as error:
        raise translate("verifying", error) from error


def _verify_rows(connection: sqlite3.Connection, path: Path, log: Log, on_progress: Callable[[int, int], None]) -> int:
    found = start.recovered(connection, segments.directory_of(path), False, _no_time, log)
    known = sum(sum(counts[:4]) for _, *counts in found.replay.tally.counters())  # those in the log alone, too
    total: int = connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
    done = 0
    for some in _pieces(connection, f"SELECT {WHOLE} FROM sessions ORDER BY number"):
        damaged = [row[1] for row in some if decode_session(*row) is None]
        if damaged:
            raise StorageDamaged(f"session {damaged[0]} fails its checksum")
        done += len(some)
        on_progress(done, total)
    for some in _pieces(connection, f"SELECT {ENTITY} FROM entities"):
        for tenant, kind, name, *rest in some:
            key = decode_text(tenant), decode_text(kind), decode_text(name)
            if isinstance(decode_entity(key, *rest), Damaged):
                raise StorageDamaged(f"the {key[1]} of some sessions fails its checksum")
    return known


def _pieces(connection: sqlite3.Connection, sql: str) -> Iterator[Rows]:
    with closing(connection.execute(sql)) as cursor:
        while some := cursor.fetchmany(ROWS):
            yield some
