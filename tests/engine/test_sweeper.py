"""Background expiry: what is due, in small steps, whatever the disk does."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import (
    CLOSED,
    DELETED,
    EXPIRED,
    LIVE,
    SESSION_COST,
    About,
    Damaged,
    SessionData,
    session_key,
)
from stui_sessions.domain.finding import DueSession
from stui_sessions.domain.records import Ended, Removed
from stui_sessions.engine import sweeper as module
from stui_sessions.engine.sweeper import _steps
from tests.engine.desk import START, Desk, stored_session

RULES = Rules(max_sessions_per_client=1000, default_timeout=100, keep_expired=50, cleanup_interval=300)
SECOND = 1000


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DUTY", 0)


def sessions(count: int, **fields: Any) -> list[SessionData]:
    return [stored_session(f"s{n}", n, f"c{n % 3}", timeout=100, **fields) for n in range(1, count + 1)]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Three sessions s1, s2, s3 that live for 100 s, and are kept for 50 s after their end."""
    with Desk(*sessions(3), rules=RULES) as desk:
        yield desk


def sweep(desk: Desk) -> int:
    looked_at: int = desk.run(desk.sweeper.sweep())
    return looked_at


def begin_sweep(desk: Desk) -> "asyncio.Task[int]":
    task = desk.loop.create_task(desk.sweeper.sweep())
    desk.settle()
    return task


def statuses(desk: Desk, *names: str) -> list[int | None]:
    """Of the sessions as they are on disk; None for one that is not there."""
    found = [desk.committed(name) for name in names or ("s1", "s2", "s3")]
    return [None if s is None else s.status for s in found]


def kinds(desk: Desk, kind: type) -> list[int]:
    """Records of a kind in each commit."""
    return [sum(type(record) is kind for record in batch.records) for batch in desk.store.commits.seen]


# -- what is due


def test_what_has_expired_is_marked_and_what_was_kept_long_enough_is_removed(desk: Desk) -> None:
    desk.wall += 60 * SECOND
    desk.ask("restore_session", session_id="s3")
    desk.ask("close_session", session_id="s2")
    desk.wall += 40 * SECOND  # s1 has just expired, s2 was closed 40 s ago
    assert sweep(desk) == 1
    assert statuses(desk) == [EXPIRED, CLOSED, LIVE]
    desk.wall += 10 * SECOND
    assert sweep(desk) == 1
    assert statuses(desk) == [EXPIRED, None, LIVE]
    desk.wall += 40 * SECOND
    assert sweep(desk) == 1
    assert statuses(desk) == [None, None, LIVE]


def test_a_session_expires_at_its_end_however_late_it_is_noticed(desk: Desk) -> None:
    desk.wall += 130 * SECOND
    sweep(desk)
    session = desk.committed("s1")
    assert session is not None
    assert session.ended_at == START + 100 * SECOND


def test_statistics_and_limits_are_right_after_a_sweep() -> None:
    with Desk(*sessions(3), rules=replace(RULES, max_sessions_per_client=1)) as desk:
        desk.wall += 100 * SECOND
        statistics = desk.ask("get_session_statistics")
        assert (statistics["total_sessions"], statistics["active_clients"]) == (3, 3)
        sweep(desk)
        statistics = desk.ask("get_session_statistics")
        assert (statistics["total_sessions"], statistics["active_clients"]) == (0, 0)
        assert desk.ask("create_session", client_id="c1")["is_active"]


def test_what_was_due_during_a_long_downtime_expires_and_goes_in_one_sweep(desk: Desk) -> None:
    desk.wall += 10**9
    sweep(desk)
    assert sum(kinds(desk, Ended)) == sum(kinds(desk, Removed)) == 3
    assert statuses(desk) == [None] * 3
    assert sweep(desk) == 0


def test_a_session_used_since_the_store_noted_its_end_stays(desk: Desk) -> None:
    desk.wall += 95 * SECOND
    desk.ask("restore_session", session_id="s1")
    desk.wall += 10 * SECOND
    sweep(desk)
    assert statuses(desk) == [LIVE, EXPIRED, EXPIRED]


@pytest.mark.parametrize("command", ["update_session_state", "touch_session", "restore_session"])
def test_a_session_used_just_before_the_sweep_stays(desk: Desk, command: str) -> None:
    """Though the record of that is not on disk yet."""
    desk.hold_commits()
    desk.wall += 100 * SECOND - 1
    peer = desk.peer()
    peer.ask(1, command, session_id="s1", **({"state_data": {}} if command == "update_session_state" else {}))
    desk.settle()
    desk.wall += 1
    sweeping = begin_sweep(desk)
    while desk.in_flight:
        desk.succeed()
    assert sweeping.result() == 3
    assert peer.codes == ["ok"]
    assert statuses(desk) == [LIVE, EXPIRED, EXPIRED]


def test_a_damaged_session_does_not_stop_the_sweep(desk: Desk) -> None:
    desk.engine.cache.put(Damaged(session_key("", "s2")))
    desk.wall += 100 * SECOND
    assert sweep(desk) == 3
    assert statuses(desk) == [EXPIRED, LIVE, EXPIRED]


# -- pins and absolute ends


def test_a_pinned_session_expires_and_stays(desk: Desk) -> None:
    for name in ("s1", "s2"):
        desk.ask("update_session", session_id=name, pin=True)
    desk.ask("delete_session", session_id="s2")
    desk.wall += 10**9
    for _ in range(2):
        sweep(desk)
    assert statuses(desk) == [EXPIRED, DELETED, None]
    desk.ask("update_session", session_id="s1", pin=False)
    sweep(desk)
    assert statuses(desk) == [None, DELETED, None]


def test_a_deleted_session_can_come_back_until_it_is_removed(desk: Desk) -> None:
    for _ in range(2):
        desk.ask("delete_session", session_id="s1")
        desk.wall += 50 * SECOND - 1
        sweep(desk)
        assert desk.ask("undelete_session", session_id="s1")["undeleted"]
    desk.ask("delete_session", session_id="s1")
    desk.wall += 50 * SECOND
    sweep(desk)
    assert desk.ask("undelete_session", session_id="s1") == "session_not_found"


def test_an_absolute_end_comes_in_the_background_unless_it_was_moved() -> None:
    about = About(ends_at=START + 150 * SECOND)
    with Desk(*sessions(2, about=about), rules=RULES) as desk:
        desk.ask("extend_session", session_id="s2", seconds=30)
        for _ in range(2):
            desk.wall += 70 * SECOND
            for name in ("s1", "s2"):
                desk.ask("touch_session", session_id=name)
            sweep(desk)
        desk.wall += 10 * SECOND - 1
        sweep(desk)
        assert statuses(desk, "s1", "s2") == [LIVE, LIVE]
        desk.wall += 1
        sweep(desk)
        assert statuses(desk, "s1", "s2") == [EXPIRED, LIVE]


# -- small steps


def test_many_due_are_looked_at_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_SESSIONS", 4)
    with Desk(*sessions(10), rules=RULES) as desk:
        desk.wall += 100 * SECOND
        assert sweep(desk) == 10
        assert kinds(desk, Ended) == [4, 4, 2]


def test_a_step_reads_all_that_it_needs_together() -> None:
    """Its sessions, then their owners and external ids: not those of one session after another's."""
    stored = [stored_session(f"s{n}", n, f"c{n}", timeout=100, about=About(external_id=f"x{n}")) for n in range(1, 31)]
    with Desk(*stored, rules=RULES) as desk:
        desk.wall += 100 * SECOND
        assert sweep(desk) == 30
        assert [len(keys) for keys in desk.store.reads.seen] == [30, 60]


def test_memory_stays_bounded_while_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_SESSIONS", 10)
    with Desk(*sessions(100), rules=RULES, resident_limit=20_000) as desk:
        desk.wall += 100 * SECOND
        desk.hold_commits()
        sweeping = begin_sweep(desk)
        highest = 0
        while desk.in_flight:
            highest = max(highest, desk.engine.cache.bytes)
            desk.succeed()
        assert sweeping.result() == 100
        assert highest <= 20_000 + 10 * (SESSION_COST + 200) + 15_000  # the limit, a step, the clients


def test_peers_are_served_between_the_steps_and_it_does_not_run_ahead_of_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STEP_SESSIONS", 1)
    with Desk(*sessions(5), stored_session("other", 6), rules=RULES) as desk:
        desk.wall += 100 * SECOND
        desk.hold_commits()
        sweeping = begin_sweep(desk)
        assert desk.ask("get_session", session_id="other")["session_id"] == "other"
        assert not sweeping.done()
        assert len(desk.store.queries.seen) == 1
        desk.store.commits.closed = False
        desk.succeed()
        assert desk.run(sweeping) == 5


def test_it_rests_longer_than_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DUTY", 3.0)
    monkeypatch.setattr(module, "STEP_SESSIONS", 1)
    with Desk(*sessions(2), rules=RULES) as desk:
        desk.wall += 100 * SECOND
        desk.hold_commits()
        sweeping = begin_sweep(desk)
        desk.advance(100)
        desk.succeed()
        desk.advance(290)
        assert desk.in_flight is None
        desk.advance(20)
        assert desk.in_flight is not None
        sweeping.cancel()
        desk.settle()


def due(size: int) -> DueSession:
    return DueSession(session_key("", "s"), 0, 1, size)


def test_steps_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_BYTES", 100)
    sizes = [60, 40, 1, 99, 500, 10, 90, 1]
    steps = [[d.size for d in step] for step in _steps([due(s) for s in sizes])]
    assert steps == [[60, 40], [1, 99], [500], [10, 90], [1]]
    assert [[d.size for d in step] for step in _steps([due(500), due(1)])] == [[500], [1]]
