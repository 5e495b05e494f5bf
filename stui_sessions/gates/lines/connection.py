"""One peer: bytes in, bytes out, and the limits that keep it from harming the others."""

import asyncio
import re
import select
from typing import Any, cast

from msgspec import Raw, Struct

from stui_sessions.domain.caller import Caller
from stui_sessions.engine.engine import Engine
from stui_sessions.errors import Refusal
from stui_sessions.gates.lines.dialogue import Dialogue
from stui_sessions.protocol.framing import LineFramer
from stui_sessions.protocol.messages import NULL_ID, Codec, failure

HIGH_WATER = 256 * 1024
"""Unsent bytes at which nothing more is decided for a peer until it reads."""

FAIR_SHARE = 64 * 1024
"""A peer that holds less memory than this is left alone when memory is short, unless there are so many
that their even share is less."""

LINGER_SECONDS = 0.2
"""When the server stops: how long a peer has to take note before its connection is closed."""

LEFT = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # the last one on Linux alone
"""What poll tells of a socket whose peer has left."""

_HTTP = re.compile(rb"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PRI) ")
_HTTP_HEAD = 8


class PeerLimits(Struct, frozen=True):
    """See `config.Settings` for their meaning."""

    line_timeout: int = 30
    output_timeout: int = 60
    output_limit: int = 4 * 1024 * 1024
    buffer_limit: int = 48 * 1024 * 1024
    max_connections: int = 10_000


class Peers:
    """All connections, and what they hold together."""

    def __init__(self, engine: Engine, codec: Codec, limits: PeerLimits, log: Any) -> None:
        self.engine = engine
        self.codec = codec
        self.limits = limits
        self.log = log
        self.all: set[Connection] = set()
        self.buffered = 0
        """Bytes of unfinished lines, undecided requests and unsent replies, of all peers."""
        self.unfinished: dict[Connection, float] = {}
        """Peers in the middle of a line, and since when."""
        self.stalled: dict[Connection, tuple[float, int]] = {}
        """Peers that do not read: since when, and the bytes that were unsent then."""
        self.draining = False
        self._emptied = asyncio.Event()

    @property
    def fair_share(self) -> int:
        """Bytes that a peer may hold even when memory is short."""
        return min(FAIR_SHARE, self.limits.buffer_limit // max(1, len(self.all)))

    def is_there(self, number: int) -> bool:
        """The connection of that number is open, and its peer has not closed its side."""
        return any(peer.number == number and not peer.has_left for peer in self.all)

    async def watch(self) -> None:
        """Once a second, see to peers that are slow beyond the limits."""
        while True:
            await asyncio.sleep(1)
            now = asyncio.get_running_loop().time()
            for peer in list(self.all):
                peer.recount()
            for peer, since in list(self.unfinished.items()):
                if peer.held_up:  # it is not read, so it cannot end its line
                    self.unfinished[peer] = now
                elif now - since >= self.limits.line_timeout:
                    peer.refuse_slow_line()
            for peer, (since, unsent) in list(self.stalled.items()):
                left = peer.unsent
                if left < unsent:
                    self.stalled[peer] = (now, left)
                elif now - since >= self.limits.output_timeout:
                    peer.cut_off("it does not read its replies")

    def joined(self, peer: "Connection") -> None:
        self.all.add(peer)

    def left(self, peer: "Connection") -> None:
        self.all.discard(peer)
        self.unfinished.pop(peer, None)
        self.stalled.pop(peer, None)
        if not self.all:
            self._emptied.set()

    async def drain(self, seconds: float) -> None:
        """Answer what was read, close everybody; cut off who is still there after `seconds`."""
        self.draining = True
        for peer in list(self.all):
            peer.drain()
        if self.all:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), seconds)
            except TimeoutError:
                for peer in list(self.all):
                    peer.cut_off("the server is stopping")


class Connection(asyncio.Protocol):
    """The transport's side of a dialogue."""

    __slots__ = (
        "_dialogue",
        "_framer",
        "_held",
        "_lingering",
        "_peers",
        "_seen_first_line",
        "_transport",
        "ending",
        "number",
    )

    def __init__(self, peers: Peers, caller: Caller) -> None:
        self._peers = peers
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._framer = LineFramer(peers.codec.limits.max_message_bytes)
        later = asyncio.get_running_loop().call_soon
        self._dialogue = Dialogue(peers.engine, peers.codec, caller, self._send, later, self._settle)
        self.number = caller.connection
        self._held = 0
        self._seen_first_line = False
        self._lingering = False
        self.ending = False
        """No more is read; close when everything is answered."""

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._peers.joined(self)
        self._peers.log.debug("connection.opened", connections=len(self._peers.all))
        if self._peers.draining:
            self.drain()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._dialogue.abandon()
        self._peers.buffered -= self._held
        self._held = 0
        self._peers.left(self)

    def data_received(self, data: bytes) -> None:
        if self.ending:
            return
        if not self._seen_first_line and self._is_http(data):
            self._peers.log.debug("connection.http")
            self._transport.abort()
            return
        framer = self._framer
        dialogue = self._dialogue
        if framer.is_line(data):
            dialogue.receive_one(data)
            if self._held or dialogue.backlog:
                self._take_stock(True)
            return
        lines = framer.feed(data)
        if lines:
            dialogue.receive(lines)
        if framer.unfinished or self._held or dialogue.backlog:
            self._take_stock(bool(lines))
        elif self in self._peers.unfinished:
            del self._peers.unfinished[self]

    def eof_received(self) -> bool:
        """The peer has said all it will; it may still want the replies."""
        if not self.ending:
            self._dialogue.receive(self._framer.finish())
            self._end()
        return not (self._transport.is_closing() or self._lingering)

    def pause_writing(self) -> None:
        self._dialogue.paused = True
        self._watch_reading()
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._settle)  # not at once: this may come in the midst of deciding

    def resume_writing(self) -> None:
        self._dialogue.paused = False
        if not self._transport.is_closing():
            self._peers.stalled.pop(self, None)
        self._dialogue.proceed()
        self._settle()

    # -- what others ask of it

    @property
    def unsent(self) -> int:
        """Bytes of replies that the peer has not taken."""
        return self._transport.get_write_buffer_size()

    @property
    def held_up(self) -> bool:
        """Nothing is read from it: more than one request is undecided, or it does not read."""
        return self._dialogue.busy or self._dialogue.paused

    @property
    def has_left(self) -> bool:
        """The peer has closed its side or reset the connection: asked of the system, which knows it unread too."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), LEFT)
        return bool(poll.poll(0))

    def recount(self) -> None:
        """Take stock where replies were written or read meanwhile; neither is told as it happens."""
        if self._held or self.unsent:
            self._settle()

    def apply_limits(self) -> None:
        """The limits of one message have changed."""
        self._framer.limit = self._peers.codec.limits.max_message_bytes

    def drain(self) -> None:
        """Read no more; close when everything that was read is answered."""
        if not self.ending:
            self._end()

    def refuse_slow_line(self) -> None:
        """The line that was begun has not ended in time."""
        limit = self._peers.limits.line_timeout
        self._peers.unfinished.pop(self, None)
        self._framer.discard()
        self._refuse(Refusal("line_timeout", f"a line must end within {limit} s of its beginning", limit=limit))
        self._end()

    def cut_off(self, why: str) -> None:
        """Close at once; unsent replies are lost."""
        self._peers.log.warning("connection.cut_off", why=why, unsent=self.unsent)
        self._transport.abort()

    # -- the inside

    def _watch_reading(self) -> None:
        """Have it cut off if it goes on not reading."""
        self._peers.stalled[self] = (asyncio.get_running_loop().time(), self.unsent)

    def _is_http(self, data: bytes) -> bool:
        """A web page may post to localhost, and the lines of its body would run."""
        head = self._framer.head(_HTTP_HEAD) + data[:_HTTP_HEAD]
        if b"\n" in data or len(head) >= _HTTP_HEAD:
            self._seen_first_line = True
        return _HTTP.match(head) is not None

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(data)
        if self._dialogue.paused and self.unsent > self._peers.limits.output_limit:
            self.cut_off("its unread replies pass the limit")
        if self.ending or self._held:
            asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        """After something was answered: take stock, read on or close."""
        self._take_stock(False)
        self._close_if_done()

    def _refuse(self, refusal: Refusal, id: Raw = NULL_ID) -> None:
        self._dialogue.say(failure(id, refusal, self._peers.engine.clock().text))

    def _end(self) -> None:
        self.ending = True
        self._peers.unfinished.pop(self, None)
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.ending and self._dialogue.idle and not self._transport.is_closing():
            if self._peers.draining and self._transport.can_write_eof():
                self._linger()
            else:
                self._transport.close()  # after what is still to be sent
            if self.unsent:
                self._watch_reading()

    def _linger(self) -> None:
        """Say that we are done, and throw away what still comes for a moment.

        Closing with unread input would reset the connection, and a reset overtakes
        the replies that are on their way.
        """
        if not self._lingering:
            self._lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)

    def _take_stock(self, line_ended: bool) -> None:
        """Note what this peer holds; read on only while no more than one request of it is undecided."""
        if self._transport.is_closing():
            return
        peers, framer = self._peers, self._framer
        if not framer.unfinished:
            peers.unfinished.pop(self, None)
        elif line_ended or self not in peers.unfinished:
            peers.unfinished[self] = asyncio.get_running_loop().time()
        self._count_held()
        if peers.buffered > peers.limits.buffer_limit and self._held > peers.fair_share:
            self._give_up_memory(peers.fair_share)
            self._count_held()  # at once, or others would be refused for what is free again
        if self.ending:
            return
        if self.held_up:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _count_held(self) -> None:
        dialogue = self._dialogue
        held = self._framer.buffered + self.unsent + dialogue.backlog_bytes
        self._peers.buffered += held - self._held
        self._held = held

    def _give_up_memory(self, share: int) -> None:
        """Memory is short and this peer holds more than its share."""
        if self.unsent > share:
            self.cut_off("memory for unread replies is short")
        elif self._framer.buffered > share // 2:
            self._framer.discard()
            self._refuse(
                Refusal("overloaded", "the memory for unfinished lines is used up; the line was discarded, try again")
            )
