"""Changing what is said of a session: title, tags, metadata, external id, lifetimes, the pin."""

from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import EXPIRED, About
from stui_sessions.domain.records import Edited, Ended, Removed, Used
from stui_sessions.domain.times import Expiry
from stui_sessions.protocol.fields import MAX_TTL
from tests.commands.around import WAYS_TO_END, end, seen
from tests.commands.house import SECOND, START, House

CHANGES: list[tuple[dict[str, Any], str, Any]] = [
    ({"title": " New\x00 title "}, "title", "New title"),
    ({"title": None}, "title", None),
    ({"tags": ["c", "a", "c"]}, "tags", ["c", "a"]),
    ({"tags": []}, "tags", []),
    ({"metadata": {"b": 3, "c": {}}}, "metadata", {"a": 1, "b": 3, "c": {}}),
    ({"metadata": {"a": None, "nothing": None}}, "metadata", {"b": 2}),
    ({"external_id": "y"}, "external_id", "y"),
    ({"external_id": None}, "external_id", None),
    ({"timeout": 160}, "timeout", 160),
    ({"ttl_seconds": 300}, "ttl_seconds", 300),
    ({"ttl_seconds": None}, "ttl_seconds", None),
    ({"pin": True}, "pinned", True),
]


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600, keep_expired=100))


def create(house: House) -> str:
    return house.create(
        user_id="u",
        external_id="x",
        title="T",
        tags=["a", "b"],
        metadata={"a": 1, "b": 2},
        ttl_seconds=500,
        session_state={"s": 1},
    )


def everything(house: House, session_id: str) -> Any:
    return seen(house.do("get_session", session_id=session_id, include=["state"]))


# -- update_session


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(("change", "field", "value"), CHANGES)
def test_a_change_changes_what_it_names_and_nothing_else(
    house: House, change: dict[str, Any], field: str, value: Any, remembered: bool
) -> None:
    session_id = create(house)
    house.changes()
    if not remembered:
        house.forget()
    house.wait(100)
    before = everything(house, session_id)
    result = seen(house.do("update_session", session_id=session_id, **change))
    after = everything(house, session_id)
    assert result == {name: v for name, v in after.items() if name in result}
    follows = {"metadata": ["metadata_bytes"], "timeout": ["expires_at", "time_until_expiry"]}.get(
        field, ["expires_at", "time_until_expiry"] if field == "ttl_seconds" else []
    )
    assert {name: v for name, v in after.items() if name not in follows} == {
        name: v for name, v in (before | {field: value}).items() if name not in follows
    }
    (record,) = house.changes()
    assert record[0] is Edited
    house.forget()
    assert everything(house, session_id) == after


@pytest.mark.parametrize(("change", "field", "value"), CHANGES)
def test_a_change_survives_a_crash(house: House, change: dict[str, Any], field: str, value: Any) -> None:
    session_id = create(house)
    house.forget()
    house.do("update_session", session_id=session_id, **change)
    house.crash()
    assert everything(house, session_id)[field] == value


def test_several_changes_at_once_are_one_record(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(10)
    house.do("update_session", session_id=session_id, title="T", tags=["t"], metadata={"m": 1}, pin=True, timeout=700)
    assert house.changes() == [(Edited, 700, About("", "", "T", ("t",), b'{"m":1}', 0, True))]


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"title": "T"},
        {"tags": ["a", "b"]},
        {"metadata": {"a": 1}},
        {"metadata": {"c": None}},
        {"external_id": "x"},
        {"timeout": 600},
        {"ttl_seconds": 500},
        {"pin": False},
    ],
)
def test_what_changes_nothing_is_not_journaled(house: House, same: dict[str, Any]) -> None:
    session_id = create(house)
    house.changes()
    assert house.do("update_session", session_id=session_id, **same).title == "T"
    assert house.changes() == []


def test_a_change_is_no_activity_and_no_new_revision(house: House) -> None:
    session_id = house.create()
    house.wait(599)
    result = house.do("update_session", session_id=session_id, title="T")
    assert (result.time_until_expiry, result.revision) == (1, 1)
    assert (result.last_modified, result.last_activity) == ("2025-08-30T10:30:00Z", "2025-08-30T10:30:00Z")
    house.wait(1)
    assert house.refused("update_session", session_id=session_id, title="U").code == "session_expired"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"title": " "}, "empty_parameter"),
        ({"title": "\x00"}, "title_unprintable"),
        ({"title": "x" * 61}, "invalid_parameter"),
        ({"timeout": 31_536_001}, "invalid_parameter"),
        ({"metadata": {"x": "x" * 16_384}}, "metadata_too_large"),
        ({"external_id": "taken"}, "external_id_conflict"),
    ],
)
def test_a_change_with_one_fault_changes_nothing(house: House, wrong: dict[str, Any], code: str) -> None:
    session_id = create(house)
    house.create("other", user_id="u", external_id="taken")
    house.changes()
    before = everything(house, session_id)
    good = {"title": "new", "tags": ["new"], "timeout": 5, "external_id": "new", "pin": True}
    assert house.refused("update_session", session_id=session_id, **(good | wrong)).code == code
    assert everything(house, session_id) == before
    assert house.changes() == []


# -- metadata


def test_metadata_is_merged_at_the_top_level_alone(house: House) -> None:
    session_id = house.create(metadata={"a": {"x": 1}, "b": 1})
    house.do("update_session", session_id=session_id, metadata={"a": {"y": None}, "c": [None]})
    assert everything(house, session_id)["metadata"] == {"a": {"y": None}, "b": 1, "c": [None]}
    house.do("update_session", session_id=session_id, metadata=b'{ "a" : null , "b":\tnull\n,"d":"null"}')
    assert everything(house, session_id)["metadata"] == {"c": [None], "d": "null"}


def test_the_limit_is_for_the_metadata_as_a_whole(house: House) -> None:
    session_id = house.create(metadata={"a": "x" * 10_000})
    refusal = house.refused("update_session", session_id=session_id, metadata={"b": "x" * 10_000})
    assert refusal.code == "metadata_too_large"
    assert refusal.details == {"limit": 16_384, "size": 20_000 + len('{"a":"","b":""}')}
    house.do("update_session", session_id=session_id, metadata={"a": None, "b": "x" * 10_000})


# -- external ids


def test_an_external_id_can_be_moved_from_one_session_to_another(house: House) -> None:
    first, second = house.create(user_id="u", external_id="x"), house.create(user_id="u")
    assert house.refused("update_session", session_id=second, external_id="x").code == "external_id_conflict"
    house.forget()
    assert house.refused("update_session", session_id=second, external_id="x").code == "external_id_conflict"
    house.do("update_session", session_id=first, external_id=None)
    house.do("update_session", session_id=second, external_id="x")
    assert house.do("get_session", external_id="x").session_id == second
    house.forget()
    assert house.do("get_session", external_id="x", user_id="u").session_id == second


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_the_external_id_of_what_has_ended_can_be_taken(house: House, how: str) -> None:
    ended, kept = house.create(external_id="x", timeout=10), house.create()
    end(house, ended, how)
    house.do("update_session", session_id=kept, external_id="x")
    house.sweep(ended)
    assert house.do("get_session", external_id="x").session_id == kept


def test_another_users_external_id_is_no_conflict(house: House) -> None:
    house.create(user_id="u", external_id="x")
    session_id = house.create(user_id="v")
    house.do("update_session", session_id=session_id, external_id="x")
    assert house.do("get_session", external_id="x", user_id="v").session_id == session_id


# -- lifetimes


def test_a_ttl_counts_from_the_creation(house: House) -> None:
    session_id = house.create()
    house.wait(100)
    house.do("touch_session", session_id=session_id)
    result = house.do("update_session", session_id=session_id, ttl_seconds=130)
    assert (result.expires_at, result.time_until_expiry) == ("2025-08-30T10:32:10Z", 30)
    house.wait(30)
    assert house.refused("touch_session", session_id=session_id).code == "session_expired"


def test_without_its_ttl_a_session_lives_as_long_as_it_is_used(house: House) -> None:
    session_id = house.create(ttl_seconds=10)
    house.wait(9)
    assert house.do("update_session", session_id=session_id, ttl_seconds=None).time_until_expiry == 591
    house.wait(500)
    house.do("touch_session", session_id=session_id)


def test_a_timeout_counts_from_the_last_activity(house: House) -> None:
    session_id = house.create()
    house.wait(100)
    assert house.do("update_session", session_id=session_id, timeout=150).time_until_expiry == 50
    assert house.do("update_session", session_id=session_id, timeout=1000).expires_at == "2025-08-30T10:46:40Z"


@pytest.mark.parametrize("remembered", [True, False])
def test_a_shorter_timeout_does_not_make_late_records_count(house: House, remembered: bool) -> None:
    """Activity is recorded late by a tenth of the timeout: after a crash, no more is given back."""
    session_id = house.create(timeout=600)
    house.forget()
    house.wait(50)
    house.do("touch_session", session_id=session_id)  # too soon to be recorded
    assert house.changes() == []
    house.do("update_session", session_id=session_id, timeout=10)
    assert [said[0] for said in house.changes()] == [Used, Edited]
    house.crash()
    house.world.expiry = Expiry(uncertain_until=house.wall)
    house.wait(5)
    house.do("touch_session", session_id=session_id)


def test_a_longer_timeout_records_no_activity(house: House) -> None:
    session_id = house.create(timeout=600)
    house.changes()
    house.wait(50)
    house.do("touch_session", session_id=session_id)
    house.do("update_session", session_id=session_id, timeout=700)
    assert [said[0] for said in house.changes()] == [Edited]


# -- update_session_title


def test_a_title_alone(house: House) -> None:
    session_id = house.create(external_id="x", tags=["t"])
    result = house.do("update_session_title", session_id=session_id, title="\ufeff New ")
    assert (result.title, result.tags, result.external_id) == ("New", ["t"], "x")
    assert house.do("update_session_title", external_id="x", title="Newer").title == "Newer"
    house.changes()
    house.do("update_session_title", session_id=session_id, title="Newer")
    assert house.changes() == []
    codes = [
        house.refused("update_session_title", session_id=session_id, title=t).code for t in (" ", "\x7f", "x" * 61)
    ]
    assert codes == ["empty_parameter", "title_unprintable", "invalid_parameter"]


# -- extend_session and touch_session


@pytest.mark.parametrize("remembered", [True, False])
def test_the_absolute_end_can_be_moved(house: House, remembered: bool) -> None:
    session_id = house.create(ttl_seconds=100)
    if not remembered:
        house.forget()
    house.wait(50)
    for moved, end_at in ((1, "2025-08-30T10:31:41Z"), (60, "2025-08-30T10:32:41Z")):
        result = house.do("extend_session", session_id=session_id, seconds=moved)
        assert result.expires_at == end_at
    assert result.ttl_seconds == 161
    told = house.do("get_session", session_id=session_id)
    assert (told.ttl_seconds, told.time_until_expiry, told.last_activity) == (161, 111, "2025-08-30T10:30:00Z")
    house.do("extend_session", session_id=session_id, seconds=10_000)
    assert house.do("get_session", session_id=session_id).time_until_expiry == 550  # idleness comes first


def test_where_there_is_no_absolute_end_none_is_moved(house: House) -> None:
    refusal = house.refused("extend_session", session_id=house.create(), seconds=1)
    assert (refusal.error_type, refusal.code) == ("SessionError", "no_ttl")


def test_an_absolute_end_can_be_moved_to_a_hundred_years_at_most(house: House) -> None:
    session_id = house.create(ttl_seconds=10)
    house.wait(9)
    refusal = house.refused("extend_session", session_id=session_id, seconds=MAX_TTL - 9)
    assert (refusal.code, refusal.details["parameter"]) == ("invalid_parameter", "seconds")
    # No `seconds` is wrong in itself: what they lead to is.
    assert str(refusal) == (
        f"seconds must be small enough: the absolute end may be {MAX_TTL} seconds after the creation, "
        "and not after the year 9999"
    )
    assert house.do("extend_session", session_id=session_id, seconds=MAX_TTL - 10).ttl_seconds == MAX_TTL


def test_an_absolute_end_that_has_come_cannot_be_moved(house: House) -> None:
    session_id = house.create(ttl_seconds=10)
    house.wait(10)
    assert house.refused("extend_session", session_id=session_id, seconds=10).code == "session_expired"


@pytest.mark.parametrize("remembered", [True, False])
def test_touching_counts_as_activity_and_nothing_else(house: House, remembered: bool) -> None:
    session_id = house.create(ttl_seconds=900)
    house.changes()
    house.wait(500)
    if not remembered:
        house.forget()
    before = everything(house, session_id)
    assert seen(house.do("touch_session", session_id=session_id)) == {
        "session_id": session_id,
        "last_activity": "2025-08-30T10:38:20Z",
        "expires_at": "2025-08-30T10:45:00Z",
    }
    assert house.changes() == [(Used, START + 500 * SECOND)]
    assert everything(house, session_id) == before | {
        "last_activity": "2025-08-30T10:38:20Z",
        "expires_at": "2025-08-30T10:45:00Z",
        "time_until_expiry": 400,
    }


# -- the pin


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_a_pinned_session_ends_and_is_kept(house: House, how: str) -> None:
    session_id = house.create()
    house.do("update_session", session_id=session_id, pin=True)
    end(house, session_id, how)
    house.forget()
    house.wait(1_000_000)
    house.sweep(session_id)
    assert [said[0] for said in house.changes()] == ([Ended] if how == "unnoticed" else [])
    told = house.do("get_session", session_id=session_id)
    assert (told.pinned, told.is_active) == (True, False)
    house.do("update_session", session_id=session_id, pin=False)
    house.sweep(session_id)
    assert [said[0] for said in house.changes()] == [Edited, Removed]


def test_a_pinned_session_is_marked_expired(house: House) -> None:
    session_id = house.create()
    house.do("update_session", session_id=session_id, pin=True)
    house.wait(600)
    house.sweep(session_id)
    assert house.session(session_id).status == EXPIRED
