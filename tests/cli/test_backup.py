"""`stui-sessions backup` and `restore`, with real servers and real files."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.storage import files
from stui_sessions.storage.local import schema
from tests.conftest import StartServer
from tests.support.load import SERVER_ARGS, Load
from tests.support.server import ServerProcess, environment
from tests.support.waiting import until

pytestmark = pytest.mark.local_store


def run(directory: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stui_sessions", *arguments]
    return subprocess.run(command, env=environment(directory, env), capture_output=True, text=True, timeout=120)


def good(directory: Path, *arguments: str, **env: str) -> str:
    done = run(directory, *arguments, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bad(directory: Path, *arguments: str, code: int = 1, **env: str) -> str:
    done = run(directory, *arguments, **env)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


def make(server: ServerProcess, count: int = 3) -> list[str]:
    with server.connect() as client:
        return [
            client.result("create_session", client_id=f"c{n}", session_state={"n": n})["session_id"]
            for n in range(count)
        ]


def states(server: ServerProcess, ids: list[str]) -> list[Any]:
    with server.connect() as client:
        return [client.result("restore_session", session_id=id)["session_state"] for id in ids]


def lay_by(path: Path, ids: list[str]) -> None:
    """What stands in for a database that is worth something."""
    path.write_bytes(repr(ids).encode())


@pytest.mark.parametrize("way", ["tcp", "unix", "db"])
def test_what_was_backed_up_is_restored(start_server: StartServer, tmp_path: Path, way: str) -> None:
    server = start_server(unix=tmp_path / "s")
    ids = make(server)
    target = {
        "tcp": ["--port", str(server.port)],
        "unix": ["--unix", str(server.unix)],
        "db": ["--db", str(server.db)],
    }[way]
    backup, restored = tmp_path / "b", tmp_path / "new" / "sessions.db"
    restored.parent.mkdir()
    said = good(tmp_path, "backup", str(backup), *target)
    assert said == f"{backup}: 3 sessions, {backup.stat().st_size:,} bytes\n"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert good(tmp_path, "restore", str(backup), "--db", str(restored)) == f"{restored}: 3 sessions\n"
    assert stat.S_IMODE(restored.stat().st_mode) == 0o600
    assert [p.name for p in restored.parent.iterdir()] == ["sessions.db"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    with start_server(db=restored) as second:
        assert states(second, ids) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_backup_needs_no_server(server: ServerProcess, tmp_path: Path) -> None:
    ids = make(server)
    server.kill()  # with a write-ahead log beside the database
    good(tmp_path, "backup", "--db", str(server.db), str(tmp_path / "b"))
    server.start()
    server.terminate()
    good(tmp_path, "backup", "--db", str(server.db), "--force", str(tmp_path / "b"))
    good(tmp_path, "restore", str(tmp_path / "b"), "--db", str(server.db), "--force")
    server.start()
    assert states(server, ids) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_under_load_everything_acknowledged_before_is_in_it(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(*SERVER_ARGS)
    ids = make(server, 8)
    acknowledged = [-1] * len(ids)
    stopping = threading.Event()

    def count(worker: int) -> None:
        with server.connect() as client:
            while not stopping.is_set():
                n = acknowledged[worker] + 1
                client.result("update_session_state", session_id=ids[worker], state_data={"n": n})
                acknowledged[worker] = n

    workers = [threading.Thread(target=count, args=(n,)) for n in range(len(ids))]
    for worker in workers:
        worker.start()
    try:
        for round in range(3):
            until(lambda: min(acknowledged) > 100, "some updates")
            before = list(acknowledged)
            backup, restored = tmp_path / f"b{round}", tmp_path / f"r{round}.db"
            good(tmp_path, "backup", str(backup), "--port", str(server.port))
            after = list(acknowledged)
            assert all(a < b for a, b in zip(before, after, strict=True))  # they went on
            good(tmp_path, "restore", str(backup), "--db", str(restored))
            with start_server(db=restored) as second:
                copied = [state["n"] for state in states(second, ids)]
            assert all(a <= n <= b + 1 for a, n, b in zip(before, copied, after, strict=True))
    finally:
        stopping.set()
        for worker in workers:
            worker.join()


def test_the_write_ahead_log_is_small_again(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(*SERVER_ARGS)
    wal = Path(f"{server.db}-wal")
    load = Load(server, depth=64).start()
    for _ in range(3):
        good(tmp_path, "backup", "--force", str(tmp_path / "b"), "--port", str(server.port))
    load.stop()
    assert wal.stat().st_size <= 24 * 2**20


def test_nothing_is_overwritten_without_force(server: ServerProcess, tmp_path: Path) -> None:
    make(server)
    taken, backup = tmp_path / "taken", tmp_path / "b"
    lay_by(taken, ["old"])
    port = str(server.port)
    assert "--force" in bad(tmp_path, "backup", str(taken), "--port", port)
    good(tmp_path, "backup", str(backup), "--port", port)
    assert "--force" in bad(tmp_path, "restore", str(backup), "--db", str(taken))
    assert taken.read_bytes() == b"['old']"
    good(tmp_path, "backup", "--force", str(taken), "--port", port)
    assert taken.read_bytes() != b"['old']"
    assert "no regular file" in bad(tmp_path, "backup", "--force", str(tmp_path), "--port", port)


def test_a_database_that_a_server_has_is_not_restored(server: ServerProcess, tmp_path: Path) -> None:
    ids = make(server)
    backup = tmp_path / "b"
    good(tmp_path, "backup", str(backup), "--port", str(server.port))
    for db in (Path(server.db), tmp_path / "link"):
        if not db.exists():
            db.symlink_to(server.db)
        error = bad(tmp_path, "restore", str(backup), "--db", str(db), "--force")
        assert "another server has this database open" in error
        assert str(server.pid) in error
    assert states(server, ids) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_the_database_of_a_running_server_is_no_place_for_a_backup(server: ServerProcess, tmp_path: Path) -> None:
    """Over the wire nobody else would notice; the server would go on writing into the file that is gone."""
    ids = make(server)
    said = bad(tmp_path, "backup", str(server.db), "--force", "--port", str(server.port))
    assert "is a database that a server is using" in said
    server.kill()
    server.start()
    assert states(server, ids) == [{"n": n} for n in range(3)]


def test_a_server_that_was_given_a_relative_path_can_be_backed_up(tmp_path: Path) -> None:
    serve = [sys.executable, "-m", "stui_sessions", "serve", "--port", "0", "--db", "here.db"]
    with subprocess.Popen(
        serve, cwd=tmp_path, env=environment(tmp_path, {}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip().rpartition(":")[2]
        said = good(tmp_path, "backup", str(tmp_path / "copy.db"), "--port", port)
        process.terminate()
    assert "0 sessions" in said
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["copy.db", "here.db"]


def test_files_that_are_one_are_refused(server: ServerProcess, tmp_path: Path) -> None:
    db = str(server.db)
    make(server)
    assert "the database itself" in bad(tmp_path, "backup", "--db", db, "--force", db)
    assert "the database itself" in bad(tmp_path, "restore", "--db", db, "--force", db)


@pytest.mark.parametrize("damage", ["page", "header", "short", "empty", "text", "session"])
def test_a_damaged_backup_leaves_the_old_database(server: ServerProcess, tmp_path: Path, damage: str) -> None:
    ids = make(server, 60)
    server.terminate()
    old, backup = Path(server.db), tmp_path / "b"
    good(tmp_path, "backup", "--db", str(old), str(backup))
    data = bytearray(backup.read_bytes())
    if damage == "page":
        for page in range(2, len(data) // 4096):
            data[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    elif damage == "header":
        data[:16] = b"\xa5" * 16
    elif damage == "session":
        at = data.index(b'{"n":59}') if b'{"n":59}' in data else data.index(b'{"n": 59}')
        data[at + 5] ^= 1
    contents = {"short": data[:5000], "empty": b"", "text": b"hello\n" * 1000}.get(damage, data)
    backup.write_bytes(contents)
    before = old.read_bytes()
    error = bad(tmp_path, "restore", str(backup), "--db", str(old), "--force")
    assert f"{backup} is no good backup" in error
    assert old.read_bytes() == before
    assert sorted(p.name for p in old.parent.iterdir() if p.name.startswith(".")) == []
    server.start()
    assert states(server, ids[:1]) == [{"n": 0}]


def test_the_log_of_a_killed_server_does_not_meet_the_new_database(server: ServerProcess, tmp_path: Path) -> None:
    (first,) = make(server, 1)
    good(tmp_path, "backup", str(tmp_path / "b"), "--port", str(server.port))
    later = make(server, 50)
    server.kill()
    assert Path(f"{server.db}-wal").stat().st_size > 0
    good(tmp_path, "restore", str(tmp_path / "b"), "--db", str(server.db), "--force")
    assert not Path(f"{server.db}-wal").exists()
    server.start()
    assert states(server, [first]) == [{"n": 0}]
    assert server.request("restore_session", session_id=later[1])["error_code"] == "session_not_found"


def test_a_restore_that_is_cut_off_leaves_the_old_database_whole(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from stui_sessions.cli.main import main

    good(tmp_path, "backup", str(tmp_path / "b"), "--port", str(server.port))
    ids = make(server)
    server.kill()

    def cut_off(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut_off)
    for name in [name for name in os.environ if name.startswith("STUI_SESSIONS_")]:
        monkeypatch.delenv(name)
    done = CliRunner().invoke(main, ["restore", str(tmp_path / "b"), "--db", str(server.db), "--force"])
    assert done.exit_code == 1
    server.start()
    assert states(server, ids) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_damaged_database_is_replaced(server: ServerProcess, tmp_path: Path) -> None:
    ids = make(server)
    good(tmp_path, "backup", str(tmp_path / "b"), "--port", str(server.port))
    make(server, 20)
    server.kill()
    db = Path(server.db)
    db.write_bytes(b"\xa5" * 4096 * 3)
    good(tmp_path, "restore", str(tmp_path / "b"), "--db", str(db), "--force")
    server.start()
    assert states(server, ids) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_the_database_is_found_as_serve_finds_it(server: ServerProcess, tmp_path: Path) -> None:
    make(server)
    backup = str(tmp_path / "b")
    good(tmp_path, "backup", backup, "--port", str(server.port))
    place = tmp_path / "state" / "stui-sessions" / "sessions.db"
    assert good(tmp_path, "restore", backup) == f"{place}: 3 sessions\n"
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    place = tmp_path / "env.db"
    assert str(place) in good(tmp_path, "restore", backup, STUI_SESSIONS_DB=str(place))
    config = tmp_path / "c.toml"
    config.write_text(f'db = "{tmp_path / "config.db"}"\n')
    assert "config.db" in good(tmp_path, "restore", backup, "--config", str(config))
    assert ":memory:" in bad(tmp_path, "restore", backup, "--db", ":memory:", code=2)


def test_a_database_is_not_restored_into_a_directory_that_is_not_there(server: ServerProcess, tmp_path: Path) -> None:
    good(tmp_path, "backup", str(tmp_path / "b"), "--port", str(server.port))
    place = tmp_path / "no" / "where.db"
    error = bad(tmp_path, "restore", str(tmp_path / "b"), "--db", str(place), code=2)
    assert f'"{place.parent}" is no directory; make it first, or correct the path' in error
    assert not place.parent.exists()


def test_bad_usage_and_no_server(tmp_path: Path) -> None:
    file = str(tmp_path / "b")
    assert "leave out" in bad(tmp_path, "backup", "--db", "x", "--port", "7", file, code=2)
    assert "is the server running there?" in bad(tmp_path, "backup", "--port", "1", file, code=2)
    assert "does not exist" in bad(tmp_path, "backup", "--db", str(tmp_path / "x"), file)
    assert "does not exist" in bad(tmp_path, "restore", "--db", str(tmp_path / "x"), file)
    assert "no-such-directory" in bad(tmp_path, "backup", "--port", "1", str(tmp_path / "no-such-directory" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_a_disk_has_nothing_to_back_up(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(db=":memory:")
    error = bad(tmp_path, "backup", "--port", str(server.port), str(tmp_path / "b"))
    assert "backup_unavailable" in error
    assert not (tmp_path / "b").exists()


def test_what_a_killed_server_left_of_a_copy_is_removed(server: ServerProcess) -> None:
    server.kill()
    db = Path(server.db)
    left = [db.with_name(f".{db.name}.backup-{end}") for end in ("00ff", "00ff-journal")]
    other = db.with_name(".another.db.backup-00ff")
    for path in (*left, other):
        path.write_bytes(b"x")
    server.start()
    assert [path.exists() for path in (*left, other)] == [False, False, True]


def test_nobody_waits_for_the_backup_of_a_larger_database(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server("--create-rate", "0", "--max-sessions-per-client", "1000")
    with server.connect() as client:
        for _ in range(80):
            client.result("create_session", client_id="c", session_state={"text": "x" * 600_000})
        mine = client.result("create_session", client_id="mine")["session_id"]
        done: list[str] = []
        worker = threading.Thread(
            target=lambda: done.append(good(tmp_path, "backup", str(tmp_path / "b"), "--port", str(server.port)))
        )
        worker.start()
        longest = 0.0
        while worker.is_alive():
            begun = time.monotonic()
            client.result("update_session_state", session_id=mine, state_data={"n": 1})
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.005)
        worker.join()
    assert done
    assert (tmp_path / "b").stat().st_size > 45_000_000
    assert longest < 2


def test_a_server_stops_in_the_middle_of_a_backup(server: ServerProcess) -> None:
    make(server)
    with server.connect() as client:
        name = client.result("begin_backup")["backup_id"]
        assert client.result("read_backup", backup_id=name, offset=2**30)["next_offset"] is None
    server.result("begin_backup")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert [p.name for p in Path(server.db).parent.iterdir() if "backup" in p.name] == []
    with closing(schema.connect(Path(server.db), "ro")) as connection:
        assert schema.quick_check(connection) == []
    assert files.inspect_header(Path(server.db), schema.SCHEMA_VERSION) == "ours"
