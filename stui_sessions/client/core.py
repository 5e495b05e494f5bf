"""The client's side of the protocol without I/O: request lines out, replies in.

A transport (asyncio, blocking, a test) asks for lines, says when it sends them, and feeds what it
receives.  The server answers the requests of one connection in their order; a reply without an id
therefore belongs to the oldest request that has no answer, unless it is about the connection.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from stui_sessions.client.errors import ProtocolViolation, SessionServerError, server_error
from stui_sessions.client.results import RESULTS
from stui_sessions.client.values import check_value
from stui_sessions.protocol.framing import OVERFLOW, LineFramer

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""The longest reply that a client takes by default, in bytes."""

_ENDS_CONNECTION = frozenset({"too_many_connections", "line_timeout"})
"""Codes that, without an id, are the server's last word on a connection."""


class Reply(Struct, gc=False):
    """One reply of the server, success or error; fields that it does not know are left out."""

    id: int | None
    status: Literal["success", "error"]
    result: Raw = Raw(b"null")
    error: str = ""
    error_type: str = ""
    error_code: str = ""
    details: Raw = Raw(b"{}")

    @property
    def ends_connection(self) -> bool:
        """The server has given up the connection with this reply."""
        return self.id is None and self.error_code in _ENDS_CONNECTION

    def failure(self) -> SessionServerError | None:
        """The exception for an error reply, a new one each time; None for a success."""
        if self.status == "success":
            return None
        return server_error(self.error_type, self.error_code, self.error, _decode(self.details, dict), self.id)

    def raw_result(self) -> bytes:
        """The result as the server wrote it; raises SessionServerError."""
        error = self.failure()
        if error is not None:
            raise error
        return bytes(self.result)

    def typed_result(self, command: str) -> Any:
        """The result in the type of the command's row in the table; raises SessionServerError, ProtocolViolation.

        A command that this client does not know (the server is newer) gives plain dicts.
        """
        error = self.failure()
        if error is not None:
            raise error
        return _decode(self.result, RESULTS.get(command, Any))


class ClientCore:
    """One connection: which requests were sent, and which replies belong to them."""

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self._framer = LineFramer(max_reply_bytes)
        self._ids = count(1)
        self._sent: deque[int] = deque()

    def request(self, command: str, parameters: Mapping[str, Any]) -> tuple[int, bytes]:
        """A new id and the line to send; raises TypeError or ValueError for what JSON cannot say."""
        text = encode_object(parameters)
        id = next(self._ids)
        return id, request_line(id, command, text)

    def sent(self, ids: Iterable[int]) -> None:
        """The lines of these requests go out now, in this order."""
        self._sent.extend(ids)

    def receive(self, data: bytes) -> Iterator[tuple[int | None, Reply]]:
        """The replies that `data` completes, each with the id of its request.

        None stands for a reply that is about the connection and so about every request in flight.
        Raises ProtocolViolation; nothing on the connection can be trusted after that.
        """
        for line in self._framer.feed(data):
            if line is OVERFLOW:
                raise ProtocolViolation(f"a reply is longer than {self._framer.limit} bytes")
            if line.isspace():
                continue
            reply = read_reply(line)
            yield self._request_of(reply), reply

    def _request_of(self, reply: Reply) -> int | None:
        sent = self._sent
        if reply.id is None:
            return None if reply.ends_connection or not sent else sent.popleft()
        # Ids grow and replies come in order, so older requests will get no reply.
        while sent and sent[0] <= reply.id:
            sent.popleft()
        return reply.id


def read_reply(line: bytes) -> Reply:
    """The reply on `line`; raises ProtocolViolation."""
    return _decode(line, Reply)  # type: ignore[no-any-return]


def request_line(id: int, command: str, parameters: bytes) -> bytes:
    """The line of a request whose parameters are JSON text already; raises ValueError for a lone surrogate."""
    line = msgspec.json.encode({"id": id, "command": command, "parameters": Raw(parameters)})
    if b"\n" in line:
        # Only raw text can bring a newline; written compactly it is the same value on one line.  A CR alone ends
        # no line, and stays: a row of an export has a checksum of its text.
        line = msgspec.json.format(line, indent=-1)
    return line + b"\n"


def encode_object(parameters: Mapping[str, Any]) -> bytes:
    """`parameters` as JSON text.  A value that is `msgspec.Raw` goes out as it is.

    Raises TypeError or ValueError, with the parameter's name, for what JSON cannot say (see `values`).
    """
    for name, value in parameters.items():
        if isinstance(value, Raw):
            _check_json(name, value)
        else:
            check_value(name, value)
    return msgspec.json.encode(parameters)


def _check_json(name: str, text: Raw) -> None:
    # Broken text would break the line, and the server could not even tell whose line it was.
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from None


def _decode(text: bytes | Raw, type: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"the server's reply cannot be read: {error}") from None
