"""A shared store as a side: held so that no server writes, and read."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stui_sessions.domain.entities import OWNER, Damaged
from stui_sessions.domain.numbers import SLOTS, TimedNumbers
from stui_sessions.errors import StartError, StorageDamaged, StorageError, printable, quote
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.moving.content import PIECE_BYTES, PIECE_ROWS, Counts, Entry, Marker, Step, told
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.batches import decode_record
from stui_sessions.storage.postgres.connection import connect, sqlstate, translate
from stui_sessions.storage.postgres.schema import HALF_MOVED, quoted
from stui_sessions.storage.postgres.statements import NOW, TOTALS
from stui_sessions.storage.rows import decode_entity, decode_session, decode_text

if TYPE_CHECKING:
    import asyncpg

MARKER: Final = "moving"
"""The row of `meta` with the marker."""

LAST_NUMBER: Final = "last_number"
"""The row of `meta` with the highest session number of the local store that the sessions came from."""

SEEN_MS: Final = 60_000
"""A lane that is open and was seen since is that of a server, whatever else there is to see of it."""

LOCK_SECONDS: Final = 5
"""To have what is under way end: a batch, a vacuum, the connection of a move that was killed."""

AHEAD_MS: Final = 1000
"""How far the clock of a server may have been ahead of the database's, unnoticed."""

FETCHED: Final = 100
"""Rows at once: each may be large."""

_LOCK_NOT_AVAILABLE: Final = "55P03"

_SESSIONS = """SELECT tenant, number, 0::bigint, session_id, size, head_crc, head, crc, data, version
FROM {s}.sessions ORDER BY number OFFSET $1"""
_ENTITIES = "SELECT tenant, kind, id, version, crc, data FROM {s}.entities ORDER BY tenant, kind, id OFFSET $1"
_RECORDS = "SELECT xact, version, data FROM {s}.records ORDER BY xact, hash, version OFFSET $1"
_OTHERS = """SELECT application_name, coalesce(host(client_addr), 'this machine') FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND backend_type = 'client backend'
AND pid <> pg_backend_pid() ORDER BY 1, 2"""


class SharedSide:
    """The schema of a database; `name` is how it may be shown.

    One connection holds a lock for as long as this is open, in a transaction that changes
    nothing: every batch of a server writes to its lane, and so none can be committed.
    """

    def __init__(self, url: str, schema: str, name: str) -> None:
        self.name = f"the schema {quote(schema)} of {name}"
        self.marker: Marker | None = None
        """That of a move into this schema which is not complete."""
        self._url = url
        self._schema = schema
        self._s = quoted(schema)
        self._held: asyncpg.Connection | None = None

    @property
    def _connection(self) -> "asyncpg.Connection":
        if self._held is None or self._held.is_closed():
            raise StorageError(f"the connection that holds {self.name} is lost")
        return self._held

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (StartError, StorageError):
            raise
        except Exception as error:
            raise translate(f"{doing} {self.name}", error) from error

    async def hold(self) -> None:
        """Connect, look at the tables, keep servers away."""
        self._held = await connect(self._url)
        with self._translated("opening"):
            found = await admin.version(self._held, self._schema)
            if found != HALF_MOVED:
                admin.refuse_version(found, self._schema)
            await self._held.transaction().start()
            await self._lock()
            await self._refuse_used()
            # Only now: another move may have ended meanwhile.
            found = int(await self._told("version") or 0)
            value = await self._told(MARKER) if found == HALF_MOVED else None
            self.marker = None if value is None else msgspec.json.decode(value, type=Marker)
            if self.marker is None:
                admin.refuse_version(found, self._schema)

    async def _lock(self) -> None:
        """For the time of the transaction, however long nothing happens in it."""
        connection = self._connection
        timeouts = ("idle_in_transaction_session_timeout", "transaction_timeout", "statement_timeout")
        await connection.execute(
            "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name IN "
            + repr(timeouts)
            + f"; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"
        )
        try:
            await connection.execute(f"LOCK TABLE {self._s}.lanes IN SHARE ROW EXCLUSIVE MODE")
        except Exception as error:
            if sqlstate(error) == _LOCK_NOT_AVAILABLE:
                raise StorageError(
                    f"{self.name} is in use: another move has it, or a batch of a server is under way. Stop that first"
                ) from None
            raise

    async def _refuse_used(self) -> None:
        """StorageError where a server has an open lane, unless that server must be gone."""
        lanes = await self._connection.fetch(
            f"SELECT lane, ({NOW} - seen_at) / 1000 AS ago FROM {self._s}.lanes WHERE is_open ORDER BY seen_at DESC"
        )
        if not lanes:
            return
        lane, ago = lanes[0]
        open_lanes = f"{self.name} is in use by a server: the lane {lane} is open and was last seen {ago} s ago"
        if ago * 1000 < SEEN_MS:
            raise StorageError(
                f"{open_lanes}. Stop all servers that have it; a minute after one was killed it no longer counts"
            )
        others = await self._connection.fetch(_OTHERS)
        if others:
            who = ", ".join(f"{application or 'unnamed'} from {place}" for application, place in others[:3])
            raise StorageError(
                f"{open_lanes}, and its role has {len(others)} open connections here ({printable(who)}). Stop all "
                f"servers that have it; if none is left, say so: UPDATE {self._s}.lanes SET is_open = false"
            )

    async def close(self) -> None:
        """Never raises."""
        if self._held is not None:
            self._held.terminate()

    # -- reading

    async def _told(self, key: str) -> str | None:
        """A value of the table `meta`."""
        value: str | None = await self._connection.fetchval(f"SELECT value FROM {self._s}.meta WHERE key = $1", key)
        return value

    async def _number(self, sql: str) -> int:
        return int(await self._connection.fetchval(sql.format(s=self._s)))

    async def counts(self) -> Counts:
        """See `Side.counts`."""
        with self._translated("counting the rows of"):
            sql = "SELECT count(*) FROM {s}."
            found = [await self._number(sql + table) for table in ("records", "sessions", "entities")]
        return Counts(*found)

    async def pieces(self, step: Step, skip: int = 0) -> AsyncIterator[list[Any]]:
        """See `Side.pieces`."""
        sql, decode = {
            "records": (_RECORDS, _entry),
            "sessions": (_SESSIONS, _session),
            "entities": (_ENTITIES, _other),
        }[step]
        piece: list[Any] = []
        size = 0
        with self._translated("reading"):
            cursor = await self._connection.cursor(sql.format(s=self._s), skip)
            while rows := await cursor.fetch(FETCHED):
                for row in rows:
                    found, bytes_of = decode(row)
                    if found is None:
                        raise StorageDamaged(f"one of the {step} ({_shown(step, row)}) of {self.name} is damaged")
                    piece.append(found)
                    size += bytes_of
                if len(piece) >= PIECE_ROWS or size >= PIECE_BYTES:
                    yield piece
                    piece, size = [], 0
        if piece:
            yield piece

    async def last_number(self) -> int:
        """See `Side.last_number`.

        Servers have given out numbers by the time, also to sessions that are gone: where
        any has been here, nothing up to now is free.
        """
        least = await self.least_number()
        with self._translated("reading"):
            by_servers = await self._number("SELECT count(*) FROM {s}.lanes") > 0
            if not by_servers and least == int(await self._told(LAST_NUMBER) or 0):
                return least
            now = await self._number(f"SELECT {NOW}")
        return max(least, TimedNumbers(SLOTS - 1).new(now + AHEAD_MS))

    async def least_number(self) -> int:
        """See `Side.least_number`."""
        with self._translated("reading"):
            highest = await self._number("SELECT coalesce(max(number), 0) FROM {s}.sessions")
            return max(highest, int(await self._told(LAST_NUMBER) or 0))

    async def totals(self) -> list[Counters]:
        """See `Side.totals`."""
        sums = ", ".join(f"sum({name})::bigint" for name in TOTALS)
        with self._translated("reading"):
            rows = await self._connection.fetch(f"SELECT tenant, {sums} FROM {self._s}.totals GROUP BY tenant")
        return told([(decode_text(tenant), *counts) for tenant, *counts in rows])


class SharedSource(SharedSide):
    """A shared store that is moved."""

    async def open(self) -> SharedSide:
        """See `Source.open`."""
        await self.hold()
        if self.marker is not None:
            raise StorageError(f"{self.name} is not complete: a move into it was cut off; run that to its end first")
        return self

    async def identity(self) -> str:
        """See `Source.identity`: the database itself has no name of its own that goes with it."""
        return ""

    async def state(self) -> str:
        """See `Source.state`: every batch raises the number of its lane."""
        parts = (
            "(SELECT concat_ws(' ', count(*), sum(last_batch)) FROM {s}.lanes)",
            "(SELECT concat_ws(' ', count(*), sum(number), sum(version), sum(crc)) FROM {s}.sessions)",
            "(SELECT concat_ws(' ', count(*), min(xact), max(xact)) FROM {s}.records)",
        )
        with self._translated("reading"):
            sql = f"SELECT concat_ws(' / ', {', '.join(parts)})"
            return str(await self._connection.fetchval(sql.format(s=self._s)))


def _entry(row: Any) -> tuple[Entry | None, int]:
    xact, place, data = row
    try:
        return Entry(xact, place, decode_record(data)), len(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None, 0


def _session(row: Any) -> tuple[Any, int]:
    *whole, version = row
    s = decode_session(*whole)
    return (s, s.state_bytes) if s is not None and s.version == version else (None, 0)


def _other(row: Any) -> tuple[Any, int]:
    tenant, kind, name, version, crc, data = row
    entity = decode_entity((decode_text(tenant), kind, decode_text(name)), version, 0, crc, data)
    return (None, 0) if isinstance(entity, Damaged) else (entity, len(data))


def _shown(step: Step, row: Any) -> str:
    """Which one, for the operator."""
    if step == "sessions":
        return f"number {row[1]}"
    return f"transaction {row[0]}" if step == "records" else f"{'an owner' if row[1] == OWNER else 'an external id'}"
