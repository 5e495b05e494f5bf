"""The reading side of the tables: one read-only connection, beside the writing one."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite

from stui_sessions.domain.entities import Entity, Key
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.border import CAUGHT, Log, translate
from stui_sessions.storage.local.lookup import LookUp, Rows
from stui_sessions.storage.local.schema import connect

CACHE_KIB = 8 * 1024


class Reader:
    """Reads entities by their keys.  `last_number()`: see `LookUp`."""

    def __init__(self, path: Path, last_number: Callable[[], int], log: Log) -> None:
        self._path = path
        self._last_number = last_number
        self._log = log
        self._connection: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Connect.  StorageError if that fails."""
        try:
            self._connection = await aiosqlite.Connection(partial(connect_reading, self._path), iter_chunk_size=64)
        except CAUGHT as error:
            raise translate("opening the database for reading", error) from error

    async def close(self) -> None:
        """Disconnect; errors are of no consequence and only logged."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            await connection.close()
        except CAUGHT as error:
            self._log.debug("database_close_failed", error=str(error))

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> Rows:
        """All rows of one query, in one hop to the connection's thread.

        TEXT comes as bytes.  No cursor stays open: an unfinished one would keep
        the write-ahead log from being reused.
        """
        if self._connection is None:
            raise StorageError("the store is closed")
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]
        except CAUGHT as error:
            raise translate("reading the database", error) from error

    async def read(self, keys: Sequence[Key]) -> dict[Key, Entity]:
        """What the tables have under each key."""
        look_up = LookUp(keys, self._log, self._last_number())
        steps = look_up.steps()
        try:
            query = next(steps)
            while True:
                try:
                    rows = await self.fetch(*query)
                except StorageDamaged as error:
                    query = steps.throw(error)
                else:
                    query = steps.send(rows)
        except StopIteration:
            return look_up.found


def connect_reading(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """A connection that can only read."""
    connection = connect(path, "ro", any_thread=any_thread)
    try:
        connection.text_factory = bytes  # damaged text is for us to judge, not for the driver to raise on
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA temp_store = MEMORY")
        # A first read, so that the write-ahead log is open here too: otherwise the writer, given up
        # after an I/O error, would be the last to close it, and this one would have to make it anew.
        connection.execute("SELECT 1 FROM meta").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def begin_reading(connection: sqlite3.Connection) -> None:
    """Begin a transaction: all that it reads is as of this moment."""
    connection.execute("BEGIN")
    connection.execute("SELECT 1 FROM meta").fetchone()  # it is the first read that it begins with
