"""What the sweeper says of what it removes, and how it goes on, also when the disk refuses."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE, About
from stui_sessions.domain.finding import Due
from stui_sessions.engine import sweeper as module
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.logs import hide
from tests.engine.desk import START, UNAVAILABLE, Desk, stored_session
from tests.engine.test_sweeper import RULES, SECOND, begin_sweep, sessions, statuses, sweep


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DUTY", 0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk(*sessions(3), rules=RULES) as desk:
        yield desk


# -- nothing disappears without a word


def removals(desk: Desk) -> list[tuple[str, str, str, str]]:
    """What is said of removed sessions."""
    lines = [fields for event, fields in desk.log.lines if event == "session.removed"]
    return sorted((line["reason"], line["session"], line["user"], line["client"]) for line in lines)


def counted(desk: Desk) -> dict[str, int]:
    """Those counts that are not zero."""
    counts: dict[str, int] = desk.ask("get_session_statistics")["removed_by_reason"]
    return {reason: count for reason, count in counts.items() if count}


@pytest.fixture
def ended() -> Iterator[Desk]:
    """s1 has expired, s2 was closed, s3 deleted; all were kept long enough."""
    ends = [{"status": status, "ended_at": START} for status in (EXPIRED, CLOSED, DELETED)]
    about = About(user_id="ann")
    stored = [stored_session(f"s{n}", n, "me", about=about, **end) for n, end in enumerate(ends, 1)]
    with Desk(*stored, rules=RULES) as desk:
        desk.wall += 50 * SECOND
        yield desk


REMOVALS = [
    ("closed", hide("s2"), "ann", "me"),
    ("deleted", hide("s3"), "ann", "me"),
    ("expired", hide("s1"), "ann", "me"),
]


def test_each_removal_is_counted_and_told_once_by_its_reason(ended: Desk) -> None:
    for _ in range(3):
        sweep(ended)
    assert removals(ended) == REMOVALS
    assert not any(f"'{name}'" in str(ended.log.lines) for name in ("s1", "s2", "s3"))
    assert counted(ended) == {"expired": 1, "closed": 1, "deleted": 1}
    assert ended.ask("list_sessions", status="deleted") == {"sessions": [], "next_cursor": None}


def test_a_removal_that_the_disk_refuses_is_neither_counted_nor_told(ended: Desk) -> None:
    ended.store.commits.error = UNAVAILABLE
    with pytest.raises(Refusal):
        sweep(ended)
    assert (removals(ended), counted(ended)) == ([], {})
    ended.store.commits.error = None
    sweep(ended)
    assert removals(ended) == REMOVALS
    assert counted(ended) == {"expired": 1, "closed": 1, "deleted": 1}


def test_a_removal_on_top_of_a_commit_that_fails_is_told_once(ended: Desk) -> None:
    ended.hold_commits()
    ended.peer().ask(1, "open_session", client_id="other")
    ended.settle()
    sweeping = begin_sweep(ended)
    ended.fail()
    while ended.in_flight:
        ended.succeed()
    assert sweeping.done()
    assert removals(ended) == REMOVALS
    assert counted(ended) == {"expired": 1, "closed": 1, "deleted": 1}


def test_a_removal_is_told_though_the_id_is_taken_again_at_once(ended: Desk) -> None:
    ended.hold_commits()
    sweeping = begin_sweep(ended)
    peer = ended.peer()
    peer.ask(1, "open_session", session_id="s1")
    ended.settle()
    while ended.in_flight:
        ended.succeed()
    assert sweeping.done()
    assert peer.codes == ["ok"]
    assert removals(ended) == REMOVALS
    assert ended.ask("get_session", session_id="s1")["status"] == "live"


# -- a disk that refuses


def test_a_sweep_that_cannot_be_committed_changes_nothing_and_the_next_one_does(desk: Desk) -> None:
    desk.wall += 100 * SECOND
    desk.store.commits.error = UNAVAILABLE
    with pytest.raises(Refusal):
        sweep(desk)
    assert statuses(desk) == [LIVE] * 3
    desk.store.commits.error = None
    sweep(desk)
    assert statuses(desk) == [EXPIRED] * 3


def test_a_sweep_that_cannot_ask_says_so(desk: Desk) -> None:
    desk.store.queries.error = UNAVAILABLE
    with pytest.raises(StorageError):
        sweep(desk)


# -- over and over


def sweeps(desk: Desk) -> int:
    """How many have begun."""
    return sum(isinstance(question, Due) and question.status == LIVE for question in desk.store.queries.seen)


@pytest.fixture
def running(desk: Desk) -> Desk:
    """It has swept for the first time, and rests."""
    desk.start(desk.sweeper.run())
    desk.settle()
    assert sweeps(desk) == 0
    desk.advance(1)
    assert (sweeps(desk), desk.sweeper.runs) == (1, 1)
    return desk


def test_it_sweeps_once_every_interval(running: Desk) -> None:
    for runs in (2, 3):
        running.advance(298)
        assert running.sweeper.runs == runs - 1
        running.advance(3)
        assert running.sweeper.runs == runs
    assert running.sweeper.last_run == running.clock().text


def change_interval(desk: Desk, seconds: int) -> None:
    desk.world.rules = replace(desk.world.rules, cleanup_interval=seconds)
    desk.call(desk.sweeper.reconsider)


def test_a_shorter_interval_holds_at_once(running: Desk) -> None:
    running.advance(5)
    change_interval(running, 10)
    running.advance(3)
    assert running.sweeper.runs == 1
    running.advance(3)
    assert running.sweeper.runs == 2
    running.advance(10)
    assert running.sweeper.runs == 3


def test_one_that_has_passed_already_is_over_at_once(running: Desk) -> None:
    running.advance(50)
    change_interval(running, 10)
    running.settle()
    assert running.sweeper.runs == 2


def test_a_longer_interval_holds_at_once_too(running: Desk) -> None:
    running.advance(5)
    change_interval(running, 1000)
    running.advance(900)
    assert running.sweeper.runs == 1
    running.advance(100)
    assert running.sweeper.runs == 2


@pytest.mark.parametrize("gate", ["queries", "reads", "commits"])
def test_it_goes_on_after_a_failure(running: Desk, gate: str) -> None:
    getattr(running.store, gate).error = UNAVAILABLE
    running.wall += 100 * SECOND
    running.advance(300)
    assert "sweep.failed" in running.log.events
    assert running.sweeper.runs == 1
    getattr(running.store, gate).error = None
    running.advance(300)
    assert running.sweeper.runs == 2
    assert statuses(running) == [EXPIRED] * 3
