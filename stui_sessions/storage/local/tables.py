"""The writing side of the tables: the only connection that writes or checkpoints.

(Two at once can corrupt a database in SQLite before 3.51.3: "the WAL-reset bug".)
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.border import CAUGHT, Log, is_medium, translate
from stui_sessions.storage.local.schema import BUSY_MS, connect
from stui_sessions.storage.local.statements import PAGE, Statement

CHECKPOINT_AFTER = 16 * 2**20
"""Bytes written after which a checkpoint follows at once: a WAL file that grows is slower than one used again."""
CHECKPOINT_WORTH = 8 * 2**20  # the same when there is time for it, in `tidy`
WAL_KEEP = 32 * 2**20  # what of the WAL file stays after a burst
CACHE_KIB = 16 * 1024

META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def write(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    """Run statements in the transaction that is open, where no server is."""
    for statement in statements:
        if connection.execute(statement.sql, statement.parameters).rowcount < statement.rows:
            connection.execute(statement.rest, statement.parameters)


class Tables:
    """Runs single statements, each one a transaction of its own.

    They become durable together, with the next note or checkpoint: until then the log has it all.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._connection: aiosqlite.Connection | None = None
        self._connecting = asyncio.Lock()
        self._noting = asyncio.Lock()
        self.is_open = False
        self.damage: StorageDamaged | None = None
        """Set when the database was found damaged: from then on it is left alone."""
        self._unmerged = 0  # bytes written since the last checkpoint, about
        self._checkpointing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and set WAL mode.  StorageError if that fails."""
        self._connection = await self._connect()
        self.is_open = True

    async def _connect(self) -> aiosqlite.Connection:
        try:
            return await aiosqlite.Connection(partial(_connect, self._path), iter_chunk_size=64)
        except CAUGHT as error:
            raise translate("opening the database for writing", error) from error

    async def _current(self) -> aiosqlite.Connection:
        if not self.is_open:
            raise StorageError("the store is closed")
        self.check_sound()
        if self._connection is None:  # given up after an I/O error
            async with self._connecting:  # several statements may find it so
                if self._connection is None:
                    self._connection = await self._connect()
                    self._log.info("database_reopened")
        return self._connection

    def check_sound(self) -> None:
        """StorageDamaged, if damage was found; a new one, for one that is raised again keeps all frames it passed."""
        if self.damage is not None:
            raise StorageDamaged(str(self.damage))

    async def execute(self, statement: Statement) -> None:
        """Run a statement.  StorageError: it changed nothing, or not all of it."""
        connection = await self._current()
        try:
            cursor = await connection.execute(statement.sql, statement.parameters)
            if cursor.rowcount < statement.rows:
                await connection.execute(statement.rest, statement.parameters)
        except CAUGHT as error:
            raise await self._failed(connection, error) from error
        self._unmerged += statement.size + PAGE
        if self._unmerged >= CHECKPOINT_AFTER:
            self._checkpoint_soon()

    async def note(self, values: Mapping[str, Any]) -> None:
        """Write rows of `meta` in one transaction; it makes durable whatever was written before, too."""
        connection = await self._current()
        sql = META.replace("(?, ?)", ",".join(["(?, ?)"] * len(values)))
        parameters = [part for row in values.items() for part in row]
        async with self._noting:  # else the end of one could leave the other without its sync
            try:
                try:
                    await connection.execute("PRAGMA synchronous = FULL")
                    await connection.execute(sql, parameters)
                finally:
                    await connection.execute("PRAGMA synchronous = NORMAL")
            except CAUGHT as error:
                raise await self._failed(connection, error) from error

    async def _failed(self, connection: aiosqlite.Connection, error: BaseException) -> StorageError:
        """What to raise for the error of a statement, everything being left in order."""
        await self._recover(connection, error)
        failure = translate("writing the database", error)
        if isinstance(failure, StorageDamaged):
            self.damage = failure
        return failure

    async def _recover(self, connection: aiosqlite.Connection, error: BaseException) -> None:
        """Leave nothing behind a failed statement that the next one could trip over."""
        try:
            if connection.in_transaction:
                await connection.rollback()
        except CAUGHT as worse:
            self._log.debug("database_rollback_failed", error=str(worse))
        if is_medium(error) and self._connection is connection:
            self._connection = None
            await self._disconnect(connection)

    async def _disconnect(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.close()
        except CAUGHT as error:
            self._log.debug("database_close_failed", error=str(error))

    # --- checkpoints ---------------------------------------------------------

    def _checkpoint_soon(self) -> None:
        """Behind this statement and before the next, while the replies to this one leave."""
        if self._checkpointing is None or self._checkpointing.done():
            self._checkpointing = asyncio.create_task(self._checkpoint("PASSIVE"))

    async def tidy(self) -> None:
        """Checkpoint if there is enough to make it worth its fsync."""
        if self._unmerged >= CHECKPOINT_WORTH:
            await self._checkpoint("PASSIVE")

    async def shrink(self) -> None:
        """Merge the log that has grown beside a long read, and cut it down; without waiting for other readers."""
        await self._checkpoint("PASSIVE")
        connection = self._connection
        if connection is None or files.size(files.beside(self._path, "-wal")) <= WAL_KEEP:
            return
        try:
            try:
                await connection.execute("PRAGMA busy_timeout = 0")
                await self._checkpoint("TRUNCATE")
            finally:  # where that is cancelled, too
                await connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        except CAUGHT as error:
            self._log.debug("shrink_failed", error=str(error))

    async def _checkpoint(self, mode: str) -> None:
        """Move the WAL's pages into the database, so that the next writer starts it again.

        A failure costs only disk space: it is logged and tried again after the
        next CHECKPOINT_AFTER bytes.
        """
        if self._connection is None or self.damage is not None:
            return
        self._unmerged = 0
        try:
            rows = await self._connection.execute_fetchall(f"PRAGMA wal_checkpoint({mode})")
        except CAUGHT as error:
            self._log.warning("checkpoint_failed", error=str(error))
            return
        _busy, pages, moved = next(iter(rows))
        if moved < pages:  # a reader was in the way: again before long
            self._unmerged += CHECKPOINT_AFTER - CHECKPOINT_WORTH

    async def close(self, *, merge: bool) -> None:
        """Disconnect; `merge` leaves the database in one file.  Never raises."""
        self.is_open = False
        if self._checkpointing is not None:
            await asyncio.wait([self._checkpointing])
        if merge:
            await self._checkpoint("TRUNCATE")
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._disconnect(connection)


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path, "rw")
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError(f"the file system does not support WAL mode (still {mode})")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP}").fetchone()
        # Some builds overwrite deleted rows with zeros: twice the writing for each removed session.
        connection.execute("PRAGMA secure_delete = OFF").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
