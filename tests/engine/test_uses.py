"""Recording uses that were only noted: all of them, in steps, beside everything else."""

from typing import Any

import pytest

from stui_sessions.domain.entities import EXPIRED, About, session_key
from stui_sessions.domain.records import Used
from stui_sessions.engine import engine as engine_module
from stui_sessions.engine import uses as module
from tests.engine.desk import START, UNAVAILABLE, Desk, stored_session

SECOND = 1000


def a_desk(count: int, **options: Any) -> Desk:
    """`count` sessions s1, s2, … which are used 30 s after their last use that is recorded."""
    desk = Desk(*(stored_session(f"s{n}", n, f"c{n}", timeout=600) for n in range(1, count + 1)), **options)
    desk.wall += 30 * SECOND
    for n in range(1, count + 1):
        desk.ask("restore_session", session_id=f"s{n}")
    return desk


def recorded(desk: Desk, session_id: str = "s1") -> int:
    """When the session was used by what is on disk, in seconds from the start."""
    session = desk.committed(session_id)
    assert session is not None
    return (session.recorded_at - START) // SECOND


def sizes(desk: Desk) -> list[int]:
    return [len(batch.records) for batch in desk.store.commits.seen]


def test_all_uses_that_are_noted_are_recorded() -> None:
    with a_desk(3) as desk:
        assert sizes(desk) == []
        assert desk.run(desk.engine.recorder.record_all())
        assert [recorded(desk, f"s{n}") for n in (1, 2, 3)] == [30, 30, 30]
        assert [type(record) for record in desk.store.commits.seen[0].records] == [Used] * 3
        assert not desk.engine.uses


def test_without_any_there_is_nothing_to_commit() -> None:
    with a_desk(1) as desk:
        for _ in range(2):
            assert desk.run(desk.engine.recorder.record_all())
        assert sizes(desk) == [1]


def test_many_are_recorded_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP", 4)
    with a_desk(10) as desk:
        assert desk.run(desk.engine.recorder.record_all())
        assert sizes(desk) == [4, 4, 2]
        assert not desk.engine.uses


def test_a_use_while_another_is_recorded_stays_noted() -> None:
    with a_desk(1) as desk:
        desk.hold_commits()
        recording = desk.loop.create_task(desk.engine.recorder.record_all())
        desk.settle()
        desk.wall += 5 * SECOND
        desk.peer().ask(1, "restore_session", session_id="s1")
        desk.succeed()
        assert recording.result()
        assert recorded(desk) == 30
        assert list(desk.engine.uses.values()) == [START + 35 * SECOND]
        desk.store.commits.closed = False
        assert desk.run(desk.engine.recorder.record_all())
        assert recorded(desk) == 35


def test_one_recording_waits_for_another() -> None:
    with a_desk(1) as desk:
        desk.hold_commits()
        both = [desk.loop.create_task(desk.engine.recorder.record_all()) for _ in range(2)]
        desk.settle()
        desk.succeed()
        assert [task.result() for task in both] == [True, True]
        assert sizes(desk) == [1]


def test_a_use_of_a_session_that_is_not_in_memory_is_recorded_too() -> None:
    with a_desk(2, resident_limit=0) as desk:
        desk.engine.cache.trim(desk.engine.committed)
        assert not desk.engine.cache.entities
        assert desk.run(desk.engine.recorder.record_all())
        assert recorded(desk) == recorded(desk, "s2") == 30


@pytest.mark.parametrize("purge", [False, True])
def test_a_use_of_a_session_that_has_ended_is_forgotten(purge: bool) -> None:
    with a_desk(2) as desk:
        desk.ask("delete_session", session_id="s1", purge=purge)
        assert list(desk.engine.uses) == [session_key("", "s2")]
        assert desk.run(desk.engine.recorder.record_all())
        assert not desk.engine.uses


def test_a_use_that_nothing_can_record_any_more_is_forgotten() -> None:
    """The session is gone, and nothing in this process has removed it."""
    with a_desk(1) as desk:
        del desk.store._entities[session_key("", "s1")]
        desk.engine.cache.drop([session_key("", "s1")])
        assert desk.run(desk.engine.recorder.record_all())
        assert not desk.engine.uses


def test_a_saved_state_records_the_use_that_came_before_it() -> None:
    with a_desk(1) as desk:
        desk.wall += 5 * SECOND
        desk.ask("update_session_state", session_id="s1", state_data={"a": 1})
        assert not desk.engine.uses
        assert recorded(desk) == 35


def test_what_the_disk_refuses_stays_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP", 2)
    with a_desk(5) as desk:
        desk.store.commits.error = UNAVAILABLE
        assert not desk.run(desk.engine.recorder.record_all())
        assert sizes(desk) == [2]  # it stops at the first that fails
        assert len(desk.engine.uses) == 5
        desk.store.commits.error = None
        assert desk.run(desk.engine.recorder.record_all())
        assert [recorded(desk, f"s{n}") for n in range(1, 6)] == [30] * 5


# -- in the background


def test_at_so_many_they_are_recorded_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_USES", 3)
    with a_desk(3) as desk:
        assert sizes(desk) == []
    with a_desk(4) as desk:
        desk.settle()
        assert sizes(desk) == [4]
        assert not desk.engine.uses


def test_one_recording_runs_in_the_background_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MOST_USES", 3)
    stored = [stored_session(f"s{n}", n, f"c{n}", timeout=600) for n in range(1, 9)]
    with Desk(*stored) as desk:
        desk.hold_commits()
        desk.wall += 30 * SECOND
        for n in range(1, 9):
            desk.peer().ask(1, "restore_session", session_id=f"s{n}")
            desk.settle()
        assert sizes(desk) == [4]
        assert not desk.engine.batch.records
        desk.succeed()
        assert len(desk.engine.uses) == 4


# -- lists that depend on them


def test_a_list_in_the_order_of_activity_knows_of_uses() -> None:
    with Desk(*(stored_session(name, n, timeout=600) for n, name in enumerate("abc", 1))) as desk:
        for name in "ba":
            desk.wall += 10 * SECOND
            desk.ask("restore_session", session_id=name)
        for order, names in (("desc", "abc"), ("asc", "cba")):
            rows = desk.ask("list_sessions", sort="last_activity", order=order)["sessions"]
            assert [row["session_id"] for row in rows] == list(names)
            assert {row["session_id"]: row["time_until_expiry"] for row in rows} == {"a": 600, "b": 590, "c": 580}


def test_a_list_is_given_though_the_disk_refuses_to_record_uses() -> None:
    with a_desk(2) as desk:
        desk.store.commits.error = UNAVAILABLE
        assert len(desk.ask("list_sessions")["sessions"]) == 2
        assert len(desk.engine.uses) == 2


def test_a_use_that_is_only_noted_keeps_a_session_in_lists_of_live_ones() -> None:
    with Desk(stored_session("s1", timeout=100)) as desk:
        for _ in range(5):
            desk.wall += 9 * SECOND
            desk.ask("restore_session", session_id="s1")
        desk.wall += 95 * SECOND
        assert len(desk.ask("list_sessions")["sessions"]) == 1
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 1
        desk.wall += 5 * SECOND
        assert desk.ask("list_sessions")["sessions"] == []
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 0
        desk.run(desk.sweeper.sweep())
        session = desk.committed("s1")
        assert session is not None
        assert session.status == EXPIRED


@pytest.mark.parametrize("names", [{"external_id": "x"}, {"ref": "a title"}, {"ref": "x"}])
def test_a_use_that_is_only_noted_keeps_a_session_where_it_is_looked_for_by_name(names: dict[str, str]) -> None:
    with Desk(stored_session("s1", timeout=100, about=About(external_id="x", title="a title"))) as desk:
        desk.wall += 9 * SECOND
        desk.ask("restore_session", session_id="s1")
        desk.wall += 95 * SECOND
        command = "resolve_session" if "ref" in names else "get_session"
        assert desk.ask(command, **names)["session_id"] == "s1"
        desk.wall += 5 * SECOND
        assert desk.ask(command, **names) == "session_not_found"
