"""Who may create sessions, and how fast."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.domain import limits
from stui_sessions.domain.limits import ClientLists, CreationRate


@pytest.mark.parametrize(
    ("allow", "deny", "client", "admitted"),
    [
        ([], [], "anyone", True),
        (["a*"], [], "anna", True),
        (["a*"], [], "bob", False),
        (["a*", "b?b"], [], "bob", True),
        ([], ["b*"], "bob", False),
        ([], ["b*"], "anna", True),
        (["a*"], ["anna"], "anna", False),  # deny wins
        (["a*"], ["anna"], "annabel", True),
        ([], ["*"], "anyone", False),
        (["Anna"], [], "anna", False),  # case counts
        (["anna"], [], "anna2", False),  # the whole name
        (["anna"], [], "xanna", False),
        (["a[0-9]"], [], "a5", True),
        (["a[!0-9]"], [], "a5", False),
        (["a.b"], [], "axb", False),  # a dot is a dot
        (["a|b"], [], "b", False),  # globs, no regular expressions
        (["x", "a"], [], "ab", False),
        ([""], [], "a", False),
    ],
)
def test_lists(allow: list[str], deny: list[str], client: str, admitted: bool) -> None:
    assert ClientLists(allow, deny).admits(client) is admitted


def test_a_burst_of_the_rate_and_then_one_at_a_time() -> None:
    rate = CreationRate(60)
    for _ in range(60):
        assert rate.seconds_to_wait("a", 100.0) == 0
        rate.take("a", 100.0)
    assert rate.seconds_to_wait("a", 100.0) == 1
    assert rate.seconds_to_wait("a", 100.9) == 1
    assert rate.seconds_to_wait("a", 101.0) == 0
    rate.take("a", 101.0)
    assert rate.seconds_to_wait("a", 101.0) == 1


def test_one_client_does_not_wait_for_another() -> None:
    rate = CreationRate(1)
    rate.take("a", 0.0)
    assert rate.seconds_to_wait("a", 0.0) == 60
    assert rate.seconds_to_wait("b", 0.0) == 0


def test_the_wait_is_whole_seconds_rounded_up() -> None:
    rate = CreationRate(7)  # one in 8.57 s
    for _ in range(7):
        rate.take("a", 0.0)
    assert rate.seconds_to_wait("a", 0.0) == 9
    assert rate.seconds_to_wait("a", 8.0) == 1


@given(per_minute=st.integers(1, 600), taken=st.integers(0, 700), later=st.floats(0, 100))
def test_after_the_wait_that_was_told_one_more_may_be_created(per_minute: int, taken: int, later: float) -> None:
    rate = CreationRate(per_minute)
    for _ in range(taken):
        if rate.seconds_to_wait("a", 0.0) == 0:
            rate.take("a", 0.0)
    wait = rate.seconds_to_wait("a", later)
    assert rate.seconds_to_wait("a", later + wait) == 0
    if wait > 1:
        assert rate.seconds_to_wait("a", later + wait - 1.001) > 0


def test_asking_takes_nothing() -> None:
    rate = CreationRate(1)
    for _ in range(10):
        assert rate.seconds_to_wait("a", 0.0) == 0
    assert len(rate) == 0


def test_a_creation_that_did_not_come_about_is_given_back() -> None:
    rate = CreationRate(2)
    rate.take("a", 0.0)
    rate.take("a", 0.0)
    assert rate.seconds_to_wait("a", 0.0) == 30
    rate.give_back("a")
    assert rate.seconds_to_wait("a", 0.0) == 0


def test_giving_back_never_gives_more_than_the_burst() -> None:
    rate = CreationRate(1)
    rate.take("a", 0.0)
    for _ in range(5):
        rate.give_back("a")
    rate.give_back("never seen")
    rate.take("a", 0.0)
    assert rate.seconds_to_wait("a", 0.0) == 60


def test_waiting_never_gives_more_than_the_burst() -> None:
    rate = CreationRate(2)
    rate.take("a", 0.0)
    for _ in range(2):
        assert rate.seconds_to_wait("a", 59.0) == 0
        rate.take("a", 59.0)
    assert rate.seconds_to_wait("a", 59.0) > 0


def test_the_rate_can_be_off() -> None:
    rate = CreationRate(0)
    for _ in range(1000):
        assert rate.seconds_to_wait("a", 0.0) == 0
        rate.take("a", 0.0)
    assert len(rate) == 0


def test_a_rate_changed_while_running_holds_at_once() -> None:
    rate = CreationRate(60)
    for _ in range(60):
        rate.take("a", 0.0)
    rate.change(1)
    assert rate.seconds_to_wait("a", 0.0) == 60
    rate.change(0)
    assert rate.seconds_to_wait("a", 0.0) == 0
    rate.change(60)
    assert rate.seconds_to_wait("a", 0.0) == 1  # what was taken stays taken


def test_a_clock_that_went_back_takes_nothing_away() -> None:
    rate = CreationRate(2)
    rate.take("a", 100.0)
    assert rate.seconds_to_wait("a", 50.0) == 0


def test_clients_that_were_quiet_for_a_minute_are_forgotten() -> None:
    rate = CreationRate(60)
    for i in range(100):
        rate.take(f"c{i}", float(i))
    assert len(rate) == 60


def test_the_number_of_clients_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BUCKETS", 10)
    rate = CreationRate(1)
    for i in range(50):
        rate.take(f"c{i}", 0.0)
    assert len(rate) == 10
    assert rate.seconds_to_wait("c49", 0.0) == 60  # the newest are kept
    assert rate.seconds_to_wait("c0", 0.0) == 0
