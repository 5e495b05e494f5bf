"""Two commits on their way at once: only what does not depend on each other, and told in their order."""

from collections.abc import Iterator
from typing import Any

import pytest

from stui_sessions.domain.caller import Caller
from stui_sessions.errors import StorageError
from tests.engine.desk import Desk, Peer, stored_session
from tests.engine.nodes import Nodes, NodeStore


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two servers that know sessions a to d; commits of the first wait before they arrive."""
    nodes = Nodes(2, *(stored_session(name, number) for number, name in enumerate("abcd", 1)))
    for desk in nodes.desks:
        for name in "abcd":
            desk.ask("update_session_state", session_id=name, state_data={"n": 0})
    nodes.stores[0].commits.closed = True
    yield nodes
    nodes.close()


@pytest.fixture
def desk(nodes: Nodes) -> Desk:
    for name in "abcd":  # the other one had the last word
        nodes.desks[0].ask("get_session", session_id=name)
    return nodes.desks[0]


def way(desk: Desk) -> NodeStore:
    assert isinstance(desk.store, NodeStore)
    return desk.store


def sent(desk: Desk) -> list[set[str]]:
    """The sessions in each commit that waits."""
    return [{key[2] for key in call.what.after} for call in way(desk).commits.waiting]


def save(desk: Desk, name: str, n: int, peer: Peer | None = None) -> Peer:
    peer = peer or desk.peer()
    peer.ask(n, "update_session_state", session_id=name, state_data={"n": n})
    desk.settle()
    return peer


def connected(desk: Desk, number: int) -> Peer:
    """A peer whose requests the engine knows by its number."""
    return Peer(desk, Caller("local", "", "", number))


def arrive(desk: Desk, place: int = 0, error: Exception | None = None) -> None:
    """One of those that wait arrives, or fails."""
    call = way(desk).commits.waiting.pop(place)
    if error is None:
        call.passing.set_result(None)
    else:
        call.passing.set_exception(error)
    desk.settle()


def state(desk: Desk, name: str) -> Any:
    return desk.ask("get_session", session_id=name, include=["state"])["session_state"]


def test_what_has_nothing_in_common_goes_at_once_and_more_waits(desk: Desk) -> None:
    peers = [save(desk, name, n, connected(desk, n)) for n, name in enumerate("abc", 1)]
    assert sent(desk) == [{"a"}, {"b"}]
    arrive(desk)
    assert sent(desk) == [{"b"}, {"c"}]
    arrive(desk)
    arrive(desk)
    assert [peer.codes for peer in peers] == [["ok"]] * 3


@pytest.mark.parametrize("name", ["a", "b"])
def test_what_depends_on_it_waits_for_its_end(desk: Desk, name: str) -> None:
    """The same session, or another one for the same peer, whose requests come about in their order."""
    first = save(desk, "a", 1, connected(desk, 1))
    second = save(desk, name, 2, connected(desk, 2) if name == "a" else first)
    assert sent(desk) == [{"a"}]
    arrive(desk)
    assert sent(desk) == [{name}]
    arrive(desk)
    assert (first.codes + second.codes)[:2] == ["ok", "ok"]
    assert state(desk, name) == {"n": 2}


def test_one_who_has_only_read_keeps_the_order_too(desk: Desk) -> None:
    """It has read what is on its way: its own save must not come about if that does not."""
    save(desk, "a", 1, connected(desk, 1))
    reader = connected(desk, 2)
    reader.ask(1, "get_session", session_id="a")
    save(desk, "b", 2, reader)
    assert sent(desk) == [{"a"}]
    arrive(desk)
    arrive(desk)
    assert reader.codes == ["ok", "ok"]


def test_ends_are_told_in_their_order(desk: Desk) -> None:
    first, second = save(desk, "a", 1, connected(desk, 1)), save(desk, "b", 2, connected(desk, 2))
    arrive(desk, 1)
    assert (first.replies, second.replies) == ([], [])
    arrive(desk)
    assert first.codes == second.codes == ["ok"]


@pytest.mark.parametrize("order", [(0, 0), (1, 0)])
def test_one_fails_and_the_other_does_not(desk: Desk, order: tuple[int, int]) -> None:
    """What gathered behind them is decided again, and nothing twice."""
    first, second = save(desk, "a", 1, connected(desk, 1)), save(desk, "b", 2, connected(desk, 2))
    third = save(desk, "c", 3, connected(desk, 3))
    for place in order:
        is_first = sent(desk)[place] == {"a"}
        arrive(desk, place, StorageError("the disk refuses") if is_first else None)
    assert (first.codes, second.codes, third.replies) == (["storage_unavailable"], ["ok"], [])
    assert sent(desk) == [{"c"}]
    arrive(desk)
    assert third.codes == ["ok"]
    assert [state(desk, name)["n"] for name in "abc"] == [0, 2, 3]
    assert second.replies[0]["result"]["revision"] == 4


def test_a_read_of_what_has_failed_is_told_anew(desk: Desk) -> None:
    """It stands behind a save of its own, which comes about."""
    save(desk, "a", 1, connected(desk, 1))
    peer = save(desk, "b", 2, connected(desk, 2))
    assert sent(desk) == [{"a"}, {"b"}]
    peer.ask(3, "get_session", session_id="a", include=["state"])
    arrive(desk, 1)
    arrive(desk, 0, StorageError("the disk refuses"))
    assert (peer.ids, peer.codes) == ([2, 3], ["ok", "ok"])
    assert peer.replies[1]["result"]["session_state"] == {"n": 0}


def test_one_loses_against_another_server(nodes: Nodes, desk: Desk) -> None:
    """It is decided again on what the other has saved; the commit beside it is not touched."""
    first, second = save(desk, "a", 1, connected(desk, 1)), save(desk, "b", 2, connected(desk, 2))
    nodes.desks[1].ask("update_session_state", session_id="a", state_data={"other": True})
    arrive(desk)
    assert first.replies == []
    arrive(desk)
    assert (first.replies, second.codes) == ([], ["ok"])
    assert sent(desk) == [{"a"}]
    arrive(desk)
    assert first.replies[0]["result"]["session_state"] == {"n": 1, "other": True}


def test_a_question_does_not_wait_for_a_commit_that_has_failed(desk: Desk) -> None:
    """Its number is given to no other."""
    peer = save(desk, "a", 1, connected(desk, 1))
    arrive(desk, 0, StorageError("the disk refuses"))
    assert peer.codes == ["storage_unavailable"]
    assert desk.ask("get_session_statistics")["total_sessions"] == 4


def test_nothing_is_kept_of_peers_whose_commits_have_ended(nodes: Nodes, desk: Desk) -> None:
    """Well, not well, beside one that ended well, or without any: it would grow with every connection."""
    freshness = desk.engine.freshness
    assert freshness is not None
    for number in range(10, 20):
        one = connected(desk, number)
        one.ask(1, "close_session", session_id="nobody")
        desk.settle()
        assert one.codes == ["session_not_found"]
    save(desk, "a", 1, connected(desk, 1))
    save(desk, "b", 2, connected(desk, 2))
    save(desk, "c", 3, connected(desk, 3))
    assert freshness._writers.keys() == freshness._standing.keys() != set()
    arrive(desk, 0, StorageError("the disk refuses"))
    arrive(desk)
    arrive(desk)
    assert freshness._standing == freshness._writers == {}
