"""A shared store as a target: tables that are there and empty.

Until everything was compared, the tables have a version that every server refuses.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from stui_sessions.domain.entities import Session
from stui_sessions.errors import StorageError
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.moving.content import STEPS, Entry, Marker, Side, Step
from stui_sessions.storage.moving.shared import LAST_NUMBER, MARKER, SharedSide
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.batches import NO_ORDER, hash_of
from stui_sessions.storage.postgres.connection import connect
from stui_sessions.storage.postgres.schema import DAY_MS, HALF_MOVED, VERSION, partition, partition_name
from stui_sessions.storage.postgres.statements import ENTITY_COLUMNS, SESSION_COLUMNS, TOTALS
from stui_sessions.storage.rows import encode_entity, encode_session, encode_text

if TYPE_CHECKING:
    import asyncpg

NO_LANE = ""
"""In the place of a server's: where servers add the totals of lanes that are gone."""

_META = "INSERT INTO {s}.meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_ANYTHING = """SELECT EXISTS (SELECT 1 FROM {s}.sessions) OR EXISTS (SELECT 1 FROM {s}.entities)
OR EXISTS (SELECT 1 FROM {s}.records)"""
_XACT = "SELECT pg_current_xact_id()::text::bigint"
_PARTITIONS = """SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
WHERE n.nspname = $1 AND p.relname = 'records'"""

_encode = msgspec.msgpack.Encoder().encode

_COLUMNS: dict[Step, list[str]] = {
    "records": ["day", "xact", "hash", "version", "data"],
    "sessions": [name for name, _ in SESSION_COLUMNS],
    "entities": [name for name, _ in ENTITY_COLUMNS],
}


class SharedTarget(SharedSide):
    """The schema of a database, which is empty, or has what an earlier move has brought."""

    hint = "take an empty schema (--db-schema NAME, made with stui-sessions db init), or drop this one"

    def __init__(self, url: str, schema: str, name: str, allow_unsafe: bool) -> None:
        super().__init__(url, schema, name)
        self._allow_unsafe = allow_unsafe
        self._worker: asyncpg.Connection | None = None
        self._days: set[str] = set()

    async def open(self) -> Side | None:
        """See `Target.open`."""
        await self.hold()
        with self._translated("opening"):
            admin.refuse_unsafe(await admin.promise(self._connection), self._allow_unsafe)
            self._worker = await connect(self._url)
            # Not by the connection with the lock: in its transaction all that it reads stays locked against TRUNCATE.
            if self.marker is None and await self._worker.fetchval(_ANYTHING.format(s=self._s)):
                return self
            self._days = {name for (name,) in await self._worker.fetch(_PARTITIONS, self._schema)}
        return None

    @property
    def _writing(self) -> "asyncpg.Connection":
        self._connection  # noqa: B018 - while that one is there, nobody else writes
        assert self._worker is not None
        return self._worker

    # -- the beginning

    async def begin(self, source: str, state: str) -> Marker:
        """See `Target.begin`."""
        if self.marker is not None and self.marker.source != source:
            raise StorageError(
                f"{self.name} has a part of another database, whose move was cut off: run that to its end, or "
                f"{self.hint}"
            )
        with self._translated("making"):
            if self.marker is None or self.marker.state != state:
                await self._begin_anew(Marker(source, state))
        assert self.marker is not None
        return self.marker

    async def _begin_anew(self, marker: Marker) -> None:
        """What is there, if anything is, has come by an earlier move, and no server has seen it."""
        async with self._writing.transaction():
            tables = ", ".join(f"{self._s}.{name}" for name in ("sessions", "entities", "records", "totals"))
            await self._writing.execute(f"TRUNCATE {tables}")
            await self._meta("version", str(HALF_MOVED))
            await self._note(marker)
        self.marker = marker

    async def _meta(self, key: str, value: str) -> None:
        await self._writing.execute(_META.format(s=self._s), key, value)

    async def _note(self, marker: Marker) -> None:
        await self._meta(MARKER, msgspec.json.encode(marker).decode())

    # -- the rows

    async def put(self, step: Step, piece: list[Any]) -> None:
        """See `Target.put`."""
        assert self.marker is not None
        marker = Marker(self.marker.source, self.marker.state, step, self.marker.done + len(piece))
        with self._translated("writing"):
            if step == "records":
                await self._make_partitions(piece)
            async with self._writing.transaction():
                xact = await self._writing.fetchval(_XACT) if step == "records" else 0
                rows = [_row(step, item, xact) for item in piece]
                await self._writing.copy_records_to_table(
                    step, schema_name=self._schema, columns=_COLUMNS[step], records=rows
                )
                await self._note(marker)
        self.marker = marker

    async def _make_partitions(self, entries: list[Entry]) -> None:
        for day in sorted({entry.record.at // DAY_MS for entry in entries}):
            name = partition_name(day)
            if name not in self._days:
                async with self._writing.transaction():
                    await self._writing.execute(partition(self._schema, day))
                self._days.add(name)

    async def end(self, step: Step) -> None:
        """See `Target.end`."""
        assert self.marker is not None
        following = (*STEPS, "")[STEPS.index(step) + 1]
        marker = Marker(self.marker.source, self.marker.state, following)
        with self._translated("writing"):
            await self._note(marker)
        self.marker = marker

    # -- the end

    async def finish(self, totals: list[Counters], last_number: int) -> Side:
        """See `Target.finish`."""
        with self._translated("writing"):
            columns = ["lane", "tenant", *TOTALS]
            rows = [(NO_LANE, encode_text(tenant), *counts) for tenant, *counts in totals]
            async with self._writing.transaction():
                await self._writing.execute(f"DELETE FROM {self._s}.totals")
                await self._writing.copy_records_to_table(
                    "totals", schema_name=self._schema, columns=columns, records=rows
                )
                await self._meta(LAST_NUMBER, str(last_number))
        return self

    async def forget(self) -> None:
        """See `Target.forget`: the next move begins anew."""
        assert self.marker is not None
        with self._translated("writing"):
            await self._note(Marker(self.marker.source, ""))

    async def publish(self) -> None:
        """See `Target.publish`."""
        with self._translated("writing"):
            await self._connection.fetchval("SELECT 1")  # the lock was held all the time
            async with self._writing.transaction():
                await self._meta("version", str(VERSION))
                await self._writing.execute(f"DELETE FROM {self._s}.meta WHERE key = $1", MARKER)

    async def close(self) -> None:
        """See `Target.close`."""
        if self._worker is not None:
            with suppress(Exception):
                self._worker.terminate()
        await super().close()


def _row(step: Step, item: Any, xact: int) -> tuple[Any, ...]:
    """The columns of a row, in the order of `_COLUMNS`."""
    if step == "records":
        record = msgspec.structs.replace(item.record, previous=NO_ORDER)
        return record.at // DAY_MS, xact, hash_of(record.key), item.place, _encode(record)
    if isinstance(item, Session):
        r = encode_session(item, NO_ORDER)
        values = r._asdict() | {
            "tenant": encode_text(r.tenant),
            "version": item.version,
            "listed_at": r.active_at,
        }
    else:
        e = encode_entity(item, NO_ORDER)
        values = e._asdict() | {"tenant": encode_text(e.tenant)}
    return tuple(values[name] for name in _COLUMNS[step])
