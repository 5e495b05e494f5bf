"""The table "What the peer does" in protocol.md: one test for each row, by its name."""

import json
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import read, section, table
from tests.support.line_client import LineClient, request_line
from tests.support.server import ServerProcess
from tests.support.waiting import until

ROWS = [row[0] for row in table(section(read("protocol.md"), "What the peer does"))]
TESTED: list[str] = []
Test = TypeVar("Test")
PING = b'{"id": 1, "command": "ping"}'


def row(text: str) -> Callable[[Test], Test]:
    """Says which row a function tests."""

    def note(test: Test) -> Test:
        TESTED.append(text)
        return test

    return note


def new_session(server: ServerProcess) -> str:
    return str(server.result("create_session", client_id="peer")["session_id"])


def updates(session: str, count: int) -> bytes:
    return b"".join(
        request_line(n, "update_session_state", {"session_id": session, "state_data": {"n": n}}) for n in range(count)
    )


@row("leaves a last line without its LF and half-closes")
def test_last_line_without_lf(server: ServerProcess) -> None:
    with server.connect() as client:
        client.send(PING)
        client.half_close()
        assert client.receive()["result"] == {"pong": True}
        assert client.at_eof()


@row("half-closes with requests unanswered")
def test_half_close(server: ServerProcess) -> None:
    session = new_session(server)
    with server.connect() as client:
        client.send(updates(session, 500))
        client.half_close()
        assert [client.receive()["id"] for _ in range(500)] == list(range(500))
        assert client.at_eof()
    assert server.result("get_session_info", session_id=session)["revision"] == 501


@row("sends a line longer than `max_message_bytes`")
def test_line_too_long(start_server: StartServer) -> None:
    server = start_server("--max-message-bytes", "1024")
    create = request_line(2, "create_session", {"client_id": "tail"})
    with server.connect() as client:
        client.send(b"x" * 5000)
        too_large = client.receive()
        assert (too_large["error_code"], too_large["id"]) == ("message_too_large", None)
        assert too_large["details"] == {"limit": 1024}
        # The tail of the line looks like a request of its own, and must not run.
        client.send(create + b"y" * 1025 + b"\n" + PING + b"\n")
        assert client.receive()["error_code"] == "message_too_large"
        assert client.receive()["id"] == 1
    assert server.result("get_session_statistics")["total_sessions"] == 0


@row("begins a line and does not end it within `line_timeout`")
def test_slow_line(start_server: StartServer) -> None:
    server = start_server("--line-timeout", "1")
    with server.connect() as client:
        client.send(PING + b"\n" + PING)
        assert client.receive()["status"] == "success"
        reply = client.receive()
        assert (reply["error_code"], reply["id"], reply["details"]) == ("line_timeout", None, {"limit": 1})
        assert client.at_eof()


@row("is idle between lines")
def test_idle(start_server: StartServer) -> None:
    server = start_server("--line-timeout", "1", "--output-timeout", "1")
    with server.connect() as idle, server.connect() as slow:
        assert idle.result("ping") == {"pong": True}
        slow.send(b"{")
        assert slow.receive()["error_code"] == "line_timeout"  # so all the times have passed
        assert idle.result("ping") == {"pong": True}


@pytest.mark.one_server
@row("connects when `max_connections` are open")
def test_too_many(start_server: StartServer) -> None:
    server = start_server("--max-connections", "2")
    with server.connect() as one, server.connect() as two:
        assert one.result("ping") == two.result("ping") == {"pong": True}
        with server.connect() as three:
            reply = three.receive()
            assert (reply["error_code"], reply["id"], reply["details"]) == ("too_many_connections", None, {"limit": 2})
            assert three.at_eof()
        one.close()
        until(lambda: admitted(server), "a place to become free")


def admitted(server: ServerProcess) -> bool:
    with server.connect() as client:
        client.send(PING + b"\n")
        return client.receive().get("status") == "success"


@row("speaks HTTP")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "CONNECT"])
@pytest.mark.parametrize("pause", [False, True])
def test_http(server: ServerProcess, method: str, pause: bool) -> None:
    head = f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    body = request_line(1, "create_session", {"client_id": "web"})
    with server.connect() as client:
        try:
            client.send(head[:2])
            if pause:  # the rest is another segment
                assert server.result("ping") == {"pong": True}
            client.send(head[2:] + body)
        except ConnectionError:
            pass
        assert client.at_eof()
    assert server.result("get_session_statistics")["total_sessions"] == 0


@row("sends many requests at once")
def test_many_requests(server: ServerProcess) -> None:
    session = new_session(server)
    with server.connect() as greedy, server.connect() as other:
        greedy.sock.setblocking(False)
        sent = greedy.sock.send(updates(session, 20_000))  # as much as fits
        greedy.sock.settimeout(10)
        begun = time.monotonic()
        assert other.result("ping") == {"pong": True}
        assert time.monotonic() - begun < 5
        whole = updates(session, 20_000)[:sent].count(b"\n")
        assert whole > 100
        assert [greedy.receive()["id"] for _ in range(whole)] == list(range(whole))


@row("does not read its replies")
def test_does_not_read(start_server: StartServer) -> None:
    server = start_server("--output-timeout", "1")
    state = {"k": "x" * 500_000}
    session = server.result("create_session", client_id="peer", session_state=state)["session_id"]
    with deaf(server) as client, server.connect() as other:
        client.send(request_line(1, "restore_session", {"session_id": session}) * 200)
        until(lambda: "connection.cut_off" in server.stderr(), "the peer to be cut off")
        assert other.result("ping") == {"pong": True}
        with pytest.raises((EOFError, ConnectionError)):
            deque((client.receive_line() for _ in range(200)), maxlen=0)


def deaf(server: ServerProcess) -> LineClient:
    """A connection that can hold little of what it is sent."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(10)
    sock.connect((server.host, server.port))
    return LineClient(sock)


@pytest.mark.both_stores
@row("resets or closes the connection with requests unanswered")
def test_reset(server: ServerProcess) -> None:
    session = new_session(server)
    client = server.connect()
    client.send(updates(session, 100) + request_line(1, "close_session", {"session_id": session})[:-1])
    assert client.receive()["status"] == "success"
    client.reset()
    until(lambda: server.result("get_session_info", session_id=session)["revision"] == 101, "all to be decided")
    assert server.result("get_session_info", session_id=session)["is_active"], "half a request was run"


@row("is connected when the server is told to stop")
def test_stop(server: ServerProcess) -> None:
    session = new_session(server)
    with server.connect() as client:
        client.send(updates(session, 300))
        assert client.receive()["id"] == 0
        server.send_signal(signal.SIGTERM)
        answered = 1
        while not client.at_eof():
            assert client.receive()["id"] == answered
            answered += 1
    assert server.wait() == 0
    server.start()
    assert server.result("get_session_info", session_id=session)["revision"] == 1 + answered


@pytest.mark.one_server
@row("sends a long line when `buffer_limit` is used up")
def test_memory_is_short(start_server: StartServer) -> None:
    server = start_server("--max-message-bytes", "256KiB", "--buffer-limit", "256KiB")
    with server.connect() as one, server.connect() as two:
        for client in (one, two):
            client.send(b" " * 200_000)
        refused = until(lambda: [c for c in (one, two) if refusal(c)], "one of them to be refused")[0]
        refused.send(b'{"id": 1, "command": "ping"}\n{"id": 2, "command": "ping"}\n')
        assert refused.receive()["id"] == 2  # the first is the end of the discarded line


def refusal(client: LineClient) -> bool:
    client.sock.settimeout(0.05)
    try:
        reply = json.loads(client.receive_line())
    except TimeoutError:
        return False
    finally:
        client.sock.settimeout(10)
    assert (reply["error_code"], reply["id"]) == ("overloaded", None)
    return True


def test_every_row_has_a_test() -> None:
    assert TESTED == ROWS
