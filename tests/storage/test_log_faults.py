"""A disk that fails: a sync that is not done, no room for the next segment, a write that is slow."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.domain.entities import session_key
from stui_sessions.domain.records import Updated
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.local import Limits, LocalStore, segments, writebehind
from stui_sessions.storage.local import log as log_module
from stui_sessions.storage.local.log import FAST_SECONDS, FIRST_TRUST, LEAST_TRUST, SLOW_SECONDS, Pace
from tests.storage.logs import entries_of, files_of
from tests.storage.stores import LocalMaker, Scribe, leave

IO_ERROR = OSError(errno.EIO, "Input/output error")
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SMALLEST", 2**16)
    monkeypatch.setattr(segments, "LARGEST", 2**16)


async def opened(local: LocalMaker, name: str = "s.db", durability: str = "full") -> tuple[LocalStore, Scribe]:
    store = local.at(local.directory / name / "s.db", durability)  # type: ignore[arg-type]
    await store.open()
    return store, Scribe(store)


async def fails(scribe: Scribe, said: str | None = None) -> None:
    with pytest.raises(StorageError, match=said) as caught:
        await scribe.store.commit(scribe.batch())
    assert not isinstance(caught.value, StorageDamaged)


async def survives(local: LocalMaker, store: LocalStore, scribe: Scribe, *more: int) -> None:
    """After a kill there is what was committed, and no session with one of the numbers `more`."""
    found = local.at(await leave(store, local.directory / f"left{len(local.stores)}" / "s.db"))
    assert (await found.open()).commit == scribe.last
    scribe.store = found
    await scribe.check([session_key("", f"session_{n}_1756549800_{n * 7919}") for n in more])
    scribe.store = store
    await found.close(clean=False)


def padding(size: int) -> bytes:
    return b'{"x":"%s"}' % (b"x" * size)


# Syncs and writes that fail.


@pytest.mark.parametrize("on_loop", [False, True])
@pytest.mark.parametrize("operation", ["write_at", "sync"])
async def test_what_failed_is_written_over(local: LocalMaker, operation: str, on_loop: bool) -> None:
    """The refused entry may be whole on the disk; the next commit of its number takes its place, shorter or longer."""
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    for n, size in ((2, 10), (3, 5000), (4, 200)):
        assert store._journal is not None
        store._journal._pace.on_loop = on_loop
        local.disk.fail_once(operation, IO_ERROR)
        scribe.create(n + 100, session_state=padding(1000))
        await fails(scribe, "Input/output error")
        scribe.create(n, session_state=padding(size))
        await scribe.commit()
        assert [e.number for e in entries_of(store.path)] == list(range(1, scribe.last + 1))
        await survives(local, store, scribe, n + 100)


async def test_a_sync_that_fails_again_and_again(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    relent = local.disk.refuse("sync", IO_ERROR)
    for n in range(2, 6):
        scribe.create(n)
        await fails(scribe)
        await scribe.check([session_key("", f"session_{n}_1756549800_{n * 7919}")])
    relent()
    scribe.create(9)
    await scribe.commit()
    await survives(local, store, scribe, 2, 3, 4, 5)


async def test_what_failed_is_made_void_before_another_segment_is_used(local: LocalMaker) -> None:
    """Else both segments would hold an entry of that number, and a reader could take the refused one."""
    store, scribe = await opened(local)
    s = scribe.create(1, session_state=padding(20_000))
    await scribe.commit()
    local.disk.fail_once("sync", IO_ERROR)
    scribe.create(2)
    await fails(scribe)
    scribe.update(s, padding(50_000), replaces=True)
    await scribe.commit()
    assert [(e.number, e.path.name) for e in entries_of(store.path)] == [(1, "0000000001.log"), (2, "0000000002.log")]
    await survives(local, store, scribe, 2)


async def test_what_could_not_be_made_void_stops_the_next_segment(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    s = scribe.create(1, session_state=padding(20_000))
    await scribe.commit()
    local.disk.fail_once("sync", IO_ERROR)
    scribe.create(2)
    await fails(scribe)
    local.disk.fail_once("sync", IO_ERROR)
    scribe.update(s, padding(50_000), replaces=True)
    await fails(scribe)
    assert len({e.path for e in entries_of(store.path)}) == 1
    scribe.update(s, padding(50_000), replaces=True)
    await scribe.commit()
    await survives(local, store, scribe, 2)


async def test_what_failed_last_is_not_there_after_a_clean_stop(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    local.disk.fail_once("sync", IO_ERROR)
    scribe.create(2)
    await fails(scribe)
    await store.close(clean=True)
    again = scribe.store = local.at(store.path)
    assert (await again.open()).commit == 1
    await scribe.check([session_key("", "session_2_1756549800_15838")])


def hold_a_sync(local: LocalMaker) -> tuple[threading.Event, threading.Event]:
    """The next sync takes until it is told to go on: what says that it has begun, and what lets it go on."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(operation: str, *_: object) -> None:
        if operation == "sync":
            local.disk.faults.clear()
            begun.set()
            assert go_on.wait(10)

    local.disk.faults.append(slow)
    return begun, go_on


async def test_a_cancelled_commit_gives_way_to_the_next(local: LocalMaker) -> None:
    """Its write goes on; the next one of the same number waits for that, and takes its place."""
    store, scribe = await opened(local)
    begun, go_on = hold_a_sync(local)
    scribe.create(2, session_state=padding(3000))
    commit = asyncio.ensure_future(store.commit(scribe.batch()))
    await asyncio.to_thread(begun.wait, 10)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    scribe.create(1)
    following = asyncio.ensure_future(scribe.commit())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not following.done()
    go_on.set()
    await following
    await survives(local, store, scribe, 2)


async def test_a_commit_cancelled_while_it_waits_for_a_cancelled_one(local: LocalMaker) -> None:
    """The one behind both still waits for the write that goes on."""
    store, scribe = await opened(local)
    begun, go_on = hold_a_sync(local)
    assert store._journal is not None
    waits, settled = asyncio.Event(), store._journal._settled

    async def noted() -> None:
        waits.set()
        await settled()

    store._journal._settled = noted  # type: ignore[method-assign]
    for n in (2, 3):
        scribe.create(n, session_state=padding(3000))
        commit = asyncio.ensure_future(store.commit(scribe.batch()))
        await waits.wait()
        await asyncio.to_thread(begun.wait, 10)
        waits.clear()
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    scribe.create(1)
    following = asyncio.ensure_future(scribe.commit())
    await waits.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert store._journal._buffer.find(b"session_1_") < 0  # the write that goes on may be reading it
    go_on.set()
    await following
    await survives(local, store, scribe, 2, 3)


async def test_a_commit_cancelled_while_a_segment_is_given_up(local: LocalMaker) -> None:
    """The prepared one was too small; it is not used by the next commit, for which it would do."""
    store, scribe = await opened(local)
    s = scribe.create(1, session_state=padding(40_000))
    await scribe.commit()
    begun, go_on = threading.Event(), threading.Event()

    def slow(operation: str, *names: Path) -> None:
        if operation == "rename" and names[1].name.startswith(segments.SPARE):
            local.disk.faults.clear()
            begun.set()
            assert go_on.wait(10)

    local.disk.faults.append(slow)
    scribe.update(s, padding(100_000), replaces=True)
    commit = asyncio.ensure_future(store.commit(scribe.batch()))
    await asyncio.to_thread(begun.wait, 10)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    go_on.set()
    scribe.update(s, padding(40_000), replaces=True)
    await scribe.commit()
    await survives(local, store, scribe)


# Room.


async def test_no_descriptor_for_the_next_segment(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused like any other failure, and the segment that was made is used by the next commit."""
    store, scribe = await opened(local)
    s = scribe.create(1, session_state=padding(40_000))
    await scribe.commit()
    assert store._journal is not None
    assert store._journal._next is not None
    ready = await store._journal._next
    open_file = os.open

    def refusing(path: Any, *arguments: Any) -> int:
        if threading.current_thread() is threading.main_thread():
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refusing)
        for _ in range(2):
            scribe.update(s, padding(40_000), replaces=True)
            await fails(scribe, "Too many open files")
    scribe.update(s, padding(40_000), replaces=True)
    await scribe.commit()
    assert store._journal.segments[-1] is ready
    await survives(local, store, scribe)


async def test_no_room_at_the_start(local: LocalMaker) -> None:
    path = local.directory / "s.db"
    relent = local.disk.refuse("make", NO_ROOM)
    with pytest.raises(StartError, match=r"No space left on device: no log can be made in .*s\.db\.log, which takes"):
        await local.at(path).open()
    relent()
    assert list(local.directory.iterdir()) == []
    assert (await local.at(path).open()).commit == 0


async def test_no_room_for_the_next_segment(local: LocalMaker) -> None:
    """Refused while there is none, and taken again without a restart when there is."""
    store, scribe = await opened(local)
    relent = local.disk.refuse("make", NO_ROOM)
    scribe.create(1, session_state=padding(40_000))
    await scribe.commit()
    scribe.create(2, session_state=padding(10_000))  # it still has room in this segment
    await scribe.commit()
    assert [e["error"] for e in local.log.named("log_preparation_failed")] == [
        "writing the log: [Errno 28] No space left on device"
    ]
    for n in (3, 4):
        scribe.create(n, session_state=padding(40_000))
        await fails(scribe, "No space left")
        await scribe.check([session_key("", f"session_{n}_1756549800_{n * 7919}")])
    relent()
    scribe.create(5, session_state=padding(40_000))
    await scribe.commit()
    await survives(local, store, scribe, 3, 4)


async def test_half_a_segment_is_none(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk becomes full while the zeros are written: nothing is left of them."""
    store, scribe = await opened(local)
    scribe.create(1, session_state=padding(40_000))
    written: list[int] = []

    def full(operation: str, fd: int, data: bytes = b"", offset: int = 0) -> None:
        if operation == "write_at" and not bytes(data).strip(b"\0"):
            written.append(offset)
            raise NO_ROOM

    local.disk.faults.append(full)
    await scribe.commit()
    assert store._journal is not None
    assert store._journal._next is not None
    with pytest.raises(StorageError):
        await store._journal._next
    local.disk.faults.clear()
    assert written == [0]
    assert [p.name for p in files_of(store.path)] == ["0000000001.log"]
    assert len(list(segments.directory_of(store.path).iterdir())) == 1
    scribe.create(2, session_state=padding(40_000))
    await scribe.commit()
    await survives(local, store, scribe)


async def test_an_entry_that_is_larger_than_a_segment_gets_its_own(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    s = scribe.create(1)
    await scribe.commit()
    for size in (300_000, 10, 1_000_000, 30_000):
        scribe.update(s, padding(size), replaces=True)
        await scribe.commit()
    assert max(file.stat().st_size for file in files_of(store.path)) >= 1_000_000
    await survives(local, store, scribe)
    assert [c async for c in store.log(0)] == scribe.commits


async def test_a_commit_does_not_wait_for_the_next_segment(local: LocalMaker) -> None:
    """It was made ready before."""
    store, scribe = await opened(local)
    made: list[str] = []
    local.disk.faults.append(lambda operation, *_: made.append(operation) if operation == "make" else None)
    s = scribe.create(1)
    await scribe.commit()
    for n in range(12):
        scribe.update(s, padding(9_000), replaces=True)
        await scribe.commit()
        assert store._journal is not None
        if store._journal._next is not None:
            await store._journal._next
        assert len(made) == len(files_of(store.path)) - 1
        assert len(entries_of(store.path)) == n + 2
    assert len(made) >= 2


# Retention.


async def test_the_log_is_kept_for_a_while(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    store.limits = Limits(interval=3600.0, log_retention=100)
    s = scribe.create(1)
    await scribe.commit()
    for _ in range(9):
        local.clock.now += 20_000
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
    await asyncio.wait_for(store.flush(), 10)
    kept = [e.number for e in entries_of(store.path)]
    assert kept == list(range(kept[0], 11))
    assert 3 <= kept[0] <= 5  # 180 seconds, of which the last 100 are kept, by whole segments
    local.clock.now += 200_000
    await store.flush()
    assert [e.number for e in entries_of(store.path)] == [10]
    spares = [p.name for p in segments.directory_of(store.path).iterdir() if p.name.startswith("spare")]
    assert len(spares) == 1  # for the next one; the others are removed
    scribe.update(s, padding(40_000), replaces=True)
    await scribe.commit()
    await survives(local, store, scribe)


async def test_the_log_is_bounded_in_bytes(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    store.limits = Limits(interval=3600.0, log_limit=5 * 2**16)
    s = scribe.create(1)
    await scribe.commit()
    for n in range(40):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
        if n % 4 == 3:
            await store.flush()
            assert sum(file.stat().st_size for file in files_of(store.path)) <= 6 * 2**16  # and a prepared one
    await survives(local, store, scribe)


async def test_what_the_tables_do_not_have_is_kept_whatever_it_takes(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    store.limits = Limits(interval=3600.0, log_limit=0, log_retention=0)
    s = scribe.create(1)
    await scribe.commit()
    await store.flush()
    for _ in range(12):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
    assert store._journal is not None
    assert store._behind is not None
    await store._behind._tidy()
    assert [e.number for e in entries_of(store.path)][-12:] == list(range(2, 14))
    await survives(local, store, scribe)


# Limits of what is not in the tables.


@pytest.mark.parametrize("limits", [Limits(interval=3600.0, journal_limit=100_000), Limits(3600, 200_000, 3600.0)])
async def test_commits_wait_when_there_is_too_much(local: LocalMaker, limits: Limits) -> None:
    store, scribe = await opened(local)
    store.limits = Limits(interval=3600.0, journal_limit=limits.journal_limit, memory_limit=200_000)
    for n in range(1, 80):
        scribe.create(n, session_state=padding(9_000))
        await scribe.commit()
        assert store.usage().behind <= 110_000
    await survives(local, store, scribe)


async def test_commits_are_refused_when_the_tables_cannot_be_written(local: LocalMaker) -> None:
    """They do not wait for ever."""
    store, scribe = await opened(local)
    store.limits = Limits(interval=3600.0, journal_limit=50_000)
    connection = store._tables._connection
    assert connection is not None
    ((pages,),) = await connection.execute_fetchall("PRAGMA page_count")
    await connection.execute(f"PRAGMA max_page_count = {pages}")
    count = 1
    scribe.create(count, session_state=padding(9_000))
    while store.usage().behind < 75_000:  # half as much again: no round was finished since the start
        await scribe.commit()
        count += 1
        scribe.create(count, session_state=padding(9_000))
    with pytest.raises(StorageError, match="full"):
        await scribe.commit()
    assert len(local.log.named("write_behind_failed")) >= 1
    scribe._begin()
    await scribe.check([session_key("", f"session_{count}_1756549800_{count * 7919}")])
    with pytest.raises(StorageError, match="full"):
        await store.flush()
    await connection.execute("PRAGMA max_page_count = 100000")
    scribe.create(30)
    await scribe.commit()
    await store.flush()
    await scribe.check()
    await survives(local, store, scribe)


# Durability "normal".


async def test_normal_durability_syncs_before_the_tables_are_written(local: LocalMaker) -> None:
    store, scribe = await opened(local, durability="normal")
    synced: list[str] = []
    local.disk.faults.append(lambda operation, *_: synced.append(operation) if operation == "sync" else None)
    for n in range(1, 4):
        scribe.create(n)
        await scribe.commit()
    assert synced == []
    await store.flush()
    assert synced == ["sync"]
    assert {e.synced for e in entries_of(store.path)} == {0}
    scribe.create(4)
    await scribe.commit()
    assert entries_of(store.path)[-1].synced == 3


async def test_a_row_never_tells_of_a_commit_that_the_log_may_lose(local: LocalMaker) -> None:
    store, scribe = await opened(local, durability="normal")
    scribe.create(1)
    await scribe.commit()
    relent = local.disk.refuse("sync", IO_ERROR)
    with pytest.raises(StorageError, match="Input/output error"):
        await store.flush()
    assert (await store._reader.fetch("SELECT count(*) FROM sessions", ())) == [(0,)]
    scribe.create(2)
    await scribe.commit()
    relent()
    written: list[tuple[int, int]] = []

    def note(operation: str, fd: int, data: bytes = b"", offset: int = 0) -> None:
        if operation == "write_at":
            written.append((offset, len(data)))

    local.disk.faults.append(note)
    await store.flush()
    end = entries_of(store.path)[-1].end
    assert written == [(segments.START, end - segments.START)]  # the system has forgotten what it could not write
    await survives(local, store, scribe)


async def test_segments_that_were_left_are_synced_too(local: LocalMaker) -> None:
    store, scribe = await opened(local, durability="normal")
    s = scribe.create(1)
    await scribe.commit()
    for _ in range(5):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
    synced: list[int] = []

    def note(operation: str, fd: int, *_: object) -> None:
        if operation == "sync":
            synced.append(os.fstat(fd).st_ino)

    local.disk.faults.append(note)
    assert store._journal is not None
    await store._journal.sync()
    used = {e.path.stat().st_ino for e in entries_of(store.path)}
    assert set(synced) >= used
    await survives(local, store, scribe)


async def test_a_segment_that_is_left_while_it_is_synced(local: LocalMaker) -> None:
    """What was written behind the sync's beginning is synced with the next one."""
    store, scribe = await opened(local, durability="normal")
    s = scribe.create(1)
    await scribe.commit()
    begun, go_on = threading.Event(), threading.Event()

    def slow(operation: str, *_: object) -> None:
        if operation == "sync":
            local.disk.faults.clear()
            begun.set()
            assert go_on.wait(10)

    assert store._journal is not None
    scribe.update(s, padding(30_000), replaces=True)
    await scribe.commit()
    if store._journal._next is not None:
        await store._journal._next
    local.disk.faults.append(slow)
    syncing = asyncio.ensure_future(store._journal.sync())
    await asyncio.to_thread(begun.wait, 10)
    for _ in range(2):
        scribe.update(s, padding(30_000), replaces=True)
        await scribe.commit()
    assert len({e.path for e in entries_of(store.path)}) == 2
    go_on.set()
    await syncing
    assert store._journal.synced == 2
    await store._journal.sync()
    assert store._journal.synced == scribe.last
    assert not store._journal._unsynced
    await survives(local, store, scribe)


async def test_a_fault_does_not_end_the_rounds(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    with monkeypatch.context() as patched:
        patched.setattr(store._tables, "execute", lambda statement: 1 / 0)
        with pytest.raises(StorageError, match="fault"):
            await store.flush()
    assert local.log.named("write_behind_fault")
    await store.flush()
    assert store.usage().behind == 0


# Who waits for the disk.


def test_the_pace_of_the_disk() -> None:
    pace = Pace()
    for _ in range(FIRST_TRUST):
        assert not pace.on_loop
        pace.note(FAST_SECONDS / 5)
    assert pace.on_loop
    pace.note(SLOW_SECONDS * 1.1)
    assert not pace.on_loop
    count = 0
    while not pace.on_loop:
        pace.note(FAST_SECONDS / 5)
        count += 1
    assert count >= 2 * FIRST_TRUST
    for _ in range(100):  # slow, but not once very slow
        pace.note(FAST_SECONDS * 3)
    assert not pace.on_loop
    for _ in range(10_000):
        pace.note(FAST_SECONDS * 3)
    assert not pace.on_loop
    for _ in range(LEAST_TRUST * 40):
        pace.note(FAST_SECONDS / 5)
    assert pace.on_loop


@pytest.mark.parametrize(("seconds", "on_loop"), [(FAST_SECONDS / 5, True), (FAST_SECONDS * 3, False)])
async def test_a_slow_disk_does_not_stop_the_loop(local: LocalMaker, seconds: float, on_loop: bool) -> None:
    _, scribe = await opened(local)
    s = scribe.create(1)
    await scribe.commit()
    now = 0.0
    threads: list[bool] = []

    def time_passes(operation: str, *_: object) -> None:
        nonlocal now
        if operation == "sync":
            now += seconds
            threads.append(threading.current_thread() is threading.main_thread())

    local.disk.faults.append(time_passes)
    local.disk.clock = lambda: now  # type: ignore[method-assign, assignment]
    for _ in range(FIRST_TRUST + 2):
        scribe.update(s)
        await scribe.commit()
    assert threads[0] is False
    assert threads[-1] is on_loop


async def test_a_commit_that_is_too_large_is_refused(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store, scribe = await opened(local)
    s = scribe.create(1)
    await scribe.commit()
    monkeypatch.setattr(log_module, "MAX_PAYLOAD", 1000)
    record = Updated(s.key, 2, 0, "", 1, 2, True, padding(2000))
    with pytest.raises(StorageError, match="too large"):
        await store.commit(Batch(2, [record], {s.key: s}, {}))


# A disk that is too small for what would be kept.


def small(local: LocalMaker, monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """Segments of 64 to 512 KiB on a disk with `room` for so many bytes of log; the sizes that were tried."""
    monkeypatch.setattr(segments, "LARGEST", 2**19)
    tried: list[int] = []

    def full(operation: str, *arguments: Any) -> None:
        if operation == "make":
            path, size = arguments
            tried.append(size)
            if sum(file.stat().st_size for file in path.parent.iterdir()) + size > room:
                raise NO_ROOM

    local.disk.faults.append(full)
    return tried


async def test_a_smaller_segment_where_there_is_no_room_for_a_large_one(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = small(local, monkeypatch, 5 * 2**16)
    store, scribe = await opened(local)
    s = scribe.create(1)
    for n in range(7):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
        assert store._journal is not None
        if store._journal._next is not None:
            await asyncio.wait([store._journal._next])
        assert store._journal.is_cramped == (n >= 2)
    assert tried[:4] == [2**16, 2**17, 2**18, 2**17]
    await survives(local, store, scribe)


async def test_a_segment_leaves_as_much_room_as_it_takes(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the tables; where it does not, what the log has goes there before there is none left."""
    monkeypatch.setattr(segments, "LARGEST", 2**19)
    monkeypatch.setattr(writebehind, "CRAMPED", 30_000)
    local.disk.free = lambda directory: 3 * 2**17  # type: ignore[method-assign, assignment]
    store, scribe = await opened(local)
    s = scribe.create(1)
    for _ in range(3):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
        assert store._journal is not None
        assert store._behind is not None
        assert store._behind.is_due() == store._journal.is_cramped
        if store._journal._next is not None:
            await store._journal._next
    assert [file.stat().st_size for file in files_of(store.path)] == [2**16, 2**17, 2**17]
    assert store._journal is not None
    assert store._journal.is_cramped
    assert store._behind is not None
    assert store._behind.is_due()


async def test_a_small_disk_is_not_filled_by_what_is_kept(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit is refused: what the tables have gives way, whatever the settings would have kept."""
    room = 2**20
    small(local, monkeypatch, room)
    store, scribe = await opened(local)
    s = scribe.create(1)
    for _ in range(60):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
        assert store.usage().disk < room + 10 * 2**20
    assert len(local.log.named("log_given_up")) == 1
    await survives(local, store, scribe)
    local.disk.faults.clear()
    before = len(files_of(store.path))
    for _ in range(60):  # there is room again, and it is kept again
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
        await store.flush()
    assert len(files_of(store.path)) > before + 3


async def test_what_is_kept_gives_way_to_the_tables(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    s = scribe.create(1)
    for _ in range(9):
        scribe.update(s, padding(40_000), replaces=True)
        await scribe.commit()
    await store.flush()
    assert len(files_of(store.path)) >= 9
    connection = store._tables._connection
    assert connection is not None
    ((pages,),) = await connection.execute_fetchall("PRAGMA page_count")
    await connection.execute(f"PRAGMA max_page_count = {pages}")
    scribe.create(2, session_state=padding(40_000))
    await scribe.commit()
    for _ in range(2):
        with pytest.raises(StorageError, match="full"):
            await store.flush()
    assert [e.number for e in entries_of(store.path)] == [10]
    assert segments.spare_bytes(segments.directory_of(store.path)) == 0
    await connection.execute("PRAGMA max_page_count = 100000")
    await store.flush()
    await survives(local, store, scribe)
