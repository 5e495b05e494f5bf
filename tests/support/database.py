"""Databases to be damaged: made by a real server, looked at byte by byte."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tests.support.line_client import LineClient
from tests.support.load import SERVER_ARGS
from tests.support.server import ServerProcess

SESSIONS = 50
STATE = {"pad": "x" * 2000}


def fill(server: ServerProcess, *, kill: bool = False) -> ServerProcess:
    """Start the server, make one session for each of the clients c0, c1, …, and stop it in order, or kill it."""
    server.args += SERVER_ARGS
    server.start()
    with server.connect() as client:
        requests = [("create_session", {"client_id": f"c{n}", "session_state": STATE}) for n in range(SESSIONS)]
        replies = [client.pipeline([request])[0] for request in requests]  # a commit for each
        assert all(reply["status"] == "success" for reply in replies)
    if kill:
        server.kill()
    else:
        assert server.terminate() == 0
    return server


def session_ids(client: LineClient) -> list[str]:
    """The ids of what `fill` made, in their order; a damaged session is in no list."""
    lists = client.pipeline([("list_client_sessions", {"client_id": f"c{n}"}) for n in range(SESSIONS)])
    return [reply["result"]["sessions"][0]["session_id"] for reply in lists]


def assert_still_there(server: ServerProcess) -> None:
    """All that `fill` made can be used."""
    with server.connect() as client:
        restored = client.pipeline([("restore_session", {"session_id": i}) for i in session_ids(client)])
    assert [reply["result"]["session_state"] for reply in restored] == [STATE] * SESSIONS


def refusal(server: ServerProcess) -> str:
    """The server does not start; the one line that says why."""
    code, stderr = server.fails_to_start()
    assert code == 1
    assert "Traceback" not in stderr
    said = [line for line in stderr.splitlines() if not line.startswith("{")]  # beside the log
    assert len(said) == 1, stderr
    assert said[0].startswith("stui-sessions: ")
    assert len(said[0]) < 1000
    return said[0]


def contents(directory: Path) -> dict[str, str]:
    """The digest of every database file that is not empty; the lock and SQLite's shared memory are no content."""
    files = [file for file in directory.glob("sessions.db*") if file.is_file() and file.stat().st_size]
    files += directory.glob("sessions.db.log/*")
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if not file.name.endswith((".lock", "-shm"))
    }


@contextlib.contextmanager
def unchanged(server: ServerProcess) -> Iterator[None]:
    """No byte of the server's database may change in here, and no file of it may come or go."""
    directory = Path(server.db).parent
    before = contents(directory)
    yield
    assert contents(directory) == before


# Damage.


def flip(path: Path, offset: int, count: int) -> None:
    """Spoil up to `count` bytes."""
    with path.open("r+b") as file:
        file.seek(offset)
        data = file.read(count)
        file.seek(offset)
        file.write(bytes(byte ^ 0x5A for byte in data))


def edit(path: Path, sql: str) -> None:
    """Change the database behind the server's back."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute(sql).rowcount != 0, "nothing was changed"
        connection.commit()


def inflate(path: Path, size: int) -> None:
    """Add rows that nobody asks for, cheaply, until the database has `size` bytes."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1000 + ?)"
            "INSERT INTO sessions (number, session_id, client_id, user_id, external_id, title, status, active_at, "
            "due_at, size, sequence, head_crc, crc, head, data) "
            "SELECT i, CAST('filler' || i AS BLOB), x'01', x'', x'', x'', 2, 0, 9e15, 1, 1, 1, 1, x'', "
            "zeroblob(1000000) FROM n",
            (size // 1_000_000,),
        )
        connection.commit()
    assert path.stat().st_size >= size
