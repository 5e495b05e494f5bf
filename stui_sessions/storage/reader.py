"""The reading side of the SQLite store: one read-only connection, beside the writing one."""

import re
import sqlite3
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiosqlite

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.base import Due, Stored
from stui_sessions.storage.border import CAUGHT, Log, primary_code, translate
from stui_sessions.storage.rows import decode_id, decode_session, encode_id
from stui_sessions.storage.schema import connect

CACHE_KIB = 8 * 1024

_SIZES = (1, 4, 16, 64, 256)
"""Parameters of an IN list: few different statements, so that SQLite's compiled ones are found again."""

MAX_IN = _SIZES[-1]

_NUMBER_HINT = re.compile(rb"session_([0-9]{1,18})_")

# INDEXED BY: left to itself SQLite takes sessions_by_due for a client's sessions,
# and reads the whole table.
_LOAD = (
    "SELECT number, sequence, session_id, crc, data FROM sessions INDEXED BY sessions_by_id "
    "WHERE tenant = '' AND session_id IN ({})"
)
_LOAD_BY_NUMBER = "SELECT number, sequence, session_id, crc, data FROM sessions WHERE number IN ({})"
_CLIENTS = (
    "SELECT client_id, session_id FROM sessions INDEXED BY sessions_by_client "
    "WHERE tenant = '' AND status = 0 AND client_id IN ({})"
)
_DUE = (
    "SELECT number, session_id, status, due_at, size FROM sessions INDEXED BY sessions_by_due "
    "WHERE status = ? AND due_at <= ? AND (due_at, number) > (?, ?) ORDER BY due_at, number LIMIT ?"
)


@cache
def in_list(sql: str, count: int) -> str:
    """`sql` with `count` question marks in its IN list."""
    return sql.format(",".join("?" * count))


def padded(values: Sequence[Any]) -> list[Any]:
    """`values` with NULLs, which match nothing, up to the next size of an IN list."""
    size = next(size for size in _SIZES if size >= len(values))
    return [*values, *[None] * (size - len(values))]


class Reader:
    """Reads snapshots."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._connection: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Connect.  StorageError if that fails."""
        try:
            self._connection = await aiosqlite.Connection(partial(_connect, self._path), iter_chunk_size=64)
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

    async def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """All rows of one query, in one hop to the connection's thread.

        TEXT comes as bytes.  No cursor stays open: an unfinished one would keep
        the write-ahead log from being reused.
        """
        if self._connection is None:
            raise StorageError("the store is closed")
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))
        except CAUGHT as error:
            raise translate("reading the database", error) from error

    async def load(self, session_ids: Sequence[str]) -> dict[str, Stored]:
        """See `SessionStore.load`."""
        keys = {encode_id(session_id): session_id for session_id in session_ids}
        found = {session_id: Stored(None) for session_id in session_ids}
        ids = list(keys)
        for start in range(0, len(ids), MAX_IN):
            some = ids[start : start + MAX_IN]
            by_number = await self._load_by_number(some)
            rest = [key for key in some if key not in by_number]
            for key, stored in [*by_number.items(), *(await self._load_some(rest) if rest else ())]:
                if key in keys:
                    found[keys[key]] = stored
        return found

    async def _load_by_number(self, ids: list[bytes]) -> dict[bytes, Stored]:
        """Those of `ids` that are found under the number they seem to hold.

        Only a hint where to look, and the id found there must be the same; but it
        saves the larger half of a look-up (by id 130 k/s, by number 280 k/s).
        """
        numbers = [int(hint[1]) for key in ids if (hint := _NUMBER_HINT.match(key))]
        if not numbers:
            return {}
        parameters = padded(numbers)
        try:
            rows = await self.fetch(in_list(_LOAD_BY_NUMBER, len(parameters)), parameters)
        except StorageDamaged:  # found out which one by asking singly, by id
            return {}
        wanted = set(ids)
        return {row[2]: self._stored(row) for row in rows if row[2] in wanted}

    async def _load_some(self, ids: list[bytes]) -> list[tuple[bytes, Stored]]:
        parameters = padded(ids)
        try:
            rows = await self.fetch(in_list(_LOAD, len(parameters)), parameters)
        except StorageDamaged as error:
            return await self._load_singly(ids, error)
        return [(row[2], self._stored(row)) for row in rows]

    async def _load_singly(self, ids: list[bytes], error: StorageDamaged) -> list[tuple[bytes, Stored]]:
        """A page is corrupt: find out whose, so that only those sessions are lost."""
        if len(ids) == 1:
            if primary_code(error.__cause__ or error) == sqlite3.SQLITE_NOTADB:
                raise error
            self._log.error("session_unreadable", error=str(error))
            return [(ids[0], Stored(None, damaged=True))]
        return [found for one in ids for found in await self._load_some([one])]

    def _stored(self, row: tuple[Any, ...]) -> Stored:
        session = decode_session(*row)
        if session is None:
            self._log.error("session_damaged", number=row[0])
        return Stored(session, damaged=session is None)

    async def load_clients(self, client_ids: Sequence[str]) -> dict[str, list[str]]:
        """See `SessionStore.load_clients`."""
        keys = {encode_id(client_id): client_id for client_id in client_ids}
        found: dict[str, list[str]] = {client_id: [] for client_id in client_ids}
        clients = list(client_ids)
        for start in range(0, len(clients), MAX_IN):
            parameters = padded(clients[start : start + MAX_IN])
            for client_id, session_id in await self.fetch(in_list(_CLIENTS, len(parameters)), parameters):
                if client_id in keys:
                    found[keys[client_id]].append(decode_id(session_id))
        return found

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        """See `SessionStore.due`."""
        rows = await self.fetch(_DUE, (status, before, *after, limit))
        return [Due(number, decode_id(session_id), *rest) for number, session_id, *rest in rows]


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path, "ro")
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
