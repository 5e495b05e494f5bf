"""Peers that go: what was decided stays decided, what was not never is, and nothing is kept for them."""

import pytest

from tests.engine.desk import Desk, Peer, request
from tests.gates.test_dialogue import restore, update


def test_what_was_decided_for_a_peer_that_went_stays_decided(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    peer.dialogue.abandon()
    assert not desk.engine._waiting  # nobody keeps it alive
    desk.settle()
    desk.succeed()
    assert peer.replies == []
    session = desk.committed("s1")
    assert session is not None
    assert session.session_state == b'{"a":1}'


def test_what_was_not_decided_for_a_peer_that_went_never_is(desk: Desk, peer: Peer) -> None:
    desk.store.reads.closed = True
    peer.say(restore(1, "s2"), request(2, "close_session", session_id="s1"))
    desk.settle()
    peer.dialogue.abandon()
    desk.store.reads.let_go()
    desk.settle()
    assert peer.replies == []
    assert desk.in_flight is None
    assert peer.dialogue.idle
    assert not desk.engine.cache.pinned_bytes


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_a_peer_that_went_is_not_told_of_a_commit(desk: Desk, peer: Peer, end: str) -> None:
    peer.say(update(1, a=1))
    desk.settle()
    peer.dialogue.abandon()
    getattr(desk, end)()
    assert peer.replies == []


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_a_peer_that_goes_while_another_is_answered(desk: Desk, peer: Peer, end: str) -> None:
    other = desk.peer()
    peer.say(update(1, a=1))
    desk.settle()
    other.say(restore(1, "s1"))
    peer.on_send = lambda replies: other.dialogue.abandon()
    getattr(desk, end)()
    assert peer.ids == [1]
    assert other.replies == []
