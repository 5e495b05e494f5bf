"""Reading what is not in memory: shared reads, their size, failures, crowded memory, reading ahead."""

from typing import Any

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.caller import ANYONE_LOCAL
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import SESSION_COST, About, Damaged, SessionData, session_key
from stui_sessions.engine import loader as module
from stui_sessions.errors import StorageError
from tests.engine.desk import Desk, request, stored_session

UNREADABLE = StorageError("the disk cannot be read")


def sessions(count: int, size: int = 0, client_id: str = "", **fields: Any) -> list[SessionData]:
    """s1, s2, … of the clients c1, c2, … or all of one."""
    state = b'{"a":"%b"}' % (b"x" * size) if size else b"{}"
    return [
        stored_session(f"s{n}", n, client_id or f"c{n}", session_state=state, **fields) for n in range(1, count + 1)
    ]


def reads(desk: Desk) -> list[list[str]]:
    """The ids that were asked for in each read."""
    return [[id.strip("\0") for _, _, id in keys] for keys in desk.store.reads.seen]


def info(session_id: str) -> bytes:
    return request(session_id, "get_session_info", session_id=session_id)


# -- sharing


def test_a_session_is_read_once_and_then_in_memory() -> None:
    with Desk(*sessions(1)) as desk:
        for _ in range(3):
            assert desk.ask("get_session_info", session_id="s1")["client_id"] == "c1"
        assert reads(desk) == [["s1"]]


def test_what_does_not_exist_is_remembered_too() -> None:
    with Desk() as desk:
        for _ in range(3):
            assert desk.ask("restore_session", session_id="x") == "session_not_found"
            assert desk.ask("list_client_sessions", client_id="nobody")["session_count"] == 0
        assert reads(desk) == [["x"], ["nobody"]]


def test_misses_of_one_turn_share_one_read() -> None:
    with Desk(*sessions(20)) as desk:
        peers = [desk.peer() for _ in range(20)]

        def ask_all() -> None:
            for n, peer in enumerate(peers, 1):
                peer.dialogue.receive([info(f"s{n}")])

        desk.call(ask_all)
        desk.settle()
        assert all(peer.codes == ["ok"] for peer in peers)
        assert reads(desk) == [[f"s{n}" for n in range(1, 21)]]


def test_misses_during_a_read_share_the_next_one() -> None:
    with Desk(*sessions(5)) as desk:
        desk.store.reads.closed = True
        peers = [desk.peer() for _ in range(5)]
        for n, peer in enumerate(peers, 1):
            peer.say(info(f"s{n}"))
            desk.settle()
        assert reads(desk) == [["s1"]]
        for _ in range(2):
            desk.store.reads.let_go()
            desk.settle()
        assert reads(desk) == [["s1"], ["s2", "s3", "s4", "s5"]]
        assert all(peer.codes == ["ok"] for peer in peers)


@pytest.mark.parametrize("during", [False, True])
def test_many_who_want_the_same_read_it_once(during: bool) -> None:
    with Desk(*sessions(1)) as desk:
        desk.store.reads.closed = True
        peers = [desk.peer() for _ in range(10)]
        for peer in peers:
            peer.say(info("s1"))
            if during:
                desk.settle()
        desk.settle()
        desk.store.reads.let_go()
        desk.settle()
        assert reads(desk) == [["s1"]]
        assert all(peer.codes == ["ok"] for peer in peers)


def test_one_decision_asks_for_all_that_it_lacks_at_once() -> None:
    with Desk(*sessions(5, client_id="me")) as desk:
        desk.ask("get_session_info", session_id="s2")
        desk.ask("list_client_sessions", client_id="me")
        assert reads(desk) == [["s2"], ["me"], ["s1", "s3", "s4", "s5"]]


def test_what_a_read_brings_is_no_better_than_what_is_in_memory() -> None:
    """It was asked for before there was such a session, and comes when that is not on disk yet."""
    with Desk(*sessions(1)) as desk:
        desk.ask("list_client_sessions", client_id="c1")
        desk.hold_commits()
        desk.store.reads.closed = True
        peer = desk.peer()
        peer.say(info("new1"))
        desk.settle()
        desk.peer().ask(1, "create_session", client_id="c1")
        desk.store.reads.let_go()
        desk.settle()
        desk.succeed()
        assert peer.codes == ["ok"]


def test_others_go_on_while_one_waits_for_a_read() -> None:
    with Desk(*sessions(1)) as desk:
        desk.store.reads.closed = True
        desk.peer().say(info("s1"))
        desk.settle()
        assert desk.ask("ping") == {"pong": True}
        assert desk.ask("get_session_statistics")["total_sessions"] == 1


# -- the size of a read


def test_a_read_is_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 3)
    with Desk(*sessions(8, client_id="me")) as desk:
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 8
        assert [len(ids) for ids in reads(desk)] == [1, 3, 3, 2]


def test_fewer_are_read_at_once_while_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 8)
    monkeypatch.setattr(module, "READ_BYTES", 150)
    with Desk(*sessions(21, size=100, client_id="me")) as desk:
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 21
        assert [len(ids) for ids in reads(desk)] == [1, 8, 4, 2, 1, 2, 1, 2, 1]


def test_reads_grow_again_to_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 4)
    with Desk(*sessions(12, client_id="me")) as desk:
        desk.engine.loader._at_once = 1
        desk.ask("list_client_sessions", client_id="me")
        assert [len(ids) for ids in reads(desk)] == [1, 2, 4, 4, 2]


# -- failures


def test_a_read_that_fails_is_told_and_the_next_one_tries_again() -> None:
    with Desk(*sessions(1)) as desk:
        for _ in range(2):
            desk.store.reads.error = UNREADABLE
            for _ in range(3):
                assert desk.ask("restore_session", session_id="s1") == "storage_unavailable"
                assert desk.ask("create_session", client_id="c1") == "storage_unavailable"
            desk.store.reads.error = None
            assert desk.ask("get_session", session_id="s1")["client_id"] == "c1"
            desk.engine.cache.drop(list(desk.engine.cache.entities))
        assert desk.log.events == ["storage.read_failed"] * 2  # once per outage
        assert not desk.engine.cache._pins


def test_a_read_that_fails_harms_nobody_who_does_not_need_it() -> None:
    with Desk(*sessions(2)) as desk:
        desk.ask("get_session_info", session_id="s1")
        desk.store.reads.error = UNREADABLE
        peer, other = desk.peer(), desk.peer()
        peer.say(info("s2"), info("s1"))
        other.say(info("s1"))
        desk.settle()
        assert (peer.codes, other.codes) == (["storage_unavailable", "ok"], ["ok"])


def test_a_read_that_fails_refuses_once_who_needs_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 2)
    with Desk(*sessions(6, client_id="me")) as desk:
        desk.store.reads.closed = True
        peer = desk.peer()
        peer.say(request(1, "list_client_sessions", client_id="me"), request(2, "ping"))
        desk.settle()
        for outcome in (desk.store.reads.let_go, lambda: desk.store.reads.fail(UNREADABLE)):
            outcome()
            desk.settle()
        assert peer.codes == ["storage_unavailable", "ok"]
        desk.store.reads.closed = False
        desk.store.reads.let_go()
        desk.settle()
        assert len(peer.replies) == 2
        assert not desk.engine.cache._pins


def test_a_damaged_session_is_told_and_the_rest_is_well() -> None:
    with Desk(*sessions(3, client_id="me")) as desk:
        key = session_key("", "s2")
        desk.store._entities[key] = Damaged(key)
        assert desk.ask("restore_session", session_id="s2") == "session_damaged"
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 2


def test_a_peer_that_went_is_no_trouble() -> None:
    with Desk(*sessions(2)) as desk:
        desk.store.reads.closed = True
        peer, other = desk.peer(), desk.peer()
        peer.say(info("s1"))
        other.say(info("s1"))
        desk.settle()
        peer.dialogue.abandon()
        desk.store.reads.let_go()
        desk.settle()
        assert (peer.replies, other.codes) == ([], ["ok"])
        assert not desk.engine.cache._pins


# -- memory


def test_what_is_read_is_dropped_again_when_memory_is_short() -> None:
    with Desk(*sessions(50), resident_limit=10 * (SESSION_COST + 20)) as desk:
        for n in range(1, 51):
            desk.ask("get_session_info", session_id=f"s{n}")
            assert desk.engine.cache.bytes <= desk.engine.cache.limit
        assert len(desk.engine.cache.entities) >= 9


@pytest.mark.parametrize("command", ["get_session_info", "restore_session", "update_session_state"])
def test_what_is_used_again_and_again_stays_when_memory_is_short(command: str) -> None:
    with Desk(*sessions(50), resident_limit=10 * (SESSION_COST + 20)) as desk:
        parameters = {"state_data": {}} if command == "update_session_state" else {}
        for n in range(2, 51):
            desk.ask(command, session_id="s1", **parameters)
            desk.ask("get_session_info", session_id=f"s{n}")
        assert [keys.count("s1") for keys in reads(desk)].count(1) == 1, "it was read more than once"


def test_sessions_that_grew_leave_memory_when_they_are_on_disk() -> None:
    """Without a single read: who only writes must not fill the memory."""
    with Desk(resident_limit=20 * SESSION_COST) as desk:
        ids = [desk.ask("create_session", client_id="me")["session_id"] for _ in range(10)]
        desk.store.reads.error = UNREADABLE
        for session_id in ids:
            desk.ask("update_session_state", session_id=session_id, state_data={"a": "x" * 10_000})
            assert desk.engine.cache.bytes <= desk.engine.cache.limit
        desk.store.reads.error = None
        assert len(desk.ask("restore_session", session_id=ids[0])["session_state"]["a"]) == 10_000


def test_a_list_that_takes_several_reads_can_be_made_with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", 3)
    with Desk(*sessions(20, size=1000, client_id="me"), resident_limit=1000) as desk:
        assert desk.ask("list_client_sessions", client_id="me")["session_count"] == 20
        assert not desk.engine.cache._pins


def crowd() -> list[SessionData]:
    """Five large sessions with external ids of the client a, and five of each of b and c."""
    state = b'{"a":"%b"}' % (b"x" * 10_000)
    owners = [("a", 5, True), ("b", 5, False), ("c", 5, False)]
    named = [(f"{client}{i}", client, external) for client, count, external in owners for i in range(count)]
    return [
        stored_session(
            *(name, number, client), session_state=state, about=About(external_id=name) if external else About()
        )
        for number, (name, client, external) in enumerate(named, 1)
    ]


@pytest.mark.parametrize("leaves", [False, True])
def test_while_memory_is_crowded_one_attempt_is_served_after_another(leaves: bool) -> None:
    """Each of them is decided in the end, but not all of them fill the memory at once; those that left wait."""
    rules = Rules(max_sessions_per_client=5, on_limit="evict_oldest")
    with Desk(*crowd(), rules=rules, resident_limit=30_000) as desk:
        for client in "abc":  # the owners are in memory
            desk.engine.loader.load(None, [key for key in desk.store._entities if key[2] == f"\0{client}"])
        desk.settle()
        desk.store.reads.seen.clear()
        desk.store.reads.closed = True
        a, b, c = [desk.peer() for _ in range(3)]
        a.ask(1, "create_session", client_id="a")
        desk.settle()  # its read of five sessions is on its way
        b.ask(1, "list_client_sessions", client_id="b")
        c.ask(1, "list_client_sessions", client_id="c")
        if leaves:
            b.dialogue.abandon()
        highest = 0
        while desk.store.reads.waiting:
            desk.store.reads.let_go()
            desk.settle()
            highest = max(highest, desk.engine.cache.pinned_bytes)
        first, *rest = [{id[0] for id in ids} for ids in reads(desk)]
        assert first == {"a"}
        assert rest[:2] == ([{"c"}, {"a"}] if leaves else [{"b"}, {"c"}])
        assert sorted(map(sorted, rest)) == [["a"], ["b"], ["c"]]
        assert a.codes == c.codes == ["ok"]
        assert b.codes == ([] if leaves else ["ok"])
        assert highest <= 70_000  # one and a little, not all three
        assert not desk.engine.cache._pins


class Bounded(list[Any]):
    """Takes so many and no more."""

    def append(self, item: Any) -> None:
        assert len(self) < 100, "it reads without end"
        super().append(item)


def test_one_that_is_refused_and_not_told_yet_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is crowded by what it has pinned, and there is nothing that it lacks any more."""
    monkeypatch.setattr(module, "READ_AT_ONCE", 1)
    with Desk(*sessions(4, size=5000, client_id="me"), resident_limit=1000) as desk:
        desk.store.reads.closed = True
        peer = desk.peer()
        peer.ask(1, "list_client_sessions", client_id="me")
        for _ in range(2):
            desk.settle()
            desk.store.reads.let_go()
        desk.settle()
        peer.pause()
        desk.store.reads.seen, desk.store.reads.closed = Bounded(), False
        desk.store.reads.fail(UNREADABLE)
        desk.settle()
        other = desk.peer()
        other.say(info("nobody"))
        desk.settle()
        assert other.codes == ["session_not_found"]
        peer.unpause()
        assert peer.codes == ["storage_unavailable"]
        assert not desk.engine.cache._pins


# -- reading ahead


def nobody() -> None:
    """Is never called: what is foreseen waits for nothing."""
    raise AssertionError


def foresee(desk: Desk, command: str, /, **parameters: Any) -> None:
    desk.call(desk.engine.foresee, desk.codec.decode(request(1, command, **parameters)), ANYONE_LOCAL, nobody)
    desk.settle()


def test_what_will_be_needed_is_read_and_not_kept_by_force() -> None:
    with Desk(*sessions(1)) as desk:
        foresee(desk, "restore_session", session_id="s1")
        assert reads(desk) == [["s1"]]
        assert session_key("", "s1") in desk.engine.cache.entities
        assert not desk.engine.cache._pins
        desk.ask("restore_session", session_id="s1")
        assert len(reads(desk)) == 1


def test_foreseeing_decides_nothing() -> None:
    with Desk(*sessions(1, client_id="me"), per_minute=1) as desk:
        desk.ask("list_client_sessions", client_id="me")
        for _ in range(3):
            foresee(desk, "create_session", client_id="me")
            foresee(desk, "close_session", session_id="s1")
            foresee(desk, "begin_backup")
        assert desk.store.commits.seen == []
        assert desk.world.numbers.last == 1
        assert desk.ask("get_session", session_id="s1")["is_active"]
        assert desk.ask("create_session", client_id="me")["is_active"]  # its rate is not used up


def test_a_fault_that_is_foreseen_is_told_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with Desk() as desk:
        monkeypatch.setattr(REGISTRY["ping"], "handler", broken)
        foresee(desk, "ping")
        assert desk.log.events == []
