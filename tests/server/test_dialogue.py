"""Order, waiting and undoing, with a writer and a loader that are moved by hand."""

import json
from typing import Any

import pytest

from stui_sessions.protocol.describe import describe
from stui_sessions.protocol.framing import OVERFLOW
from stui_sessions.protocol.messages import WireLimits
from stui_sessions.server import dialogue as dialogue_module
from stui_sessions.server.dialogue import LOOK_AHEAD, TURN
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import CLOSED, Session
from tests.server.desk import Desk, Peer, request, stored_session


@pytest.fixture
def desk() -> Desk:
    """Two stored sessions, s1 and s2; s1 is in memory already."""
    desk = Desk(stored_session("s1", 1), stored_session("s2", 2, "other"))
    peer = Peer(desk)
    peer.ask("warm-up", "get_session_info", session_id="s1")
    peer.ask("warm-up", "list_client_sessions", client_id="me")
    desk.settle()
    return desk


@pytest.fixture
def peer(desk: Desk) -> Peer:
    return Peer(desk)


# -- decoding and order


def test_what_needs_no_waiting_is_answered_at_once_and_in_one_piece(peer: Peer) -> None:
    peer.say(request(1, "ping"), b"nonsense", request(2, "restore_session", session_id="s1"))
    assert peer.ids == [1, None, 2]
    assert peer.codes == ["ok", "invalid_json", "ok"]
    assert peer.sends == 1
    assert peer.dialogue.idle


@pytest.mark.parametrize("blank", [b" ", b"\r", b"\t \r"])
def test_blank_lines_are_nothing(peer: Peer, blank: bytes) -> None:
    peer.say(blank, request(1, "ping"), blank, blank)
    assert peer.ids == [1]
    peer.say(blank)
    assert peer.sends == 1
    assert peer.dialogue.idle


def test_an_over_long_line_is_answered_in_its_place() -> None:
    peer = Peer(Desk(limits=WireLimits(max_message_bytes=1000)))
    peer.say(request(1, "ping"), OVERFLOW, request(2, "ping"))
    assert peer.ids == [1, None, 2]
    assert peer.codes == ["ok", "message_too_large", "ok"]
    assert peer.replies[1]["details"] == {"limit": 1000}


def test_a_fault_in_one_decision_is_answered_and_told(desk: Desk, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, BaseException]] = []

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    desk.engine.on_fault = lambda command, error: told.append((command, error))
    monkeypatch.setitem(desk.engine._handlers, "ping", broken)
    peer.say(request(1, "ping"), request(2, "get_session_statistics"))
    assert peer.codes == ["internal_error", "ok"]
    assert "secret" not in peer.replies[0]["error"]
    ((command, error),) = told
    assert command == "ping"
    assert isinstance(error, ZeroDivisionError)


def test_a_fault_undoes_what_the_decision_had_changed(desk: Desk, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    update = desk.engine._handlers["update_session_state"]

    def broken(*arguments: Any) -> None:
        update(*arguments)
        raise ZeroDivisionError

    monkeypatch.setitem(desk.engine._handlers, "update_session_state", broken)
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "restore_session", session_id="s1")
    assert peer.codes == ["internal_error", "ok"]
    assert peer.replies[1]["result"]["session_state"] == {}
    desk.settle()
    assert desk.committed["s1"].revision == 1


# -- waiting for commits


def test_a_write_is_answered_when_it_is_on_disk_and_not_before(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    assert desk.commits_wanted
    assert peer.replies == []
    desk.begin()
    assert peer.replies == []
    desk.succeed()
    assert peer.codes == ["ok"]
    assert peer.replies[0]["result"]["session_state"] == {"a": 1}


def test_what_comes_after_a_write_waits_behind_it(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.say(request(2, "ping"), b"nonsense", OVERFLOW)
    peer.ask(3, "restore_session", session_id="s1")
    assert peer.replies == []
    desk.commit()
    assert peer.ids == [1, 2, None, None, 3]
    assert peer.sends == 1


def test_a_refusal_does_not_overtake(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "create_session", client_id="not allowed")
    peer.ask(3, "no such command")
    desk.commit()
    assert peer.ids == [1, 2, 3]


def test_changes_made_during_a_commit_share_the_next_one(desk: Desk) -> None:
    first, *others = [Peer(desk) for _ in range(5)]
    first.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    for other in others:
        other.ask(1, "update_session_state", session_id="s1", state_data={"a": 2})
    desk.succeed()
    assert first.codes == ["ok"]
    assert all(other.replies == [] for other in others)
    desk.commit()
    assert all(other.codes == ["ok"] for other in others)
    assert not desk.book.changes


def test_a_commit_releases_what_it_covers_and_leaves_the_rest(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    peer.ask(2, "update_session_state", session_id="s1", state_data={"a": 2})
    peer.ask(3, "ping")
    desk.succeed()
    assert peer.ids == [1]
    desk.commit()
    assert peer.ids == [1, 2, 3]


def test_a_read_of_an_uncommitted_change_waits(desk: Desk, peer: Peer) -> None:
    writer = Peer(desk)
    writer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    for command in ("restore_session", "get_session_info"):
        peer.ask(command, command, session_id="s1")
    assert peer.replies == []
    desk.commit()
    assert peer.replies[0]["result"]["session_state"] == {"a": 1}
    assert peer.replies[1]["result"]["revision"] == 2


def test_a_read_of_another_session_does_not_wait(desk: Desk, peer: Peer) -> None:
    peer.ask(0, "get_session_info", session_id="s2")
    desk.settle()
    Peer(desk).ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(1, "restore_session", session_id="s2")
    assert peer.ids == [0, 1]


@pytest.mark.parametrize(
    ("command", "parameters"),
    [
        ("list_client_sessions", {"client_id": "me"}),
        ("get_session_statistics", {}),
        ("restore_session", {"session_id": "s1"}),  # refused: closed
        ("update_session_state", {"session_id": "s1", "state_data": {}}),
    ],
)
def test_whatever_may_rest_on_an_uncommitted_change_waits(
    desk: Desk, peer: Peer, command: str, parameters: dict[str, Any]
) -> None:
    Peer(desk).ask(1, "close_session", session_id="s1")
    peer.ask(1, command, **parameters)
    assert peer.replies == []
    desk.commit()
    assert peer.ids == [1]


@pytest.mark.parametrize("parameters", [{}, {"command": "ping"}, {"command": "pong"}])
def test_the_contract_rests_on_no_change(desk: Desk, peer: Peer, parameters: dict[str, Any]) -> None:
    Peer(desk).ask(1, "close_session", session_id="s1")
    peer.ask(1, "describe", **parameters)
    assert peer.codes == ["unknown_command" if parameters.get("command") == "pong" else "ok"]


def test_activity_alone_waits_for_nothing(desk: Desk, peer: Peer) -> None:
    desk.wall += 1_000_000
    peer.ask(1, "restore_session", session_id="s1")
    assert desk.book.changes  # it is recorded
    assert desk.commits_wanted
    assert peer.codes == ["ok"]


def test_nor_does_anything_else_wait_for_activity_alone(desk: Desk, peer: Peer) -> None:
    desk.wall += 1_000_000
    peer.ask(1, "restore_session", session_id="s1")
    peer.ask(2, "ping")
    peer.ask(3, "get_session_statistics")
    peer.ask(4, "list_client_sessions", client_id="me")
    peer.ask(5, "restore_session", session_id="s1", wrong=1)
    assert peer.ids == [1, 2, 3, 4, 5]


def test_the_limit_holds_among_changes_that_are_not_committed() -> None:
    desk = Desk(rules=Rules(max_sessions_per_client=5))
    peers = [Peer(desk) for _ in range(50)]
    for peer in peers:
        peer.ask(1, "create_session", client_id="me")
    desk.settle()
    codes = [code for peer in peers for code in peer.codes]
    assert sorted(codes) == ["ok"] * 5 + ["session_limit_reached"] * 45


# -- commits that fail


def test_the_writers_of_a_failed_commit_are_refused(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "create_session", client_id="me")
    peer.ask(3, "close_session", session_id="s1")
    desk.begin()
    desk.fail()
    assert peer.codes == ["storage_unavailable"] * 3
    assert peer.replies[0]["error_type"] == "RuntimeError"
    assert not desk.book.changes


def test_reads_of_a_failed_commit_are_decided_again_from_what_is_acknowledged(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "restore_session", session_id="s1")
    other = Peer(desk)
    other.ask(1, "restore_session", session_id="s1")
    other.ask(2, "get_session_statistics")
    desk.begin()
    desk.fail()
    desk.settle()
    assert peer.codes == ["storage_unavailable", "ok"]
    assert peer.replies[1]["result"]["session_state"] == {}
    assert other.replies[0]["result"]["revision"] == 1
    assert other.replies[1]["result"]["total_sessions"] == 2


def test_writes_decided_on_top_of_a_failed_commit_are_decided_again(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    peer.ask(2, "update_session_state", session_id="s1", state_data={"b": 2})
    desk.fail()
    assert peer.codes == ["storage_unavailable"]
    desk.commit()
    assert peer.codes == ["storage_unavailable", "ok"]
    assert peer.replies[1]["result"]["session_state"] == {"b": 2}
    assert peer.replies[1]["result"]["revision"] == 2
    assert desk.committed["s1"].session_state == b'{"b":2}'


def test_changes_of_other_sessions_on_top_of_a_failed_commit_are_undone_too(desk: Desk, peer: Peer) -> None:
    peer.ask(0, "get_session_info", session_id="s2")
    desk.settle()
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    other = Peer(desk)
    other.ask(1, "update_session_state", session_id="s2", state_data={"b": 2})
    desk.fail()
    desk.commit()
    assert other.codes == ["ok"]
    assert other.replies[0]["result"]["revision"] == 2


def test_a_refusal_that_rested_on_a_failed_commit_is_decided_again(desk: Desk, peer: Peer) -> None:
    closer = Peer(desk)
    closer.ask(1, "close_session", session_id="s1")
    peer.ask(1, "restore_session", session_id="s1")
    desk.begin()
    desk.fail()
    assert closer.codes == ["storage_unavailable"]
    assert peer.codes == ["ok"]


def test_what_needs_no_decision_keeps_its_place_over_a_failed_commit(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.say(b"nonsense", OVERFLOW, request(2, "ping"), b"{}")
    desk.begin()
    desk.fail()
    assert peer.codes == ["storage_unavailable", "invalid_json", "message_too_large", "ok", "invalid_request"]


def test_the_number_of_a_failed_commit_is_used_again(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    number = desk.begin()
    desk.fail()
    peer.ask(2, "update_session_state", session_id="s1", state_data={"a": 2})
    assert desk.begin() == number
    desk.succeed()
    assert peer.codes == ["storage_unavailable", "ok"]


def test_a_disk_that_refuses_for_long_answers_every_write_once(desk: Desk, peer: Peer) -> None:
    for i in range(10):
        peer.ask(i, "update_session_state", session_id="s1", state_data={"a": i})
        desk.begin()
        desk.fail()
    assert peer.ids == list(range(10))
    assert set(peer.codes) == {"storage_unavailable"}
    peer.ask("read", "restore_session", session_id="s1")
    assert peer.replies[-1]["result"]["revision"] == 1


def test_what_does_not_rest_on_a_failed_commit_is_not_answered_twice(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "ping")
    peer.ask(2, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    desk.fail()
    desk.settle()
    assert peer.ids == [1, 2]


# -- waiting for loads


def test_a_miss_is_loaded_and_then_decided(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "restore_session", session_id="s2")
    assert set(desk.wanted_ids) == {"s2"}
    assert peer.replies == []
    assert peer.dialogue.busy
    desk.load()
    assert peer.codes == ["ok"]
    assert peer.dialogue.idle


def test_requests_stay_in_order_over_a_miss(desk: Desk, peer: Peer) -> None:
    peer.say(
        request(1, "restore_session", session_id="s1"),
        request(2, "restore_session", session_id="s2"),
        request(3, "restore_session", session_id="s1"),
        b"nonsense",
        request(4, "ping"),
    )
    assert peer.ids == [1]
    peer.ask(5, "ping")  # one that came later
    desk.load()
    assert peer.ids == [1, 2, 3, None, 4, 5]


def test_one_peers_miss_does_not_hold_up_another(desk: Desk, peer: Peer) -> None:
    Peer(desk).ask(1, "restore_session", session_id="s2")
    peer.ask(1, "restore_session", session_id="s1")
    assert peer.ids == [1]


def test_loads_run_ahead_and_decisions_do_not(desk: Desk, peer: Peer) -> None:
    lines = [request(i, "restore_session", session_id=f"x{i}") for i in range(LOOK_AHEAD + 10)]
    lines[5] = request(5, "list_client_sessions", client_id="someone")
    lines[6] = b"nonsense"
    lines[7] = request(7, "restore_session", session_id="s1")  # in memory
    peer.say(request("first", "update_session_state", session_id="s2", state_data={"a": 1}), *lines)
    ahead = set(desk.wanted_ids) - {"s2"}
    assert ahead == {"someone", *(f"x{i}" for i in range(LOOK_AHEAD - 1) if i not in (5, 6, 7))}
    assert not desk.book.changes  # nothing was decided yet
    desk.settle()
    assert peer.ids == ["first", *range(6), None, *range(7, len(lines))]


def test_a_load_that_fails_refuses_the_request_that_needed_it_and_no_other(desk: Desk, peer: Peer) -> None:
    peer.say(request(1, "restore_session", session_id="s2"), request(2, "restore_session", session_id="s1"))
    desk.fail_load()
    assert peer.ids == [1, 2]
    assert peer.codes == ["storage_unavailable", "ok"]


def test_each_request_that_cannot_be_loaded_is_refused_once(desk: Desk, peer: Peer) -> None:
    peer.say(*(request(i, "restore_session", session_id=f"x{i}") for i in range(5)))
    for _ in range(5):
        assert desk.wanted
        desk.fail_load()
    assert peer.ids == list(range(5))
    assert set(peer.codes) == {"storage_unavailable"}
    desk.fail_load()
    assert len(peer.replies) == 5


def test_a_decision_may_need_two_loads(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "close_session", session_id="s2")  # the session, then its client
    desk.load()
    assert desk.wanted_ids == ["other"]
    desk.load()
    desk.commit()
    assert peer.codes == ["ok"]
    assert desk.committed["s2"].status == CLOSED


def test_a_miss_behind_a_waiting_commit_is_decided_while_that_runs(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "update_session_state", session_id="s2", state_data={"a": 1})
    desk.begin()
    desk.load()
    assert peer.replies == []
    desk.succeed()
    assert peer.ids == [1]
    desk.commit()
    assert peer.ids == [1, 2]


def test_a_load_that_ends_after_a_failed_commit_finds_the_order_kept(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "restore_session", session_id="s1")
    peer.ask(3, "restore_session", session_id="s2")  # a miss
    peer.ask(4, "ping")
    desk.begin()
    desk.fail()
    desk.settle()
    assert peer.ids == [1, 2, 3, 4]
    assert peer.codes == ["storage_unavailable", "ok", "ok", "ok"]


def test_a_load_that_fails_after_a_failed_commit_answers_each_request_once(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "restore_session", session_id="s1")
    peer.ask(3, "restore_session", session_id="s2")
    desk.begin()
    desk.fail()
    desk.fail_load()
    desk.settle()
    assert peer.ids == [1, 2, 3]


# -- turns


def test_a_burst_gives_the_others_their_turn(desk: Desk, peer: Peer) -> None:
    count = 2 * TURN + 10
    peer.say(*(request(i, "ping") for i in range(count)))
    assert len(peer.replies) == TURN
    assert peer.dialogue.busy
    other = Peer(desk)
    other.ask("other", "ping")
    assert other.ids == ["other"]
    desk.turn()
    assert len(peer.replies) == 2 * TURN
    desk.settle()
    assert peer.ids == list(range(count))
    assert not peer.dialogue.busy


def test_a_burst_of_just_one_turn_leaves_nothing(peer: Peer) -> None:
    peer.say(*(request(i, "ping") for i in range(TURN)))
    assert peer.dialogue.idle
    assert not peer.desk.next_turn


def test_blank_lines_use_up_turns_too(desk: Desk, peer: Peer) -> None:
    peer.say(*[b"\r"] * (3 * TURN), request(1, "ping"))
    assert peer.replies == []
    desk.settle()
    assert peer.ids == [1]


def test_whoever_holds_the_peer_is_told_when_nothing_undecided_is_left(desk: Desk, peer: Peer) -> None:
    """Blank lines send no reply, by which it could notice: it would never read again."""
    peer.say(*[b"\r"] * (TURN + 1))
    assert peer.dialogue.busy
    desk.settle()
    assert not peer.dialogue.busy
    assert peer.drained == 1


def test_more_lines_during_a_burst_wait_behind_it(desk: Desk, peer: Peer) -> None:
    peer.say(*(request(i, "ping") for i in range(TURN + 1)))
    peer.ask("late", "ping")
    assert "late" not in peer.ids
    desk.settle()
    assert peer.ids == [*range(TURN + 1), "late"]


# -- peers that read slowly


def test_nothing_is_decided_for_a_peer_that_does_not_read(desk: Desk, peer: Peer) -> None:
    peer.say(*(request(i, "ping") for i in range(TURN + 5)))
    peer.pause()
    desk.settle()
    assert len(peer.replies) == TURN
    peer.unpause()
    assert len(peer.replies) == TURN + 5


def test_a_commit_is_answered_though_the_peer_does_not_read(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.pause()
    desk.commit()
    assert peer.ids == [1]


def test_a_peer_that_stops_reading_after_a_load_goes_on_when_it_reads(desk: Desk, peer: Peer) -> None:
    peer.say(request(1, "restore_session", session_id="s2"), request(2, "ping"))
    peer.pause()
    desk.load()
    assert peer.replies == []
    peer.unpause()
    assert peer.ids == [1, 2]


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A session of 10,000 bytes, and room for two such replies."""
    monkeypatch.setattr(dialogue_module, "HELD_LIMIT", 25_000)
    desk = Desk(stored_session("big", session_state=b'{"a":"%b"}' % (b"x" * 10_000)), stored_session("small", 2))
    peer = Peer(desk)
    peer.ask(0, "get_session_info", session_id="big")
    peer.ask(0, "get_session_info", session_id="small")
    desk.settle()
    return desk


def test_big_replies_are_sent_as_they_come_to_a_peer_that_reads(big: Desk) -> None:
    peer = Peer(big)
    peer.say(*(request(i, "restore_session", session_id="big") for i in range(9)))
    assert peer.ids == list(range(9))
    assert peer.sends == 3


def test_the_contract_counts_as_the_big_reply_that_it_is(big: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(describe().contract)
    monkeypatch.setattr(dialogue_module, "HELD_LIMIT", 2 * size + size // 2)
    peer = Peer(big)
    peer.say(*(request(i, "describe") for i in range(9)))
    assert peer.ids == list(range(9))
    assert peer.sends == 3
    peer.say(*(request(i, "describe", command="ping") for i in range(9)))
    assert peer.sends == 4


def test_big_replies_stop_where_the_peer_stops_reading(big: Desk) -> None:
    peer = Peer(big)
    peer.on_send = lambda replies: peer.pause()
    peer.say(*(request(i, "restore_session", session_id="big") for i in range(9)))
    assert len(peer.replies) == 3
    assert peer.dialogue.busy
    while len(peer.replies) < 9:
        peer.unpause()
    assert peer.ids == list(range(9))


def test_replies_that_wait_for_a_commit_are_bounded(big: Desk) -> None:
    peer = Peer(big)
    peer.say(*(request(i, "update_session_state", session_id="big", state_data={"b": i}) for i in range(9)))
    assert len(big.book.changes) == 3
    assert peer.dialogue.busy
    big.settle()
    assert peer.ids == list(range(9))
    assert set(peer.codes) == {"ok"}


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
    peer = Peer(big)
    peer.ask(0, "list_client_sessions", client_id="me")
    peer.ask(0, "get_session_info", session_id="x" * 1000)
    big.settle()
    peer.ask(0, "update_session_state", session_id="small", state_data={"a": 1})
    big.begin()
    for _ in range(1000):
        if peer.dialogue.busy:
            break
        peer.say(line)
    assert peer.dialogue.busy
    big.settle()
    assert not peer.dialogue.busy


# -- peers that go


def test_what_was_decided_for_a_peer_that_went_stays_decided(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.dialogue.abandon()
    assert not desk.engine._waiting  # nobody keeps it alive
    desk.commit()
    assert peer.replies == []
    assert desk.committed["s1"].session_state == b'{"a":1}'


def test_what_was_not_decided_for_a_peer_that_went_never_is(desk: Desk, peer: Peer) -> None:
    peer.say(request(1, "restore_session", session_id="s2"), request(2, "close_session", session_id="s1"))
    peer.dialogue.abandon()
    desk.settle()
    assert peer.replies == []
    assert desk.committed["s1"].status != CLOSED
    assert peer.dialogue.idle


def test_a_peer_that_goes_in_the_middle_of_its_turns(desk: Desk, peer: Peer) -> None:
    peer.say(*(request(i, "ping") for i in range(TURN + 1)))
    peer.dialogue.abandon()
    desk.settle()
    assert len(peer.replies) == TURN


def test_a_peer_that_went_is_not_told_of_a_failed_commit(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    peer.dialogue.abandon()
    desk.fail()
    assert peer.replies == []


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_a_peer_that_goes_while_another_is_answered(desk: Desk, peer: Peer, end: str) -> None:
    other = Peer(desk)
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    other.ask(1, "update_session_state", session_id="s1", state_data={"b": 1})
    peer.on_send = lambda replies: other.dialogue.abandon()
    desk.begin()
    getattr(desk, end)()
    assert peer.ids == [1]
    assert other.replies == []


# -- saying something of one's own


def test_what_answers_no_request_comes_behind_what_is_owed(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    peer.ask(2, "restore_session", session_id="s2")
    refusal = desk.engine.message_too_large()
    peer.dialogue.say(desk.engine.refuse(json.loads("0"), refusal, desk.clock()))
    assert peer.replies == []
    desk.settle()
    assert peer.ids == [1, 2, 0]


def test_idle_and_busy(desk: Desk, peer: Peer) -> None:
    assert peer.dialogue.idle
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    assert not peer.dialogue.busy  # decided; reading goes on
    assert not peer.dialogue.idle
    peer.ask(2, "restore_session", session_id="s2")
    assert peer.dialogue.busy
    assert peer.dialogue.backlog_bytes > 0
    desk.settle()
    assert peer.dialogue.idle
    assert peer.dialogue.backlog_bytes == 0


# -- until everything is committed


async def test_waiting_until_everything_is_committed(desk: Desk, peer: Peer) -> None:
    await desk.engine.until_committed()  # nothing to wait for
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    waiting = desk.engine.until_committed()
    step = waiting.__await__()
    assert next(step) is not None
    desk.commit()
    with pytest.raises(StopIteration):
        step.send(None)


async def test_waiting_covers_activity_too(desk: Desk, peer: Peer) -> None:
    """Or a server that stops would leave some of it dirty, and start as if it had been killed."""
    desk.wall += 1_000_000
    peer.ask(1, "restore_session", session_id="s1")
    step = desk.engine.until_committed().__await__()
    assert next(step) is not None
    desk.commit()
    with pytest.raises(StopIteration):
        step.send(None)


async def test_waiting_ends_when_the_commit_has_failed(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    step = desk.engine.until_committed().__await__()
    next(step)
    desk.begin()
    desk.fail()
    with pytest.raises(StopIteration):
        step.send(None)


async def test_waiting_covers_what_was_decided_during_a_commit(desk: Desk, peer: Peer) -> None:
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.begin()
    peer.ask(2, "update_session_state", session_id="s1", state_data={"a": 2})
    step = desk.engine.until_committed().__await__()
    future = next(step)
    desk.succeed()
    assert not future.done()
    desk.commit()
    with pytest.raises(StopIteration):
        step.send(None)


def test_the_sessions_of_the_desk_are_what_they_seem(desk: Desk) -> None:
    """The test's own instrument: what is committed by hand is what a store would hold."""
    peer = Peer(desk)
    peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
    desk.settle()
    desk.snapshot()
    expected = desk.committed["s1"]
    assert isinstance(expected, Session)
    assert desk.stored["s1"] == expected
