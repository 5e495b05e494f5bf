"""What new users meet: long lists, ambiguous names, long ids, limits that are told, replies that are brief."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.database import refusal
from tests.support.line_client import LineClient
from tests.support.load import SERVER_ARGS
from tests.support.moved_clock import WallClock
from tests.support.server import ServerProcess

MIB = 1024 * 1024


def rows_of(page: dict[str, Any]) -> set[str]:
    return {row["session_id"] for row in page["sessions"]}


def test_a_list_right_after_much_change_is_whole(start_server: StartServer) -> None:
    """Sessions that were made and closed, in memory and not yet in the tables, do not shorten a page."""
    server = start_server(*SERVER_ARGS)
    live: set[str] = set()
    with server.connect(timeout=30) as client:
        for round in range(3):
            made = client.pipeline([("create_session", {"client_id": f"c{round}"})] * 2001)
            first, *others = [reply["result"]["session_id"] for reply in made]
            live.add(first)
            client.pipeline([("close_session", {"session_id": id}) for id in others])
        for sort in ("last_activity", "created_at", "title"):
            for order in ("asc", "desc"):
                page = client.result("list_sessions", sort=sort, order=order)
                assert (rows_of(page), page["next_cursor"]) == (live, None)
        assert rows_of(client.result("list_sessions", client_id="c1")) < live
        closed = client.result("list_sessions", status="closed", limit=100)
        assert len(closed["sessions"]) == 100
        assert closed["next_cursor"]


@pytest.mark.parametrize("restarted", [False, True])
def test_of_many_that_may_be_meant_the_most_recent_are_told(
    make_server: StartServer, tmp_path: Path, restarted: bool
) -> None:
    clock = WallClock(tmp_path / "clock")
    server = make_server(*SERVER_ARGS, env=clock.environment, module="tests.support.moved_clock").start()
    with server.connect() as client:
        ids = [client.result("create_session", client_id="me", title="same")["session_id"] for _ in range(30)]
        used = ids[5:15]
        for seconds, id in enumerate(used, 1):
            clock.set(100 * seconds)  # later than what is noted without a record
            client.result("touch_session", session_id=id)
    if restarted:
        assert server.terminate() == 0
        server.start()
    refused = server.request("resolve_session", ref="same")
    assert refused["error_code"] == "reference_ambiguous"
    assert [candidate["session_id"] for candidate in refused["details"]["candidates"]] == used[::-1]


LONG_NAMES = ["/home/me/some notes".replace(" ", "%20") + "+x=y~", "~" + "a/" * 127 + "b", "p" * 256, "9%=+/~"]


def test_names_are_paths_and_long(server: ServerProcess) -> None:
    with server.connect() as client:
        made = {
            name: client.result("open_session", client_id=name, user_id=name, session_state={"name": name})
            for name in LONG_NAMES
        }
        refused = client.request("create_session", client_id="p" * 257)
        assert refused["error_code"] == "invalid_parameter"
    server.restart()
    with server.connect() as client:
        for name, session in made.items():
            again = client.result("open_session", client_id=name, user_id=name)
            assert (again["session_id"], again["session_resumed"]) == (session["session_id"], True)
            assert (again["client_id"], again["user_id"], again["session_state"]) == (name, name, {"name": name})
            assert rows_of(client.result("list_sessions", client_id=name, user_id=name)) == {session["session_id"]}
            counted = client.result("list_client_sessions", client_id=name, user_id=name)
            assert counted["session_count"] == 1


def told_limits(client: LineClient) -> dict[str, int]:
    """As `describe` and `get_session_statistics` tell them, which is the same."""
    limits = client.result("describe", command="ping")["limits"]
    assert limits == client.result("describe")["limits"] == client.result("get_session_statistics")["limits"]
    assert isinstance(limits, dict)
    return limits


def test_limits_are_told_as_they_are(start_server: StartServer) -> None:
    server = start_server("--max-state-bytes", "1000", "--keep-expired", "5", "--max-depth", "9", "--create-rate", "7")
    with server.connect() as client:
        limits = told_limits(client)
        assert {name: limits[name] for name in ("max_state_bytes", "keep_expired", "max_depth", "create_rate")} == {
            "max_state_bytes": 1000, "keep_expired": 5, "max_depth": 9, "create_rate": 7,
        }  # fmt: skip
        id = client.result("create_session", client_id="me")["session_id"]
        room = limits["max_state_bytes"] - len('{"a":""}') - 3 * len("{}")
        for size, code in ((room, None), (room + 1, "state_too_large")):
            text = '{"a":"' + "x" * size + '"}'
            client.send(
                b'{"id":1,"command":"update_session_state","parameters":'
                b'{"session_id":"%b","mode":"replace","state_data":%b}}\n' % (id.encode(), text.encode())
            )
            assert client.receive().get("error_code") == code


def test_a_brief_reply_saves_as_much(server: ServerProcess) -> None:
    with server.connect() as client:
        id = client.result("create_session", client_id="me", session_state={"pad": "x" * 900_000})["session_id"]
        client.send_request("update_session_state", session_id=id, state_data={"n": 1}, reply="brief")
        line = client.receive_line()
        assert len(line) < 1000
        assert b"session_state" not in line
        for mode, state in (("merge", {"pad": "x" * 900_000, "n": 2}), ("replace", {"n": 2})):
            update = {"session_id": id, "state_data": {"n": 2}, "mode": mode}
            brief = client.result("update_session_state", **update, reply="brief")
            restored = client.result("restore_session", session_id=id)
            assert (restored["session_state"], restored["revision"]) == (state, brief["revision"])
            full = client.result("update_session_state", **update)
            assert set(full) - set(brief) == {"session_state"}


def test_the_largest_session_is_exported_and_imported_between_two_default_servers(start_server: StartServer) -> None:
    source, target = start_server(), start_server()
    with source.connect() as client, target.connect() as other:
        limits = told_limits(client)
        state = {"a": "x" * (limits["max_state_bytes"] - len('{"a": ""}') - 3 * len("{}"))}
        labels = {
            "session_id": "\u0001" * 8192, "external_id": "\u0001" * 256, "title": "\\" * 60,
            "tags": [f"{n:02}" + "\u0001" * 62 for n in range(32)],
            "metadata": {"a": "x" * (limits["max_metadata_bytes"] - len('{"a": ""}'))},
        }  # fmt: skip
        made = client.result("open_session", client_id="c" * 256, user_id="u" * 256, session_state=state, **labels)
        assert client.result("get_session", session_id=made["session_id"])["state_bytes"] == limits["max_state_bytes"]
        client.send(b'{"id":1,"command":"export_sessions"}\n')
        row = client.receive_line().partition(b'"sessions":[')[2].rpartition(b'],"next_cursor"')[0]
        other.send(b'{"id":1,"command":"import_sessions","parameters":{"sessions":[' + row + b"]}}\n")
        assert other.receive()["result"]["created"] == 1
        moved = other.result("restore_session", session_id=made["session_id"])
        assert moved["session_state"] == state
        assert told_limits(other)["max_message_bytes"] == 2 * MIB


@pytest.mark.local_store
def test_a_refused_newer_database_is_left_as_it_was(make_server: StartServer) -> None:
    server = make_server().start()
    server.result("create_session", client_id="me")
    assert server.terminate() == 0
    database = Path(server.db)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(f"PRAGMA user_version = {version + 1}")
    names = {path.name for path in database.parent.glob("sessions.db*")}
    content = database.read_bytes()
    assert f"schema version {version + 1}" in refusal(server)
    assert database.read_bytes() == content
    assert {path.name for path in database.parent.glob("sessions.db*")} - names <= {"sessions.db.lock"}
    assert not [path for path in database.parent.iterdir() if path.name.endswith(("-wal", "-shm"))]
