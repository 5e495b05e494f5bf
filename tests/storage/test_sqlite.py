"""What is SQLite's own: pragmas, plans, damage, a disk that refuses, cancelled calls."""

import asyncio
import logging
import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.sessions.model import Created, Removed, Totals, Updated, Used
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage import reader, rows, schema
from stui_sessions.storage import sqlite as sqlite_store
from stui_sessions.storage.base import Stored
from stui_sessions.storage.border import is_damage, is_medium, translate
from stui_sessions.storage.sqlite import PIECE_ROWS, SqliteStore, chunked, upsert
from stui_sessions.storage.writer import CHECKPOINT_AFTER, WAL_KEEP, Durability
from tests.storage.stores import NONE, T0, SqliteMaker, session


async def opened(sqlite: SqliteMaker, durability: Durability = "full") -> SqliteStore:
    store = sqlite.at(sqlite.directory / "s.db", durability)
    await store.open()
    return store


async def pragma(store: SqliteStore, name: str) -> Any:
    connection = store._writer._connection
    assert connection is not None
    found = list(await connection.execute_fetchall(f"PRAGMA {name}"))
    return found[0][0]


def edit(path: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount > 0


# Settings of the connections.


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
async def test_durability(sqlite: SqliteMaker, durability: Durability, synchronous: int) -> None:
    store = await opened(sqlite, durability)
    assert await pragma(store, "synchronous") == synchronous
    await store.mark_unclean(T0)
    await store.commit(1, [], NONE)
    assert await pragma(store, "synchronous") == synchronous


async def test_notes_are_synced_whatever_the_durability(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(sqlite, "normal")
    connection = store._writer._connection
    assert connection is not None
    seen: list[str] = []
    await connection.set_trace_callback(seen.append)
    await store.mark_unclean(T0)
    assert [s.split(" (")[0] for s in seen] == [
        "PRAGMA synchronous = FULL",
        "INSERT INTO meta",
        "PRAGMA synchronous = NORMAL",
    ]


async def test_the_writing_connection(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    assert await pragma(store, "journal_mode") == "wal"
    assert await pragma(store, "wal_autocheckpoint") == 0
    assert await pragma(store, "temp_store") == 2
    assert await pragma(store, "secure_delete") == 0
    assert await pragma(store, "journal_size_limit") == WAL_KEEP
    assert await pragma(store, "application_id") == 0x53545549
    assert await pragma(store, "user_version") == schema.SCHEMA_VERSION


async def test_the_reading_connection_cannot_write(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    with pytest.raises(StorageError, match="readonly"):
        await store._reader.fetch("DELETE FROM journal", ())


async def test_nothing_of_the_driver_is_logged(sqlite: SqliteMaker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        store = await opened(sqlite)
        await store.commit(1, [Created(session(1))], NONE)
    assert not [r for r in caplog.records if r.name == "aiosqlite"]


# Plans: every statement uses the index that was made for it.


@pytest.mark.parametrize("count", [1, 4, 256])
@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        (reader._LOAD, "USING INDEX sessions_by_id (tenant=? AND session_id=?)"),
        (reader._LOAD_BY_NUMBER, "USING INTEGER PRIMARY KEY (rowid=?)"),
        (sqlite_store._REMOVE, "USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
async def test_plans_of_lists(sqlite: SqliteMaker, sql: str, plan: str, count: int) -> None:
    assert await plans(await opened(sqlite), reader.in_list(sql, count)) == [f"SEARCH sessions {plan}"]


async def test_other_plans(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    by_due = "SEARCH sessions USING INDEX sessions_by_due (status=? AND due_at>? AND due_at<?)"
    assert await plans(store, reader._DUE) == [by_due]  # and no sorting
    assert await plans(store, sqlite_store._FORGET) == ["SEARCH journal USING INTEGER PRIMARY KEY (rowid<?)"]


async def plans(store: SqliteStore, sql: str) -> list[str]:
    steps = await store._reader.fetch(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
    return [step[3].decode() for step in steps]


def test_few_different_statements() -> None:
    assert {len(reader.padded([1] * n)) for n in range(1, 257)} == {1, 4, 16, 64, 256}
    assert upsert(4, moving=True).count("?") == 4 * 15 + 1


def test_snapshots_are_cut_by_rows_and_bytes() -> None:
    small = [rows.encode_session(1, session(n)) for n in range(600)]
    assert [len(c) for c in chunked(small)] == [256, 256, 88]
    large = [rows.encode_session(1, session(n, session_state=bytes(400_000))) for n in range(5)]
    huge = rows.encode_session(1, session(9, session_state=bytes(5_000_000)))
    assert [len(c) for c in chunked([*large, huge, *small[:3]])] == [2, 2, 1, 1, 3]
    assert list(chunked([])) == []


# The journal's pieces and the write-ahead log.


async def test_forget_works_in_pieces(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite, "normal")
    count = PIECE_ROWS * 2 + 100
    for number in range(1, count + 1):
        await store.commit(number, [Used(1, T0)], NONE)
    left = []
    while await store.forget(count - 50):
        left.append((await store._reader.fetch("SELECT count(*), min(sequence) FROM journal", ()))[0])
    assert left == [(PIECE_ROWS + 100, PIECE_ROWS + 1), (100, 2 * PIECE_ROWS + 1), (50, count - 49)]
    assert await store.forget(count)
    assert not await store.forget(count)
    assert await store._reader.fetch("SELECT sequence FROM journal", ()) == [(count,)]


def log_size(store: SqliteStore) -> int:
    return Path(f"{store.path}-wal").stat().st_size


async def test_the_write_ahead_log_stays_small(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite, "normal")
    state = b"x" * 400_000
    for number in range(1, 61):
        await store.commit(number, [Updated(1, number, T0, state, None, None, None)], NONE)
    assert log_size(store) < CHECKPOINT_AFTER + 3_000_000
    assert store._writer._unmerged < CHECKPOINT_AFTER
    await store.commit(61, [Updated(1, 1, T0, b"x" * 40_000_000, None, None, None)], NONE)
    assert log_size(store) > 40_000_000
    for number in range(62, 64):
        await store.commit(number, [Used(1, T0)], NONE)
    assert log_size(store) <= WAL_KEEP


async def test_a_checkpoint_that_fails_is_logged_and_tried_again(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite, "normal")
    state = b"x" * (CHECKPOINT_AFTER // 2)
    with no_room():
        await store._writer._checkpoint("PASSIVE")
    assert [e["error"] for e in sqlite.log.named("checkpoint_failed")] == ["disk I/O error"]
    for number in range(1, 4):
        await store.commit(number, [Updated(1, 1, T0, state, None, None, None)], NONE)
    await store.close(clean=True)
    assert len(sqlite.log.named("checkpoint_failed")) == 1


async def test_a_reader_in_the_way_of_a_checkpoint(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite, "normal")
    with closing(schema.connect(store.path, "ro")) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM journal").fetchall()
        for number in range(1, 5):
            await store.commit(number, [Updated(1, 1, T0, b"x" * CHECKPOINT_AFTER, None, None, None)], NONE)
            assert store._writer._checkpointing
            await store._writer._checkpointing
    assert log_size(store) > WAL_KEEP
    await store.forget(0)
    await store.commit(5, [], NONE)
    assert log_size(store) <= WAL_KEEP


# Damage.


async def with_sessions(sqlite: SqliteMaker, count: int, **changes: Any) -> SqliteStore:
    store = await opened(sqlite)
    await store.commit(1, [], NONE)
    await store.snapshot(1, [session(n, **changes) for n in range(1, count + 1)])
    await store.close(clean=True)
    return store


BROKEN = [
    "UPDATE sessions SET data = substr(data, 1, 20) || x'ff' || substr(data, 22) WHERE number = 2",
    "UPDATE sessions SET data = 'text' WHERE number = 2",
    "UPDATE sessions SET crc = crc + 1 WHERE number = 2",
    "UPDATE sessions SET sequence = 99 WHERE number = 2",
    "UPDATE sessions SET (crc, data) = (SELECT crc, data FROM sessions WHERE number = 3) WHERE number = 2",
    "UPDATE sessions SET head = 'text' WHERE number = 2",
    "UPDATE sessions SET size = size + 1 WHERE number = 2",
    "UPDATE sessions SET (head_crc, head) = (SELECT head_crc, head FROM sessions WHERE number = 3) WHERE number = 2",
    "UPDATE sessions SET number = 77 WHERE number = 2",
]


@pytest.mark.parametrize("sql", BROKEN)
async def test_a_damaged_row_is_lost_alone(sqlite: SqliteMaker, sql: str) -> None:
    await with_sessions(sqlite, 3)
    edit(sqlite.directory / "s.db", sql)
    store = await opened(sqlite)
    ids = [session(n).session_id for n in (1, 2, 3)]
    found = await store.load(ids)
    assert [found[i].damaged for i in ids] == [False, True, False]
    assert [found[i].session for i in ids] == [session(1), None, session(3)]
    (event,) = sqlite.log.named("session_damaged")
    assert event == {"number": 77 if "77" in sql else 2}


async def test_a_damaged_row_with_journaled_changes_stays_as_it_is(sqlite: SqliteMaker) -> None:
    await with_sessions(sqlite, 3)
    store = await opened(sqlite)
    await store.commit(2, [Used(n, T0 + 5) for n in (1, 2)], Totals(3, 3, 3))
    await store.close(clean=False)
    edit(store.path, BROKEN[0])
    store = sqlite.at(store.path)
    recovered = await store.open()
    assert [p.number for p in recovered.pending] == [1]
    assert sqlite.log.named("session_damaged") == [{"number": 2, "found_by": "replay"}]
    assert (await store.load([session(2).session_id]))[session(2).session_id].damaged


def damage_middle_page(path: Path) -> None:
    """Of the table: the row of session 30, or the one before or after, is on it."""
    data = bytearray(path.read_bytes())
    page = data.index(session(30).session_id.encode() + b"client0") // 4096 * 4096
    data[page : page + 100] = b"\x55" * 100
    path.write_bytes(data)


async def test_a_damaged_page_is_lost_alone(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses the page; who is on it is found by asking one by one."""
    await with_sessions(sqlite, 60, session_state=b"x" * 1500)
    damage_middle_page(sqlite.directory / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store = await opened(sqlite)
    ids = [session(n).session_id for n in range(1, 61)]
    found = await store.load(ids)
    damaged = [i for i in ids if found[i].damaged]
    assert 1 <= len(damaged) <= 3
    assert all(found[i].session for i in ids if i not in damaged)
    assert len(sqlite.log.named("session_unreadable")) == len(damaged)
    assert not any(i in repr(sqlite.log.events) for i in ids)
    with pytest.raises(StorageDamaged):
        await store.check()


async def test_damage_found_by_writing_stops_the_writing(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    await with_sessions(sqlite, 60, session_state=b"x" * 1500)
    damage_middle_page(sqlite.directory / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store = await opened(sqlite)
    await store.commit(2, [], NONE)
    with pytest.raises(StorageDamaged):
        await store.snapshot(2, [session(n) for n in range(1, 61)])
    with pytest.raises(StorageDamaged):
        await store.commit(3, [], NONE)
    before = store.path.read_bytes()
    await store.close(clean=True)
    assert store.path.read_bytes() == before


async def test_a_damaged_id_is_listed_and_not_found(sqlite: SqliteMaker) -> None:
    await with_sessions(sqlite, 2)
    edit(sqlite.directory / "s.db", "UPDATE sessions SET session_id = x'61ff' WHERE number = 1")
    store = await opened(sqlite)
    key = GroupKey("owner", "", "client1")
    assert await store.load_groups([key]) == {key: ["a\N{REPLACEMENT CHARACTER}"]}
    assert {d.session_id for d in await store.due(0, 2**62, (0, 0), 9)} == {"a\ufffd", session(2).session_id}


def test_errors_at_the_border() -> None:
    assert is_damage(sqlite3.DatabaseError("database disk image is malformed"))
    assert is_damage(sqlite3.DatabaseError("file is not a database"))
    assert not is_damage(sqlite3.OperationalError("disk I/O error"))
    assert not is_damage(ValueError("malformed"))
    assert is_medium(OSError(5, "Input/output error"))
    assert not is_medium(sqlite3.OperationalError("database is locked"))
    assert type(translate("writing", OSError("x"))) is StorageError
    assert str(translate("writing", OSError("x"))) == "writing: x"


# A disk that refuses.


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow: an I/O error (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_after_an_io_error_the_next_commit_works(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    await store.commit(1, [Created(session(1))], NONE)
    with no_room():
        for _ in range(3):
            with pytest.raises(StorageError) as caught:
                await store.commit(2, [Created(session(99))], NONE)
            assert not isinstance(caught.value, StorageDamaged)
            with pytest.raises(StorageError):
                await store.snapshot(1, [session(1)])
            assert await store.load(["x"]) == {"x": Stored(None)}
    await store.commit(2, [Created(session(2))], NONE)
    await store.snapshot(2, [session(1)])
    crashed = await sqlite.crashed(store)
    recovered = await crashed.open()
    assert recovered.pending == [session(1), session(2)]
    assert sqlite.log.named("database_reopened")


async def test_after_a_full_disk_the_next_commit_works(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    connection = store._writer._connection
    assert connection is not None
    limit = await pragma(store, "page_count")
    await pragma(store, f"max_page_count = {limit}")
    big = session(9, session_state=bytes(100_000))
    for _ in range(3):
        with pytest.raises(StorageError, match="full"):
            await store.commit(1, [Created(big)], NONE)
        with pytest.raises(StorageError, match="full"):
            await store.snapshot(1, [big])
        assert not connection.in_transaction
    await store.commit(1, [Created(session(1))], NONE)
    await pragma(store, f"max_page_count = {limit + 1000}")
    await store.commit(2, [Created(big)], NONE)
    assert store._writer._connection is connection
    recovered = await (await sqlite.crashed(store)).open()
    assert recovered.pending == [session(1), big]


async def test_closing_on_a_disk_that_refuses(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    await store.commit(1, [Created(session(1))], NONE)
    with no_room(), pytest.raises(StorageError):
        await store.close(clean=True)
    again = sqlite.at(store.path)  # the lock is free
    recovered = await again.open()
    assert not recovered.clean
    assert recovered.pending == [session(1)]


async def test_a_snapshot_that_fails_half_way_can_be_repeated(
    sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "CHUNK_ROWS", 16)
    store = await opened(sqlite)
    await store.commit(1, [], NONE)
    many = [session(n, session_state=bytes(1000)) for n in range(1, 301)]
    await pragma(store, f"max_page_count = {await pragma(store, 'page_count') + 50}")
    with pytest.raises(StorageError, match="full"):
        await store.snapshot(1, many)
    found = await store.load([s.session_id for s in many])
    assert 16 <= sum(stored.session is not None for stored in found.values()) < 300
    await pragma(store, "max_page_count = 100000")
    await store.snapshot(1, [*many, Removed(1000, "x", "c")])
    found = await store.load([s.session_id for s in many])
    assert [found[s.session_id].session for s in many] == many


# Cancelled calls and other orders.


async def test_commits_are_numbered_one_by_one(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    await store.commit(1, [], NONE)
    for number in (0, 1, 3):
        with pytest.raises(ValueError, match="after 1"):
            await store.commit(number, [], NONE)


async def test_a_cancelled_commit_gives_way_to_the_next(sqlite: SqliteMaker) -> None:
    """It still runs; its number is used again, and the later content counts."""
    store = await opened(sqlite)
    commit = asyncio.ensure_future(store.commit(1, [Created(session(1))], NONE))
    await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await store.commit(1, [Created(session(2))], NONE)
    recovered = await (await sqlite.crashed(store)).open()
    assert (recovered.sequence, recovered.pending) == (1, [session(2)])


async def test_a_cancelled_check_ends_its_query(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    started, ended = threading.Event(), threading.Event()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    def check(connection: sqlite3.Connection) -> list[str]:
        started.set()
        try:
            connection.execute(endless).fetchall()
        finally:
            ended.set()
        return []

    monkeypatch.setattr(schema, "quick_check", check)
    store = sqlite.at(sqlite.directory / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    await store.open()
    task = asyncio.ensure_future(store.check())
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_reading_goes_on_beside_writing(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    await store.commit(1, [], NONE)
    await store.snapshot(1, [session(1)])

    async def write() -> None:
        for number in range(2, 60):
            await store.commit(number, [Used(1, T0)], NONE)
            await store.snapshot(number, [session(1, active_at=T0 + number)])
            await store.forget(number)

    writing = asyncio.ensure_future(write())
    seen = []
    while not writing.done():
        found = (await store.load([session(1).session_id]))[session(1).session_id].session
        assert found is not None
        seen.append(found.active_at)
    await writing
    assert seen == sorted(seen)


async def test_no_thread_is_left(sqlite: SqliteMaker) -> None:
    before = set(threading.enumerate())
    store = await opened(sqlite)
    await store.commit(1, [Created(session(1))], NONE)
    await store.close(clean=True)
    left = [t for t in threading.enumerate() if t not in before and not t.name.startswith("asyncio_")]
    for thread in left:  # on its way out
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


# Rows of which the indexes need not move.


async def test_a_session_in_use_keeps_its_place_until_that_has_come(sqlite: SqliteMaker) -> None:
    store = await opened(sqlite)
    await store.commit(1, [], NONE)
    await store.snapshot(1, [session(1, active_at=T0, timeout=60)])
    later = session(1, active_at=T0 + 30_000, timeout=60)
    await store.snapshot(1, [later])
    assert [d.due_at for d in await store.due(0, 2**62, (0, 0), 9)] == [T0 + 60_000]
    assert (await store.load([later.session_id]))[later.session_id].session == later
    sqlite.clock.now = T0 + 60_000
    await store.snapshot(1, [later])
    assert [d.due_at for d in await store.due(0, 2**62, (0, 0), 9)] == [T0 + 90_000]
