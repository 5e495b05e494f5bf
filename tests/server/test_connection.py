"""One connection, over a transport that is moved by hand: memory, back-pressure, closing."""

import asyncio
import json
from typing import Any, cast

import pytest

from stui_sessions.server.connection import FAIR_SHARE, HIGH_WATER, Connection, PeerLimits, Peers
from stui_sessions.server.dialogue import TURN
from stui_sessions.sessions.caller import ANYONE_LOCAL
from tests.server.desk import Desk, request, stored_session
from tests.server.room import Log, settle


class Transport:
    """Takes what is written; the peer reads it when told to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.reading = True
        self.closing = False
        self.aborted = False
        self.sent = b""
        self.unsent = 0
        self.peer_reads = True
        self._high = 0

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.sent += data
        if not self.peer_reads:
            paused = self.unsent > self._high
            self.unsent += len(data)
            if self.unsent > self._high and not paused:
                self.connection.pause_writing()

    def read_all(self) -> None:
        """The peer reads everything."""
        paused = self.unsent > self._high
        self.peer_reads, self.unsent = True, 0
        if paused:
            self.connection.resume_writing()

    def close(self) -> None:
        self.closing = True
        if not self.unsent:
            self._gone()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self._gone()

    def _gone(self) -> None:
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)


class Line:
    """A connected peer."""

    def __init__(self, peers: Peers) -> None:
        self.connection = Connection(peers, ANYONE_LOCAL)
        self.transport = Transport(self.connection)
        self.connection.connection_made(cast(asyncio.BaseTransport, self.transport))

    async def say(self, *data: bytes) -> None:
        for piece in data:
            assert self.transport.reading
            self.connection.data_received(piece)
        await settle()

    @property
    def replies(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.transport.sent.splitlines()]

    @property
    def codes(self) -> list[str]:
        return [reply.get("error_code", "ok") for reply in self.replies]


async def a_second_of(watching: "asyncio.Task[None]") -> None:
    """One second of `watch`, without waiting for it."""
    loop = asyncio.get_running_loop()
    await settle()
    handles = [h for h in getattr(loop, "_scheduled", ()) if not h.cancelled()]
    for handle in handles:
        handle._run()
        handle.cancel()
    await settle()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


PING = request(1, "ping") + b"\n"


@pytest.fixture
def desk() -> Desk:
    desk = Desk(stored_session("big", session_state=b'{"a":"%b"}' % (b"x" * 100_000)))
    desk.later = lambda callback: asyncio.get_running_loop().call_soon(callback)  # type: ignore[method-assign]
    return desk


@pytest.fixture
def peers(desk: Desk) -> Peers:
    return Peers(desk.engine, PeerLimits(buffer_limit=1_000_000), Log())


async def test_a_request_and_its_reply(peers: Peers) -> None:
    line = Line(peers)
    await line.say(PING[:10], PING[10:] + PING[:5], PING[5:])
    assert line.codes == ["ok", "ok"]
    assert line.transport.reading
    assert peers.buffered == 0
    assert not peers.unfinished


async def test_end_of_file_answers_what_is_owed_and_closes(desk: Desk, peers: Peers) -> None:
    line = Line(peers)
    await line.say(request(1, "create_session", client_id="me") + b"\n" + PING.rstrip())
    assert line.connection.eof_received()
    await settle()
    assert not line.transport.closing
    desk.load()
    desk.commit()
    await settle()
    assert line.codes == ["ok", "ok"]
    assert line.transport.closing
    assert not peers.all


async def test_end_of_file_while_a_commit_runs_closes_after_the_reply(desk: Desk, peers: Peers) -> None:
    warm_up, line = Line(peers), Line(peers)
    await warm_up.say(request(1, "get_session_info", session_id="big") + b"\n")
    desk.load()
    await line.say(request(1, "update_session_state", session_id="big", mode="replace", state_data={}) + b"\n")
    line.connection.eof_received()
    await settle()
    assert not line.transport.closing
    desk.commit()
    await settle()
    assert line.codes == ["ok"]
    assert line.transport.closing


async def test_end_of_file_after_nothing_closes(peers: Peers) -> None:
    line = Line(peers)
    line.connection.eof_received()
    await settle()
    assert line.transport.closing


async def test_end_of_file_after_blank_lines_closes(peers: Peers) -> None:
    line = Line(peers)
    await line.say(PING * TURN + b" ")
    line.connection.eof_received()
    await settle()
    assert len(line.codes) == TURN
    assert line.transport.closing


async def test_many_blank_lines_are_no_end_of_reading(peers: Peers) -> None:
    line = Line(peers)
    await line.say(b"\r\n" * (3 * TURN))
    assert line.transport.reading
    await line.say(PING)
    assert line.codes == ["ok"]


async def test_nothing_is_read_while_something_is_undecided(desk: Desk, peers: Peers) -> None:
    line = Line(peers)
    await line.say(request(1, "restore_session", session_id="big") + b"\n" + PING)
    assert not line.transport.reading
    desk.load()
    await settle()
    assert line.transport.reading
    assert line.codes == ["ok", "ok"]


async def test_http_is_answered_nothing(peers: Peers) -> None:
    line = Line(peers)
    await line.say(b"PO")
    await line.say(b"ST / HTTP/1.1\r\n" + PING)
    assert line.transport.aborted
    assert line.transport.sent == b""


@pytest.mark.parametrize("first", [b"G", b"GET", b'{"id":"GET / ",', b"GETX "])
async def test_what_only_begins_like_http_is_not_cut_off(peers: Peers, first: bytes) -> None:
    line = Line(peers)
    await line.say(first)
    await line.say(b"\n" + PING)
    assert line.codes[-1] == "ok"


# -- unfinished lines


async def test_an_unfinished_line_is_noted_until_it_ends(peers: Peers) -> None:
    line = Line(peers)
    await line.say(PING[:10])
    assert list(peers.unfinished) == [line.connection]
    await line.say(PING[10:])
    assert not peers.unfinished


async def test_an_over_long_line_is_noted_until_it_ends(desk: Desk, peers: Peers) -> None:
    """Its end completes no line: a good peer would be told of a time-out half a minute later, and closed."""
    desk.engine.limits.max_message_bytes = 100
    line = Line(peers)
    await line.say(b"x" * 150)
    assert line.codes == ["message_too_large"]
    assert list(peers.unfinished) == [line.connection]
    await line.say(b"x\n")
    assert not peers.unfinished


async def test_a_line_that_does_not_end_is_refused_and_the_connection_closed(peers: Peers) -> None:
    line = Line(peers)
    await line.say(PING + PING[:10])
    line.connection.refuse_slow_line()
    await settle()
    assert line.codes == ["ok", "line_timeout"]
    assert line.transport.closing


# -- memory


async def test_what_is_buffered_is_counted_and_given_back(peers: Peers) -> None:
    line = Line(peers)
    await line.say(b"x" * 50_000)
    assert peers.buffered == 50_000
    line.transport.abort()
    await settle()
    assert peers.buffered == 0


async def test_replies_that_a_peer_does_not_read_are_counted(desk: Desk, peers: Peers) -> None:
    lines = [Line(peers) for _ in range(3)]
    for line in lines:
        line.transport.peer_reads = False
        await line.say((request(1, "restore_session", session_id="big") + b"\n") * 3)
        desk.settle()
        await settle()
        assert line.transport.unsent > HIGH_WATER
        assert not line.transport.reading
    assert peers.buffered >= sum(line.transport.unsent for line in lines)


async def test_peers_that_do_not_read_are_cut_off_when_memory_is_short(desk: Desk, peers: Peers) -> None:
    lines = [Line(peers) for _ in range(10)]
    for line in lines:
        line.transport.peer_reads = False
        await line.say((request(1, "restore_session", session_id="big") + b"\n") * 10)
        desk.settle()
        await settle()
    held = sum(line.transport.unsent for line in lines if not line.transport.aborted)
    assert any(line.transport.aborted for line in lines)
    assert held <= peers.limits.buffer_limit + HIGH_WATER + 200_000


async def test_an_unfinished_line_gives_way_when_memory_is_short(peers: Peers) -> None:
    lines = [Line(peers) for _ in range(20)]
    for line in lines:
        await line.say(b"x" * 60_000)
    small = Line(peers)
    await small.say(b"x" * (peers.fair_share - 5000))
    assert small.codes == []
    large = Line(peers)
    others = peers.buffered
    large.connection.data_received(b"x" * (FAIR_SHARE + 1))
    assert peers.buffered == others  # at once: the next one must not be refused for what is free again
    await settle()
    assert large.codes == ["overloaded"]
    assert large.connection._framer.buffered == 0
    await large.say(b"the rest\n" + PING)
    assert large.codes == ["overloaded", "ok"]


async def test_replies_that_were_read_late_are_not_counted_for_ever(desk: Desk, peers: Peers) -> None:
    """An idle peer must not hold what others are refused for."""
    line = Line(peers)
    line.transport.peer_reads = False
    await line.say(request(1, "restore_session", session_id="big") + b"\n" + PING[:10])
    desk.settle()
    await settle()
    await line.say(PING[10:] + PING[:10])
    assert peers.buffered > 100_000
    line.transport.read_all()  # below high water: nobody is told
    await a_second_of(asyncio.create_task(peers.watch()))
    assert peers.buffered <= len(PING)


async def test_a_line_that_we_do_not_read_is_not_late(desk: Desk, peers: Peers) -> None:
    """While its earlier request waits for the disk, a peer cannot end its line."""
    line = Line(peers)
    await line.say(request(1, "restore_session", session_id="big") + b"\n" + PING[:10])
    assert not line.transport.reading
    peers.unfinished[line.connection] -= 1000
    await a_second_of(asyncio.create_task(peers.watch()))
    desk.load()
    await settle()
    assert line.codes == ["ok"]
    await line.say(PING[10:])
    assert line.codes == ["ok", "ok"]


@pytest.mark.parametrize("read_before", [0, HIGH_WATER])
async def test_a_closing_peer_that_does_not_read_is_cut_off(desk: Desk, peers: Peers, read_before: int) -> None:
    """What it was sent fits below high water, so its transport would wait for ever."""
    line = Line(peers)
    line.transport.peer_reads = False
    count = 3 if read_before else 1
    await line.say((request(1, "restore_session", session_id="big") + b"\n") * count)
    desk.settle()
    await settle()
    line.connection.eof_received()
    await settle()
    assert line.transport.closing
    if read_before:
        line.transport.unsent -= read_before
        line.connection.resume_writing()
    assert not line.transport.aborted
    (since, unsent) = peers.stalled[line.connection]
    peers.stalled[line.connection] = (since - 1000, line.transport.unsent)
    await a_second_of(asyncio.create_task(peers.watch()))
    assert line.transport.aborted
    assert unsent > 0


# -- stopping


async def test_draining_answers_what_was_read_and_closes(desk: Desk, peers: Peers) -> None:
    busy, idle = Line(peers), Line(peers)
    await busy.say(request(1, "restore_session", session_id="big") + b"\n" + PING + PING[:5])
    draining = asyncio.create_task(peers.drain(60))
    await settle()
    assert idle.transport.closing
    assert not busy.transport.closing
    desk.load()
    await settle()
    assert busy.codes == ["ok", "ok"]
    assert busy.transport.closing
    await asyncio.wait_for(draining, 10)


async def test_draining_cuts_off_who_is_stuck(desk: Desk, peers: Peers) -> None:
    line = Line(peers)
    line.transport.peer_reads = False
    await line.say(PING)
    await peers.drain(0)
    await settle()
    assert line.transport.aborted


async def test_a_connection_made_while_draining_is_closed(peers: Peers) -> None:
    await peers.drain(0)
    line = Line(peers)
    await settle()
    assert line.transport.closing
