"""A desk with two sessions, and a peer that talks to it."""

from collections.abc import Iterator

import pytest

from tests.engine.desk import Desk, Peer, stored_session


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Two stored sessions, s1 and s2; s1 and its client are in memory.  Commits wait to be let go."""
    with Desk(stored_session("s1", 1), stored_session("s2", 2, "other")) as desk:
        desk.ask("list_client_sessions", client_id="me")
        desk.hold_commits()
        yield desk


@pytest.fixture
def peer(desk: Desk) -> Peer:
    return desk.peer()


@pytest.fixture
def held_reads(desk: Desk) -> Desk:
    """Reads wait to be let go too."""
    desk.store.reads.closed = True
    return desk
