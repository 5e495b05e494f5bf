"""The default store: one SQLite file, a journal and snapshots in it.

- A commit is one row in `journal`, written by one statement: one hop to the
  connection's thread, one fsync, the GIL released meanwhile.
- A snapshot is one multi-row upsert into `sessions`; `forget` then drops the
  journal rows that snapshots cover.
- One connection writes (`writer.py`), one loads (`reader.py`), one searches (`searcher.py`), in WAL mode.
- Nothing is read at the start but the journal, so a start does not depend on the
  number of sessions stored.
"""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from zlib import crc32

from msgspec import Struct

from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.sessions.finding import Found, Search
from stui_sessions.sessions.model import Record, Removed, Session, Totals
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage import backup, files, journal, migration, schema
from stui_sessions.storage.background import interruptible
from stui_sessions.storage.base import Due, Recovered, Stored
from stui_sessions.storage.border import Log, translate
from stui_sessions.storage.lock import FileLock
from stui_sessions.storage.reader import MAX_IN, Reader, in_list, padded
from stui_sessions.storage.rows import Row, encode_entry, encode_session
from stui_sessions.storage.searcher import Searcher
from stui_sessions.storage.writer import PAGE, Durability, Writer

CHUNK_ROWS = MAX_IN
CHUNK_BYTES = 2**20
"""A snapshot's statement holds at most so much: a commit waits behind it."""

PIECE_ROWS = 2048
PIECE_BYTES = 2**20
"""The same for one statement of `forget`."""

# REPLACE: a failed commit's number is used again, and where the medium failed
# half-way its row may be there after all.
_COMMIT = "INSERT OR REPLACE INTO journal (sequence, crc, data) VALUES (?, ?, ?)"
_FORGET = "DELETE FROM journal WHERE sequence <= ?"
_REMOVE = "DELETE FROM sessions WHERE number IN ({})"
_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class SqliteStore:
    """A `SessionStore` in an SQLite database at `path`.

    `durability`: "full" has each commit on disk (fsync) when it returns; "normal"
    may lose the last ones when the power fails, never when the process dies.
    `clock` (ms) paces the progress lines of a long replay.
    """

    def __init__(self, path: Path, *, durability: Durability, clock: Callable[[], int], log: Log) -> None:
        self.path = path.resolve()  # a symlink must not lead round the lock
        self.checked = False  # the file was looked through for damage since `open`
        self._clock = clock
        self._log = log
        self._lock = FileLock(files.beside(self.path, ".lock"))
        self._reader = Reader(self.path, log)
        self._searcher = Searcher(self.path, log)
        self._writer = Writer(self.path, durability, log)
        self._sequence = 0
        self._ledger = Ledger()

    # --- start and stop ------------------------------------------------------

    async def open(self) -> Recovered:
        """See `SessionStore.open`.  Whatever is wrong is a StartError; nothing is changed then."""
        if self._writer.is_open:
            raise StartError(f"{self.path} is open already")
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at DEBUG it logs all parameters
        try:
            recovered = await asyncio.to_thread(self._prepare)
            await self._start(recovered)
            return recovered
        except BaseException as error:
            await self._release(refused=True)
            if isinstance(error, StorageDamaged):
                raise StartError(f"{self.path} is damaged: {error}. {files.FOUND_DAMAGED}") from error
            if isinstance(error, StorageError):
                raise StartError(f"{self.path} cannot be used: {error}") from error
            raise

    def _prepare(self) -> Recovered:
        """Everything before the first lasting connection."""
        try:
            schema.refuse_old_sqlite()
            files.refuse_other_kinds(self.path)
            files.make_parents(self.path)
            self._lock.acquire()
            if not self.path.exists():
                files.refuse_orphan_wal(self.path)
                files.make_file(self.path)
            found = files.inspect_header(self.path)
            files.tighten(self.path, self._log)
            if found != "ours":
                schema.create(self.path)
            return self._recover()
        except PermissionError as error:
            raise StartError(
                f"{self.path} cannot be used: no permission for {error.filename}. The server must be allowed "
                "to read and write the file, and to make files in its directory"
            ) from error
        except (OSError, sqlite3.Error) as error:
            raise translate("opening the database", error) from error

    def _recover(self) -> Recovered:
        """Look and replay, on a connection that cannot write.

        A database that is refused stays as it was; a writing connection, as the
        last one to close, would merge the write-ahead log.  So is a database of an
        older schema looked at and replayed first, and migrated when nothing is wrong.
        """
        with closing(schema.connect(self.path, "ro")) as connection:
            self.checked = schema.inspect(connection, self.path)
            if schema.version_of(connection) == schema.SCHEMA_VERSION:
                return self._replay(connection, journal.NEWEST)
            self._replay(connection, migration.FORM_1)
        migration.migrate(self.path, self._clock, self._log)
        with closing(schema.connect(self.path, "ro")) as connection:
            return self._replay(connection, journal.NEWEST)

    def _replay(self, connection: sqlite3.Connection, form: journal.Form) -> Recovered:
        self._ledger = Ledger()
        return journal.recover(connection, form, self._ledger.add_piece, self._clock, self._log)

    async def _start(self, recovered: Recovered) -> None:
        """Connect to stay, and mark the database as in use."""
        self._sequence = recovered.sequence
        await self._writer.open()  # sets WAL mode
        await self._reader.open()
        self._searcher.open()
        await self._set_meta("clean", 0)

    async def close(self, clean: bool) -> None:
        """See `SessionStore.close`.  Closed in any case; StorageError if that could not be noted."""
        try:
            if clean and self._writer.is_open and self._writer.damage is None:
                await self._set_meta("clean", 1)
        finally:
            await self._release(refused=False)

    async def _release(self, *, refused: bool) -> None:
        await self._searcher.close()
        if self._writer.damage is None and not refused:
            await self._reader.close()
            await self._writer.close(merge=True)
        else:  # the last connection to close merges the write-ahead log, unless it can only read
            await self._writer.close(merge=False)
            await self._reader.close()
        try:
            self._lock.release(remove=refused)
        except OSError as error:
            self._log.debug("lock_release_failed", error=str(error))

    # --- writing -------------------------------------------------------------

    async def commit(self, sequence: int, records: Sequence[Record], totals: Totals) -> int:
        """See `SessionStore.commit`."""
        if sequence != self._sequence + 1:  # a gap would stop the next start
            raise ValueError(f"commit {sequence} after {self._sequence}")
        data = encode_entry(sequence, records, totals)
        size = len(data)
        await self._writer.execute(_COMMIT, (sequence, crc32(data), data), size)
        self._sequence = sequence
        self._ledger.add(sequence, size)
        return size

    async def snapshot(self, sequence: int, sessions: Sequence[Session | Removed]) -> None:
        """See `SessionStore.snapshot`."""
        # Removals first: their ids may have been given to new sessions.
        removed = [session.number for session in sessions if isinstance(session, Removed)]
        for start in range(0, len(removed), MAX_IN):
            numbers = padded(removed[start : start + MAX_IN])
            await self._writer.execute(in_list(_REMOVE, len(numbers)), numbers, len(numbers) * PAGE)
        for rows in chunked(encode_session(sequence, s) for s in sessions if isinstance(s, Session)):
            await self._upsert(rows)

    async def _upsert(self, rows: list[Row]) -> None:
        slots = len(padded(rows))
        values: list[object] = [value for row in rows for value in row]
        values += [None] * ((slots - len(rows)) * len(Row._fields))
        values.append(self._clock())
        size = sum(map(bytes_of, rows)) + 2 * len(rows) * PAGE  # one of them sessions_by_activity's
        written = await self._writer.execute(upsert(slots, moving=False), values, size)
        if written < len(rows):
            await self._writer.execute(upsert(slots, moving=True), values, size)

    async def forget(self, sequence: int) -> bool:
        """See `SessionStore.forget`."""
        piece = self._ledger.piece(min(sequence, self._sequence - 1))
        if piece is None:
            await self._writer.tidy()
            return False
        # In WAL mode the pages that become free are written once more.
        await self._writer.execute(_FORGET, (piece.last,), piece.size)
        self._ledger.drop(piece.last)
        return True

    async def copy(self, path: Path) -> None:
        """See `SessionStore.copy`.  The write-ahead log grows while the copy is made, and is brought down again."""
        try:
            await asyncio.to_thread(backup.copy, self.path, path)
        finally:
            await self._writer.shrink()

    def size(self) -> int:
        """See `SessionStore.size`: the database with its write-ahead log."""
        return files.size(self.path) + files.size(files.beside(self.path, "-wal"))

    async def mark_unclean(self, at: int) -> None:
        """See `SessionStore.mark_unclean`."""
        await self._set_meta("uncertain_until", at)

    async def _set_meta(self, key: str, value: int) -> None:
        await self._writer.execute_durably(_META, (key, value))

    # --- reading -------------------------------------------------------------

    async def load(self, session_ids: Sequence[str]) -> dict[str, Stored]:
        """See `SessionStore.load`."""
        return await self._reader.load(session_ids)

    async def load_groups(self, keys: Sequence[GroupKey]) -> dict[GroupKey, list[str]]:
        """See `SessionStore.load_groups`."""
        return await self._reader.load_groups(keys)

    async def search(self, search: Search) -> Found:
        """See `SessionStore.search`."""
        return await self._searcher.search(search)

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        """See `SessionStore.due`."""
        return await self._reader.due(status, before, after, limit)

    async def check(self) -> None:
        """See `SessionStore.check`.

        In a thread and on a connection of its own.  While it runs, the write-ahead
        log cannot be started again and grows.  Once it has found something, this
        store does not touch the file any more.
        """
        try:
            with closing(schema.connect(self.path, "ro", any_thread=True)) as connection:
                work = asyncio.ensure_future(asyncio.to_thread(schema.quick_check, connection))
                findings = await interruptible(work, connection.interrupt)
            if findings:
                raise sqlite3.DatabaseError(f"database disk image is malformed: {findings[0]}")
        except (OSError, sqlite3.Error) as error:
            failure = translate("checking the database", error)
            if isinstance(failure, StorageDamaged):
                self._writer.damage = failure
            raise failure from error
        self.checked = True
        self._log.info("database_checked")


@cache
def upsert(slots: int, *, moving: bool) -> str:
    """The statement that writes up to `slots` rows; unused slots are NULL, the last parameter is the time in ms.

    A session's place in sessions_by_due is moved only when the time noted there has
    come, or is later than the real one: a row written without touching all the
    indexes costs less than half.  So there are two statements, the second (`moving`)
    for what the first leaves out.  Only sessions_by_activity is always exact.
    """
    names = Row._fields
    row = f"({','.join('?' * len(names))})"
    same = " AND ".join(f"sessions.{name} = excluded.{name}" for name in ("status", "external_id", "title"))
    stays = f"{same} AND sessions.due_at <= excluded.due_at AND sessions.due_at > ?"
    content = ("active_at", "size", "sequence", "head_crc", "crc", "head", "data")
    updated = ("status", "external_id", "title", "due_at", *content) if moving else content
    return (
        f"INSERT INTO sessions ({','.join(names)}) SELECT * FROM (VALUES {','.join([row] * slots)}) "
        f"WHERE column1 IS NOT NULL ON CONFLICT (number) DO UPDATE SET "
        f"{','.join(f'{name}=excluded.{name}' for name in updated)} WHERE {'NOT ' if moving else ''}({stays})"
    )


def bytes_of(row: Row) -> int:
    """What a row has to be written, about."""
    return len(row.head) + len(row.data)


def chunked(rows: Iterable[Row]) -> Iterable[list[Row]]:
    """Rows in groups of at most CHUNK_ROWS and about CHUNK_BYTES."""
    chunk: list[Row] = []
    size = 0
    for row in rows:
        if chunk and (len(chunk) == CHUNK_ROWS or size + bytes_of(row) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += bytes_of(row)
    if chunk:
        yield chunk


class Piece(Struct):
    """Journal entries that follow each other."""

    first: int  # sequence
    last: int
    size: int  # bytes, about


class Ledger:
    """What is in the journal, in pieces of at most PIECE_ROWS and about PIECE_BYTES.

    So that `forget` need not ask the database, and not remember every entry.
    """

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()

    def add(self, sequence: int, size: int) -> None:
        """A journal entry of `size` bytes was written."""
        if self._pieces:
            newest = self._pieces[-1]
            if sequence - newest.first < PIECE_ROWS and newest.size + size <= PIECE_BYTES:
                newest.last = sequence
                newest.size += size
                return
        self._pieces.append(Piece(sequence, sequence, size))

    def add_piece(self, first: int, last: int, size: int) -> None:
        """Entries that an earlier process wrote."""
        self._pieces.append(Piece(first, last, size))

    def piece(self, upto: int) -> Piece | None:
        """The oldest piece, or what of it is not behind `upto`; None if that is nothing."""
        if not self._pieces or self._pieces[0].first > upto:
            return None
        oldest = self._pieces[0]
        return Piece(oldest.first, min(oldest.last, upto), oldest.size)

    def drop(self, last: int) -> None:
        """Entries up to `last`, which is in the oldest piece, are gone."""
        if self._pieces[0].last <= last:
            self._pieces.popleft()
        else:
            self._pieces[0].first = last + 1
