"""Searches that began before a snapshot: their answers are corrected for as long as they may be behind."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stui_sessions.errors import Refusal
from stui_sessions.protocol.parameters import ListParams
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.caller import ANYONE_LOCAL
from stui_sessions.sessions.finding import Found, Search
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.overlay import Overlay
from stui_sessions.sessions.residents import Resident
from tests.sessions.around import titles
from tests.sessions.house import House, search_in

EVERYTHING = ListParams(limit=100, sort="created_at", order="asc")


class Asking:
    """A search under way in the store: it read at its beginning, and answers when it is ended."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.number = house.book.overlay.begin_search()
        with pytest.raises(NotResident) as missing:
            house.manager.list_sessions(ANYONE_LOCAL, EVERYTHING, house.now)
        assert missing.value.search is not None
        self.search: Search = missing.value.search
        self.found: Found = search_in(house.stored.values(), self.search)

    def end(self) -> list[Any]:
        """The titles of the list, in the order of creation."""
        self.house.book.answers[self.search] = self.found
        page = self.house.decide(lambda: self.house.manager.list_sessions(ANYONE_LOCAL, EVERYTHING, self.house.now))
        self.house.book.overlay.end_search(self.number)
        return titles(page)


def settle(house: House) -> None:
    house.commit()
    house.snapshot()


@pytest.fixture
def house() -> House:
    house = House()
    house.create(session_id="a", title="a")
    house.forget_residents()
    return house


def test_what_was_created_and_snapshotted_meanwhile_is_in_the_list(house: House) -> None:
    asking = Asking(house)
    house.create(title="b")
    house.forget_residents()
    assert asking.end() == ["a", "b"]
    assert len(house.book.overlay) == 0


def test_what_was_purged_and_snapshotted_meanwhile_is_not_in_the_list(house: House) -> None:
    asking = Asking(house)
    house.do("delete_session", session_id="a", purge=True)
    house.forget_residents()
    assert asking.end() == []
    assert len(house.book.overlay) == 0


def test_what_was_renamed_and_snapshotted_meanwhile_has_its_new_name(house: House) -> None:
    asking = Asking(house)
    house.do("update_session", session_id="a", title="z")
    house.forget_residents()
    assert asking.end() == ["z"]


def test_a_session_stays_for_the_search_that_began_before_its_second_snapshot(house: House) -> None:
    first = Asking(house)
    house.do("update_session", session_id="a", title="b")
    settle(house)
    second = Asking(house)
    house.do("update_session", session_id="a", title="c")
    settle(house)
    assert first.end() == ["c"]
    assert second.end() == ["c"]
    assert len(house.book.overlay) == 0


def test_a_session_stays_no_longer_than_the_search_it_stays_for(house: House) -> None:
    house.create(session_id="b")
    house.forget_residents()
    first = Asking(house)
    house.do("update_session", session_id="a", title="z")
    settle(house)
    house.do("update_session", session_id="b", title="z")
    settle(house)
    second = Asking(house)
    house.do("update_session", session_id="a", title="y")
    settle(house)
    first.end()
    assert [r.session_id for r in house.book.overlay] == ["a"]
    second.end()
    assert len(house.book.overlay) == 0


def test_searches_may_end_in_any_order(house: House) -> None:
    first = Asking(house)
    house.create(title="b")
    settle(house)
    second = Asking(house)
    house.create(title="c")
    settle(house)
    third = Asking(house)
    assert [s.end() for s in (third, second, first)] == [["a", "b", "c"]] * 3
    assert len(house.book.overlay) == 0


def test_an_opening_that_was_undone_does_not_show_what_was_purged(house: House) -> None:
    asking = Asking(house)
    house.do("delete_session", session_id="a", purge=True)
    settle(house)
    house.do("open_session", session_id="a", title="again")
    house.fail_commit()
    assert asking.end() == []
    assert len(house.book.overlay) == 0


def test_what_is_loaded_anew_meanwhile_is_corrected_too(house: House) -> None:
    asking = Asking(house)
    house.do("update_session", session_id="a", title="b")
    house.forget_residents()
    house.do("update_session", session_id="a", title="c")
    assert asking.end() == ["c"]
    assert len(house.book.overlay) == 1  # it has changed since its snapshot
    settle(house)
    assert len(house.book.overlay) == 0


def test_a_settled_session_that_was_used_since_stays(house: House) -> None:
    asking = Asking(house)
    house.do("update_session", session_id="a", title="b")
    settle(house)
    house.wait(1)
    house.do("touch_session", session_id="a")
    asking.end()
    assert [r.session_id for r in house.book.overlay] == ["a"]
    house.forget_residents()
    assert len(house.book.overlay) == 0


def test_only_the_one_that_is_in_it_can_be_dropped() -> None:
    overlay = Overlay()
    a, b = (Resident(i, None) for i in "ab")
    for resident in (a, b, a):
        overlay.add(resident)
    assert set(overlay) == {a, b}
    assert "a" in overlay
    assert len(overlay) == 2
    overlay.drop(Resident("a", None))  # another of that id
    assert "a" in overlay
    overlay.drop(a)
    assert "a" not in overlay


# -- anything, in any order


class OverlayMachine(RuleBasedStateMachine):
    """Searches under way while sessions come, change and go; each answers what is true when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Rules(max_sessions_per_client=4))
        self.titles: dict[str, str] = {}
        self.committed: dict[str, str] = {}
        self.searches: list[Asking] = []
        self.changes = 0

    def do(self, command: str, session_id: str, **parameters: Any) -> bool:
        try:
            self.house.do(command, session_id=session_id, **parameters)
        except Refusal:
            return False
        return True

    @rule(session_id=st.sampled_from("abc"))
    def open(self, session_id: str) -> None:
        self.changes += 1
        if self.do("open_session", session_id, title=f"{self.changes}"):
            self.titles[session_id] = f"{self.changes}"

    @rule(session_id=st.sampled_from("abc"))
    def rename(self, session_id: str) -> None:
        self.changes += 1
        if self.do("update_session", session_id, title=f"{self.changes}"):
            self.titles[session_id] = f"{self.changes}"

    @rule(session_id=st.sampled_from("abc"), purge=st.booleans())
    def delete(self, session_id: str, purge: bool) -> None:
        if self.do("delete_session", session_id, purge=purge):
            self.titles.pop(session_id, None)

    @rule(session_id=st.sampled_from("abc"))
    def undelete(self, session_id: str) -> None:
        if self.do("undelete_session", session_id):
            self.titles[session_id] = self.house.session(session_id).about.title

    @rule(session_id=st.sampled_from("abc"))
    def touch(self, session_id: str) -> None:
        self.house.wait(0.001)
        self.do("touch_session", session_id)

    @rule(snapshot=st.booleans())
    def commit(self, snapshot: bool) -> None:
        self.house.commit()
        self.committed = dict(self.titles)
        if snapshot:
            self.house.snapshot()

    @rule()
    def fail_commit(self) -> None:
        self.house.fail_commit()
        self.titles = dict(self.committed)

    @rule()
    def trim(self) -> None:
        self.house.book.mark_unrecorded(self.house.book.residents.trim(0, most=3))

    @precondition(lambda self: len(self.searches) < 3)
    @rule()
    def begin_search(self) -> None:
        self.searches.append(Asking(self.house))

    @precondition(lambda self: self.searches)
    @rule(index=st.integers(0, 2))
    def end_search(self, index: int) -> None:
        told = self.searches.pop(index % len(self.searches)).end()
        assert sorted(told) == sorted(self.titles.values())

    @invariant()
    def what_snapshots_do_not_have_is_there(self) -> None:
        book = self.house.book
        for resident in book.residents.sessions.values():
            if resident.dirty or resident.is_unrecorded:
                assert resident.session_id in book.overlay

    def teardown(self) -> None:
        """Once everything is in snapshots and no search is under way, nothing is left."""
        while self.searches:
            self.end_search(0)
        for _ in range(3):
            self.house.commit()
            self.house.wait(0.001)
            self.house.book.mark_unrecorded(self.house.book.residents.unrecorded())
            self.house.snapshot()
        assert list(self.house.book.overlay) == []


OverlayMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOverlay = OverlayMachine.TestCase
