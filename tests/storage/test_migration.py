"""A database of schema version 1 or 2, its journal included, is brought to the present one, or stays as it was."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest
from msgspec.structs import replace

from stui_sessions.domain.entities import (
    CLOSED,
    EXPIRED,
    LIVE,
    About,
    Absent,
    Damaged,
    Holder,
    Owner,
    Session,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.finding import Counts, Due, DueFound, Found, Listing, Reference, Totals
from stui_sessions.errors import StartError
from stui_sessions.storage.counting import due_at
from stui_sessions.storage.local import LocalStore, migration, schema
from tests.storage.stores import T0, LocalMaker, Scribe

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


VERSION_2 = VERSION_1.split("CREATE TABLE sessions")[0].replace("user_version = 1", "user_version = 2") + (
    schema.SESSIONS + schema.INDEXES + "CREATE TABLE meta" + VERSION_1.split("CREATE TABLE meta")[1]
)


def session(number: int, **changes: Any) -> Session:
    """A session of the first edition in its present form: without a version of its own yet."""
    s = Scribe(None).create(number, **changes)  # type: ignore[arg-type]
    return replace(s, commit=1)


def form(s: Session, version: int) -> tuple[Any, ...]:
    """A session as the first edition wrote it."""
    fields = (
        *(s.number, s.session_id, s.client_id, s.created_at, s.modified_at, s.active_at, s.timeout, s.revision),
        *(s.status, s.ended_at, s.session_state, s.workspace_context, s.inspector_state, s.object_registry),
    )
    return fields if version == 1 else (*fields, s.about)


def put(connection: sqlite3.Connection, s: Session, version: int = 1) -> None:
    """A row of the sessions table."""
    if version == 2:
        _put_2(connection, s)
        return
    data, key = msgspec.msgpack.encode(form(s, 1)), s.session_id.encode()
    crc = crc32(data, crc32(b"%d %d %b" % (s.number, s.commit, key)))
    due = s.ended_at if s.status else s.active_at + 1000 * s.timeout - 5
    row = (s.number, key, s.client_id, s.status, due, s.state_bytes, s.commit, crc, data)
    names = "number, session_id, client_id, status, due_at, size, sequence, crc, data"
    connection.execute(f"INSERT INTO sessions ({names}) VALUES (?,?,?,?,?,?,?,?,?)", row)


def _put_2(connection: sqlite3.Connection, s: Session) -> None:
    """Byte by byte as version 2 did, whatever is done today."""
    key = s.session_id.encode()
    head = msgspec.msgpack.encode((*form(s, 1)[:10], s.about))
    data = msgspec.msgpack.encode(form(s, 1)[10:])
    crc = crc32(head, crc32(b"%d %d %d %b" % (s.number, s.commit, s.state_bytes, key)))
    row = {
        "number": s.number,
        "session_id": key,
        "client_id": s.client_id.encode(),
        "user_id": s.user_id.encode(),
        "external_id": s.about.external_id.encode(),
        "title": s.about.title.encode(),
        "status": s.status,
        "active_at": s.active_at,
        "due_at": due_at(s) - (5 if s.status == LIVE else 0),
        "size": s.state_bytes,
        "sequence": s.commit,
        "head_crc": crc,
        "crc": crc32(data, crc),
        "head": head,
        "data": data,
    }
    slots = ",".join("?" * len(row))
    connection.execute(f"INSERT INTO sessions ({','.join(row)}) VALUES ({slots})", list(row.values()))


def journal(
    connection: sqlite3.Connection, version: int, sequence: int, totals: tuple[int, ...], *records: Any
) -> None:
    data = msgspec.msgpack.encode((version, sequence, totals, records))
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
NAMED = [
    session(20, client_id="", about=About("u", "x", "t", ("tag",), b"{2}", 0, True)),
    session(21, client_id="c", about=About("u")),
    session(22, client_id="c", about=About("u", "y")),
]
"""What version 1 did not know."""


def make_former(path: Path, version: int, mode: str = "WAL", *damages: str) -> Path:
    """Some sessions, and a journal that ends one, removes two and makes one more; in version 2, of every kind."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(VERSION_1 if version == 1 else VERSION_2)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for s in STORED:
            put(connection, s, version)
        journal(connection, version, 1, (3, 3, 7))
        journal(connection, version, 2, (3, 3, 7), ("a", 1, T0 + 50), ("e", 6, EXPIRED, T0 + 60))
        removed = [("r", s.number, s.session_id, s.client_id) for s in STORED if s.number in (5, 7)]
        made = ("c", form(session(8, status=CLOSED, ended_at=T0), version))
        journal(connection, version, 3, (2, 2, 8), *removed, made)
        if version == 2:
            _fill_2(connection)
        for damage in damages:
            assert connection.execute(damage).rowcount > 0
    return path


def _fill_2(connection: sqlite3.Connection) -> None:
    for s in NAMED[:2]:
        put(connection, s, 2)
    about = ("u", "", "new", (), b"{}", 0, False)
    journal(connection, 2, 4, (4, 3, 22, 2, 2, 0), ("c", form(NAMED[2], 2)), ("d", 21, 77, about))
    patches = [("u", 21, 2, T0 + 70, b'{"a":1}', None, None, None), ("u", 21, 3, T0 + 71, None, b'{"b":2}', None, None)]
    journal(connection, 2, 5, (4, 3, 22, 2, 2, 0), *patches)
    journal(connection, 2, 6, (4, 3, 22, 2, 2, 0), ("o", 3, T0 + 72, ("", "", "", (), b"{}", 0, False)))


def after(version: int) -> list[Session]:
    """What has to be there afterwards."""
    found = [
        replace(session(1, active_at=T0 + 50), commit=2),
        STORED[1],
        STORED[2],
        ODD,
        replace(session(6, status=EXPIRED, ended_at=T0 + 60), commit=2),
        replace(session(8, status=CLOSED, ended_at=T0), commit=3),
    ]
    if version == 2:
        found[2] = replace(session(3, active_at=T0 + 72), commit=6)
        edited = replace(
            session(21, client_id="c", about=About("u", "", "new"), timeout=77, revision=3, modified_at=T0 + 71),
            session_state=b'{"a":1}',
            workspace_context=b'{"b":2}',
            active_at=T0 + 71,
            recorded_at=T0 + 71,
            state_bytes=18,
            commit=5,
        )
        found += [NAMED[0], edited, replace(NAMED[2], commit=4)]
    return found


REMOVED = [session_key("", s.session_id) for s in STORED if s.number in (5, 7)]
COUNTS = {1: Totals(live=2, expired=2, closed=2, clients=2), 2: Totals(live=6, expired=2, closed=1, clients=4)}
COMMITS = {1: 3, 2: 6}
VERSIONS = pytest.mark.parametrize("version", [1, 2])


async def check(store: LocalStore, version: int) -> None:
    """All that was there is there: sessions, owners, holders, totals."""
    sessions = after(version)
    found = await store.read([s.key for s in sessions])
    assert list(found.values()) == sessions
    assert [type(e) for e in (await store.read(REMOVED)).values()] == [Absent, Absent]
    live = [s for s in sessions if s.status == LIVE]
    for key in {owner_key("", s.user_id, s.client_id) for s in sessions} - {None}:
        assert key is not None
        owner = (await store.read([key]))[key]
        ids = [s.session_id for s in live if owner_key("", s.user_id, s.client_id) == key]
        assert owner == (Owner(key, 1, 0, (tuple(ids),)) if ids else Absent(key))
    for s in sessions:
        key = external_key("", s.user_id, s.about.external_id)
        if key is not None:
            assert (await store.read([key]))[key] == Holder(key, 1, 0, s.session_id)
    assert await store.query(Counts(""), T0) == COUNTS[version]


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


async def numbers(store: LocalStore, wanted: Listing | Reference) -> list[int]:
    found = await store.query(wanted, T0)
    assert isinstance(found, Found)
    return [s.number for s in found.sessions]


@VERSIONS
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_everything_is_there_afterwards(local: LocalMaker, tmp_path: Path, mode: str, version: int) -> None:
    store = local.at(make_former(tmp_path / "s.db", version, mode))
    opened = await store.open()
    assert (opened.commit, opened.clean, opened.uncertain_until) == (COMMITS[version], True, 77)
    assert (opened.last_number, opened.replayed) == ({1: 8, 2: 22}[version], 0)
    await check(store, version)
    count = len(after(version))
    assert local.log.named("database_migrated") == [{"was": version, "now": 3, "sessions": count, "damaged": 0}]
    due = await store.query(Due(EXPIRED, T0 + 9, (0, 0), 9), T0)
    assert isinstance(due, DueFound)
    assert [d.number for d in due.due] == [2]
    expected = sorted((s for s in after(version) if s.status == LIVE), key=lambda s: s.active_at, reverse=True)
    page = Listing("", LIVE, "last_activity", True, 9)
    assert await numbers(store, page) == [s.number for s in expected]
    assert await numbers(store, Reference("", prefix="a\0")) == [4]
    await store.check()


@VERSIONS
async def test_the_tables_are_those_of_a_new_database(local: LocalMaker, tmp_path: Path, version: int) -> None:
    for path in (make_former(tmp_path / "old.db", version), tmp_path / "new.db"):
        store = local.at(path)
        await store.open()
        await store.check()
        await store.close(clean=True)
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")
    assert schema.version_of(sqlite3.connect(tmp_path / "old.db")) == 3


@VERSIONS
async def test_it_goes_on_from_there(local: LocalMaker, tmp_path: Path, version: int) -> None:
    store = local.at(make_former(tmp_path / "s.db", version))
    await store.open()
    scribe = Scribe(store, COMMITS[version])
    for s in after(version):
        scribe.entities[s.key] = s
        scribe.keys[s.number] = s.key
    key = owner_key("", "", "client1")
    assert key is not None
    scribe.entities[key] = (await store.read([key]))[key]
    scribe.update(scribe.session(1), b'{"n":2}')
    scribe.end(scribe.session(1), CLOSED)
    await scribe.commit()
    store = scribe.store = await local.crashed(store)
    assert (await store.open()).replayed == 2
    await scribe.check()
    counts = COUNTS[version]
    assert await store.query(Counts(""), T0) == replace(
        counts, live=counts.live - 1, closed=counts.closed + 1, clients=counts.clients - 1
    )
    assert len(local.log.named("database_migrated")) == 1
    assert [c.number async for c in store.log(COMMITS[version])] == [COMMITS[version] + 1]


@VERSIONS
async def test_a_kill_right_after_it(local: LocalMaker, tmp_path: Path, version: int) -> None:
    store = local.at(make_former(tmp_path / "s.db", version))
    await store.open()
    store = await local.crashed(store)
    assert (await store.open()).clean is False
    await check(store, version)


@VERSIONS
async def test_an_empty_database(local: LocalMaker, tmp_path: Path, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.executescript(VERSION_1 if version == 1 else VERSION_2)
    store = local.at(tmp_path / "s.db")
    opened = await store.open()
    assert (opened.commit, opened.last_number) == (0, 0)
    assert await store.query(Counts(""), T0) == Totals()


async def test_many_rows_say_how_far_it_is(local: LocalMaker, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    make_former(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for n in range(100, 700):
            put(connection, session(n))
        connection.execute("COMMIT")

    def ticking() -> int:
        local.clock.now += 2000
        return local.clock.now

    store = local.at(path)
    store._clock = ticking
    await store.open()
    assert (await store.query(Counts(""), T0)) == Totals(live=602, expired=2, closed=2, clients=4)
    assert local.log.named("database_migration") == [{"done": n, "total": 607} for n in (256, 512, 607)]
    key = session(699).key
    assert (await store.read([key]))[key] == session(699)


async def test_an_owner_of_many(local: LocalMaker, tmp_path: Path) -> None:
    """In the order in which they were made, in chunks, and the newest holder of a name where there are two."""
    path = make_former(tmp_path / "s.db", 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        for n in range(100, 800):
            put(connection, session(n, client_id="many", about=About("u", "same")), 2)
        connection.execute("COMMIT")
    store = local.at(path)
    await store.open()
    key, name = owner_key("", "u", "many"), external_key("", "u", "same")
    assert key is not None
    assert name is not None
    found = await store.read([key, name])
    owner = found[key]
    assert isinstance(owner, Owner)
    assert [len(chunk) for chunk in owner.chunks] == [256, 256, 188]
    assert owner.session_ids == [session(n).session_id for n in range(100, 800)]
    assert found[name] == Holder(name, 1, 0, session(799).session_id)


DAMAGES = [
    "UPDATE sessions SET data = substr(data, 1, 20) || x'ff' || substr(data, 22) WHERE number = 2",
    "UPDATE sessions SET data = 'text' WHERE number = 2",
    "UPDATE sessions SET crc = 'text' WHERE number = 2",
    "UPDATE sessions SET sequence = 99 WHERE number = 2",
    "UPDATE sessions SET (crc, data) = (SELECT crc, data FROM sessions WHERE number = 3) WHERE number = 2",
    "UPDATE sessions SET client_id = CAST(x'61ff' AS TEXT), size = 'x', data = x'' WHERE number = 2",
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_row_stays_damaged(local: LocalMaker, tmp_path: Path, damage: str) -> None:
    store = local.at(make_former(tmp_path / "s.db", 1, "WAL", damage))
    await store.open()
    assert await store.query(Counts(""), T0) == COUNTS[1]  # it is counted
    assert local.log.named("session_damaged") == [{"number": 2, "found_by": "migration"}]
    assert local.log.named("database_migrated") == [{"was": 1, "now": 3, "sessions": 6, "damaged": 1}]
    sessions = after(1)
    found = await store.read([s.key for s in sessions])
    assert found == {s.key: Damaged(s.key) if s.number == 2 else s for s in sessions}
    due = await store.query(Due(EXPIRED, T0 + 1, (0, 0), 9), T0)
    assert isinstance(due, DueFound)
    assert [d.number for d in due.due] == [2]
    assert await numbers(store, Listing("", EXPIRED, "title", False, 9)) == [6]


@VERSIONS
async def test_a_damaged_row_with_journaled_changes(local: LocalMaker, tmp_path: Path, version: int) -> None:
    damage = "UPDATE sessions SET crc = crc + 1 WHERE number = 1"
    store = local.at(make_former(tmp_path / "s.db", version, "WAL", damage))
    await store.open()
    assert {"number": 1, "found_by": "replay"} in local.log.named("session_damaged")
    key = session(1).key
    assert (await store.read([key]))[key] == Damaged(key)


REFUSED = {
    "an entry": ("UPDATE journal SET data = data || x'00' WHERE sequence = 2", "entry 2 fails its checksum"),
    "a gap": ("DELETE FROM journal WHERE sequence = 2", "gap"),
    "a column": ("ALTER TABLE sessions RENAME COLUMN size TO length", "column sessions.size missing"),
    "a session": ("DELETE FROM sessions WHERE number = 6", "session 6, which is not stored"),
}


@VERSIONS
@pytest.mark.parametrize("kind", REFUSED)
async def test_what_is_refused_is_not_migrated(local: LocalMaker, tmp_path: Path, kind: str, version: int) -> None:
    damage, said = REFUSED[kind]
    path = make_former(tmp_path / "s.db", version)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)
    before = path.read_bytes()
    with pytest.raises(StartError, match=said):
        await local.at(path).open()
    assert path.read_bytes() == before
    assert written_ahead(path) == 0
    assert not path.with_name("s.db.log").exists()


@pytest.mark.parametrize("version", [1, 3])
async def test_entries_of_other_versions(local: LocalMaker, tmp_path: Path, version: int) -> None:
    path = make_former(tmp_path / "s.db", 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        journal(connection, version, 7, (4, 3, 22), ("a", 1, T0 + 90))
    store = local.at(path)
    if version == 1:
        await store.open()
        (found,) = (await store.read([session(1).key])).values()
        assert isinstance(found, Session)
        assert found.active_at == T0 + 90
        return
    with pytest.raises(StartError, match="version 3, and this server knows up to version 2"):
        await store.open()


@VERSIONS
@pytest.mark.parametrize("place", ["a row", "owners", "the end"])
async def test_a_migration_that_fails_changes_nothing(
    local: LocalMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, version: int
) -> None:
    path = make_former(tmp_path / "s.db", version)
    before = dump(path)

    def failing(*_: Any) -> Any:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        name = {"a row": "_write_pending", "owners": "encode_entity", "the end": "_note"}[place]
        patched.setattr(migration, name, failing)
        with pytest.raises(StartError, match="cannot be used"):
            await local.at(path).open()
    assert local.log.named("database_migrated") == []
    assert dump(path) == before
    store = local.at(path)
    await store.open()
    await check(store, version)


MIGRATE_AND_DIE = """
import os, pathlib, signal, sys
from stui_sessions.storage.local import migration, schema
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
MOST = 90


def migrate_and_die(directory: Path) -> int:
    """Migrates databases 1, 2, … in `directory`, each killed at that statement but the last; which one that is."""
    command = [sys.executable, "-c", MIGRATE_AND_DIE, str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout, run.stderr
    count = int(run.stdout)
    assert 20 < count < MOST - 1, run.stderr
    return count


@VERSIONS
async def test_killed_at_any_statement(local: LocalMaker, tmp_path: Path, version: int) -> None:
    """Either the old database or the new one, nothing in between."""
    before = dump(make_former(tmp_path / "s.db", version))
    for count in range(1, MOST):
        make_former(tmp_path / f"{count}.db", version)
    count = migrate_and_die(tmp_path)
    for number in range(1, count):
        assert dump(tmp_path / f"{number}.db") == before
        store = local.at(tmp_path / f"{number}.db")
        await store.open()
        await check(store, version)
        await store.close(clean=True)
