"""A database of schema version 1 is brought to the present one, or stays as it was."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from stui_sessions.errors import StartError
from stui_sessions.sessions.finding import Listing, Reference
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, LIVE, Ended, Removed, Reopened, Session, Totals, Used
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage import migration, rows, schema
from stui_sessions.storage.sqlite import SqliteStore
from tests.storage.stores import T0, SqliteMaker, session

VERSION_1 = """
PRAGMA application_id = 1398035785;
PRAGMA user_version = 1;
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT '',
    session_id BLOB NOT NULL,
    client_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX sessions_by_id ON sessions (tenant, session_id);
CREATE INDEX sessions_by_client ON sessions (tenant, client_id) WHERE status = 0;
CREATE INDEX sessions_by_due ON sessions (status, due_at);
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('clean', 1), ('uncertain_until', 77);
"""


def form(s: Session) -> tuple[Any, ...]:
    """A session as version 1 wrote it."""
    return (
        *(s.number, s.session_id, s.client_id, s.created_at, s.modified_at, s.active_at, s.timeout, s.revision),
        *(s.status, s.ended_at, s.session_state, s.workspace_context, s.inspector_state, s.object_registry),
    )


def put(connection: sqlite3.Connection, s: Session, sequence: int = 1) -> None:
    data, key = msgspec.msgpack.encode(form(s)), s.session_id.encode()
    crc = crc32(data, crc32(b"%d %d %b" % (s.number, sequence, key)))
    due = s.ended_at if s.status else s.active_at + 1000 * s.timeout - 5
    row = (s.number, key, s.client_id, s.status, due, s.state_bytes, sequence, crc, data)
    names = "number, session_id, client_id, status, due_at, size, sequence, crc, data"
    connection.execute(f"INSERT INTO sessions ({names}) VALUES (?,?,?,?,?,?,?,?,?)", row)


def journal(connection: sqlite3.Connection, sequence: int, totals: tuple[int, ...], *records: Any) -> None:
    data = msgspec.msgpack.encode((1, sequence, totals, records))
    connection.execute("INSERT INTO journal VALUES (?, ?, ?)", (sequence, crc32(data), data))


ODD = session(4, session_id="a\0\U0001f600", client_id="c\0\U0001f600", session_state=bytes(9000))
STORED = [
    session(1),
    session(2, status=EXPIRED, ended_at=T0 + 1),
    session(3, status=CLOSED, ended_at=T0 + 2),
    ODD,
    session(5, status=EXPIRED, ended_at=T0 + 3),
    session(6),
    session(7, status=CLOSED, ended_at=T0 + 4),
]


def make_version_1(path: Path, mode: str = "WAL", *damages: str) -> Path:
    """Seven sessions, and a journal that ends one, removes two and makes one more."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(VERSION_1)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for s in STORED:
            put(connection, s)
        journal(connection, 1, (3, 3, 7))
        journal(connection, 2, (3, 3, 7), ("a", 1, T0 + 50), ("e", 6, EXPIRED, T0 + 60))
        removed = [("r", s.number, s.session_id, s.client_id) for s in STORED if s.number in (5, 7)]
        journal(connection, 3, (2, 2, 8), *removed, ("c", form(session(8, status=CLOSED, ended_at=T0))))
        for damage in damages:
            assert connection.execute(damage).rowcount > 0
    return path


PENDING: list[Session | Removed] = [
    session(1, active_at=T0 + 50),
    Removed(5, session(5).session_id, "client2"),
    session(6, status=EXPIRED, ended_at=T0 + 60),
    Removed(7, session(7).session_id, "client1"),
    session(8, status=CLOSED, ended_at=T0),
]
AFTER = Totals(live=2, clients=2, last_number=8, expired=2, closed=2)


def written_ahead(path: Path) -> int:
    log = path.with_name(f"{path.name}-wal")
    return log.stat().st_size if log.exists() else 0


def dump(path: Path) -> list[str]:
    """All of the content."""
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]


def tables(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())


async def loaded(store: SqliteStore) -> list[Session | None]:
    found = await store.load([s.session_id for s in STORED])
    return [found[s.session_id].session for s in STORED]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_everything_is_there_afterwards(sqlite: SqliteMaker, tmp_path: Path, mode: str) -> None:
    store = sqlite.at(make_version_1(tmp_path / "s.db", mode))
    recovered = await store.open()
    assert recovered.pending == PENDING
    assert recovered.totals == AFTER
    assert (recovered.sequence, recovered.clean, recovered.uncertain_until) == (3, True, 77)
    assert await loaded(store) == STORED
    assert sqlite.log.named("database_migrated") == [{"was": 1, "now": 2, "sessions": 7, "damaged": 0}]
    key = GroupKey("owner", "", ODD.client_id)
    assert await store.load_groups([key]) == {key: [ODD.session_id]}
    assert [d.number for d in await store.due(EXPIRED, T0 + 9, (0, 0), 9)] == [2, 5]
    assert [d.due_at for d in await store.due(LIVE, T0 * 2, (0, 0), 1)] == [T0 + 1 + 3_600_000]
    page = await store.search(Listing(LIVE, "last_activity", True, 9))
    assert [row.session.number for row in page.rows] == [6, 4, 1]
    assert [row.session.number for row in (await store.search(Reference("a\0"))).rows] == [4]


async def test_the_tables_are_those_of_a_new_database(sqlite: SqliteMaker, tmp_path: Path) -> None:
    for path in (make_version_1(tmp_path / "old.db"), tmp_path / "new.db"):
        store = sqlite.at(path)
        await store.open()
        await store.check()
        await store.close(clean=True)
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")
    assert schema.version_of(sqlite3.connect(tmp_path / "old.db")) == 2


async def test_it_goes_on_from_there(sqlite: SqliteMaker, tmp_path: Path) -> None:
    store = sqlite.at(make_version_1(tmp_path / "s.db"))
    await store.open()
    await store.snapshot(3, PENDING)
    while await store.forget(3):
        pass
    totals = Totals(2, 2, 8, expired=1, closed=2, deleted=1)
    await store.commit(4, [Ended(1, DELETED, T0 + 90), Reopened(2, T0 + 91, STORED[1].about)], totals)
    store = await sqlite.crashed(store)
    recovered = await store.open()
    assert recovered.totals == totals
    assert recovered.pending == [
        session(1, active_at=T0 + 50, status=DELETED, ended_at=T0 + 90),
        session(2, active_at=T0 + 91),
        *(form for form in PENDING if form.number in (5, 7, 8)),  # the last entry of version 1 is kept until now
    ]
    assert len(sqlite.log.named("database_migrated")) == 1


async def test_the_totals_are_right_at_the_next_start_too(sqlite: SqliteMaker, tmp_path: Path) -> None:
    """Nothing was committed in between: the newest entry does not have them yet."""
    store = sqlite.at(make_version_1(tmp_path / "s.db"))
    await store.open()
    store = await sqlite.crashed(store)
    assert (await store.open()).totals == AFTER
    await store.snapshot(3, PENDING)
    store = await sqlite.crashed(store)
    assert (await store.open()).totals == AFTER
    await store.commit(4, [Used(1, T0 + 99)], Totals(9, 9, 9, 9, 9, 9))
    store = await sqlite.crashed(store)
    assert (await store.open()).totals == Totals(9, 9, 9, 9, 9, 9)


async def test_an_empty_database(sqlite: SqliteMaker, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.executescript(VERSION_1)
    recovered = await sqlite.at(tmp_path / "s.db").open()
    assert (recovered.sequence, recovered.totals, recovered.pending) == (0, Totals(), [])


async def test_many_rows_say_how_far_it_is(sqlite: SqliteMaker, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    make_version_1(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for n in range(100, 700):
            put(connection, session(n))
        connection.execute("COMMIT")

    def ticking() -> int:
        sqlite.clock.now += 2000
        return sqlite.clock.now

    store = sqlite.at(path)
    store._clock = ticking
    assert (await store.open()).totals == AFTER
    assert sqlite.log.named("database_migration") == [{"done": n, "total": 607} for n in (256, 512, 607)]
    assert (await store.load([session(699).session_id]))[session(699).session_id].session == session(699)


DAMAGES = [
    "UPDATE sessions SET data = substr(data, 1, 20) || x'ff' || substr(data, 22) WHERE number = 2",
    "UPDATE sessions SET data = 'text' WHERE number = 2",
    "UPDATE sessions SET crc = 'text' WHERE number = 2",
    "UPDATE sessions SET sequence = 99 WHERE number = 2",
    "UPDATE sessions SET (crc, data) = (SELECT crc, data FROM sessions WHERE number = 3) WHERE number = 2",
    "UPDATE sessions SET client_id = CAST(x'61ff' AS TEXT), size = 'x', data = x'' WHERE number = 2",
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_row_stays_damaged(sqlite: SqliteMaker, tmp_path: Path, damage: str) -> None:
    store = sqlite.at(make_version_1(tmp_path / "s.db", "WAL", damage))
    recovered = await store.open()
    assert recovered.pending == PENDING
    assert recovered.totals == AFTER  # it is counted
    assert sqlite.log.named("session_damaged") == [{"number": 2, "found_by": "migration"}]
    assert sqlite.log.named("database_migrated") == [{"was": 1, "now": 2, "sessions": 7, "damaged": 1}]
    assert (await store.load([session(2).session_id]))[session(2).session_id].damaged
    assert [s and s.number for s in await loaded(store)] == [1, None, 3, 4, 5, 6, 7]
    assert [d.number for d in await store.due(EXPIRED, T0 + 1, (0, 0), 9)] == [2]
    assert (await store.search(Listing(EXPIRED, "title", False, 9))).rows[0].session.number == 5


async def test_a_damaged_row_with_journaled_changes(sqlite: SqliteMaker, tmp_path: Path) -> None:
    damage = "UPDATE sessions SET crc = crc + 1 WHERE number = 1"
    store = sqlite.at(make_version_1(tmp_path / "s.db", "WAL", damage))
    assert (await store.open()).pending == PENDING[1:]
    assert (await store.load([session(1).session_id]))[session(1).session_id].damaged


REFUSED = {
    "an entry": ("UPDATE journal SET data = data || x'00' WHERE sequence = 2", "entry 2 fails its checksum"),
    "a gap": ("DELETE FROM journal WHERE sequence = 2", "gap"),
    "a column": ("ALTER TABLE sessions RENAME COLUMN size TO length", "column sessions.size missing"),
    "a session": ("DELETE FROM sessions WHERE number = 6", "session 6, which is not stored"),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_is_refused_is_not_migrated(sqlite: SqliteMaker, tmp_path: Path, kind: str) -> None:
    damage, said = REFUSED[kind]
    path = make_version_1(tmp_path / "s.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)
    before = path.read_bytes()
    with pytest.raises(StartError, match=said):
        await sqlite.at(path).open()
    assert path.read_bytes() == before
    assert written_ahead(path) == 0


@pytest.mark.parametrize("place", ["a row", "the indexes"])
async def test_a_migration_that_fails_changes_nothing(
    sqlite: SqliteMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = make_version_1(tmp_path / "s.db")
    before = dump(path)
    encode = rows.encode_session

    def failing(sequence: int, s: Session) -> Any:
        if s.number == 5:
            raise sqlite3.OperationalError("database or disk is full")
        return encode(sequence, s)

    with monkeypatch.context() as patched:
        if place == "a row":
            patched.setattr(migration, "encode_session", failing)
        else:
            patched.setattr(migration, "INDEXES", f"{schema.INDEXES} CREATE INDEX x ON nothing (y);")
        with pytest.raises(StartError, match="cannot be used"):
            await sqlite.at(path).open()
    assert sqlite.log.named("database_migrated") == []
    assert dump(path) == before
    assert (await sqlite.at(path).open()).totals == AFTER


MIGRATE_AND_DIE = """
import os, pathlib, signal, sys
from stui_sessions.storage import migration, schema
from tests.storage.stores import Clock, RecordingLog

left = 0

def traced(path, mode, **options):
    connection = schema.connect(path, mode, **options)
    connection.set_trace_callback(statement)
    return connection

def statement(text):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

migration.connect = traced
log = RecordingLog()
for count in range(1, 200):
    child = os.fork()
    if child == 0:
        left = count
        migration.migrate(pathlib.Path(sys.argv[1]) / f"{count}.db", Clock(), log)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(count)
"""
MOST = 60


def migrate_and_die(directory: Path) -> int:
    """Migrates databases 1, 2, … in `directory`, each killed at that statement but the last; which one that is."""
    command = [sys.executable, "-c", MIGRATE_AND_DIE, str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout, run.stderr
    count = int(run.stdout)
    assert 20 < count < MOST - 1, run.stderr
    return count


async def test_killed_at_any_statement(sqlite: SqliteMaker, tmp_path: Path) -> None:
    """Either the old database or the new one, nothing in between."""
    before = dump(make_version_1(tmp_path / "s.db"))
    for count in range(1, MOST):
        make_version_1(tmp_path / f"{count}.db")
    count = migrate_and_die(tmp_path)
    for number in range(1, count):
        assert dump(tmp_path / f"{number}.db") == before
        store = sqlite.at(tmp_path / f"{number}.db")
        recovered = await store.open()
        assert (recovered.totals, recovered.pending) == (AFTER, PENDING)
        assert await loaded(store) == STORED
        await store.close(clean=True)
