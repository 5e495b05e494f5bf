"""Moving between the local store and the shared one, without the command: everything is there afterwards."""

import itertools
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from stui_sessions.cli.database import NoLog
from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE, About, Absent, Key, Session
from stui_sessions.domain.finding import Counts, Due, Found, Listing, Reference
from stui_sessions.domain.records import Record
from stui_sessions.domain.times import Expiry, slack_ms
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.contract import Store
from stui_sessions.storage.local import LocalStore, backup, segments
from stui_sessions.storage.local.meta import Meta
from stui_sessions.storage.lock import FileLock
from stui_sessions.storage.moving import local as moving_local
from stui_sessions.storage.moving import shared as moving_shared
from stui_sessions.storage.moving.content import Target
from stui_sessions.storage.moving.filling import SharedTarget
from stui_sessions.storage.moving.local import LocalSource
from stui_sessions.storage.moving.making import LocalTarget
from stui_sessions.storage.moving.shared import SharedSource
from stui_sessions.storage.moving.work import Moved, move
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.connection import connect
from stui_sessions.storage.postgres.statements import NOW
from stui_sessions.storage.postgres.store import Options, PostgresStore
from tests.storage.stores import T0, LocalMaker, RecordingLog, Scribe
from tests.storage.test_migration import after, make_former
from tests.support.postgres import Postgres

TENANTS = ("", "other", "ü")
SCHEMA = "stui_sessions"


def to_shared(path: Path, url: str, schema: str = SCHEMA) -> tuple[LocalSource, SharedTarget]:
    return LocalSource(path, path.name, NoLog()), SharedTarget(url, schema, "postgresql://db", False)


def to_local(url: str, path: Path) -> tuple[SharedSource, LocalTarget]:
    return SharedSource(url, SCHEMA, "postgresql://db"), LocalTarget(path, path.name, NoLog())


def names(directory: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


def quiet(label: str, done: int, total: int) -> None:
    assert 0 <= done <= total


async def shared_store(url: str) -> PostgresStore:
    # What is moved is from long ago: a server would drop it at once.
    options = Options(url, timeout=20.0, log_retention=10e9)
    store = PostgresStore(options, lambda: time.time_ns() // 1_000_000, RecordingLog())
    try:
        await store.open()
    except BaseException:
        await store.close(clean=False)
        raise
    return store


async def is_usable(url: str) -> bool:
    """A server starts there."""
    try:
        store = await shared_store(url)
    except StartError:
        return False
    await store.close(clean=True)
    return True


async def closed(local: LocalMaker, path: Path, clean: bool = True) -> tuple[Path, Scribe]:
    """A database with something of everything, and what is in it."""
    store = local.at(path)
    await store.open()
    scribe = Scribe(store)
    await populate(scribe)
    await store.close(clean=clean)
    return path, scribe


async def populate(scribe: Scribe) -> None:
    chance = random.Random(7)
    for n in range(1, 61):
        about = About(
            user_id=f"u{n % 4}" if n % 3 else "",
            external_id=f"x\0{n}" if n % 5 == 0 else "",
            title=f"Title \N{SNOWMAN} {n // 2}",
            tags=("a", f"t{n % 3}"),
            metadata=b'{"n": %d, "n": 1.0}' % n,
            ends_at=T0 + 10**9 if n % 7 == 0 else 0,
            pinned=n % 11 == 0,
        )
        scribe.create(n, tenant=TENANTS[n % 3], about=about if n % 6 else About(), timeout=60 + n * 100)
        scribe.at += 997
        if n % 4 == 0:
            await scribe.commit()
    await scribe.commit()
    for n in chance.sample(range(1, 61), 40):
        s = scribe.session(n)
        scribe.update(
            s, b'{ "a":  [1.00, 2e3],"\\ud83d\\ude00":"' + b"x" * chance.randrange(3000) + b'"}', replaces=True
        )
        scribe.update(s, b'{"b":null}', workspace_context=b'{"w": 1}', object_registry=b'{"r":\t2}')
        scribe.use(s)
        scribe.at += 86_400_000 // 17
        await scribe.commit()
    for n, status in ((3, EXPIRED), (4, CLOSED), (5, DELETED), (6, CLOSED), (10, CLOSED), (57, EXPIRED)):
        scribe.end(scribe.session(n), status)
    await scribe.commit()
    scribe.reopen(scribe.session(6))
    scribe.remove(scribe.session(4))
    scribe.remove(scribe.session(60))  # the highest number is that of no session
    scribe.edit(scribe.session(7), About(title="renamed"), timeout=77)
    await scribe.commit()


async def come_and_gone(local: LocalMaker, path: Path) -> Key:
    """A session that was removed and made again: in the local store its versions begin anew."""
    store = local.at(path)
    found = await store.open()
    scribe = Scribe(store, found.commit)
    for life in range(3):
        s = scribe.create(100 + life, session_id="again", client_id="", tenant="")
        await scribe.commit()
        for _ in range(3 - life):
            scribe.update(s)
        await scribe.commit()
        if life < 2:
            scribe.remove(s)
            await scribe.commit()
            scribe.entities[s.key] = Absent(s.key)
    await store.close(clean=True)
    return s.key


async def everything(store: Store, keys: list[Key]) -> dict[str, Any]:
    """All that a store tells; commits have other numbers in each."""
    found: dict[str, Any] = {}
    for key, entity in (await store.read(keys)).items():
        found[f"read {key}"] = "absent" if isinstance(entity, Absent) else replace(entity, commit=0)
    for tenant in TENANTS:
        found[f"totals {tenant}"] = await store.query(Counts(tenant), T0)
        for status in (LIVE, EXPIRED, CLOSED, DELETED):
            for sort in ("last_activity", "created_at", "title"):
                listing = Listing(tenant=tenant, status=status, sort=sort, descending=True, limit=1000)  # type: ignore[arg-type]
                found[f"list {tenant} {status} {sort}"] = bare(await store.query(listing, T0))
        for user in ("u0", "u1"):
            named = Listing(tenant, LIVE, "title", False, 1000, user_id=user, client_id="client1")
            found[f"list {tenant} {user}"] = bare(await store.query(named, T0))
        for n in range(0, 60, 5):
            found[f"external {tenant} {n}"] = bare(await store.query(Reference(tenant, external_id=f"x\0{n}"), T0))
            found[f"title {tenant} {n}"] = bare(
                await store.query(Reference(tenant, title=f"Title \N{SNOWMAN} {n}"), T0)
            )
    for status in (LIVE, CLOSED):
        due = await store.query(Due(status=status, before=T0 + 10**12, after=(0, 0), limit=1000), T0)
        found[f"due {status}"] = [*due.due]  # type: ignore[union-attr]
    for key in keys:
        if found[f"read {key}"] != "absent":  # of what is gone a local store finds none
            found[f"history {key}"] = await history(store, key)
    return found


def bare(found: Any) -> Any:
    assert isinstance(found, Found)
    return [replace(s, commit=0) for s in found.sessions]


async def history(store: Store, key: Key) -> list[Record]:
    """An entity's own records, the oldest first, however they are put together."""
    commits = await store.history(key, 2**62, 10_000)
    return [replace(record, previous=0) for commit in reversed(commits) for record in commit.records]


async def told(path: Path, local: LocalMaker, keys: list[Key]) -> dict[str, Any]:
    """What a local database tells, and what it says of itself."""
    store = local.at(path)
    found = await store.open()
    answer = await everything(store, keys)
    answer["opened"] = (found.last_number, found.clean, found.replayed)
    assert {c.number for c in [commit async for commit in store.log(0)]} <= set(range(1, found.commit + 1))
    await store.close(clean=True)
    return answer


@pytest.fixture
async def url(database_url: str) -> str:
    await admin.init(database_url, SCHEMA)
    return database_url


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (moving_local, moving_shared):
        monkeypatch.setattr(module, "PIECE_ROWS", 29)
    monkeypatch.setattr(moving_shared, "FETCHED", 10)


async def test_there_and_back(local: LocalMaker, url: str, tmp_path: Path, small_pieces: None) -> None:
    path, scribe = await closed(local, tmp_path / "a.db")
    again = await come_and_gone(local, path)
    keys = [*scribe.entities, again]
    assert len(keys) > 75
    before = await told(path, local, keys)
    assert before["opened"] == (102, True, 0)
    assert sum(len(value) for name, value in before.items() if name.startswith("history")) > 250
    image = path.read_bytes()

    moved = await move(*to_shared(path, url), quiet)
    assert path.read_bytes() == image
    assert moved.contents.sessions.rows == 59
    assert not files.beside(path, "-wal").exists()
    store = await shared_store(url)
    there = await everything(store, keys)
    lives = there[f"history {again}"]
    assert [r.version for r in lives] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 1, 2]
    there[f"history {again}"] = lives[-2:]  # the local store knows the last one
    assert there == {name: value for name, value in before.items() if name != "opened"}
    await store.close(clean=True)

    back = await move(*to_local(url, tmp_path / "b.db"), quiet)
    assert back.contents.sessions == moved.contents.sessions
    assert back.contents.records == moved.contents.records
    assert names(tmp_path, "b.db*") == ["b.db", "b.db.log"]
    assert names(tmp_path / "b.db.log", "*") == ["0000000001.log", segments.CLOSED]
    with closing(sqlite3.connect(tmp_path / "b.db")) as tables:
        said = dict(tables.execute("SELECT key, value FROM meta").fetchall())
        assert set(said) == set(Meta.__struct_fields__)
        assert {name for (name,) in tables.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} == {
            *("sessions", "entities", "meta"),
        }
    assert backup.verify(tmp_path / "b.db", RecordingLog()) == 59
    after = await told(tmp_path / "b.db", local, keys)
    assert after[f"history {again}"] == lives
    after[f"history {again}"] = lives[-2:]
    # A server has had the shared store open: it may have given out any number up to now.
    assert after.pop("opened")[0] > 10**14
    assert after == there


async def test_numbers_go_on_where_no_server_was(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, scribe = await closed(local, tmp_path / "a.db")
    await move(*to_shared(path, url), quiet)
    await move(*to_local(url, tmp_path / "b.db"), quiet)
    assert (await told(tmp_path / "b.db", local, [])) == (await told(path, local, []))
    store = local.at(tmp_path / "b.db")
    found = await store.open()
    assert (found.last_number, found.clean, found.uncertain_until) == (60, True, 0)
    # It is a database like any other: it takes changes, is killed, and has them.
    more = Scribe(store, found.commit)
    more.entities = await store.read(list(scribe.entities))
    more.keys = scribe.keys
    more.at = scribe.at + 5
    more.update(more.session(9), b'{"later":1}')
    more.create(61, tenant="other")
    await more.commit()
    crashed = await local.crashed(store)
    await crashed.open()
    kept = await history(crashed, more.keys[9])
    assert [r.version for r in kept] == list(range(1, len(kept) + 1))
    assert kept[-1].at == scribe.at + 5
    s = (await crashed.read([more.keys[9]]))[more.keys[9]]
    assert isinstance(s, Session)
    assert b"later" in s.session_state


async def test_the_history_goes_on_in_both_directions(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, scribe = await closed(local, tmp_path / "a.db")
    key = next(s.key for s in scribe.sessions() if s.number > 20 and len(s.session_state) > 100)
    await move(*to_shared(path, url), quiet)
    store = await shared_store(url)
    shared = Scribe(store)
    shared.at = scribe.at + 86_400_000
    shared.entities = {k: e for k, e in (await store.read(list(scribe.entities))).items() if not isinstance(e, Absent)}
    shared.keys = scribe.keys
    shared.update(shared.session(shared.entities[key].number), b'{"shared":1}')  # type: ignore[union-attr]
    await shared.commit()
    whole = await history(store, key)
    assert [r.version for r in whole] == list(range(1, len(whole) + 1))
    await store.close(clean=True)
    await move(*to_local(url, tmp_path / "b.db"), quiet)
    back = local.at(tmp_path / "b.db")
    await back.open()
    assert await history(back, key) == whole
    assert [r.previous > 0 for c in await back.history(key, 2**62, 100) for r in c.records].count(False) == 1


async def test_a_database_that_was_not_closed_is_brought_up_to_date(
    local: LocalMaker, url: str, tmp_path: Path
) -> None:
    store = local.at(tmp_path / "killed.db")
    await store.open()
    scribe = Scribe(store)
    await populate(scribe)
    left = await local.crashed(store)
    assert isinstance(left, LocalStore)
    moved = await move(*to_shared(left.path, url), quiet)
    assert moved.contents.sessions.rows == len(scribe.sessions())
    assert moved.contents.records.rows == sum(len(commit.records) for commit in scribe.commits)
    shared = await shared_store(url)
    # The last uses may not have been recorded: no session ends before it would have ended there.
    for s in scribe.sessions():
        found = (await shared.read([s.key]))[s.key]
        assert isinstance(found, Session)
        slack = slack_ms(s.timeout) if s.status == LIVE else 0
        assert found.active_at == s.active_at + slack
        assert Expiry().expires_at(found) == Expiry(2**62).expires_at(s) or s.status != LIVE
        assert found.session_state == s.session_state
    await shared.close(clean=True)
    opened = await left.open()
    assert (opened.clean, opened.replayed) == (True, 0)  # and has its history still
    assert len([commit async for commit in left.log(0)]) == len(scribe.commits)


@pytest.mark.parametrize("noted", ["clean", "needs_log"])
async def test_what_a_database_notes_of_itself_is_heeded(
    local: LocalMaker, url: str, tmp_path: Path, noted: str
) -> None:
    """A kill need not leave a write-ahead log."""
    path, scribe = await closed(local, tmp_path / "a.db")
    with closing(sqlite3.connect(path)) as tables:
        tables.execute("UPDATE meta SET value = ? WHERE key = ?", (int(noted == "needs_log"), noted))
        tables.commit()
    if noted == "needs_log":
        segments.remove_all(segments.directory_of(path))
        assert "the log of this database is missing" in await fails(*to_shared(path, url))
        return
    await move(*to_shared(path, url), quiet)
    shared = await shared_store(url)
    s = next(s for s in scribe.sessions() if s.status == LIVE)
    found = (await shared.read([s.key]))[s.key]
    assert isinstance(found, Session)
    assert found.active_at == s.active_at + slack_ms(s.timeout)
    await shared.close(clean=True)


async def test_the_log_of_a_killed_server_is_moved_however_old_it_is(
    local: LocalMaker, url: str, tmp_path: Path
) -> None:
    store = local.at(tmp_path / "a.db")
    await store.open()
    scribe = Scribe(store)
    s = scribe.create(1)
    for _ in range(8):
        scribe.update(s, b'{"big":"%s"}' % (b"x" * 900_000), replaces=True)
        await scribe.commit()
    left = await local.crashed(store)
    assert isinstance(left, LocalStore)
    assert len(segments.ordinals(segments.directory_of(left.path))) > 2
    moved = await move(*to_shared(left.path, url), quiet)
    assert moved.contents.records.rows == sum(len(commit.records) for commit in scribe.commits)


async def test_of_a_log_with_a_gap_the_newer_part_is_moved(local: LocalMaker, url: str, tmp_path: Path) -> None:
    local.limits.log_limit = 2**40
    store = local.at(tmp_path / "a.db")
    await store.open()
    scribe = Scribe(store)
    s = scribe.create(1)
    for _ in range(8):
        scribe.update(s, b'{"big":"%s"}' % (b"x" * 900_000), replaces=True)
        await scribe.commit()
    await store.close(clean=True)
    names = segments.ordinals(segments.directory_of(store.path))
    assert len(names) > 2
    segments.path_of(segments.directory_of(store.path), names[1]).unlink()
    moved = await move(*to_shared(store.path, url), quiet)
    assert 0 < moved.contents.records.rows < 8
    shared = await shared_store(url)
    kept = [r.version for r in await history(shared, s.key)]
    assert kept == list(range(10 - len(kept), 10))
    await shared.close(clean=True)


async def test_through_a_pooler(local: LocalMaker, url: str, tmp_path: Path, postgres: Postgres) -> None:
    """PgBouncer hands each transaction to another session of the database."""
    path, scribe = await closed(local, tmp_path / "a.db")
    before = await told(path, local, list(scribe.entities))
    pooled = postgres.pgbouncer().url(url.rpartition("/")[2])
    await move(*to_shared(path, pooled), quiet)
    await move(*to_local(pooled, tmp_path / "b.db"), quiet)
    assert await told(tmp_path / "b.db", local, list(scribe.entities)) == before


# -- what is cut off goes on


class Cut(Exception):
    """The move is cut off."""


def cutting(target: Any, at: int, after: bool) -> list[str]:
    """Have `target` cut the move off at its call number `at`, before or after the call took effect; which ones did."""
    calls = itertools.count(1)
    effective = []

    def wrapped(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            mine = next(calls)
            if mine == at and not after:
                raise Cut
            result = await method(*arguments)
            effective.append(name)
            if mine == at:
                raise Cut
            return result

        return call

    for name in ("begin", "put", "end", "finish", "publish"):
        setattr(target, name, wrapped(name, getattr(target, name)))
    return effective


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("way", ["shared", "local"])
async def test_a_move_that_was_cut_off_anywhere_goes_on(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None, way: str, after: bool
) -> None:
    """Cut off at one place after the other: in the end everything is there, and until then no server can use it."""
    path, scribe = await closed(local, tmp_path / "a.db")
    keys = list(scribe.entities)
    before = await told(path, local, keys)
    if way == "local":
        await move(*to_shared(path, url), quiet)
    ever: set[str] = set()
    for runs in itertools.count(1):
        source, target = to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")
        effective = cutting(target, runs, after)
        try:
            moved = await move(source, target, quiet)
        except Cut:
            ever |= {*effective}
            if "begin" in ever and "publish" not in ever:
                if way == "shared":
                    assert not await is_usable(url)
                else:
                    with pytest.raises(StartError, match="is missing, but its log"):
                        await local.at(tmp_path / "b.db").open()
            continue
        break
    assert runs > 5
    assert moved.contents.sessions.rows == 58
    if way == "shared":
        store = await shared_store(url)
        there = await everything(store, keys)
        await store.close(clean=True)
    else:
        there = await told(tmp_path / "b.db", local, keys)
        assert names(tmp_path, "b.db*") == ["b.db", "b.db.lock", "b.db.log"]
    before.pop("opened")
    there.pop("opened", None)
    assert there == before


@pytest.mark.parametrize("way", ["shared", "local"])
async def test_what_was_moved_is_not_moved_again(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None, way: str
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    if way == "local":
        await move(*to_shared(path, url), quiet)
    source, target = to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")
    put, rows = target.put, []

    async def cut(step: Any, piece: list[Any]) -> None:
        await put(step, piece)
        rows.append(len(piece))
        if step == "sessions":
            raise Cut

    target.put = cut  # type: ignore[method-assign]
    with pytest.raises(Cut):
        await move(source, target, quiet)
    reports: list[tuple[str, int, int]] = []
    again = to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")
    await move(*again, lambda *report: reports.append(report))
    label, done, total = reports[0]
    assert label == "move"
    assert sum(rows) < done <= sum(rows) + 30
    assert reports[-1] == ("check", 2 * total, 2 * total)


@pytest.mark.parametrize("name", ["finish", "publish"])
@pytest.mark.parametrize("way", ["shared", "local"])
async def test_a_move_that_was_cut_off_at_its_end_is_done(
    local: LocalMaker, url: str, tmp_path: Path, way: str, name: str
) -> None:
    path, scribe = await closed(local, tmp_path / "a.db")
    keys = list(scribe.entities)
    before = await told(path, local, keys)
    if way == "local":
        await move(*to_shared(path, url), quiet)
    source, target = to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")
    method = getattr(target, name)

    async def cut(*arguments: Any) -> None:
        await method(*arguments)
        raise Cut

    setattr(target, name, cut)
    with pytest.raises(Cut):
        await move(source, target, quiet)
    again = to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")
    assert (await move(*again, quiet)).was_there == (name == "publish")
    if way == "local":
        assert await told(tmp_path / "b.db", local, keys) == before


async def test_a_source_that_changed_meanwhile_is_moved_anew(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    source, target = to_shared(path, url)
    cutting(target, 12, after=True)
    with pytest.raises(Cut):
        await move(source, target, quiet)
    again = await come_and_gone(local, path)
    before = await told(path, local, [again])
    moved = await move(*to_shared(path, url), quiet)
    assert moved.contents.sessions.rows == 59
    store = await shared_store(url)
    there = await everything(store, [again])
    there[f"history {again}"] = there[f"history {again}"][-2:]
    assert there == {name: value for name, value in before.items() if name != "opened"}


async def test_a_shared_source_that_changed_meanwhile_is_moved_anew(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    await move(*to_shared(path, url), quiet)
    source, target = to_local(url, tmp_path / "b.db")
    cutting(target, 15, after=True)
    with pytest.raises(Cut):
        await move(source, target, quiet)
    store = await shared_store(url)
    scribe = Scribe(store)
    s = scribe.create(10**15)
    await scribe.commit()
    await store.close(clean=True)
    await move(*to_local(url, tmp_path / "b.db"), quiet)
    opened = local.at(tmp_path / "b.db")
    await opened.open()
    assert replace((await opened.read([s.key]))[s.key], commit=0) == s  # type: ignore[type-var]
    assert opened._state.last_number >= 10**15


# -- what is refused


async def test_a_move_that_was_done_is_found_done(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    assert not (await move(*to_shared(path, url), quiet)).was_there
    assert (await move(*to_shared(path, url), quiet)).was_there
    assert not (await move(*to_local(url, tmp_path / "b.db"), quiet)).was_there
    assert (await move(*to_local(url, tmp_path / "b.db"), quiet)).was_there
    assert (await move(*to_local(url, path), quiet)).was_there  # the first one is the same


async def fails(source: Any, target: Any) -> str:
    with pytest.raises((StartError, StorageError)) as failure:
        await move(source, target, quiet)
    return str(failure.value)


async def test_a_target_with_other_sessions_is_refused(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, scribe = await closed(local, tmp_path / "a.db")
    other, _ = await closed(local, tmp_path / "other.db")
    await come_and_gone(local, other)
    await move(*to_shared(other, url), quiet)
    said = await fails(*to_shared(path, url))
    assert "holds something else" in said
    assert "sessions: 58 and 59" in said
    assert "--db-schema" in said
    image = path.read_bytes()
    said = await fails(*to_local(url, path))
    assert "name a file that is not there yet" in said
    assert path.read_bytes() == image
    # As many rows, and one of them is another.
    store = local.at(path)
    found = await store.open()
    more = Scribe(store, found.commit)
    more.entities, more.keys = scribe.entities, scribe.keys
    await store.close(clean=True)
    twin = local.at(tmp_path / "twin.db")
    await twin.open()
    second = Scribe(twin)
    second.create(1, session_state=b"[1]")
    await second.commit()
    await twin.close(clean=True)
    single = local.at(tmp_path / "single.db")
    await single.open()
    first = Scribe(single)
    first.create(1, session_state=b"[2]")
    await first.commit()
    await single.close(clean=True)
    await admin.init(url, "twin")
    await move(*to_shared(twin.path, url, "twin"), quiet)
    said = await fails(*to_shared(single.path, url, "twin"))
    assert "records of the history: 2 with checksum" in said


async def test_a_part_of_another_database_is_refused(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    other, _ = await closed(local, tmp_path / "other.db")
    source, target = to_shared(path, url)
    cutting(target, 9, after=True)
    with pytest.raises(Cut):
        await move(source, target, quiet)
    assert "a part of another database, whose move was cut off" in await fails(*to_shared(other, url))
    assert "a move into it was cut off; run that to its end first" in await fails(*to_local(url, tmp_path / "b.db"))
    assert names(tmp_path, "b.db*") == []
    assert (await move(*to_shared(path, url), quiet)).contents.sessions.rows == 58


async def test_databases_that_are_missing_or_no_databases_are_refused(
    url: str, database_url: str, tmp_path: Path, local: LocalMaker
) -> None:
    assert "does not exist" in await fails(*to_shared(tmp_path / "none.db", url))
    (tmp_path / "text").write_text("a text, and so no database of ours" * 10)
    assert "is not an SQLite database" in await fails(*to_shared(tmp_path / "text", url))
    assert "is not an SQLite database" in await fails(*to_local(url, tmp_path / "text"))
    (tmp_path / "empty").touch()
    assert "is empty" in await fails(*to_shared(tmp_path / "empty", url))
    path, _ = await closed(local, tmp_path / "a.db")
    assert "stui-sessions db init" in await fails(*to_shared(path, url, "missing"))
    (tmp_path / "b.db.moving").write_text("something that nobody wants to lose" * 10)
    assert "is not an SQLite database" in await fails(*to_local(url, tmp_path / "b.db"))
    assert (tmp_path / "b.db.moving").exists()
    assert names(tmp_path, "*.lock") == ["a.db.lock"]


async def test_a_log_whose_database_is_missing_is_left_alone(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    path.unlink()
    await move(*to_local(url, path), quiet)  # of one that was closed in order nothing is missing
    path.unlink()
    (segments.directory_of(path) / segments.CLOSED).unlink()
    assert "is missing, but its log" in await fails(*to_local(url, path))
    assert segments.ordinals(segments.directory_of(path))


async def test_a_local_database_in_use_is_refused(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    store = local.at(path)
    await store.open()
    assert "another server has this database open" in await fails(*to_shared(path, url))
    assert "another server has this database open" in await fails(*to_local(url, path))
    await store.close(clean=True)
    lock = FileLock(tmp_path / "b.db.lock")
    lock.acquire()
    assert "another server has this database open" in await fails(*to_local(url, tmp_path / "b.db"))
    lock.release()


async def test_a_shared_store_in_use_is_refused(
    local: LocalMaker, url: str, tmp_path: Path, postgres: Postgres
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    name = url.rpartition("/")[2]
    store = await shared_store(url)
    for source, target in (to_shared(path, url), to_local(url, tmp_path / "b.db")):
        said = await fails(source, target)
        assert "is in use by a server: the lane" in said
        assert "s ago. Stop all servers" in said
    await store.close(clean=True)
    assert ("t",) not in postgres.sql("SELECT is_open FROM stui_sessions.lanes", name)
    # One that has not been seen for a minute, and whose connections are there still.
    lane = f"INSERT INTO stui_sessions.lanes SELECT 'a', 7, true, {NOW} - 61000"
    postgres.sql(lane, name)
    connection = await connect(url)
    said = await fails(*to_shared(path, url))
    assert "the lane a is open and was last seen 61 s ago" in said or "62 s ago" in said
    assert "1 open connections here (stui-sessions from 127.0.0.1)" in said
    # Killed, and gone for long: nothing is there but its lane.
    await connection.close()
    assert (await move(*to_shared(path, url), quiet)).contents.sessions.rows == 58
    assert ("t",) in postgres.sql("SELECT is_open FROM stui_sessions.lanes", name)


async def test_while_a_move_goes_on_no_other_one_and_no_server_writes(
    local: LocalMaker, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    monkeypatch.setattr(moving_shared, "LOCK_SECONDS", 1)
    source, target = to_shared(path, url)
    said = []
    end = target.end

    async def end_slowly(step: Any) -> None:
        said.append(await fails(*to_local(url, tmp_path / "b.db")))
        said.append(await fails(*to_shared(path, url)))
        await end(step)

    monkeypatch.setattr(target, "end", end_slowly)
    assert (await move(source, target, quiet)).contents.sessions.rows == 58
    assert len(said) == 6
    assert all("is in use: another move has it" in text for text in said[::2])
    assert all("another server has this database open" in text for text in said[1::2])


@pytest.mark.parametrize("way", ["shared", "local"])
async def test_what_another_move_has_just_made_is_left_alone(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None, way: str
) -> None:
    """Two go on where one was cut off: the second gets the lock when the first has done it all."""
    path, _ = await closed(local, tmp_path / "a.db")
    if way == "local":
        await move(*to_shared(path, url), quiet)

    def sides() -> Any:
        return to_shared(path, url) if way == "shared" else to_local(url, tmp_path / "b.db")

    source, target = sides()
    cutting(target, 6, after=True)
    with pytest.raises(Cut):
        await move(source, target, quiet)
    source, target = sides()
    if way == "shared":
        lock = target._lock

        async def lock_late() -> None:
            await move(*sides(), quiet)
            await lock()

        target._lock = lock_late
        there = await target.open()
        assert there is not None
        assert (await there.counts()).sessions == 58
        await target.close()
        assert await is_usable(url)
    else:
        await target.open()
        assert "another server has this database open" in await fails(*sides())
        await target.close()
        assert not (await move(*sides(), quiet)).was_there
        assert (await move(source, target, quiet)).was_there
        assert segments.ordinals(tmp_path / "b.db.log")


async def test_without_the_lock_nothing_is_written_any_more(
    local: LocalMaker, url: str, tmp_path: Path, small_pieces: None, postgres: Postgres
) -> None:
    """The connection that keeps servers away is lost: they may write, so the move must not go on."""
    path, _ = await closed(local, tmp_path / "a.db")
    source, target = to_shared(path, url)
    put, calls = target.put, []

    async def put_cut_off(step: Any, piece: list[Any]) -> None:
        calls.append(step)
        if len(calls) == 4:
            assert target._held is not None
            target._held.terminate()
        await put(step, piece)

    target.put = put_cut_off  # type: ignore[method-assign]
    assert "is lost" in await fails(source, target)
    assert len(calls) == 4
    assert (await move(*to_shared(path, url), quiet)).contents.sessions.rows == 58


async def test_an_unsafe_database_is_refused(local: LocalMaker, url: str, tmp_path: Path, postgres: Postgres) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    postgres.sql(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    assert "does not keep its promises" in await fails(*to_shared(path, url))
    target = SharedTarget(url, SCHEMA, "db", True)
    assert (await move(to_shared(path, url)[0], target, quiet)).contents.sessions.rows == 58


# -- what was moved is compared


async def corrupted(target: Target, corrupt: Callable[[], None]) -> None:
    """Have something go wrong when all rows were written."""
    finish = target.finish

    async def finish_badly(*arguments: Any) -> Any:
        made = await finish(*arguments)
        corrupt()
        return made

    target.finish = finish_badly  # type: ignore[method-assign]


S = "stui_sessions"
GOOD_ROW = f"UPDATE {S}.sessions a SET head = b.head FROM {S}.sessions b WHERE a.number = 1 AND b.number = 2"


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        (GOOD_ROW, "one of the sessions (number 1)"),
        (f"UPDATE {S}.sessions SET version = version + 1 WHERE number = 7", "one of the sessions (number 7)"),
        (f"DELETE FROM {S}.sessions WHERE number = 7", "sessions: 58 with checksum"),
        (f"DELETE FROM {S}.entities WHERE ctid = (SELECT min(ctid) FROM {S}.entities)", "owners and external ids:"),
        (f"UPDATE {S}.entities SET version = 77 WHERE kind = 'owner'", "one of the entities (an owner)"),
        (f"UPDATE {S}.records SET data = '\\x00' WHERE version = 1", "one of the records"),
        (
            f"UPDATE {S}.records SET data = (SELECT data FROM {S}.records WHERE version = 2 ORDER BY hash LIMIT 1)"
            f" WHERE (hash, version) = (SELECT hash, version FROM {S}.records WHERE version = 1 ORDER BY hash LIMIT 1)",
            "records of the history:",
        ),
        (f"UPDATE {S}.totals SET live = live + 1 WHERE tenant = ''", "totals:"),
        (f"UPDATE {S}.meta SET value = '59' WHERE key = 'last_number'", "session numbers: given out up to 60"),
    ],
)
async def test_what_is_not_the_same_is_found(
    local: LocalMaker, url: str, tmp_path: Path, postgres: Postgres, sql: str, what: str
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    source, target = to_shared(path, url)
    await corrupted(target, lambda: postgres.sql(sql, url.rpartition("/")[2]) and None)
    said = await fails(source, target)
    assert what in said
    assert "Run it again: it begins anew" in said
    assert not await is_usable(url)
    assert (await move(*to_shared(path, url), quiet)).contents.sessions.rows == 58
    await (await shared_store(url)).close(clean=True)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE sessions SET data = x'00' WHERE number = 7", "session 7 of b.db fails its checksum"),
        ("DELETE FROM sessions WHERE number = 7", "sessions: 58 with checksum"),
        ("UPDATE meta SET value = x'90' WHERE key = 'totals'", "totals:"),
        ("UPDATE meta SET value = 59 WHERE key = 'last_number'", "session numbers:"),
        ("UPDATE meta SET value = 30 WHERE key = 'tables_commit'", "records of the history:"),
    ],
)
async def test_what_is_not_the_same_is_found_in_a_file(
    local: LocalMaker, url: str, tmp_path: Path, sql: str, what: str
) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    await move(*to_shared(path, url), quiet)
    source, target = to_local(url, tmp_path / "b.db")

    finish = target.finish

    async def finish_badly(*arguments: Any) -> Any:
        made = await finish(*arguments)
        made.close()  # type: ignore[attr-defined]
        with sqlite3.connect(tmp_path / "b.db.moving") as tables:
            tables.execute(sql)
        tables.close()
        target._made = moving_local.LocalTables(tmp_path / "b.db.moving", tmp_path / "b.db.log", "b.db")
        return target._made

    target.finish = finish_badly  # type: ignore[method-assign]
    assert what in await fails(source, target)
    assert names(tmp_path, "b.db*") == []
    assert (await move(*to_local(url, tmp_path / "b.db"), quiet)).contents.sessions.rows == 58


async def test_a_damaged_source_is_refused(local: LocalMaker, url: str, tmp_path: Path) -> None:
    path, _ = await closed(local, tmp_path / "a.db")
    with sqlite3.connect(path) as tables:
        tables.execute("UPDATE sessions SET data = x'00' WHERE number = 7")
    tables.close()
    assert "session 7 of a.db fails its checksum" in await fails(*to_shared(path, url))
    assert not await is_usable(url)


async def test_an_empty_database_is_moved(local: LocalMaker, url: str, tmp_path: Path) -> None:
    store = local.at(tmp_path / "a.db")
    await store.open()
    await store.close(clean=True)
    moved = await move(*to_shared(store.path, url), quiet)
    assert isinstance(moved, Moved)
    await move(*to_local(url, tmp_path / "b.db"), quiet)
    back = local.at(tmp_path / "b.db")
    opened = await back.open()
    assert (opened.commit, opened.last_number, opened.clean) == (0, 0, True)
    assert local.log.named("log_begun_anew") == []


@pytest.mark.parametrize("version", [1, 2])
async def test_a_database_of_a_former_version_is_brought_up_to_date(
    local: LocalMaker, url: str, tmp_path: Path, version: int
) -> None:
    path = make_former(tmp_path / "a.db", version)
    moved = await move(*to_shared(path, url), quiet)
    assert moved.contents.sessions.rows == len(after(version))
    shared = await shared_store(url)
    found = await shared.read([s.key for s in after(version)])
    for s in after(version):
        there = found[s.key]
        assert isinstance(there, Session)
        assert (there.number, there.session_state, there.about) == (s.number, s.session_state, s.about)
    await shared.close(clean=True)
