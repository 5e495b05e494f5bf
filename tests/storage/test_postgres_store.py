"""What is PostgreSQL's own: lanes and unknown outcomes, partitions, totals of servers that are gone, refusals."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from stui_sessions.domain.entities import Damaged, session_key
from stui_sessions.domain.finding import Counts, Totals
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.contract import Conflict, LogGone
from stui_sessions.storage.postgres.keeping import FORGOTTEN_MS, LOST_MS
from stui_sessions.storage.postgres.schema import DAY_MS
from stui_sessions.storage.postgres.store import Options, PostgresStore
from tests.storage.stores import T0, PostgresMaker, Scribe, logged
from tests.support.postgres import Postgres

S = "stui_sessions"


class Base:
    """A store with some sessions, and the database behind it by another way."""

    def __init__(self, maker: PostgresMaker, connection: Any) -> None:
        self.maker = maker
        self.sql = connection

    async def begin(self) -> Scribe:
        """A scribe of a new open store, who has committed session 1."""
        store = self.maker.make()
        await store.open()
        scribe = Scribe(store)
        scribe.create(1, client_id="c")
        await scribe.commit()
        return scribe


@pytest.fixture
async def base(database_url: str) -> AsyncIterator[Base]:
    maker = PostgresMaker(database_url)
    await maker.prepare()
    connection = await asyncpg.connect(database_url)
    yield Base(maker, connection)
    await maker.tear_down()
    await connection.close()


def store_of(scribe: Scribe) -> PostgresStore:
    assert isinstance(scribe.store, PostgresStore)
    return scribe.store


# -- a connection that dies in the middle of a commit


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("kind", ["single", "plain", "full"])
async def test_an_unknown_outcome_is_found_out(base: Base, arrived: bool, kind: str) -> None:
    """Whether the statement took effect or not: it is committed once, and who waits is told so."""
    scribe = await base.begin()
    store = store_of(scribe)
    for lane in store._lanes:
        fetch = lane._channel.fetch

        async def dying(sql: str, *arguments: Any, lane: Any = lane, fetch: Any = fetch) -> Any:
            if sql in store._statements.values():
                lane._channel.fetch = fetch
                if arrived:
                    await fetch(sql, *arguments)
                lane._channel.drop()
                raise asyncpg.ConnectionDoesNotExistError("the connection was closed in the middle of operation")
            return await fetch(sql, *arguments)

        lane._channel.fetch = dying  # type: ignore[method-assign]
    if kind == "full":
        scribe.create(2, client_id="c")
    for _ in range(2 if kind == "plain" else 1):
        scribe.update(scribe.session(1))
    await scribe.commit()
    await scribe.check()
    assert await logged(scribe) == scribe.commits
    assert len(base.maker.log.named("storage.outcome_unknown")) == 1
    assert base.maker.log.named("storage.outcome_known") == [{"committed": arrived}]
    assert await store.query(Counts(""), T0) == Totals(live=2 if kind == "full" else 1, clients=1)
    for _ in range(3):
        scribe.update(scribe.session(1))
        await scribe.commit()
    await scribe.check()


async def test_a_lane_that_somebody_has_closed_is_left(base: Base) -> None:
    """A server that was away for long: what it sends then has no effect, until it has opened a new lane."""
    scribe = await base.begin()
    await base.sql.execute(f"UPDATE {S}.lanes SET is_open = false")
    for n in range(3):
        scribe.update(scribe.session(1), b'{"n":%d}' % n)
        await scribe.commit()
    await scribe.check()
    assert await logged(scribe) == scribe.commits
    assert await base.sql.fetchval(f"SELECT count(*) FROM {S}.lanes WHERE is_open") >= 1


async def test_the_servers_processes_may_all_be_ended(base: Base) -> None:
    scribe = await base.begin()
    for n in range(4):
        await base.sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        if n % 2:
            await scribe.check()
        scribe.update(scribe.session(1), b'{"n":%d}' % n)
        await scribe.commit()
    await scribe.check()
    assert await logged(scribe) == scribe.commits


# -- what lost the race


async def test_a_number_that_another_server_has_given_is_a_conflict(base: Base) -> None:
    scribe = await base.begin()
    rival = Scribe(scribe.store, scribe.last)
    rival.create(1, session_id="another", client_id="d")
    with pytest.raises(Conflict):
        await scribe.store.commit(rival.batch())
    await scribe.check([session_key("", "another")])


async def test_a_row_that_is_not_what_was_written_is_damaged(base: Base) -> None:
    scribe = await base.begin()
    key = scribe.session(1).key
    await base.sql.execute(f"UPDATE {S}.sessions SET data = data || '\\x00'")
    assert (await scribe.store.read([key]))[key] == Damaged(key)


# -- partitions and the log


async def test_a_partition_that_is_missing_is_made(base: Base) -> None:
    scribe = await base.begin()
    for (name,) in await base.sql.fetch("SELECT relname FROM pg_class WHERE relname ~ '^records_[0-9]+$'"):
        await base.sql.execute(f"DROP TABLE {S}.{name}")
    scribe.update(scribe.session(1))
    await scribe.commit()
    await scribe.check()
    assert [c.records for c in [c async for c in scribe.store.log(0)]] == [scribe.commits[-1].records]


async def test_records_are_dropped_by_days_and_the_log_says_so(base: Base) -> None:
    scribe = await base.begin()
    store = store_of(scribe)
    today = store.time.now() // DAY_MS
    old = today - 2
    await base.sql.execute(
        f"CREATE TABLE {S}.records_{old} PARTITION OF {S}.records FOR VALUES FROM ({old}) TO ({old + 1});"
        f"UPDATE {S}.records SET day = {old};"
    )
    scribe.update(scribe.session(1))
    await scribe.commit()
    first, second = [commit.number async for commit in store.log(0)]
    await store._keeper.keep()
    names = {name for (name,) in await base.sql.fetch("SELECT relname FROM pg_class WHERE relname ~ '^records_[0-9]'")}
    assert {f"records_{today + n}" for n in range(3)} <= names
    assert f"records_{old}" not in names
    with pytest.raises(LogGone) as caught:
        [c async for c in store.log(0)]
    assert caught.value.oldest == first + 1
    assert [c.number async for c in store.log(first)] == [second]
    history = await store.history(scribe.session(1).key, 2**60, 9)
    assert [c.number for c in history] == [second]
    assert base.maker.log.named("storage.log_dropped") == [{"day": old}]


# -- servers that are gone


async def test_what_servers_that_are_gone_have_counted_is_kept(base: Base) -> None:
    first = await base.begin()
    second = Scribe(base.maker.make())
    await second.store.open()
    second.create(2, client_id="d")
    second.create(3, tenant="t", client_id="d")
    await second.commit()
    await base.sql.execute(f"UPDATE {S}.lanes SET seen_at = seen_at - {LOST_MS + 60_000}")
    store = store_of(first)
    for _ in range(2):
        await store._keeper.keep()
        assert await store.query(Counts(""), T0) == Totals(live=2, clients=2)
        assert await store.query(Counts("t"), T0) == Totals(live=1, clients=1)
    assert await base.sql.fetchval(f"SELECT count(*) FROM {S}.totals WHERE lane <> ''") == 0
    second.create(4, client_id="d")
    await second.commit()  # it was only away
    assert await store.query(Counts(""), T0) == Totals(live=3, clients=2)
    closed = "SELECT count(*) FROM stui_sessions.lanes WHERE NOT is_open"
    assert await base.sql.fetchval(closed) > 0
    await base.sql.execute(f"UPDATE {S}.lanes SET seen_at = seen_at - {FORGOTTEN_MS} WHERE NOT is_open")
    await store._keeper.keep()
    assert await base.sql.fetchval(closed) == 0


# -- a start that is refused


async def test_tables_that_are_missing_or_newer_are_refused(base: Base, database_url: str) -> None:
    nowhere = PostgresStore(Options(database_url, schema="elsewhere"), lambda: T0, base.maker.log)
    with pytest.raises(StartError, match="stui-sessions db init"):
        await nowhere.open()
    await nowhere.close(clean=False)
    for version, text in ((999, "newer"), (0, "move that was cut off")):
        await base.sql.execute(f"UPDATE {S}.meta SET value = '{version}' WHERE key = 'version'")
        with pytest.raises(StartError, match=text):
            await base.maker.make().open()


async def test_a_database_that_promises_nothing_is_refused(base: Base, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    await base.sql.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    with pytest.raises(StartError, match="allow_unsafe_database"):
        await base.maker.make().open()
    allowed = PostgresStore(Options(database_url, allow_unsafe=True), lambda: T0, base.maker.log)
    await allowed.open()
    assert allowed.promise().synchronous_commit == "off"
    await allowed.close(clean=True)


async def test_a_database_that_is_away_is_told_once_it_has_been_waited_for(postgres: Postgres) -> None:
    store = PostgresStore(
        Options("postgresql://nobody@127.0.0.1:1/none", timeout=0.3), lambda: T0, PostgresMaker("").log
    )
    with pytest.raises(StorageError, match="connect"):
        await store.open()
    await store.close(clean=False)
