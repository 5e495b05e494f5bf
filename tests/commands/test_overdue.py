"""An expired session whose place or external id was given away stays expired, whatever happens.

A start after a crash gives sessions some time back.  Those that have expired and
were not marked yet would be live again, beside the ones that took their place.
"""

from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import EXPIRED, LIVE
from stui_sessions.domain.records import Ended
from stui_sessions.domain.times import Expiry
from tests.commands.house import House


@pytest.fixture
def house() -> House:
    return House(Rules(max_sessions_per_client=2, default_timeout=100, open_timeout=100))


def crash(house: House) -> None:
    """Everything that was committed is replayed; who was not used since gets time back."""
    house.crash()
    house.world.expiry = Expiry(uncertain_until=house.wall)


def live(house: House, **filters: Any) -> list[str]:
    return sorted(row.session_id for row in house.do("list_sessions", **filters).sessions)


def test_the_slack_would_bring_it_back(house: House) -> None:
    """Where nothing took its place, it may: no session expires early."""
    a = house.create("me")
    house.wait(101)
    assert house.refused("touch_session", session_id=a).code == "session_expired"
    crash(house)
    assert live(house) == [a]


def test_an_external_id_that_was_given_away(house: House) -> None:
    a = house.do("open_session", client_id="a", user_id="u", external_id="x").session_id
    house.wait(101)
    b = house.do("open_session", client_id="b", user_id="u", external_id="x").session_id
    assert house.session(a).status == EXPIRED
    crash(house)
    assert house.do("get_session", external_id="x", user_id="u").session_id == b
    assert live(house) == [b]


def test_places_that_were_given_away(house: House) -> None:
    for _ in range(2):
        house.create("me")
    house.wait(101)
    new = sorted(house.create("me") for _ in range(2))
    crash(house)
    assert live(house) == new
    assert house.do("list_client_sessions", client_id="me").session_count == 2


def test_a_place_beside_one_that_is_free_is_nobodys(house: House) -> None:
    """As long as all of them fit, nothing need be written down."""
    a = house.create("me")
    house.wait(101)
    house.create("me")
    assert house.session(a).status == LIVE
    crash(house)
    assert len(live(house)) == 2


def test_an_edit_that_takes_an_external_id(house: House) -> None:
    a = house.do("open_session", user_id="u", external_id="x").session_id
    house.wait(101)
    b = house.do("open_session", user_id="u").session_id
    house.do("update_session", session_id=b, external_id="x")
    assert house.session(a).status == EXPIRED
    crash(house)
    assert house.do("get_session", external_id="x", user_id="u").session_id == b


def test_a_return_that_takes_place_and_external_id(house: House) -> None:
    gone = house.do("open_session", client_id="me", external_id="x").session_id
    house.do("delete_session", session_id=gone)
    for external_id in ("x", "y"):
        house.do("open_session", client_id="me", external_id=external_id, resume=False)
    house.wait(101)
    assert house.do("undelete_session", session_id=gone).undeleted
    crash(house)
    assert live(house) == [gone]
    assert house.do("get_session", external_id="x").session_id == gone


def test_an_import_that_takes_an_external_id(house: House) -> None:
    other = House()
    other.do("open_session", client_id="c", user_id="u", session_id="b", external_id="x")
    a = house.do("open_session", client_id="a", user_id="u", external_id="x").session_id
    house.forget()
    house.wait(101)
    other.wait(101)
    other.do("touch_session", session_id="b")
    rows = other.do("export_sessions").sessions
    assert house.do("import_sessions", sessions=rows).created == 1
    assert house.session(a).status == EXPIRED
    assert Ended in [said[0] for said in house.changes()]
