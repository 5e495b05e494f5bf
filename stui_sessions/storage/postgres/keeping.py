"""What every server does for the tables now and then: partitions, lanes of servers that are gone, sizes.

Nobody leads: each of these can be done twice, or by two at once.
"""

import asyncio
import random
from collections.abc import Sequence
from time import monotonic
from typing import Any

from stui_sessions.errors import StorageError
from stui_sessions.storage.border import Log
from stui_sessions.storage.postgres import statements
from stui_sessions.storage.postgres.admin import Promise, promise
from stui_sessions.storage.postgres.channel import Readers
from stui_sessions.storage.postgres.connection import sqlstate, translate
from stui_sessions.storage.postgres.lanes import Lane
from stui_sessions.storage.postgres.schema import DAY_MS, partition, partition_name, quoted
from stui_sessions.storage.postgres.timing import DatabaseTime

ROUND_SECONDS = 10.0
"""Between two rounds, about."""

DAYS_AHEAD = 2
"""Partitions that are there before they are needed."""

LOST_MS = 3_600_000
"""A lane that was not seen for so long is closed: its server is gone."""

FORGOTTEN_MS = 7 * DAY_MS
"""A closed lane is removed: nobody will ask any more what became of its last batch."""

_DUPLICATE = ("42P07", "42P17", "42710", "23505")
"""Somebody else has made the partition at the same moment."""


class Keeper:
    """Looks after the tables beside normal work."""

    def __init__(self, readers: Readers, schema: str, retention: float, time: DatabaseTime, log: Log) -> None:
        self.disk = 0
        """Bytes of all tables, as of the last round."""
        self.promise = Promise(False, "", "")
        """What the database promises, as of the last round."""
        self._readers = readers
        self._schema = schema
        self._retention = retention
        self._time = time
        self._log = log
        self._failing = False

    async def run(self, lanes: Sequence[Lane]) -> None:
        """Keep until cancelled; `lanes` are this server's own."""
        while True:
            try:
                await self._readers.fetch("showing lanes", statements.seen(self._schema), [lane.name for lane in lanes])
                await self.keep()
            except StorageError as error:
                if not self._failing:
                    self._log.warning("storage.upkeep_failed", error=str(error))
                self._failing = True
            else:
                self._failing = False
            await asyncio.sleep(ROUND_SECONDS * random.uniform(0.75, 1.25))

    async def keep(self) -> None:
        """One round."""
        asked_at = monotonic()
        rows = await self._readers.fetch("asking the time", f"SELECT {statements.NOW}")
        self._time.note(rows[0][0], asked_at)
        await self.make_partitions()
        await self._drop_partitions()
        await self._fold_lanes()
        async with self._readers.channel("asking for sizes and settings") as channel:
            self.disk = (await channel.fetch(statements.SIZES, self._schema))[0][0]
            self.promise = await promise(await channel.open())

    async def make_partitions(self) -> None:
        """The partitions of today and the days to come."""
        today = self._time.now() // DAY_MS
        there = await self._days()
        for day in range(today, today + DAYS_AHEAD + 1):
            if day not in there:
                await self._execute(f"making the partition of day {day}", partition(self._schema, day), _DUPLICATE)

    async def _days(self) -> set[int]:
        """The days that have a partition."""
        rows = await self._readers.fetch("looking for partitions", statements.PARTITIONS, self._schema)
        return {int(name.rpartition("_")[2]) for (name,) in rows}

    async def _drop_partitions(self) -> None:
        """Drop what is no longer kept.  The log then says where it begins."""
        s, now = quoted(self._schema), self._time.now()
        for day in sorted(await self._days()):
            if (day + 1) * DAY_MS + self._retention * 1000 > now:
                return
            name = f"{s}.{partition_name(day)}"
            await self._execute(
                f"dropping the partition of day {day}",
                f"""SET LOCAL lock_timeout = '1s';
                UPDATE {s}.meta SET value = greatest(value::bigint, (SELECT coalesce(max(xact), 0) FROM {name}))::text
                WHERE key = 'log_gone';
                DROP TABLE {name}""",
                ("42P01",),
            )
            self._log.info("storage.log_dropped", day=day)

    async def _fold_lanes(self) -> None:
        """Close the lanes of servers that are gone, and add what closed ones counted to one row a tenant."""
        now = self._time.now()
        close, fold, forget = statements.folding(self._schema)
        await self._readers.fetch("closing lanes", close, now - LOST_MS)
        await self._readers.fetch("adding up totals", fold)
        await self._readers.fetch("removing lanes", forget, now - FORGOTTEN_MS)

    async def _execute(self, doing: str, script: str, harmless: tuple[str, ...]) -> None:
        """Some statements as one transaction; an error with one of the `harmless` codes means that it was done."""
        async with self._readers.channel(doing) as channel:
            connection: Any = await channel.open()
            try:
                async with connection.transaction():
                    await connection.execute(script)
            except Exception as error:
                if sqlstate(error) not in harmless:
                    raise translate(doing, error) from error
