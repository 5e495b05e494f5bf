"""Fairness and bounds: turns between peers, peers that do not read, replies that are held."""

from collections.abc import Callable, Iterator

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.gates.lines import dialogue as module
from stui_sessions.gates.lines.dialogue import TURN
from stui_sessions.protocol.describe import describe
from tests.engine.desk import Desk, Peer, request, stored_session
from tests.gates.test_dialogue import restore, update


def pings(count: int) -> list[bytes]:
    return [request(i, "ping") for i in range(count)]


# -- turns


class Turns(list[Callable[[], None]]):
    """What is to be done in the next turn of the loop."""

    def go(self) -> None:
        turn, self[:] = list(self), []
        for callback in turn:
            callback()


@pytest.fixture
def turns(desk: Desk) -> Turns:
    turns = Turns()
    desk.later = turns.append  # type: ignore[method-assign]
    return turns


def test_a_burst_gives_the_others_their_turn(turns: Turns, desk: Desk) -> None:
    peer, other = desk.peer(), desk.peer()
    count = 2 * TURN + 10
    peer.say(*pings(count))
    assert len(peer.replies) == TURN
    assert peer.dialogue.busy
    other.ask("other", "ping")
    assert other.ids == ["other"]
    turns.go()
    assert len(peer.replies) == 2 * TURN
    turns.go()
    assert peer.ids == list(range(count))
    assert not peer.dialogue.busy


def test_a_burst_of_just_one_turn_leaves_nothing(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(*pings(TURN))
    assert peer.dialogue.idle
    assert not turns


def test_blank_lines_use_up_turns_too(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(*[b"\r"] * (3 * TURN), request(1, "ping"))
    for _ in range(3):
        assert peer.replies == []
        turns.go()
    assert peer.ids == [1]


def test_whoever_holds_the_peer_is_told_when_nothing_undecided_is_left(turns: Turns, desk: Desk) -> None:
    """Blank lines send no reply, by which it could notice: it would never read again."""
    peer = desk.peer()
    peer.say(*[b"\r"] * (TURN + 2))
    assert peer.dialogue.busy
    turns.go()
    assert not peer.dialogue.busy
    assert peer.drained == 0  # not in the midst of deciding
    turns.go()
    assert peer.drained == 1


def test_more_lines_during_a_burst_wait_behind_it(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(*pings(TURN + 1))
    peer.ask("late", "ping")
    assert "late" not in peer.ids
    turns.go()
    assert peer.ids == [*range(TURN + 1), "late"]


def test_a_turn_that_comes_before_the_peer_reads_again_decides_nothing(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(*pings(TURN + 5))
    peer.pause()
    turns.go()
    assert len(peer.replies) == TURN
    peer.unpause()
    assert len(peer.replies) == TURN + 5


def test_a_peer_that_goes_between_its_turns(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(*pings(TURN + 1))
    peer.dialogue.abandon()
    turns.go()
    assert len(peer.replies) == TURN


def test_a_commit_that_fails_between_two_turns_keeps_the_order(turns: Turns, desk: Desk) -> None:
    peer = desk.peer()
    peer.say(update("first", a=1), *pings(2 * TURN))
    assert peer.dialogue.busy
    desk.settle()
    desk.fail()
    assert peer.replies == []  # its turn is to come
    while turns:
        turns.go()
    assert peer.ids == ["first", *range(2 * TURN)]


# -- peers that do not read


def test_a_commit_is_answered_though_the_peer_does_not_read(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    peer.pause()
    desk.settle()
    desk.succeed()
    assert peer.ids == [1]


def test_a_peer_that_stops_reading_before_its_load_ends_goes_on_when_it_reads(held_reads: Desk, peer: Peer) -> None:
    peer.say(restore(1, "s2"), request(2, "ping"))
    held_reads.settle()
    peer.pause()
    held_reads.store.reads.let_go()
    held_reads.settle()
    assert peer.replies == []
    peer.unpause()
    assert peer.ids == [1, 2]


# -- what is held


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A session of 10,000 bytes, in memory as others are, and room for two such replies.  Commits wait."""
    monkeypatch.setattr(module, "HELD_LIMIT", 25_000)
    state = b'{"a":"%b"}' % (b"x" * 10_000)
    with Desk(stored_session("big", session_state=state), stored_session("small", 2)) as desk:
        desk.ask("list_client_sessions", client_id="me")
        assert desk.ask("get_session_info", session_id="x" * 1000) == "session_not_found"
        desk.hold_commits()
        yield desk


def test_big_replies_are_sent_as_they_come_to_a_peer_that_reads(big: Desk) -> None:
    peer = big.peer()
    peer.say(*(restore(i, "big") for i in range(9)))
    assert peer.ids == list(range(9))
    assert peer.sends == 3


def test_the_contract_counts_as_the_big_reply_that_it_is(big: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(bytes(describe(REGISTRY, None)))
    monkeypatch.setattr(module, "HELD_LIMIT", 2 * size + size // 2)
    peer = big.peer()
    peer.say(*(request(i, "describe") for i in range(9)))
    assert peer.ids == list(range(9))
    assert peer.sends == 3
    peer.say(*(request(i, "describe", command="ping") for i in range(9)))
    assert peer.sends == 4


def test_big_replies_stop_where_the_peer_stops_reading(big: Desk) -> None:
    peer = big.peer()
    peer.on_send = lambda replies: peer.pause()
    peer.say(*(restore(i, "big") for i in range(9)))
    assert len(peer.replies) == 3
    assert peer.dialogue.busy
    while len(peer.replies) < 9:
        peer.unpause()
    assert peer.ids == list(range(9))


def test_replies_that_wait_for_a_commit_are_bounded(big: Desk) -> None:
    peer = big.peer()
    peer.say(*(update(i, "big", b=i) for i in range(9)))
    big.settle()
    assert big.in_flight is not None
    assert len(big.in_flight.records) == 3
    assert peer.dialogue.busy
    while big.in_flight:
        big.succeed()
    assert peer.ids == list(range(9))
    assert set(peer.codes) == {"ok"}


def test_lines_that_come_while_too_much_is_held_wait(big: Desk) -> None:
    peer = big.peer()
    for i in range(5):
        peer.say(update(i, "big", b=i))
        big.settle()
    assert len(big.engine.batch.records) == 2  # the first one is on its way
    assert peer.dialogue.busy
    while big.in_flight:
        big.succeed()
    assert peer.codes == ["ok"] * 5
    assert not peer.dialogue.busy


def test_what_a_commit_has_released_is_held_no_more(big: Desk) -> None:
    peer = big.peer()
    for i in range(2):
        peer.say(update(i, "big", b=i))
        big.settle()
    big.succeed()  # one of the two
    peer.say(update(2, "big", b=2))
    peer.say(request(3, "ping"))
    assert not peer.dialogue.busy
    while big.in_flight:
        big.succeed()
    peer.say(update(4, "big", b=4), update(5, "big", b=5), request(6, "ping"))
    assert not peer.dialogue.busy


@pytest.mark.parametrize(
    "line",
    [
        request(1, "ping") + b" " * 1000,
        request(1, "get_session_info", session_id="x" * 1000),
        request(1, "update_session_state", session_id="small", mode="replace", state_data={}) + b" " * 1000,
        request("x" * 1000, "ping"),
        request(1, "list_client_sessions", client_id="me"),
    ],
    ids=["padding", "refusal", "padded write", "long id", "many"],
)
def test_whatever_waits_for_a_commit_is_bounded(big: Desk, line: bytes) -> None:
    """A request keeps its line alive (its id is a view of it), and a reply weighs something even without state."""
    peer = big.peer()
    peer.say(update(0, "small", a=1))
    for _ in range(40):
        if peer.dialogue.busy:
            break
        peer.say(line)
    assert peer.dialogue.busy
    while big.in_flight:
        big.succeed()
    assert not peer.dialogue.busy


def test_whoever_holds_the_peer_is_told_when_but_one_is_left(turns: Turns, desk: Desk) -> None:
    """That one waits for the disk, and one more may be read meanwhile."""
    peer = desk.peer()
    desk.store.reads.closed = True
    peer.say(*[b"\r"] * (TURN + 1), request(1, "restore_session", session_id="far"))
    assert peer.dialogue.busy
    turns.go()
    assert not peer.dialogue.busy
    turns.go()
    assert (peer.drained, peer.replies) == (1, [])
