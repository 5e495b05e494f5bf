"""The local store's start: what it makes, what it refuses, and who may have it."""

import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from stui_sessions.domain.entities import Session, session_key
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.storage import files, lock
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.local import schema
from stui_sessions.storage.local.reader import Reader
from stui_sessions.storage.local.tables import Tables
from tests.storage.stores import LocalMaker, Scribe


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def contents(directory: Path) -> dict[str, bytes]:
    """Everything that is not empty; the lock and SQLite's shared memory are no content."""
    files = (p for p in directory.rglob("*") if p.is_file() and not p.name.endswith(("-shm", ".lock")))
    found = {str(p.relative_to(directory)): p.read_bytes() for p in files}
    return {name: data for name, data in found.items() if data}


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    before = contents(directory)
    yield
    assert contents(directory) == before


async def filled(local: LocalMaker, path: Path, *, clean: bool = True) -> Path:
    """50 sessions in three commits; unless `clean`, with a write-ahead log, and two of them in the log alone."""
    store = local.at(path)
    await store.open()
    scribe = Scribe(store)
    for n in range(1, 51):
        scribe.create(n, session_state=b"x" * 2000)
    await scribe.commit()
    await store.flush()
    for n in (1, 2):
        scribe.use(scribe.session(n))
        await scribe.commit()
    if clean:
        await store.close(clean=True)
        return path
    return (await local.crashed(store)).path


@contextmanager
def plain_user() -> Iterator[Path]:
    """A directory of a user for whom permissions count (for root they do not)."""
    directory = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o700)
        shutil.rmtree(directory)


async def refused(local: LocalMaker, path: Path) -> str:
    store = local.at(path)
    with pytest.raises(StartError) as caught:
        await store.open()
    with pytest.raises(StorageError):
        await store.read([session_key("", "a")])
    return str(caught.value)


# What is made.


async def test_directories_and_files_are_for_the_owner_alone(local: LocalMaker, tmp_path: Path) -> None:
    outer = tmp_path / "there"
    outer.mkdir(mode=0o755)
    path = outer / "a" / "b" / "s.db"
    old = os.umask(0)
    try:
        store = local.at(path)
        await store.open()
    finally:
        os.umask(old)
    assert mode(outer) == 0o755
    assert mode(outer / "a") == mode(outer / "a" / "b") == 0o700
    assert {p.name: mode(p) for p in path.parent.iterdir()} == dict.fromkeys(
        ["s.db", "s.db-wal", "s.db-shm", "s.db.lock"], 0o600
    ) | {"s.db.log": 0o700}
    assert {mode(p) for p in (path.parent / "s.db.log").iterdir()} == {0o600}
    await store.close(clean=True)
    # One file, to be copied, and the log of what was.
    assert {name.split("/")[0] for name in contents(path.parent)} == {"s.db", "s.db.log"}


async def test_a_strict_umask_is_no_obstacle(local: LocalMaker) -> None:
    with plain_user() as directory:
        old = os.umask(0o377)
        try:
            store = local.at(directory / "s.db")
            await store.open()
            assert mode(directory / "s.db") == 0o600
            await store.close(clean=True)
        finally:
            os.umask(old)


async def test_loose_permissions_are_tightened(local: LocalMaker, tmp_path: Path) -> None:
    path = await filled(local, tmp_path / "s.db", clean=False)
    suffixes = ("", "-wal")
    for suffix in suffixes:
        os.chmod(f"{path}{suffix}", 0o644)
    await local.at(path).open()
    assert [mode(f"{path}{suffix}") for suffix in (*suffixes, "-shm", ".lock")] == [0o600] * 4
    assert [e["was"] for e in local.log.named("database_permissions_tightened")] == ["0644"] * 2


async def test_an_empty_file_is_a_new_database(local: LocalMaker, tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    assert (await local.at(tmp_path / "s.db").open()).clean


async def test_names_that_mean_something_in_a_uri(local: LocalMaker, tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory&b#c%41 é.db"
    await filled(local, path)
    assert path.stat().st_size > 0
    assert (await local.at(path).open()).commit == 3


# What is refused, and left as it is.


def other_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT)")


FOREIGN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "directory": (Path.mkdir, "a directory"),
    "fifo": (os.mkfifo, "a named pipe"),
    "device": (lambda path: path.symlink_to("/dev/null"), "a character device"),
    "text": (lambda path: path.write_text("Dear diary,\n" * 500), "not an SQLite database"),
    "short text": (lambda path: path.write_text("x"), "not an SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "not an SQLite database"),
    "other program": (other_sqlite, "another program"),
    "log alone": (lambda path: path.with_name("s.db-wal").write_bytes(b"x"), "write-ahead log"),
    "half a header": (lambda path: path.write_bytes(files.MAGIC + bytes(40)), "damaged: 56 bytes"),
    "part of the magic": (lambda path: path.write_bytes(files.MAGIC[:5]), "damaged: 5 bytes"),
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_what_is_not_ours(local: LocalMaker, tmp_path: Path, kind: str) -> None:
    make, said = FOREIGN[kind]
    make(tmp_path / "s.db")
    before = names(tmp_path)
    with unchanged(tmp_path):
        assert said in await refused(local, tmp_path / "s.db")
    assert names(tmp_path) == before


async def test_a_socket(local: LocalMaker, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken, tempfile.TemporaryDirectory() as short:
        taken.bind(f"{short}/s")
        assert "a socket" in await refused(local, Path(short, "s"))


def edit(*statements: str) -> Callable[[Path], Any]:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return run


def flip(offset: int, count: int) -> Callable[[Path], Any]:
    def run(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[offset : offset + count] = bytes(byte ^ 0x5A for byte in data[offset : offset + count])
        path.write_bytes(data)

    return run


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer schema": (edit("PRAGMA user_version = 9"), "schema version 9, and this server knows up to version 3"),
    "no version": (edit("PRAGMA user_version = 0"), "no schema version"),
    "table dropped": (edit("DROP TABLE meta"), "table meta missing"),
    "column dropped": (edit("ALTER TABLE sessions DROP COLUMN size"), "column sessions.size missing"),
    "new column dropped": (edit("ALTER TABLE sessions DROP COLUMN head_crc"), "column sessions.head_crc missing"),
    "new index dropped": (edit("DROP INDEX sessions_by_title"), "index sessions_by_title missing"),
    "index dropped": (edit("DROP INDEX sessions_by_id"), "index sessions_by_id missing"),
    "page": (flip(4096, 300), "damaged"),
    "page size": (flip(16, 2), "damaged"),
    "free pages": (flip(36, 4), "damaged"),
    "schema": (flip(100, 300), "damaged"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 8192 * 4096), "damaged"),
    "meta": (edit("UPDATE meta SET value = 'x' WHERE key = 'tables_commit'"), "damaged"),
    "totals": (edit("UPDATE meta SET value = x'c1' WHERE key = 'totals'"), "damaged"),
    "entities": (edit("ALTER TABLE entities DROP COLUMN crc"), "column entities.crc missing"),
}


def killed(path: Path, directory: Path) -> Path:
    """The database as a killed process leaves it, with a write-ahead log (where damage lets one be written)."""
    directory.mkdir()
    with closing(sqlite3.connect(shutil.copyfile(path, path.with_name("copy.db")))) as connection:
        with suppress(sqlite3.DatabaseError):
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
            connection.commit()
        for source in path.parent.glob("copy.db*"):
            shutil.copyfile(source, directory / source.name.replace("copy", "s"))
    return directory / "s.db"


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("kind", DAMAGES)
async def test_damage(local: LocalMaker, tmp_path: Path, kind: str, clean: bool) -> None:
    damage, said = DAMAGES[kind]
    path = await filled(local, tmp_path / "s.db")
    damage(path)
    if not clean:
        path = killed(path, tmp_path / "killed")
    with unchanged(path.parent):
        text = await refused(local, path)
    assert said in text
    assert str(path) in text or "version" in text


async def test_a_large_database_is_checked_later(
    local: LocalMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await filled(local, tmp_path / "s.db")
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", path.stat().st_size)
    store = local.at(path)
    await store.open()
    assert store.checked
    await store.close(clean=True)
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", path.stat().st_size - 1)
    await store.open()
    assert not store.checked
    await store.check()
    assert store.checked


async def test_damage_found_later_stops_the_writing(
    local: LocalMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await filled(local, tmp_path / "s.db")
    flip(path.stat().st_size - 4096, 300)(path)
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store = local.at(path)
    await store.open()
    await store.commit(Batch(4, [], {}, {}))
    with pytest.raises(StorageDamaged):
        await store.check()
    assert not store.checked
    with unchanged(tmp_path):
        with pytest.raises(StorageDamaged):
            await store.commit(Batch(5, [], {}, {}))
        key = Scribe(store).create(1).key
        assert isinstance((await store.read([key]))[key], Session)
        await store.close(clean=True)


# Where we may not.


async def test_a_directory_that_must_not_be_written(local: LocalMaker) -> None:
    with plain_user() as directory:
        directory.chmod(0o500)
        assert "no permission" in await refused(local, directory / "s.db")
        assert "no permission" in await refused(local, directory / "new" / "s.db")
        assert list(directory.iterdir()) == []


@pytest.mark.parametrize("mode", [0o400, 0o200, 0o000])
async def test_a_file_that_must_not_be_used(local: LocalMaker, mode: int) -> None:
    with plain_user() as directory:
        path = await filled(local, directory / "s.db")
        path.chmod(mode)
        assert "no permission" in await refused(local, path)
        assert "s.db.lock" in names(directory)  # it was there before
        path.chmod(0o600)
        store = local.at(path)
        assert (await store.open()).commit == 3
        await store.close(clean=True)


async def test_a_parent_that_is_a_file(local: LocalMaker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in await refused(local, tmp_path / "file" / "s.db")


# One server for each database.


async def test_a_second_store_is_refused(local: LocalMaker, tmp_path: Path) -> None:
    first = local.at(tmp_path / "s.db")
    await first.open()
    (tmp_path / "link.db").symlink_to(tmp_path / "s.db")
    for name in ("s.db", "link.db"):
        text = await refused(local, tmp_path / name)
        assert "another server" in text
        assert str(tmp_path / "s.db.lock") in text
        assert f"process {os.getpid()}" in text
    with pytest.raises(StartError, match="open already"):
        await first.open()
    await first.commit(Batch(1, [], {}, {}))
    await first.close(clean=True)
    assert (await local.at(tmp_path / "s.db").open()).commit == 1


@contextmanager
def locked_elsewhere(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = (
        "import sys, pathlib, stui_sessions.storage.lock as l\n"
        "l.FileLock(pathlib.Path(sys.argv[1])).acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        yield other
        other.kill()


async def test_a_lock_of_another_process(local: LocalMaker, tmp_path: Path) -> None:
    with locked_elsewhere(tmp_path / "s.db.lock") as other:
        assert f"process {other.pid}" in await refused(local, tmp_path / "s.db")
        other.send_signal(signal.SIGKILL)
        other.wait()
        await local.at(tmp_path / "s.db").open()  # what a dead process has left is no lock


def test_a_lock_file_that_goes_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock must be on the file of that name, not on one that is gone."""
    path = tmp_path / "lock"
    flock = fcntl.flock
    calls: list[int] = []

    def unlink_once(fd: int, operation: int) -> None:
        if not calls:
            path.unlink()
        calls.append(fd)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", unlink_once)
    mine = lock.FileLock(path)
    mine.acquire()
    assert len(calls) == 2
    with pytest.raises(StartError, match="another server"):
        lock.FileLock(path).acquire()
    mine.release(remove=True)
    assert not path.exists()


# Killed while the database is made.

CREATE_AND_DIE = """
import asyncio, os, pathlib, signal, sys
from stui_sessions.storage.local import disk, schema
from stui_sessions.storage.local.store import LocalStore
from tests.storage.stores import Clock, RecordingLog

left = 0
connect = schema.connect

def traced(path, mode, **options):
    connection = connect(path, mode, **options)
    connection.set_trace_callback(step)
    return connection

def step(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Disk(disk.Disk):
    pass

def before(name):
    def operation(self, *arguments):
        step()
        getattr(disk.Disk, name)(self, *arguments)
        step()
    return operation

for name in ("write_at", "sync", "make", "rename", "remove"):
    setattr(Disk, name, before(name))

schema.connect = traced
for module in ("tables", "reader"):
    __import__(f"stui_sessions.storage.local.{module}")
    getattr(sys.modules[f"stui_sessions.storage.local.{module}"], "schema", None)
    sys.modules[f"stui_sessions.storage.local.{module}"].connect = traced
root = pathlib.Path(sys.argv[1])
for count in range(1, 200):
    child = os.fork()
    if child == 0:
        left = count
        path = root / str(count) / "s.db"
        store = LocalStore(path, durability="full", clock=Clock(), log=RecordingLog(), disk=Disk())
        asyncio.run(store.open())
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
print(count)
"""


def create_and_die(directory: Path) -> int:
    """Databases 1, 2, … in `directory`, each killed at that step of its creation; how many."""
    command = [sys.executable, "-c", CREATE_AND_DIE, str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout, run.stderr
    count = int(run.stdout)
    assert 25 < count < 199, run.stderr
    return count - 1


async def test_killed_at_any_step_of_the_creation(local: LocalMaker, tmp_path: Path) -> None:
    count = create_and_die(tmp_path)
    for number in range(1, count + 1):
        store = local.at(tmp_path / str(number) / "s.db")
        found = await store.open()
        assert (found.commit, found.replayed) == (0, 0)
        scribe = Scribe(store)
        scribe.create(1)
        await scribe.commit()
        await store.close(clean=True)
        assert (await local.at(store.path).open()).commit == 1
        await local.stores[-1].close(clean=True)


def cut_off(path: Path) -> None:
    """A power cut while it was made: the file has its length and not its content; the rollback journal knows that."""
    source = path.with_name("source.db")
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t SELECT zeroblob(100000)")
        rollback = source.with_name("source.db-journal").read_bytes()
    assert rollback
    path.write_bytes(bytes(8192))
    path.with_name(f"{path.name}-journal").write_bytes(rollback)


async def test_a_creation_that_was_cut_off(local: LocalMaker, tmp_path: Path) -> None:
    cut_off(tmp_path / "s.db")
    store = local.at(tmp_path / "s.db")
    assert (await store.open()).clean
    await store.commit(Batch(1, [], {}, {}))


# A long replay.


async def test_a_long_replay_says_how_far_it_is(local: LocalMaker, tmp_path: Path) -> None:
    path = await filled(local, tmp_path / "s.db", clean=False)
    assert local.log.named("log_replay") == []
    store = local.at(path)

    def ticking() -> int:
        local.clock.now += 2000
        return local.clock.now

    store._clock = ticking
    await store.open()
    first, second = local.log.named("log_replay")
    assert 0 < first["done"] < second["done"] < first["total"]


# What a refused start leaves.


async def test_a_database_that_was_new_is_not_left(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it fails; SQLite's error does not say that the disk is full."""
    path = local.directory / "s.db"
    for owner, name in ((schema, "create"), (Reader, "open"), (Tables, "note")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, Mock(side_effect=StorageError("disk I/O error")))
            patched.setattr(local.disk, "free", lambda directory: 4096)
            with pytest.raises(StartError, match=r"disk I/O error; the disk is full$"):
                await local.at(path).open()
        assert list(local.directory.iterdir()) == []


async def test_a_database_that_was_new_once_is_left(local: LocalMaker) -> None:
    store = local.at(local.directory / "s.db")
    scribe = Scribe(store, (await store.open()).commit)
    scribe.create(1)
    await scribe.commit()
    await store.close(clean=False)
    other = local.at(store.path)
    await other.open()
    with pytest.raises(StartError, match="another server"):
        await store.open()
    await other.close(clean=False)
    assert (await store.open()).commit == 1
    await scribe.check()
