"""The shared store: see `storage/contract.py` for what it promises, `schema.py` for the tables.

Nothing is kept here but connections: what is committed is in the database alone, and
other servers change it at any time.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from msgspec import Struct

from stui_sessions.domain.entities import SESSION, Absent, Damaged, Entity, Key
from stui_sessions.domain.finding import Answer, Counts, Due, Listing, Question, Totals
from stui_sessions.domain.times import Expiry
from stui_sessions.errors import StorageError
from stui_sessions.storage.border import Log
from stui_sessions.storage.contract import Batch, Commit, Conflict, LogGone, Opened, Promise, Usage
from stui_sessions.storage.postgres import admin, statements
from stui_sessions.storage.postgres.batches import arguments, counted_keys, decode_record, hash_of, name_of
from stui_sessions.storage.postgres.channel import Readers
from stui_sessions.storage.postgres.connection import sqlstate
from stui_sessions.storage.postgres.keeping import Keeper
from stui_sessions.storage.postgres.lanes import NO_PARTITION, Lane, Outcome
from stui_sessions.storage.postgres.lists import Lists
from stui_sessions.storage.postgres.news import News
from stui_sessions.storage.postgres.schema import DAY_MS, quoted
from stui_sessions.storage.postgres.timing import DatabaseTime
from stui_sessions.storage.rows import decode_entity, decode_session, encode_text

LANES = 2
"""Connections for committing."""

READERS = 2
"""Connections for reading."""

LOG_PIECE = 500
"""Records of the log that are read at once."""


class Options(Struct, frozen=True):
    """How a shared store is reached, and what it puts up with."""

    url: str
    schema: str = "stui_sessions"
    timeout: float = 5.0  # seconds that what was not sent yet waits for the database
    log_retention: float = 86_400.0  # seconds for which records are kept
    allow_unsafe: bool = False


class PostgresStore:
    """A `Store` in PostgreSQL.  `clock` tells this machine's time, ms; for `tell` see `DatabaseTime`."""

    is_shared = True
    commits_at_once = LANES

    def __init__(
        self,
        options: Options,
        clock: Callable[[], int],
        log: Log,
        tell: Callable[[int], None] = lambda ahead: None,
    ) -> None:
        self.options = options
        self.time = DatabaseTime(clock, tell, log)
        self._log = log
        self._expiry = Expiry()
        self._commit = 0
        self._is_open = False
        url, schema = options.url, options.schema
        self._readers = Readers(url, READERS, options.timeout)
        self._lanes = [Lane(url, schema, options.timeout, self._readers.drop, log) for _ in range(LANES)]
        self._free: asyncio.LifoQueue[Lane] = asyncio.LifoQueue()
        self._lists = Lists(self._readers, schema)
        self._keeper = Keeper(self._readers, schema, options.log_retention, self.time, log)
        self._news = News(url, schema, secrets.token_hex(4), log)
        self._tasks: list[asyncio.Task[None]] = []
        self._statements = {
            "single": statements.single(schema),
            "plain": statements.plain(schema),
            "full": statements.full(schema),
        }
        self._sessions_of, self._anything_of = statements.sessions_of(schema), statements.anything_of(schema)

    # -- its life

    async def open(self) -> Opened:
        """See `Store.open`."""
        schema = self.options.schema
        async with self._readers.channel("opening the database") as channel:
            connection = await channel.open()
            admin.refuse_version(await admin.version(connection, schema), schema)
            self._keeper.promise = await admin.promise(connection)
            admin.refuse_unsafe(self._keeper.promise, self.options.allow_unsafe)
            asked_at = monotonic()
            self.time.note((await channel.fetch(f"SELECT {statements.NOW}"))[0][0], asked_at)
        await self._keeper.make_partitions()
        for lane in reversed(self._lanes):
            await lane.open()
            self._free.put_nowait(lane)
        self._tasks = [asyncio.create_task(job) for job in (self._keeper.run(self._lanes), self._news.run())]
        self._is_open, self._commit = True, 0
        return Opened(0, 0, True, 0, 0)

    async def close(self, clean: bool) -> None:
        """See `Store.close`."""
        self._is_open = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()
        await self._readers.close()

    def _refuse_closed(self) -> None:
        if not self._is_open:
            raise StorageError("the store is closed")

    # -- reading

    async def read(self, keys: Sequence[Key], known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        """See `Store.read`."""
        self._refuse_closed()
        sessions = [(place, key) for place, key in enumerate(keys) if key[1] == SESSION]
        others = [(place, key) for place, key in enumerate(keys) if key[1] != SESSION]
        known = known or {}
        if others:
            sql, arrays = self._anything_of, [*_wanted(sessions, known, 2), *_wanted(others, known, 3)]
        else:
            sql, arrays = self._sessions_of, _wanted(sessions, known, 2)
        rows = await self._readers.fetch("reading sessions", sql, *arrays)
        return {key: entity for row in rows if (entity := _entity(key := keys[row[0]], row, known.get(key, -1)))}

    async def query(self, question: Question, now: int) -> Answer:
        """See `Store.query`."""
        self._refuse_closed()
        if isinstance(question, Counts):
            rows = await self._readers.fetch(
                "counting sessions", statements.counts(self.options.schema), encode_text(question.tenant)
            )
            return Totals(*rows[0])
        if isinstance(question, Due):
            return await self._lists.due(question)
        if isinstance(question, Listing):
            return await self._lists.page(question, lambda s: self._expiry.is_live(s, now))
        return await self._lists.named(question, lambda s: self._expiry.is_live(s, now))

    # -- committing

    async def commit(self, batch: Batch) -> int:
        """See `Store.commit`."""
        self._refuse_closed()
        if batch.number <= self._commit:
            raise ValueError(f"commit {batch.number} after {self._commit}")
        missing = [key for key in counted_keys(batch.records) if key not in batch.before]
        before = batch.before | (await self.read(missing) if missing else {})
        given = arguments(batch, before)
        lane = await self._free.get()
        try:
            sql = self._statements[given.kind]
            while not (outcome := await self._send(lane, sql, given.parameters)).committed:
                stale = await self._stale(batch)
                if stale or outcome.is_taken:  # if nothing is stale: another server has given the same number
                    raise Conflict(stale)
                await lane.open()  # nothing is stale, so somebody has closed the lane
        finally:
            self._free.put_nowait(lane)
        self._commit = max(self._commit, batch.number)
        self._news.tell(batch.after)
        return given.size

    async def _send(self, lane: Lane, sql: str, parameters: list[Any]) -> Outcome:
        asked_at = monotonic()
        try:
            outcome = await lane.commit(sql, self.time.now() // DAY_MS, parameters)
        except StorageError as error:
            if sqlstate(error) != NO_PARTITION:
                raise
            await self._keeper.make_partitions()
            outcome = await lane.commit(sql, self.time.now() // DAY_MS, parameters)
        if outcome.now:
            self.time.note(outcome.now, asked_at)
        return outcome

    async def _stale(self, batch: Batch) -> list[Key]:
        """What a batch stood on and is not so any more."""
        expected = dict.fromkeys(batch.after, 0) | batch.expected
        found = await self.read(list(expected), expected)
        return [key for key, entity in found.items() if not (isinstance(entity, Absent) and not expected[key])]

    # -- the log

    async def log(self, since: int) -> AsyncIterator[Commit]:
        """See `Store.log`; positions are the numbers of the database's transactions."""
        self._refuse_closed()
        sql = statements.logged(self.options.schema)
        while True:
            await self._refuse_gone(since)
            rows = await self._readers.fetch("reading the log", sql, since, LOG_PIECE)
            commits = _commits(rows)
            if len(rows) == LOG_PIECE and len(commits) > 1:
                commits.pop()  # perhaps not all of it
            elif len(rows) == LOG_PIECE:
                commits = _commits(await self._whole(rows[0][0]))
            for commit in commits:
                since = commit.number
                yield commit
            if not rows:
                return

    async def _whole(self, xact: int) -> list[Any]:
        """All records of one transaction."""
        sql = f"SELECT xact, hash, version, data FROM {quoted(self.options.schema)}.records WHERE xact = $1"
        return await self._readers.fetch("reading the log", f"{sql} ORDER BY hash, version", xact)

    async def _refuse_gone(self, since: int) -> None:
        sql = f"SELECT value FROM {quoted(self.options.schema)}.meta WHERE key = 'log_gone'"
        gone = int((await self._readers.fetch("reading the log", sql))[0][0])
        if since < gone:
            raise LogGone(gone + 1)

    async def history(self, key: Key, before: int, limit: int) -> list[Commit]:
        """See `Store.history`; `before` is the number of a transaction."""
        self._refuse_closed()
        sql, found = statements.history(self.options.schema), list[Commit]()
        piece = limit
        while True:
            rows = await self._readers.fetch("reading a history", sql, hash_of(key), before, piece)
            found = []
            for xact, data in rows:
                record = decode_record(data)
                if record.key != key:
                    continue
                if not found or found[-1].number != xact:
                    found.append(Commit(xact, []))
                found[-1].records.insert(0, record)
            if len(rows) < piece or len(found) > limit:
                return found[:limit]
            piece *= 4

    def heard(self) -> AsyncIterator[Sequence[Key]]:
        """See `Hearing.heard`."""
        return self._news.hear()

    # -- the rest of the contract

    async def flush(self) -> None:
        """Everything is in the tables at once."""
        self._refuse_closed()

    async def note_uncertain(self, at: int) -> None:
        """Every use is recorded at once, so nothing is uncertain."""
        self._refuse_closed()

    async def copy(self, path: Path) -> None:
        """There is no file to copy: PostgreSQL has tools for that."""
        raise StorageError("the sessions are in PostgreSQL: use pg_basebackup or pg_dump")

    async def check(self) -> None:
        """PostgreSQL looks after its files; rows are checked as they are read."""
        self._refuse_closed()

    def usage(self) -> Usage:
        """See `Store.usage`."""
        return Usage(self._keeper.disk, 0)

    def promise(self) -> Promise:
        """See `Store.promise`; as of the last minute."""
        p = self._keeper.promise
        return Promise("postgresql", p.fsync, p.synchronous_commit, p.standbys, admin.meaning(p))


def _wanted(keys: Sequence[tuple[int, Key]], known: Mapping[Key, int], width: int) -> list[Any]:
    """Keys as the parameters of a read."""
    rows = [(*name_of(key), known.get(key, -1), place) for place, key in keys]
    return list(zip(*rows, strict=True)) if rows else [()] * (width + 2)


def _entity(key: Key, row: Any, known: int) -> Entity | None:
    """The entity of a row that was read; None if it is in the version that is known."""
    _place, version, number, size, head_crc, crc, head, data, now = row
    if version is None:
        # Above all versions that this key ever had: nobody can take a later entity for an earlier one.
        return Absent(key, now)
    if version == known:
        return None
    if key[1] != SESSION:
        return decode_entity(key, version, 0, crc, data)
    tenant, session_id = name_of(key)
    s = decode_session(tenant, number, 0, session_id, size, head_crc, head, crc, data)
    return s if s is not None and s.version == version else Damaged(key)


def _commits(rows: Sequence[Any]) -> list[Commit]:
    """Records that are sorted by their transactions."""
    found: list[Commit] = []
    for xact, _hash, _version, data in rows:
        if not found or found[-1].number != xact:
            found.append(Commit(xact, []))
        found[-1].records.append(decode_record(data))
    return found
