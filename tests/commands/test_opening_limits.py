"""Opening: lifetimes, limits, rates, external ids; all that can stand in the way of a new session."""

from typing import Any

import pytest
from msgspec import UNSET

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.opening import OpenParams, open_session
from stui_sessions.domain.caller import Caller
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.records import Created, Ended
from tests.commands.around import WAYS_TO_END, end, ids, status_of
from tests.commands.house import House

BOTH = pytest.mark.parametrize("command", ["open_session", "create_session"])


def make(house: House, command: str, **parameters: Any) -> Any:
    return house.do(command, client_id="me", **parameters, **({"resume": False} if command == "open_session" else {}))


# -- lifetimes


@BOTH
def test_how_long_a_session_lives_whose_creator_does_not_say(command: str) -> None:
    house = House()
    session_id = make(house, command).session_id
    told = house.do("get_session", session_id=session_id)
    timeout, end_at = {
        "create_session": (3600, "2025-08-30T11:30:00Z"),
        "open_session": (2_592_000, "2025-09-29T10:30:00Z"),
    }[command]
    assert (told.timeout, told.ttl_seconds, told.expires_at) == (timeout, None, end_at)


def test_the_default_ttl_is_for_open_session_alone() -> None:
    house = House(Rules(default_ttl=100))
    opened, created = make(house, "open_session").session_id, make(house, "create_session").session_id
    assert house.do("get_session", session_id=opened).ttl_seconds == 100
    assert house.do("get_session", session_id=created).ttl_seconds is None


@BOTH
def test_a_ttl_of_its_own_goes_before_the_default(command: str) -> None:
    house = House(Rules(default_ttl=100))
    session_id = make(house, command, ttl_seconds=7).session_id
    assert house.do("get_session", session_id=session_id).expires_at == "2025-08-30T10:30:07Z"


def test_the_timeout_slides_and_the_ttl_does_not() -> None:
    house = House()
    session_id = house.create(timeout=60, ttl_seconds=100)
    told = []
    for _ in range(3):
        got = house.do("get_session", session_id=session_id)
        told.append((got.time_until_expiry, got.expires_at[-3:-1]))
        house.wait(30)
        house.do("touch_session", session_id=session_id)
    assert told == [(60, "00"), (60, "30"), (40, "40")]
    house.wait(9.999)
    assert house.do("get_session_info", session_id=session_id).time_until_expiry == 1
    house.wait(0.001)
    assert house.refused("touch_session", session_id=session_id).code == "session_expired"
    assert house.do("get_session", session_id=session_id).ended_at == "2025-08-30T10:31:40Z"


@BOTH
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"timeout": 31_536_001}, "invalid_parameter"),
        ({"title": "\x00"}, "title_unprintable"),
        ({"title": "  "}, "empty_parameter"),
        ({"title": "x" * 61}, "invalid_parameter"),
        ({"metadata": {"m": "x" * 16_384}}, "metadata_too_large"),
        ({"session_state": {"m": "x" * 1_048_576}}, "state_too_large"),
    ],
)
def test_what_a_new_session_may_not_be_given(command: str, wrong: dict[str, Any], code: str) -> None:
    house = House()
    assert house.refused(command, client_id="me", **wrong).code == code
    assert house.changes() == []


# -- limits


def test_sessions_without_a_client_count_for_their_user() -> None:
    house = House(Rules(max_sessions_per_user=2))
    house.do("open_session", user_id="u", client_id="c")
    for _ in range(2):
        house.do("open_session", user_id="u")
    refusal = house.refused("open_session", user_id="u")
    assert (refusal.code, refusal.details) == ("session_limit_reached", {"limit": 2})
    house.do("open_session", user_id="v")
    house.do("open_session", user_id="u", client_id="d")
    house.forget()
    assert house.refused("open_session", user_id="u").code == "session_limit_reached"


def test_the_limits_are_5_for_a_client_and_10_for_a_user() -> None:
    house = House()
    for _ in range(5):
        house.create("me", user_id="u")
    assert house.refused("create_session", client_id="me", user_id="u").details == {"limit": 5}
    for _ in range(10):
        house.do("open_session", user_id="u")
    assert house.refused("open_session", user_id="u").details == {"limit": 10}


def test_the_limit_of_a_client_is_for_each_user_apart() -> None:
    house = House(Rules(max_sessions_per_client=1))
    for user_id in (UNSET, "u", "v"):
        house.create("me", user_id=user_id)
        assert house.refused("create_session", client_id="me", user_id=user_id).code == "session_limit_reached"


def test_sessions_that_nobody_owns_are_not_limited() -> None:
    house = House(Rules(max_sessions_per_client=1, max_sessions_per_user=1))
    for _ in range(30):
        house.do("open_session")


def test_resuming_needs_no_room() -> None:
    house = House(Rules(max_sessions_per_client=1, on_limit="evict_oldest"))
    session_id = house.create()
    result = house.do("open_session", client_id="me")
    assert (result.session_id, result.evicted_session_id) == (session_id, UNSET)


@BOTH
def test_the_least_recently_active_session_makes_room(command: str) -> None:
    house = House(Rules(max_sessions_per_client=3, on_limit="evict_oldest"))
    first, second, third = (house.create("me") for _ in range(3))
    other = house.create("you")
    house.wait(1)
    house.do("restore_session", session_id=first)
    house.forget()
    house.wait(1)
    result = make(house, command)
    assert result.evicted_session_id == second
    assert house.session(second).ended_at == house.wall
    assert [said[0] for said in house.changes()] == [Ended, Created]
    assert [status_of(house, i) for i in (first, second, third, other)] == ["live", "closed", "live", "live"]
    assert house.counts() == (4, 0, 1, 0)


def test_the_least_recently_active_session_of_a_user_makes_room() -> None:
    house = House(Rules(max_sessions_per_user=1, on_limit="evict_oldest"))
    kept = house.do("open_session", user_id="u", client_id="c").session_id
    first = house.do("open_session", user_id="u").session_id
    assert house.do("open_session", user_id="u").evicted_session_id == first
    assert status_of(house, kept) == "live"


def test_below_the_limit_nobody_is_evicted() -> None:
    house = House(Rules(max_sessions_per_client=2, on_limit="evict_oldest"))
    expired = house.create(timeout=1)
    house.create()
    house.wait(1)
    assert make(house, "open_session").evicted_session_id is UNSET
    assert status_of(house, expired) == "expired"


def test_a_limit_of_0_lets_nobody_in_and_evicts_nobody() -> None:
    house = House(Rules(max_sessions_per_client=0, on_limit="evict_oldest"))
    assert house.refused("open_session", client_id="me").code == "session_limit_reached"


def test_a_limit_that_was_lowered_holds_after_an_eviction() -> None:
    house = House(Rules(max_sessions_per_client=4))
    made = [house.create() for _ in range(4)]
    house.world.rules = Rules(max_sessions_per_client=2, on_limit="evict_oldest")
    result = make(house, "open_session")
    assert result.evicted_session_id == made[0]
    assert set(ids(house.do("list_client_sessions", client_id="me"))) == {made[3], result.session_id}


def test_who_is_refused_evicts_nobody() -> None:
    house = House(Rules(max_sessions_per_client=1, on_limit="evict_oldest"), per_minute=1)
    first = house.create()
    assert house.refused("open_session", client_id="me", resume=False).code == "create_rate_exceeded"
    assert house.refused("create_session", client_id="me", session_id=first).code == "session_id_conflict"
    assert status_of(house, first) == "live"


def test_lists_judge_those_without_a_client_too() -> None:
    assert House(deny=["x*"]).do("open_session").client_id is None
    house = House(allow=["x*"])
    assert house.refused("open_session").code == "client_not_allowed"
    assert house.refused("open_session", user_id="u").code == "client_not_allowed"
    house.do("open_session", client_id="xy")


# -- the rate


def test_the_rate_of_those_who_name_nothing_is_for_each_address() -> None:
    house = House(per_minute=1)

    def ask(address: str) -> Any:
        caller = Caller("tcp", address=address)
        return house.decide(lambda draft: open_session(draft, OpenParams()), REGISTRY["open_session"], caller)

    ask("10.0.0.1")
    ask("10.0.0.2")
    with pytest.raises(Exception, match=r"10\.0\.0\.1.*try again in 60 s"):
        ask("10.0.0.1")


def test_both_commands_take_from_the_same_rate() -> None:
    house = House(per_minute=1)
    house.create("me")
    assert house.refused("open_session", client_id="me", resume=False).code == "create_rate_exceeded"


def test_resuming_takes_nothing_from_the_rate() -> None:
    house = House(per_minute=1)
    house.do("open_session", client_id="me", session_id="mine")
    for _ in range(5):
        house.do("open_session", client_id="me")
        house.do("open_session", client_id="me", session_id="mine", on_conflict="reuse")
    house.refused("open_session", client_id="me", resume=False)


def test_another_id_after_a_collision_is_paid_for() -> None:
    house = House(per_minute=1)
    house.do("open_session", client_id="a", session_id="mine")
    house.do("open_session", client_id="b", session_id="mine", on_conflict="new")
    refusal = house.refused("open_session", client_id="b", session_id="mine", on_conflict="new")
    assert refusal.code == "create_rate_exceeded"


# -- external ids


@BOTH
def test_an_external_id_is_unique_among_one_users_live_sessions(command: str) -> None:
    house = House()
    make(house, command, user_id="u", external_id="x")
    refusal = house.refused("open_session", user_id="u", external_id="x")  # whatever the client
    assert (refusal.error_type, refusal.code) == ("SessionError", "external_id_conflict")
    house.forget()
    assert house.refused("create_session", client_id="c", user_id="u", external_id="x").code == "external_id_conflict"
    make(house, command, user_id="v", external_id="x")
    make(house, command, external_id="x")
    make(house, command, user_id="u", external_id="X")


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_the_external_id_of_what_has_ended_is_free(how: str) -> None:
    house = House()
    end(house, house.create(user_id="u", external_id="x"), how)
    session_id = house.create(user_id="u", external_id="x")
    assert house.do("get_session", user_id="u", external_id="x").session_id == session_id


def test_the_external_id_of_the_one_that_makes_room_is_free() -> None:
    house = House(Rules(max_sessions_per_client=1, on_limit="evict_oldest"))
    first = house.create(external_id="x")
    result = make(house, "open_session", external_id="x")
    assert result.evicted_session_id == first
    assert house.do("get_session", external_id="x").session_id == result.session_id
