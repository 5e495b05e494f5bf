"""Opening: new sessions, resumption, ids of the client's own."""

import re
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from stui_sessions.protocol.commands import COMMANDS
from stui_sessions.protocol.fields import STATE_OBJECTS
from stui_sessions.server.app import new_id
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import LIVE, About, Created, Session
from tests.sessions.around import WAYS_TO_END, end, restart, seen, status_of
from tests.sessions.house import SECOND, START, House

ODD_IDS = ["a", "\0", " ", "line\nline", "🧑‍🚀", "\u202eright", "ﬀ", "x" * 8192, "é" * 4096]


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600))


# -- what is told and kept


def test_opening_needs_nothing(house: House) -> None:
    assert seen(house.do("open_session")) == {
        "session_id": "session_1_1756549800_1",
        "client_id": None,
        "created_at": "2025-08-30T10:30:00Z",
        "last_modified": "2025-08-30T10:30:00Z",
        "timeout": 600,
        "is_active": True,
        **{name: {} for name in STATE_OBJECTS},
        "revision": 1,
        "session_resumed": False,
        "message": "Session created successfully",
        "user_id": None,
        "title": None,
        "tags": [],
        "metadata": {},
        "external_id": None,
        "last_activity": "2025-08-30T10:30:00Z",
        "expires_at": "2025-08-30T10:40:00Z",
    }


WHOLE: dict[str, Any] = {
    "client_id": "c",
    "user_id": "u",
    "session_id": "mine",
    "external_id": "x",
    "title": " T\x07itle ",
    "tags": ["b", "a", "b"],
    "metadata": {"m": 1},
    "timeout": 60,
    "ttl_seconds": 30,
    **{name: {name: 1} for name in STATE_OBJECTS},
}


@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_all_that_a_new_session_may_be_given_is_journaled(house: House, command: str) -> None:
    house.do(command, **WHOLE)
    about = About("u", "x", "Title", ("b", "a"), b'{"m":1}', START + 30 * SECOND)
    states = [b'{"%s":1}' % name.encode() for name in STATE_OBJECTS]
    expected = Session(1, "mine", "c", START, START, START, 60, 1, LIVE, 0, *states, about=about)
    assert house.commit() == [Created(expected)]
    assert house.session("mine") == expected


def test_all_that_a_new_session_may_be_given_is_told(house: House) -> None:
    result = seen(house.do("open_session", **WHOLE))
    told = WHOLE | {"title": "Title", "tags": ["b", "a"], "expires_at": "2025-08-30T10:30:30Z"}
    del told["ttl_seconds"]
    assert {name: result[name] for name in told} == told


def test_creating_needs_a_client_and_always_makes_a_new_one(house: House) -> None:
    assert set(COMMANDS["create_session"].required) == {"client_id"}
    optional = set(COMMANDS["open_session"].parameters) - set(COMMANDS["create_session"].parameters)
    assert optional == {"resume", "on_conflict"}
    assert house.create("me") != house.create("me")


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (UNSET, r"session_1_1756549800_\d{20,39}"),
        ("counter", r"session_1_1756549800_\d{20,39}"),
        ("timestamp", r"session_20250830_103000_[0-9a-f]{32}"),
        ("hex", r"session_[0-9a-f]{32}"),
    ],
)
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_the_forms_of_ids_that_the_server_makes(house: House, command: str, form: Any, shape: str) -> None:
    house.manager._new_id = new_id
    chosen = {} if form is UNSET else {"id_format": form}
    assert re.fullmatch(shape, house.do(command, client_id="me", **chosen).session_id)


# -- resuming


def test_the_most_recently_active_session_is_resumed(house: House) -> None:
    first = house.create("me", user_id="u", session_state={"a": 1})
    house.wait(10)
    house.do("open_session", client_id="me", user_id="u", resume=False)
    house.wait(10)
    house.do("update_session_state", session_id=first, state_data={"b": 2})
    house.wait(10)
    result = seen(house.do("open_session", client_id="me", user_id="u"))
    assert (result["session_id"], result["session_resumed"]) == (first, True)
    assert result["message"] == "Session resumed successfully"
    assert (result["session_state"], result["revision"]) == ({"a": 1, "b": 2}, 2)


def test_the_newest_is_resumed_where_all_were_used_at_the_same_instant(house: House) -> None:
    house.create()
    newest = house.create()
    assert house.do("open_session", client_id="me").session_id == newest


def test_resuming_counts_as_activity(house: House) -> None:
    session_id = house.create()
    for _ in range(3):
        house.wait(599)
        result = house.do("open_session", client_id="me")
        assert (result.session_id, result.session_resumed) == (session_id, True)
    assert house.session(session_id).active_at == house.wall
    assert result.last_activity == "2025-08-30T10:59:57Z"
    assert result.expires_at == "2025-08-30T11:09:57Z"
    assert result.last_modified == "2025-08-30T10:30:00Z"


def test_resuming_applies_nothing_of_the_request(house: House) -> None:
    session_id = house.create("c", user_id="u", title="old")
    before = house.session(session_id)
    given = {name: value for name, value in WHOLE.items() if name != "session_id"}
    result = house.do("open_session", **given)
    assert (result.session_id, result.session_resumed, result.title) == (session_id, True, "old")
    assert house.session(session_id) == before


@pytest.mark.parametrize(
    "asked",
    [
        {"client_id": "me", "user_id": "u", "resume": False},
        {"client_id": "other", "user_id": "u"},
        {"client_id": "me", "user_id": "v"},
        {"client_id": "me"},
        {"user_id": "u"},
        {},
    ],
)
def test_nothing_else_is_resumed(house: House, asked: dict[str, Any]) -> None:
    session_id = house.create("me", user_id="u")
    house.do("open_session", user_id="u")
    house.do("open_session")
    result = house.do("open_session", **asked)
    assert result.session_resumed is False
    assert result.session_id != session_id
    assert house.book.totals.live == 4


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_what_has_ended_is_not_resumed(house: House, how: str) -> None:
    session_id = house.create()
    end(house, session_id, how)
    result = house.do("open_session", client_id="me")
    assert (result.session_resumed, result.session_id == session_id) == (False, False)


def test_resuming_what_is_not_in_memory(house: House) -> None:
    kept = house.create(session_state={"a": 1})
    house.wait(1)
    house.do("close_session", session_id=house.create())
    house.forget_residents()
    result = seen(house.do("open_session", client_id="me"))
    assert (result["session_id"], result["session_state"]) == (kept, {"a": 1})


# -- an id of the client's own


@pytest.mark.parametrize("session_id", ODD_IDS)
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_is_used_as_it_is(house: House, command: str, session_id: str) -> None:
    assert house.do(command, client_id="me", session_id=session_id).session_id == session_id
    house.forget_residents()
    assert house.do("restore_session", session_id=session_id).session_id == session_id


def test_own_ids_are_case_sensitive_and_not_normalised(house: House) -> None:
    for session_id in ("id", "ID", "é", "e\u0301", "id "):
        house.do("open_session", session_id=session_id)
    assert house.book.totals.live == 5


@pytest.mark.parametrize("session_id", ["x" * 8193, "é" * 4097, "🧑" * 2049])
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_has_at_most_8_kib(house: House, command: str, session_id: str) -> None:
    refusal = house.refused(command, client_id="me", session_id=session_id)
    assert (refusal.code, refusal.details["parameter"]) == ("invalid_parameter", "session_id")
    assert len(refusal.text) < 200


@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_is_not_empty(command: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"client_id": "me", "session_id": ""}, COMMANDS[command].params)


def test_an_own_id_wins_over_resumption(house: House) -> None:
    house.create("me")
    result = house.do("open_session", client_id="me", session_id="mine", resume=True)
    assert (result.session_id, result.session_resumed) == ("mine", False)


OWNERS = {
    "same": {"client_id": "c", "user_id": "u"},
    "other client": {"client_id": "d", "user_id": "u"},
    "other user": {"client_id": "c", "user_id": "v"},
    "no user": {"client_id": "c"},
    "no client": {"user_id": "u"},
    "nobody": {},
}


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("mode", ["error", "reuse", "new"])
@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("how", ["live", *WAYS_TO_END])
def test_the_ways_in_which_an_id_can_be_taken(house: House, how: str, owner: str, mode: str, remembered: bool) -> None:
    house.do("open_session", session_id="mine", **OWNERS["same"])
    end(house, "mine", how)
    if not remembered:
        house.forget_residents()
    asked = {"session_id": "mine", "on_conflict": mode, "title": "asked", **OWNERS[owner]}
    if owner == "same" and mode != "error" and how == "live":
        house.wait(5)
        result = house.do("open_session", **asked)
        assert (result.session_id, result.session_resumed, result.title) == ("mine", True, None)
        assert house.session("mine").active_at == house.wall
        assert (result.was_collision, result.requested_session_id) == (UNSET, UNSET)
    elif owner != "same" and mode == "new":
        result = house.do("open_session", **asked)
        assert result.session_id.startswith("session_2_")
        assert (result.session_resumed, result.title) == (False, "asked")
        assert (result.was_collision, result.requested_session_id) == (True, "mine")
    else:
        refusal = house.refused("open_session", **asked)
        assert (refusal.error_type, refusal.code) == ("SessionError", "session_id_conflict")
        assert refusal.text == "Session ID already exists"


@pytest.mark.parametrize("mode", ["reuse", "new"])
def test_nobody_owns_what_has_neither_user_nor_client(house: House, mode: str) -> None:
    """Two that name neither are the same owner: who knows the id may have the session anyway."""
    house.do("open_session", session_id="mine")
    assert house.do("open_session", session_id="mine", on_conflict=mode).session_resumed is True


@pytest.mark.parametrize("mode", ["error", "reuse", "new"])
def test_a_free_id_is_given_whatever_the_mode(house: House, mode: str) -> None:
    result = house.do("open_session", session_id="mine", on_conflict=mode)
    assert (result.session_id, result.session_resumed) == ("mine", False)
    assert (result.was_collision, result.requested_session_id) == (UNSET, UNSET)


@pytest.mark.parametrize("how", ["live", *WAYS_TO_END])
def test_creating_with_a_taken_id_is_an_error_for_its_owner_too(house: House, how: str) -> None:
    house.create("me", session_id="mine")
    end(house, "mine", how)
    assert house.refused("create_session", client_id="me", session_id="mine").code == "session_id_conflict"
    house.forget_residents()
    assert house.refused("create_session", client_id="me", session_id="mine").code == "session_id_conflict"


@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_the_id_of_a_damaged_session_is_not_free(house: House, command: str) -> None:
    house.damaged.add("bad")
    assert house.refused(command, client_id="me", session_id="bad").code == "session_damaged"


def test_an_id_is_reserved_before_it_is_committed(house: House) -> None:
    house.do("open_session", session_id="mine")
    assert house.refused("open_session", session_id="mine").code == "session_id_conflict"
    house.fail_commit()
    assert house.refused("get_session", session_id="mine").code == "session_not_found"
    assert house.do("open_session", session_id="mine", title="second").title == "second"


# -- an id that is free again


@pytest.mark.parametrize("snapshot", [(), (1,), (2,), (1, 2), (1, 2, 3)])
def test_a_purged_id_can_be_opened_again(house: House, snapshot: tuple[int, ...]) -> None:
    """With snapshots after the first opening, the purge and the second opening, or without."""

    def done(step: int) -> None:
        house.commit()
        if step in snapshot:
            house.snapshot()

    house.do("open_session", session_id="mine", client_id="a", session_state={"old": 1})
    done(1)
    house.do("delete_session", session_id="mine", purge=True)
    done(2)
    result = seen(house.do("open_session", session_id="mine", client_id="b"))
    assert (result["session_resumed"], result["session_state"]) == (False, {})
    done(3)
    house.forget_residents()
    assert house.stored["mine"].number == 2
    assert house.do("list_client_sessions", client_id="a").session_count == 0
    assert house.do("list_client_sessions", client_id="b").session_count == 1


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("again", [True, False])
def test_a_purged_id_after_a_crash(house: House, stored: bool, again: bool) -> None:
    house.do("open_session", session_id="mine", client_id="a", external_id="x")
    journal = house.commit()
    if stored:
        house.snapshot()
        journal = []
    house.do("delete_session", session_id="mine", purge=True)
    if again:
        house.do("open_session", session_id="mine", client_id="b")
    restart(house, journal + house.commit())
    assert house.do("list_client_sessions", client_id="a").session_count == 0
    assert house.refused("get_session", external_id="x").code == "session_not_found"
    if again:
        assert status_of(house, "mine") == "live"
        assert house.do("list_client_sessions", client_id="b").session_count == 1
    else:
        house.do("open_session", session_id="mine", client_id="c", external_id="x")
    house.forget_residents()
    assert house.stored["mine"].number == 2


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_purge_and_an_opening_that_could_not_be_committed(house: House, snapshot: bool) -> None:
    house.do("open_session", session_id="mine", title="first")
    house.commit()
    if snapshot:
        house.snapshot()
    house.do("delete_session", session_id="mine", purge=True)
    house.do("open_session", session_id="mine", title="second")
    house.fail_commit()
    assert house.do("get_session", session_id="mine").title == "first"
    assert house.book.removed["purged"] == 0
    assert house.book.residents.sessions["mine"].gone == ()
    house.forget_residents()
    assert house.stored["mine"].about.title == "first"
