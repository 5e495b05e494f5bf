"""Database files that are damaged, cut off or not ours: told, refused, and never overwritten."""

import contextlib
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.storage.local.schema import SCHEMA_VERSION
from stui_sessions.storage.local.segments import START, directory_of
from tests.conftest import StartServer
from tests.support.database import SESSIONS, edit, fill, flip, inflate, refusal, session_ids, unchanged
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.local_store

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with sessions in it, closed in order."""
    server = fill(ServerProcess(tmp_path_factory.mktemp("template")))
    return Path(server.db)


@pytest.fixture
def server(make_server: StartServer, template: Path) -> ServerProcess:
    """A server that has such a database, and is not started yet."""
    made = make_server()
    shutil.copy2(template, made.db)
    return made


# At start.

Change = Callable[[Path], Any]

DAMAGES: dict[str, tuple[Change, str]] = {
    "magic": (lambda path: flip(path, 0, 16), "not an SQLite database"),
    "header": (lambda path: flip(path, 16, 40), "damaged"),
    "schema page": (lambda path: flip(path, 100, 500), "damaged"),
    "middle pages": (lambda path: flip(path, path.stat().st_size // 2 // 4096 * 4096, 3 * 4096), "damaged"),
    "all but the header": (lambda path: flip(path, 100, path.stat().st_size), "damaged"),
    "meta": (lambda path: edit(path, "UPDATE meta SET value = 'x' WHERE key = 'tables_commit'"), "damaged"),
    "totals": (lambda path: edit(path, "UPDATE meta SET value = x'c1' WHERE key = 'totals'"), "damaged"),
    "entities dropped": (lambda path: edit(path, "DROP TABLE entities"), "damaged"),
    "index dropped": (lambda path: edit(path, "DROP INDEX sessions_by_due"), "damaged"),
    "table dropped": (lambda path: edit(path, "DROP TABLE meta"), "damaged"),
    "half": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
    "one page": (lambda path: os.truncate(path, 4096), "damaged"),
    "60 bytes": (lambda path: os.truncate(path, 60), "damaged"),
    "newer schema": (
        lambda path: edit(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}"),
        f"schema version {SCHEMA_VERSION + 1}",
    ),
    "other program": (lambda path: edit(path, "PRAGMA application_id = 7"), "another program"),
    "no version": (lambda path: edit(path, "PRAGMA user_version = 0"), "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_database_is_refused_and_left_alone(server: ServerProcess, kind: str) -> None:
    change, said = DAMAGES[kind]
    change(Path(server.db))
    with unchanged(server):
        assert said in refusal(server)


@pytest.mark.parametrize("kind", ["middle pages", "schema page", "half", "newer schema"])
def test_damage_beside_a_write_ahead_log(server: ServerProcess, kind: str) -> None:
    """After a kill, the log holds what the file does not; neither may be touched."""
    server.start()
    server.result("create_session", client_id="late")
    server.kill()
    log = Path(f"{server.db}-wal")
    assert log.stat().st_size > 0
    aside = log.rename(server.directory / "aside")  # or the editing below would merge it
    DAMAGES[kind][0](Path(server.db))
    aside.rename(log)
    with unchanged(server):
        refusal(server)


# The log, after a kill: it alone has the last commits.


def log_of(path: Path) -> Path:
    """The segment that is written to."""
    return min(directory_of(path).glob("*.log"))


def lost_segment(path: Path) -> None:
    log_of(path).unlink()


LOG_DAMAGES: dict[str, tuple[Change, str]] = {
    "first entry": (lambda path: flip(log_of(path), START, 30), "is damaged"),
    "a payload": (lambda path: flip(log_of(path), START + 300, 1), "is damaged"),
    "many bytes": (lambda path: flip(log_of(path), START + 9000, 9000), "is missing at"),
    "header": (lambda path: flip(log_of(path), 8, 1), "is damaged: its header fails its checksum"),
    "cut off": (lambda path: os.truncate(log_of(path), 200_000), "is damaged: it has 200000 bytes"),
    "empty": (lambda path: os.truncate(log_of(path), 0), "is damaged"),
    "lost": (lost_segment, "the log of this database is missing"),
    "all lost": (lambda path: shutil.rmtree(directory_of(path)), "the log of this database is missing"),
}


@pytest.fixture
def killed(make_server: StartServer) -> ServerProcess:
    """A server that was killed with all of its sessions in the log alone."""
    return fill(make_server("--snapshot-interval", "3600"), kill=True)


@pytest.mark.parametrize("kind", LOG_DAMAGES)
def test_a_damaged_log_is_refused_and_left_alone(killed: ServerProcess, kind: str) -> None:
    change, said = LOG_DAMAGES[kind]
    change(Path(killed.db))
    with unchanged(killed):
        assert said in refusal(killed)


def test_a_torn_end_of_the_log_is_no_damage(killed: ServerProcess) -> None:
    """A commit that nobody was told of."""
    log = log_of(Path(killed.db))
    end = len(log.read_bytes().rstrip(b"\0"))
    with log.open("r+b") as file:
        file.seek(end)
        file.write(b"STLE" + bytes(range(200)))
    killed.start()
    with killed.connect() as client:
        assert len(session_ids(client)) == SESSIONS


def foreign_sqlite(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')")


def log_without_database(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"what was committed and not merged")


FOREIGN: dict[str, tuple[Change, str]] = {
    "text": (lambda path: path.write_text("Dear diary,\n" * 100), "not an SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "not an SQLite database"),
    "one byte": (lambda path: path.write_bytes(b"\n"), "not an SQLite database"),
    "other SQLite": (foreign_sqlite, "another program"),
    "directory": (lambda path: path.mkdir(), "a directory"),
    "fifo": (lambda path: os.mkfifo(path), "a named pipe"),
    "device": (lambda path: path.symlink_to("/dev/null"), "a character device"),
    "log without database": (log_without_database, "write-ahead log"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_database_of_ours_is_refused(make_server: StartServer, kind: str) -> None:
    make, said = FOREIGN[kind]
    server = make_server()
    make(Path(server.db))
    with unchanged(server):
        assert said in refusal(server)


def test_a_socket_is_no_database(make_server: StartServer, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "s"))
        assert "a socket" in refusal(make_server(db=tmp_path / "s"))


# While serving.

DAMAGED = 4
"""The number of the session that is spoiled."""


@contextlib.contextmanager
def unchanged_row(server: ServerProcess) -> Iterator[None]:
    """What is stored of the damaged session may not change in here."""

    def row() -> Any:
        with contextlib.closing(sqlite3.connect(f"file:{server.db}?mode=ro", uri=True)) as connection:
            query = "SELECT sequence, status, crc, hex(data) FROM sessions WHERE number = ?"
            return connection.execute(query, (DAMAGED,)).fetchone()

    before = row()
    assert before is not None
    yield
    assert row() == before


def test_a_damaged_session_fails_alone(server: ServerProcess) -> None:
    with server.start().connect() as client:
        ids = session_ids(client)
    server.terminate()
    spoilt = f"CAST(substr(data, 1, 200) || x'ff' || substr(data, 202) AS BLOB) WHERE number = {DAMAGED}"
    edit(Path(server.db), f"UPDATE sessions SET data = {spoilt}")
    expected = [None] * SESSIONS
    expected[DAMAGED - 1] = "session_damaged"
    with unchanged_row(server):
        server.start()
        with server.connect() as client:
            for command in ("get_session_info", "restore_session", "close_session"):
                replies = client.pipeline([(command, {"session_id": i}) for i in ids])
                assert [reply.get("error_code") for reply in replies] == expected
                assert replies[DAMAGED - 1]["error_type"] == "RuntimeError"
            assert client.result("create_session", client_id="c3")  # its client can go on
        assert server.terminate() == 0
    assert '"session_damaged"' in server.stderr()
    assert not any(session_id in server.stderr() for session_id in ids)


def test_a_large_database_is_checked_while_serving(server: ServerProcess) -> None:
    """Beyond 64 MiB a damaged page does not hold the start up; writes stop once it is found."""
    path = Path(server.db)
    inflate(path, 66 * MIB)
    flip(path, 40 * MIB, 8)
    server.start()
    with server.connect() as client:
        (session_id, *others) = session_ids(client)

        def update() -> dict[str, Any]:
            return client.request("update_session_state", session_id=session_id, state_data={"n": 1})

        reply = until(lambda: (r := update())["status"] == "error" and r, "the damage to be found", timeout=30)
        assert (reply["error_type"], reply["error_code"]) == ("RuntimeError", "storage_damaged")
        for other in others:
            assert client.result("restore_session", session_id=other)["revision"] == 1
        revision = client.result("restore_session", session_id=session_id)["revision"]
    assert "storage.damaged" in server.stderr()
    with unchanged(server):
        assert server.terminate() == 0
    server.start()
    assert server.result("restore_session", session_id=session_id)["revision"] == revision
