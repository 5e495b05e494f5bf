"""Peers that misbehave, one at a time and all at once, while a good client goes on.

The big run (issue 2, "What it must show", 7): a hundred megabytes without a newline, a minute of everything at
once, with the good client's p99 and the growth of the server's memory:

    STUI_TEST_FLOOD_BYTES=100000000 STUI_TEST_ABUSE_SECONDS=60 python -m pytest -s tests/end_to_end/test_peers.py
"""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from tests.conftest import StartServer
from tests.support.line_client import LineClient, request_line
from tests.support.load import SERVER_ARGS
from tests.support.server import ServerProcess
from tests.support.waiting import until

MIB = 1024 * 1024
FLOOD_BYTES = int(os.environ.get("STUI_TEST_FLOOD_BYTES", 8_000_000))
ABUSE_SECONDS = float(os.environ.get("STUI_TEST_ABUSE_SECONDS", "3"))
MANY = 100_000
"""Requests in one write."""

P99_BOUND = 2.0
"""Seconds; lax, for a busy test machine.  The issue asks for 0.25, which the big run shows."""
GROWTH_BOUND = 64 * MIB


class GoodClient:
    """Updates its session one at a time, in a thread, and notes how long each took."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.times: list[float] = []
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._base = self.server.rss()
        self._thread.start()
        until(lambda: self._failure or len(self.times) > 20, "the good client to be served")
        return self

    def __exit__(self, *exception: object) -> None:
        before = len(self.times)
        until(lambda: self._failure or len(self.times) > before + 20, "the good client to be served afterwards")
        self._stopping.set()
        self._thread.join(10)
        if self._failure:
            raise self._failure

    @property
    def p99(self) -> float:
        return sorted(self.times)[len(self.times) * 99 // 100]

    def judge(self, what: str) -> None:
        """Print its figures, and hold them against the bounds."""
        growth = self.server.rss() - self._base
        print(
            f"\n{what}: {len(self.times)} good updates, p99 {self.p99 * 1000:.1f} ms, "
            f"longest {max(self.times) * 1000:.1f} ms, memory +{growth / MIB:.1f} MiB"
        )
        assert self.p99 < P99_BOUND
        assert growth < GROWTH_BOUND

    def _run(self) -> None:
        try:
            with self.server.connect() as client:
                session_id = client.result("create_session", client_id="good")["session_id"]
                while not self._stopping.is_set():
                    begun = time.perf_counter()
                    n = len(self.times)
                    result = client.result("update_session_state", session_id=session_id, state_data={"n": n})
                    self.times.append(time.perf_counter() - begun)
                    assert result["revision"] == n + 2
        except BaseException as failure:
            self._failure = failure


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    """A running server with short patience."""
    return start_server("--line-timeout", "2", "--output-timeout", "2", *SERVER_ARGS)


def patient(server: ServerProcess) -> LineClient:
    return server.connect(timeout=30)


def big_session(server: ServerProcess, size: int) -> str:
    """A session of this size; the same one each time, because sessions in memory are no misbehaviour."""
    name = f"big{size}"
    known = server.result("list_client_sessions", client_id=name)["sessions"]
    made = known[0] if known else server.result("create_session", client_id=name, session_state={"pad": "x" * size})
    return str(made["session_id"])


# What peers do; each takes a server and returns when it has done it.


def drip(server: ServerProcess) -> None:
    """A request, a byte at a time, more slowly than a line may take."""
    with patient(server) as client:
        client.sock.settimeout(0.2)
        with contextlib.suppress(ConnectionError):
            for byte in b'{"id":1,"command":"create_session","parameters":{"client_id":"drip"}}\n':
                client.send(bytes([byte]))
                try:
                    reply = client.receive()
                except TimeoutError:
                    continue
                assert (reply["id"], reply["error_code"]) == (None, "line_timeout")
                assert client.at_eof()
                return
    raise AssertionError("nobody stopped it")


def never_read(server: ServerProcess) -> None:
    """Asks for megabytes and reads nothing, until it is cut off."""
    session_id = big_session(server, 900_000)
    with patient(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = request_line(1, "restore_session", {"session_id": session_id})
        client.send(ask * 50)
        until(lambda: gone(client.sock), "being cut off", timeout=30)


def gone(sock: socket.socket) -> bool:
    """The server has reset the connection (what it sent may still be unread)."""
    try:
        sock.send(b"\n", socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


def flood(server: ServerProcess) -> None:
    """Megabytes without a newline, and then a request on the same line and one on the next."""
    with patient(server) as client:
        piece = b"x" * 65_536
        for _ in range(FLOOD_BYTES // len(piece)):
            client.send(piece)
        client.send(b'{"id":1,"command":"create_session","parameters":{"client_id":"tail"}}\n')
        assert client.receive()["error_code"] == "message_too_large"
        assert client.result("ping") == {"pong": True}
        assert client.result("list_client_sessions", client_id="tail")["session_count"] == 0


def many_at_once(server: ServerProcess) -> None:
    """A hundred thousand requests in one write, read at leisure, in their order."""
    session_id = server.result("create_session", client_id="many")["session_id"]
    update = {"session_id": session_id, "state_data": {"n": 1}}
    data = b"".join(request_line(n, "update_session_state", update) for n in range(MANY))
    with patient(server) as client:
        writer = threading.Thread(target=client.send, args=(data,), daemon=True)
        writer.start()
        for n in range(MANY):
            line = client.receive_line()
            assert line.startswith(b'{"id":%d,"status":"success"' % n), line
        writer.join(10)
        assert client.result("get_session_info", session_id=session_id)["revision"] == MANY + 1


def half_close(server: ServerProcess) -> None:
    """Says all it has to say, the last line without its newline, and reads the replies."""
    with patient(server) as client:
        client.send(request_line(1, "ping", {}) * 100 + request_line(2, "ping", {}).rstrip())
        client.half_close()
        ids = [client.receive()["id"] for _ in range(101)]
        assert ids == [1] * 100 + [2]
        assert client.at_eof()


def reset_half_way(server: ServerProcess) -> None:
    """Goes with a reset in the middle of a line, of a pipeline and of replies."""
    session_id = big_session(server, 100_000)
    restore = request_line(1, "restore_session", {"session_id": session_id})
    for data in (restore[:20], restore * 20, restore * 20 + restore[:20]):
        for read in (0, 1000):
            client = patient(server)
            client.send(data)
            if read and len(data) > len(restore):
                client.sock.recv(read)
            client.reset()


REQUEST = request_line(1, "create_session", {"client_id": "browser"})
HTTP = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /" + b"x" * 2_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" + REQUEST,
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n" + REQUEST * 10,
    b"PUT /x HTTP/1.1\r\n\r\n" + REQUEST,
    b"OPTIONS * HTTP/1.1\r\nOrigin: http://evil.example\r\n\r\n" + REQUEST,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + REQUEST,
]


def speak_http(server: ServerProcess) -> None:
    """A web page that posts requests to us: nothing is answered, nothing is run."""
    for data in HTTP:
        for size in (len(data), 1):  # whole, and with a first line that comes byte by byte
            with patient(server) as client, contextlib.suppress(ConnectionError):
                for n in range(0, min(len(data), 12 * size), size):
                    client.send(data[n : n + size])
                client.send(data[12 * size :])
                assert client.at_eof()
    assert server.result("list_client_sessions", client_id="browser")["session_count"] == 0


def speak_tls(server: ServerProcess) -> None:
    """A TLS client hello is no request: it gets an error line at most, which ends the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with patient(server) as client:
        try:
            context.wrap_socket(client.sock)
        except OSError:
            return
    raise AssertionError("a handshake without TLS")


def nonsense(server: ServerProcess) -> None:
    """Bytes of all kinds; each line is answered once, and the connection goes on."""
    text = [b"\x00" * 50, b"\xff\xfe{}", b'"' + b"\\ud800" * 10 + b'"', b"\x16\x03\x01"]
    lines = [*text, b"[" * 50_000, b"{}", b"null", b"1e999"]
    with patient(server) as client:
        for line in lines:
            client.send(line + b"\n")
            reply = client.receive()
            assert (reply["id"], reply["status"], reply["error_type"]) == (None, "error", "Error"), line
        assert client.result("ping") == {"pong": True}


def connect_and_go(server: ServerProcess) -> None:
    """A hundred connections that say nothing and go."""
    peers = [patient(server) for _ in range(100)]
    for peer in peers:
        peer.close()


Abuse = Callable[[ServerProcess], None]
ABUSES: list[Abuse] = [
    drip,
    never_read,
    flood,
    many_at_once,
    half_close,
    reset_half_way,
    speak_http,
    speak_tls,
    nonsense,
    connect_and_go,
]


@pytest.mark.parametrize("abuse", ABUSES, ids=lambda abuse: abuse.__name__)
def test_one_bad_peer(server: ServerProcess, abuse: Abuse) -> None:
    with GoodClient(server) as good:
        abuse(server)
    good.judge(abuse.__name__)
    no_faults(server)


def no_faults(server: ServerProcess) -> None:
    """Nothing that peers do is an error of the server's, or fills its log."""
    log = server.stderr()
    assert '"level":"error"' not in log
    assert "Traceback" not in log
    assert len(log.splitlines()) < 200


@contextlib.contextmanager
def repeated(server: ServerProcess, abuse: Abuse) -> Iterator[None]:
    """`abuse` over and over, in a thread, while in here."""
    stopping = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stopping.is_set():
                abuse(server)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join(60)
    assert not thread.is_alive(), f"{abuse.__name__} does not end"
    if failures:
        raise failures[0]


def test_all_bad_peers_at_once(server: ServerProcess) -> None:
    """Those that can go on for ever, several of a kind."""
    with GoodClient(server) as good, contextlib.ExitStack() as peers:
        for abuse in (drip, never_read, flood, reset_half_way, speak_http, nonsense, connect_and_go):
            for _ in range(2):
                peers.enter_context(repeated(server, abuse))
        time.sleep(ABUSE_SECONDS)
    good.judge("all at once")
    no_faults(server)


def test_unfinished_lines_of_many_peers_are_bounded_together(start_server: StartServer) -> None:
    """A hundred peers with almost a message each hold no more than `buffer_limit`."""
    server = start_server("--buffer-limit", "8MiB", *SERVER_ARGS)
    with GoodClient(server) as good, contextlib.ExitStack() as stack:
        peers: list[Any] = []
        for _ in range(100):
            peers.append(stack.enter_context(patient(server)))
            peers[-1].send(b'{"id":1,"command":"ping","x":"' + b"x" * 900_000)
        codes = []
        for peer in peers:
            peer.send(b'"}\n')
            codes.append(peer.receive()["error_code"])
    assert set(codes) == {"overloaded", "invalid_request"}
    good.judge("unfinished lines")
