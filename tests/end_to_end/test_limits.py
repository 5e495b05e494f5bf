"""The limits, from outside: descriptors, connections, sessions, rates, buffers, output."""

import contextlib
import resource
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.line_client import LineClient, request_line
from tests.support.load import SERVER_ARGS
from tests.support.server import ServerProcess
from tests.support.waiting import until

FEW_DESCRIPTORS = ("bash", "-c", 'ulimit -n 64; exec "$@"', "--")


# Connections.


def knock(server: ServerProcess, stack: ExitStack) -> LineClient | None:
    """Connect and ping; the connection if it was let in, None if it was told why not, or closed."""
    client = stack.enter_context(server.connect())
    try:
        client.send(request_line(1, "ping", {}))
        reply = client.receive()
    except (ConnectionError, EOFError):
        return None
    assert reply["status"] == "success" or reply["error_code"] == "too_many_connections", reply
    return client if reply["status"] == "success" else None


def told(server: ServerProcess) -> dict[str, Any]:
    """What a connection that says nothing is told."""
    with server.connect() as client:
        reply = client.receive()
        assert client.at_eof()
    return reply


@pytest.mark.one_server
def test_64_descriptors_and_200_connections(make_server: StartServer) -> None:
    server = make_server(*SERVER_ARGS, wrapper=FEW_DESCRIPTORS).start()
    assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (64, 64)
    with ExitStack() as stack:
        guests = [client for _ in range(200) if (client := knock(server, stack)) is not None]
        assert 16 <= len(guests) < 64
        # Those inside can do everything, the disk included.
        for n, guest in enumerate(guests):
            session_id = guest.result("create_session", client_id=f"guest{n}")["session_id"]
            guest.result("update_session_state", session_id=session_id, state_data={"n": n})
        refusal = told(server)
        assert (refusal["id"], refusal["status"]) == (None, "error")
        assert (refusal["error_type"], refusal["error_code"]) == ("RuntimeError", "too_many_connections")
        assert refusal["details"]["limit"] == len(guests)
    with ExitStack() as stack:
        until(lambda: knock(server, stack), "a place to become free")
    log = server.stderr()
    assert len(log) < 5000
    assert log.count("listener.full") == 1
    assert descriptors(server) < 64 - len(guests) + 10


def descriptors(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@pytest.mark.one_server
def test_max_connections(start_server: StartServer, tmp_path: Path) -> None:
    """Over all listeners together; a place is free as soon as somebody leaves."""
    server = start_server("--max-connections", "3", unix=tmp_path / "s")
    with ExitStack() as stack:
        guests = [stack.enter_context(connect()) for connect in (server.connect, server.connect_unix, server.connect)]
        for guest in guests:
            guest.result("ping")
        for connect in (server.connect, server.connect_unix):
            with connect() as late:
                assert late.receive()["error_code"] == "too_many_connections"
                assert late.at_eof()
        guests[0].close()
        until(lambda: knock(server, stack), "the place to become free")
        assert guests[1].result("ping") == {"pong": True}


@pytest.mark.one_server
def test_who_is_turned_away_while_sending_still_reads_why(start_server: StartServer) -> None:
    server = start_server("--max-connections", "1")
    with server.connect() as guest:
        guest.result("ping")
        for _ in range(20):
            with server.connect() as late:
                with contextlib.suppress(ConnectionError):
                    late.send(request_line(1, "ping", {}))
                assert late.receive()["error_code"] == "too_many_connections"


# Sessions.


def create_together(server: ServerProcess, count: int, client_id: str) -> list[dict[str, Any]]:
    """As many creates at the same instant, each on a connection of its own; their replies."""
    gate = threading.Barrier(count)
    replies: list[dict[str, Any]] = []

    def create() -> None:
        with server.connect() as client:
            client.result("ping")
            gate.wait()
            replies.append(client.request("create_session", client_id=client_id))

    threads = [threading.Thread(target=create, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(replies) == count
    return replies


@pytest.mark.both_stores
def test_fifty_creates_at_once_for_one_client(start_server: StartServer) -> None:
    server = start_server("--max-sessions-per-client", "7")
    for _ in range(3):
        replies = create_together(server, 50, "crowd")
        made = [reply["result"]["session_id"] for reply in replies if reply["status"] == "success"]
        refusals = [reply for reply in replies if reply["status"] == "error"]
        assert len(set(made)) == 7
        assert {r["error_code"] for r in refusals} == {"session_limit_reached"}
        assert {(r["error_type"], r["details"]["limit"]) for r in refusals} == {("SessionError", 7)}
        with server.connect() as client:
            listed = client.result("list_client_sessions", client_id="crowd")
            assert {row["session_id"] for row in listed["sessions"]} == set(made)
            client.pipeline([("close_session", {"session_id": i}) for i in made])


@pytest.mark.both_stores
def test_fifty_creates_at_once_after_a_restart(start_server: StartServer) -> None:
    """The limit holds too where the client's sessions have to be loaded first."""
    server = start_server()
    made = [server.result("create_session", client_id="crowd")["session_id"] for _ in range(2)]
    server.terminate()
    server.start()
    replies = create_together(server, 50, "crowd")
    made += [reply["result"]["session_id"] for reply in replies if reply["status"] == "success"]
    assert len(set(made)) == 5


@pytest.mark.both_stores
@pytest.mark.one_server
def test_creating_too_fast(start_server: StartServer) -> None:
    server = start_server("--create-rate", "60", "--max-sessions-per-client", "1000")
    with server.connect() as client:
        replies = client.pipeline([("create_session", {"client_id": "hasty"})] * 100)
        made = [reply for reply in replies if reply["status"] == "success"]
        assert 60 <= len(made) <= 65  # a second or more may pass meanwhile
        refusal = replies[-1]
        assert (refusal["error_type"], refusal["error_code"]) == ("SessionError", "create_rate_exceeded")
        assert refusal["details"] == {"limit": 60, "retry_after": 1}
        client.result("create_session", client_id="another")
        # It may be taken at its word.
        until(lambda: client.request("create_session", client_id="hasty")["status"] == "success", "its turn", 5)


# Memory.


def test_unread_replies_of_one_peer(start_server: StartServer) -> None:
    """A peer is not decided for while it does not read, and what it has asked for is delivered when it does."""
    server = start_server()
    state = {"pad": "x" * 100_000}
    session_id = server.result("create_session", client_id="big", session_state=state)["session_id"]
    base = server.rss()
    ask = request_line(1, "restore_session", {"session_id": session_id}) * 1000  # 100 MB of replies
    with LineClient(slow_socket(server)) as client:
        writer = threading.Thread(target=client.send, args=(ask,), daemon=True)
        writer.start()
        with server.connect() as other:
            other.pipeline([("ping", {})] * 1000)
        assert server.rss() - base < 16 * 1024 * 1024
        for _ in range(1000):
            assert len(client.receive_line()) > 100_000
        writer.join(10)
    assert server.rss() - base < 16 * 1024 * 1024


def slow_socket(server: ServerProcess) -> socket.socket:
    """A connection with a small window."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect((server.host, server.port))
    return sock


def test_a_peer_that_never_reads_is_cut_off(start_server: StartServer) -> None:
    server = start_server("--output-timeout", "1")
    session_id = server.result("create_session", client_id="big", session_state={"pad": "x" * 900_000})["session_id"]
    with LineClient(slow_socket(server)) as client:
        client.send(request_line(1, "restore_session", {"session_id": session_id}) * 50)
        until(lambda: "connection.cut_off" in server.stderr(), "the cut")
        assert bytes_until_the_end(client) < 50 * 900_000


def bytes_until_the_end(client: LineClient) -> int:
    """Read until the server's end of the connection; how much came."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while data := client.sock.recv(1 << 20):
            count += len(data)
    return count


def test_an_output_limit_of_little_more_than_one_reply(start_server: StartServer) -> None:
    """Who reads is served without end; who does not is held back without costing memory."""
    server = start_server("--max-state-bytes", "900KiB", "--output-limit", "1MiB", "--max-message-bytes", "1000KiB")
    session_id = server.result("create_session", client_id="big", session_state={"pad": "x" * 900_000})["session_id"]
    restore = request_line(1, "restore_session", {"session_id": session_id})
    with server.connect() as reader:
        for _ in range(20):
            reader.send(restore)
            assert len(reader.receive_line()) > 900_000
    base = server.rss()
    with LineClient(slow_socket(server)) as client:
        client.send(restore * 20)
        with server.connect() as other:
            assert other.result("ping") == {"pong": True}
        assert server.rss() - base < 8 * 1024 * 1024


def test_an_unfinished_line_is_given_up(start_server: StartServer) -> None:
    server = start_server("--line-timeout", "1")
    with server.connect() as idle, server.connect() as slow:
        idle.result("ping")
        slow.send(b'{"id":1,')
        reply = slow.receive()
        assert (reply["id"], reply["error_code"], reply["details"]["limit"]) == (None, "line_timeout", 1)
        assert slow.at_eof()
        assert idle.result("ping") == {"pong": True}  # silence between lines is no fault
