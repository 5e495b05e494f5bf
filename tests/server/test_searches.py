"""Searches that take their time, while sessions come, change and go: the answer is right as of the decision."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stui_sessions.errors import Refusal
from stui_sessions.sessions import listing
from stui_sessions.sessions.finding import MAX_MATCHES, BackupPart, Listing
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.residents import SESSION_COST
from tests.server.desk import Peer, request
from tests.server.room import UNAVAILABLE, FaultyStore, Room, a_room, settle

RULES = Rules(max_sessions_per_client=3, on_limit="evict_oldest", default_timeout=100, keep_expired=50)


@asynccontextmanager
async def with_three(resident_limit: int = 2**40, rules: Rules = RULES) -> AsyncIterator[Room]:
    """Sessions a, b and c of the clients ca, cb and cc, in snapshots and (as far as can be) not in memory."""
    store = FaultyStore()
    async with a_room(store, rules) as room:
        for name in "abc":
            await room.ask("create_session", client_id=f"c{name}", session_id=name, title=f"title {name}")
            room.wall += 1000
        await room.writer.snapshot_all()
    async with a_room(store, rules, resident_limit=resident_limit) as room:
        room.wall += 10_000
        yield room
        await room.writer.snapshot_all()
        book = room.book
        book.mark_unrecorded(book.residents.unrecorded())
        await room.writer.snapshot_all()
        assert nothing_left(room)


def nothing_left(room: Room) -> bool:
    """All is in snapshots and nobody searches, so no search has to be corrected by anything."""
    overlay = room.book.overlay
    return (len(overlay), list(overlay._settled), overlay._searches, room.book.answers) == (0, [], {}, {})


def listed(peer: Peer) -> list[str]:
    """The ids in its last reply."""
    return [row["session_id"] for row in peer.replies[-1]["result"]["sessions"]]


async def held_up(room: Room, command: str = "list_sessions", /, **parameters: Any) -> Peer:
    """Somebody whose search has looked at the store and is not back yet."""
    room.store.searches.close()
    peer = room.peer()
    peer.ask(1, command, **parameters or {"sort": "created_at", "order": "asc"})
    await settle()
    assert peer.replies == []
    return peer


async def let_go(room: Room) -> None:
    room.store.searches.open.set()
    await settle()
    await settle()


# What happens meanwhile, and what a list of the live sessions is then.


async def nothing(room: Room) -> None:
    pass


async def created(room: Room) -> None:
    await room.ask("open_session", client_id="cd", session_id="d")


async def closed(room: Room) -> None:
    await room.ask("close_session", session_id="b")


async def deleted(room: Room) -> None:
    await room.ask("delete_session", session_id="b")


async def purged(room: Room) -> None:
    await room.ask("delete_session", session_id="b", purge=True)


async def replaced(room: Room) -> None:
    """Another session has the id."""
    await purged(room)
    await room.ask("open_session", session_id="b", client_id="cx")


async def evicted(room: Room) -> None:
    for name in "xyz":
        await room.ask("open_session", client_id="cb", resume=False, session_id=name)


async def come_and_gone(room: Room) -> None:
    await created(room)
    await room.ask("delete_session", session_id="d", purge=True)


async def brought_back(room: Room) -> None:
    await deleted(room)
    await room.ask("undelete_session", session_id="b")


async def expired(room: Room) -> None:
    await room.ask("update_session", session_id="b", timeout=5)


async def swept(room: Room) -> None:
    await expired(room)
    await room.sweeper.sweep()


HAPPENINGS: list[tuple[Callable[[Room], Awaitable[None]], str]] = [
    (nothing, "abc"),
    (created, "abcd"),
    (closed, "ac"),
    (deleted, "ac"),
    (purged, "ac"),
    (replaced, "acb"),
    (evicted, "acxyz"),
    (come_and_gone, "abc"),
    (brought_back, "abc"),
    (expired, "ac"),
    (swept, "ac"),
]

AFTERWARDS = ["in the journal", "in a snapshot", "out of memory"]


async def afterwards(room: Room, how: str) -> None:
    if how != "in the journal":
        await room.writer.snapshot_all()
    if how == "out of memory":
        room.book.mark_unrecorded(room.book.residents.unrecorded())
        await room.writer.snapshot_all()
        room.book.residents.trim(0)
        assert len(room.book.residents.sessions) == 0


@pytest.mark.parametrize("how", AFTERWARDS)
@pytest.mark.parametrize(("happening", "expected"), HAPPENINGS)
async def test_a_list_is_right_whatever_happens_meanwhile(
    happening: Callable[[Room], Awaitable[None]], expected: str, how: str
) -> None:
    async with with_three() as room:
        peer = await held_up(room)
        await happening(room)
        await afterwards(room, how)
        await let_go(room)
        assert listed(peer) == list(expected)
        # and it is the same when nobody is in the way
        again = await room.ask("list_sessions", sort="created_at", order="asc")
        assert [row["session_id"] for row in again["sessions"]] == list(expected)


@pytest.mark.parametrize("how", AFTERWARDS)
async def test_what_a_row_says_is_right_too(how: str) -> None:
    async with with_three() as room:
        peer = await held_up(room, sort="title")
        await room.ask("update_session", session_id="b", title="zebra", tags=["t"])
        await room.ask("update_session_state", session_id="b", state_data={"k": "value"})
        await afterwards(room, how)
        await let_go(room)
        assert listed(peer) == ["a", "c", "b"]
        row = peer.replies[0]["result"]["sessions"][2]
        assert (row["title"], row["tags"], row["revision"], row["state_bytes"]) == ("zebra", ["t"], 2, 19)


@pytest.mark.parametrize("how", AFTERWARDS)
async def test_the_order_of_activity_is_that_of_now(how: str) -> None:
    async with with_three() as room:
        peer = await held_up(room, sort="last_activity")
        await room.ask("touch_session", session_id="a")
        await afterwards(room, how)
        await let_go(room)
        assert listed(peer) == ["a", "c", "b"]


@pytest.mark.parametrize("how", AFTERWARDS)
async def test_a_reference_is_right_whatever_happens_meanwhile(how: str) -> None:
    async with with_three() as room:
        peers = [await held_up(room, "resolve_session", ref=f"title {name}") for name in "abx"]
        await room.ask("delete_session", session_id="a")
        await room.ask("update_session", session_id="b", title="title x")
        await afterwards(room, how)
        await let_go(room)
        assert [p.codes for p in peers] == [["session_not_found"], ["session_not_found"], ["ok"]]
        assert peers[2].replies[0]["result"]["session_id"] == "b"


@pytest.mark.parametrize("how", AFTERWARDS)
async def test_an_external_id_that_goes_from_one_to_another(how: str) -> None:
    async with with_three() as room:
        await room.ask("update_session", session_id="a", external_id="x")
        await room.writer.snapshot_all()
        peer = await held_up(room, "get_session", external_id="x")
        await room.ask("update_session", session_id="a", external_id=None)
        await room.ask("update_session", session_id="c", external_id="x")
        await afterwards(room, how)
        await let_go(room)
        assert peer.replies[0]["result"]["session_id"] == "c"


async def test_a_commit_that_fails_meanwhile_is_in_no_list() -> None:
    async with with_three() as room:
        peer = await held_up(room)
        room.store.refuse(UNAVAILABLE, room.store.commits)
        assert await room.ask("open_session", client_id="cd") == "storage_unavailable"
        assert await room.ask("delete_session", session_id="b") == "storage_unavailable"
        room.store.refuse(None)
        await let_go(room)
        assert listed(peer) == ["a", "b", "c"]


async def test_a_list_of_what_is_not_committed_yet_waits_for_it() -> None:
    async with with_three() as room:
        peer = await held_up(room)
        room.store.commits.close()
        room.peer().ask(1, "open_session", client_id="cd", session_id="d")
        await settle()
        await let_go(room)
        assert peer.replies == []
        room.store.commits.open.set()
        await settle()
        assert listed(peer) == ["a", "b", "c", "d"]


async def candidates(room: Room, ref: str) -> set[str]:
    """What is told of a reference that is ambiguous."""
    peer = room.peer()
    peer.ask(1, "resolve_session", ref=ref)
    for _ in range(3):
        await settle()
    assert peer.codes == ["reference_ambiguous"]
    return {candidate["session_id"] for candidate in peer.replies[0]["details"]["candidates"]}


async def test_more_stale_matches_than_a_search_tells_do_not_hide_the_true_one() -> None:
    """The store tells the first few; they may all be gone since."""
    async with with_three() as room:
        names = [f"n{n:02}" for n in range(3 * MAX_MATCHES)]
        for name in names:
            await room.ask("open_session", user_id=name, session_id=name, external_id="x", title="same")
        await room.writer.snapshot_all()
        assert await room.ask("get_session", external_id="x") == "external_id_ambiguous"
        for name in names[2:-5]:
            await room.ask("delete_session", session_id=name)
        assert await candidates(room, "same") == {*names[:2], *names[-5:]}
        for name in (*names[:2], *names[-5:-1]):
            await room.ask("delete_session", session_id=name)
        assert (await room.ask("get_session", external_id="x"))["session_id"] == names[-1]
        assert (await room.ask("resolve_session", ref="same"))["session_id"] == names[-1]
        await room.ask("delete_session", session_id=names[-1])
        assert await room.ask("resolve_session", ref="same") == "session_not_found"


async def test_matches_that_expired_unnoticed_do_not_hide_the_true_one() -> None:
    async with with_three() as room:
        names = [f"n{n:02}" for n in range(3 * MAX_MATCHES)]
        for name in names:
            timeout = 1 if name != names[-1] else 1000
            await room.ask("open_session", session_id=name, title="same", timeout=timeout)
        await room.writer.snapshot_all()
        room.wall += 5000
        assert (await room.ask("resolve_session", ref="same"))["session_id"] == names[-1]


# Pages.


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["created_at", "last_activity", "title"])
async def test_pages_that_have_to_be_corrected_leave_nothing_out(
    sort: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store looks at few rows more than a page has; many of them are gone, and others have changed."""
    monkeypatch.setattr(listing, "SPARE", 0)
    async with a_room(rules=Rules(max_sessions_per_client=100)) as room:
        names = [f"s{n:02}" for n in range(30)]
        for name in names:
            await room.ask("create_session", client_id="me", session_id=name, title=name)
            room.wall += 1000
        await room.writer.snapshot_all()
        for name in (*names[:9], *names[15:20], *names[25:]):
            await room.ask("delete_session", session_id=name)
        for name in (names[12], names[24]):
            await room.ask("update_session", session_id=name, tags=["changed"])
        left = [*names[9:15], *names[20:25]]
        walked: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await room.ask("list_sessions", sort=sort, order=order, limit=2, **cursor)
            walked += [row["session_id"] for row in page["sessions"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert walked == (left if order == "asc" else left[::-1])


async def test_a_walk_in_the_order_of_creation_while_sessions_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SPARE", 0)
    async with a_room(rules=Rules(max_sessions_per_client=1000)) as room:
        stay = [f"s{n:02}" for n in range(20)]
        for name in stay:
            await room.ask("create_session", client_id="me", session_id=name)
            await room.ask("create_session", client_id="me", session_id=f"{name}-goes")
        for order in ("asc", "desc"):
            walked: list[str] = []
            cursor: dict[str, str] = {}
            for n in range(1000):
                page = await room.ask("list_sessions", sort="created_at", order=order, limit=3, **cursor)
                walked += [row["session_id"] for row in page["sessions"]]
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
                await room.ask("delete_session", session_id=f"s{n:02}-goes", purge=n % 2 == 0)
                if n < 10:
                    await room.ask("create_session", client_id="me", session_id=f"{order}{n}")
                await room.ask("touch_session", session_id=stay[n % 20])
                if n % 3 == 0:
                    await room.writer.snapshot_all()
            assert len(set(walked)) == len(walked)
            expected = stay if order == "asc" else stay[::-1]
            assert [i for i in walked if i in stay] == expected


# A search that fails.


async def test_a_search_that_fails_is_told_to_those_who_asked_it() -> None:
    async with with_three() as room:
        peer = await held_up(room)
        room.store.searches.error = UNAVAILABLE
        other = room.peer()
        other.say(
            request(1, "get_session", session_id="a"),
            request(2, "list_sessions"),
            request(3, "list_client_sessions", client_id="cb"),
        )
        await let_go(room)
        assert peer.codes == ["storage_unavailable"]
        assert other.codes == ["ok", "storage_unavailable", "ok"]
        assert set(room.log.events) == {"storage.read_failed"}
        room.store.searches.error = None
        assert len((await room.ask("list_sessions"))["sessions"]) == 3


async def test_a_search_that_fails_after_a_commit_has_failed_refuses_no_other_request() -> None:
    """The commit's failure has put requests before the one that waits for the search."""
    async with with_three() as room:
        await room.ask("get_session", session_id="a")
        room.store.searches.close()
        room.store.commits.close()
        somebody, peer = room.peer(), room.peer()
        somebody.ask(1, "update_session_state", session_id="a", state_data={"k": 1})
        await settle()
        peer.say(request(1, "get_session", session_id="a"), request(2, "list_sessions"))
        await settle()
        room.store.refuse(UNAVAILABLE, room.store.commits, room.store.searches)
        room.store.commits.open.set()
        await settle()
        room.store.refuse(None)
        await let_go(room)
        assert somebody.codes == ["storage_unavailable"]
        assert peer.codes[0] == "ok"
        assert peer.replies[0]["result"]["revision"] == 1


async def test_a_search_that_breaks_leaves_nobody_waiting() -> None:
    """Whatever the fault is."""
    async with with_three() as room:
        room.store.searches.error = ValueError("a fault of ours")
        assert await room.ask("list_sessions") == "storage_unavailable"
        room.store.searches.error = None
        assert len((await room.ask("list_sessions"))["sessions"]) == 3


async def test_an_external_id_that_was_given_up_before_a_kill_names_nobody() -> None:
    """The journal does not say what a session's external id was before."""
    store = FaultyStore()
    async with a_room(store) as room:
        for user in "uv":
            await room.ask("open_session", user_id=user, session_id=f"{user}1", external_id="old")
        await room.writer.snapshot_all()
        await room.ask("update_session", session_id="u1", external_id="new")
        await room.ask("delete_session", session_id="v1", purge=True)
        await room.ask("open_session", user_id="w", session_id="v1", external_id="old")
    async with a_room(store) as room:
        assert await room.ask("get_session", external_id="old", user_id="u") == "session_not_found"
        assert await room.ask("get_session", external_id="old", user_id="v") == "session_not_found"
        assert (await room.ask("get_session", external_id="old", user_id="w"))["session_id"] == "v1"
        assert (await room.ask("get_session", external_id="old"))["session_id"] == "v1"
        assert (await room.ask("get_session", external_id="new", user_id="u"))["session_id"] == "u1"
        for user in "uv":
            opened = await room.ask("open_session", user_id=user, session_id=f"{user}2", external_id="old")
            assert opened["session_id"] == f"{user}2"
            assert (await room.ask("get_session", external_id="old", user_id=user))["session_id"] == f"{user}2"


async def test_a_session_that_a_search_has_found_and_that_cannot_be_read() -> None:
    async with with_three() as room:
        await room.ask("update_session", session_id="a", external_id="x")
        await afterwards(room, "out of memory")
        room.store.loads.error = UNAVAILABLE
        assert await room.ask("get_session", external_id="x") == "storage_unavailable"
        room.store.loads.error = None
        assert (await room.ask("get_session", external_id="x"))["session_id"] == "a"


async def test_a_session_that_was_found_is_in_memory_when_it_is_needed() -> None:
    """However little there is: else the one who asks would search again and again."""
    async with with_three(resident_limit=0) as room:
        await room.ask("update_session", session_id="a", external_id="x")
        await afterwards(room, "out of memory")
        room.store.searches.calls.clear()
        room.store.searches.close()
        peer = room.peer()
        peer.ask(1, "get_session", external_id="x")
        for n in range(10):
            await settle()
            room.store.searches.open.set()
            await asyncio.sleep(0)
            room.store.searches.close()
            await room.ask("get_session", session_id="bc"[n % 2])  # which drops others
        assert peer.codes == ["ok"]
        assert len(room.store.searches.calls) == 2
        room.store.searches.open.set()


# Sharing, leaving, order.


async def test_equal_searches_share_one() -> None:
    async with with_three() as room:
        room.store.searches.close()
        peers = [room.peer() for _ in range(5)]
        for peer in peers:
            peer.ask(1, "list_sessions", limit=2)
            await settle()
        other = room.peer()
        other.ask(1, "list_sessions", limit=3)
        await settle()
        assert len(room.store.searches.calls) == 2
        await room.ask("open_session", client_id="cd", session_id="d")
        await let_go(room)
        assert [listed(peer) for peer in peers] == [["d", "c"]] * 5
        assert listed(other) == ["d", "c", "b"]
        assert len(room.store.searches.calls) == 2


async def test_an_answer_is_not_kept() -> None:
    async with with_three() as room:
        for _ in range(3):
            await room.ask("list_sessions")
        assert len(room.store.searches.calls) == 3
        assert all(isinstance(call, Listing) for call in room.store.searches.calls)


async def test_a_peer_that_goes_while_its_search_runs() -> None:
    async with with_three() as room:
        peer = await held_up(room)
        stays = room.peer()
        stays.ask(1, "list_sessions", sort="created_at", order="asc")
        await settle()
        peer.dialogue.abandon()
        await let_go(room)
        assert peer.replies == []
        assert listed(stays) == ["a", "b", "c"]
        alone = await held_up(room)
        alone.dialogue.abandon()
        await let_go(room)
        assert alone.replies == []


async def test_a_peer_that_does_not_read_when_its_search_is_back() -> None:
    async with with_three() as room:
        peer = await held_up(room)
        peer.pause()
        await let_go(room)
        assert peer.replies == []
        await room.ask("delete_session", session_id="b")
        peer.unpause()
        await settle()
        assert listed(peer) == ["a", "c"]


async def test_requests_behind_a_search_keep_their_order() -> None:
    async with with_three() as room:
        room.store.searches.close()
        peer, other = room.peer(), room.peer()
        peer.say(
            request(1, "list_sessions", sort="created_at"),
            request(2, "delete_session", session_id="b"),
            request(3, "list_sessions", sort="created_at"),
            request(4, "ping"),
            request(5, "undelete_session", session_id="b"),
            request(6, "list_sessions", sort="created_at"),
        )
        await settle()
        other.ask(1, "ping")
        await settle()
        assert (peer.ids, other.ids) == ([], [1])
        for _ in range(3):
            await let_go(room)
        assert peer.ids == [1, 2, 3, 4, 5, 6]
        ids = [{r["session_id"] for r in reply["result"].get("sessions", ())} for reply in peer.replies]
        assert (ids[0], ids[2], ids[5]) == ({"a", "b", "c"}, {"a", "c"}, {"a", "b", "c"})


# No leak.


async def test_many_searches_that_overlap_leave_nothing_behind() -> None:
    """There is always one under way, and yet what an old one needed does not stay for ever."""
    async with with_three() as room:
        pieces: list[asyncio.Event] = []
        found = room.store.search

        async def search(question: Any) -> Any:
            answer, event = await found(question), asyncio.Event()
            pieces.append(event)
            await event.wait()
            return answer

        room.store.search = search  # type: ignore[method-assign]
        peers = []
        for n in range(60):
            peer = room.peer()
            peer.ask(1, "list_sessions", limit=n + 1, sort="created_at", order="asc")
            peers.append(peer)
            await room.ask("open_session", session_id=f"s{n}", title="new")
            await room.ask("delete_session", session_id=f"s{n}", purge=True)
            await room.writer.snapshot_all()
            if n >= 3:
                pieces[n - 3].set()
            await settle()
            assert len(room.book.overlay) <= 8
        for event in pieces[-3:]:
            event.set()
        await settle()
        assert [peer.codes for peer in peers] == [["ok"]] * 60
        assert listed(peers[-1]) == ["a", "b", "c"]
        assert nothing_left(room)


@pytest.mark.parametrize("back", [0, 1, 2000, 90_000])
async def test_use_while_the_clock_is_set_back_leaves_nothing_behind(back: int) -> None:
    async with with_three() as room:
        await room.ask("touch_session", session_id="a")
        await afterwards(room, "out of memory")
        room.wall -= back
        await room.ask("touch_session", session_id="a")
        told = (await room.ask("get_session", session_id="a"))["last_activity"]
        await afterwards(room, "out of memory")
        assert nothing_left(room)
        assert (await room.ask("get_session", session_id="a"))["last_activity"] == told


async def test_memory_stays_bounded_while_a_search_is_held_up() -> None:
    """What the search needs is kept beside the residents; they go on being dropped."""
    async with with_three(resident_limit=5 * SESSION_COST) as room:
        peer = await held_up(room)
        for n in range(40):
            await room.ask("open_session", session_id=f"s{n}")
        await room.writer.snapshot_all()
        assert room.book.residents.bytes <= 6 * SESSION_COST
        await let_go(room)
        assert len(listed(peer)) == 20


async def test_a_copy_that_takes_long_keeps_nothing_in_memory() -> None:
    """Only a search needs what a snapshot has caught up with; a copy may take minutes."""
    async with a_room() as room:
        going = asyncio.Event()

        async def read(part: BackupPart) -> Refusal:
            await going.wait()
            return Refusal("backup_not_found", "there is none")

        room.loader.read_backup = read
        reader = room.peer()
        reader.ask(1, "read_backup", backup_id="x")
        await settle()
        await room.ask("create_session", client_id="me")
        assert len(room.book.overlay) == 1
        await room.tick()
        assert len(room.book.overlay) == 0
        going.set()
        await settle()
        assert reader.codes == ["backup_not_found"]
