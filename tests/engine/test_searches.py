"""Questions to the store, while sessions come, change and go: what is told is true, and nobody waits for ever."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import About
from stui_sessions.domain.finding import Listing
from tests.engine.desk import START, UNAVAILABLE, Desk, Peer, request, stored_session

RULES = Rules(max_sessions_per_client=3, on_limit="evict_oldest", default_timeout=100, keep_expired=50)
IN_ORDER = {"sort": "created_at", "order": "asc"}


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Sessions a, b and c of the clients ca, cb and cc; the last was used last."""
    stored = [
        stored_session(
            *(name, number, f"c{name}"),
            timeout=100,
            active_at=START + number * 1000,
            about=About(title=f"title {name}"),
        )
        for number, name in enumerate("abc", 1)
    ]
    with Desk(*stored, rules=RULES) as desk:
        desk.wall += 10_000
        yield desk


def listed(peer: Peer) -> list[str]:
    """The ids in its last reply."""
    return [row["session_id"] for row in peer.replies[-1]["result"]["sessions"]]


def held_up(desk: Desk, command: str = "list_sessions", /, **parameters: Any) -> Peer:
    """Somebody whose question has reached the store and is not answered yet."""
    desk.store.queries.closed = True
    peer = desk.peer()
    peer.ask(1, command, **parameters or IN_ORDER)
    desk.settle()
    assert peer.replies == []
    assert desk.store.queries.waiting
    return peer


def let_go(desk: Desk) -> None:
    desk.store.queries.closed = False
    while desk.store.queries.waiting:
        desk.store.queries.let_go()
        desk.settle()


def forget(desk: Desk) -> None:
    """Nothing is in memory any more."""
    desk.run(desk.engine.recorder.record_all())
    desk.engine.cache.limit, limit = 0, desk.engine.cache.limit
    desk.engine.cache.trim(desk.engine.committed)
    desk.engine.cache.limit = limit
    assert not desk.engine.cache.entities


# -- what happens meanwhile, and what a list of the live sessions is then


def nothing(desk: Desk) -> None:
    pass


def created(desk: Desk) -> None:
    desk.ask("create_session", client_id="cd", session_id="d")


def closed(desk: Desk) -> None:
    desk.ask("close_session", session_id="b")


def purged(desk: Desk) -> None:
    desk.ask("delete_session", session_id="b", purge=True)


def replaced(desk: Desk) -> None:
    """Another session has the id."""
    purged(desk)
    desk.ask("create_session", session_id="b", client_id="cx")


def evicted(desk: Desk) -> None:
    for name in "xyz":
        assert desk.ask("create_session", client_id="cb", session_id=name)["session_id"] == name


def brought_back(desk: Desk) -> None:
    closed(desk)
    desk.ask("undelete_session", session_id="b")


def expired(desk: Desk) -> None:
    desk.ask("update_session", session_id="b", timeout=5)


HAPPENINGS: list[tuple[Callable[[Desk], None], str]] = [
    (nothing, "abc"),
    (created, "abcd"),
    (closed, "ac"),
    (purged, "ac"),
    (replaced, "acb"),
    (evicted, "acxyz"),
    (brought_back, "abc"),
    (expired, "ac"),
]


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize(("happening", "expected"), HAPPENINGS)
def test_a_list_is_right_whatever_happens_before_it_is_answered(
    desk: Desk, happening: Callable[[Desk], None], expected: str, forgotten: bool
) -> None:
    happening(desk)
    if forgotten:
        forget(desk)
    assert listed_now(desk) == list(expected)


@pytest.mark.parametrize(("happening", "expected"), HAPPENINGS)
def test_nor_may_what_happens_meanwhile_be_mixed(desk: Desk, happening: Callable[[Desk], None], expected: str) -> None:
    """A list is as of one moment between the question and the answer."""
    peer = held_up(desk)
    desk.store.queries.closed = False  # who changes something may ask, too
    happening(desk)
    let_go(desk)
    assert listed(peer) == list(expected)


def listed_now(desk: Desk, **parameters: Any) -> list[str]:
    rows = desk.ask("list_sessions", **parameters or IN_ORDER)["sessions"]
    return [row["session_id"] for row in rows]


def test_what_a_row_says_is_right_too(desk: Desk) -> None:
    peer = held_up(desk, sort="title")
    desk.ask("update_session", session_id="b", title="zebra", tags=["t"])
    desk.ask("update_session_state", session_id="b", state_data={"k": "value"})
    let_go(desk)
    assert listed(peer) == ["a", "c", "b"]
    row = peer.replies[0]["result"]["sessions"][2]
    assert (row["title"], row["tags"], row["revision"], row["state_bytes"]) == ("zebra", ["t"], 2, 19)


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_order_of_activity_is_that_of_uses_that_are_only_noted(desk: Desk, forgotten: bool) -> None:
    desk.wall -= 5_000
    desk.ask("touch_session", session_id="a")
    if forgotten:
        desk.engine.cache.drop(list(desk.engine.cache.entities))
    assert desk.engine.uses
    assert listed_now(desk, sort="last_activity") == ["a", "c", "b"]


@pytest.mark.parametrize("early", [False, True])
def test_a_reference_names_nobody_who_has_gone_meanwhile(desk: Desk, early: bool) -> None:
    """Even if the store has answered before: nothing is done to what is not so any more."""
    desk.store.answers_early = early
    desk.ask("update_session", session_id="c", external_id="x")
    peers = [held_up(desk, "resolve_session", ref=f"title {name}") for name in "ab"]
    peers.append(held_up(desk, "touch_session", external_id="x"))
    desk.store.queries.closed = False
    desk.ask("delete_session", session_id="a")
    desk.ask("update_session", session_id="b", title="another")
    desk.ask("close_session", session_id="c")
    let_go(desk)
    assert [peer.codes for peer in peers] == [["session_not_found"]] * 3


def test_an_external_id_that_goes_from_one_to_another_names_that_one(desk: Desk) -> None:
    desk.ask("update_session", session_id="a", external_id="x")
    peer = held_up(desk, "get_session", external_id="x")
    desk.ask("update_session", session_id="a", external_id=None)
    desk.ask("update_session", session_id="c", external_id="x")
    let_go(desk)
    assert peer.replies[0]["result"]["session_id"] == "c"


@pytest.mark.parametrize("meanwhile", ["undelete_session", "delete_session"])
def test_a_session_is_not_revived_that_came_back_or_went_meanwhile(desk: Desk, meanwhile: str) -> None:
    desk.wall += 100_000
    desk.run(desk.sweeper.sweep())
    desk.store.answers_early = True
    peer = held_up(desk, "open_session", client_id="cb", resume=False, revive=True)
    desk.store.queries.closed = False
    desk.ask(meanwhile, session_id="b", **({"purge": True} if meanwhile == "delete_session" else {}))
    let_go(desk)
    result = peer.replies[0]["result"]
    assert (result["session_resumed"], result["session_id"]) == (False, "new1")


# -- commits


@pytest.mark.parametrize("command", ["list_sessions", "resolve_session", "get_session_statistics", "export_sessions"])
def test_a_question_waits_for_what_was_decided_before_on_any_connection(desk: Desk, command: str) -> None:
    desk.hold_commits()
    desk.peer().ask(1, "create_session", client_id="cd", session_id="d", title="new")
    desk.settle()
    peer = desk.peer()
    peer.ask(1, command, **({"ref": "new"} if command == "resolve_session" else {}))
    desk.settle()
    assert desk.store.queries.seen == []
    desk.succeed()
    desk.settle()
    result = peer.replies[0]["result"]
    rows = result.get("sessions", [result])
    assert result.get("total_sessions", len(rows)) == {"resolve_session": 1}.get(command, 4)


def test_what_is_decided_after_a_question_holds_it_up_no_longer(desk: Desk) -> None:
    desk.hold_commits()
    writers = [desk.peer() for _ in range(3)]
    writers[0].ask(1, "create_session", client_id="cd")
    desk.settle()
    peer = desk.peer()
    peer.ask(1, "list_sessions", **IN_ORDER)
    desk.settle()
    for writer in writers[1:]:
        writer.ask(1, "create_session", client_id="cd")
        desk.settle()
    desk.succeed()
    assert listed(peer) == ["a", "b", "c", "new1"]


def test_what_failed_is_in_no_list(desk: Desk) -> None:
    peer = held_up(desk)
    desk.store.commits.error = UNAVAILABLE
    assert desk.ask("create_session", client_id="cd") == "storage_unavailable"
    assert desk.ask("delete_session", session_id="b") == "storage_unavailable"
    let_go(desk)
    assert listed(peer) == ["a", "b", "c"]
    assert desk.ask("get_session_statistics")["total_sessions"] == 3


def test_a_list_that_waited_for_a_commit_that_failed_is_right(desk: Desk) -> None:
    desk.hold_commits()
    desk.peer().ask(1, "delete_session", session_id="b")
    desk.settle()
    peer = desk.peer()
    peer.ask(1, "list_sessions", **IN_ORDER)
    desk.settle()
    desk.fail()
    desk.settle()
    assert listed(peer) == ["a", "b", "c"]


# -- failures


def test_a_question_that_fails_is_told_to_who_asked_it_and_logged_once(desk: Desk) -> None:
    desk.store.queries.error = UNAVAILABLE
    peer = desk.peer()
    peer.say(
        request(1, "get_session", session_id="a"),
        request(2, "list_sessions"),
        request(3, "list_client_sessions", client_id="cb"),
        request(4, "get_session_statistics"),
    )
    desk.settle()
    assert peer.codes == ["ok", "storage_unavailable", "ok", "storage_unavailable"]
    desk.store.queries.error = None
    assert len(listed_now(desk)) == 3


def test_a_fault_in_the_store_leaves_nobody_waiting(desk: Desk) -> None:
    desk.store.queries.error = ValueError("a fault of ours")
    assert desk.ask("list_sessions") == "storage_unavailable"
    assert desk.log.events == ["query.fault"]
    desk.log.lines.clear()
    desk.store.queries.error = None
    assert len(listed_now(desk)) == 3


def test_a_question_that_fails_after_a_commit_has_failed_refuses_no_other_request(desk: Desk) -> None:
    """The commit's failure has put requests before the one that asks."""
    desk.ask("get_session", session_id="a")
    desk.hold_commits()
    somebody = desk.peer()
    somebody.ask(1, "update_session_state", session_id="a", state_data={"k": 1})
    desk.settle()
    peer = desk.peer()
    peer.say(request(1, "get_session", session_id="a"), request(2, "list_sessions"))
    desk.settle()
    desk.store.queries.error = UNAVAILABLE
    desk.fail()
    desk.settle()
    assert somebody.codes == ["storage_unavailable"]
    assert peer.codes == ["ok", "storage_unavailable"]
    assert peer.replies[0]["result"]["revision"] == 1


def test_a_session_that_was_found_and_cannot_be_read(desk: Desk) -> None:
    desk.ask("update_session", session_id="a", external_id="x")
    forget(desk)
    desk.store.reads.error = UNAVAILABLE
    assert desk.ask("get_session", external_id="x") == "storage_unavailable"
    desk.store.reads.error = None
    assert desk.ask("get_session", external_id="x")["session_id"] == "a"


# -- asking once, leaving, order


def test_a_question_is_asked_once_however_little_memory_there_is(desk: Desk) -> None:
    """Else who needs what was found, and has to load it, would ask again and again."""
    desk.ask("update_session", session_id="a", external_id="x")
    forget(desk)
    desk.engine.cache.limit = 0
    desk.store.queries.seen.clear()
    desk.store.reads.closed = True
    peer = desk.peer()
    peer.ask(1, "get_session", external_id="x")
    desk.settle()
    while desk.store.reads.waiting:
        desk.store.reads.let_go()
        desk.settle()
        desk.engine.cache.trim(desk.engine.committed)
    assert peer.codes == ["ok"]
    assert len(desk.store.queries.seen) == 1


def test_an_answer_is_not_kept_for_another_request(desk: Desk) -> None:
    for _ in range(3):
        desk.ask("list_sessions")
    assert [type(question) for question in desk.store.queries.seen] == [Listing] * 3


def test_a_peer_that_goes_while_its_question_is_asked(desk: Desk) -> None:
    peer = held_up(desk)
    stays = held_up(desk)
    peer.dialogue.abandon()
    let_go(desk)
    assert peer.replies == []
    assert listed(stays) == ["a", "b", "c"]
    assert not desk.engine.loader._asking


def test_a_peer_that_does_not_read_when_its_answer_is_there(desk: Desk) -> None:
    peer = held_up(desk)
    peer.pause()
    let_go(desk)
    assert peer.replies == []
    peer.unpause()
    desk.settle()
    assert listed(peer) == ["a", "b", "c"]


def test_requests_behind_a_question_keep_their_order(desk: Desk) -> None:
    desk.store.queries.closed = True
    peer, other = desk.peer(), desk.peer()
    peer.say(
        request(1, "list_sessions"),
        request(2, "delete_session", session_id="b"),
        request(3, "list_sessions"),
        request(4, "ping"),
        request(5, "undelete_session", session_id="b"),
        request(6, "list_sessions"),
    )
    desk.settle()
    other.ask(1, "ping")
    assert (peer.ids, other.ids) == ([], [1])
    let_go(desk)
    assert peer.ids == [1, 2, 3, 4, 5, 6]
    ids = [{row["session_id"] for row in reply["result"].get("sessions", ())} for reply in peer.replies]
    assert (ids[0], ids[2], ids[5]) == ({"a", "b", "c"}, {"a", "c"}, {"a", "b", "c"})


# -- is the store there?


def test_a_ping_may_go_through_to_the_store(desk: Desk) -> None:
    desk.store.queries.closed = True
    peer = desk.peer()
    peer.ask(1, "ping")
    assert peer.replies[-1]["result"] == {"pong": True}
    for fails in (False, True):
        peer.ask(2, "ping", storage=True)
        desk.settle()
        assert len(peer.replies) == 1 + fails
        (desk.store.queries.fail(UNAVAILABLE) if fails else desk.store.queries.let_go())
        desk.settle()
    assert peer.codes == ["ok", "ok", "storage_unavailable"]
