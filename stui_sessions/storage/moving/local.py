"""A local database as a side: locked, closed in order, and not touched any further."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from stui_sessions.domain.entities import Damaged, Session
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.border import CAUGHT, Log, translate
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.local import meta, schema, segments
from stui_sessions.storage.local.store import LocalStore
from stui_sessions.storage.local.writebehind import Limits
from stui_sessions.storage.lock import FileLock
from stui_sessions.storage.moving.content import PIECE_BYTES, PIECE_ROWS, Counts, Entry, Step, lasting, told
from stui_sessions.storage.moving.logs import KeptLog
from stui_sessions.storage.rows import ENTITY, WHOLE, decode_entity, decode_session, decode_text

ATTEMPTS = 3
"""To have the database closed in order: another server may start and stop in between."""

EVERYTHING = 2**62
"""Bytes and seconds of log: bringing a database up to date takes nothing of it away."""

_SESSIONS = f"SELECT {WHOLE} FROM sessions ORDER BY number LIMIT -1 OFFSET ?"
_ENTITIES = f"SELECT {ENTITY} FROM entities ORDER BY tenant, kind, id LIMIT -1 OFFSET ?"


class LocalTables:
    """The tables at `path`, which nobody has open, with the log in `directory`.  Nothing is made or changed there."""

    def __init__(self, path: Path, directory: Path, name: str) -> None:
        self.name = name
        self._directory = directory
        self._connection = _connect(path)
        try:
            self.meta = meta.read(self._connection)
            self.log = KeptLog(directory, self.meta.log_id, self.meta.tables_commit)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    async def counts(self) -> Counts:
        """See `Side.counts`."""
        sql = "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM entities)"
        sessions, entities = self._connection.execute(sql).fetchone()
        return Counts(self.log.count, sessions, entities)

    async def pieces(self, step: Step, skip: int = 0) -> AsyncIterator[list[Any]]:
        """See `Side.pieces`."""
        rows = {"records": self._records, "sessions": self._sessions, "entities": self._entities}[step]
        try:
            for piece in gathered(rows(skip)):
                yield piece
                await asyncio.sleep(0)
        except CAUGHT as error:
            raise translate(f"reading {self.name}", error) from error

    def _records(self, skip: int) -> Iterator[tuple[Entry, int]]:
        for done, entry in enumerate(self.log.entries()):
            if done >= skip:
                yield entry, 0

    def _sessions(self, skip: int) -> Iterator[tuple[Session, int]]:
        for row in self._connection.execute(_SESSIONS, (skip,)):
            s = decode_session(*row)
            if s is None:
                raise StorageDamaged(f"session {row[1]} of {self.name} fails its checksum")
            yield lasting(s, self.meta.uncertain_until), s.state_bytes

    def _entities(self, skip: int) -> Iterator[tuple[Any, int]]:
        for tenant, kind, name, *rest in self._connection.execute(_ENTITIES, (skip,)):
            key = decode_text(tenant), decode_text(kind), decode_text(name)
            entity = decode_entity(key, *rest)
            if isinstance(entity, Damaged):
                raise StorageDamaged(f"the {key[1]} of some sessions of {self.name} fails its checksum")
            yield entity, len(rest[-1])

    async def last_number(self) -> int:
        """See `Side.last_number`."""
        (highest,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM sessions").fetchone()
        return max(self.meta.last_number, int(highest))

    async def least_number(self) -> int:
        """See `Side.least_number`."""
        return await self.last_number()

    async def totals(self) -> list[Counters]:
        """See `Side.totals`."""
        return told(self.meta.counters())


class LocalSource:
    """The database at `path` as a source.  One that was not closed in order is brought up to date first."""

    def __init__(self, path: Path, name: str, log: Log) -> None:
        self.path = path
        self.name = name
        self._log = log
        self._lock = FileLock(files.beside(path, ".lock"))
        self._tables: LocalTables | None = None

    async def open(self) -> LocalTables:
        """See `Source.open`."""
        try:
            self._refuse_others()
            for _ in range(ATTEMPTS):
                self._lock.acquire()
                if self._is_closed_in_order():
                    self._tables = LocalTables(self.path, segments.directory_of(self.path), self.name)
                    return self._tables
                self._lock.release(remove=True)
                await self._bring_up_to_date()
        except CAUGHT as error:
            raise translate(f"opening {self.name}", error) from error
        raise StorageError(f"{self.name} is being used by a server, which must be stopped first")

    def _refuse_others(self) -> None:
        files.refuse_other_kinds(self.path)
        if not self.path.exists():
            raise StorageError(f"{self.name} does not exist: name a database")
        if files.inspect_header(self.path, schema.SCHEMA_VERSION) == "new":
            raise StorageError(f"{self.name} is empty: name a database that a server has made")

    def _is_closed_in_order(self) -> bool:
        """The tables have it all, in one file.  The lock is held."""
        if any(files.size(files.beside(self.path, suffix)) for suffix in ("-wal", "-journal")):
            return False
        connection = _connect(self.path)
        try:
            connection.text_factory = str
            schema.inspect(connection, self.path)
            if schema.version_of(connection) != schema.SCHEMA_VERSION:
                return False
            found = meta.read(connection)
            return bool(found.clean) and not found.needs_log
        finally:
            connection.close()

    async def _bring_up_to_date(self) -> None:
        """Open and close it as a server would that is started and stopped.

        The last server may not have recorded all uses: that is noted, as by a server.
        """
        limits = Limits(log_retention=EVERYTHING // 1000, log_limit=EVERYTHING)
        store = LocalStore(self.path, durability="full", clock=_now, log=self._log, limits=limits)
        opened = await store.open()
        is_noted = opened.clean
        try:
            if not opened.clean:
                await store.note_uncertain(_now())
                is_noted = True
            await store.flush()
        finally:
            await store.close(clean=is_noted)

    async def close(self) -> None:
        """See `Source.close`."""
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        self._lock.release(remove=True)

    async def identity(self) -> str:
        """See `Source.identity`: each database has a log of its own."""
        assert self._tables is not None
        return self._tables.meta.log_id.hex()

    async def state(self) -> str:
        """See `Source.state`."""
        assert self._tables is not None
        found, log = self._tables.meta, self._tables.log
        return f"{found.tables_commit} {found.last_number} {found.uncertain_until} {log.first}"


def gathered(rows: Iterable[tuple[Any, int]]) -> Iterator[list[Any]]:
    """Rows, each with its bytes, in pieces."""
    piece: list[Any] = []
    size = 0
    for row, length in rows:
        piece.append(row)
        size += length
        if len(piece) == PIECE_ROWS or size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that reads, and makes no file beside the database: it is locked and complete."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = bytes
    return connection


def _now() -> int:
    return time.time_ns() // 1_000_000
