"""Ending and keeping: closing, deleting, purging, bringing back."""

from typing import Any

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import CLOSED, DELETED, LIVE, About, Session
from stui_sessions.domain.records import Ended, Removed, Reopened
from tests.commands.around import WAYS_TO_END, end, ids, seen, status_of
from tests.commands.house import SECOND, START, House

STATES = ["live", *WAYS_TO_END]


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600, keep_expired=100))


def is_told(house: House, session_id: str) -> list[str]:
    """The lists that have it."""
    return [
        status
        for status in ("live", "expired", "closed", "deleted")
        if session_id in ids(house.do("list_sessions", status=status))
    ]


# -- close_session


@pytest.mark.parametrize("how", STATES)
@pytest.mark.parametrize("remembered", [True, False])
def test_closing_succeeds_whatever_has_ended_it_before(house: House, how: str, remembered: bool) -> None:
    session_id = house.create()
    end(house, session_id, how)
    house.changes()
    if not remembered:
        house.forget()
    house.wait(1)
    for _ in range(2):
        assert seen(house.do("close_session", session_id=session_id)) == {
            "session_id": session_id,
            "closed": True,
            "revision": 1,
        }
    assert house.changes() == ([(Ended, CLOSED, START + SECOND)] if how == "live" else [])


# -- delete_session


@pytest.mark.parametrize("how", STATES)
@pytest.mark.parametrize("remembered", [True, False])
def test_deleting_is_soft_and_idempotent(house: House, how: str, remembered: bool) -> None:
    session_id = house.create(external_id="x", session_state={"a": 1})
    end(house, session_id, how)
    house.changes()
    if not remembered:
        house.forget()
    expected = {"session_id": session_id, "deleted": True, "already_deleted": how == "deleted", "purged": False}
    assert seen(house.do("delete_session", session_id=session_id)) == expected
    assert house.changes() == ([] if how == "deleted" else [(Ended, DELETED, house.wall)])
    house.wait(1)
    again = seen(house.do("delete_session", session_id=session_id))
    assert again == expected | {"already_deleted": True}
    assert house.changes() == []
    assert house.session(session_id).ended_at == house.wall - SECOND
    assert house.session(session_id).session_state == b'{"a":1}'


@pytest.mark.parametrize("how", STATES)
def test_what_was_deleted_is_gone_from_lists_resumption_and_restore(house: House, how: str) -> None:
    session_id = house.create("me", external_id="x", title="T")
    end(house, session_id, how)
    house.do("delete_session", session_id=session_id)
    for _ in range(2):
        assert is_told(house, session_id) == ["deleted"]  # where it is asked for
        assert house.do("list_client_sessions", client_id="me").session_count == 0
        assert house.refused("restore_session", session_id=session_id).code == "session_deleted"
        assert house.refused("touch_session", external_id="x").code == "session_not_found"
        assert house.refused("open_session", session_id=session_id).code == "session_id_conflict"
        house.forget()
    assert house.do("open_session", client_id="me", external_id="x").session_id != session_id


def test_the_kept_time_begins_with_the_deletion(house: House) -> None:
    session_id = house.create()
    end(house, session_id, "closed")
    house.wait(99)
    house.do("delete_session", session_id=session_id)
    house.wait(99.999)
    house.sweep(session_id)
    assert status_of(house, session_id) == "deleted"
    house.wait(0.001)
    house.changes()
    house.sweep(session_id)
    assert house.changes() == [(Removed, 1, "deleted")]


# -- purge


@pytest.mark.parametrize("how", STATES)
@pytest.mark.parametrize("remembered", [True, False])
def test_a_purge_leaves_nothing(house: House, how: str, remembered: bool) -> None:
    session_id = house.create("me", user_id="u", external_id="x", title="T")
    end(house, session_id, how)
    house.changes()
    if not remembered:
        house.forget()
    assert seen(house.do("delete_session", session_id=session_id, purge=True)) == {
        "session_id": session_id,
        "deleted": True,
        "already_deleted": how == "deleted",
        "purged": True,
    }
    assert house.changes() == [(Removed, 1, "purged")]
    assert house.counts() == (0, 0, 0, 0)
    for _ in range(2):
        assert is_told(house, session_id) == []
        for command in ("get_session", "restore_session", "undelete_session", "delete_session"):
            assert house.refused(command, session_id=session_id).code == "session_not_found"
        assert house.refused("resolve_session", ref="T").code == "session_not_found"
        house.forget()
    assert not any(isinstance(e, Session) for e in house.stored.values())
    house.create("me", user_id="u", external_id="x", session_id=session_id)


@pytest.mark.parametrize("purge", [True, False])
@pytest.mark.parametrize("how", STATES)
def test_a_deletion_survives_a_crash(house: House, how: str, purge: bool) -> None:
    session_id = house.create("me", external_id="x")
    end(house, session_id, how)
    house.forget()
    house.do("delete_session", session_id=session_id, purge=purge)
    house.crash()
    assert house.counts() == (0, 0, 0, 0 if purge else 1)
    assert house.do("list_client_sessions", client_id="me").session_count == 0
    assert is_told(house, session_id) == ([] if purge else ["deleted"])
    house.create("me", external_id="x")
    if not purge:
        assert house.refused("undelete_session", session_id=session_id).code == "external_id_conflict"


# -- undelete_session


@pytest.mark.parametrize("how", STATES)
@pytest.mark.parametrize("remembered", [True, False])
def test_what_has_ended_can_be_brought_back(house: House, how: str, remembered: bool) -> None:
    session_id = house.create("me", user_id="u", external_id="x", title="T", ttl_seconds=900, session_state={"a": 1})
    end(house, session_id, how)
    house.wait(10)
    house.changes()
    if not remembered:
        house.forget()
    result = seen(house.do("undelete_session", session_id=session_id))
    assert (result["undeleted"], result["status"], result["ended_at"]) == (how != "live", "live", None)
    assert (result["title"], result["ttl_seconds"], result["revision"]) == ("T", 900, 1)
    about = About("u", "x", "T", ends_at=START + 900 * SECOND)
    assert house.changes() == ([] if how == "live" else [(Reopened, about)])
    left = 590 if how == "live" else min(600, 900 - (house.wall - START) // SECOND)
    assert result["time_until_expiry"] == left
    assert house.counts() == (1, 0, 0, 0)
    assert is_told(house, session_id) == ["live"]
    assert house.do("get_session", external_id="x", user_id="u").session_id == session_id
    assert seen(house.do("open_session", client_id="me", user_id="u"))["session_state"] == {"a": 1}


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_an_external_id_can_only_name_what_is_live_already(house: House, how: str) -> None:
    session_id = house.create(external_id="x")
    assert house.do("undelete_session", external_id="x").undeleted is False
    end(house, session_id, how)
    assert house.refused("undelete_session", external_id="x").code == "session_not_found"
    assert "by its `session_id`" in REGISTRY["undelete_session"].summary


def test_an_elapsed_ttl_is_dropped(house: House) -> None:
    session_id = house.create(ttl_seconds=100)
    house.wait(99.999)
    house.do("close_session", session_id=session_id)
    assert house.do("undelete_session", session_id=session_id).ttl_seconds == 100
    house.do("close_session", session_id=session_id)
    house.wait(0.001)
    result = house.do("undelete_session", session_id=session_id)
    assert (result.ttl_seconds, result.time_until_expiry) == (None, 600)
    house.wait(599)
    house.do("touch_session", session_id=session_id)


def test_a_session_that_expired_by_its_ttl_can_be_brought_back(house: House) -> None:
    session_id = house.create(ttl_seconds=100)
    house.wait(100)
    assert house.do("undelete_session", session_id=session_id).undeleted is True
    house.do("touch_session", session_id=session_id)


def test_what_is_kept_no_longer_cannot_be_brought_back(house: House) -> None:
    session_id = house.create()
    end(house, session_id, "deleted")
    house.wait(100)
    house.sweep(session_id)
    assert house.refused("undelete_session", session_id=session_id).code == "session_not_found"


def test_a_pinned_session_can_be_brought_back_for_ever(house: House) -> None:
    session_id = house.create()
    house.do("update_session", session_id=session_id, pin=True)
    end(house, session_id, "deleted")
    house.wait(10_000_000)
    house.sweep(session_id)
    assert house.do("undelete_session", session_id=session_id).pinned is True


OWNERS: list[dict[str, Any]] = [{"client_id": "c"}, {"client_id": "c", "user_id": "u"}, {"user_id": "u"}]


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("how", WAYS_TO_END)
@pytest.mark.parametrize("policy", ["reject", "evict_oldest"])
@pytest.mark.parametrize("remembered", [True, False])
def test_the_limit_holds_for_what_comes_back_and_nobody_is_evicted(
    owner: dict[str, Any], how: str, policy: Any, remembered: bool
) -> None:
    house = House(Rules(max_sessions_per_client=2, max_sessions_per_user=2, on_limit=policy))
    session_id = house.do("open_session", **owner).session_id
    end(house, session_id, how)
    others = [house.do("open_session", resume=False, **owner).session_id for _ in range(2)]
    if not remembered:
        house.forget()
    refusal = house.refused("undelete_session", session_id=session_id)
    assert (refusal.code, refusal.details) == ("session_limit_reached", {"limit": 2})
    house.do("close_session", session_id=others[0])
    assert house.do("undelete_session", session_id=session_id).undeleted is True
    assert status_of(house, others[1]) == "live"
    assert house.do("undelete_session", session_id=session_id).undeleted is False  # live: nothing to allow


@pytest.mark.parametrize("how", WAYS_TO_END)
@pytest.mark.parametrize("remembered", [True, False])
def test_the_external_id_of_what_comes_back_must_be_free(house: House, how: str, remembered: bool) -> None:
    session_id = house.create(user_id="u", external_id="x")
    end(house, session_id, how)
    other = house.create(user_id="u", external_id="x")
    if not remembered:
        house.forget()
    assert house.refused("undelete_session", session_id=session_id).code == "external_id_conflict"
    house.do("update_session", session_id=other, external_id="y")
    house.do("undelete_session", session_id=session_id)
    assert house.do("get_session", user_id="u", external_id="x").session_id == session_id


def test_a_return_survives_a_crash(house: House) -> None:
    session_id = house.create("me", external_id="x", ttl_seconds=10)
    house.do("close_session", session_id=session_id)
    house.forget()
    house.wait(10)
    house.do("undelete_session", session_id=session_id)
    house.crash()
    assert house.session(session_id).status == LIVE
    assert house.session(session_id).about.ends_at == 0
    assert house.do("get_session", external_id="x").session_id == session_id
    assert house.do("list_client_sessions", client_id="me").session_count == 1
