"""Reading what is not in memory: shared reads, failures, and dropping what is not in use."""

import asyncio
from typing import Any

import pytest

from stui_sessions.errors import StorageError
from stui_sessions.server import loader as loader_module
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.model import Session, Totals
from stui_sessions.sessions.residents import SESSION_COST, GroupKey, owner_key
from tests.server.desk import START, request
from tests.server.room import UNAVAILABLE, FaultyStore, Room, a_room, settle


def owner(client_id: str) -> GroupKey:
    key = owner_key("", client_id)
    assert key is not None
    return key


async def a_store(count: int, size: int = 0) -> FaultyStore:
    """`count` sessions s1, s2, … of clients c1, c2, …, in snapshots."""
    store = FaultyStore()
    await store.open()
    state = b'{"a":"%b"}' % (b"x" * size) if size else b"{}"
    sessions = [
        Session(n, f"s{n}", f"c{n}", START, START, START, 3600, session_state=state) for n in range(1, count + 1)
    ]
    await store.snapshot(1, sessions)
    await store.commit(1, [], Totals(count, count, count))
    store.snapshots.calls.clear()
    store.commits.calls.clear()
    return store


async def test_a_session_is_read_once_and_then_in_memory() -> None:
    async with a_room(await a_store(1)) as room:
        for _ in range(3):
            assert (await room.ask("get_session_info", session_id="s1"))["client_id"] == "c1"
        assert room.store.loads.calls == [["s1"]]


async def test_what_does_not_exist_is_remembered_too() -> None:
    async with a_room(await a_store(0)) as room:
        for _ in range(3):
            assert await room.ask("restore_session", session_id="x") == "session_not_found"
            assert (await room.ask("list_client_sessions", client_id="x"))["session_count"] == 0
        assert room.store.loads.calls == [["x"]]
        assert room.store.group_loads.calls == [[owner("x")]]


async def test_misses_of_one_turn_share_one_read() -> None:
    async with a_room(await a_store(20)) as room:
        peers = [room.peer() for _ in range(20)]
        for n, peer in enumerate(peers, 1):
            peer.ask(1, "get_session_info", session_id=f"s{n}")
        await settle()
        assert all(peer.codes == ["ok"] for peer in peers)
        assert room.store.loads.calls == [[f"s{n}" for n in range(1, 21)]]


async def test_misses_during_a_read_share_the_next_one() -> None:
    async with a_room(await a_store(5)) as room:
        room.store.loads.close()
        peers = [room.peer() for _ in range(5)]
        for n, peer in enumerate(peers, 1):
            peer.ask(1, "get_session_info", session_id=f"s{n}")
            await settle()
        assert room.store.loads.calls == [["s1"]]
        room.store.loads.open.set()
        await settle()
        assert room.store.loads.calls == [["s1"], ["s2", "s3", "s4", "s5"]]
        assert all(peer.codes == ["ok"] for peer in peers)


async def test_many_who_want_the_same_read_it_once() -> None:
    async with a_room(await a_store(1)) as room:
        peers = [room.peer() for _ in range(10)]
        for peer in peers:
            peer.ask(1, "restore_session", session_id="s1")
        await settle()
        assert room.store.loads.calls == [["s1"]]
        assert all(peer.codes == ["ok"] for peer in peers)


async def test_one_that_wants_it_while_it_is_being_read_is_served_too() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.loads.close()
        first, second = room.peer(), room.peer()
        first.ask(1, "restore_session", session_id="s1")
        await settle()
        second.ask(1, "restore_session", session_id="s1")
        await settle()
        room.store.loads.open.set()
        await settle()
        assert first.codes == second.codes == ["ok"]
        assert room.store.loads.calls == [["s1"]]


async def test_a_read_is_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "READ_AT_ONCE", 3)
    async with a_room(await a_store(8)) as room:
        peer = room.peer()
        peer.say(*(request(n, "get_session_info", session_id=f"s{n}") for n in range(1, 9)))
        await settle()
        assert peer.ids == list(range(1, 9))
        assert [len(call) for call in room.store.loads.calls] == [3, 3, 2]


async def test_others_go_on_while_one_waits_for_a_read() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.loads.close()
        room.peer().ask(1, "restore_session", session_id="s1")
        await settle()
        assert await room.ask("ping") == {"pong": True}
        assert (await room.ask("get_session_statistics"))["total_sessions"] == 1


# -- failures


async def test_a_read_that_fails_is_told_and_the_next_one_tries_again() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.refuse(UNAVAILABLE, room.store.loads)
        for _ in range(3):
            assert await room.ask("restore_session", session_id="s1") == "storage_unavailable"
        assert room.log.events == ["storage.read_failed"]  # once per outage
        room.store.refuse(None, room.store.loads)
        assert (await room.ask("restore_session", session_id="s1"))["session_id"] == "s1"


async def test_a_clients_read_that_fails() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.refuse(StorageError("broken"), room.store.group_loads)
        assert await room.ask("create_session", client_id="me") == "storage_unavailable"
        assert await room.ask("list_client_sessions", client_id="c1") == "storage_unavailable"
        assert (await room.ask("restore_session", session_id="s1"))["session_id"] == "s1"


async def test_a_read_that_fails_harms_nobody_who_does_not_need_it() -> None:
    async with a_room(await a_store(2)) as room:
        await room.ask("get_session_info", session_id="s1")
        room.store.refuse(UNAVAILABLE, room.store.loads)
        peer = room.peer()
        peer.say(request(1, "restore_session", session_id="s2"), request(2, "restore_session", session_id="s1"))
        await settle()
        assert peer.codes == ["storage_unavailable", "ok"]


# -- peers that go


async def test_a_peer_that_went_is_no_trouble() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.loads.close()
        peer = room.peer()
        peer.ask(1, "restore_session", session_id="s1")
        await settle()
        peer.dialogue.abandon()
        room.store.loads.open.set()
        await settle()
        assert peer.replies == []


# -- reading for the sweeper


async def test_reading_on_behalf_of_the_server_returns_when_it_is_in_memory() -> None:
    async with a_room(await a_store(2)) as room:
        await room.loader.load(NotResident(sessions=("s1", "s2", "nobody"), groups=(owner("c1"),)))
        assert set(room.book.residents.sessions) == {"s1", "s2", "nobody"}
        assert list(room.book.residents.groups) == [owner("c1")]
        await room.loader.load(NotResident(sessions=("s1",)))
        assert len(room.store.loads.calls) == 1


async def test_both_kinds_of_reading_take_turns() -> None:
    """`FaultyStore` checks that reading calls do not overlap."""
    async with a_room(await a_store(3)) as room:
        room.store.loads.close()
        peer = room.peer()
        peer.ask(1, "restore_session", session_id="s1")
        await settle()
        loading = asyncio.create_task(room.loader.load(NotResident(sessions=("s1", "s2"))))
        due = asyncio.create_task(room.loader.due(0, START + 10**9, (-1, -1), 10))
        await settle()
        room.store.loads.open.set()
        await asyncio.gather(loading, due)
        await settle()
        assert peer.codes == ["ok"]
        assert room.store.loads.calls == [["s1"], ["s2"]]


async def test_reading_for_the_server_tells_of_failures() -> None:
    async with a_room(await a_store(1)) as room:
        room.store.refuse(UNAVAILABLE, room.store.loads)
        with pytest.raises(StorageError):
            await room.loader.load(NotResident(sessions=("s1",)))


# -- memory


async def restore_all(room: Room, count: int, **more: Any) -> None:
    for n in range(1, count + 1):
        assert "session_id" in await room.ask("restore_session", session_id=f"s{n}", **more)


async def test_what_is_read_is_dropped_again_when_memory_is_short() -> None:
    async with a_room(await a_store(50), resident_limit=10 * SESSION_COST) as room:
        for n in range(1, 51):
            await room.ask("get_session_info", session_id=f"s{n}")
            assert room.book.residents.bytes <= 11 * SESSION_COST
        assert await room.ask("get_session_info", session_id="s1")


async def test_sessions_that_were_only_restored_leave_memory_too() -> None:
    """Their activity must be written first, though there is nothing to commit."""
    async with a_room(await a_store(50), resident_limit=10 * SESSION_COST) as room:
        room.wall = START + 1000  # within the slack: no journal entry
        await restore_all(room, 50)
        assert room.store.commits.calls == []
        await room.tick()
        assert room.book.residents.bytes <= 10 * SESSION_COST
        await room.tick()
        assert room.store.stored["s1"].active_at == START + 1000


async def test_the_writer_hears_of_activity_that_has_to_be_written() -> None:
    async with a_room(await a_store(50), resident_limit=10 * SESSION_COST) as room:
        await room.tick()  # nothing to do: the writer sleeps, without a timer
        assert room.writer._timer is None
        room.wall = START + 1000
        await restore_all(room, 50)
        assert room.writer._timer is not None


async def test_sessions_that_grew_leave_memory_when_they_are_written() -> None:
    """Without a single read: who only writes must not fill the memory."""
    async with a_room(resident_limit=20 * SESSION_COST) as room:
        ids = [(await room.ask("create_session", client_id="me"))["session_id"] for _ in range(10)]
        for session_id in ids:
            await room.ask("update_session_state", session_id=session_id, state_data={"a": "x" * 10_000})
        assert room.book.residents.bytes > 100_000
        loads = len(room.store.loads.calls)
        await room.tick()
        assert len(room.store.loads.calls) == loads
        assert room.book.residents.bytes <= 20 * SESSION_COST
        restored = await room.ask("restore_session", session_id=ids[0])
        assert len(restored["session_state"]["a"]) == 10_000


async def test_a_session_larger_than_the_limit_can_be_used() -> None:
    async with a_room(await a_store(3, size=5000), resident_limit=1000) as room:
        await restore_all(room, 3)
        updated = await room.ask("update_session_state", session_id="s1", state_data={"b": 1})
        assert updated["revision"] == 2
        assert (await room.ask("list_client_sessions", client_id="c1"))["session_count"] == 1


async def test_a_list_of_many_sessions_can_be_made_with_little_memory() -> None:
    async with a_room(resident_limit=1000) as room:
        for _ in range(20):
            await room.ask("create_session", client_id="me", session_state={"a": "x" * 1000})
        await room.tick()
        assert (await room.ask("list_client_sessions", client_id="me"))["session_count"] == 20


async def test_a_list_that_takes_several_reads_can_be_made_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "READ_AT_ONCE", 10)
    async with a_room(resident_limit=1000) as room:
        for _ in range(20):
            await room.ask("create_session", client_id="me", session_state={"a": "x" * 1000})
        await room.tick()
        peer = room.peer()
        peer.ask(1, "list_client_sessions", client_id="me")
        for _ in range(20):
            await settle()
        assert peer.codes == ["ok"]


async def test_loads_wait_for_snapshots_while_dirty_sessions_crowd_the_memory() -> None:
    """A session with changes that are in no snapshot cannot be dropped, so reading on would have no bound."""
    async with a_room(await a_store(100), resident_limit=20_000) as room:
        room.store.snapshots.close()
        peer = room.peer()
        for n in range(1, 41):
            peer.ask(n, "update_session_state", session_id=f"s{n}", state_data={"a": n})
            await settle()
        assert len(peer.codes) < 40
        assert room.book.residents.bytes < 2 * 20_000
        room.store.snapshots.open.set()
        for _ in range(40):
            await settle()
        assert peer.codes == ["ok"] * 40


async def test_a_disk_that_takes_no_snapshots_does_not_stop_loads_for_ever() -> None:
    async with a_room(await a_store(100), resident_limit=20_000) as room:
        room.store.snapshots.error = UNAVAILABLE
        for n in range(1, 41):
            assert "revision" in await room.ask("update_session_state", session_id=f"s{n}", state_data={"a": n})


async def test_after_large_sessions_fewer_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "READ_BYTES", 0)
    async with a_room(await a_store(100)) as room:
        await room.loader.load(NotResident(sessions=("s1",)))
        await room.loader.load(NotResident(sessions=("s2",)))
        assert room.loader._at_once == loader_module.READ_AT_ONCE // 4


@pytest.mark.parametrize(
    ("command", "more"), [("close_session", {}), ("delete_session", {}), ("delete_session", {"purge": True})]
)
async def test_who_is_counted_after_a_kill(command: str, more: dict[str, Any]) -> None:
    """What was ended after the last snapshot is stored as live still, and its client has nobody."""
    store = FaultyStore()
    async with a_room(store) as room:
        await room.ask("create_session", client_id="me", session_id="a")
        await room.writer.snapshot_all()
        await room.ask(command, session_id="a", **more)
    async with a_room(store) as room:
        assert (await room.ask("get_session_statistics"))["active_clients"] == 0
        await room.ask("open_session", client_id="me", session_id="b")
        assert (await room.ask("get_session_statistics"))["active_clients"] == 1
        assert (await room.ask("list_client_sessions", client_id="me"))["session_count"] == 1
        await room.ask("close_session", session_id="b")
        assert (await room.ask("get_session_statistics"))["active_clients"] == 0
