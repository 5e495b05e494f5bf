"""Group commit, failures of the disk, snapshots between commits, the bound of the journal."""

import asyncio
from typing import Any

import pytest

from stui_sessions.errors import StorageDamaged
from stui_sessions.server import writer as writer_module
from stui_sessions.server.writer import RETRY_SECONDS, JournalRules
from stui_sessions.sessions.model import LIVE, Created, Removed, Session, Updated
from tests.server.room import UNAVAILABLE, FaultyStore, Room, a_room, settle


async def create(room: Room, count: int = 1, **parameters: Any) -> list[str]:
    return [(await room.ask("create_session", client_id="me", **parameters))["session_id"] for _ in range(count)]


# -- commits


async def test_a_change_is_committed_and_then_answered() -> None:
    async with a_room() as room:
        room.store.commits.close()
        peer = room.peer()
        peer.ask(1, "create_session", client_id="me")
        await settle()
        assert len(room.store.commits.calls) == 1
        assert peer.replies == []
        room.store.commits.open.set()
        await settle()
        assert peer.codes == ["ok"]
        assert room.store.journaled == [1]


async def test_all_changes_made_during_a_commit_share_the_next_one() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.commits.close()
        peers = [room.peer() for _ in range(20)]
        for peer in peers:
            peer.ask(1, "update_session_state", session_id=session_id, state_data={"a": 1})
            await settle()
        assert len(room.store.commits.calls) == 2  # the creation, and the first of these
        room.store.commits.open.set()
        await settle()
        assert [len(records) for _, records in room.store.commits.calls] == [1, 1, 19]
        assert all(peer.codes == ["ok"] for peer in peers)


async def test_what_needs_no_commit_makes_none() -> None:
    async with a_room() as room:
        await room.ask("ping")
        await room.ask("list_client_sessions", client_id="me")
        assert room.store.commits.calls == []


async def test_the_totals_go_with_each_commit() -> None:
    store = FaultyStore()
    async with a_room(store) as room:
        (session_id,) = await create(room)
        await create(room, 2)
        await room.ask("close_session", session_id=session_id)
    async with a_room(store) as room:
        statistics = await room.ask("get_session_statistics")
        assert (statistics["total_sessions"], statistics["active_clients"]) == (2, 1)


# -- a disk that refuses


async def test_writes_are_refused_while_the_disk_refuses_and_work_again_when_it_is_back() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.refuse(UNAVAILABLE)
        for _ in range(3):
            code = await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
            assert code == "storage_unavailable"
            assert await room.ask("create_session", client_id="me") == "storage_unavailable"
            assert (await room.ask("restore_session", session_id=session_id))["session_state"] == {}
        room.store.refuse(None)
        updated = await room.ask("update_session_state", session_id=session_id, state_data={"b": 1})
        assert updated["session_state"] == {"b": 1}
        assert updated["revision"] == 2


async def test_an_outage_is_logged_once_and_its_end_too() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.refuse(UNAVAILABLE, room.store.commits)
        for _ in range(5):
            await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
        room.store.refuse(None)
        for _ in range(2):
            await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
        assert room.log.events == ["storage.failed", "storage.recovered"]


async def test_what_was_decided_during_a_commit_that_failed_is_decided_again() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.refuse(UNAVAILABLE)
        room.store.commits.close()
        first, second = room.peer(), room.peer()
        first.ask(1, "update_session_state", session_id=session_id, state_data={"a": 1})
        await settle()
        second.ask(1, "update_session_state", session_id=session_id, state_data={"b": 1})
        await settle()
        assert len(room.store.commits.calls) == 2
        room.store.commits.open.set()
        room.store.commits.close = lambda: None  # type: ignore[method-assign]
        await settle()
        assert first.codes == second.codes == ["storage_unavailable"]
        assert [number for number, _ in room.store.commits.calls] == [1, 2, 2]
        assert (await room.ask("get_session_info", session_id=session_id))["revision"] == 1


async def test_damage_stops_all_writing_for_good() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.refuse(StorageDamaged("a page is broken"))
        code = await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
        assert code == "storage_damaged"
        room.store.refuse(None)
        calls = len(room.store.commits.calls)
        code = await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
        assert code == "storage_damaged"
        await room.tick()
        assert len(room.store.commits.calls) == calls
        assert room.store.snapshots.calls == []
        assert (await room.ask("restore_session", session_id=session_id))["revision"] == 1  # reading goes on


async def test_damage_found_by_another_stops_a_round_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIECE_ROWS", 1)
    async with a_room() as room:
        await create(room, 3)
        room.store.snapshots.close()
        await room.tick()
        assert len(room.store.snapshots.calls) == 1
        room.writer.damage = StorageDamaged("found by the check")
        room.store.snapshots.open.set()
        await settle()
        assert len(room.store.snapshots.calls) == 1
        assert room.store.forgets.calls == []
        assert room.store.journaled == [1, 2, 3]


# -- snapshots


async def test_a_round_writes_the_latest_form_of_what_is_dirty_in_order_and_then_forgets() -> None:
    async with a_room() as room:
        ids = await create(room, 3)
        for state in ({"a": 1}, {"a": 2}):
            await room.ask("update_session_state", session_id=ids[1], state_data=state)
        await room.ask("update_session_state", session_id=ids[0], state_data={"b": 1})
        await room.tick()
        ((sequence, sessions),) = room.store.snapshots.calls
        assert sequence == 6
        assert [s.number for s in sessions] == [1, 2, 3]
        assert sessions[1].session_state == b'{"a":2}'
        assert room.store.forgets.calls == [6]
        assert room.store.journaled == [6]  # the newest stays
        assert not room.book.dirty
        assert room.writer.journal_bytes == 0


async def test_nothing_dirty_nothing_written() -> None:
    async with a_room() as room:
        await create(room)
        await room.tick()
        await room.tick()
        await room.tick()
        assert len(room.store.snapshots.calls) == 1


async def test_there_is_no_round_before_its_time() -> None:
    async with a_room() as room:
        await create(room, 5)
        await settle()
        assert room.store.snapshots.calls == []


async def test_only_committed_forms_are_written() -> None:
    """A change that is decided and not committed must not be in a snapshot: its commit may fail."""
    async with a_room() as room:
        ids = await create(room, 3)
        room.store.commits.close()
        first, second = room.peer(), room.peer()
        first.ask(1, "update_session_state", session_id=ids[0], state_data={"a": 1})
        await settle()
        second.ask(1, "update_session_state", session_id=ids[1], state_data={"b": 1})
        second.ask(2, "close_session", session_id=ids[2])
        second.ask(3, "create_session", client_id="me")
        room.store.snapshots.close()
        room.store.commits.open.set()
        await room.tick()  # the first change is on disk, and a piece of a snapshot on its way
        assert first.codes == ["ok"]
        assert len(room.store.snapshots.calls) == 1
        room.store.refuse(UNAVAILABLE, room.store.commits)
        room.store.snapshots.open.set()
        await settle()
        assert second.codes == ["storage_unavailable"] * 3
        assert sorted(room.store.stored) == ids
        states = [room.store.stored[i].session_state for i in ids]
        assert states == [b'{"a":1}', b"{}", b"{}"]
        assert {room.store.stored[i].status for i in ids} == {LIVE}


async def test_commits_go_on_between_the_pieces_of_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIECE_ROWS", 1)
    async with a_room() as room:
        ids = await create(room, 5)
        order: list[str] = []
        room.store.snapshots.calls = _Noting(order, "piece")
        room.store.commits.calls = _Noting(order, "commit")
        room.store.snapshots.close()
        await room.tick()
        room.peer().ask(1, "update_session_state", session_id=ids[4], state_data={"a": 1})
        room.store.snapshots.open.set()
        await settle()
        assert order == ["piece", "commit", "piece", "piece", "piece", "piece"]
        # Its journal entry is younger than the round: it stays.
        assert room.store.forgets.calls == [5]
        assert room.store.journaled == [6]
        assert room.writer.journal_bytes > 0


class _Noting(list[Any]):
    def __init__(self, order: list[str], name: str) -> None:
        super().__init__()
        self._order, self._name = order, name

    def append(self, item: Any) -> None:
        self._order.append(self._name)
        super().append(item)


async def test_pieces_are_bounded_in_rows_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIECE_ROWS", 4)
    monkeypatch.setattr(writer_module, "PIECE_BYTES", 1000)
    async with a_room() as room:
        await create(room, 4)
        await create(room, 3, session_state={"a": "x" * 600})
        await room.tick()
        pieces = [[s.number for s in sessions] for _, sessions in room.store.snapshots.calls]
        assert pieces == [[1, 2, 3, 4], [5, 6], [7]]


async def test_what_is_removed_is_deleted_and_what_never_was_is_not_written() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        await room.tick()
        await room.ask("close_session", session_id=session_id)
        room.wall += 10**9
        room.manager.sweep(session_id, room.clock())
        room.writer.wake()
        await room.tick()
        assert room.store.snapshots.calls[-1][1] == [Removed(1, session_id, "me", "", "closed")]
        assert room.store.stored == {}
        room.store.refuse(UNAVAILABLE, room.store.commits)
        assert await room.ask("create_session", client_id="me") == "storage_unavailable"
        calls = len(room.store.snapshots.calls)
        await room.tick()
        assert len(room.store.snapshots.calls) == calls
        assert not room.book.dirty


async def test_nothing_is_forgotten_of_a_round_that_failed() -> None:
    async with a_room() as room:
        await create(room, 2)
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        await room.tick()
        assert len(room.store.snapshots.calls) == 1
        assert room.store.forgets.calls == []
        assert room.store.journaled == [1, 2]
        assert room.writer.journal_bytes > 0
        room.store.refuse(None)
        await room.tick(RETRY_SECONDS)
        assert room.store.forgets.calls == [2]
        assert len(room.store.stored) == 2


async def test_forgetting_that_failed_is_tried_again() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.refuse(UNAVAILABLE, room.store.forgets)
        await room.tick()
        assert room.writer.journal_bytes > 0
        room.store.refuse(None)
        await room.ask("update_session_state", session_id=session_id, state_data={"a": 1})
        await room.tick()
        assert room.store.journaled == [2]
        assert room.writer.journal_bytes == 0


async def test_a_restart_after_any_of_this_finds_everything() -> None:
    store = FaultyStore()
    async with a_room(store) as room:
        ids = await create(room, 3)
        await room.tick()
        await room.ask("update_session_state", session_id=ids[0], state_data={"a": 1})
        await room.ask("close_session", session_id=ids[1])
    async with a_room(store) as room:
        assert (await room.ask("restore_session", session_id=ids[0]))["session_state"] == {"a": 1}
        assert await room.ask("restore_session", session_id=ids[1]) == "session_closed"
        assert (await room.ask("list_client_sessions", client_id="me"))["session_count"] == 2
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 2


# -- the bound of the journal


async def test_at_half_the_journal_a_round_begins_before_its_time() -> None:
    async with a_room(journal=JournalRules(limit=2000, interval=3600.0)) as room:
        for _ in range(50):
            await create(room, session_state={"a": "x" * 100})
            assert room.writer.journal_bytes < 2000
        assert room.store.snapshots.calls


async def test_with_the_journal_full_commits_wait_for_snapshots() -> None:
    async with a_room(journal=JournalRules(limit=1000, interval=3600.0)) as room:
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        while room.writer.journal_bytes < 1000:
            await create(room, session_state={"a": "x" * 100})
        journaled = room.store.journaled
        room.store.refuse(None)
        room.store.snapshots.close()
        peer = room.peer()
        peer.ask(1, "create_session", client_id="me")
        await settle()
        assert peer.replies == []
        assert room.store.journaled == journaled
        room.store.snapshots.open.set()
        await settle()
        assert peer.codes == ["ok"]
        assert room.writer.journal_bytes < 1000


async def test_with_the_journal_full_and_no_snapshots_writes_are_refused_and_nothing_spins() -> None:
    async with a_room(journal=JournalRules(limit=1000, interval=3600.0)) as room:
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        while room.writer.journal_bytes < 1000:
            await create(room, session_state={"a": "x" * 100})
        tries = len(room.store.snapshots.calls)
        for _ in range(3):
            assert await room.ask("create_session", client_id="me") == "storage_unavailable"
        await settle()
        await settle()
        assert len(room.store.snapshots.calls) <= tries + 4
        room.store.refuse(None)
        await create(room)


async def test_past_half_the_journal_a_refusing_disk_is_not_tried_without_end() -> None:
    async with a_room(journal=JournalRules(limit=2000, interval=3600.0)) as room:
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        while room.writer.journal_bytes < 1000:
            await create(room, session_state={"a": "x" * 100})
        for _ in range(20):
            await settle()
        assert len(room.store.snapshots.calls) == 1
        await room.tick(RETRY_SECONDS)
        assert len(room.store.snapshots.calls) == 2


# -- waiting for snapshots


async def test_waiting_for_snapshots_waits_for_all_that_is_committed() -> None:
    async with a_room() as room:
        await create(room, 2)
        await room.writer.snapshot_all()
        assert len(room.store.stored) == 2
        await room.writer.snapshot_all()  # nothing to wait for
        assert len(room.store.snapshots.calls) == 1
        await create(room)
        assert len(room.store.snapshots.calls) == 1  # asked for once, written once


async def test_waiting_for_snapshots_during_a_round_waits_for_the_next_one() -> None:
    """The round under way has begun before the change that matters."""
    async with a_room() as room:
        await create(room)
        await room.tick()
        (session_id,) = await create(room)
        room.store.snapshots.close()
        await room.tick()
        peer = room.peer()
        peer.ask(1, "update_session_state", session_id=session_id, state_data={"a": 1})
        waiting = [asyncio.create_task(room.writer.snapshot_all()) for _ in range(2)]
        await settle()
        room.store.snapshots.open.set()
        await asyncio.gather(*waiting)
        assert room.store.stored[session_id].session_state == b'{"a":1}'
        assert not room.book.dirty


async def test_asking_for_snapshots_brings_one_round_and_no_more() -> None:
    async with a_room() as room:
        (session_id,) = await create(room)
        room.store.snapshots.close()
        waiting = asyncio.create_task(room.writer.snapshot_all())
        await settle()
        room.peer().ask(1, "update_session_state", session_id=session_id, state_data={"a": 1})
        room.store.snapshots.open.set()
        await waiting
        await settle()
        assert room.book.dirty
        assert len(room.store.snapshots.calls) == 1


async def test_waiting_for_snapshots_ends_when_they_fail() -> None:
    async with a_room() as room:
        await create(room)
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        await room.writer.snapshot_all()
        assert room.book.dirty


async def test_waiting_for_snapshots_ends_when_damage_is_found() -> None:
    async with a_room() as room:
        await create(room)
        room.store.snapshots.close()
        await room.tick()
        waiting = asyncio.create_task(room.writer.snapshot_all())
        await settle()
        room.writer.damage = StorageDamaged("found by the check")
        room.store.snapshots.open.set()
        await waiting
        await room.writer.snapshot_all()


async def test_giving_up_waiting_harms_nobody() -> None:
    async with a_room() as room:
        await create(room)
        room.store.snapshots.close()
        first = asyncio.create_task(room.writer.snapshot_all())
        await settle()
        first.cancel()
        room.store.snapshots.open.set()
        await settle()
        assert len(room.store.stored) == 1


# -- stopping


async def test_stopping_commits_what_was_decided() -> None:
    async with a_room() as room:
        room.store.commits.close()
        first, second = room.peer(), room.peer()
        first.ask(1, "create_session", client_id="me")
        await settle()
        second.ask(1, "create_session", client_id="me")
        running = next(task for task in asyncio.all_tasks() if "Writer.run" in str(task.get_coro()))
        await room.writer.stop()
        room.store.commits.open.set()
        await asyncio.wait_for(running, 10)
        assert first.codes == second.codes == ["ok"]


async def test_stopping_does_not_hang_on_a_disk_that_refuses() -> None:
    async with a_room(journal=JournalRules(limit=2000, interval=3600.0)) as room:
        room.store.refuse(UNAVAILABLE, room.store.snapshots)
        while room.writer.journal_bytes < 1000:
            await create(room, session_state={"a": "x" * 100})
        running = next(task for task in asyncio.all_tasks() if "Writer.run" in str(task.get_coro()))
        await room.writer.stop()
        await asyncio.wait_for(running, 10)


async def test_records_reach_the_store_as_they_were_decided() -> None:
    async with a_room() as room:
        (session_id,) = await create(room, session_state={"a": 1})
        await room.ask("update_session_state", session_id=session_id, state_data={"b": 2})
        (_, (created,)), (_, (updated,)) = room.store.commits.calls
        assert isinstance(created, Created)
        assert isinstance(created.session, Session)
        assert updated == Updated(1, 2, room.wall, b'{"a":1,"b":2}', None, None, None)
