"""A blocking client for tests: sends bytes, receives lines.  It takes nothing from the package it tests."""

import itertools
import json
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class LineClient:
    """One connection.  Every send and receive raises TimeoutError after `timeout` seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._ids = itertools.count(1)

    @classmethod
    def tcp(cls, host: str, port: int, timeout: float = 10.0) -> Self:
        sock = socket.create_connection((host, port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock)

    @classmethod
    def unix(cls, path: Path, timeout: float = 10.0) -> Self:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(str(path))
        return cls(sock)

    # Bytes and lines.

    def send(self, data: bytes) -> None:
        """Exactly these bytes."""
        self.sock.sendall(data)

    def receive_line(self) -> bytes:
        """The next line without its LF; raises EOFError at the end of the stream."""
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError(f"the server closed the connection; unfinished line: {b''.join(parts)[:200]!r}")
            parts.append(data)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return line

    def receive(self) -> dict[str, Any]:
        """The next reply, decoded."""
        reply = json.loads(self.receive_line())
        assert isinstance(reply, dict)
        return reply

    def at_eof(self) -> bool:
        """The server has closed the connection and nothing is left unread; waits for one or the other."""
        if self._buffer:
            return False
        try:
            self._buffer = self.sock.recv(1 << 18)
        except ConnectionResetError:
            return True
        return not self._buffer

    # Requests.

    def send_request(self, command: str, /, **parameters: Any) -> int:
        """Send a request and do not wait; its id."""
        id = next(self._ids)
        self.send(request_line(id, command, parameters))
        return id

    def request(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """One request and its reply, success or error."""
        id = self.send_request(command, **parameters)
        reply = self.receive()
        assert reply["id"] == id, f"asked as {id}, answered {reply}"
        return reply

    def result(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """One request that must succeed; its result."""
        reply = self.request(command, **parameters)
        assert reply["status"] == "success", reply
        result = reply["result"]
        assert isinstance(result, dict)
        return result

    def pipeline(self, requests: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Send all requests in one write, then receive all replies."""
        lines = [request_line(next(self._ids), command, parameters) for command, parameters in requests]
        self.send(b"".join(lines))
        return [self.receive() for _ in lines]

    # Ways to go.

    def half_close(self) -> None:
        """End of what we send; replies can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def request_line(id: Any, command: str, parameters: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    text = json.dumps({"id": id, "command": command, "parameters": parameters}, ensure_ascii=False)
    return text.encode() + b"\n"
