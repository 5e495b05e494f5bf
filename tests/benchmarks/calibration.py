"""What a PostgreSQL of this machine takes for what servers ask of it: measured through the store itself.

Without a server's deciding: batches as the engine makes them, straight to `PostgresStore`.
"""

import asyncio
import functools
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from stui_sessions.domain.entities import About, Absent, Key, Session, SessionData, session_key
from stui_sessions.domain.records import Created, Updated, apply
from stui_sessions.engine.clock import wall_clock
from stui_sessions.storage.contract import Batch, Conflict
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.connection import connect
from stui_sessions.storage.postgres.schema import GRAIN_MS
from stui_sessions.storage.postgres.store import Options, PostgresStore
from tests.benchmarks.driving import cpu_seconds
from tests.benchmarks.queueing import Costs
from tests.support.postgres import Postgres

SCHEMA = "stui_sessions"
FEW, MANY = 2, 200
"""Rows of a small batch and of a large one."""

HINTED = 1400
"""Bytes of a hint to other servers: twenty sessions."""

LOG = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))


class Sizes(NamedTuple):
    """What there is per session, per update and per connection."""

    row_bytes: float  # of the table, for each session, room for HOT updates included
    index_bytes: float  # of its indexes
    log_bytes: float  # of `records` and its indexes, for each update
    key_bytes: float  # and of them, in the index that finds a session's own
    wal_bytes: float  # for each update, pages that are written whole not counted
    image_bytes: float  # of a page that is written whole: the first time behind a checkpoint
    moved_wal: float  # more than that, for an update that moves its session in the indexes (no HOT)
    moved_us: float  # and of the database's processor
    backend_kib: float  # private memory of a connection that was used
    poll_us: float  # of the database's processor: asking the log when there is nothing new
    record_us: float  # and for each record that it gives
    hint_us: float  # of the database's processor: a hint to other servers
    heard_us: float  # and for each of those


class Hot(NamedTuple):
    """Servers that all save one session, a row among others."""

    servers: int
    commits: float  # a second, of all of them
    tries: float  # for each commit that came about


class Writer:
    """The way of one server to the database, without the server."""

    def __init__(self, store: PostgresStore, sessions: dict[Key, Session]) -> None:
        self.store, self.sessions = store, sessions
        self.ahead = 0  # ms: how much later than it is the updates say they come
        self._number = 0
        self._state = itertools.count()

    async def create(self, numbers: Sequence[int]) -> None:
        """Sessions that were not there."""
        records = [Created(_key(n), 1, wall_clock(), "bench", 0, _data(n)) for n in numbers]
        after = {r.key: apply(Absent(r.key), r, 0) for r in records}
        await self._commit(Batch(self._number + 1, list(records), after, dict.fromkeys(after, 0)))
        self.sessions |= after  # type: ignore[arg-type]

    async def update(self, keys: Sequence[Key]) -> bool:
        """Save a state in each of these; False if another writer had changed one of them meanwhile."""
        state = b'{"data":"%0190d"}' % next(self._state)
        sessions = [self.sessions[key] for key in keys]
        now = wall_clock() + self.ahead
        records = [Updated(s.key, s.version + 1, now, "bench", 0, s.revision + 1, True, state) for s in sessions]
        after = {s.key: apply(s, r, 0) for s, r in zip(sessions, records, strict=True)}
        try:
            await self._commit(Batch(self._number + 1, list(records), after, {s.key: s.version for s in sessions}))
        except Conflict as conflict:
            self.sessions |= await self.store.read(conflict.keys)  # type: ignore[arg-type]
            return False
        self.sessions |= after  # type: ignore[arg-type]
        return True

    async def _commit(self, batch: Batch) -> None:
        await self.store.commit(batch)
        self._number += 1


def _key(number: int) -> Key:
    return session_key("", f"session_{number}_1735567800_{number:039d}")


def _data(number: int) -> SessionData:
    now = wall_clock()
    state = b'{"data":"%0190d"}' % number
    about = About(title=f"session {number}")
    return SessionData(
        number, _key(number)[2], f"client{number // 5}", now, now, now, 86_400, session_state=state, about=about
    )


class Calibration:
    """Measures in a database of its own."""

    def __init__(self, database: Postgres, sessions: int, seconds: float) -> None:
        self.database = database
        self._name = "calibration"
        self.url = database.create_database(self._name)
        self._sessions, self._seconds = sessions, seconds
        self._keys = [_key(n) for n in range(1, sessions + 1)]
        self._random = random.Random(7)

    async def run(self) -> tuple[Costs, Sizes, list[Hot]]:
        """Everything; some dozens of seconds."""
        await admin.init(self.url, SCHEMA)
        async with self._writers(1) as (writer,):
            for start in range(1, self._sessions + 1, 500):
                await writer.create(range(start, min(start + 500, self._sessions + 1)))
            self._sql(f"VACUUM ANALYZE {SCHEMA}.sessions")
            table, indexes = self._numbers(f"pg_table_size('{SCHEMA}.sessions'), pg_indexes_size('{SCHEMA}.sessions')")
            log_bytes = await self._log_bytes(writer)
            wal = await self._wal_bytes(writer)
            costs = await self._costs(writer)
            moved = await self._moved(writer, wal[0], costs)
            poll = await self._poll(writer)
            backend = self._backend_kib()
        hints = await self._hints()
        sizes = Sizes(
            table / self._sessions, indexes / self._sessions, *log_bytes, *wal, *moved, backend, *poll, *hints
        )
        return costs, sizes, [await self._hot(servers) for servers in (1, 2, 4, 8)]

    # What takes the processor's time.

    async def _costs(self, writer: Writer) -> Costs:
        one, took = await self._used(lambda: writer.update(self._some(1)))
        many, _ = await self._used(lambda: writer.update(self._some(MANY)))
        key, _ = await self._used(lambda: self._look(writer, 1))
        keys, _ = await self._used(lambda: self._look(writer, MANY))
        few, _ = await self._used(lambda: writer.update(self._some(FEW)))
        row, look = (many - few) / (MANY - FEW), (keys - key) / (MANY - 1)
        way = await self._way_ms()
        async with self._writers(1, "?options=-csynchronous_commit%3Doff") as (hasty,):
            hasty.sessions = writer.sessions
            _, unflushed = await self._used(lambda: hasty.update(self._some(1)))
        return Costs(one, few - FEW * row, row, key - look, look, max(0.05, took - unflushed), way)

    async def _moved(self, writer: Writer, wal_bytes: float, costs: Costs) -> tuple[float, float]:
        """What an update takes more that comes a grain after the one before: bytes of WAL, and µs."""

        async def update() -> None:
            writer.ahead += GRAIN_MS
            await writer.update(self._some(MANY))

        before, updates = self._wal()[0], self._rows()
        used, _ = await self._used(update)
        wal = (self._wal()[0] - before) / (self._rows() - updates)
        return wal - wal_bytes, (used - costs.commit_us) / MANY - costs.row_us

    def _rows(self) -> float:
        """Updates of sessions until now."""
        return self._numbers("n_tup_upd FROM pg_stat_user_tables WHERE relname = 'sessions'")[0]

    async def _used(self, work: Callable[[], Any]) -> tuple[float, float]:
        """µs of the database's processor for one of these, and the median of what it took, ms."""
        for _ in range(20):
            await work()
        processes = self.database.processes()
        before, end, took = cpu_seconds(processes), time.monotonic() + self._seconds, []
        while time.monotonic() < end:
            begun = time.perf_counter()
            await work()
            took.append(time.perf_counter() - begun)
        used = cpu_seconds(processes) - before
        return 1e6 * used / len(took), 1000 * statistics.median(took)

    def _some(self, count: int) -> list[Key]:
        """Sessions at random: those of one batch seldom share a page."""
        return self._random.sample(self._keys, count)

    async def _look(self, writer: Writer, count: int) -> None:
        """See whether sessions are as they are known, as the engine does for reads."""
        keys = self._some(count)
        await writer.store.read(keys, {key: writer.sessions[key].version for key in keys})

    async def _way_ms(self) -> float:
        connection, took = await connect(self.url), []
        try:
            statement = await connection.prepare("SELECT 1")
            for _ in range(500):
                begun = time.perf_counter()
                await statement.fetch()
                took.append(time.perf_counter() - begun)
        finally:
            await connection.close()
        return 1000 * statistics.median(took)

    async def _poll(self, writer: Writer) -> tuple[float, float]:
        """µs of asking the log: when there is nothing new, and for each record."""
        since = self._numbers(f"max(xact) FROM {SCHEMA}.records")[0]
        nothing, _ = await self._used(lambda: self._follow(writer, int(since)))
        for _ in range(10):
            await writer.update(self._some(MANY))
        some, _ = await self._used(lambda: self._follow(writer, int(since)))
        return nothing, (some - nothing) / (10 * MANY)

    async def _hints(self) -> tuple[float, float]:
        """µs of a hint: beside those who hear it, and for each of them."""
        few, many = 1, 9
        used = []
        for listeners in (few, many):
            async with AsyncExitStack() as stack:
                for _ in range(listeners):
                    connection = await connect(self.url)
                    stack.push_async_callback(connection.close)
                    await connection.add_listener("hints", lambda *_: None)
                await connection.execute("SET synchronous_commit = off")
                tell = await connection.prepare("SELECT pg_notify('hints', $1)")
                used.append((await self._used(functools.partial(tell.fetch, "x" * HINTED)))[0])
        each = (used[1] - used[0]) / (many - few)
        return used[0] - few * each, each

    async def _follow(self, writer: Writer, since: int) -> None:
        async for _ in writer.store.log(since):
            pass

    # What takes room.

    async def _log_bytes(self, writer: Writer) -> list[float]:
        """Bytes of the log for an update, and of its index by keys."""
        tables = "SELECT oid FROM pg_class WHERE relname ~ '^records_[0-9]+$' AND relkind = 'r'"
        keys = f"SELECT i.indexrelid FROM pg_index i WHERE i.indrelid IN ({tables}) AND indkey[0] = 3"  # `hash`
        sizes = f"(SELECT sum(pg_total_relation_size(oid)) FROM ({tables}) t)"
        sizes += f", (SELECT sum(pg_relation_size(indexrelid)) FROM ({keys}) k)"
        before, updates = self._numbers(sizes), 0
        for start in range(0, self._sessions - MANY, MANY):
            await writer.update(self._keys[start : start + MANY])
            updates += MANY
        return [(now - then) / updates for now, then in zip(self._numbers(sizes), before, strict=True)]

    async def _wal_bytes(self, writer: Writer) -> tuple[float, float]:
        """Bytes for an update, and for a page that is written whole."""
        keys = self._keys[::16]  # one in each page, about
        turns = []
        for turn in range(4):
            if turn == 3:
                self._sql("CHECKPOINT")
            before = self._wal()
            for start in range(0, len(keys), 16):
                await writer.update(keys[start : start + 16])
            turns.append([now - then for now, then in zip(self._wal(), before, strict=True)])
        plain = min(size for size, _ in turns[1:3]) / len(keys)
        size, pages = turns[3]
        return plain, (size - plain * len(keys)) / max(1, pages)

    def _wal(self) -> list[float]:
        time.sleep(1.5)  # sessions of the database report at most once a second
        return self._numbers("wal_bytes, wal_fpi FROM pg_stat_wal")

    def _backend_kib(self) -> float:
        """Private memory of the store's connections, on the average."""
        pids = self._sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'stui-sessions'")
        found = []
        for (pid,) in pids:
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                found.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
        return statistics.mean(found) if found else 0.0

    # Several that want the same session.

    async def _hot(self, servers: int) -> Hot:
        """Each saves one session that all save, and others of its own."""
        async with self._writers(servers) as writers:
            for number, writer in enumerate(writers):
                own = self._keys[1 + 20 * number : 16 + 20 * number]
                writer.sessions = await writer.store.read([self._keys[0], *own])
            end = time.monotonic() + self._seconds
            counts = await asyncio.gather(*(self._compete(writer, end) for writer in writers))
        won, tried = (sum(column) for column in zip(*counts, strict=True))
        return Hot(servers, won / self._seconds, tried / won)

    async def _compete(self, writer: Writer, end: float) -> tuple[int, int]:
        won = tried = 0
        while time.monotonic() < end:
            tried += 1
            won += await writer.update(list(writer.sessions))
        return won, tried

    # The rest.

    @asynccontextmanager
    async def _writers(self, number: int, query: str = "") -> Any:
        async with AsyncExitStack() as stack:
            writers = []
            for _ in range(number):
                options = Options(self.url + query, SCHEMA, 60.0, allow_unsafe=True)
                store = PostgresStore(options, wall_clock, LOG)
                await store.open()
                stack.push_async_callback(store.close, True)
                writers.append(Writer(store, {}))
            yield writers

    def _sql(self, statement: str) -> list[tuple[str, ...]]:
        return self.database.sql(statement, self._name)

    def _numbers(self, what: str) -> list[float]:
        return [float(value or 0) for value in self._sql(f"SELECT {what}")[0]]
