"""What a peer is told and when: order, what waits for commits and loads."""

from typing import Any

import pytest
from msgspec.structs import replace

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import CLOSED, EXTERNAL, OWNER, Key, session_key
from stui_sessions.errors import StorageError
from stui_sessions.gates.lines.dialogue import LOOK_AHEAD
from stui_sessions.protocol.framing import OVERFLOW
from stui_sessions.protocol.messages import WireLimits, failure
from tests.engine.desk import Desk, Peer, request, stored_session

UNREADABLE = StorageError("the disk cannot be read")


def update(id: Any, session_id: str = "s1", **state: Any) -> bytes:
    return request(id, "update_session_state", session_id=session_id, state_data=state)


def restore(id: Any, session_id: str) -> bytes:
    return request(id, "restore_session", session_id=session_id)


# -- decoding and order


def test_what_needs_no_waiting_is_answered_at_once_and_in_one_piece(peer: Peer) -> None:
    peer.dialogue.receive([request(1, "ping"), b"nonsense", restore(2, "s1")])
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


def test_an_over_long_line_is_answered_in_its_place_and_without_an_id() -> None:
    with Desk(limits=WireLimits(max_message_bytes=1000)) as desk:
        peer = desk.peer()
        peer.say(request(1, "ping"), OVERFLOW, request(2, "ping"))
        assert peer.ids == [1, None, 2]
        assert peer.codes == ["ok", "message_too_large", "ok"]
        assert peer.replies[1]["details"] == {"limit": 1000}


@pytest.mark.parametrize(
    ("line", "id", "code"),
    [
        (b'{"command":"ping"}', None, "invalid_request"),
        (b'{"id":[],"command":"ping"}', None, "invalid_request"),
        (b'{"id":7,"command":"pong"}', 7, "unknown_command"),
        (b'{"id":7', None, "invalid_json"),
        (b"\xff", None, "invalid_utf8"),
    ],
)
def test_what_is_no_request_is_refused_with_the_id_that_can_be_read(
    peer: Peer, line: bytes, id: Any, code: str
) -> None:
    peer.say(line)
    assert (peer.ids, peer.codes) == ([id], [code])


def test_a_fault_in_one_decision_is_answered_and_logged(
    desk: Desk, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(REGISTRY["ping"], "handler", broken)
    peer.say(request(1, "ping"), request(2, "get_session_info", session_id="s1"))
    assert peer.codes == ["internal_error", "ok"]
    assert "secret" not in peer.replies[0]["error"]
    ((event, fields),) = desk.log.lines
    assert (event, fields["command"]) == ("request.fault", "ping")
    assert isinstance(fields["exc_info"], ZeroDivisionError)
    desk.log.lines.clear()


def test_a_fault_leaves_nothing_of_what_the_decision_had_staged(
    desk: Desk, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = REGISTRY["update_session_state"].handler
    assert handler is not None

    def broken(*arguments: Any) -> None:
        handler(*arguments)
        raise ZeroDivisionError

    monkeypatch.setattr(REGISTRY["update_session_state"], "handler", broken)
    peer.say(update(1, a=1), restore(2, "s1"))
    desk.settle()
    assert peer.codes == ["internal_error", "ok"]
    assert peer.replies[1]["result"]["session_state"] == {}
    assert desk.in_flight is None
    desk.log.lines.clear()


def test_a_refusal_waits_for_nothing_that_was_only_staged() -> None:
    with Desk(stored_session("s1"), rules=Rules(max_state_bytes=100)) as desk:
        peer = desk.peer()
        peer.say(update(1, a="x" * 100), request(2, "ping"))
        desk.settle()
        assert peer.codes == ["state_too_large", "ok"]


# -- waiting for commits


def test_a_write_is_answered_when_it_is_on_disk_and_not_before(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    desk.settle()
    assert desk.in_flight is not None
    assert peer.replies == []
    desk.succeed()
    assert peer.replies[0]["result"]["session_state"] == {"a": 1}


def test_what_comes_after_a_write_waits_behind_it(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    peer.say(request(2, "ping"), b"nonsense", OVERFLOW)
    peer.say(request(3, "no such command"), restore(4, "s1"))
    desk.settle()
    assert peer.replies == []
    desk.succeed()
    assert peer.ids == [1, 2, None, None, 3, 4]
    assert peer.sends == 1


def test_a_commit_releases_what_it_covers_and_leaves_the_rest(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1))
    desk.settle()
    peer.say(update(2, a=2), request(3, "ping"))
    desk.succeed()
    assert peer.ids == [1]
    assert not peer.dialogue.idle
    desk.succeed()
    assert peer.ids == [1, 2, 3]


def test_a_reply_never_overtakes_one_that_waits_for_a_later_commit(desk: Desk, peer: Peer) -> None:
    """The second request stands on the commit under way, the first on the one behind it."""
    desk.peer().say(update(1, a=1))
    desk.ask("get_session_info", session_id="s2")
    desk.settle()
    peer.say(update(1, "s2", a=1), request(2, "get_session_info", session_id="s1"))
    desk.succeed()
    assert peer.ids == []
    desk.succeed()
    assert peer.ids == [1, 2]


def test_a_read_of_an_uncommitted_change_waits(desk: Desk, peer: Peer) -> None:
    desk.peer().say(update(1, a=1))
    peer.say(restore(1, "s1"), request(2, "get_session_info", session_id="s1"))
    desk.settle()
    assert peer.replies == []
    desk.succeed()
    assert peer.replies[0]["result"]["session_state"] == {"a": 1}
    assert peer.replies[1]["result"]["revision"] == 2


def test_a_read_of_another_session_does_not_wait(desk: Desk, peer: Peer) -> None:
    desk.peer().say(update(1, a=1))
    peer.say(restore(1, "s2"))
    desk.settle()
    assert peer.ids == [1]


@pytest.mark.parametrize(
    ("command", "parameters", "code"),
    [
        ("list_client_sessions", {"client_id": "me"}, "ok"),
        ("list_sessions", {}, "ok"),
        ("get_session_statistics", {}, "ok"),
        ("restore_session", {"session_id": "s1"}, "session_closed"),
        ("update_session_state", {"session_id": "s1", "state_data": {}}, "session_closed"),
    ],
)
def test_whatever_tells_of_an_uncommitted_change_waits(
    desk: Desk, peer: Peer, command: str, parameters: dict[str, Any], code: str
) -> None:
    desk.peer().ask(1, "close_session", session_id="s1")
    peer.ask(1, command, **parameters)
    desk.settle()
    assert peer.replies == []
    desk.succeed()
    desk.settle()
    assert peer.codes == [code]


@pytest.mark.parametrize("parameters", [{}, {"command": "ping"}, {"command": "pong"}])
def test_the_contract_rests_on_no_change(desk: Desk, peer: Peer, parameters: dict[str, Any]) -> None:
    desk.peer().ask(1, "close_session", session_id="s1")
    peer.ask(1, "describe", **parameters)
    assert peer.codes == ["unknown_command" if parameters.get("command") == "pong" else "ok"]


def test_the_limit_holds_among_changes_that_are_not_committed() -> None:
    with Desk(rules=Rules(max_sessions_per_client=5)) as desk:
        desk.hold_commits()
        peers = [desk.peer() for _ in range(50)]
        for peer in peers:
            peer.ask(1, "create_session", client_id="me")
        desk.settle()
        while desk.in_flight:
            desk.succeed()
        codes = [code for peer in peers for code in peer.codes]
        assert sorted(codes) == ["ok"] * 5 + ["session_limit_reached"] * 45


# -- waiting for loads


def test_a_miss_is_loaded_and_then_decided(held_reads: Desk, peer: Peer) -> None:
    peer.say(restore(1, "s2"))
    held_reads.settle()
    assert peer.replies == []
    assert not peer.dialogue.idle
    held_reads.store.reads.let_go()
    held_reads.settle()
    assert peer.codes == ["ok"]
    assert peer.dialogue.idle


def test_what_comes_behind_one_that_waits_is_loaded_meanwhile(held_reads: Desk, peer: Peer) -> None:
    """And no more than that is wanted."""
    peer.say(restore(1, "s2"))
    held_reads.settle()
    assert not peer.dialogue.busy
    peer.say(restore(2, "s3"))
    held_reads.settle()
    assert peer.dialogue.busy
    assert session_key("", "s3") in held_reads.engine.loader._wanted
    for _ in range(2):
        held_reads.store.reads.let_go()
        held_reads.settle()
    assert (peer.ids, peer.codes) == ([1, 2], ["ok", "session_not_found"])


def test_requests_stay_in_order_over_a_miss(held_reads: Desk, peer: Peer) -> None:
    peer.say(restore(1, "s1"), restore(2, "s2"), restore(3, "s1"), b"nonsense", b" ", OVERFLOW, request(4, "ping"))
    assert peer.ids == [1]
    peer.say(request(5, "ping"))  # one that came later
    held_reads.settle()
    assert peer.ids == [1]
    held_reads.store.reads.let_go()
    held_reads.settle()
    assert peer.ids == [1, 2, 3, None, None, 4, 5]


def test_one_peers_miss_does_not_hold_up_another(held_reads: Desk, peer: Peer) -> None:
    held_reads.peer().say(restore(1, "s2"))
    held_reads.settle()
    peer.say(restore(1, "s1"))
    assert peer.ids == [1]


def kinds_and_ids(keys: list[Key]) -> set[str]:
    return {id.replace("\0", "") if kind in (OWNER, EXTERNAL) else id for _, kind, id in keys}


def test_loads_run_ahead_and_decisions_do_not(held_reads: Desk, peer: Peer) -> None:
    desk, number = held_reads, held_reads.world.numbers.last
    lines = [restore(i, f"x{i}") for i in range(LOOK_AHEAD + 10)]
    lines[4] = request(4, "create_session", client_id="me")  # could be decided now
    lines[5] = request(5, "list_client_sessions", client_id="someone")
    lines[6] = b"nonsense"
    lines[7] = restore(7, "s1")  # in memory
    peer.say(update("first", "s2", a=1), *lines)
    desk.settle()
    ahead = {"someone", *(f"x{i}" for i in range(LOOK_AHEAD - 1) if i not in (4, 5, 6, 7))}
    assert kinds_and_ids(desk.store.reads.waiting[0].what) == {"s2", *ahead}
    assert desk.in_flight is None  # nothing was decided yet
    assert desk.world.numbers.last == number
    desk.store.reads.closed = False
    desk.store.reads.let_go()
    desk.settle()
    desk.succeed()
    assert peer.ids == ["first", *range(6), None, *range(7, len(lines))]


def test_a_load_that_fails_refuses_the_request_that_needed_it_and_no_other(held_reads: Desk, peer: Peer) -> None:
    peer.say(restore(1, "s2"), restore(2, "s1"))
    held_reads.settle()
    held_reads.store.reads.fail(UNREADABLE)
    held_reads.settle()
    assert peer.ids == [1, 2]
    assert peer.codes == ["storage_unavailable", "ok"]


def test_each_request_that_cannot_be_loaded_is_refused_once(desk: Desk, peer: Peer) -> None:
    desk.store.reads.error = UNREADABLE
    peer.say(*(restore(i, f"x{i}") for i in range(5)))
    for _ in range(5):
        desk.settle()
    assert peer.ids == list(range(5))
    assert set(peer.codes) == {"storage_unavailable"}


def test_a_decision_may_need_two_loads(held_reads: Desk, peer: Peer) -> None:
    desk = held_reads
    peer.ask(1, "close_session", session_id="s2")  # the session, then its client
    for wanted in ({"s2"}, {"other"}):
        desk.settle()
        assert kinds_and_ids(desk.store.reads.waiting[0].what) == wanted
        desk.store.reads.let_go()
    desk.settle()
    desk.succeed()
    assert peer.codes == ["ok"]
    closed = desk.committed("s2")
    assert closed is not None
    assert closed.status == CLOSED


def test_a_miss_behind_a_waiting_commit_is_decided_while_that_runs(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, "s1", a=1), update(2, "s2", a=1))
    desk.settle()
    assert desk.engine.batch.records
    desk.succeed()
    assert peer.ids == [1]
    desk.succeed()
    assert peer.ids == [1, 2]


# -- saying something of one's own


def test_what_answers_no_request_comes_behind_what_is_owed(desk: Desk, peer: Peer) -> None:
    peer.say(update(1, a=1), restore(2, "s2"))
    desk.call(peer.dialogue.say, failure(desk.codec.decode(request(0, "ping")).id, desk.codec.too_large(), ""))
    desk.settle()
    assert peer.replies == []
    desk.succeed()
    assert peer.ids == [1, 2, 0]


def test_idle_and_busy(held_reads: Desk, peer: Peer) -> None:
    desk = held_reads
    assert peer.dialogue.idle
    peer.say(update(1, a=1))
    assert not peer.dialogue.busy  # decided; reading goes on
    assert not peer.dialogue.idle
    peer.say(restore(2, "s2"), b"x" * 1000)
    assert peer.dialogue.busy
    assert peer.dialogue.backlog_bytes >= 1000
    desk.settle()
    desk.succeed()
    desk.store.reads.let_go()
    desk.settle()
    assert peer.dialogue.idle
    assert peer.dialogue.backlog_bytes == 0


def test_the_sessions_of_the_desk_are_what_they_seem() -> None:
    """The tests' own instrument: what it says is committed is what the store holds."""
    with Desk(stored_session("s1")) as desk:
        peer = desk.peer()
        peer.say(update(1, a=1))
        desk.settle()
        expected = desk.committed("s1")
        assert expected is not None
        stored = desk.run(desk.store.read([expected.key]))[expected.key]
        assert replace(stored, keys=None) == expected  # a store may keep more than it has to
