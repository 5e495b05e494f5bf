"""A connected peer over a transport that is moved by hand."""

import json
from typing import Any, cast

from stui_sessions.domain.caller import Caller
from stui_sessions.gates.lines.connection import Connection, Peers
from tests.engine.desk import Desk


class Transport:
    """Takes what is written; the peer reads it when told to."""

    def __init__(self, connection: Connection, desk: Desk) -> None:
        self.reading = True
        self.closing = False
        self.aborted = False
        self.said_end = False
        self.sent = b""
        self.unsent = 0
        self.peer_reads = True
        self.half_closes = False
        self._connection = connection
        self._desk = desk
        self._high = 0

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return self.half_closes

    def write_eof(self) -> None:
        self.said_end = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closing
        assert not self.said_end
        self.sent += data
        if not self.peer_reads:
            paused = self.unsent > self._high
            self.unsent += len(data)
            if self.unsent > self._high and not paused:
                self._connection.pause_writing()

    def read_all(self) -> None:
        """The peer reads everything."""
        paused = self.unsent > self._high
        self.peer_reads, self.unsent = True, 0
        if paused:
            self._desk.call(self._connection.resume_writing)

    def close(self) -> None:
        self.closing = True
        if not self.unsent:
            self._gone()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._gone()

    def _gone(self) -> None:
        self._desk.loop.call_soon(self._connection.connection_lost, None)


class Line:
    """One connection; `number` is its number."""

    def __init__(self, desk: Desk, peers: Peers, number: int = 1) -> None:
        self._desk = desk
        self.connection: Connection = desk.call(Connection, peers, Caller("local", connection=number))
        self.transport = Transport(self.connection, desk)
        desk.call(self.connection.connection_made, cast(Any, self.transport))
        desk.settle()

    def give(self, data: bytes) -> None:
        """Bytes arrive; nobody else comes to a turn."""
        assert self.transport.reading
        self._desk.call(self.connection.data_received, data)

    def say(self, *data: bytes) -> None:
        for piece in data:
            self.give(piece)
        self._desk.settle()

    def end(self) -> bool:
        """The peer says no more; what `eof_received` tells asyncio."""
        keep: bool = self._desk.call(self.connection.eof_received)
        self._desk.settle()
        return keep

    @property
    def replies(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.transport.sent.splitlines()]

    @property
    def codes(self) -> list[str]:
        return [reply.get("error_code", "ok") for reply in self.replies]
