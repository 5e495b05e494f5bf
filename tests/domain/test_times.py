"""When a session expires, and how instants look."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.domain.entities import CLOSED, EXPIRED, LIVE, Session, session_key
from stui_sessions.domain.times import Expiry, format_instant, slack_ms

AT = 1_756_549_800_000


def session(active_at: int = AT, timeout: int = 60, status: int = LIVE) -> Session:
    return Session(
        session_key("", "s"), 1, 1, 1, "s", "c", AT, AT, active_at, timeout, status=status, recorded_at=active_at
    )


@pytest.mark.parametrize(
    ("timeout", "slack"), [(1, 100), (10, 1000), (599, 59_900), (600, 60_000), (601, 60_000), (2_592_000, 60_000)]
)
def test_the_slack_is_a_tenth_of_the_timeout_and_at_most_a_minute(timeout: int, slack: int) -> None:
    assert slack_ms(timeout) == slack


def test_a_session_expires_to_the_millisecond() -> None:
    expiry, s = Expiry(), session(timeout=60)
    assert expiry.is_live(s, AT + 59_999)
    assert not expiry.is_live(s, AT + 60_000)


@pytest.mark.parametrize("status", [EXPIRED, CLOSED])
def test_what_has_ended_is_not_live_at_any_time(status: int) -> None:
    expiry, s = Expiry(), session(status=status)
    assert not expiry.is_live(s, AT)
    assert expiry.seconds_left(s, AT) == 0


@pytest.mark.parametrize(
    ("passed_ms", "left"), [(0, 60), (1, 60), (999, 60), (1000, 59), (59_000, 1), (59_001, 1), (59_999, 1), (60_000, 0)]
)
def test_seconds_left_are_rounded_up(passed_ms: int, left: int) -> None:
    assert Expiry().seconds_left(session(timeout=60), AT + passed_ms) == left


@pytest.mark.parametrize("back_ms", [1, 1000, 86_400_000])
def test_with_the_clock_set_back_there_is_never_more_left_than_the_timeout(back_ms: int) -> None:
    expiry, s = Expiry(), session(timeout=60)
    assert expiry.is_live(s, AT - back_ms)
    assert expiry.seconds_left(s, AT - back_ms) == 60


def test_long_after_its_end_nothing_is_left() -> None:
    assert Expiry().seconds_left(session(timeout=60), AT + 10**12) == 0


@given(
    timeout=st.integers(1, 2_592_000),
    passed=st.integers(-(10**10), 10**10),
    uncertain=st.sampled_from([0, AT - 1, AT, AT + 1]),
    status=st.sampled_from([LIVE, EXPIRED, CLOSED]),
)
def test_nothing_is_left_if_and_only_if_it_is_not_live(timeout: int, passed: int, uncertain: int, status: int) -> None:
    expiry, s = Expiry(uncertain), session(timeout=timeout, status=status)
    left = expiry.seconds_left(s, AT + passed)
    assert 0 <= left <= timeout
    assert (left > 0) == expiry.is_live(s, AT + passed)


def test_after_an_unclean_stop_activity_that_may_be_recorded_late_gets_the_slack_back() -> None:
    expiry, s = Expiry(uncertain_until=AT + 5000), session(timeout=60)
    assert expiry.expires_at(s) == AT + 60_000 + 6_000
    assert expiry.is_live(s, AT + 65_999)
    assert not expiry.is_live(s, AT + 66_000)
    assert expiry.seconds_left(s, AT) == 60


def test_the_grace_is_for_the_instant_of_the_stop_too() -> None:
    assert Expiry(uncertain_until=AT).expires_at(session(timeout=60)) == AT + 66_000


def test_used_since_the_unclean_stop_there_is_no_grace() -> None:
    assert Expiry(uncertain_until=AT).expires_at(session(active_at=AT + 1, timeout=60)) == AT + 1 + 60_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (AT, "2025-08-30T10:30:00Z"),
        (AT + 999, "2025-08-30T10:30:00Z"),
        (AT + 1000, "2025-08-30T10:30:01Z"),
        (951_782_400_000, "2000-02-29T00:00:00Z"),
        (253_402_300_799_000, "9999-12-31T23:59:59Z"),
    ],
)
def test_instants_are_whole_seconds_of_utc(ms: int, text: str) -> None:
    assert format_instant(ms) == text
