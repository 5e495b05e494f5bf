"""Background expiry: what is due, in small steps, whatever the disk does."""

import asyncio

import pytest

from stui_sessions.errors import StorageError
from stui_sessions.server import sweeper as sweeper_module
from stui_sessions.server.sweeper import _steps
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import CLOSED, EXPIRED, LIVE, Ended, Removed
from stui_sessions.sessions.residents import SESSION_COST
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
