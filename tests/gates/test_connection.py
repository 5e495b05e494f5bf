"""One connection, over a transport that is moved by hand: framing, memory, back-pressure, closing."""

from collections.abc import Callable, Iterator

import pytest

from stui_sessions.gates.lines.connection import FAIR_SHARE, HIGH_WATER, LINGER_SECONDS, PeerLimits, Peers
from stui_sessions.gates.lines.dialogue import TURN
from tests.engine.desk import Desk, request, stored_session
from tests.gates.line import Line

PING = request(1, "ping") + b"\n"
BIG = request(1, "restore_session", session_id="big") + b"\n"
BIG_BYTES = 100_000

Connect = Callable[[], Line]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """One stored session with a state of 100,000 bytes."""
    state = b'{"a":"%b"}' % (b"x" * BIG_BYTES)
    with Desk(stored_session("big", session_state=state)) as desk:
        yield desk


@pytest.fixture
def held(desk: Desk) -> Desk:
    """Reads and commits wait to be let go."""
    desk.store.reads.closed = desk.store.commits.closed = True
    return desk


@pytest.fixture
def peers(desk: Desk) -> Peers:
    return Peers(
        desk.engine, desk.codec, PeerLimits(buffer_limit=1_000_000, line_timeout=30, output_timeout=60), desk.log
    )


@pytest.fixture
def connect(desk: Desk, peers: Peers) -> Connect:
    return lambda: Line(desk, peers)


@pytest.fixture
def line(desk: Desk, peers: Peers) -> Line:
    return Line(desk, peers)


@pytest.fixture
def watched(desk: Desk, peers: Peers) -> Peers:
    """Somebody sees to slow peers once a second."""
    desk.start(peers.watch())
    desk.settle()
    return peers


def read(desk: Desk) -> None:
    """The read that waits comes back."""
    desk.settle()
    desk.store.reads.let_go()
    desk.settle()


# -- requests


def test_a_request_and_its_reply(peers: Peers, line: Line) -> None:
    line.say(PING[:10], PING[10:] + PING[:5], PING[5:])
    assert line.codes == ["ok", "ok"]
    assert line.transport.reading
    assert peers.buffered == 0
    assert not peers.unfinished


def test_lines_may_come_byte_by_byte(line: Line) -> None:
    line.say(*(bytes([byte]) for byte in PING * 2))
    assert line.codes == ["ok", "ok"]


def test_nothing_is_read_while_something_is_undecided(held: Desk, line: Line) -> None:
    line.say(BIG + PING)
    assert not line.transport.reading
    read(held)
    assert line.transport.reading
    assert line.codes == ["ok", "ok"]


def test_many_blank_lines_are_no_end_of_reading(line: Line) -> None:
    line.say(b"\r\n" * (3 * TURN))
    assert line.transport.reading
    line.say(PING)
    assert line.codes == ["ok"]


def test_http_is_answered_nothing(peers: Peers, line: Line) -> None:
    line.say(b"PO")
    line.say(b"ST / HTTP/1.1\r\n" + PING)
    assert line.transport.aborted
    assert line.transport.sent == b""
    assert not peers.all


@pytest.mark.parametrize("first", [b"G", b"GET", b'{"id":"GET / ",', b"GETX "])
def test_what_only_begins_like_http_is_not_cut_off(line: Line, first: bytes) -> None:
    line.say(first)
    line.say(b"\n" + PING)
    assert line.codes[-1] == "ok"


def test_only_the_first_line_may_be_http(line: Line) -> None:
    line.say(PING)
    line.say(b"GET / HTTP/1.1\n")
    assert line.codes == ["ok", "invalid_json"]


# -- the end of what the peer says


def test_end_of_file_answers_what_is_owed_and_closes(held: Desk, peers: Peers, line: Line) -> None:
    line.say(request(1, "create_session", client_id="me") + b"\n" + PING.rstrip())
    assert line.end()
    assert not line.transport.closing
    read(held)
    held.succeed()
    assert line.codes == ["ok", "ok"]
    assert line.transport.closing
    assert not peers.all


def test_end_of_file_while_a_commit_runs_closes_after_the_reply(held: Desk, line: Line) -> None:
    line.say(request(1, "update_session_state", session_id="big", mode="replace", state_data={}) + b"\n")
    read(held)
    line.end()
    assert not line.transport.closing
    held.succeed()
    assert line.codes == ["ok"]
    assert line.transport.closing


def test_end_of_file_after_nothing_closes(line: Line) -> None:
    line.end()
    assert line.transport.closing


def test_end_of_file_after_blank_lines_closes(line: Line) -> None:
    line.say(PING * TURN + b" ")
    line.end()
    assert len(line.codes) == TURN
    assert line.transport.closing


def test_a_connection_that_is_lost_is_counted_no_more(held: Desk, peers: Peers, line: Line) -> None:
    assert [peer.number for peer in peers.all] == [1]
    line.say(BIG + b"x" * 1000)
    line.transport.abort()
    held.settle()
    assert (peers.all, peers.is_there(1), peers.buffered, peers.unfinished) == (set(), False, 0, {})
    assert not held.engine.cache.pinned_bytes


# -- unfinished lines


def test_an_unfinished_line_is_noted_until_it_ends(peers: Peers, line: Line) -> None:
    line.say(PING[:10])
    assert list(peers.unfinished) == [line.connection]
    line.say(PING[10:])
    assert not peers.unfinished


def test_an_over_long_line_is_noted_until_it_ends(desk: Desk, peers: Peers, connect: Connect) -> None:
    """Its end completes no line: a good peer would be told of a time-out half a minute later, and closed."""
    desk.codec.limits.max_message_bytes = 100
    line = connect()
    line.say(b"x" * 150)
    assert line.codes == ["message_too_large"]
    assert list(peers.unfinished) == [line.connection]
    line.say(b"x\n" + PING)
    assert not peers.unfinished
    assert line.codes == ["message_too_large", "ok"]


def test_new_limits_hold_for_lines_that_come_afterwards(desk: Desk, line: Line) -> None:
    desk.codec.limits.max_message_bytes = 100
    line.connection.apply_limits()
    line.say(b"x" * 150 + b"\n")
    assert line.codes == ["message_too_large"]


def test_a_line_that_does_not_end_is_refused_and_the_connection_closed(desk: Desk, watched: Peers, line: Line) -> None:
    line.say(PING + PING[:10])
    for _ in range(29):
        desk.advance(1)
    assert line.codes == ["ok"]
    for _ in range(3):
        desk.advance(1)
    assert line.codes == ["ok", "line_timeout"]
    assert line.transport.closing


def test_each_line_has_its_own_time(desk: Desk, watched: Peers, line: Line) -> None:
    line.say(PING[:10])
    for _ in range(4):
        for _ in range(20):
            desk.advance(1)
        line.say(PING[10:] + PING[:10])
    assert line.codes == ["ok"] * 4


def test_a_line_that_we_do_not_read_is_not_late(held: Desk, watched: Peers, line: Line) -> None:
    """While its earlier requests wait for the disk, a peer cannot end its line."""
    line.say(BIG + BIG + PING[:10])
    assert not line.transport.reading
    for _ in range(40):
        held.advance(1)
    read(held)
    assert line.codes == ["ok", "ok"]
    line.say(PING[10:])
    assert line.codes == ["ok", "ok", "ok"]


# -- a line in a piece of its own


def test_lines_that_come_one_by_one_are_read_no_faster_than_decided(held: Desk, line: Line) -> None:
    for reading in (True, False):
        line.say(BIG)
        assert line.transport.reading is reading
    read(held)
    assert (line.transport.reading, line.codes) == (True, ["ok", "ok"])


def test_the_tail_of_a_line_that_was_too_long_is_no_request(desk: Desk, line: Line) -> None:
    line.say(b"x" * (desk.codec.limits.max_message_bytes + 1))
    line.say(PING)
    line.say(PING)
    assert line.codes == ["message_too_large", "ok"]


def test_a_line_that_is_too_long_by_a_byte(desk: Desk, line: Line) -> None:
    limit = desk.codec.limits.max_message_bytes
    for longer, code in ((0, "ok"), (1, "message_too_large")):
        line.say(PING[:-1] + b" " * (limit + longer - len(PING) + 1) + b"\n")
        assert line.codes[-1] == code


# -- memory


@pytest.mark.parametrize("pieces", [1, 2])
def test_undecided_requests_are_counted_with_all_that_they_hold(
    held: Desk, peers: Peers, line: Line, pieces: int
) -> None:
    """The line, which the id of the reply is a view of, and what was copied from it; also of one decoded early."""
    update = request(1, "update_session_state", session_id="big", state_data={"a": "x" * 50_000}) + b"\n"
    cut = len(update) // pieces
    for n in (1, 2):
        line.say(*(update[at : at + cut] for at in range(0, len(update), cut)))
        assert n * 100_000 < peers.buffered < n * 101_000
    read(held)
    held.store.commits.let_go()
    held.settle()
    assert (line.codes, peers.buffered) == (["ok", "ok"], 0)


def test_one_that_was_decoded_early_and_waits_in_its_turn_is_counted(held: Desk, peers: Peers, line: Line) -> None:
    state = {"a": "x" * 50_000}
    line.say(BIG)
    line.say(request(2, "update_session_state", external_id="x", state_data=state) + b"\n")
    held.store.queries.closed = True
    read(held)  # now the second one asks the store
    assert held.store.queries.waiting
    assert 100_000 < peers.buffered < 101_000
    held.store.queries.let_go()
    held.settle()
    assert (line.codes, peers.buffered) == (["ok", "session_not_found"], 0)


def test_what_is_buffered_is_counted_and_given_back(desk: Desk, peers: Peers, line: Line) -> None:
    line.say(b"x" * 50_000)
    assert peers.buffered == 50_000
    line.transport.abort()
    desk.settle()
    assert peers.buffered == 0


def test_replies_that_a_peer_does_not_read_are_counted(peers: Peers, connect: Connect) -> None:
    lines = [connect() for _ in range(3)]
    for line in lines:
        line.transport.peer_reads = False
        line.say(BIG * 3)
        assert (line.transport.unsent > HIGH_WATER, line.transport.reading) == (True, False)
    assert peers.buffered >= sum(line.transport.unsent for line in lines)


def test_peers_that_do_not_read_are_cut_off_when_memory_is_short(peers: Peers, connect: Connect) -> None:
    lines = [connect() for _ in range(10)]
    for line in lines:
        line.transport.peer_reads = False
        line.say(BIG * 10)
    held = sum(line.transport.unsent for line in lines if not line.transport.aborted)
    assert any(line.transport.aborted for line in lines)
    assert held <= peers.limits.buffer_limit + HIGH_WATER + 2 * BIG_BYTES


@pytest.mark.parametrize(("limit", "aborted"), [(280_000, True), (400_000, False)])
def test_a_peer_whose_unread_replies_pass_the_limit_is_cut_off(
    held: Desk, peers: Peers, line: Line, limit: int, aborted: bool
) -> None:
    """What was decided before it stopped reading is answered all the same."""
    peers.limits = PeerLimits(output_limit=limit)
    line.transport.peer_reads = False
    update = request(0, "update_session_state", session_id="big", state_data={"b": 1}) + b"\n"
    line.say(update)
    read(held)
    line.say(update + BIG)
    held.succeed()
    assert not line.transport.aborted
    held.succeed()
    assert line.transport.unsent > 3 * BIG_BYTES
    assert line.transport.aborted == aborted


def test_an_unfinished_line_gives_way_when_memory_is_short(desk: Desk, peers: Peers, connect: Connect) -> None:
    for _ in range(20):
        connect().say(b"x" * 60_000)
    assert peers.buffered <= peers.limits.buffer_limit + 60_000  # their even share is less than that
    small = connect()
    small.say(b"x" * (peers.fair_share - 5000))
    assert small.codes == []
    large = connect()
    others = peers.buffered

    def buffered_then() -> int:
        large.connection.data_received(b"x" * (FAIR_SHARE + 1))
        return peers.buffered

    assert desk.call(buffered_then) - others < 1000  # at once, or others would be refused for what is free again
    large.say(b"the rest\n" + PING)
    assert large.codes == ["overloaded", "ok"]
    assert large.connection._framer.buffered == 0


def test_replies_that_were_read_late_are_not_counted_for_ever(desk: Desk, watched: Peers, line: Line) -> None:
    """An idle peer must not hold what others are refused for."""
    line.transport.peer_reads = False
    line.say(BIG + PING[:10])
    line.say(PING[10:] + PING[:10])
    assert watched.buffered > BIG_BYTES
    line.transport.read_all()  # below high water: nobody is told
    desk.advance(1)
    assert watched.buffered <= len(PING)


# -- peers that do not read


def test_a_peer_that_does_not_read_is_cut_off_in_the_end(desk: Desk, watched: Peers, line: Line) -> None:
    line.transport.peer_reads = False
    line.say(BIG * 3)
    for _ in range(59):
        desk.advance(1)
    assert not line.transport.aborted
    for _ in range(3):
        desk.advance(1)
    assert line.transport.aborted


def test_one_that_reads_slowly_is_not(desk: Desk, watched: Peers, line: Line) -> None:
    line.transport.peer_reads = False
    line.say(BIG * 3)
    for _ in range(4):
        for _ in range(40):
            desk.advance(1)
        line.transport.unsent -= 1
    assert not line.transport.aborted


def test_one_that_reads_again_is_answered_further(desk: Desk, watched: Peers, line: Line) -> None:
    line.transport.peer_reads = False
    line.say(BIG * 9)
    assert len(line.codes) < 9
    line.transport.read_all()
    desk.settle()
    assert line.codes == ["ok"] * 9
    assert line.transport.reading
    assert not watched.stalled


@pytest.mark.parametrize("read_before", [0, HIGH_WATER])
def test_a_closing_peer_that_does_not_read_is_cut_off(desk: Desk, watched: Peers, line: Line, read_before: int) -> None:
    """What it was sent fits below high water, so its transport would wait for ever."""
    line.transport.peer_reads = False
    line.say(BIG * (3 if read_before else 1))
    line.end()
    assert line.transport.closing
    if read_before:
        line.transport.unsent -= read_before
        desk.call(line.connection.resume_writing)
    for _ in range(59):
        desk.advance(1)
    assert not line.transport.aborted
    for _ in range(4):
        desk.advance(1)
    assert line.transport.aborted


# -- stopping


def test_draining_answers_what_was_read_and_closes(held: Desk, peers: Peers, connect: Connect) -> None:
    busy, idle = connect(), connect()
    busy.say(BIG + PING + PING[:5])
    draining = held.loop.create_task(peers.drain(60))
    held.settle()
    assert idle.transport.closing
    assert not busy.transport.closing
    read(held)
    assert busy.codes == ["ok", "ok"]
    assert busy.transport.closing
    held.run(draining)


def test_draining_cuts_off_who_is_stuck(desk: Desk, peers: Peers, line: Line) -> None:
    line.transport.peer_reads = False
    line.say(PING)
    draining = desk.loop.create_task(peers.drain(4))
    desk.advance(3)
    assert not line.transport.aborted
    desk.advance(2)
    assert line.transport.aborted
    desk.run(draining)


def test_a_connection_made_while_draining_is_closed(desk: Desk, peers: Peers, connect: Connect) -> None:
    desk.run(peers.drain(0))
    assert connect().transport.closing


def test_draining_says_the_end_and_waits_a_moment_for_what_still_comes(desk: Desk, peers: Peers, line: Line) -> None:
    """To close with unread input would reset the connection, and a reset overtakes the replies."""
    line.transport.half_closes = True
    line.say(PING)
    draining = desk.loop.create_task(peers.drain(60))
    desk.settle()
    assert (line.transport.said_end, line.transport.closing, line.transport.reading) == (True, False, True)
    line.say(PING)  # thrown away
    assert not line.end()
    desk.advance(LINGER_SECONDS)
    assert line.transport.closing
    assert line.codes == ["ok"]
    desk.run(draining)
