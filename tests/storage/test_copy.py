"""Copies: one file, of one moment, while commits go on; and copies of a server's database from outside."""

import asyncio
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.domain.entities import CLOSED, About
from stui_sessions.domain.finding import Counts, Totals
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.storage.contract import Store
from stui_sessions.storage.local import LocalStore, backup, schema, segments
from stui_sessions.storage.local.backup import Stop, Stopped
from stui_sessions.storage.memory import MemoryStore
from tests.storage.logs import contents
from tests.storage.stores import T0, LocalMaker, RecordingLog, Scribe, leave
from tests.storage.test_tables import no_room


async def opened(local: LocalMaker, name: str = "s.db") -> tuple[LocalStore, Scribe]:
    store = local.at(local.directory / "source" / name)
    await store.open()
    return store, Scribe(store)


async def holds(local: LocalMaker, path: Path, scribe: Scribe) -> None:
    """The copy alone, at another place, is a database with all that was committed."""
    assert not segments.directory_of(path).exists()
    assert backup.verify(path, RecordingLog()) == len(scribe.sessions())
    target = local.directory / f"restored{len(local.stores)}" / "s.db"
    target.parent.mkdir()
    shutil.copyfile(path, target)
    store = local.at(target)
    found = await store.open()
    assert (found.commit, found.replayed) == (scribe.last, 0)
    assert found.last_number == max(s.number for s in scribe.sessions())
    copied = Scribe(store, scribe.last)
    copied.entities = scribe.entities
    await copied.check()
    live = [s for s in scribe.sessions() if s.status == 0]
    counted = await store.query(Counts(""), T0)
    assert isinstance(counted, Totals)
    assert (counted.live, sum((counted.live, counted.expired, counted.closed))) == (len(live), len(scribe.sessions()))
    await store.close(clean=True)


def fill(scribe: Scribe, first: int, last: int) -> None:
    for n in range(first, last + 1):
        scribe.create(n, about=About(user_id="u", external_id=f"x{n}"), session_state=b'{"x":"%s"}' % (b"x" * 500))


async def test_a_copy_has_all_that_was_committed_before(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 300)
    await scribe.commit()
    scribe.update(scribe.session(3))
    scribe.end(scribe.session(4), CLOSED)
    await scribe.commit()
    await store.copy(local.directory / "copy")
    assert sorted(p.name for p in local.directory.iterdir() if p.name.startswith("copy")) == ["copy"]
    scribe_now = dict(scribe.entities)
    fill(scribe, 301, 310)
    await scribe.commit()
    await scribe.check()
    before = Scribe(store, scribe.last - 1)
    before.entities = scribe_now
    await holds(local, local.directory / "copy", before)


async def test_a_copy_is_of_one_moment(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits go on while its pages are copied, and go into the tables; none of them is in it."""
    store, scribe = await opened(local)
    fill(scribe, 1, 400)
    await scribe.commit()
    await store.flush()
    monkeypatch.setattr(backup, "PAGES", 10)
    moment: dict[str, Any] = {}
    check = Stop.check
    steps: list[int] = []
    waiting, go_on = threading.Event(), threading.Event()

    def slowly(stop: Stop) -> None:
        steps.append(1)
        if len(steps) == 5:
            waiting.set()
            assert go_on.wait(10)
        check(stop)

    monkeypatch.setattr(Stop, "check", slowly)
    copying = asyncio.ensure_future(store.copy(local.directory / "copy"))
    await asyncio.to_thread(waiting.wait, 10)
    moment["entities"], moment["last"] = dict(scribe.entities), scribe.last
    for n in range(1, 400, 3):
        scribe.update(scribe.session(n), b'{"later":1}')
    fill(scribe, 401, 500)
    scribe.remove(scribe.session(2))
    await scribe.commit()
    await store.flush()
    go_on.set()
    await copying
    assert len(steps) > 10
    before = Scribe(store, moment["last"])
    before.entities = moment["entities"]
    await holds(local, local.directory / "copy", before)
    await scribe.check()


async def test_the_tail_of_the_log_is_in_the_copy(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed between the round and the copy's moment is in the log alone."""
    store, scribe = await opened(local)
    fill(scribe, 1, 20)
    await scribe.commit()
    copy = backup.copy

    def later(*arguments: Any) -> None:
        scribe.update(scribe.session(1), b'{"tail":1}')
        again = scribe.session(2).session_id
        scribe.remove(scribe.session(2))
        scribe.create(21, session_id=again, client_id="")
        asyncio.run_coroutine_threadsafe(scribe.commit(), loop).result(10)
        copy(*arguments)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(backup, "copy", later)
    await store.copy(local.directory / "copy")
    assert store.usage().behind > 0
    await holds(local, local.directory / "copy", scribe)


async def test_a_copy_is_another_history(local: LocalMaker) -> None:
    """In the place of the original, it does not take the original's log for its own."""
    store, scribe = await opened(local)
    fill(scribe, 1, 5)
    await scribe.commit()
    await store.copy(local.directory / "copy")
    scribe.update(scribe.session(1))
    await scribe.commit()
    await store.close(clean=False)
    shutil.copyfile(local.directory / "copy", store.path)
    again = local.at(store.path)
    assert (await again.open()).commit == 1
    assert [c async for c in again.log(1)] == []


@pytest.mark.parametrize("place", ["pages", "check"])
async def test_a_cancelled_copy_leaves_nothing(local: LocalMaker, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 400)
    await scribe.commit()
    begun = threading.Event()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    if place == "check":

        def quick_check(connection: sqlite3.Connection) -> list[str]:
            begun.set()
            return connection.execute(endless).fetchall()

        monkeypatch.setattr(schema, "quick_check", quick_check)
    else:
        monkeypatch.setattr(backup, "PAGES", 1)
        check = Stop.check

        def waits(stop: Stop) -> None:
            begun.set()
            while not stop.is_set:
                pass
            check(stop)

        monkeypatch.setattr(Stop, "check", waits)
    copying = asyncio.ensure_future(store.copy(local.directory / "copy"))
    await asyncio.to_thread(begun.wait, 10)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert not [p.name for p in local.directory.iterdir() if p.name.startswith("copy")]
    scribe.update(scribe.session(1))
    await scribe.commit()
    await scribe.check()


def test_stopping_is_no_storage_error(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.executescript(schema._CREATE.replace("COMMIT;", ""))
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped):
        backup.copy(tmp_path / "s.db", tmp_path / "copy", RecordingLog(), stop)
    assert not (tmp_path / "copy").exists()


async def test_the_write_ahead_log_is_brought_down_afterwards(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 10)
    await scribe.commit()
    pages = backup._copy_pages

    def slowly(*arguments: Any) -> None:
        for n in range(200):
            scribe.create(100 + n, session_state=b"x" * 400_000)
        asyncio.run_coroutine_threadsafe(written(), loop).result(60)
        pages(*arguments)

    async def written() -> None:
        await scribe.commit()
        await store.flush()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(backup, "_copy_pages", slowly)
    await store.copy(local.directory / "copy")
    assert store.path.with_name("s.db-wal").stat().st_size < 40_000_000


async def test_no_room_for_a_copy(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 10)
    await scribe.commit()
    await store.flush()
    with no_room(), pytest.raises(StorageError):
        await store.copy(local.directory / "copy")
    assert not (local.directory / "copy").exists()
    with pytest.raises(StorageError):
        await store.copy(local.directory / "nowhere" / "copy")
    await scribe.check()


async def test_what_is_there_is_not_written_over(local: LocalMaker) -> None:
    """Nor removed, when the copy fails."""
    store, scribe = await opened(local)
    fill(scribe, 1, 10)
    await scribe.commit()
    target = local.directory / "copy"
    target.write_bytes(b"precious")
    with pytest.raises(StorageError, match="File exists"):
        await store.copy(target)
    assert target.read_bytes() == b"precious"


# From outside, as the command line does.


async def test_beside_a_running_server(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 30)
    await scribe.commit()
    await store.flush()
    scribe.update(scribe.session(1), b'{"in the log":1}')
    fill(scribe, 31, 40)
    await scribe.commit()
    before = contents(store.path.parent)
    await asyncio.to_thread(backup.copy, store.path, local.directory / "copy", RecordingLog())
    assert contents(store.path.parent) == before
    await holds(local, local.directory / "copy", scribe)


@pytest.mark.parametrize("clean", [True, False])
async def test_of_a_stopped_server(local: LocalMaker, clean: bool) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 30)
    await scribe.commit()
    path = store.path
    if clean:
        await store.close(clean=True)
    else:
        path = await leave(store, local.directory / "left" / "s.db")
        await store.close(clean=False)
    backup.copy(path, local.directory / "copy", RecordingLog())
    await holds(local, local.directory / "copy", scribe)


async def test_a_log_that_moves_on_while_it_is_read(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes a segment out of use between the look at the tables and the look at the log."""
    monkeypatch.setattr(segments, "SMALLEST", 2**16)
    monkeypatch.setattr(segments, "LARGEST", 2**16)
    store, scribe = await opened(local)
    local.forget_log(store)
    fill(scribe, 1, 5)
    await scribe.commit()
    recovered = backup.start.recovered
    looks: list[int] = []

    def moving(*arguments: Any) -> Any:
        looks.append(1)
        if len(looks) == 1:
            asyncio.run_coroutine_threadsafe(move_on(), loop).result(30)
        return recovered(*arguments)

    async def move_on() -> None:
        for _ in range(8):
            scribe.update(scribe.session(1), b'{"x":"%s"}' % (b"x" * 40_000), replaces=True)
            await scribe.commit()
        await store.flush()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(backup.start, "recovered", moving)
    await asyncio.to_thread(backup.copy, store.path, local.directory / "copy", RecordingLog())
    assert len(looks) == 2
    await holds(local, local.directory / "copy", scribe)


async def test_commits_while_the_log_is_read(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written behind the end that was found is no damage, but more of the log."""
    store, scribe = await opened(local)
    fill(scribe, 1, 5)
    await scribe.commit()
    behind = segments.Entries.behind
    looks: list[int] = []

    def writing(entries: segments.Entries, offset: int) -> Any:
        looks.append(offset)
        if len(looks) < 4:
            asyncio.run_coroutine_threadsafe(more(), loop).result(30)
        return behind(entries, offset)

    async def more() -> None:
        for _ in range(2):
            scribe.update(scribe.session(1), b'{"looks":%d}' % len(looks))
            await scribe.commit()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(segments.Entries, "behind", writing)
    monkeypatch.setattr(backup, "ATTEMPTS", 1)
    await asyncio.to_thread(backup.copy, store.path, local.directory / "copy", RecordingLog())
    assert len(looks) == 4
    await holds(local, local.directory / "copy", scribe)


async def test_a_log_that_cannot_be_read_is_an_error_of_the_store(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scribe = await opened(local)
    for n in range(1, 4):
        fill(scribe, n, n)
        await scribe.commit()
    assert store._behind is not None

    async def nothing() -> None:
        pass

    monkeypatch.setattr(store._behind, "flush", nothing)
    (segment, *_) = segments.directory_of(store.path).glob("*.log")
    with segment.open("r+b") as file:
        file.seek(segments.START + 100)
        file.write(b"damage")
    with pytest.raises(StorageError, match="the log is damaged"):
        await store.copy(local.directory / "copy")
    assert not (local.directory / "copy").exists()
    monkeypatch.undo()


async def test_a_database_without_its_log_is_no_backup(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    fill(scribe, 1, 5)
    await scribe.commit()
    path = await leave(store, local.directory / "left" / "s.db")
    shutil.rmtree(segments.directory_of(path))
    with pytest.raises(StartError, match="the log of this database is missing"):
        backup.copy(path, local.directory / "copy", RecordingLog())
    with pytest.raises(StartError, match="the log of this database is missing"):
        backup.verify(path, RecordingLog())
    assert not (local.directory / "copy").exists()


async def copied(local: LocalMaker) -> Path:
    store, scribe = await opened(local)
    fill(scribe, 1, 5)
    await scribe.commit()
    await store.copy(local.directory / "copy")
    return local.directory / "copy"


VERIFIED = {
    "UPDATE sessions SET data = x'00' WHERE number = 3": "session 3 fails its checksum",
    "UPDATE entities SET data = x'00' WHERE kind = 'owner'": "the owner of some sessions fails its checksum",
    "UPDATE entities SET version = 9 WHERE kind = 'external'": "the external of some sessions fails its checksum",
    "DROP INDEX sessions_by_title": "index sessions_by_title missing",
    "PRAGMA user_version = 9": "schema version 9",
}


@pytest.mark.parametrize("damage", VERIFIED)
async def test_a_copy_is_looked_through(local: LocalMaker, damage: str) -> None:
    path = await copied(local)
    seen: list[tuple[int, int]] = []
    assert backup.verify(path, RecordingLog(), lambda done, total: seen.append((done, total))) == 5
    assert seen == [(5, 5)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)
    with pytest.raises((StartError, StorageDamaged), match=VERIFIED[damage]):
        backup.verify(path, RecordingLog())


async def test_a_memory_store_has_nothing_to_copy(tmp_path: Path) -> None:
    store: Store = MemoryStore()
    await store.open()
    with pytest.raises(StorageError, match="nothing to copy"):
        await store.copy(tmp_path / "copy")
