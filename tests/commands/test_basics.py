"""What each command decides.  `House.decide` also checks that whatever raised has changed nothing."""

import json
from typing import Any

import pytest
from msgspec import UNSET, Raw, to_builtins
from msgspec.structs import replace

from stui_sessions.commands import PROTOCOL_VERSION, REGISTRY
from stui_sessions.commands.operating import ServerStatistics
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import CLOSED, EXPIRED, LIVE, SessionData, data_of
from stui_sessions.domain.records import Created, Ended, Removed, Updated, Used
from stui_sessions.protocol.describe import describe
from stui_sessions.protocol.fields import STATE_OBJECTS
from tests.commands.house import SECOND, START, House

LIMITS = {
    "max_message_bytes": 2_097_152,
    "max_depth": 128,
    "max_state_bytes": 1_048_576,
    "max_metadata_bytes": 16_384,
    "default_timeout": 600,
    "open_timeout": 2_592_000,
    "max_timeout": 31_536_000,
    "default_ttl": 0,
    "keep_expired": 604_800,
    "max_sessions_per_client": 5,
    "max_sessions_per_user": 10,
    "create_rate": 0,
}
ENDED_COMMANDS = [("restore_session", {}), ("update_session_state", {"state_data": {"a": 1}})]


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=600))


def plain(result: Any) -> Any:
    """A result as a client sees it."""
    fields = {name: getattr(result, name) for name in result.__struct_fields__}
    return {
        name: json.loads(bytes(v)) if isinstance(v, Raw) else to_builtins(v)
        for name, v in fields.items()
        if v is not UNSET
    }


# -- create_session


def test_create_gives_the_fields_of_the_contract(house: House) -> None:
    result = house.do("create_session", client_id="client_001")
    assert plain(result) == {
        "session_id": "session_1_1756549800_1",
        "client_id": "client_001",
        "created_at": "2025-08-30T10:30:00Z",
        "timeout": 600,
        "is_active": True,
        "revision": 1,
    }


def test_create_is_journaled_whole(house: House) -> None:
    session_id = house.create("me", timeout=5, session_state={"a": 1})
    expected = SessionData(1, session_id, "me", START, START, START, 5, 1, LIVE, 0, b'{"a":1}', b"{}", b"{}", b"{}")
    assert house.changes() == [(Created, expected)]
    assert data_of(house.session(session_id)) == expected


def test_a_session_can_be_born_with_its_state(house: House) -> None:
    states = {name: {name: 1.5} for name in STATE_OBJECTS}
    restored = plain(house.do("restore_session", session_id=house.create(**states)))
    assert {name: restored[name] for name in STATE_OBJECTS} == states


@pytest.mark.parametrize("timeout", [1, 599, 601, 31_536_000])
def test_a_timeout_of_its_own(house: House, timeout: int) -> None:
    session_id = house.create(timeout=timeout)
    assert house.do("get_session_info", session_id=session_id).time_until_expiry == timeout


@pytest.mark.parametrize("timeout", [31_536_001, 10**30])
def test_a_timeout_over_the_maximum_is_no_allowed_value(house: House, timeout: int) -> None:
    refusal = house.refused("create_session", client_id="me", timeout=timeout)
    assert refusal.code == "invalid_parameter"
    assert refusal.details["parameter"] == "timeout"
    assert "31536000" in refusal.text


def test_a_client_that_the_lists_keep_out() -> None:
    house = House(allow=["a*"], deny=["ab*"])
    assert house.refused("create_session", client_id="x").code == "client_not_allowed"
    assert house.refused("create_session", client_id="abc").code == "client_not_allowed"
    house.create("ac")


def test_lists_are_for_creating_and_not_for_using() -> None:
    house = House(deny=["me"])
    house.put(SessionData(1, "old", "me", START, START, START, 600))
    house.do("update_session_state", session_id="old", state_data={"a": 1})


# -- the limit


def test_the_limit_counts_live_sessions_of_one_client() -> None:
    house = House(Rules(max_sessions_per_client=2))
    house.create("me")
    house.create("me")
    refusal = house.refused("create_session", client_id="me")
    assert refusal.code == "session_limit_reached"
    assert refusal.details == {"limit": 2}
    house.create("another")


def test_a_closed_session_frees_its_place_at_once() -> None:
    house = House(Rules(max_sessions_per_client=1))
    house.do("close_session", session_id=house.create())
    house.create()


def test_an_expired_session_frees_its_place_before_the_sweeper_has_passed() -> None:
    house = House(Rules(max_sessions_per_client=1))
    house.create(timeout=10)
    house.wait(9.999)
    assert house.refused("create_session", client_id="me").code == "session_limit_reached"
    house.wait(0.001)
    house.create()


def test_the_limit_holds_over_sessions_that_are_not_in_memory() -> None:
    house = House(Rules(max_sessions_per_client=3))
    for _ in range(3):
        house.create()
    house.forget()
    assert house.refused("create_session", client_id="me").code == "session_limit_reached"
    assert house.loaded() == ["o", "sss"]


def test_below_the_limit_a_clients_sessions_are_not_loaded() -> None:
    house = House(Rules(max_sessions_per_client=3))
    house.create()
    house.forget()
    house.create()
    assert house.loaded() == ["o"]


def test_a_damaged_session_takes_no_place() -> None:
    house = House(Rules(max_sessions_per_client=1))
    session_id = house.create()
    house.forget()
    house.damage(session_id)
    house.create()


def test_a_lower_limit_closes_nothing() -> None:
    house = House(Rules(max_sessions_per_client=3))
    ids = [house.create() for _ in range(3)]
    house.world.rules = Rules(max_sessions_per_client=1)
    assert house.refused("create_session", client_id="me").details == {"limit": 1}
    assert house.do("list_client_sessions", client_id="me").session_count == 3
    house.do("restore_session", session_id=ids[0])


# -- the rate


def test_creating_too_fast_says_when_to_try_again() -> None:
    house = House(Rules(max_sessions_per_client=100), per_minute=2)
    house.create()
    house.create()
    refusal = house.refused("create_session", client_id="me")
    assert refusal.code == "create_rate_exceeded"
    assert refusal.details == {"limit": 2, "retry_after": 30}
    house.wait(30)
    house.create()
    house.refused("create_session", client_id="me")


def test_what_was_refused_takes_nothing_from_the_rate() -> None:
    house = House(Rules(max_sessions_per_client=1), per_minute=2)
    first = house.create()
    for _ in range(10):
        assert house.refused("create_session", client_id="me").code == "session_limit_reached"
    house.do("close_session", session_id=first)
    house.create()


def test_the_rate_means_the_monotonic_clock() -> None:
    house = House(per_minute=1)
    house.create()
    house.wall += 10**9
    assert house.refused("create_session", client_id="me").code == "create_rate_exceeded"


# -- restore_session


def test_restore_gives_the_fields_of_the_contract(house: House) -> None:
    session_id = house.create("client_001", session_state={"a": 1})
    house.wait(300)
    house.do("update_session_state", session_id=session_id, workspace_context={"b": 2})
    house.wait(300)
    assert plain(house.do("restore_session", session_id=session_id)) == {
        "session_id": session_id,
        "client_id": "client_001",
        "created_at": "2025-08-30T10:30:00Z",
        "last_modified": "2025-08-30T10:35:00Z",
        "timeout": 600,
        "is_active": True,
        "session_state": {"a": 1},
        "workspace_context": {"b": 2},
        "inspector_state": {},
        "object_registry": {},
        "revision": 2,
    }


def test_restore_starts_the_idle_time_again_and_changes_nothing_else(house: House) -> None:
    session_id = house.create()
    before = house.session(session_id)
    for _ in range(5):
        house.wait(599)
        house.do("restore_session", session_id=session_id)
    after = house.session(session_id)
    assert after.active_at == house.wall
    assert after.modified_at == START
    assert after.revision == 1
    assert (after.created_at, after.session_state) == (before.created_at, before.session_state)


# -- activity alone is soft


def test_activity_is_recorded_once_per_slack(house: House) -> None:
    session_id = house.create(timeout=100)  # slack 10 s
    house.changes()
    recorded = []
    for _ in range(25):
        house.wait(1)
        house.do("restore_session", session_id=session_id)
        recorded += house.changes()
    assert recorded == [(Used, START + 10 * SECOND), (Used, START + 20 * SECOND)]


def test_the_slack_is_to_the_millisecond(house: House) -> None:
    session_id = house.create(timeout=600)
    house.changes()
    house.wait(59.999)
    house.do("restore_session", session_id=session_id)
    assert house.changes() == []
    house.wait(0.001)
    house.do("restore_session", session_id=session_id)
    assert house.changes() == [(Used, START + 60 * SECOND)]


def test_an_update_records_activity_too(house: House) -> None:
    session_id = house.create(timeout=100)
    house.wait(9)
    house.do("update_session_state", session_id=session_id, state_data={})
    house.changes()
    house.wait(9)
    house.do("restore_session", session_id=session_id)
    assert house.changes() == []


def test_a_use_waits_for_its_record_only_where_a_kill_would_shorten_the_life(house: House) -> None:
    session_id = house.create()
    created = house.commit
    house.wait(59.999)
    house.do("touch_session", session_id=session_id)
    assert house.draft is not None
    assert (house.draft.changes, house.commit) == ([], created)
    house.wait(0.001)
    house.do("touch_session", session_id=session_id)
    assert house.commit == created + 1


def test_where_the_disk_refuses_a_use_succeeds_and_promises_what_is_recorded(house: House) -> None:
    session_id = house.create(timeout=100)
    house.changes()
    house.forgiving = True
    for seconds in range(1, 15):
        house.wait(1)
        result = house.do("touch_session", session_id=session_id)
        assert result.last_activity == f"2025-08-30T10:30:{seconds:02}Z"
        promised = min(seconds, 10)  # the slack is what a start after a crash gives back
        assert result.expires_at == f"2025-08-30T10:31:{40 + promised}Z"
    assert house.changes() == []
    assert house.do("get_session", session_id=session_id).expires_at == "2025-08-30T10:31:50Z"
    assert house.do("get_session_info", session_id=session_id).time_until_expiry == 100
    house.forgiving = False
    assert house.do("touch_session", session_id=session_id).expires_at == "2025-08-30T10:31:54Z"
    assert house.changes() == [(Used, house.wall)]


def test_reading_information_is_no_use(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(500)
    house.do("get_session_info", session_id=session_id)
    house.do("list_client_sessions", client_id="me")
    house.do("get_session_statistics")
    assert house.changes() == []
    assert house.session(session_id).active_at == START
    house.wait(100)
    assert house.refused("restore_session", session_id=session_id).code == "session_expired"


# -- update_session_state


def test_update_gives_the_fields_of_the_contract(house: House) -> None:
    session_id = house.create(session_state={"a": 1, "b": 2})
    house.wait(900 - 600)
    result = house.do("update_session_state", session_id=session_id, state_data={"b": None, "c": [3]})
    assert plain(result) == {
        "session_id": session_id,
        "last_modified": "2025-08-30T10:35:00Z",
        "session_state": {"a": 1, "b": None, "c": [3]},
        "update_successful": True,
        "revision": 2,
    }


PARAMETER_OF = {"session_state": "state_data"} | {name: name for name in STATE_OBJECTS[1:]}


@pytest.mark.parametrize("name", STATE_OBJECTS)
def test_merge_sets_the_keys_that_are_named_and_keeps_the_others(house: House, name: str) -> None:
    session_id = house.create(**{o: {"keep": o, "old": 1.5} for o in STATE_OBJECTS})
    house.do("update_session_state", session_id=session_id, **{PARAMETER_OF[name]: {"old": None, "new": {}}})
    restored = plain(house.do("restore_session", session_id=session_id))
    for o in STATE_OBJECTS:
        named = {"keep": o, "old": None, "new": {}}
        assert restored[o] == (named if o == name else {"keep": o, "old": 1.5})


@pytest.mark.parametrize("name", STATE_OBJECTS)
def test_replace_replaces_what_is_named_and_touches_nothing_else(house: House, name: str) -> None:
    session_id = house.create(**{o: {"keep": o} for o in STATE_OBJECTS})
    house.do("update_session_state", session_id=session_id, mode="replace", **{PARAMETER_OF[name]: {"new": 1}})
    restored = plain(house.do("restore_session", session_id=session_id))
    assert {o: restored[o] for o in STATE_OBJECTS} == {o: {"keep": o} for o in STATE_OBJECTS} | {name: {"new": 1}}


@pytest.mark.parametrize("mode", ["merge", "replace"])
def test_all_four_objects_in_one_update(house: House, mode: str) -> None:
    session_id = house.create(**{o: {"a": 0} for o in STATE_OBJECTS})
    new = {o: {o: 1} for o in STATE_OBJECTS}
    house.do("update_session_state", session_id=session_id, mode=mode, **{PARAMETER_OF[o]: new[o] for o in new})
    restored = plain(house.do("restore_session", session_id=session_id))
    for o in STATE_OBJECTS:
        assert restored[o] == (new[o] if mode == "replace" else {"a": 0} | new[o])
    assert restored["revision"] == 2


@pytest.mark.parametrize("given", [{"state_data": {"b": 2}}, {"inspector_state": {"i": 1}}])
def test_a_brief_reply_leaves_the_state_out_and_saves_it_all_the_same(house: House, given: dict[str, Any]) -> None:
    session_id, other = (house.create(session_state={"a": 1}) for _ in range(2))
    full = plain(house.do("update_session_state", session_id=other, reply="full", **given))
    brief = plain(house.do("update_session_state", session_id=session_id, reply="brief", **given))
    assert "session_state" in full
    assert brief == {k: v for k, v in full.items() if k != "session_state"} | {"session_id": session_id}
    mine, others = (plain(house.do("restore_session", session_id=i)) for i in (session_id, other))
    assert {o: mine[o] for o in STATE_OBJECTS} == {o: others[o] for o in STATE_OBJECTS}


def test_state_data_may_be_left_out_but_not_all_four(house: House) -> None:
    session_id = house.create(session_state={"a": 1})
    result = house.do("update_session_state", session_id=session_id, object_registry={"x": 1})
    assert plain(result)["session_state"] == {"a": 1}
    refusal = house.refused("update_session_state", session_id=session_id)
    assert refusal.code == "missing_parameter"
    assert refusal.details["parameter"] == "state_data"
    assert house.refused("update_session_state", session_id=session_id, mode="replace").code == "missing_parameter"


def test_what_is_recorded_is_the_patch_that_was_accepted(house: House) -> None:
    session_id = house.create(session_state={"a": 1}, inspector_state={"i": 1})
    house.changes()
    house.wait(1)
    house.do("update_session_state", session_id=session_id, state_data={"b": 2}, inspector_state={"i": 2})
    assert house.changes() == [(Updated, 2, False, b'{"b":2}', None, b'{"i":2}', None)]
    assert house.session(session_id).session_state == b'{"a":1,"b":2}'
    house.do("update_session_state", session_id=session_id, state_data={"c": 3}, mode="replace")
    assert house.changes() == [(Updated, 3, True, b'{"c":3}', None, None, None)]
    assert house.session(session_id).session_state == b'{"c":3}'


def test_each_accepted_update_adds_one_to_the_revision_and_nothing_else_does(house: House) -> None:
    session_id = house.create()
    for revision in range(2, 6):
        result = house.do("update_session_state", session_id=session_id, state_data={})
        assert result.revision == revision
    house.refused("update_session_state", session_id=session_id)
    house.do("restore_session", session_id=session_id)
    assert house.do("get_session_info", session_id=session_id).revision == 5
    assert house.do("list_client_sessions", client_id="me").sessions[0].revision == 5
    assert house.do("close_session", session_id=session_id).revision == 5
    assert house.do("get_session_info", session_id=session_id).revision == 5


def test_an_update_moves_last_modified_and_the_idle_time(house: House) -> None:
    session_id = house.create()
    house.wait(599)
    house.do("update_session_state", session_id=session_id, state_data={})
    info = house.do("get_session_info", session_id=session_id)
    assert info.last_modified == "2025-08-30T10:39:59Z"
    assert info.time_until_expiry == 600


def test_what_is_saved_is_restored_to_the_letter(house: House) -> None:
    text = '{"n":-0,"m":1.10,"big":%s,"é":"\U0001f600","":[ ]}' % ("1" * 40)
    session_id = house.create(session_state=text.encode())
    assert bytes(house.do("restore_session", session_id=session_id).session_state) == text.encode()
    house.do("update_session_state", session_id=session_id, state_data=b'{"x":1e2}')
    restored = bytes(house.do("restore_session", session_id=session_id).session_state)
    assert restored == text.encode()[:-1] + b',"x":1e2}'


# -- max_state_bytes


def test_the_four_objects_together_are_bounded_when_created() -> None:
    house = House(Rules(max_state_bytes=40))
    house.create(session_state=b'{"a":"' + b"x" * 26 + b'"}')  # 34 + 3 * 2 = 40
    refusal = house.refused("create_session", client_id="me", session_state=b'{"a":"' + b"x" * 27 + b'"}')
    assert refusal.code == "state_too_large"
    assert refusal.details == {"limit": 40, "size": 41}
    assert house.refused("create_session", client_id="me", **{o: {"a": 100_000} for o in STATE_OBJECTS}).details == {
        "limit": 40,
        "size": 48,
    }


@pytest.mark.parametrize("name", STATE_OBJECTS)
def test_merging_cannot_pass_the_bound(name: str) -> None:
    house = House(Rules(max_state_bytes=40))
    session_id = house.create(**{name: b'{"a":"' + b"x" * 19 + b'"}'})  # 27 + 3 * 2 = 33
    patch = {PARAMETER_OF[name]: b'{"b":12}'}  # adds 7
    house.do("update_session_state", session_id=session_id, **patch)
    refusal = house.refused("update_session_state", session_id=session_id, **{PARAMETER_OF[name]: b'{"b":123}'})
    assert refusal.code == "state_too_large"
    assert refusal.details == {"limit": 40, "size": 41}
    assert house.do("get_session_info", session_id=session_id).revision == 2


def test_at_the_bound_a_session_can_still_shrink_and_change() -> None:
    house = House(Rules(max_state_bytes=20))
    session_id = house.create(session_state={"a": 1234567})  # 15
    house.world.rules = Rules(max_state_bytes=15)
    house.refused("update_session_state", session_id=session_id, state_data={"b": 1})
    house.do("update_session_state", session_id=session_id, mode="replace", state_data={"b": 12})
    house.do("update_session_state", session_id=session_id, state_data={"b": 13})


# -- close_session


def test_close(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(60)
    result = house.do("close_session", session_id=session_id)
    assert plain(result) == {"session_id": session_id, "closed": True, "revision": 1}
    assert house.changes() == [(Ended, CLOSED, START + 60 * SECOND)]
    info = plain(house.do("get_session_info", session_id=session_id))
    assert (info["is_active"], info["is_expired"], info["time_until_expiry"]) == (False, False, 0)


def test_closing_again_changes_nothing(house: House) -> None:
    session_id = house.create()
    house.do("close_session", session_id=session_id)
    house.changes()
    before = house.session(session_id)
    house.wait(10_000)
    assert house.do("close_session", session_id=session_id).closed
    assert house.changes() == []
    assert house.session(session_id) == before


def test_closing_an_expired_session_changes_nothing(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(600)
    assert house.do("close_session", session_id=session_id).closed
    assert house.changes() == []
    assert plain(house.do("get_session_info", session_id=session_id))["is_expired"] is True


def test_closing_a_session_of_a_client_that_is_not_in_memory(house: House) -> None:
    session_id = house.create()
    house.forget()
    house.do("close_session", session_id=session_id)
    assert house.loaded() == ["s", "o"]
    assert house.do("list_client_sessions", client_id="me").session_count == 0


# -- ended sessions


@pytest.mark.parametrize(("command", "parameters"), ENDED_COMMANDS)
def test_a_closed_session_cannot_be_used(house: House, command: str, parameters: dict[str, Any]) -> None:
    session_id = house.create()
    house.do("close_session", session_id=session_id)
    house.wait(10_000)  # also past its timeout it is closed, not expired
    refusal = house.refused(command, session_id=session_id, **parameters)
    assert (refusal.code, refusal.error_type) == ("session_closed", "SessionNotFound")


@pytest.mark.parametrize(("command", "parameters"), ENDED_COMMANDS)
def test_an_expired_session_cannot_be_used(house: House, command: str, parameters: dict[str, Any]) -> None:
    session_id = house.create()
    house.wait(600)
    refusal = house.refused(command, session_id=session_id, **parameters)
    assert (refusal.code, refusal.error_type) == ("session_expired", "SessionNotFound")
    house.sweep(session_id)
    assert house.refused(command, session_id=session_id, **parameters).code == "session_expired"


@pytest.mark.parametrize("command", ["restore_session", "update_session_state", "close_session", "get_session_info"])
def test_a_session_that_does_not_exist(house: House, command: str) -> None:
    parameters = {"state_data": {}} if command == "update_session_state" else {}
    refusal = house.refused(command, session_id="nobody\n" * 100, **parameters)
    assert (refusal.code, refusal.error_type) == ("session_not_found", "SessionNotFound")
    assert len(refusal.text) < 200


@pytest.mark.parametrize("command", ["restore_session", "update_session_state", "close_session", "get_session_info"])
def test_a_damaged_session_fails_alone(house: House, command: str) -> None:
    house.damage("bad")
    parameters = {"state_data": {}} if command == "update_session_state" else {}
    refusal = house.refused(command, session_id="bad", **parameters)
    assert (refusal.code, refusal.error_type) == ("session_damaged", "RuntimeError")


# -- get_session_info


def test_info_gives_the_fields_of_the_contract(house: House) -> None:
    session_id = house.create("client_001")
    house.wait(90.2)
    assert plain(house.do("get_session_info", session_id=session_id)) == {
        "session_id": session_id,
        "client_id": "client_001",
        "created_at": "2025-08-30T10:30:00Z",
        "last_modified": "2025-08-30T10:30:00Z",
        "timeout": 600,
        "is_active": True,
        "time_until_expiry": 510,
        "is_expired": False,
        "revision": 1,
    }


@pytest.mark.parametrize(("passed", "left", "expired"), [(599.999, 1, False), (600, 0, True), (10_000, 0, True)])
def test_info_round_the_instant_of_expiry(house: House, passed: float, left: int, expired: bool) -> None:
    session_id = house.create()
    house.wait(passed)
    info = house.do("get_session_info", session_id=session_id)
    assert (info.time_until_expiry, info.is_expired, info.is_active) == (left, expired, not expired)


def test_with_the_clock_set_back_a_session_stays_live(house: House) -> None:
    session_id = house.create()
    house.wall -= 86_400_000
    info = house.do("get_session_info", session_id=session_id)
    assert (info.time_until_expiry, info.is_active) == (600, True)
    house.do("restore_session", session_id=session_id)
    assert house.do("update_session_state", session_id=session_id, state_data={"a": 1}).revision == 2


# -- list_client_sessions


def test_a_list_holds_a_clients_live_sessions_the_oldest_first(house: House) -> None:
    ids = []
    for _ in range(3):
        ids.append(house.create("me"))
        house.wait(100)
    house.create("another")
    house.do("close_session", session_id=ids.pop(1))
    house.do("restore_session", session_id=ids[0])
    result = plain(house.do("list_client_sessions", client_id="me"))
    assert result["client_id"] == "me"
    assert result["session_count"] == 2
    assert [s["session_id"] for s in result["sessions"]] == ids
    assert result["sessions"][1] == {
        "session_id": ids[1],
        "created_at": "2025-08-30T10:33:20Z",
        "last_modified": "2025-08-30T10:33:20Z",
        "timeout": 600,
        "is_active": True,
        "time_until_expiry": 500,
        "revision": 1,
    }


def test_a_client_that_nobody_knows_has_no_sessions(house: House) -> None:
    assert plain(house.do("list_client_sessions", client_id="x")) == {
        "client_id": "x",
        "session_count": 0,
        "sessions": [],
    }


def test_expired_sessions_are_not_listed_though_no_sweeper_has_passed(house: House) -> None:
    house.create(timeout=10)
    kept = house.create(timeout=20)
    house.wait(10)
    result = house.do("list_client_sessions", client_id="me")
    assert [s.session_id for s in result.sessions] == [kept]


def test_a_list_over_sessions_that_are_not_in_memory_is_the_same(house: House) -> None:
    for _ in range(3):
        house.create()
    before = plain(house.do("list_client_sessions", client_id="me"))
    house.forget()
    assert plain(house.do("list_client_sessions", client_id="me")) == before


# -- get_session_statistics, ping, describe


def test_statistics(house: House) -> None:
    a = house.create("a")
    house.create("a")
    b = house.create("b")
    assert plain(house.do("get_session_statistics")) == {
        "total_sessions": 3,
        "active_clients": 2,
        "max_sessions_per_client": 5,
        "default_timeout": 600,
        "cleanup_interval": 300,
        "sessions_by_status": {"live": 3, "expired": 0, "closed": 0, "deleted": 0},
        "removed_by_reason": {"expired": 0, "closed": 0, "deleted": 0, "purged": 0, "replaced": 0},
        "sweeper": {"runs": 0, "last_run": None},
        "server": dict.fromkeys(ServerStatistics.__struct_fields__, 0)
        | {
            "storage": {
                **{"kind": "memory", "fsync": False},
                **{"synchronous_commit": None, "synchronous_standbys": None},
            }
        },
        "limits": LIMITS,
    }
    house.do("close_session", session_id=b)
    house.do("close_session", session_id=b)
    house.do("close_session", session_id=a)
    result = house.do("get_session_statistics")
    assert (result.total_sessions, result.active_clients) == (1, 1)
    assert plain(result)["sessions_by_status"] == {"live": 1, "expired": 0, "closed": 2, "deleted": 0}


def test_statistics_count_the_expired_until_the_sweeper_has_passed(house: House) -> None:
    session_id = house.create()
    house.wait(600)
    assert house.do("get_session_statistics").total_sessions == 1
    house.sweep(session_id)
    result = house.do("get_session_statistics")
    assert (result.total_sessions, result.active_clients) == (0, 0)


def test_ping(house: House) -> None:
    assert plain(house.do("ping")) == plain(house.do("ping", storage=True)) == {"pong": True}
    assert house.changes() == []


def test_describe(house: House) -> None:
    whole, part = house.do("describe"), house.do("describe", command="ping")
    assert (whole.protocol_version, whole.contract) == (PROTOCOL_VERSION, describe(REGISTRY))
    assert part.contract == describe(REGISTRY, "ping")
    assert to_builtins(whole.limits) == to_builtins(part.limits) == LIMITS
    assert house.refused("describe", command="pong").code == "unknown_command"
    assert house.changes() == []


def test_the_limits_that_are_told_are_those_that_hold() -> None:
    rules = Rules(*(3, 4), default_timeout=5, open_timeout=50, max_timeout=60, default_ttl=7, keep_expired=8)
    house = House(replace(rules, max_state_bytes=90, max_message_bytes=100, max_depth=11), per_minute=12)
    told = to_builtins(house.do("describe").limits)
    assert (
        told
        == to_builtins(house.do("get_session_statistics").limits)
        == {
            "max_message_bytes": 100,
            "max_depth": 11,
            "max_state_bytes": 90,
            "max_metadata_bytes": 16_384,
            "default_timeout": 5,
            "open_timeout": 50,
            "max_timeout": 60,
            "default_ttl": 7,
            "keep_expired": 8,
            "max_sessions_per_client": 3,
            "max_sessions_per_user": 4,
            "create_rate": 12,
        }
    )
    assert house.do("open_session").timeout == 50
    house.create()
    assert house.do("list_client_sessions", client_id="me").sessions[0].timeout == 5


# -- sweeping


def test_sweeping_leaves_the_living_alone(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(599.999)
    house.sweep(session_id)
    assert house.changes() == []


def test_sweeping_marks_the_expired_with_the_instant_of_their_end(house: House) -> None:
    session_id = house.create()
    house.changes()
    house.wait(5000)
    house.sweep(session_id)
    assert house.changes() == [(Ended, EXPIRED, START + 600 * SECOND)]
    assert house.session(session_id).status == EXPIRED


@pytest.mark.parametrize("ending", ["closed", "expired"])
def test_ended_sessions_stay_known_for_as_long_as_they_are_kept(ending: str) -> None:
    house = House(Rules(default_timeout=600, keep_expired=100))
    session_id = house.create()
    house.wait(600)
    if ending == "closed":
        house.wall -= 1
        house.do("close_session", session_id=session_id)
    else:
        house.sweep(session_id)
    house.changes()
    house.wait(99.998)
    house.sweep(session_id)
    assert house.changes() == []
    house.do("get_session_info", session_id=session_id)
    house.wait(0.002)
    house.sweep(session_id)
    assert house.changes() == [(Removed, 1, ending)]
    assert house.refused("get_session_info", session_id=session_id).code == "session_not_found"


def test_after_a_long_downtime_one_sweep_expires_and_removes() -> None:
    house = House(Rules(default_timeout=600, keep_expired=100))
    session_id = house.create()
    house.changes()
    house.wait(700)
    house.sweep(session_id)
    assert house.changes() == [(Ended, EXPIRED, START + 600 * SECOND), (Removed, 1, "expired")]
    assert house.counts() == (0, 0, 0, 0)


def test_sweeping_what_is_gone_or_damaged_does_nothing(house: House) -> None:
    house.damage("bad")
    house.sweep("never")
    house.sweep("bad")
    assert house.changes() == []


def test_grace_after_an_unclean_stop() -> None:
    house = House(uncertain_until=START + 1000)
    house.put(SessionData(1, "old", "me", START, START, START, 600))
    house.wait(600 + 59)
    house.do("restore_session", session_id="old")
    house.wait(600)
    assert house.refused("restore_session", session_id="old").code == "session_expired"
