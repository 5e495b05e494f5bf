"""Background expiry: what is due, in small steps, whatever the disk does."""

import asyncio
from typing import Any

import pytest

from stui_sessions.errors import StorageError
from stui_sessions.logs import hide
from stui_sessions.server import sweeper as sweeper_module
from stui_sessions.server.sweeper import _steps
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import CLOSED, EXPIRED, LIVE, Ended, Removed, Session
from stui_sessions.sessions.residents import SESSION_COST
from stui_sessions.sessions.timing import Moment, format_instant
from stui_sessions.storage.base import Due
from tests.server.room import UNAVAILABLE, FaultyStore, Room, a_room, settle

RULES = Rules(max_sessions_per_client=1000, default_timeout=100, keep_expired=50)


async def create(room: Room, count: int, client: str = "me") -> list[str]:
    return [(await room.ask("create_session", client_id=client))["session_id"] for _ in range(count)]


def statuses(room: Room) -> list[int]:
    return [s.status for s in sorted(room.store.stored.values(), key=lambda s: s.number)]


async def test_what_has_expired_is_marked_and_what_was_kept_long_enough_is_removed() -> None:
    async with a_room(rules=RULES) as room:
        ids = await create(room, 3)
        room.wall += 60_000
        await room.ask("restore_session", session_id=ids[2])
        await room.ask("close_session", session_id=ids[1])
        room.wall += 40_000  # ids[0] has just expired, ids[1] was closed 40 s ago
        assert await room.sweeper.sweep() == 1
        await room.writer.snapshot_all()
        assert statuses(room) == [EXPIRED, CLOSED, LIVE]
        room.wall += 10_000
        await room.sweeper.sweep()
        await room.writer.snapshot_all()
        assert statuses(room) == [EXPIRED, LIVE]
        room.wall += 40_000
        await room.sweeper.sweep()
        await room.writer.snapshot_all()
        assert statuses(room) == [LIVE]


async def test_statistics_are_right_after_a_sweep() -> None:
    async with a_room(rules=RULES) as room:
        await create(room, 3, "a")
        await create(room, 2, "b")
        room.wall += 100_000
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 5
        await room.sweeper.sweep()
        statistics = await room.ask("get_session_statistics")
        assert (statistics["total_sessions"], statistics["active_clients"]) == (0, 0)


async def test_what_is_due_after_a_restart_is_found_on_disk() -> None:
    store = FaultyStore()
    async with a_room(store, RULES) as room:
        await create(room, 5)
        await room.tick()
    async with a_room(store, RULES) as room:
        room.wall += 10**9  # a long downtime: expired, and kept long enough
        assert await room.sweeper.sweep() == 5
        records = [record for _, records in store.commits.calls[5:] for record in records]
        assert [type(r) for r in records].count(Ended) == 5
        assert [type(r) for r in records].count(Removed) == 5
        await room.writer.snapshot_all()
        assert store.stored == {}
        assert await room.sweeper.sweep() == 0


async def test_many_due_are_looked_at_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "STEP_SESSIONS", 4)
    async with a_room(rules=RULES) as room:
        await create(room, 10)
        room.wall += 100_000
        room.store.commits.calls.clear()
        assert await room.sweeper.sweep() == 10
        assert [len(records) for _, records in room.store.commits.calls] == [4, 4, 2]


async def test_memory_stays_bounded_while_sweeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "STEP_SESSIONS", 10)
    store = FaultyStore()
    async with a_room(store, RULES) as room:
        await create(room, 100)
        await room.tick()
    async with a_room(store, RULES, resident_limit=20_000) as room:
        room.wall += 120_000
        highest = 0
        sweep = asyncio.create_task(room.sweeper.sweep())
        while not sweep.done():
            await asyncio.sleep(0)
            highest = max(highest, room.book.residents.bytes)
        assert await sweep == 100
        assert highest <= 20_000 + 10 * (SESSION_COST + 200) + 15_000  # the limit, a step, the client's entry


async def test_peers_are_served_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "STEP_SESSIONS", 1)
    async with a_room(rules=RULES) as room:
        await create(room, 5)
        room.wall += 100_000
        (session_id,) = await create(room, 1)
        room.store.commits.close()
        sweep = asyncio.create_task(room.sweeper.sweep())
        await settle()
        assert (await room.ask("restore_session", session_id=session_id))["session_id"] == session_id
        assert not sweep.done()
        assert len(room.store.dues.calls) == 1  # it does not run ahead of the disk
        room.store.commits.open.set()
        assert await sweep == 5


async def test_a_session_used_since_the_store_noted_its_end_stays() -> None:
    async with a_room(rules=RULES) as room:
        (session_id,) = await create(room, 1)
        await room.tick()
        room.wall += 95_000
        await room.ask("restore_session", session_id=session_id)
        room.wall += 10_000
        await room.sweeper.sweep()
        assert (await room.ask("get_session_info", session_id=session_id))["is_active"]


async def test_a_session_restored_just_before_the_sweep_stays() -> None:
    async with a_room(rules=RULES) as room:
        (session_id,) = await create(room, 1)
        await room.tick()
        room.wall += 99_999
        peer = room.peer()
        peer.ask(1, "update_session_state", session_id=session_id, state_data={})
        room.wall += 1
        await room.sweeper.sweep()
        await settle()
        assert peer.codes == ["ok"]
        assert (await room.ask("get_session_info", session_id=session_id))["is_active"]


# -- nothing disappears without a word


def removals(room: Room) -> list[dict[str, Any]]:
    """The lines about removed sessions."""
    return [fields for event, fields in room.log.lines if event == "session.removed"]


async def counted(room: Room) -> dict[str, int]:
    """Those counts that are not zero."""
    counts: dict[str, int] = (await room.ask("get_session_statistics"))["removed_by_reason"]
    return {reason: count for reason, count in counts.items() if count}


async def one_of_each_end(room: Room) -> list[str]:
    """Three sessions that have just expired, been closed and deleted."""
    ids = await create(room, 2)
    room.wall += 100_000
    ids.append((await room.ask("open_session", user_id="ann", session_id="own"))["session_id"])
    ids.append((await create(room, 1))[0])
    await room.ask("close_session", session_id=ids[3])
    await room.ask("delete_session", session_id=ids[2])
    assert await room.sweeper.sweep() == 2
    await room.ask("undelete_session", session_id=ids[0])
    await room.ask("delete_session", session_id=ids[0], purge=True)
    return ids[1:]


async def test_each_removal_is_counted_and_told_once_by_its_reason() -> None:
    async with a_room(rules=RULES) as room:
        expired, deleted, closed = await one_of_each_end(room)
        assert removals(room) == []
        assert await counted(room) == {"purged": 1}
        room.wall += 50_000
        for _ in range(3):
            await room.sweeper.sweep()
        lines = removals(room)
        assert sorted((line["reason"], line["session"], line["user"], line["client"]) for line in lines) == [
            ("closed", hide(closed), "", "me"),
            ("deleted", hide(deleted), "ann", ""),
            ("expired", hide(expired), "", "me"),
        ]
        assert not any(session_id in str(room.log.lines) for session_id in (expired, deleted, closed))
        assert await counted(room) == {"expired": 1, "closed": 1, "deleted": 1, "purged": 1}
        for session_id in (expired, deleted, closed):
            assert await room.ask("get_session", session_id=session_id) == "session_not_found"
        assert await room.ask("list_sessions", status="deleted") == {"sessions": [], "next_cursor": None}


async def test_what_expired_long_ago_is_told_to_have_expired() -> None:
    """Noticed and removed in one sweep."""
    async with a_room(rules=RULES) as room:
        await create(room, 1)
        room.wall += 10**9
        await room.sweeper.sweep()
        assert [line["reason"] for line in removals(room)] == ["expired"]
        assert await counted(room) == {"expired": 1}


async def test_a_removal_that_the_disk_refuses_is_neither_counted_nor_told() -> None:
    async with a_room(rules=RULES) as room:
        await one_of_each_end(room)
        await room.writer.snapshot_all()
        room.wall += 50_000
        room.store.refuse(UNAVAILABLE, room.store.commits)
        await room.sweeper.sweep()
        assert (removals(room), await counted(room)) == ([], {"purged": 1})
        room.store.refuse(None)
        await room.sweeper.sweep()
        assert len(removals(room)) == 3
        assert await counted(room) == {"expired": 1, "closed": 1, "deleted": 1, "purged": 1}


async def test_a_removal_is_told_though_the_id_is_taken_again_at_once() -> None:
    async with a_room(rules=RULES) as room:
        _, session_id, _ = await one_of_each_end(room)
        room.wall += 50_000
        peer = room.peer()
        sweep = room.manager.sweep

        def sweep_and_take(swept: str, now: Moment) -> Session | None:
            removed = sweep(swept, now)
            if removed is not None and swept == session_id:
                peer.ask(1, "open_session", session_id=swept)
            return removed

        room.manager.sweep = sweep_and_take  # type: ignore[method-assign]
        await room.sweeper.sweep()
        assert peer.codes == ["ok"]
        assert [line["reason"] for line in removals(room) if line["session"] == hide(session_id)] == ["deleted"]
        assert await counted(room) == {"expired": 1, "closed": 1, "deleted": 1, "purged": 1}
        assert (await room.ask("get_session", session_id=session_id))["status"] == "live"


# -- pins and absolute ends


async def test_a_pinned_session_expires_and_stays() -> None:
    async with a_room(rules=RULES) as room:
        ids = await create(room, 4)
        for session_id in ids[:3]:
            await room.ask("update_session", session_id=session_id, pin=True)
        await room.ask("close_session", session_id=ids[1])
        await room.ask("delete_session", session_id=ids[2])
        room.wall += 10**9
        for _ in range(2):
            await room.sweeper.sweep()
        found = [await room.ask("get_session", session_id=i) for i in ids]
        assert [row["status"] for row in found[:3]] == ["expired", "closed", "deleted"]
        assert found[3] == "session_not_found"
        assert await counted(room) == {"expired": 1}
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 0
        assert await room.ask("restore_session", session_id=ids[0]) == "session_expired"

        await room.ask("update_session", session_id=ids[0], pin=False)
        await room.sweeper.sweep()
        assert await room.ask("get_session", session_id=ids[0]) == "session_not_found"
        assert await counted(room) == {"expired": 2}


async def test_a_session_pinned_after_its_end_stays_from_then_on() -> None:
    async with a_room(rules=RULES) as room:
        (session_id,) = await create(room, 1)
        await room.ask("close_session", session_id=session_id)
        room.wall += 49_000
        await room.sweeper.sweep()
        await room.ask("update_session", session_id=session_id, pin=True)
        room.wall += 10**9
        await room.sweeper.sweep()
        assert (await room.ask("get_session", session_id=session_id))["status"] == "closed"


async def test_a_deleted_session_can_come_back_until_it_is_removed() -> None:
    async with a_room(rules=RULES) as room:
        (session_id,) = await create(room, 1)
        await room.ask("delete_session", session_id=session_id)
        room.wall += 49_999
        await room.sweeper.sweep()
        assert (await room.ask("undelete_session", session_id=session_id))["undeleted"]
        await room.ask("delete_session", session_id=session_id)
        room.wall += 49_999  # counted from the second time
        await room.sweeper.sweep()
        assert (await room.ask("get_session", session_id=session_id))["status"] == "deleted"
        room.wall += 1
        await room.sweeper.sweep()
        assert await room.ask("undelete_session", session_id=session_id) == "session_not_found"
        assert await counted(room) == {"deleted": 1}


@pytest.mark.parametrize("in_snapshot", [False, True])
async def test_an_absolute_end_comes_in_the_background(in_snapshot: bool) -> None:
    async with a_room(rules=RULES) as room:
        made = await room.ask("open_session", client_id="me", ttl_seconds=150, timeout=100)
        session_id = made["session_id"]
        if in_snapshot:
            await room.writer.snapshot_all()
        for _ in range(2):
            room.wall += 70_000
            assert "session_id" in await room.ask("touch_session", session_id=session_id)
            await room.sweeper.sweep()
        room.wall += 9_999
        await room.sweeper.sweep()
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 1
        room.wall += 1
        await room.sweeper.sweep()
        statistics = await room.ask("get_session_statistics")
        assert statistics["sessions_by_status"] == {"live": 0, "expired": 1, "closed": 0, "deleted": 0}
        (row,) = (await room.ask("list_sessions", status="expired"))["sessions"]
        assert row["session_id"] == session_id
        assert row["ended_at"] == format_instant(room.wall)


async def test_an_absolute_end_that_was_moved_is_waited_for() -> None:
    async with a_room(rules=RULES) as room:
        session_id = (await room.ask("open_session", client_id="me", ttl_seconds=50))["session_id"]
        await room.writer.snapshot_all()
        await room.ask("extend_session", session_id=session_id, seconds=30)
        room.wall += 60_000
        await room.sweeper.sweep()
        assert (await room.ask("get_session", session_id=session_id))["status"] == "live"
        room.wall += 20_000
        await room.sweeper.sweep()
        assert (await room.ask("get_session_statistics"))["sessions_by_status"]["expired"] == 1


# -- a disk that refuses


async def test_a_sweep_that_cannot_be_committed_changes_nothing_and_the_next_one_does() -> None:
    async with a_room(rules=RULES) as room:
        await create(room, 3)
        await room.tick()
        room.wall += 100_000
        room.store.refuse(UNAVAILABLE, room.store.commits)
        await room.sweeper.sweep()
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 3
        room.store.refuse(None)
        await room.sweeper.sweep()
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 0


async def test_a_sweep_that_cannot_read_says_so() -> None:
    async with a_room(rules=RULES) as room:
        await create(room, 1)
        room.store.refuse(UNAVAILABLE, room.store.dues)
        with pytest.raises(StorageError):
            await room.sweeper.sweep()


async def test_a_damaged_session_does_not_stop_the_sweep() -> None:
    store = FaultyStore()
    async with a_room(store, RULES) as room:
        await create(room, 3)
        await room.tick()
    async with a_room(store, RULES) as room:
        room.wall += 100_000
        room.book.add_loaded("session2", None, damaged=True)
        assert await room.sweeper.sweep() == 3
        await room.writer.snapshot_all()
        assert statuses(room) == [EXPIRED, LIVE, EXPIRED]
        assert not room.book.dirty


async def test_the_sweeper_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "FIRST_SWEEP_SECONDS", 0)
    async with a_room(rules=RULES) as room:
        await create(room, 1)
        await room.tick()
        room.wall += 100_000
        room.sweeper._interval = lambda: 0
        room.store.refuse(UNAVAILABLE, room.store.dues)
        running = asyncio.create_task(room.sweeper.run())
        await settle()
        assert "sweep.failed" in room.log.events
        room.store.refuse(None, room.store.dues)
        await settle()
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# -- steps


def due(size: int) -> Due:
    return Due(1, "s", LIVE, 0, size)


def test_steps_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeper_module, "STEP_BYTES", 100)
    sizes = [60, 40, 1, 99, 500, 10, 90, 1]
    assert [[d.size for d in step] for step in _steps([due(s) for s in sizes])] == [
        [60, 40],
        [1, 99],
        [500],
        [10, 90],
        [1],
    ]
    assert [[d.size for d in step] for step in _steps([due(500), due(1)])] == [[500], [1]]
