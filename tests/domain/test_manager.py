"""The session manager, where the commands alone do not show it."""

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import Damaged, Holder, SessionData, external_key, session_key
from stui_sessions.domain.manager import end
from stui_sessions.domain.records import Created, Ended, Reopened, Used
from stui_sessions.errors import Refusal
from tests.commands.house import SECOND, START, House

KEY = external_key("", "u", "x")


def test_who_ends_releases_only_what_it_holds() -> None:
    """Databases of the first edition may have two live sessions with one external id; one of them holds it."""
    house = House()
    house.do("open_session", session_id="a", user_id="u", external_id="x")
    assert KEY is not None
    house.memory[KEY] = house.stored[KEY] = Holder(KEY, 1, 1, "b")
    house.check = lambda: None  # type: ignore[method-assign]
    house.do("close_session", session_id="a")
    assert house.stored[KEY] == Holder(KEY, 1, 1, "b")


def test_one_that_gives_way_for_two_reasons_ends_once() -> None:
    """Its place and its external id go to the new session."""
    house = House(Rules(max_sessions_per_client=1))
    house.create("c", user_id="u", external_id="x", timeout=10)
    house.wait(11)
    house.changes()
    house.create("c", user_id="u", external_id="x")
    assert [said[0] for said in house.changes()] == [Ended, Created]


def test_all_that_give_way_are_asked_for_before_anything_is_staged() -> None:
    """The house refuses a decision that lacks something after it has staged something."""
    house = House(Rules(max_sessions_per_client=4))
    for n in range(4):
        house.create("c", user_id="u", external_id=f"x{n}")
    house.world.rules = Rules(max_sessions_per_client=2, on_limit="evict_oldest")
    house.forget()
    house.create("c", user_id="u")
    assert house.counts() == (2, 0, 3, 0)


def test_what_comes_back_does_not_make_room_for_itself() -> None:
    house = House(Rules(max_sessions_per_client=1))
    session_id = house.create("c", timeout=10)
    house.wait(11)
    house.changes()
    house.do("undelete_session", session_id=session_id)
    assert [said[0] for said in house.changes()] == [Reopened]


def test_the_sweeper_records_a_use_so_that_the_end_that_is_stored_moves_on() -> None:
    house = House()
    session_id = house.create(timeout=100)
    house.wait(5)
    house.do("touch_session", session_id=session_id)
    house.changes()
    for expected in ([(Used, START + 5 * SECOND)], []):
        assert house.sweep(session_id) is None
        assert house.changes() == expected


def test_uses_are_recorded_of_those_that_are_live() -> None:
    house = House()
    used, closed, unused = (house.create() for _ in range(3))
    house.wait(5)
    house.do("touch_session", session_id=used)
    house.do("touch_session", session_id=closed)
    house.do("close_session", session_id=closed)
    house.changes()
    house.record_uses()
    assert [(record.key[2], record.used_at) for record in house.log] == [(used, START + 5 * SECOND)]  # type: ignore[union-attr]
    assert house.session(unused).recorded_at == START


def test_a_damaged_owner_or_holder_makes_no_session() -> None:
    house = House()
    house.put(SessionData(1, "s", "c", START, START, START, 600))
    owner = ("", "owner", "\0c")
    house.stored[owner] = Damaged(owner)
    house.memory.clear()
    with pytest.raises(Refusal) as caught:
        house.create("c")
    assert caught.value.code == "session_damaged"
    house.do("close_session", session_id="s")  # which it need not stand in the way of
    assert house.session("s").status == 2


def test_what_has_ended_ends_again_without_its_owner() -> None:
    house = House()
    session_id = house.create("c")
    house.do("close_session", session_id=session_id)
    house.forget()
    key = session_key("", session_id)
    house.decide(lambda draft: end(draft, draft.session(session_id, "write"), 3, START))
    assert house.loaded() == ["s"]
    assert house.session(session_id).key == key
