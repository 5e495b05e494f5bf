"""The reading side of the SQLite store: one read-only connection, beside the writing one."""

import re
import sqlite3
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import aiosqlite

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage.base import Due, Stored
from stui_sessions.storage.border import CAUGHT, Log, primary_code, translate
from stui_sessions.storage.rows import WHOLE, decode_id, decode_session, encode_text
from stui_sessions.storage.schema import connect

CACHE_KIB = 8 * 1024

_SIZES = (1, 4, 16, 64, 256)
"""Parameters of an IN list: few different statements, so that SQLite's compiled ones are found again."""

MAX_IN = _SIZES[-1]

_NUMBER_HINT = re.compile(rb"session_([0-9]{1,18})_")

# INDEXED BY: left to itself SQLite may take sessions_by_due for an owner's sessions,
# and read the whole table.
_LOAD = f"SELECT {WHOLE} FROM sessions INDEXED BY sessions_by_id WHERE tenant = '' AND session_id IN ({{}})"
_LOAD_BY_NUMBER = f"SELECT {WHOLE} FROM sessions WHERE number IN ({{}})"

# CROSS JOIN: the keys first, each is then looked up; the other way round is the whole table.
_GROUP = (
    "SELECT column1, column2, session_id FROM (VALUES {{}}) CROSS JOIN sessions INDEXED BY {} "
    "WHERE tenant = '' AND user_id = column1 AND {} = column2 AND status = 0"
)
_GROUPS = {
    "owner": _GROUP.format("sessions_by_client", "client_id"),
    "external": _GROUP.format("sessions_by_external", "external_id") + " AND external_id <> x''",
}
_DUE = (
    "SELECT number, session_id, status, due_at, size FROM sessions INDEXED BY sessions_by_due "
    "WHERE status = ? AND due_at <= ? AND (due_at, number) > (?, ?) ORDER BY due_at, number LIMIT ?"
)


@cache
def in_list(sql: str, count: int, item: str = "?") -> str:
    """`sql` with `count` question marks (or other items) in its list."""
    return sql.format(",".join([item] * count))


def padded(values: Sequence[Any], fill: Any = None) -> list[Any]:
    """`values` with NULLs, which match nothing, up to the next size of an IN list."""
    size = next(size for size in _SIZES if size >= len(values))
    return [*values, *[fill] * (size - len(values))]


class Reader:
    """Reads snapshots."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
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
        keys = {encode_text(session_id): session_id for session_id in session_ids}
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

    async def load_groups(self, keys: Sequence[GroupKey]) -> dict[GroupKey, list[str]]:
        """See `SessionStore.load_groups`."""
        found: dict[GroupKey, list[str]] = {key: [] for key in keys}
        for kind, sql in _GROUPS.items():
            stored = {(encode_text(key.user_id), encode_text(key.name)): key for key in found if key.kind == kind}
            pairs = list(stored)
            for start in range(0, len(pairs), MAX_IN):
                some = padded(pairs[start : start + MAX_IN], (None, None))
                parameters = [text for pair in some for text in pair]
                for user_id, name, session_id in await self.fetch(in_list(sql, len(some), "(?,?)"), parameters):
                    found[stored[user_id, name]].append(decode_id(session_id))
        return found

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        """See `SessionStore.due`."""
        rows = await self.fetch(_DUE, (status, before, *after, limit))
        return [Due(number, decode_id(session_id), *rest) for number, session_id, *rest in rows]


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
