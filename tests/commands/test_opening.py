"""Opening: new sessions, resumption, ids of the client's own."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.draft import Draft, Rules
from stui_sessions.domain.entities import EXPIRED as EXPIRED_STATUS
from stui_sessions.domain.entities import LIVE, About, SessionData, data_of
from stui_sessions.domain.finding import Found, Listing
from stui_sessions.domain.manager import last_expired
from stui_sessions.domain.records import Created, Reopened
from stui_sessions.domain.times import format_instant
from stui_sessions.protocol.fields import STATE_OBJECTS
from tests.commands.around import WAYS_TO_END, end, seen, status_of
from tests.commands.house import SECOND, START, House

ODD_IDS = ["a", "\0", " ", "line\nline", "🧑‍🚀", "\u202eright", "ﬀ", "x" * 8192, "é" * 4096]


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600, open_timeout=600))


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
    expected = SessionData(1, "mine", "c", START, START, START, 60, 1, LIVE, 0, *states, about=about)
    assert house.changes() == [(Created, expected)]
    assert data_of(house.session("mine")) == expected


def test_all_that_a_new_session_may_be_given_is_told(house: House) -> None:
    result = seen(house.do("open_session", **WHOLE))
    told = WHOLE | {"title": "Title", "tags": ["b", "a"], "expires_at": "2025-08-30T10:30:30Z"}
    del told["ttl_seconds"]
    assert {name: result[name] for name in told} == told


def test_creating_needs_a_client_and_always_makes_a_new_one(house: House) -> None:
    assert set(REGISTRY["create_session"].required) == {"client_id"}
    optional = set(REGISTRY["open_session"].parameters) - set(REGISTRY["create_session"].parameters)
    assert optional == {"resume", "revive", "on_conflict"}
    assert house.create("me") != house.create("me")


@pytest.mark.parametrize(("form", "kind"), [(UNSET, "session"), ("counter", "session"), ("timestamp", "timestamp"),
                                            ("hex", "hex")])  # fmt: skip
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_the_form_of_an_id_that_the_server_makes(house: House, command: str, form: Any, kind: str) -> None:
    """The house makes ids that tell the form; how real ones look is told where they are made."""
    chosen = {} if form is UNSET else {"id_format": form}
    assert house.do(command, client_id="me", **chosen).session_id == f"{kind}_1_1756549800_1"


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
    assert house.counts()[0] == 4


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
    house.forget()
    result = seen(house.do("open_session", client_id="me"))
    assert (result["session_id"], result["session_state"]) == (kept, {"a": 1})


# -- an id of the client's own


@pytest.mark.parametrize("session_id", ODD_IDS)
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_is_used_as_it_is(house: House, command: str, session_id: str) -> None:
    assert house.do(command, client_id="me", session_id=session_id).session_id == session_id
    house.forget()
    assert house.do("restore_session", session_id=session_id).session_id == session_id


def test_own_ids_are_case_sensitive_and_not_normalised(house: House) -> None:
    for session_id in ("id", "ID", "é", "e\u0301", "id "):
        house.do("open_session", session_id=session_id)
    assert house.counts()[0] == 5


@pytest.mark.parametrize("session_id", ["x" * 8193, "é" * 4097, "🧑" * 2049])
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_has_at_most_8_kib(house: House, command: str, session_id: str) -> None:
    refusal = house.refused(command, client_id="me", session_id=session_id)
    assert (refusal.code, refusal.details["parameter"]) == ("invalid_parameter", "session_id")
    assert len(refusal.text) < 200


@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_own_id_is_not_empty(command: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"client_id": "me", "session_id": ""}, REGISTRY[command].params)


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
        house.forget()
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
        assert refusal.text.startswith("Session ID already exists")
        assert ("undelete_session" in refusal.text) == (how != "live")
        assert refusal.details == {"status": "expired" if how == "unnoticed" else how}


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
    house.forget()
    assert house.refused("create_session", client_id="me", session_id="mine").code == "session_id_conflict"


@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_the_id_of_a_damaged_session_is_not_free(house: House, command: str) -> None:
    house.damage("bad")
    assert house.refused(command, client_id="me", session_id="bad").code == "session_damaged"


# -- an id that is free again


@pytest.mark.parametrize("forgotten", [(), (1,), (2,), (1, 2), (1, 2, 3)])
def test_a_purged_id_can_be_opened_again(house: House, forgotten: tuple[int, ...]) -> None:
    """With an empty memory after the first opening, the purge and the second opening, or without."""

    def done(step: int) -> None:
        if step in forgotten:
            house.forget()

    house.do("open_session", session_id="mine", client_id="a", external_id="x", session_state={"old": 1})
    done(1)
    house.do("delete_session", session_id="mine", purge=True)
    done(2)
    result = seen(house.do("open_session", session_id="mine", client_id="b"))
    assert (result["session_resumed"], result["session_state"]) == (False, {})
    done(3)
    assert house.session("mine").number == 2
    assert house.refused("get_session", external_id="x").code == "session_not_found"
    assert house.do("list_client_sessions", client_id="a").session_count == 0
    assert house.do("list_client_sessions", client_id="b").session_count == 1


# -- after expiry: what helps, and revival

OWNER = {"client_id": "c", "user_id": "u"}


def expired(house: House, how: str, **parameters: Any) -> str:
    """A session that has expired, noticed or not."""
    session_id = str(house.do("open_session", resume=False, **parameters).session_id)
    end(house, session_id, how)
    return session_id


EXPIRED = pytest.mark.parametrize("how", ["expired", "unnoticed"])
REMEMBERED = pytest.mark.parametrize("remembered", [True, False])


@EXPIRED
@REMEMBERED
@pytest.mark.parametrize("mode", ["error", "reuse", "new"])
def test_an_expired_session_of_ones_own_is_revived_by_its_id(
    house: House, how: str, remembered: bool, mode: str
) -> None:
    expired(house, how, session_id="mine", title="T", external_id="x", session_state={"a": 1}, **OWNER)
    if not remembered:
        house.forget()
    result = seen(house.do("open_session", session_id="mine", revive=True, on_conflict=mode, title="no", **OWNER))
    assert (result["session_id"], result["session_resumed"], result["session_revived"]) == ("mine", True, True)
    assert (result["title"], result["session_state"], result["revision"]) == ("T", {"a": 1}, 1)
    assert result["last_activity"] == format_instant(house.wall)
    assert result["expires_at"] == format_instant(house.wall + 600 * SECOND)
    assert "expired_session_id" not in result
    assert [record[0] for record in house.changes()][-1] is Reopened
    assert house.do("get_session", external_id="x", user_id="u").session_id == "mine"


@EXPIRED
def test_only_an_expired_session_and_only_ones_own_is_revived(house: House, how: str) -> None:
    expired(house, how, session_id="mine", **OWNER)
    asked = {"session_id": "mine", "revive": True}
    for other in (OWNERS["other client"], OWNERS["other user"], OWNERS["nobody"]):
        assert house.refused("open_session", **asked, **other).details == {"status": "expired"}
        assert house.do("open_session", **asked, **other, on_conflict="new").was_collision is True
    house.do("undelete_session", session_id="mine")
    assert house.refused("open_session", **asked, **OWNER).details == {"status": "live"}
    for command, status in (("close_session", "closed"), ("delete_session", "deleted")):
        house.do(command, session_id="mine")
        refusal = house.refused("open_session", **asked, **OWNER)
        assert (refusal.code, refusal.details) == ("session_id_conflict", {"status": status})
        assert "undelete_session" in refusal.text
    assert house.do("open_session", session_id="free", revive=True, **OWNER).session_resumed is False


@REMEMBERED
@pytest.mark.parametrize("owner", [{"client_id": "c"}, OWNER, {"user_id": "u"}])
def test_the_most_recently_active_expired_session_is_revived(
    house: House, owner: dict[str, str], remembered: bool
) -> None:
    noticed, later, other = (house.do("open_session", resume=False, **owner).session_id for _ in range(3))
    house.wait(1)
    for session_id in (noticed, later):
        house.do("touch_session", session_id=session_id)
    house.do("close_session", session_id=other)
    house.do("open_session", client_id="elsewhere", user_id="u")
    house.wait(600)
    house.sweep(noticed)  # the other one has expired and nobody has noticed
    if not remembered:
        house.forget()
    for expected in (later, noticed):
        result = house.do("open_session", resume=False, revive=True, **owner)
        assert (result.session_id, result.session_revived) == (expected, True)
    result = house.do("open_session", resume=False, revive=True, **owner)
    assert result.session_resumed is False
    assert result.session_id not in (noticed, later, other)


def test_a_live_session_goes_before_an_expired_one(house: House) -> None:
    expired(house, "expired", **OWNER)
    live = house.do("open_session", **OWNER).session_id
    result = house.do("open_session", revive=True, **OWNER)
    assert (result.session_id, result.session_revived) == (live, UNSET)


def test_nobody_has_sessions_that_could_be_revived(house: House) -> None:
    expired(house, "expired")
    result = house.do("open_session", revive=True)
    assert (result.session_resumed, result.expired_session_id) == (False, UNSET)


@EXPIRED
@REMEMBERED
def test_a_new_session_names_the_expired_one_that_is_kept(house: House, how: str, remembered: bool) -> None:
    lost = expired(house, how, **OWNER)
    if not remembered:
        house.forget()
    for asked in ({}, {"session_id": "mine"}, {"resume": False}):
        result = house.do("open_session", **OWNER, **asked)
        assert (result.session_resumed, result.expired_session_id) == (False, lost)
        house.do("close_session", session_id=result.session_id)
    assert house.do("open_session", client_id="c").expired_session_id is UNSET
    assert house.do("open_session", user_id="u").expired_session_id is UNSET
    house.do("delete_session", session_id=lost)
    assert house.do("open_session", **OWNER).expired_session_id is UNSET


def test_what_is_resumed_names_no_expired_one(house: House) -> None:
    expired(house, "expired", **OWNER)
    house.do("open_session", **OWNER)
    assert house.do("open_session", **OWNER).expired_session_id is UNSET


def test_what_the_store_has_told_is_looked_at_again(house: House) -> None:
    """It has expired in the store, and somebody has brought it back since the store was asked."""
    lost = expired(house, "expired", **OWNER)
    told = house.session(lost)
    house.do("undelete_session", session_id=lost)
    house.do("close_session", session_id=lost)
    listing = Listing("", EXPIRED_STATUS, "last_activity", True, 1, client_id="c", user_id="u")
    answers = {listing: (Found([told]), house.commit)}
    draft = Draft(
        house.world, house.memory, house.commit + 1, REGISTRY["open_session"], house.caller, house.now, answers
    )
    assert last_expired(draft, "u", "c") is None


@pytest.mark.parametrize("policy", ["reject", "evict_oldest"])
@pytest.mark.parametrize("by_id", [True, False])
def test_a_revival_needs_a_place(policy: Any, by_id: bool) -> None:
    house = House(Rules(max_sessions_per_client=1, on_limit=policy, open_timeout=600))
    lost = expired(house, "expired", **OWNER)
    live = house.do("open_session", resume=False, **OWNER).session_id
    asked = {"revive": True, "resume": False, **({"session_id": lost} if by_id else {}), **OWNER}
    if policy == "reject":
        assert house.refused("open_session", **asked).code == "session_limit_reached"
        return
    result = house.do("open_session", **asked)
    assert (result.session_id, result.evicted_session_id) == (lost, live)
    assert status_of(house, live) == "closed"


def test_a_revival_needs_its_external_id(house: House) -> None:
    expired(house, "expired", external_id="x", **OWNER)
    house.do("open_session", client_id="d", user_id="u", external_id="x")
    assert house.refused("open_session", revive=True, **OWNER).code == "external_id_conflict"


def test_a_revival_takes_nothing_from_the_rate() -> None:
    house = House(Rules(open_timeout=600), per_minute=1)
    lost = expired(house, "expired", **OWNER)
    house.wall += 1
    house.monotonic -= 600  # as if no time had passed
    assert house.do("open_session", revive=True, **OWNER).session_id == lost
    assert house.refused("open_session", resume=False, **OWNER).code == "create_rate_exceeded"
