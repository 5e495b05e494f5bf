"""`stui-sessions move`, with real servers on both sides; see `tests/storage/test_moving.py` for all that it moves."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.storage.postgres import schema
from tests.cli.test_backup import bad, good, run
from tests.conftest import StartServer
from tests.support.postgres import Postgres
from tests.support.server import ServerProcess, environment

SAME = "counts and checksums are the same on both sides"

KILLED = """
import os, signal, sys
from stui_sessions.cli import main
from stui_sessions.cli.move import Bars
from stui_sessions.storage.moving import local, shared

local.PIECE_ROWS = shared.PIECE_ROWS = 3
shared.FETCHED = 2
left = int(sys.argv.pop(1))

def report(bars, label, done, total):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

Bars.report = report
main.main()
"""
"""The command, killed when it reports for the time that its first argument says."""


@pytest.fixture
def url(database_url: str, tmp_path: Path) -> str:
    good(tmp_path, "db", "init", "--db", database_url)
    return database_url


def killed(directory: Path, at: int, *arguments: str) -> int:
    command = [sys.executable, "-c", KILLED, str(at), *arguments]
    done = subprocess.run(command, env=environment(directory, {}), capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def populate(server: ServerProcess) -> dict[str, Any]:
    """Sessions of each status, each with labels and state of its own; what a server tells of them."""
    with server.connect() as client:
        ids = [
            client.result(
                "create_session",
                client_id=f"c{n}",
                user_id=f"u{n % 2}",
                title=f"Title {n} \N{SNOWMAN}",
                tags=["a", f"t{n}"],
                external_id=f"x{n}",
                metadata={"n": n, "deep": {"list": [1, 2.50, None]}},
                session_state={"n": n, "big": "y" * 5000, "\N{GRINNING FACE}": 1e3},
            )["session_id"]
            for n in range(12)
        ]
        for session_id in ids[::2]:
            client.result("update_session_state", session_id=session_id, state_data={"more": [session_id]})
        client.result("close_session", session_id=ids[1])
        client.result("delete_session", session_id=ids[2])
    return {"exported": exported(server), "counts": counts(server)}


def exported(server: ServerProcess) -> list[str]:
    """The lines of an export: whole sessions, each with its times and a checksum."""
    said = good(server.directory, "export", "-", "--port", str(server.port))
    return sorted(said.splitlines())


def counts(server: ServerProcess) -> Any:
    return server.result("get_session_statistics")["sessions_by_status"]


def told(server: ServerProcess) -> dict[str, Any]:
    return {"exported": exported(server), "counts": counts(server)}


def shared(start_server: StartServer, url: str) -> ServerProcess:
    return start_server(db=url)


def test_the_sessions_of_a_server_are_there_on_the_other_one(
    start_server: StartServer, url: str, tmp_path: Path
) -> None:
    server = start_server()
    before = populate(server)
    assert len(before["exported"]) == 12
    assert server.terminate() == 0
    said = good(tmp_path, "move", "--from", str(server.db), "--to", url)
    first, second = said.splitlines()
    assert first.startswith("moved: 12 sessions, ")
    assert first.endswith(f" of the history; {SAME}")
    assert second == (
        f"{server.db} is left as it is. What is left to do: start the servers with --db {url} --db-schema stui_sessions"
    )
    with shared(start_server, url) as other:
        assert told(other) == before
        with other.connect() as client:
            assert client.result("restore_session", external_id="x3")["session_state"]["n"] == 3
            new = client.result("create_session", client_id="new")["session_id"]
        after = told(other)
        assert len(after["exported"]) == 13
        assert other.terminate() == 0
    back = tmp_path / "back.db"
    said = good(tmp_path, "move", "--from", url, "--to", str(back))
    assert said.startswith("moved: 13 sessions, ")
    assert said.endswith(f"{url} is left as it is. What is left to do: start the servers with --db {back}\n")
    with start_server(db=back) as third:
        assert told(third) == after
        with third.connect() as client:
            assert client.result("restore_session", session_id=new)["session_id"] == new
            assert client.result("create_session", client_id="newer")["session_id"] != new
        assert "log_begun_anew" not in third.stderr()
        assert "start.unclean" not in third.stderr()
    with start_server(db=server.db) as again:  # the source is as it was
        assert told(again) == before


def test_a_killed_server_has_left_all_that_it_acknowledged(start_server: StartServer, url: str, tmp_path: Path) -> None:
    server = start_server()
    before = populate(server)
    server.kill()
    assert good(tmp_path, "move", "--from", str(server.db), "--to", url).startswith("moved: 12 sessions, ")
    with shared(start_server, url) as other:
        assert counts(other) == before["counts"]


@pytest.mark.parametrize("way", ["shared", "local"])
def test_a_move_that_is_killed_goes_on(start_server: StartServer, url: str, tmp_path: Path, way: str) -> None:
    """At each place where it reports, in turn."""
    server = start_server()
    before = populate(server)
    assert server.terminate() == 0
    command = ["move", "--from", str(server.db), "--to", url]
    target = Path(tmp_path / "b.db")
    if way == "local":
        good(tmp_path, *command)
        command = ["move", "--from", url, "--to", str(target)]
    for at in range(1000):
        if killed(tmp_path, at * 3, *command) == 0:
            break
        if way == "local":
            assert not target.exists()
    assert at > 3
    assert good(tmp_path, *command).startswith("there already: 12 sessions, ")
    with start_server(db=target if way == "local" else url) as other:
        assert told(other) == before


def test_no_server_starts_on_a_half_of_a_move(start_server: StartServer, url: str, tmp_path: Path) -> None:
    server = start_server()
    populate(server)
    server.terminate()
    assert killed(tmp_path, 3, "move", "--from", str(server.db), "--to", url) == -signal.SIGKILL
    refused = run(tmp_path, "serve", "--db", url, "--port", "0")
    assert refused.returncode == 1
    assert "run stui-sessions move again" in refused.stderr
    error = bad(tmp_path, "move", "--from", url, "--to", str(tmp_path / "b.db"))
    assert "a move into it was cut off; run that to its end first" in error
    good(tmp_path, "move", "--from", str(server.db), "--to", url)
    good(tmp_path, "move", "--from", url, "--to", str(tmp_path / "a.db"))
    assert killed(tmp_path, 3, "move", "--from", url, "--to", str(tmp_path / "b.db")) == -signal.SIGKILL
    refused = run(tmp_path, "serve", "--db", str(tmp_path / "b.db"), "--port", "0")
    assert refused.returncode == 1
    assert "is missing, but its log" in refused.stderr


def one_line(error: str) -> str:
    assert error.startswith("stui-sessions: ")
    assert len(error.splitlines()) == 1
    return error


def test_servers_must_be_stopped(start_server: StartServer, url: str, tmp_path: Path) -> None:
    local = start_server()
    populate(local)
    error = one_line(bad(tmp_path, "move", "--from", str(local.db), "--to", url))
    assert "another server has this database open" in error
    assert str(local.pid) in error
    local.terminate()
    with shared(start_server, url) as other:
        error = one_line(bad(tmp_path, "move", "--from", str(local.db), "--to", url))
        assert "is in use by a server: the lane" in error
        error = one_line(bad(tmp_path, "move", "--from", url, "--to", str(tmp_path / "b.db")))
        assert "is in use by a server: the lane" in error
        assert other.terminate() == 0
    good(tmp_path, "move", "--from", str(local.db), "--to", url)


def test_a_target_with_other_sessions_is_left_as_it_is(start_server: StartServer, url: str, tmp_path: Path) -> None:
    one, two = start_server(), start_server()
    populate(one)
    before = populate(two)
    one.terminate()
    two.terminate()
    good(tmp_path, "move", "--from", str(one.db), "--to", url)
    error = one_line(bad(tmp_path, "move", "--from", str(two.db), "--to", url))
    assert "holds something else" in error
    assert "take an empty schema (--db-schema NAME, made with stui-sessions db init)" in error
    error = one_line(bad(tmp_path, "move", "--from", url, "--to", str(two.db)))
    assert "name a file that is not there yet, or move this one away" in error
    with start_server(db=two.db) as again:
        assert told(again) == before
    good(tmp_path, "db", "init", "--db", url, "--db-schema", "other")
    good(tmp_path, "move", "--from", str(one.db), "--to", url, "--db-schema", "other")


def test_tables_that_are_missing_are_told(server: ServerProcess, database_url: str, tmp_path: Path) -> None:
    server.terminate()
    error = one_line(bad(tmp_path, "move", "--from", str(server.db), "--to", database_url))
    assert "make them with stui-sessions db init --db URL --db-schema stui_sessions" in error
    error = one_line(bad(tmp_path, "move", "--from", database_url, "--to", str(tmp_path / "b.db")))
    assert "make them with stui-sessions db init" in error
    error = one_line(bad(tmp_path, "move", "--from", str(tmp_path / "none.db"), "--to", database_url))
    assert "none.db does not exist" in error
    unreachable = "postgresql://nobody@127.0.0.1:1/x"
    error = one_line(bad(tmp_path, "move", "--from", str(server.db), "--to", unreachable))
    assert "cannot connect to the database" in error


@pytest.mark.parametrize(
    ("source", "target", "problem"),
    [
        ("a.db", "b.db", "one of --from and --to must be a file"),
        ("postgresql://h/a", "postgresql://h/b", "one of --from and --to must be a file"),
        (":memory:", "postgresql://h/b", "--from: :memory: keeps nothing"),
        ("postgresql://u:hunter2@h/a", "b.db", "--from: a password on the command line"),
        ("a.db", "postgresql://u@h/a?password=hunter2", "--to: a password on the command line"),
        ("a.db", "postgresql://u@h:x/a", "--to: "),
        ("missing/a.db", "postgresql://u@h/a", "no directory"),
    ],
)
def test_wrong_usage(tmp_path: Path, source: str, target: str, problem: str) -> None:
    error = bad(tmp_path, "move", "--from", source, "--to", target, code=2)
    assert problem in error.splitlines()[-1]
    assert "hunter2" not in error


def test_a_row_that_is_not_the_same_is_found(
    server: ServerProcess, url: str, tmp_path: Path, postgres: Postgres
) -> None:
    """A database that changes what it is given: here a rule that drops one session."""
    populate(server)
    server.terminate()
    name = url.rpartition("/")[2]
    s = schema.quoted("stui_sessions")
    postgres.sql(
        f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.title := 'spoilt'; "
        f"NEW.head := set_byte(NEW.head, 12, 7); RETURN NEW; END $$; "
        f"CREATE TRIGGER spoil BEFORE INSERT ON {s}.sessions FOR EACH ROW WHEN (NEW.number = 5) "
        "EXECUTE FUNCTION spoil()",
        name,
    )
    error = one_line(bad(tmp_path, "move", "--from", str(server.db), "--to", url))
    assert "what was moved is not what is there: one of the sessions (number 5)" in error
    assert run(tmp_path, "serve", "--db", url, "--port", "0").returncode == 1
    postgres.sql(f"DROP TRIGGER spoil ON {s}.sessions", name)
    good(tmp_path, "move", "--from", str(server.db), "--to", url)
