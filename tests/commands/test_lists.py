"""Lists: filters, orders, cursors; a walk while everything moves."""

from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.lists import ListParams, list_sessions
from stui_sessions.domain.draft import Draft, Rules
from stui_sessions.domain.entities import LIVE
from stui_sessions.domain.finding import Found, Listing
from stui_sessions.errors import Refusal
from tests.commands.around import WAYS_TO_END, end, ids, seen, titles
from tests.commands.house import House

SORTS = ["last_activity", "created_at", "title"]


@pytest.fixture
def house() -> House:
    return House(Rules(max_sessions_per_client=1000, default_timeout=600))


def walk(house: House, limit: int, **asked: Any) -> list[str]:
    """The ids of all pages."""
    told: list[str] = []
    cursor: Any = UNSET
    for _ in range(1000):
        page = house.do("list_sessions", limit=limit, cursor=cursor, **asked)
        assert len(page.sessions) == limit or (page.next_cursor is None and len(page.sessions) < limit)
        told += ids(page)
        if page.next_cursor is None:
            return told
        cursor = page.next_cursor
    raise AssertionError("no end")


def populate(house: House) -> None:
    for n, (client, user, title, tags) in enumerate(
        [
            ("c", "u", "Beta", ["a", "b"]),
            ("c", "v", "alpha", ["a"]),
            ("d", "u", "STRASSE", []),
            ("d", "u", None, ["b"]),
            ("c", "u", "gamma é", ["b", "a", "c"]),
        ]
    ):
        house.create(
            client,
            user_id=user,
            session_id=f"s{n}",
            tags=tags,
            external_id=f"EXT-{n}",
            **({} if title is None else {"title": title}),
        )
        house.wait(1)
    house.do("touch_session", session_id="s1")


# -- what is in a list


def test_a_row_is_what_get_session_tells(house: House) -> None:
    populate(house)
    for _ in range(2):
        page = seen(house.do("list_sessions", client_id="c", user_id="v"))
        assert page == {"sessions": [seen(house.do("get_session", session_id="s1"))], "next_cursor": None}
        house.forget()


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({}, "01234"),
    ({"client_id": "c"}, "014"),
    ({"user_id": "u"}, "0234"),
    ({"client_id": "d", "user_id": "u"}, "23"),
    ({"client_id": "x"}, ""),
    ({"tags": ["a"]}, "014"),
    ({"tags": ["b", "a"]}, "04"),
    ({"tags": ["a", "x"]}, ""),
    ({"tags": []}, "01234"),
    ({"tags": ["A"]}, ""),
    ({"text": "A", "user_id": "u"}, "024"),
    ({"text": "straße", "user_id": "u"}, "2"),
    ({"text": "É", "client_id": "c"}, "4"),
    ({"text": "S3", "client_id": "d"}, "3"),
    ({"text": "ext-", "client_id": "c"}, "014"),
    ({"text": "alpha", "user_id": "u"}, ""),
    ({"text": "%", "user_id": "u"}, ""),
    ({"text": "gamma", "tags": ["c"], "client_id": "c", "user_id": "u"}, "4"),
]


@pytest.mark.parametrize("when", ["resident", "forgotten", "half"])
@pytest.mark.parametrize(("asked", "expected"), FILTERS)
def test_filters(house: House, asked: dict[str, Any], expected: str, when: str) -> None:
    populate(house)
    if when != "resident":
        house.forget()
    if when == "half":  # changes that are in no snapshot
        house.do("update_session", session_id="s0", pin=True)
        house.do("touch_session", session_id="s4")
    page = house.do("list_sessions", sort="created_at", order="asc", **asked)
    assert ids(page) == [f"s{n}" for n in expected]


def test_text_needs_an_owner_beside_it(house: House) -> None:
    refusal = house.refused("list_sessions", text="x")
    assert (refusal.code, refusal.details["parameter"]) == ("invalid_parameter", "text")


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("how", WAYS_TO_END)
def test_each_session_is_in_the_list_of_its_status(house: House, how: str, remembered: bool) -> None:
    """But for those that have expired unnoticed: the sweeper will put them in theirs."""
    session_id = house.create(timeout=10)
    live = house.create()
    end(house, session_id, how)
    if not remembered:
        house.forget()
    told = {s: ids(house.do("list_sessions", status=s)) for s in ("live", "expired", "closed", "deleted")}
    assert told == {s: [session_id] if s == how else [live] if s == "live" else [] for s in told}
    assert ids(house.do("list_sessions")) == [live]


@pytest.mark.parametrize("order", ["asc", "desc", UNSET])
@pytest.mark.parametrize(
    ("sort", "expected"),
    [("created_at", "01234"), ("last_activity", "02341"), ("title", "30214")],
)
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
@pytest.mark.parametrize("remembered", [True, False])
def test_orders(house: House, sort: str, order: Any, expected: str, limit: int, remembered: bool) -> None:
    populate(house)
    if not remembered:
        house.forget()
    descending = order == "desc" or (order is UNSET and sort != "title")
    expected = expected[::-1] if descending else expected
    assert walk(house, limit, sort=sort, order=order) == [f"s{n}" for n in expected]


def test_the_most_recently_active_20_come_first(house: House) -> None:
    made = []
    for _ in range(25):
        made.append(house.create())
        house.wait(1)
    house.do("touch_session", session_id=made[0])
    page = house.do("list_sessions")
    assert ids(page) == [made[0], *made[:5:-1]]
    assert len(page.sessions) == 20
    assert ids(house.do("list_sessions", cursor=page.next_cursor)) == made[5:0:-1]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_what_is_equal_is_told_once_and_whole(house: House, sort: str, order: str) -> None:
    made = [house.create(title="same") for _ in range(7)]
    house.forget()
    assert walk(house, 2, sort=sort, order=order) == (made if order == "asc" else made[::-1])


# -- what changed lately


def test_what_was_committed_a_moment_ago_is_in_the_list(house: House) -> None:
    populate(house)
    house.forget()
    house.do("update_session", session_id="s0", title="new", tags=["z"])
    house.do("close_session", session_id="s1")
    house.do("delete_session", session_id="s2", purge=True)
    house.create("c", session_id="s5", title="young")
    for _ in range(2):
        assert titles(house.do("list_sessions", sort="title")) == [None, "gamma é", "new", "young"]
        assert ids(house.do("list_sessions", tags=["z"])) == ["s0"]
        assert ids(house.do("list_sessions", status="closed")) == ["s1"]
        house.forget()


def test_a_use_that_is_not_recorded_is_told_all_the_same(house: House) -> None:
    first, second = house.create(), house.create()
    house.wait(5)
    house.do("touch_session", session_id=first)
    assert house.draft is not None
    assert not house.draft.changes
    for sort in ("last_activity", "created_at"):
        rows = {row.session_id: row.last_activity for row in house.do("list_sessions", sort=sort).sessions}
        assert rows == {first: "2025-08-30T10:30:05Z", second: "2025-08-30T10:30:00Z"}
    assert ids(house.do("list_sessions")) == [first, second]


def test_what_was_used_and_has_expired_is_in_no_list(house: House) -> None:
    session_id = house.create(timeout=100)
    house.wait(5)
    house.do("touch_session", session_id=session_id)
    house.wait(99)
    assert ids(house.do("list_sessions")) == [session_id]  # by what is recorded it has expired
    house.wait(1)
    assert ids(house.do("list_sessions")) == []


def test_a_page_is_filled_whoever_has_moved_away_from_it(house: House) -> None:
    made = [house.create() for _ in range(9)]
    house.wait(5)
    for session_id in made[2:6]:
        house.do("touch_session", session_id=session_id)
    expected = [*made[5:1:-1], *made[8:5:-1], *made[1::-1]]
    for limit in (1, 2, 3, 4, 20):
        assert walk(house, limit) == expected


def test_what_has_expired_since_the_store_was_asked_is_left_out(house: House) -> None:
    """The store judges by the use that is recorded, and by an earlier instant."""
    session_id = house.create(timeout=10)
    listing = Listing("", LIVE, "last_activity", True, 20)
    row = house.session(session_id)
    house.wait(10)
    draft = Draft(house.world, {}, 2, REGISTRY["list_sessions"], house.caller, house.now, {listing: (Found([row]), 1)})
    assert list_sessions(draft, ListParams()).sessions == []


# -- cursors


def encoded(*fields: Any) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(fields)).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        "====",
        encoded(),
        encoded("created_at", True, 1),
        encoded("created_at", True, 1, 1, 1),
        encoded("created_at", False, 1, 1),
        encoded("title", True, "t", 1),
        encoded("created_at", True, "1", 1),
        encoded("created_at", True, None, 1),
        encoded("created_at", True, 1.5, 1),
        encoded("created_at", True, -1, 1),
        encoded("created_at", True, 1, -1),
        encoded("created_at", True, 2**63, 1),
        encoded("created_at", True, 1, 2**64 - 1),
    ],
)
def test_a_cursor_that_was_not_given_for_this_list(house: House, cursor: str) -> None:
    refusal = house.refused("list_sessions", sort="created_at", cursor=cursor)
    assert (refusal.code, refusal.details["parameter"]) == ("invalid_parameter", "cursor")
    assert len(refusal.text) < 300


def test_a_cursor_outlives_the_session_it_points_at(house: House) -> None:
    made = [house.create() for _ in range(4)]
    page = house.do("list_sessions", sort="created_at", order="asc", limit=2)
    house.do("delete_session", session_id=made[1], purge=True)
    house.forget()
    rest = house.do("list_sessions", sort="created_at", order="asc", limit=2, cursor=page.next_cursor)
    assert (ids(rest), rest.next_cursor) == (made[2:], None)


STEPS = st.sampled_from(
    ["create", "create", "close", "delete", "purge", "undelete", "update", "rename", "touch", "forget"]
)


@given(
    steps=st.lists(st.tuples(STEPS, st.integers(0, 30)), max_size=40),
    limit=st.integers(1, 3),
    order=st.sampled_from(["asc", "desc"]),
    pace=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_a_walk_by_created_at_while_sessions_come_and_go(
    steps: list[tuple[str, int]], limit: int, order: str, pace: int
) -> None:
    """No row comes twice, and none that was there all along is left out."""
    house = House(Rules(max_sessions_per_client=1000))
    made = [house.create(title=f"{n}") for n in range(8)]
    house.changes()
    always, told = set(made), []
    cursor: Any = UNSET
    todo = iter(steps)
    while cursor is not None:
        page = house.do("list_sessions", sort="created_at", order=order, limit=limit, cursor=cursor)
        told += ids(page)
        cursor = page.next_cursor
        for (step, index), _ in zip(todo, range(pace), strict=False):
            move(house, step, made, index)
            live = set(ids(house.do("list_sessions", limit=100)))
            always &= live
    assert len(told) == len(set(told))
    assert always <= set(told)
    numbers = [made.index(i) for i in told]
    assert numbers == sorted(numbers, reverse=order == "desc")


def move(house: House, step: str, made: list[str], index: int) -> None:
    session_id = made[index % len(made)]
    house.wait(0.01)
    try:
        if step == "create":
            made.append(house.create(title="young"))
        elif step == "forget":
            house.forget()
        elif step in ("delete", "purge"):
            house.do("delete_session", session_id=session_id, purge=step == "purge")
        elif step == "update":
            house.do("update_session_state", session_id=session_id, state_data={"a": index})
        elif step == "rename":
            house.do("update_session", session_id=session_id, title=f"{index}")
        else:
            house.do(f"{step}_session", session_id=session_id)
    except Refusal:
        pass
