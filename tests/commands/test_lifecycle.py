"""The table of what leads from one state to another, walked through with the commands themselves."""

from collections.abc import Callable
from typing import Any, get_args

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE, Session, session_key
from stui_sessions.domain.lifecycle import AFTER, REMOVED, STATUS_NAMES, Event, after
from stui_sessions.errors import CODES, Refusal
from tests.commands.around import end, seen
from tests.commands.house import House

MINE = session_key("", "mine")
KEEP = 1000
TTL = 5000

BY_COMMAND: dict[Event, list[tuple[str, dict[str, Any]]]] = {
    "use": [
        ("restore_session", {}),
        ("touch_session", {}),
        ("update_session_state", {"state_data": {"a": 1}}),
        ("update_session_state", {"workspace_context": {"a": 1}}),
    ],
    "edit": [
        ("update_session", {"title": "t"}),
        ("update_session", {"tags": ["t"]}),
        ("update_session", {"metadata": {"m": 1}}),
        ("update_session", {"external_id": "x"}),
        ("update_session", {"timeout": 99}),
        ("update_session", {"ttl_seconds": 9999}),
        ("update_session", {"pin": True, "title": "t"}),
        ("update_session", {}),
        ("update_session_title", {"title": "t"}),
        ("extend_session", {"seconds": 1}),
    ],
    "pin": [("update_session", {"pin": True}), ("update_session", {"pin": False})],
    "close": [("close_session", {})],
    "delete": [("delete_session", {}), ("delete_session", {"purge": False})],
    "undelete": [("undelete_session", {})],
    "purge": [("delete_session", {"purge": True})],
}
"""What clients do; the other two events are the sweeper's."""

TELLING = {"get_session", "get_session_info", "validate_session"}
STATES = ["live", "expired", "unnoticed", "closed", "deleted"]
CASES = [
    (event, command, parameters, how)
    for event, commands in BY_COMMAND.items()
    for command, parameters in commands
    for how in STATES
]


def status(how: str) -> int:
    return STATUS_NAMES.index("expired" if how == "unnoticed" else how)


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=100, keep_expired=KEEP))


def real_status(house: House) -> int:
    """As any client is told."""
    if house.do("validate_session", session_id="mine").reason == "not_found":
        assert house.refused("get_session", session_id="mine").code == "session_not_found"
        return REMOVED
    told = house.do("get_session", session_id="mine")
    assert told.is_active == (told.status == "live") == house.do("validate_session", session_id="mine").valid
    assert (told.ended_at is None) == (told.status == "live")
    assert (told.expires_at is None) == (told.status in ("closed", "deleted"))
    assert (told.time_until_expiry > 0) == (told.status == "live")
    return STATUS_NAMES.index(told.status)


def walk(house: House, event: Event, how: str, act: Callable[[], Any]) -> None:
    before = real_status(house)
    assert before == status(how)
    whole = seen(house.do("get_session", session_id="mine", include=["state"]))
    outcome = AFTER[event][before]
    if isinstance(outcome, str):
        with pytest.raises(Refusal) as caught:
            act()
        assert caught.value.code == outcome
        assert '"mine"' in caught.value.text
        assert seen(house.do("get_session", session_id="mine", include=["state"])) == whole
    else:
        act()
        assert real_status(house) == outcome
    totals = [0, 0, 0, 0]
    if isinstance(house.stored[MINE], Session):
        totals[house.session("mine").status] = 1
    assert list(house.counts()) == totals


# -- the table


def test_the_table_has_a_field_for_each_event_and_state() -> None:
    assert list(AFTER) == list(get_args(Event))
    for event, row in AFTER.items():
        assert sorted(row) == [LIVE, EXPIRED, CLOSED, DELETED], event
    assert STATUS_NAMES == ("live", "expired", "closed", "deleted")


def test_every_refusal_of_the_table_is_an_error_code_with_a_text() -> None:
    for event, row in AFTER.items():
        for before, outcome in row.items():
            if isinstance(outcome, str):
                assert CODES[outcome].error_type == "SessionNotFound"
                with pytest.raises(Refusal, match='"mine"') as caught:
                    after(event, before, "mine")
                assert caught.value.code == outcome
                assert caught.value.details == {"status": STATUS_NAMES[before]}
                assert "undelete_session" in caught.value.text
            else:
                assert after(event, before, "mine") == outcome


def test_every_command_for_one_session_is_an_event_or_only_tells() -> None:
    on_one = {c.name for c in REGISTRY if c.by_position[:1] == ("session_id",)}
    assert on_one == TELLING | {command for commands in BY_COMMAND.values() for command, _ in commands}
    assert set(BY_COMMAND) == set(AFTER) - {"expire", "remove"}


# -- the commands


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize(("event", "command", "parameters", "how"), CASES)
def test_a_command_does_what_the_table_says(
    house: House, event: Event, command: str, parameters: dict[str, Any], how: str, remembered: bool
) -> None:
    house.create("me", session_id="mine", ttl_seconds=TTL, session_state={"a": 0})
    end(house, "mine", how)
    if not remembered:
        house.forget()
    walk(house, event, how, lambda: house.do(command, session_id="mine", **parameters))


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("how", STATES)
def test_the_sweeper_expires_what_the_table_says(house: House, how: str, remembered: bool) -> None:
    house.create("me", session_id="mine")
    end(house, "mine", how)
    if not remembered:
        house.forget()
    if how != "live":
        walk(house, "expire", how, lambda: house.sweep("mine"))
        return
    house.wait(99.999)
    house.sweep("mine")
    assert real_status(house) == LIVE
    house.wait(0.001)
    house.sweep("mine")
    assert real_status(house) == house.session("mine").status == AFTER["expire"][LIVE]


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("how", STATES)
def test_the_sweeper_removes_what_the_table_says(house: House, how: str, remembered: bool) -> None:
    house.create("me", session_id="mine", timeout=100 if how != "live" else KEEP + 101)
    end(house, "mine", how)
    if not remembered:
        house.forget()
    house.wait(KEEP - 0.001)
    house.sweep("mine")
    assert real_status(house) == status(how)
    house.wait(0.001)
    walk(house, "remove", how, lambda: house.sweep("mine"))


@pytest.mark.parametrize("how", STATES)
def test_a_purged_session_is_known_to_no_command(house: House, how: str) -> None:
    house.create("me", session_id="mine")
    end(house, "mine", how)
    house.do("delete_session", session_id="mine", purge=True)
    for command, parameters in [c for commands in BY_COMMAND.values() for c in commands]:
        assert house.refused(command, session_id="mine", **parameters).code == "session_not_found"
    assert house.do("validate_session", session_id="mine").reason == "not_found"
    house.sweep("mine")
    house.do("open_session", session_id="mine")


@pytest.mark.parametrize("how", STATES[1:])
def test_what_has_ended_takes_no_place(house: House, how: str) -> None:
    house.world.rules = Rules(max_sessions_per_client=1, default_timeout=100)
    house.create("me", session_id="mine", external_id="x")
    assert house.refused("create_session", client_id="me").code == "session_limit_reached"
    end(house, "mine", how)
    house.create("me", external_id="x")
