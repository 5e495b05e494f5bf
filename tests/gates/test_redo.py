"""After a commit that failed: its writers are refused, everybody else is decided again, in order."""

from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.errors import StorageError
from stui_sessions.protocol.framing import OVERFLOW
from stui_sessions.storage.contract import Conflict
from tests.engine.desk import UNAVAILABLE, Desk, Peer, request, stored_session
from tests.gates.test_dialogue import restore, update

UNREADABLE = StorageError("the disk cannot be read")


def test_the_writers_of_a_failed_commit_are_refused(desk: Desk, peer: Peer) -> None:
    close = request(3, "close_session", session_id="s1")
    peer.say(update(1, a=1), request(2, "create_session", client_id="me"), close)
    desk.settle()
    desk.fail()
    assert peer.codes == ["storage_unavailable"] * 3
    assert peer.replies[0]["error_type"] == "RuntimeError"
    assert not desk.engine.batch.records
    assert desk.in_flight is None


def test_what_only_read_is_decided_again_from_what_is_on_disk(desk: Desk, peer: Peer) -> None:
    other = desk.peer()
    peer.say(update(1, a=1), restore(2, "s1"))
    desk.settle()
    other.say(restore(1, "s1"), request(2, "list_client_sessions", client_id="me"))
    desk.fail()
    assert peer.codes == ["storage_unavailable", "ok"]
    assert peer.replies[1]["result"]["session_state"] == {}
    assert other.replies[0]["result"]["revision"] == 1
    assert other.replies[1]["result"]["session_count"] == 1


def test_writes_decided_on_top_of_a_failed_commit_are_decided_again(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    desk.settle()
    peer.say(update(2, b=2), update(3, c=3))
    desk.fail()
    assert peer.codes == ["storage_unavailable"]
    desk.succeed()
    assert peer.codes == ["storage_unavailable", "ok", "ok"]
    assert peer.replies[2]["result"]["session_state"] == {"b": 2, "c": 3}
    assert peer.replies[2]["result"]["revision"] == 3


def test_changes_of_other_sessions_on_top_of_a_failed_commit_are_decided_again_too(desk: Desk, peer: Peer) -> None:
    other = desk.peer()
    other.ask(0, "get_session_info", session_id="s2")
    desk.settle()
    peer.say(update(1, a=1))
    desk.settle()
    other.say(update(1, "s2", b=2))
    desk.fail()
    desk.succeed()
    assert other.codes == ["ok", "ok"]
    assert other.replies[1]["result"]["revision"] == 2


def test_the_peers_are_decided_again_in_the_order_in_which_they_waited(desk: Desk, peer: Peer) -> None:
    others = [desk.peer() for _ in range(5)]
    peer.say(update(1, a=1))
    desk.settle()
    for i, other in enumerate(others):
        other.say(update(1, a=i))
    desk.fail()
    desk.succeed()
    assert [other.replies[0]["result"]["revision"] for other in others] == [2, 3, 4, 5, 6]


def test_a_refusal_that_rested_on_a_failed_commit_is_decided_again(desk: Desk, peer: Peer) -> None:
    closer = desk.peer()
    closer.ask(1, "close_session", session_id="s1")
    desk.settle()
    peer.say(restore(1, "s1"))
    desk.fail()
    assert closer.codes == ["storage_unavailable"]
    assert peer.codes == ["ok"]


def test_what_needs_no_decision_keeps_its_place(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1), b"nonsense", OVERFLOW, request(2, "ping"), b"{}")
    desk.settle()
    desk.fail()
    assert peer.codes == ["storage_unavailable", "invalid_json", "message_too_large", "ok", "invalid_request"]


def test_the_number_of_a_failed_commit_is_used_again(desk: Desk, peer: Peer) -> None:
    numbers = []
    for i in range(2):
        peer.say(update(i, a=i))
        desk.settle()
        assert desk.in_flight is not None
        numbers.append(desk.in_flight.number)
        if i == 0:
            desk.fail()
    desk.succeed()
    assert numbers[0] == numbers[1]
    assert peer.codes == ["storage_unavailable", "ok"]


def test_a_disk_that_refuses_for_long_answers_every_write_once(desk: Desk, peer: Peer) -> None:
    desk.store.commits.closed, desk.store.commits.error = False, UNAVAILABLE
    for i in range(10):
        peer.say(update(i, a=i))
        desk.settle()
    assert peer.ids == list(range(10))
    assert set(peer.codes) == {"storage_unavailable"}
    peer.say(restore("read", "s1"))
    desk.settle()
    assert peer.replies[-1]["result"]["revision"] == 1


def test_what_was_answered_before_is_not_answered_twice(desk: Desk, peer: Peer) -> None:
    peer.say(request(1, "ping"), update(2, a=1))
    desk.settle()
    desk.fail()
    assert peer.ids == [1, 2]


@pytest.mark.parametrize("commands", [["create_session"], ["create_session", "create_session"]])
def test_a_creation_that_failed_is_not_counted(commands: list[str]) -> None:
    """Neither one of the commit that failed nor one on top of it."""
    with Desk(per_minute=len(commands)) as desk:
        desk.hold_commits()
        peers = [desk.peer() for _ in commands]
        for peer, command in zip(peers, commands, strict=True):
            peer.ask(1, command, client_id="me")
            desk.settle()
        for _ in commands:
            desk.fail()
        assert [peer.codes for peer in peers] == [["storage_unavailable"]] * len(peers)
        peers[0].say(*(request(i, "create_session", client_id="me") for i in range(3)))
        desk.settle()
        desk.succeed()
        good, over = ["ok"] * len(commands), ["create_rate_exceeded"] * (3 - len(commands))
        assert peers[0].codes == ["storage_unavailable", *good, *over]


def test_a_peer_that_does_not_read_is_decided_again_when_it_does(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1), restore(2, "s1"))
    desk.settle()
    peer.pause()
    desk.fail()
    assert peer.replies == []
    peer.unpause()
    desk.settle()
    assert peer.codes == ["storage_unavailable", "ok"]


# -- uses


def test_a_late_use_succeeds_though_it_cannot_be_recorded_and_in_its_place(desk: Desk, peer: Peer) -> None:
    desk.wall += 1_000_000
    peer.say(update(1, a=1), restore(2, "s1"), restore(3, "s2"), update(4, "s2", a=1))
    desk.settle()
    assert desk.engine.batch.records  # those for s2, which had to be loaded
    desk.fail()
    desk.settle()
    assert peer.codes == ["storage_unavailable"]
    desk.fail()
    desk.settle()
    assert peer.codes == ["storage_unavailable", "ok", "ok", "storage_unavailable"]


def test_a_use_that_could_not_be_recorded_is_noted(desk: Desk, peer: Peer) -> None:
    desk.wall += 1_000_000
    peer.say(restore(1, "s1"))
    desk.settle()
    desk.fail()
    assert peer.codes == ["ok"]
    assert list(desk.engine.uses.values()) == [desk.wall]


@pytest.mark.parametrize("end", ["close_session", "update_session_state"])
def test_a_noted_use_outlives_the_failure_of_what_came_after_it(desk: Desk, peer: Peer, end: str) -> None:
    desk.wall += 30_000
    peer.say(restore(1, "s1"))
    more: dict[str, Any] = {"state_data": {}} if end == "update_session_state" else {}
    peer.ask(2, end, session_id="s1", **more)
    desk.settle()
    desk.fail()
    desk.wall += 1000
    peer.ask(3, "get_session_info", session_id="s1")
    desk.settle()
    assert peer.replies[-1]["result"]["time_until_expiry"] == 3599


def test_of_two_uses_that_two_commits_were_to_record_the_later_one_is_noted(desk: Desk, peer: Peer) -> None:
    for i in range(2):
        desk.wall += 30_000
        peer.say(restore(i, "s1"), update(i, a=i))
        desk.settle()
    desk.fail()
    desk.fail()
    assert list(desk.engine.uses.values()) == [desk.wall]


# -- beside loads and questions


def test_a_load_that_ends_after_a_failed_commit_finds_the_order_kept(desk: Desk, peer: Peer) -> None:
    desk.store.reads.closed = True
    peer.say(update(1, a=1), request(2, "get_session_info", session_id="s1"), restore(3, "s2"), request(4, "ping"))
    desk.settle()
    desk.fail()
    desk.store.reads.closed = False
    desk.store.reads.let_go()
    desk.settle()
    assert peer.ids == [1, 2, 3, 4]
    assert peer.codes == ["storage_unavailable", "ok", "ok", "ok"]


def test_a_load_that_fails_after_a_failed_commit_refuses_only_who_needed_it(desk: Desk, peer: Peer) -> None:
    desk.store.reads.closed = True
    peer.say(update(1, a=1), restore(2, "s1"), restore(3, "s2"))
    desk.settle()
    desk.fail()
    desk.store.reads.closed = False
    desk.store.reads.fail(UNREADABLE)
    desk.settle()
    assert peer.ids == [1, 2, 3]
    assert peer.codes == ["storage_unavailable", "ok", "storage_unavailable"]


@pytest.mark.parametrize("others", [1, 3])
def test_a_list_has_what_its_own_peer_wrote_before_it_though_that_was_decided_twice(
    desk: Desk, peer: Peer, others: int
) -> None:
    desk.peer().say(update(1, a=1))
    desk.settle()
    title = request(1, "update_session_title", session_id="s1", title="new")
    peer.say(title, request(2, "list_sessions"), *(request(3, "list_sessions") for _ in range(others)))
    desk.settle()
    desk.fail()
    desk.succeed()
    desk.settle()
    assert peer.codes == ["ok"] * (2 + others)
    for reply in peer.replies[1:]:
        assert {row["title"] for row in reply["result"]["sessions"]} == {"new", None}


def test_a_list_is_decided_though_every_commit_fails(desk: Desk, peer: Peer) -> None:
    desk.store.commits.closed, desk.store.commits.error = False, UNAVAILABLE
    peer.say(update(1, a=1), request(2, "list_sessions"), update(3, a=1), request(4, "list_sessions"))
    for _ in range(5):
        desk.settle()
    assert peer.codes == ["storage_unavailable", "ok"] * 2


# -- where others commit too


def test_after_a_conflict_everybody_is_decided_again_and_nobody_refused(desk: Desk, peer: Peer) -> None:
    desk.wall += 1_000_000
    other = desk.peer()
    peer.say(update(1, a=1), request(2, "create_session", client_id="me"), restore(3, "s1"))
    desk.settle()
    other.say(restore(1, "s1"), update(2, b=1))
    desk.settle()
    desk.fail(Conflict([key for key in desk.engine.cache.entities if key[2] == "s1"]))
    assert peer.replies == other.replies == []
    desk.succeed()
    desk.settle()
    if desk.in_flight:
        desk.succeed()
    assert peer.codes == ["ok"] * 3
    assert other.codes == ["ok"] * 2
    session = desk.committed("s1")
    assert session is not None
    assert session.session_state == b'{"a":1,"b":1}'


def test_a_limit_holds_over_failed_commits() -> None:
    with Desk(rules=Rules(max_sessions_per_client=1)) as desk:
        desk.hold_commits()
        first, second = desk.peer(), desk.peer()
        first.ask(1, "create_session", client_id="me")
        desk.settle()
        second.ask(1, "create_session", client_id="me")
        assert second.replies == []
        desk.fail()
        desk.succeed()
        assert first.codes == ["storage_unavailable"]
        assert second.codes == ["ok"]


def test_a_session_of_a_failed_commit_is_gone() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peer = desk.peer()
        peer.ask(1, "create_session", client_id="me", session_id="mine")
        desk.settle()
        peer.say(restore(2, "mine"))
        desk.fail()
        assert peer.codes == ["storage_unavailable", "session_not_found"]
