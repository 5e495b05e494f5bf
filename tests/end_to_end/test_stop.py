"""SIGTERM and SIGINT under load, with stuck peers, twice, at start; SIGHUP.

The big run, 20 rounds (issue 2, "What it must show", 5), some 30 s, with its figures:

    STUI_TEST_STOP_ROUNDS=20 python -m pytest -s tests/end_to_end/test_stop.py
"""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.line_client import LineClient, request_line
from tests.support.load import SERVER_ARGS, Load
from tests.support.server import ServerProcess
from tests.support.waiting import until

ROUNDS = int(os.environ.get("STUI_TEST_STOP_ROUNDS", "4"))
STOP_WITHIN = 10.0

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop(server: ServerProcess, number: int) -> float:
    """Stop it in order; the seconds that took."""
    begun = time.monotonic()
    server.send_signal(number)
    assert server.wait() == 0
    seconds = time.monotonic() - begun
    assert seconds < STOP_WITHIN
    return seconds


@pytest.mark.parametrize("number", SIGNALS)
def test_stop_under_load(start_server: StartServer, number: int) -> None:
    server = start_server(*SERVER_ARGS)
    load = Load(server, seed=number)
    took = []
    for _ in range(max(1, ROUNDS // len(SIGNALS))):
        load.start()
        load.go_on_for(0.5)
        took.append(stop(server, number))
        load.join()
        server.start()
        load.verify()
    assert "start.unclean" not in server.stderr()
    print(f"\nsignal {number}: {len(took)} rounds, {load.acknowledged} writes, stopped within {max(took):.2f} s")


@pytest.mark.both_stores
def test_what_was_read_is_answered(start_server: StartServer) -> None:
    """A peer that has sent its requests and waits gets every reply, and then the end."""
    server = start_server(*SERVER_ARGS)
    session_id = server.result("create_session", client_id="waiting")["session_id"]
    update = {"session_id": session_id, "state_data": {"pad": "x" * 100}}
    with server.connect() as client:
        client.send(b"".join(request_line(n, "update_session_state", update) for n in range(100)))
        first = client.receive()  # all of them arrived in one piece, so all of them were read
        server.send_signal(signal.SIGTERM)
        replies = [first, *(client.receive() for _ in range(99))]
        assert [reply["id"] for reply in replies] == list(range(100))
        assert all(reply["status"] == "success" for reply in replies)
        assert client.at_eof()
    assert server.wait() == 0
    server.start()
    assert server.result("restore_session", session_id=session_id)["revision"] == 101


def never_read(server: ServerProcess, session_id: str) -> LineClient:
    """A peer that asks for more than fits into all buffers, and reads none of it."""
    client = LineClient.tcp(server.host, server.port)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send(b"".join(request_line(n, "restore_session", {"session_id": session_id}) for n in range(40)))
    return client


def test_stuck_peers_do_not_hold_the_stop_up(start_server: StartServer) -> None:
    server = start_server(*SERVER_ARGS)
    session_id = server.result("create_session", client_id="big", session_state={"pad": "x" * 500_000})["session_id"]
    with ExitStack() as peers:
        for _ in range(3):
            peers.enter_context(never_read(server, session_id))
            half = peers.enter_context(server.connect())
            half.send(b'{"id":1,"command":"create_ses')
            peers.enter_context(server.connect())  # says nothing at all
        load = Load(server, workers=2).start()
        seconds = stop(server, signal.SIGTERM)
        load.join()
    print(f"\nstopped with stuck peers within {seconds:.2f} s")
    server.start()
    load_is_there(load, others=1)


def load_is_there(load: Load, others: int) -> None:
    """As `Load.verify`, beside `others` clients with a session of their own."""
    with load.server.connect() as client:
        for ledger in load.ledgers:
            ledger.verify(client)
        assert client.result("get_session_statistics")["active_clients"] == others + len(load.ledgers)


def test_a_second_signal_ends_at_once(start_server: StartServer) -> None:
    server = start_server(*SERVER_ARGS)
    session_id = server.result("create_session", client_id="big", session_state={"pad": "x" * 500_000})["session_id"]
    load = Load(server, workers=2).start()
    with never_read(server, session_id):
        until(lambda: load.acknowledged > 200, "some load")
        server.send_signal(signal.SIGTERM)
        until(lambda: '"stopping"' in server.stderr(), "the stop to begin")
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        code = server.wait()
        seconds = time.monotonic() - begun
    load.join()
    assert code == 128 + signal.SIGTERM
    assert seconds < 2
    server.start()
    load_is_there(load, others=1)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_right_after_the_start(start_server: StartServer, number: int) -> None:
    assert stop(start_server(), number) < STOP_WITHIN


@pytest.mark.one_server
def test_a_signal_during_the_start_ends_it(make_server: StartServer) -> None:
    """Before its handlers are in place the signal kills, afterwards it stops; never is it lost."""
    server = make_server()
    for n in range(6):
        process = server.spawn()
        time.sleep(0.04 * n)
        process.send_signal(signal.SIGTERM)
        assert server.wait() in (0, -signal.SIGTERM)
    server.start()
    assert server.result("ping") == {"pong": True}


# SIGHUP.


def reload(server: ServerProcess, event: str) -> dict[str, Any]:
    """SIGHUP; the new log line of this event."""
    before = len(server.stderr())
    server.send_signal(signal.SIGHUP)

    def found() -> dict[str, Any] | None:
        lines = [json.loads(line) for line in server.stderr()[before:].splitlines(keepends=True) if line[-1] == "\n"]
        return next((line for line in lines if line["event"] == event), None)

    line = until(found, event)
    assert line is not None
    return line


def create(client: LineClient, client_id: str) -> str:
    """Try to create a session: "ok" or the error's code."""
    reply = client.request("create_session", client_id=client_id)
    return "ok" if reply["status"] == "success" else str(reply["error_code"])


def refused(client: LineClient, line: bytes) -> str:
    """The code of the error that answers `line`."""
    client.send(line)
    return str(client.receive()["error_code"])


@pytest.mark.one_server
def test_reload_applies_what_can_change(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    server = start_server("--config", str(file), "--cleanup-interval", "50")
    with server.connect() as client:
        assert [create(client, "guest1"), create(client, "user")] == ["ok", "ok"]
        file.write_text(
            'deny_clients = ["guest*"]\nmax_sessions_per_client = 2\ncreate_rate = 3\nmax_state_bytes = 100\n'
            'max_message_bytes = 1000\nmax_depth = 8\nlog_level = "debug"\ncleanup_interval = 60\nport = 1\n'
        )
        assert reload(server, "reloaded")["needs_restart"] == ""  # port and interval: a flag wins over the file
        assert [create(client, "guest1"), create(client, "user")] == ["client_not_allowed", "ok"]
        assert create(client, "user") == "session_limit_reached"
        session_id = client.result("list_client_sessions", client_id="user")["sessions"][0]["session_id"]
        big = client.request("update_session_state", session_id=session_id, state_data={"pad": "x" * 200})
        assert (big["error_code"], big["details"]["limit"]) == ("state_too_large", 100)
        nested = b'{"id":1,"command":"ping","parameters":' + b"[" * 20 + b"]" * 20 + b"}\n"
        assert refused(client, nested) == "too_deep"
    with server.connect() as client:
        assert refused(client, b'{"id":1,"command":"ping","pad":"' + b"x" * 1000 + b'"}\n') == "message_too_large"
        statistics = client.result("get_session_statistics")
    assert (statistics["max_sessions_per_client"], statistics["cleanup_interval"]) == (2, 50)
    until(lambda: '"connection.opened"' in server.stderr(), "a line at debug")


@pytest.mark.one_server
def test_reload_changes_the_creation_rate(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("create_rate = 1000\n")
    server = start_server("--config", str(file), "--max-sessions-per-client", "100")
    with server.connect() as client:
        assert [create(client, "quick") for _ in range(5)] == ["ok"] * 5
        file.write_text("create_rate = 2\n")
        reload(server, "reloaded")
        assert [create(client, "other") for _ in range(3)] == ["ok", "ok", "create_rate_exceeded"]
        file.write_text("create_rate = 0\n")
        reload(server, "reloaded")
        assert create(client, "other") == "ok"


@pytest.mark.local_store
def test_reload_names_what_needs_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    server = start_server("--config", str(file))
    file.write_text('durability = "normal"\nmax_depth = 9\nsnapshot_interval = 5\n')
    assert reload(server, "reloaded")["needs_restart"] == "durability,snapshot_interval"


@pytest.mark.one_server
@pytest.mark.parametrize(
    "text",
    ['deny_clients = ["*"]\nmax_depth = "deep"\n', 'deny_clients = ["*"]\nmax_deth = 9\n', "deny_clients = [", None],
)
def test_a_bad_file_is_logged_and_changes_nothing(start_server: StartServer, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_sessions_per_client = 2\n")
    server = start_server("--config", str(file))
    file.unlink()
    if text is not None:
        file.write_text(text)
    line = reload(server, "reload.refused")
    assert line["level"] == "warning"
    assert str(file) in line["error"]
    with server.connect() as client:
        assert [create(client, "user") for _ in range(3)] == ["ok", "ok", "session_limit_reached"]
    file.write_text("max_sessions_per_client = 3\n")
    reload(server, "reloaded")
    assert server.result("get_session_statistics")["max_sessions_per_client"] == 3


@pytest.mark.one_server
def test_a_settings_file_that_became_a_pipe_does_not_hold_up_the_server(
    start_server: StartServer, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("")
    server = start_server("--config", str(file))
    file.unlink()
    os.mkfifo(file)
    assert "is no regular file" in reload(server, "reload.refused")["error"]
    assert server.result("ping") == {"pong": True}


def test_a_stop_with_unread_requests_resets_nobody(make_server: StartServer) -> None:
    """Closing a socket with unread input sends a reset, and that overtakes the last replies."""
    requests = b"".join(b'{"id":%d,"command":"ping"}\n' % n for n in range(100_000))
    for _ in range(3):
        server = make_server().start()
        with server.connect() as client:
            sender = threading.Thread(target=send_all, args=(client, requests))
            sender.start()
            assert client.receive()["id"] == 0
            server.send_signal(signal.SIGTERM)
            answered = 1
            with contextlib.suppress(EOFError):
                while True:
                    assert client.receive()["id"] == answered
                    answered += 1
            sender.join()
        assert answered < 100_000  # or there was nothing unread
        assert server.wait() == 0


def send_all(client: LineClient, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it may close while we send
        client.send(data)
