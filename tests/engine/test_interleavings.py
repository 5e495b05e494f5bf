"""Every order of requests, commits, loads and failures keeps the promises made to each peer."""

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import LIVE
from stui_sessions.errors import StorageError
from stui_sessions.gates.lines import dialogue as dialogue_module
from tests.engine.desk import UNAVAILABLE, Desk, Peer, Reply, StoreGate, request, stored_session

SESSIONS = ["s1", "s2", "s3"]
PHOENIX = "s4"
"""The one session that comes back after its end, so that what was told of it may be overtaken."""

PEERS = 3
UNREADABLE = StorageError("the disk cannot be read")


class Witness(Peer):
    """A peer that checks each reply at the moment it is sent."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self.saved: dict[str, int] = {}
        """The revisions that it was told of its own updates."""
        self.gone = False
        self.on_send = self.check

    def send_request(self, command: str, **parameters: Any) -> None:
        number = len(self.asked)
        self.asked.append((number, command, parameters))
        self.say(b"\r", request(number, command, **parameters), b" ")

    def check(self, replies: list[Reply]) -> None:
        assert not self.gone
        for place, reply in enumerate(self.replies[-len(replies) :], len(self.replies) - len(replies)):
            assert reply["id"] == place, "each request once, in order"
            _, command, parameters = self.asked[place]
            if reply["status"] == "success":
                self.check_truth(command, parameters, reply["result"])
            else:
                self.check_refusal(parameters, reply["error_code"])

    def check_truth(self, command: str, parameters: dict[str, Any], result: dict[str, Any]) -> None:
        """What is told is on disk."""
        session = self.desk.committed(result.get("session_id", ""))
        if "revision" in result:
            assert session is not None
            assert session.revision >= result["revision"]
        if command == "close_session" and parameters["session_id"] != PHOENIX:
            assert session is not None
            assert (
                session.status != LIVE
                or session.active_at + session.timeout * 1000 <= self.desk.wall
                or any(command == "undelete_session" for _, command, _ in self.asked)
            )
        if session is not None and "session_state" in result and session.revision == result["revision"]:
            assert result["session_state"] == json.loads(session.session_state)
        for row in result.get("sessions", ()):
            told = self.desk.committed(row["session_id"])
            assert told is not None
            assert told.revision >= row["revision"] >= self.saved.get(row["session_id"], 0)
        if command == "update_session_state":
            self.saved[parameters["session_id"]] = result["revision"]

    def check_refusal(self, parameters: dict[str, Any], code: str) -> None:
        if code in ("session_closed", "session_deleted"):
            session_id = parameters["session_id"]
            session = self.desk.committed(session_id)
            assert session is not None
            assert session_id == PHOENIX or session.status != LIVE
        assert code != "internal_error"


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(dialogue_module, "TURN", 5)
        self.patch.setattr(dialogue_module, "LOOK_AHEAD", 3)
        self.patch.setattr(dialogue_module, "HELD_LIMIT", 3000)
        stored = [stored_session(i, n, f"c{n % 2}") for n, i in enumerate([*SESSIONS, PHOENIX], 1)]
        self.desk = Desk(*stored, rules=Rules(max_sessions_per_client=100, max_state_bytes=10_000))
        for gate in self.gates:
            gate.closed = True
        self.peers = [Witness(self.desk) for _ in range(PEERS)]
        self.everybody = list(self.peers)
        self.patches = 0

    def teardown(self) -> None:
        try:
            for peer in self.peers:
                peer.unpause()
            for gate in self.gates:
                gate.closed = False
                while gate.waiting:
                    gate.let_go()
                    self.desk.settle()
            self.desk.settle()
            self.everybody_was_answered()
            self.what_was_acknowledged_is_there_and_what_was_refused_is_not()
            self.nothing_is_pinned()
        finally:
            self.patch.undo()
            self.desk.close()

    # -- the peers

    @rule(peer=st.integers(0, PEERS - 1), session=st.sampled_from(SESSIONS))
    def update(self, peer: int, session: str) -> None:
        self.patches += 1
        self.peers[peer].send_request("update_session_state", session_id=session, state_data={f"k{self.patches}": 1})

    @rule(
        peer=st.integers(0, PEERS - 1),
        session=st.sampled_from([*SESSIONS, "nobody"]),
        command=st.sampled_from(["restore_session", "restore_session", "get_session_info"]),
    )
    def read(self, peer: int, session: str, command: str) -> None:
        self.peers[peer].send_request(command, session_id=session)

    @rule(peer=st.integers(0, PEERS - 1), session=st.sampled_from(SESSIONS))
    def update_too_much(self, peer: int, session: str) -> None:
        self.patches += 1
        state = {f"k{self.patches}": "x" * 10_000}
        self.peers[peer].send_request("update_session_state", session_id=session, state_data=state)

    @rule(peer=st.integers(0, PEERS - 1), client=st.sampled_from(["c0", "c1"]))
    def create(self, peer: int, client: str) -> None:
        self.peers[peer].send_request("create_session", client_id=client)

    @rule(peer=st.integers(0, PEERS - 1), client=st.sampled_from(["c0", "c1", "c2"]))
    def list(self, peer: int, client: str) -> None:
        self.peers[peer].send_request("list_client_sessions", client_id=client)

    @rule(
        peer=st.integers(0, PEERS - 1),
        client=st.sampled_from(["c0", "c1", "c2"]),
        own=st.sampled_from([{}, {"session_id": "mine", "on_conflict": "reuse"}, {"session_id": "s1"}]),
    )
    def open(self, peer: int, client: str, own: dict[str, Any]) -> None:
        self.peers[peer].send_request("open_session", client_id=client, **own)

    @rule(
        peer=st.integers(0, PEERS - 1),
        sort=st.sampled_from(["last_activity", "created_at", "title"]),
        limit=st.integers(1, 3),
        only=st.sampled_from([{}, {"client_id": "c0"}, {"status": "closed"}]),
    )
    def list_pages(self, peer: int, sort: str, limit: int, only: dict[str, Any]) -> None:
        self.peers[peer].send_request("list_sessions", sort=sort, limit=limit, **only)

    @rule(peer=st.integers(0, PEERS - 1), session=st.sampled_from(SESSIONS), title=st.sampled_from(["a", "b"]))
    def rename(self, peer: int, session: str, title: str) -> None:
        self.peers[peer].send_request("update_session_title", session_id=session, title=title)

    @rule(peer=st.integers(0, PEERS - 1), ref=st.sampled_from(["s1", "a", "session", "mine"]))
    def resolve(self, peer: int, ref: str) -> None:
        self.peers[peer].send_request("resolve_session", ref=ref)

    @rule(
        peer=st.integers(0, PEERS - 1),
        command=st.sampled_from(["delete_session", "undelete_session", "close_session", "restore_session"]),
    )
    def delete(self, peer: int, command: str) -> None:
        self.peers[peer].send_request(command, session_id=PHOENIX)

    @rule(peer=st.integers(0, PEERS - 1), command=st.sampled_from(["ping", "get_session_statistics", "unknown"]))
    def small(self, peer: int, command: str) -> None:
        self.peers[peer].send_request(command)

    @rule(peer=st.integers(0, PEERS - 1), session=st.sampled_from(SESSIONS), sure=st.integers(0, 3))
    def close(self, peer: int, session: str, sure: int) -> None:
        if sure == 3:  # seldom: after it, there is little to see
            self.peers[peer].send_request("close_session", session_id=session)

    @rule(
        peer=st.integers(0, PEERS - 1),
        count=st.integers(2, 14),
        session=st.sampled_from(SESSIONS),
        lists=st.booleans(),
    )
    def burst(self, peer: int, count: int, session: str, lists: bool) -> None:
        witness = self.peers[peer]
        lines = []
        for i in range(count):
            number = len(witness.asked)
            parameters: dict[str, Any] = {"session_id": session}
            command = "restore_session"
            if i % 3 == 0:
                self.patches += 1
                command, parameters = "update_session_state", parameters | {"state_data": {f"k{self.patches}": 1}}
            elif i % 3 == 1 and lists:
                command, parameters = "list_sessions", {"sort": "created_at"}
            witness.asked.append((number, command, parameters))
            lines.append(request(number, command, **parameters))
        witness.say(*lines)

    @rule(peer=st.integers(0, PEERS - 1))
    def pause(self, peer: int) -> None:
        self.peers[peer].pause()

    @rule(peer=st.integers(0, PEERS - 1))
    def unpause(self, peer: int) -> None:
        self.peers[peer].unpause()

    @rule(peer=st.integers(0, PEERS - 1), sure=st.integers(0, 3))
    def leave(self, peer: int, sure: int) -> None:
        if sure == 3:
            self.peers[peer].dialogue.abandon()
            self.peers[peer].gone = True
            self.peers[peer] = Witness(self.desk)
            self.everybody.append(self.peers[peer])

    # -- the server

    @property
    def gates(self) -> tuple[StoreGate, ...]:
        store = self.desk.store
        return store.commits, store.reads, store.queries

    @precondition(lambda self: self.desk.store.commits.waiting)
    @rule(fails=st.sampled_from([False, False, True]))
    def a_commit_ends(self, fails: bool) -> None:
        if fails:
            self.desk.store.commits.fail(UNAVAILABLE)
        else:
            self.desk.store.commits.let_go()

    @precondition(lambda self: self.desk.store.reads.waiting)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def a_load_ends(self, fails: bool) -> None:
        if fails:
            self.desk.store.reads.fail(UNREADABLE)
        else:
            self.desk.store.reads.let_go()

    @precondition(lambda self: self.desk.store.queries.waiting)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def a_query_ends(self, fails: bool) -> None:
        if fails:
            self.desk.store.queries.fail(UNREADABLE)
        else:
            self.desk.store.queries.let_go()

    @rule()
    def trim(self) -> None:
        self.desk.engine.cache.limit = 0
        self.desk.engine.cache.trim(self.desk.engine.committed)
        self.desk.engine.cache.limit = 2**40

    @rule()
    def settle(self) -> None:
        self.desk.settle()

    @rule(seconds=st.sampled_from([0, 1, 400]))
    def wait(self, seconds: int) -> None:
        self.desk.wall += seconds * 1000

    # -- what must hold

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Who waits for a commit is known to the engine, and there is a commit to come."""
        engine = self.desk.engine
        for peer in self.peers:
            if peer.dialogue._waiting:
                assert peer.dialogue in engine._waiting
                newest = peer.dialogue._waiting[-1].commit
                assert newest < engine.batch.number or (newest == engine.batch.number and engine.batch.records)

    def nothing_is_pinned(self) -> None:
        cache = self.desk.engine.cache
        assert not cache._pins
        assert cache.pinned_bytes == 0
        assert cache.bytes == sum(entity.cost for entity in cache.entities.values())

    def everybody_was_answered(self) -> None:
        for peer in self.everybody:
            assert peer.gone or len(peer.replies) == len(peer.asked)

    def what_was_acknowledged_is_there_and_what_was_refused_is_not(self) -> None:
        for peer in self.everybody:
            for (_, command, parameters), reply in zip(peer.asked, peer.replies, strict=False):
                if command == "update_session_state":
                    session = self.desk.committed(parameters["session_id"])
                    assert session is not None
                    state = json.loads(session.session_state)
                    (key,) = parameters["state_data"]
                    assert (key in state) == (reply["status"] == "success")


Interleavings.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestInterleavings = Interleavings.TestCase
