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

from stui_sessions.domain.entities import Damaged, Session, session_key
from stui_sessions.domain.finding import Due, DueFound
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage import rows
from stui_sessions.storage.border import is_damage, is_medium, translate
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.local import LocalStore, lookup, schema, statements, tables
from stui_sessions.storage.local.statements import chunked, in_list, padded, upsert, upsert_entities
from stui_sessions.storage.local.tables import CHECKPOINT_AFTER, WAL_KEEP
from tests.storage.stores import T0, LocalMaker, Scribe


async def opened(local: LocalMaker) -> tuple[LocalStore, Scribe]:
    store = local.at(local.directory / "s.db")
    return store, Scribe(store, (await store.open()).commit)


async def pragma(store: LocalStore, name: str) -> Any:
    connection = store._tables._connection
    assert connection is not None
    found = list(await connection.execute_fetchall(f"PRAGMA {name}"))
    return found[0][0]


def edit(path: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount > 0


# Settings of the connections.


async def test_notes_are_synced_and_nothing_else_is(local: LocalMaker) -> None:
    """The log has what the tables may lose; the end of a round makes all of it durable."""
    store, scribe = await opened(local)
    connection = store._tables._connection
    assert connection is not None
    seen: list[str] = []
    await connection.set_trace_callback(seen.append)
    await store.note_uncertain(T0)
    scribe.create(1, client_id="")
    await scribe.commit()
    assert len(seen) == 3
    await store.flush()
    assert [s.split(" (")[0].split(" SET")[0] for s in seen] == [
        *("PRAGMA synchronous = FULL", "INSERT INTO meta", "PRAGMA synchronous = NORMAL"),
        "INSERT INTO sessions",
        *("PRAGMA synchronous = FULL", "INSERT INTO meta", "PRAGMA synchronous = NORMAL"),
    ]
    assert await pragma(store, "synchronous") == 1


async def test_two_notes_at_once_are_both_synced(local: LocalMaker) -> None:
    store, _ = await opened(local)
    connection = store._tables._connection
    assert connection is not None
    seen: list[str] = []
    await connection.set_trace_callback(seen.append)
    await asyncio.gather(store.note_uncertain(T0), store.note_uncertain(T0 + 1))
    one = ["PRAGMA synchronous = FULL", "INSERT INTO meta", "PRAGMA synchronous = NORMAL"]
    assert [s.split(" (")[0] for s in seen] == one * 2


async def test_the_writing_connection(local: LocalMaker) -> None:
    store, _ = await opened(local)
    assert await pragma(store, "journal_mode") == "wal"
    assert await pragma(store, "wal_autocheckpoint") == 0
    assert await pragma(store, "temp_store") == 2
    assert await pragma(store, "secure_delete") == 0
    assert await pragma(store, "journal_size_limit") == WAL_KEEP
    assert await pragma(store, "application_id") == 0x53545549
    assert await pragma(store, "user_version") == schema.SCHEMA_VERSION


async def test_the_reading_connection_cannot_write(local: LocalMaker) -> None:
    store, _ = await opened(local)
    with pytest.raises(StorageError, match="readonly"):
        await store._reader.fetch("DELETE FROM meta", ())


async def test_nothing_of_the_driver_is_logged(local: LocalMaker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        store, scribe = await opened(local)
        scribe.create(1)
        await scribe.commit()
        await store.flush()
    assert not [r for r in caplog.records if r.name == "aiosqlite"]


# Plans: every statement uses the index that was made for it.


@pytest.mark.parametrize("count", [1, 4, 256])
@pytest.mark.parametrize(
    ("sql", "plan"),
    [
        (lookup.LOAD, "USING INDEX sessions_by_id (tenant=? AND session_id=?)"),
        (lookup.LOAD_BY_NUMBER, "USING INTEGER PRIMARY KEY (rowid=?)"),
        (statements.REMOVE, "USING INTEGER PRIMARY KEY (rowid=?)"),
    ],
)
async def test_plans_of_lists(local: LocalMaker, sql: str, plan: str, count: int) -> None:
    store, _ = await opened(local)
    assert await plans(store, in_list(sql, count)) == [f"SEARCH sessions {plan}"]


@pytest.mark.parametrize("count", [1, 4, 256])
async def test_plans_of_entities(local: LocalMaker, count: int) -> None:
    store, _ = await opened(local)
    search = "SEARCH entities USING PRIMARY KEY (tenant=? AND kind=? AND id=?)"
    assert await plans(store, in_list(lookup.LOAD_ENTITIES, count)) == [search]
    assert await plans(store, in_list(statements.REMOVE_ENTITIES, count)) == [search]


async def plans(store: LocalStore, sql: str) -> list[str]:
    steps = await store._reader.fetch(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
    return [step[3].decode() for step in steps]


def test_few_different_statements() -> None:
    assert {len(padded([1] * n)) for n in range(1, 257)} == {1, 4, 16, 64, 256}
    assert upsert(4, moving=True).count("?") == 4 * 16 + 1
    assert upsert_entities(4).count("?") == 4 * 7


def test_rows_are_cut_by_number_and_bytes() -> None:
    scribe = Scribe(None)  # type: ignore[arg-type]
    small = [rows.encode_session(scribe.create(n)) for n in range(150)]
    assert [len(c) for c in chunked(small)] == [64, 64, 22]
    large = [rows.encode_session(scribe.create(n, session_state=bytes(400_000))) for n in range(5)]
    huge = rows.encode_session(scribe.create(9, session_state=bytes(5_000_000)))
    assert [len(c) for c in chunked([*large, huge, *small[:3]])] == [3, 3, 3]
    assert list(chunked([])) == []


# The write-ahead log.


def log_size(store: LocalStore) -> int:
    return Path(f"{store.path}-wal").stat().st_size


async def test_the_write_ahead_log_stays_small(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    for number in range(1, 61):
        scribe.create(number, session_state=b"x" * 400_000)
        await scribe.commit()
        await store.flush()
        assert log_size(store) < CHECKPOINT_AFTER + 3_000_000
    scribe.create(61, session_state=b"x" * 40_000_000)
    await scribe.commit()
    await store.flush()
    assert log_size(store) >= WAL_KEEP
    scribe.create(62, session_state=b"x" * 400_000)
    await scribe.commit()
    await store.flush()
    assert log_size(store) <= WAL_KEEP


async def test_a_checkpoint_that_fails_is_logged_and_tried_again(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    with no_room():
        await store._tables._checkpoint("PASSIVE")
    assert [e["error"] for e in local.log.named("checkpoint_failed")] == ["disk I/O error"]
    scribe.create(1)
    await scribe.commit()
    await store.close(clean=True)
    assert len(local.log.named("checkpoint_failed")) == 1


async def test_a_reader_in_the_way_of_a_checkpoint(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    with closing(schema.connect(store.path, "ro")) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM meta").fetchall()
        for number in range(1, 5):
            scribe.create(number, session_state=b"x" * CHECKPOINT_AFTER)
            await scribe.commit()
            await store.flush()
    assert log_size(store) > WAL_KEEP
    for number in range(5, 7):
        scribe.create(number, session_state=b"x" * CHECKPOINT_AFTER)
        await scribe.commit()
        await store.flush()
    assert log_size(store) <= WAL_KEEP


# Damage.


async def with_sessions(local: LocalMaker, count: int, **changes: Any) -> Scribe:
    store, scribe = await opened(local)
    for n in range(1, count + 1):
        scribe.create(n, **changes)
    await scribe.commit()
    await store.close(clean=True)
    return scribe


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
async def test_a_damaged_row_is_lost_alone(local: LocalMaker, sql: str) -> None:
    scribe = await with_sessions(local, 3)
    edit(local.directory / "s.db", sql)
    store, _ = await opened(local)
    one, two, three = (scribe.session(n) for n in (1, 2, 3))
    found = await store.read([one.key, two.key, three.key])
    assert found == {one.key: one, two.key: Damaged(two.key), three.key: three}
    (event,) = local.log.named("session_damaged")
    assert event == {"number": 77 if "77" in sql else 2}


ENTITIES = [
    "UPDATE entities SET data = 'text' WHERE kind = 'owner'",
    "UPDATE entities SET version = version + 1 WHERE kind = 'owner'",
    "UPDATE entities SET \"commit\" = 77 WHERE kind = 'owner'",
    "UPDATE entities SET crc = 'x' WHERE kind = 'owner'",
]


@pytest.mark.parametrize("sql", ENTITIES)
async def test_a_damaged_owner_is_lost_alone(local: LocalMaker, sql: str) -> None:
    await with_sessions(local, 1)
    edit(local.directory / "s.db", sql)
    store, _ = await opened(local)
    key = ("", "owner", "\0client1")
    assert await store.read([key]) == {key: Damaged(key)}
    assert local.log.named("owner_damaged")


def damage_middle_page(path: Path) -> None:
    """Of the table: the row of session 30, or the one before or after, is on it."""
    data = bytearray(path.read_bytes())
    page = data.index(b"session_30_1756549800_237570client0") // 4096 * 4096
    data[page : page + 100] = b"\x55" * 100
    path.write_bytes(data)


async def test_a_damaged_page_is_lost_alone(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses the page; who is on it is found by asking one by one."""
    scribe = await with_sessions(local, 60, session_state=b"x" * 1500)
    damage_middle_page(local.directory / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store, _ = await opened(local)
    keys = [s.key for s in scribe.sessions()]
    found = await store.read(keys)
    damaged = [key for key in keys if isinstance(found[key], Damaged)]
    assert 1 <= len(damaged) <= 3
    assert all(isinstance(found[key], Session) for key in keys if key not in damaged)
    assert len(local.log.named("session_unreadable")) == len(damaged)
    assert not any(key[2] in repr(local.log.events) for key in keys)
    with pytest.raises(StorageDamaged):
        await store.check()


async def test_damage_found_by_writing_stops_the_writing(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    scribe = await with_sessions(local, 60, session_state=b'{"x":"%s"}' % (b"x" * 1500))
    damage_middle_page(local.directory / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store, _ = await opened(local)
    scribe.store = store
    for n in range(1, 61):
        scribe.update(scribe.session(n))
    batch = scribe.batch()
    batch.expected = {}  # else those that are damaged would stop it
    await store.commit(batch)
    with pytest.raises(StorageDamaged):
        await store.flush()
    with pytest.raises(StorageDamaged):
        await store.commit(Batch(3, [], {}, {}))
    before = store.path.read_bytes()
    await store.close(clean=True)
    assert store.path.read_bytes() == before


async def test_a_damaged_id_is_due_and_not_found(local: LocalMaker) -> None:
    await with_sessions(local, 2)
    edit(local.directory / "s.db", "UPDATE sessions SET session_id = x'61ff' WHERE number = 1")
    store, _ = await opened(local)
    answer = await store.query(Due(0, 2**62, (0, 0), 9), T0)
    assert isinstance(answer, DueFound)
    assert {d.key[2] for d in answer.due} == {"a\ufffd", "session_2_1756549800_15838"}


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


async def test_after_an_io_error_it_goes_on(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    key = session_key("", "x")
    with no_room():
        for _ in range(3):
            scribe.create(99)
            with pytest.raises(StorageError) as caught:
                await store.commit(scribe.batch())
            assert not isinstance(caught.value, StorageDamaged)
            with pytest.raises(StorageError):
                await store.flush()
            await scribe.check([key])
    scribe.create(2)
    await scribe.commit()
    await store.flush()
    assert local.log.named("database_reopened")
    scribe.store = crashed = await local.crashed(store)
    await crashed.open()
    await scribe.check([session_key("", "session_99_1756549800_783981")])


async def test_closing_on_a_disk_that_refuses(local: LocalMaker) -> None:
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    with no_room(), pytest.raises(StorageError):
        await store.close(clean=True)
    scribe.store = again = local.at(store.path)  # the lock is free
    assert not (await again.open()).clean
    await scribe.check()


# Cancelled calls and other orders.


async def test_a_cancelled_shrinking_waits_for_locks_again(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WAL_KEEP", 0)
    store, _ = await opened(local)
    begun, checkpoint = asyncio.Event(), store._tables._checkpoint

    async def endless(mode: str) -> None:
        if mode == "TRUNCATE":
            begun.set()
            await asyncio.get_running_loop().create_future()

    store._tables._checkpoint = endless  # type: ignore[method-assign]
    shrinking = asyncio.ensure_future(store._tables.shrink())
    await begun.wait()
    assert await pragma(store, "busy_timeout") == 0
    shrinking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shrinking
    assert await pragma(store, "busy_timeout") == schema.BUSY_MS
    store._tables._checkpoint = checkpoint  # type: ignore[method-assign]


async def test_a_cancelled_check_ends_its_query(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store, _ = await opened(local)
    task = asyncio.ensure_future(store.check())
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_no_thread_is_left(local: LocalMaker) -> None:
    before = set(threading.enumerate())
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    await store.flush()
    await store.close(clean=True)
    left = [t for t in threading.enumerate() if t not in before and not t.name.startswith("asyncio_")]
    for thread in left:  # on its way out
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


# Rows of which the indexes need not move.


async def test_a_session_in_use_keeps_its_place_until_that_has_come(local: LocalMaker) -> None:
    store, scribe = await opened(local)

    async def due() -> list[int]:
        await store.flush()
        answer = await store.query(Due(0, 2**62, (0, 0), 9), T0)
        assert isinstance(answer, DueFound)
        return [d.due_at for d in answer.due]

    scribe.create(1, active_at=T0, timeout=60)
    await scribe.commit()
    assert await due() == [T0 + 60_000]
    scribe.at = T0 + 30_000
    scribe.use(scribe.session(1))
    await scribe.commit()
    assert await due() == [T0 + 60_000]
    await scribe.check()
    local.clock.now = scribe.at = T0 + 60_000
    scribe.use(scribe.session(1))
    await scribe.commit()
    assert await due() == [T0 + 120_000]


async def test_a_number_that_was_never_given_is_not_looked_for(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import asks for very many: each look-up in vain takes a way to the thread and back."""
    store, scribe = await opened(local)
    scribe.create(1, session_id="session_1_7_a")
    await scribe.commit()
    await store.flush()
    fetch, asked = store._reader.fetch, []

    async def noted(sql: str, parameters: Any) -> Any:
        asked.append("number" if "number IN" in sql else "id")
        return await fetch(sql, parameters)

    monkeypatch.setattr(store._reader, "fetch", noted)
    for session_id, looked_for in (("session_1_7_a", ["number"]), ("session_2_7_a", ["id"])):
        await store.read([session_key("", session_id)])
        assert asked == looked_for
        asked.clear()


async def test_damage_that_is_met_again_and_again_keeps_nothing_in_memory(local: LocalMaker) -> None:
    """An exception that is raised again keeps all the frames that it passed, and what these hold."""
    store, scribe = await opened(local)
    scribe.create(1)
    await scribe.commit()
    damage = store._tables.damage = StorageDamaged("broken")
    for _ in range(2):
        with pytest.raises(StorageDamaged, match="broken"):
            await store.flush()
        with pytest.raises(StorageDamaged, match="broken"):
            await store.commit(Batch(2, [], {}, {}))
    assert damage.__traceback__ is None
