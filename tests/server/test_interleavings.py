"""Every order of requests, commits, loads and failures keeps the promises made to each peer."""

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stui_sessions.server import dialogue as dialogue_module
from stui_sessions.sessions.model import LIVE
from tests.server.desk import Desk, Peer, Reply, request, stored_session

SESSIONS = ["s1", "s2", "s3"]
PHOENIX = "s4"
"""The one session that comes back after its end, so that what was told of it may be overtaken."""

PEERS = 3


class Witness(Peer):
    """A peer that checks each reply at the moment it is sent."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
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
        session = self.desk.committed.get(result.get("session_id", ""))
        if "revision" in result:
            assert session is not None
            assert session.revision >= result["revision"]
        if command == "close_session" and parameters["session_id"] != PHOENIX:
            assert session is not None
            assert (
                session.status != LIVE
                or session.active_at + session.timeout * 1000 <= self.desk.wall
                or any(command == "undelete_session" for _, command, _ in self.desk.asked)
            )
        if session is not None and "session_state" in result and session.revision == result["revision"]:
            assert result["session_state"] == json.loads(session.session_state)
        for row in result.get("sessions", ()):
            assert self.desk.committed[row["session_id"]].revision >= row["revision"]

    def check_refusal(self, parameters: dict[str, Any], code: str) -> None:
        if code in ("session_closed", "session_deleted"):
            session_id = parameters["session_id"]
            assert session_id == PHOENIX or self.desk.committed[session_id].status != LIVE
        assert code != "internal_error"


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(dialogue_module, "TURN", 5)
        self.patch.setattr(dialogue_module, "LOOK_AHEAD", 3)
        self.patch.setattr(dialogue_module, "HELD_LIMIT", 3000)
        self.desk = Desk(*(stored_session(i, n, f"c{n % 2}") for n, i in enumerate([*SESSIONS, PHOENIX], 1)))
        self.peers = [Witness(self.desk) for _ in range(PEERS)]
        self.everybody = list(self.peers)
        self.patches = 0

    def teardown(self) -> None:
        try:
            for peer in self.peers:
                peer.unpause()
            self.desk.settle()
            self.everybody_was_answered()
            self.what_was_acknowledged_is_there_and_what_was_refused_is_not()
        finally:
            self.patch.undo()

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

    @rule(peer=st.integers(0, PEERS - 1), count=st.integers(2, 14), session=st.sampled_from(SESSIONS))
    def burst(self, peer: int, count: int, session: str) -> None:
        witness = self.peers[peer]
        lines = []
        for i in range(count):
            number = len(witness.asked)
            parameters: dict[str, Any] = {"session_id": session}
            command = "restore_session"
            if i % 3 == 0:
                self.patches += 1
                command, parameters = "update_session_state", parameters | {"state_data": {f"k{self.patches}": 1}}
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

    @precondition(lambda self: self.desk.in_flight is None and self.desk.book.changes)
    @rule()
    def begin_commit(self) -> None:
        self.desk.begin()

    @precondition(lambda self: self.desk.in_flight is not None)
    @rule()
    def commit_succeeds(self) -> None:
        self.desk.succeed()

    @precondition(lambda self: self.desk.in_flight is not None)
    @rule()
    def commit_fails(self) -> None:
        self.desk.fail()

    @precondition(lambda self: self.desk.wanted and self.desk.reading is None)
    @rule()
    def a_load_begins(self) -> None:
        self.desk.begin_load()

    @precondition(lambda self: self.desk.reading is not None)
    @rule()
    def a_load_ends(self) -> None:
        self.desk.finish_load()

    @precondition(lambda self: self.desk.wanted or self.desk.reading is not None)
    @rule()
    def a_load_fails(self) -> None:
        self.desk.fail_load()

    @precondition(lambda self: self.desk.in_flight is None)
    @rule()
    def snapshot_and_trim(self) -> None:
        self.desk.snapshot()
        self.desk.book.mark_unrecorded(self.desk.book.residents.trim(0))

    @rule()
    def turn(self) -> None:
        self.desk.turn()

    @rule(seconds=st.sampled_from([0, 1, 400]))
    def wait(self, seconds: int) -> None:
        self.desk.wall += seconds * 1000

    # -- what must hold

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Who has something undone has someone who will go on with it."""
        for peer in self.peers:
            d = peer.dialogue
            if d._waiting:
                assert d in self.desk.engine._waiting
                assert self.desk.in_flight or self.desk.book.changes
            if d.backlog and not d.paused and not d._waiting:
                assert d._blocked
                waiters = [waiter for _, waiter in self.desk.wanted]
                waiters += self.desk.reading.waiters if self.desk.reading else []
                assert self.desk.next_turn or d in waiters

    def everybody_was_answered(self) -> None:
        for peer in self.everybody:
            assert peer.gone or len(peer.replies) == len(peer.asked)

    def what_was_acknowledged_is_there_and_what_was_refused_is_not(self) -> None:
        for peer in self.everybody:
            for (_, command, parameters), reply in zip(peer.asked, peer.replies, strict=False):
                if command == "update_session_state":
                    state = json.loads(self.desk.committed[parameters["session_id"]].session_state)
                    (key,) = parameters["state_data"]
                    assert (key in state) == (reply["status"] == "success")


Interleavings.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestInterleavings = Interleavings.TestCase
