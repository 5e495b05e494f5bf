"""Replay: what the log tells on top of tables that are behind it, or partly ahead."""

import asyncio
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from stui_sessions.domain.entities import CLOSED, EXPIRED, About
from stui_sessions.domain.finding import Counts
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.local import LocalStore, segments, statements
from stui_sessions.storage.local import writebehind as writebehind_module
from tests.storage.contract.test_query import Crowd, counted
from tests.storage.stores import T0, LocalMaker, Scribe, leave


async def opened(local: LocalMaker) -> tuple[LocalStore, Scribe]:
    store = local.at(local.directory / f"{len(local.stores)}" / "s.db")
    await store.open()
    return store, Scribe(store)


def edit(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(sql).rowcount > 0


async def reopened(local: LocalMaker, store: LocalStore, scribe: Scribe) -> LocalStore:
    """The store after a kill."""
    found = scribe.store = await local.crashed(store)
    assert (await found.open()).commit == scribe.last
    return found


async def test_a_round_of_writing_is_cut_off_anywhere(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows are ahead, some are gone already; totals and the rest are as of the newest commit."""
    monkeypatch.setattr(statements, "WRITTEN_ROWS", 1)
    for left in range(0, 24, 3):
        store, scribe = await opened(local)
        for n in range(1, 12):
            scribe.create(n, about=About(user_id="u", external_id=f"x{n}"))
        await scribe.commit()
        await store.flush()
        scribe.end(scribe.session(1), CLOSED)
        scribe.update(scribe.session(2), b'{"a":1}')
        scribe.remove(scribe.session(3))
        own = scribe.session(4).session_id
        scribe.remove(scribe.session(4))
        await scribe.commit()
        scribe.create(40, session_id=own)
        scribe.reopen(scribe.session(1))
        scribe.update(scribe.session(2), b'{"b":1}')
        await scribe.commit()
        await cut_off(store, left)
        for n in (5, 6, 7):
            scribe.update(scribe.session(n), b'{"c":1}')
        scribe.end(scribe.session(1), EXPIRED)
        scribe.remove(scribe.session(40))
        await scribe.commit()
        store = await reopened(local, store, scribe)
        await scribe.check()
        assert await store.query(Counts(""), T0) == counted(scribe)
        await store.flush()
        await scribe.check()
        ((rows,),) = await store._reader.fetch("SELECT count(*) FROM sessions", ())
        assert rows == len(scribe.sessions())
        await store.close(clean=True)


async def cut_off(store: LocalStore, left: int) -> None:
    """A round, of which so many statements are done at most."""
    execute = store._tables.execute

    async def some(statement: statements.Statement) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise StorageError("cut off")
        await execute(statement)

    store._tables.execute = some  # type: ignore[method-assign]
    try:
        with suppress(StorageError):
            await store.flush()
    finally:
        store._tables.execute = execute  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(8))
async def test_kills_between_random_changes(local: LocalMaker, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(statements, "WRITTEN_ROWS", 3)
    chance = random.Random(seed)
    store, scribe = await opened(local)
    crowd = Crowd(scribe, chance, 1, 500)
    for _ in range(12):
        for _ in range(chance.randrange(1, 5)):
            for _ in range(chance.randrange(1, 6)):
                crowd.change()
            await scribe.commit()
        roll = chance.random()
        if roll < 0.3:
            await store.flush()
        elif roll < 0.7:
            await cut_off(store, chance.randrange(6))
        if roll > 0.4:
            store = await reopened(local, store, scribe)
            await scribe.check()
            assert await store.query(Counts(""), scribe.at) == counted(scribe)


async def test_only_what_is_behind_the_tables_is_replayed(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    for n in range(1, 20):
        scribe.create(n, client_id="")
        await scribe.commit()
    await store.flush()
    scribe.update(scribe.session(4))
    await scribe.commit()
    found = await local.crashed(store)
    assert (await found.open()).replayed == 1
    scribe.store = found
    await scribe.check()


async def test_many_small_merges_of_a_large_session(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1, session_state=b'{"big":"%s"}' % (b"x" * 100_000))
    await scribe.commit()
    for n in range(200):
        scribe.update(scribe.session(1), b'{"k%d":%d}' % (n % 7, n))
        await scribe.commit()
    await reopened(local, store, scribe)
    await scribe.check()


async def test_a_damaged_row_with_changes_stays_damaged(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    for n in (1, 2, 3):
        scribe.create(n, client_id="")
    await scribe.commit()
    await store.flush()
    for n in (1, 2):
        scribe.update(scribe.session(n))
    await scribe.commit()
    path = await leave(store, local.directory / "left" / "s.db")
    edit(path, "UPDATE sessions SET data = x'00' WHERE number = 2")
    found = local.at(path)
    assert (await found.open()).replayed == 1
    assert local.log.named("session_not_replayed")
    damaged = scribe.session(2).key
    assert type((await found.read([damaged]))[damaged]).__name__ == "Damaged"
    del scribe.entities[damaged]
    scribe.store = found
    await scribe.check()
    await found.close(clean=False)
    assert (await local.at(path).open()).replayed == 0


async def test_a_session_that_the_log_changes_is_missing(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    await store.flush()
    scribe.update(scribe.session(1))
    await scribe.commit()
    path = await leave(store, local.directory / "left" / "s.db")
    edit(path, "DELETE FROM sessions")
    with pytest.raises(StartError, match="the log and the tables do not go together"):
        await local.at(path).open()


async def test_rounds_that_fail_are_made_up_for(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "WRITTEN_ROWS", 1)
    store, scribe = await opened(local)
    for n in range(1, 9):
        scribe.create(n)
    await scribe.commit()
    for left in (0, 3, 7):
        await cut_off(store, left)
        assert not store._unwritten.is_empty
        await scribe.check()
        scribe.update(scribe.session(left + 1))
        await scribe.commit()
        await scribe.check()
    assert len(local.log.named("write_behind_failed")) == 1
    await store.flush()
    assert store.usage().behind == 0
    await scribe.check()
    assert store._unwritten.is_empty


async def test_a_round_that_begins_of_itself(local: LocalMaker) -> None:
    """By the time, by half of the limits; nobody has to ask."""
    for limits in (
        writebehind_module.Limits(interval=0.01),
        writebehind_module.Limits(interval=3600.0, journal_limit=2_000),
        writebehind_module.Limits(interval=3600.0, memory_limit=4_000),
    ):
        local.limits = limits
        store, scribe = await opened(local)
        for n in range(1, 5):
            scribe.create(n)
            await scribe.commit()
        assert store._behind is not None
        await store._behind.make_room()
        assert store._behind.tables_commit > 0


async def test_a_search_that_fails_to_write_costs_nothing(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a round, sessions are to be put in their places first, and that fails half-way."""
    monkeypatch.setattr(statements, "WRITTEN_ROWS", 1)
    monkeypatch.setattr(writebehind_module, "UNDER_WAY", 1)
    store, scribe = await opened(local)
    for n in range(1, 9):
        scribe.create(n)
    await scribe.commit()
    assert store._behind is not None
    execute = store._tables.execute
    count = 0
    settling: list[asyncio.Future[None]] = []

    async def some(statement: statements.Statement) -> None:
        nonlocal count
        count += 1
        if count == 2:
            assert store._behind is not None
            settling.append(asyncio.ensure_future(store._behind.settle()))
            await asyncio.sleep(0)
        if count == 4:
            raise StorageError("cut off")
        await execute(statement)

    store._tables.execute = some  # type: ignore[method-assign]
    await store.flush()
    with pytest.raises(StorageError, match="cut off"):
        await settling[0]
    assert store._unwritten.is_empty
    await scribe.check()
    await reopened(local, store, scribe)
    await scribe.check()


async def test_a_start_with_a_full_log_takes_changes_before_its_first_round(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scribe = await opened(local)
    s = scribe.create(1)
    for _ in range(20):
        scribe.update(s, b'{"a":"%s"}' % (b"x" * 1000), replaces=True)
        await scribe.commit()
    monkeypatch.setattr(writebehind_module.WriteBehind, "is_due", lambda self: False)
    store = await reopened(local, store, scribe)
    assert store._behind is not None
    store.limits = writebehind_module.Limits(interval=3600.0, journal_limit=store.usage().behind)
    assert not store._behind.is_full()
    store.limits = writebehind_module.Limits(interval=3600.0, journal_limit=store.usage().behind // 2)
    assert store._behind.is_full()  # however often it is killed, there is an end to it
    store.limits = writebehind_module.Limits(interval=3600.0, journal_limit=store.usage().behind)
    store._behind.rounds = 1
    assert store._behind.is_full()


async def test_a_commit_that_comes_while_the_store_is_closed(local: LocalMaker) -> None:
    """Behind the last round: the log alone has it, and the tables do not say otherwise."""
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    assert store._behind is not None
    stop = store._behind.stop

    async def late() -> None:
        if scribe.last == 1:
            scribe.create(2)
            await scribe.commit()
        await stop()

    store._behind.stop = late  # type: ignore[method-assign]
    await store.close(clean=True)
    with closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'needs_log'").fetchone() == (1,)
    assert not (files.beside(store.path, ".log") / segments.CLOSED).exists()
    store = scribe.store = local.at(store.path)
    assert (await store.open()).commit == 2
    await scribe.check()
