"""Sockets that are listened on, and who is let in."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Sequence
from typing import Any

from stui_sessions.errors import Refusal, StartError
from stui_sessions.gates.lines.connection import Connection, Peers
from stui_sessions.protocol.messages import NULL_ID, encode_lines, failure

BACKLOG = 4096
ACCEPTS_PER_TURN = 64
PAUSE_SECONDS = 0.2
"""Rest of a listener that has no descriptors left; asyncio's own would log in a loop."""

LOG_EVERY_SECONDS = 60.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def bind_tcp(addresses: Sequence[str], port: int) -> list[socket.socket]:
    """A socket bound to each numeric address.  StartError if one cannot be had."""
    sockets: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address, port))
        except OSError as error:
            for opened in (bound, *sockets):
                opened.close()
            raise StartError(_cannot_listen(f"{address} port {port}", error)) from None
        port = port or bound.getsockname()[1]  # the same free port on every address
        sockets.append(bound)
    return sockets


def give_back(sockets: Sequence[socket.socket]) -> None:
    """Close sockets that will not be listened on; a Unix socket's name is removed."""
    for bound in sockets:
        path = str(bound.getsockname()) if bound.family == socket.AF_UNIX else ""
        bound.close()
        if path:
            with contextlib.suppress(OSError):
                os.unlink(path)


def bind_unix(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600; a stale one is replaced, a live one refused."""
    make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise StartError(_cannot_listen(path, error)) from None
    finally:
        os.umask(before)
    return listener


def make_way(path: str) -> None:
    """Remove a socket that no process listens on.  StartError if one does, or if it is something else."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(_cannot_listen(path, error)) from None
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{path} exists and is not a socket; name another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise StartError(_cannot_listen(path, error)) from None
        else:
            raise StartError(f"{path} is in use: another server listens there; stop it or name another path")


def _cannot_listen(where: str, error: OSError) -> str:
    hint = {
        errno.EADDRINUSE: "another program listens there; stop it or choose another port",
        errno.EACCES: "this user may not; choose another place",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENOENT: "the directory does not exist; create it first",
    }.get(error.errno or 0, "choose another place")
    return f"cannot listen on {where}: {error.strerror or error}; {hint}"


class Listener:
    """Accepts from one socket, up to `max_connections` over all of them."""

    def __init__(
        self,
        listening: socket.socket,
        peers: Peers,
        make: Callable[[str], Connection],
        room: Callable[[], int],
        log: Any,
    ) -> None:
        self._socket = listening
        self._peers = peers
        self._make = make
        self._room = room
        self._log = log
        self._quiet_until = 0.0
        self._turned_away = 0
        self._starting: set[asyncio.Task[None]] = set()
        self._inode = _inode(self._path)
        self._closed = False

    @property
    def url(self) -> str:
        """`tcp://HOST:PORT` or `unix://PATH`."""
        if self._path:
            return f"unix://{self._path}"
        host, port = self._socket.getsockname()[:2]
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"

    @property
    def _path(self) -> str:
        return str(self._socket.getsockname()) if self._socket.family == socket.AF_UNIX else ""

    def start(self) -> None:
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)
        self._resume()

    def close(self) -> None:
        """Accept no more; a Unix socket of ours is removed."""
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        path = self._path
        self._socket.close()
        if path and _inode(path) == self._inode:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _resume(self) -> None:
        if not self._closed:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept_some)

    def _accept_some(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._on_accept_error(error)
                return
            self._admit(accepted, address[0] if isinstance(address, tuple) else "")

    def _on_accept_error(self, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.call_later(PAUSE_SECONDS, self._resume)
        if error.errno in _EXHAUSTED:
            self._warn("listener.no_descriptors")
        else:
            self._warn("listener.accept_failed")

    def _admit(self, accepted: socket.socket, address: str) -> None:
        accepted.setblocking(False)
        if len(self._peers.all) + len(self._starting) >= self._room():
            self._turn_away(accepted)
            return
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        task = asyncio.get_running_loop().create_task(self._connect(accepted, address))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _connect(self, accepted: socket.socket, address: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self._make(address), accepted)
        except OSError:
            accepted.close()

    def _turn_away(self, accepted: socket.socket) -> None:
        """Say why, in one line, and close: the descriptor is not kept."""
        limit = self._room()
        refusal = Refusal(
            "too_many_connections",
            f"the server has {limit} connections, which is its limit; try again later",
            limit=limit,
        )
        now = self._peers.engine.clock()
        with accepted, contextlib.suppress(OSError):
            accepted.send(encode_lines([failure(NULL_ID, refusal, now.text)]))
            accepted.shutdown(socket.SHUT_WR)
            accepted.recv(65536)  # unread input would turn our close into a reset that overtakes the line
        self._turned_away += 1
        self._warn("listener.full")

    def _warn(self, event: str) -> None:
        """Once a minute at most: this can happen thousands of times a second."""
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + LOG_EVERY_SECONDS
            self._log.warning(event, connections=len(self._peers.all), turned_away=self._turned_away)
            self._turned_away = 0


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino if path else 0
    except OSError:
        return 0
