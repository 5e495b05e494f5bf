"""One asyncio connection of the client: sends lines in order, gives each call its reply."""

import asyncio
import copy
from collections import OrderedDict
from typing import Any, cast

from stui_sessions.client.core import ClientCore, Reply
from stui_sessions.client.errors import ClientError, ConnectionLost, ProtocolViolation, ReplyTimeout

_CHUNK = 64 * 1024
"""Bytes of lines that are joined into one write."""


class Connection(asyncio.Protocol):
    """The transport's side of a client.

    What arrives is always read, also while the peer takes nothing: a server stops reading from a client
    that leaves replies unread, and the two would wait for each other.
    """

    def __init__(self, address: str, max_reply_bytes: int) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._core = ClientCore(max_reply_bytes)
        self._transport = cast(asyncio.Transport, None)
        self._pending: dict[int, asyncio.Future[Reply | ClientError]] = {}
        self._outbox: OrderedDict[int, bytes] = OrderedDict()
        self._flushing = False
        self._paused = False
        self._lost: ClientError | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection has ended."""

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for id, reply in self._core.receive(data):
                if id is None:
                    self.fail(reply.failure() or ProtocolViolation("the server sent a result without an id"))
                else:
                    self._settle(id, reply)
        except ProtocolViolation as violation:
            self.fail(violation)
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush()

    def connection_lost(self, exc: BaseException | None) -> None:
        reason = exc or "the server closed it"
        self.fail(ConnectionLost(f"the connection to {self._address} is lost: {reason}"))
        if not self.ended.done():
            self.ended.set_result(None)

    # -- the client's side

    @property
    def closed(self) -> bool:
        return self._lost is not None

    async def ask(self, command: str, parameters: dict[str, Any], seconds: float | None) -> Reply:
        """Send one request and wait for its reply, for ever if `seconds` is None.

        A call that is cancelled or times out before its turn to be sent is never sent; the reply to one
        that was sent is dropped when it comes.
        """
        if self._lost is not None:
            raise copy.copy(self._lost)
        id, line = self._core.request(command, parameters)
        future = self._pending[id] = self._loop.create_future()
        self._outbox[id] = line
        if not self._flushing:
            # In the next turn of the loop: the calls of one turn share a write.
            self._flushing = True
            self._loop.call_soon(self._flush)
        timer = seconds is not None and self._loop.call_later(
            seconds, self._settle, id, ReplyTimeout(f"no reply to {command} within {seconds:g} s")
        )
        try:
            outcome: Reply | ClientError = await future
        finally:
            self._pending.pop(id, None)
            self._outbox.pop(id, None)
            if timer:
                timer.cancel()
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome

    def fail(self, error: ClientError) -> None:
        """Nothing more can be asked; the first reason is what every call is told."""
        if self._lost is None:
            self._lost = error
        for id in list(self._pending):
            self._settle(id, copy.copy(self._lost))
        self._outbox.clear()

    async def close(self) -> None:
        """End the connection and wait until it has ended; calls in flight raise ConnectionLost."""
        self.fail(ConnectionLost(f"the connection to {self._address} was closed by this client"))
        if self._transport.get_write_buffer_size():
            # Unsent requests, whose calls have failed by now; a server that does not read would keep us here.
            self._transport.abort()
        self._transport.close()
        await asyncio.shield(self.ended)

    def _settle(self, id: int, outcome: Reply | ClientError) -> None:
        # An outcome, never `set_exception`: asyncio would complain of one whose call was cancelled meanwhile.
        future = self._pending.pop(id, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _flush(self) -> None:
        self._flushing = False
        outbox = self._outbox
        while outbox and not self._paused and not self._transport.is_closing():
            ids, lines, size = [], [], 0
            while outbox and size < _CHUNK:
                id, line = outbox.popitem(last=False)
                future = self._pending.get(id)
                if future is not None and not future.done():  # else given up in this very turn
                    ids.append(id)
                    lines.append(line)
                    size += len(line)
            self._core.sent(ids)
            self._transport.write(b"".join(lines))
