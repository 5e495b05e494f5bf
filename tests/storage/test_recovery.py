"""The rest of a long replay, done beside normal work."""

import asyncio
from pathlib import Path

import pytest

from stui_sessions.domain.entities import CLOSED, Damaged, Session
from stui_sessions.domain.finding import Counts, Found, Listing
from stui_sessions.domain.records import Updated
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.contract import Conflict
from stui_sessions.storage.local import LocalStore, recovery, replay, start
from tests.storage.contract.test_query import counted, told, walked
from tests.storage.stores import T0, LocalMaker, Scribe, leave
from tests.storage.test_replay import edit

SESSIONS = 400
LIST = Listing("", 0, "last_activity", True, 1000)


@pytest.fixture(autouse=True)
def much(monkeypatch: pytest.MonkeyPatch) -> None:
    """All replays are long."""
    monkeypatch.setattr(start, "AT_ONCE", 0)


async def killed(local: LocalMaker) -> tuple[Path, Scribe]:
    """Sessions in the tables, and a change of each of them, of every kind, in the log."""
    store = local.at(local.directory / "source" / "s.db")
    await store.open()
    scribe = Scribe(store)
    for n in range(1, SESSIONS + 1):
        scribe.create(n, client_id=f"c{n % 50}")
    await scribe.commit()
    await store.flush()
    for n in range(1, SESSIONS + 1):
        scribe.at += 10
        s = scribe.session(n)
        if n % 10 == 1:
            scribe.end(s, CLOSED)
        elif n % 10 == 2:
            scribe.remove(s)
        else:
            scribe.update(s, b'{"n":%d}' % n)
        if n % 7 == 0:
            await scribe.commit()
    await scribe.commit()
    path = await leave(store, local.directory / "left" / "s.db")
    await store.close(clean=False)
    return path, scribe


async def opened(local: LocalMaker, path: Path, scribe: Scribe) -> LocalStore:
    store = scribe.store = local.at(path)
    found = await store.open()
    assert found.commit == scribe.last
    assert found.replayed == SESSIONS + 10  # owners whose sessions were closed or removed
    assert store._recovery is not None
    assert not store._recovery._done.is_set()
    return store


async def test_everything_can_be_read_at_once(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    await scribe.check()
    assert await store.query(Counts(""), T0) == counted(scribe)
    found = await walked(store, LIST, scribe.at)
    assert told(found) == told(sorted((s for s in scribe.sessions() if s.status == 0), key=LIST.position, reverse=True))
    await store.flush()
    await scribe.check()
    await store.close(clean=True)
    assert (await local.at(path).open()).replayed == 0


async def test_a_search_waits_for_the_rest(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    answer = await store.query(LIST, scribe.at)
    assert isinstance(answer, Found)
    assert [s.number for s in answer.sessions] == [n for n in range(SESSIONS, 0, -1) if n % 10 not in (1, 2)]


async def test_a_commit_does_not(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it changes is not changed back by the rest of the replay."""
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    for n in (3, SESSIONS - 1):
        scribe.update(scribe.session(n), b'{"after":1}')
    scribe.create(1000)
    batch = scribe.batch()
    batch.expected.pop(scribe.session(SESSIONS - 1).key)  # nobody has looked at it
    await store.commit(batch)
    scribe.committed(batch)
    scribe.update(scribe.session(4))
    stale = scribe.batch()
    stale.expected[scribe.session(4).key] = 1
    with pytest.raises(Conflict):
        await store.commit(stale)
    await store.flush()
    await scribe.check()
    assert await store.query(Counts(""), T0) == counted(scribe)


async def test_killed_again_before_it_is_done(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    scribe.update(scribe.session(3), b'{"after":1}')
    await scribe.commit()
    again = await leave(store, local.directory / "again" / "s.db")
    await store.close(clean=False)
    store = scribe.store = local.at(again)
    await store.open()
    await scribe.check()


async def test_closed_before_it_is_done(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    await store.close(clean=True)
    store = scribe.store = local.at(path)
    assert (await store.open()).replayed == 0
    await scribe.check()


async def test_a_disk_that_fails_meanwhile(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "RETRY_SECONDS", 0.0)
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    read, failures = store._reader.read, [1, 1, 1]

    async def failing(keys: object) -> object:
        if failures:
            failures.pop()
            raise StorageError("disk I/O error")
        return await read(keys)  # type: ignore[arg-type]

    store._reader.read = failing  # type: ignore[method-assign, assignment]
    await store.flush()
    assert local.log.named("log_replay_delayed")
    await scribe.check()


async def test_damaged_rows(local: LocalMaker) -> None:
    path, scribe = await killed(local)
    edit(path, "UPDATE sessions SET data = x'00' WHERE number = 4")
    store = await opened(local, path, scribe)
    key = scribe.session(4).key
    assert isinstance((await store.read([key]))[key], Damaged)
    await store.flush()
    assert local.log.named("session_not_replayed")
    del scribe.entities[key]
    await scribe.check()


async def test_tables_that_do_not_go_with_the_log(local: LocalMaker) -> None:
    """Found too late to refuse the start: nothing is written any more, and the rest can be read."""
    path, scribe = await killed(local)
    edit(path, "DELETE FROM sessions WHERE number = 200")
    store = await opened(local, path, scribe)
    assert store._recovery is not None
    with pytest.raises(StorageDamaged, match="do not go together"):
        await store._recovery.done()
    with pytest.raises(StorageDamaged):
        await store.query(LIST, T0)
    for _ in range(100):
        await asyncio.sleep(0)
    scribe.create(1000)
    with pytest.raises(StorageDamaged):
        await store.commit(scribe.batch())
    key = scribe.session(3).key
    assert isinstance((await store.read([key]))[key], Session)
    before = path.read_bytes()
    await store.close(clean=True)
    assert path.read_bytes() == before


async def test_a_read_that_finds_the_damage_first(local: LocalMaker) -> None:
    """What is not replayed is told to nobody, however often it is read; what was read beside it is."""
    path, scribe = await killed(local)
    edit(path, "DELETE FROM sessions WHERE number = 200")
    store = await opened(local, path, scribe)
    good, bad = scribe.session(3), scribe.session(200).key
    for _ in range(2):
        with pytest.raises(StorageDamaged, match="do not go together"):
            await store.read([good.key, bad])
    assert (await store.read([good.key]))[good.key] == good
    assert store._recovery is not None
    with pytest.raises(StorageDamaged, match="do not go together"):
        await store._recovery.done()


async def test_a_fault_keeps_nobody_waiting(local: LocalMaker) -> None:
    """Searches and writes are refused, and a stop leaves it all to the next start."""
    path, scribe = await killed(local)
    store = await opened(local, path, scribe)
    assert store._recovery is not None

    def fault(stored: object) -> None:
        raise RuntimeError("told to")

    store._recovery._replay.put = fault  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageDamaged, match="fault"):
        await asyncio.wait_for(store.query(LIST, T0), 10)
    assert local.log.named("log_replay_fault")
    scribe.create(1000)
    with pytest.raises(StorageDamaged):
        await store.commit(scribe.batch())
    await asyncio.wait_for(store.close(clean=True), 10)
    store = scribe.store = local.at(path)
    await store.open()
    await scribe.check()


@pytest.mark.parametrize("replaces", [(False, False), (True, False, False)])
def test_changes_that_are_no_json(replaces: tuple[bool, ...]) -> None:
    """They are put together before they are applied."""
    s = Scribe(None).create(1)  # type: ignore[arg-type]
    records = [Updated(s.key, n, T0, "", 1, n, replaces[n], b"{") for n in range(len(replaces))]
    with pytest.raises(StorageDamaged, match="do not go together"):
        replay._applied(s, list(records), 2)


async def test_a_question_that_waits_for_the_rest_is_told_of_the_close(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = await killed(local)
    monkeypatch.setattr(start, "AT_ONCE", 10)

    async def never(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(recovery.Recovery, "_resolve_rest", never)
    store = local.at(path)
    await store.open()
    asked = asyncio.ensure_future(store.query(LIST, T0))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await store.close(clean=True)
    async with asyncio.timeout(10):
        with pytest.raises(StorageError, match="closed"):
            await asked
