"""Telling: one session, whether it can be used, what a reference means."""

from typing import Any

import msgspec
import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.looking import ResolveParams, resolve_session
from stui_sessions.domain.draft import Draft, Rules
from stui_sessions.domain.entities import Absent, Session, session_key
from stui_sessions.domain.finding import Found, Reference
from stui_sessions.errors import Refusal
from stui_sessions.protocol.fields import STATE_OBJECTS
from tests.commands.around import WAYS_TO_END, end, seen
from tests.commands.house import House

BY_NAME: list[tuple[str, dict[str, Any]]] = [
    ("restore_session", {}),
    ("update_session_state", {"state_data": {}}),
    ("close_session", {}),
    ("get_session_info", {}),
    ("get_session", {}),
    ("get_session", {"include": ["state"]}),
    ("validate_session", {}),
    ("touch_session", {}),
    ("update_session_title", {"title": "t"}),
    ("extend_session", {"seconds": 1}),
    ("delete_session", {}),
    ("delete_session", {"purge": True}),
    ("undelete_session", {}),
]
"""The commands that only name a session."""


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600))


# -- get_session


def test_everything_about_a_session_but_its_state(house: House) -> None:
    session_id = house.create(
        "c",
        user_id="u",
        external_id="x",
        title="T",
        tags=["b", "a"],
        metadata={"m": 1},
        ttl_seconds=1000,
        session_state={"a": 1},
    )
    house.wait(100)
    house.do("update_session_state", session_id=session_id, state_data={"b": 22})
    house.wait(50)
    house.do("touch_session", session_id=session_id)
    house.do("update_session", session_id=session_id, pin=True)
    house.wait(450)
    told = {
        "session_id": session_id,
        "client_id": "c",
        "user_id": "u",
        "external_id": "x",
        "title": "T",
        "tags": ["b", "a"],
        "metadata": {"m": 1},
        "status": "live",
        "is_active": True,
        "created_at": "2025-08-30T10:30:00Z",
        "last_modified": "2025-08-30T10:31:40Z",
        "last_activity": "2025-08-30T10:32:30Z",
        "ended_at": None,
        "expires_at": "2025-08-30T10:42:30Z",
        "time_until_expiry": 150,
        "timeout": 600,
        "ttl_seconds": 1000,
        "pinned": True,
        "revision": 2,
        "state_bytes": len('{"a":1,"b":22}') + 3 * len("{}"),
        "metadata_bytes": len('{"m":1}'),
    }
    assert seen(house.do("get_session", session_id=session_id)) == told
    house.forget()
    assert seen(house.do("get_session", session_id=session_id)) == told
    states: dict[str, Any] = {name: {} for name in STATE_OBJECTS} | {"session_state": {"a": 1, "b": 22}}
    assert seen(house.do("get_session", session_id=session_id, include=["state"])) == told | states
    assert seen(house.do("get_session", session_id=session_id, include=[])) == told


@pytest.mark.parametrize(
    ("how", "status", "ended_at", "expires_at"),
    [
        ("closed", "closed", "2025-08-30T10:30:01Z", None),
        ("deleted", "deleted", "2025-08-30T10:30:01Z", None),
        ("expired", "expired", "2025-08-30T10:40:00Z", "2025-08-30T10:40:00Z"),
        ("unnoticed", "expired", "2025-08-30T10:40:00Z", "2025-08-30T10:40:00Z"),
    ],
)
@pytest.mark.parametrize("remembered", [True, False])
def test_what_has_ended_is_told_with_its_state(
    house: House, how: str, status: str, ended_at: str, expires_at: str | None, remembered: bool
) -> None:
    session_id = house.create(session_state={"a": 1})
    house.wait(1)
    end(house, session_id, how)
    house.wait(1)
    if not remembered:
        house.forget()
    told = seen(house.do("get_session", session_id=session_id, include=["state"]))
    assert (told["status"], told["is_active"]) == (status, False)
    assert (told["ended_at"], told["expires_at"], told["time_until_expiry"]) == (ended_at, expires_at, 0)
    assert told["session_state"] == {"a": 1}


def test_asking_is_no_activity_and_changes_nothing(house: House) -> None:
    session_id = house.create(external_id="x", title="T")
    house.changes()
    house.wait(599)
    for command, p in [("get_session", {}), ("get_session_info", {}), ("validate_session", {})]:
        house.do(command, session_id=session_id, **p)
        house.do(command, external_id="x", **p)
    for ref in (session_id, session_id[:10], "x", "T"):
        house.do("resolve_session", ref=ref)
    house.do("list_sessions")
    assert house.changes() == []
    house.wait(1)
    assert house.refused("restore_session", session_id=session_id).code == "session_expired"


# -- validate_session


@pytest.mark.parametrize("how", WAYS_TO_END)
@pytest.mark.parametrize("remembered", [True, False])
def test_why_a_session_cannot_be_used(house: House, how: str, remembered: bool) -> None:
    session_id = house.create()
    assert seen(house.do("validate_session", session_id=session_id)) == {
        "session_id": session_id,
        "valid": True,
        "reason": None,
    }
    end(house, session_id, how)
    if not remembered:
        house.forget()
    reason = "expired" if how == "unnoticed" else how
    assert seen(house.do("validate_session", session_id=session_id)) == {
        "session_id": session_id,
        "valid": False,
        "reason": reason,
    }


def test_asking_for_what_nobody_knows_is_no_error(house: House) -> None:
    house.damage("bad")
    answers = [
        seen(house.do("validate_session", **names))
        for names in ({"session_id": "x"}, {"external_id": "x"}, {"external_id": "x", "user_id": "u"})
    ]
    assert [(a["session_id"], a["valid"], a["reason"]) for a in answers] == [
        ("x", False, "not_found"),
        (None, False, "not_found"),
        (None, False, "not_found"),
    ]
    assert house.do("validate_session", session_id="bad").reason == "damaged"


def test_asking_for_nothing_or_for_several_is_an_error(house: House) -> None:
    assert house.refused("validate_session").code == "missing_parameter"
    house.create("a", user_id="u", external_id="x")
    house.create("a", user_id="v", external_id="x")
    assert house.refused("validate_session", external_id="x").code == "external_id_ambiguous"


# -- naming by the external id


def test_all_commands_that_only_name_a_session_are_here() -> None:
    assert {name for name, _ in BY_NAME} == {c.name for c in REGISTRY if c.names_session}
    for name in ("open_session", "create_session", "update_session"):
        assert not REGISTRY[name].names_session


@pytest.mark.parametrize("user", [{}, {"user_id": "u"}])
@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(("command", "parameters"), BY_NAME)
def test_a_session_can_be_named_by_its_external_id(
    command: str, parameters: dict[str, Any], user: dict[str, str], remembered: bool
) -> None:
    answers = []
    for names in ({"session_id": "mine"}, {"external_id": "x", **user}):
        house = House()
        house.create(user_id="u", session_id="mine", external_id="x", ttl_seconds=1000)
        house.create(user_id="u", external_id="X")
        if user:
            house.create(user_id="v", external_id="x")
        if not remembered:
            house.forget()
        answers.append(seen(house.do(command, **names, **parameters)))
    assert answers[0] == answers[1]
    assert answers[0]["session_id"] == "mine"


@pytest.mark.parametrize(("command", "parameters"), BY_NAME)
@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({}, "missing_parameter"),
        ({"user_id": "u"}, "missing_parameter"),
        ({"session_id": "s", "user_id": "u"}, "invalid_parameter"),
        ({"session_id": "s", "external_id": "x"}, "invalid_parameter"),
        ({"session_id": "s", "external_id": "x", "user_id": "u"}, "invalid_parameter"),
        ({"external_id": "x"}, "external_id_ambiguous"),
        ({"external_id": "x", "user_id": "nobody"}, "session_not_found"),
        ({"external_id": "nothing", "user_id": "u"}, "session_not_found"),
        ({"external_id": "nothing"}, "session_not_found"),
    ],
)
def test_ways_to_name_no_session(
    house: House, command: str, parameters: dict[str, Any], names: dict[str, str], code: str
) -> None:
    house.create(user_id="u", session_id="s", external_id="x")
    house.create(user_id="v", external_id="x")
    house.forget()
    if command == "validate_session" and code == "session_not_found":
        assert house.do(command, **names).reason == "not_found"
    else:
        assert house.refused(command, **names, **parameters).code == code


@pytest.mark.parametrize("how", WAYS_TO_END)
@pytest.mark.parametrize("remembered", [True, False])
def test_an_external_id_names_live_sessions_alone(house: House, how: str, remembered: bool) -> None:
    session_id = house.create(user_id="u", external_id="x")
    end(house, session_id, how)
    other = house.create(user_id="v", external_id="x")
    if not remembered:
        house.forget()
    assert house.do("get_session", external_id="x").session_id == other
    assert house.refused("get_session", external_id="x", user_id="u").code == "session_not_found"


def test_an_external_id_may_be_anything(house: House) -> None:
    session_id = house.create(external_id="\0 🧑\n")
    house.forget()
    assert house.do("touch_session", external_id="\0 🧑\n").session_id == session_id


@pytest.mark.parametrize("user", [{}, {"user_id": "u"}])
def test_an_external_id_that_was_moved_before_a_crash(user: dict[str, str]) -> None:
    """The store still has the first session under it: what was journaled goes first."""
    house = House()
    first, second = (house.create("me", user_id="u", external_id=x) for x in ("x", "y"))
    house.forget()
    house.do("update_session", session_id=first, external_id="z")
    house.crash()
    assert house.do("get_session", external_id="z", **user).session_id == first
    assert house.refused("get_session", external_id="x", **user).code == "session_not_found"
    house.do("update_session", session_id=second, external_id="x")
    house.crash()
    assert house.do("get_session", external_id="x", **user).session_id == second
    assert house.refused("create_session", client_id="c", user_id="u", external_id="x").code == "external_id_conflict"
    house.create("c", user_id="u", external_id="y")


# -- resolve_session


@pytest.mark.parametrize("remembered", [True, False])
def test_a_reference_is_an_id_a_prefix_an_external_id_or_a_title(remembered: bool) -> None:
    house = House()
    house.create(session_id="abcdef-1", external_id="ext", title="The title")
    house.create(session_id="zzzzzz-1")
    if not remembered:
        house.forget()
    expected = seen(house.do("get_session", session_id="abcdef-1"))
    for ref in ("abcdef-1", "abcdef-", "abcdef", "ext", "The title"):
        assert seen(house.do("resolve_session", ref=ref)) == expected
    for ref in ("abcde", "bcdef-1", "ABCDEF", "abcdef-11", "Ext", "ex", "the title", "The titl", "nothing"):
        assert house.refused("resolve_session", ref=ref).code == "session_not_found"


def test_a_whole_id_is_no_prefix_of_another(house: House) -> None:
    for session_id in ("abcdef", "abcdef-2", "a"):
        house.create(session_id=session_id, title="abcdef")
    assert house.do("resolve_session", ref="abcdef").session_id == "abcdef"
    assert house.do("resolve_session", ref="a").session_id == "a"
    assert house.do("resolve_session", ref="abcdef-").session_id == "abcdef-2"


@pytest.mark.parametrize("remembered", [True, False])
def test_several_are_told_and_none_is_guessed(remembered: bool) -> None:
    house = House(Rules(max_sessions_per_client=100))
    for n in range(12):
        house.create(session_id=f"prefix-{n:02}", title="same", user_id=f"u{n}", external_id="ext")
        house.wait(1)
    if not remembered:
        house.forget()
    for ref in ("prefix-", "same", "ext"):
        refusal = house.refused("resolve_session", ref=ref)
        assert (refusal.error_type, refusal.code) == ("SessionError", "reference_ambiguous")
        assert refusal.details["candidates"] == [
            {"session_id": f"prefix-{n:02}", "title": "same", "client_id": "me"} for n in range(11, 1, -1)
        ]
    assert house.do("resolve_session", ref="prefix-1" + "1").session_id == "prefix-11"


def test_what_matches_in_different_ways_is_ambiguous_too(house: House) -> None:
    house.create(session_id="abcdef-1")
    house.create(title="abcdef")
    house.create(external_id="abcdef")
    assert len(house.refused("resolve_session", ref="abcdef").details["candidates"]) == 3


def test_what_matches_in_several_ways_is_one_match(house: House) -> None:
    house.create(session_id="abcdef-1", title="abcdef", external_id="abcdef")
    assert house.do("resolve_session", ref="abcdef").session_id == "abcdef-1"


@pytest.mark.parametrize("how", WAYS_TO_END)
@pytest.mark.parametrize("remembered", [True, False])
def test_references_to_what_has_ended(house: House, how: str, remembered: bool) -> None:
    """By its id always; by a prefix unless it was deleted; by its names no more."""
    house.create(session_id="abcdef-1", external_id="ext", title="T")
    end(house, "abcdef-1", how)
    if not remembered:
        house.forget()
    assert house.do("resolve_session", ref="abcdef-1").status == ("expired" if how == "unnoticed" else how)
    for ref in ("ext", "T", *(["abcdef"] if how == "deleted" else [])):
        assert house.refused("resolve_session", ref=ref).code == "session_not_found"
    if how != "deleted":
        assert house.do("resolve_session", ref="abcdef").session_id == "abcdef-1"
    live = house.create(external_id="ext", title="T")
    for ref in ("ext", "T"):
        assert house.do("resolve_session", ref=ref).session_id == live


def test_a_reference_to_a_damaged_session(house: House) -> None:
    house.damage("bad")
    assert house.refused("resolve_session", ref="bad").code == "session_damaged"


def test_what_is_shorter_than_any_prefix_can_still_be_a_name(house: House) -> None:
    session_id = house.create(title="T")
    assert house.do("resolve_session", ref="T").session_id == session_id
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"ref": ""}, REGISTRY["resolve_session"].params)


def test_of_many_that_may_be_meant_the_most_recently_active_are_told() -> None:
    house = House(Rules(max_sessions_per_client=100))
    made = []
    for _ in range(25):
        made.append(house.create(title="same"))
        house.wait(1)
    house.do("touch_session", session_id=made[3])
    house.do("close_session", session_id=made[24])
    for _ in range(2):
        refusal = house.refused("resolve_session", ref="same")
        told = [candidate["session_id"] for candidate in refusal.details["candidates"]]
        assert told == [made[3], *made[23:14:-1]]
        house.forget()


def draft_that_was_told(house: House, rows: list[Session]) -> Draft:
    """To look for what is called "same", the store having found `rows`."""
    answers = {Reference("", "", "same", "same"): (Found(rows), house.commit)}
    row = REGISTRY["resolve_session"]
    memory = {**house.memory, session_key("", "same"): Absent(session_key("", "same"))}
    return Draft(house.world, memory, house.commit + 1, row, house.caller, house.now, answers)


def test_what_a_reference_means_is_looked_at_again(house: House) -> None:
    """What the store tells is older than what this request sees."""
    first, second = house.create(title="same"), house.create(title="same")
    rows = [house.session(i) for i in (first, second)]
    house.do("update_session", session_id=first, title="other")
    assert resolve_session(draft_that_was_told(house, rows), ResolveParams("same")).session_id == second


def test_what_may_be_meant_is_told_in_the_order_of_now(house: House) -> None:
    """The order of the store is that of its rows, which are older."""
    made = [house.create(title="same") for _ in range(3)]  # in one instant: the later one comes first
    rows = [house.session(i) for i in made]
    house.wait(1)
    house.do("touch_session", session_id=made[1])
    with pytest.raises(Refusal) as caught:
        resolve_session(draft_that_was_told(house, rows), ResolveParams("same"))
    assert [c["session_id"] for c in caught.value.details["candidates"]] == [made[1], made[2], made[0]]
