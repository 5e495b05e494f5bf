"""A shared store that does not answer: what was sent waits for its end, what came after it does not wait for ever."""

from collections.abc import Iterator
from typing import Any

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.ending import DeleteParams
from stui_sessions.domain.entities import Session
from tests.engine.desk import Desk, Peer, stored_session
from tests.engine.nodes import Nodes, NodeStore

PATIENCE = 5.0


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A server whose commits arrive and are not answered; it has sessions a and b in memory."""
    nodes = Nodes(1, stored_session("a", 1), stored_session("b", 2), patience=PATIENCE)
    desk = nodes.desks[0]
    for session_id in "ab":
        desk.ask("update_session_state", session_id=session_id, state_data={"n": 0})
    way(desk).committing.closed = True
    yield desk
    nodes.close()


def way(desk: Desk) -> NodeStore:
    assert isinstance(desk.store, NodeStore)
    return desk.store


def update(peer: Peer, session_id: str, n: int) -> None:
    peer.ask(n, "update_session_state", session_id=session_id, state_data={"n": n})
    peer.desk.settle()


def answer(desk: Desk) -> None:
    """The commit on its way is answered."""
    way(desk).committing.let_go()
    desk.settle()


def stored(desk: Desk, session_id: str) -> Any:
    entity = way(desk).common._entities[("", "session", session_id)]
    assert isinstance(entity, Session)
    return entity.session_state


def test_what_was_sent_waits_and_what_came_after_it_is_refused(desk: Desk) -> None:
    first, second = desk.peer(), desk.peer()
    update(first, "a", 1)
    update(second, "b", 2)
    desk.advance(PATIENCE - 1)
    assert first.replies == second.replies == []
    desk.advance(1)
    assert (first.replies, second.codes) == ([], ["storage_unavailable"])
    assert desk.log.events.count("storage.unanswered") == 1
    answer(desk)
    assert first.codes == ["ok"]
    assert (stored(desk, "a"), stored(desk, "b")) == (b'{"n":1}', b'{"n":0}')


def test_what_was_decided_on_top_of_it_is_forgotten(desk: Desk) -> None:
    """The same session again: the second save is refused, and the first is what is there."""
    first, second = desk.peer(), desk.peer()
    update(first, "a", 1)
    update(second, "a", 2)
    desk.advance(PATIENCE)
    assert second.codes == ["storage_unavailable"]
    answer(desk)
    assert first.replies[0]["result"]["revision"] == 3
    assert desk.ask("get_session", session_id="a", include=["state"])["session_state"] == {"n": 1}
    way(desk).committing.closed = False
    assert desk.ask("update_session_state", session_id="a", state_data={"n": 3})["revision"] == 4


def test_one_who_only_reads_is_refused_too(desk: Desk) -> None:
    """What it would tell may or may not come about."""
    first, reader = desk.peer(), desk.peer()
    update(first, "a", 1)
    reader.ask(1, "get_session", session_id="a")
    desk.advance(PATIENCE)
    assert (first.replies, reader.codes) == ([], ["storage_unavailable"])
    answer(desk)
    assert first.codes == ["ok"]


def test_replies_stay_in_order(desk: Desk) -> None:
    """A read behind a save of the same peer waits with it."""
    peer = desk.peer()
    update(peer, "a", 1)
    peer.ask(2, "get_session", session_id="a")
    update(peer, "b", 3)
    desk.advance(2 * PATIENCE)
    assert peer.replies == []
    answer(desk)
    assert (peer.ids, peer.codes) == ([1, 2, 3], ["ok", "ok", "storage_unavailable"])
    assert stored(desk, "b") == b'{"n":0}'


def test_more_that_comes_is_refused_in_its_turn(desk: Desk) -> None:
    update(desk.peer(), "a", 1)
    for n in range(3):
        peer = desk.peer()
        update(peer, "b", n)
        desk.advance(PATIENCE)
        assert peer.codes == ["storage_unavailable"]
    assert desk.log.events.count("storage.unanswered") == 1
    answer(desk)


def test_work_of_the_servers_own_waits_for_its_own_commit(desk: Desk) -> None:
    """Its commit is on its way when others are refused: decided again, it would find nothing to purge."""
    purge = DeleteParams(session_id="a", purge=True)
    purging = desk.start(desk.engine.run(REGISTRY["delete_session"], purge))
    desk.settle()
    desk.advance(PATIENCE)
    assert not purging.done()
    desk.tasks.remove(purging)
    answer(desk)
    assert purging.result().purged
