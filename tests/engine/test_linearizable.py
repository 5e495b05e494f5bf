"""Recorded histories of several clients on few sessions, commits and loads failing now and then, are linearizable."""

import random
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import pytest

from stui_sessions.errors import StorageError
from tests.engine.desk import Desk, Peer, Reply, stored_session
from tests.engine.linearizability import NEVER, Call, is_linearizable

SESSIONS = ["s1", "s2"]
PEERS = 4
STEPS = 120
REFUSED = "storage_unavailable"


# -- the checker itself


def register(state: Hashable, call: Call) -> list[Hashable]:
    kind, value = call.what
    if kind == "write":
        return [value]
    return [state] if call.answer == state else []


def test_it_accepts_what_overlaps() -> None:
    history = [Call(("write", 1), None, 0, 5), Call(("read", None), 1, 1, 2), Call(("read", None), 1, 3, 4)]
    assert is_linearizable(history, 0, register)


def test_it_refuses_a_value_that_goes_back() -> None:
    history = [Call(("write", 1), None, 0, 9), Call(("read", None), 1, 1, 2), Call(("read", None), 0, 3, 4)]
    assert not is_linearizable(history, 0, register)


def test_it_refuses_a_stale_read() -> None:
    assert not is_linearizable([Call(("write", 1), None, 0, 1), Call(("read", None), 0, 2, 3)], 0, register)


def test_it_lets_an_unanswered_call_have_come_about_or_not() -> None:
    unanswered = Call(("write", 1), None, 0, NEVER)
    assert is_linearizable([unanswered, Call(("read", None), 0, 1, 2)], 0, register)
    assert is_linearizable([unanswered, Call(("read", None), 1, 1, 2)], 0, register)
    assert not is_linearizable([unanswered, Call(("read", None), 2, 1, 2)], 0, register)


# -- the server


def session_model(state: Hashable, call: Call) -> list[Hashable]:
    """One session: its revision, its items, its title, and whether it is live."""
    revision, items, title, live = state  # type: ignore[misc]
    command, parameters = call.what
    code, result = call.answer
    if code in (REFUSED, "unanswered"):
        return [state] if code == REFUSED else [state, *_written(state, command, parameters)]
    if command in ("get_session", "get_session_info"):
        told = (result["revision"], result["is_active"])
        return [state] if told == (revision, live) and result.get("title", title) == title else []
    if code != "ok":
        return [state] if not live else []
    if command == "close_session":
        return [(revision, items, title, False)] if result["revision"] == revision else []
    if not live:
        return []
    if command == "restore_session":
        told = (result["revision"], tuple(result["session_state"].items()))
        return [state] if told == (revision, items) else []
    (after,) = _written(state, command, parameters)
    if command == "update_session_title":
        return [after] if (result["revision"], result["title"]) == (revision, after[2]) else []
    return [after] if (result["revision"], tuple(result["session_state"].items())) == after[:2] else []


def _written(state: Any, command: str, parameters: dict[str, Any]) -> list[Any]:
    revision, items, title, live = state
    if command == "close_session":
        return [(revision, items, title, False)]
    if command == "update_session_title" and live:
        return [(revision, items, parameters["title"], live)]
    if command == "update_session_state" and live:
        return [(revision + 1, tuple((dict(items) | parameters["state_data"]).items()), title, live)]
    return []


class Recorder(Peer):
    """A peer that keeps when it asked and when it was answered."""

    def __init__(self, desk: Desk, clock: "Steps") -> None:
        super().__init__(desk)
        self.clock = clock
        self.asked: list[tuple[int, str, dict[str, Any]]] = []
        self.answered: list[int] = []
        self.on_send = self._note

    def _note(self, replies: list[Reply]) -> None:
        self.answered += [self.clock.now] * len(replies)

    def send(self, command: str, **parameters: Any) -> None:
        self.asked.append((self.clock.now, command, parameters))
        self.ask(len(self.asked), command, **parameters)

    def calls(self) -> dict[str, list[Call]]:
        """What was asked of each session."""
        found = defaultdict(list)
        for i, (invoked, command, parameters) in enumerate(self.asked):
            reply = self.replies[i] if i < len(self.replies) else {"error_code": "unanswered"}
            answer = reply.get("error_code", "ok"), reply.get("result")
            returned = self.answered[i] if i < len(self.answered) else NEVER
            found[parameters["session_id"]].append(Call((command, parameters), answer, invoked, returned))
        return found


class Steps:
    """A clock that counts what happens."""

    now = 0


def schedule(seed: int, desk: Desk, clock: Steps) -> list[Recorder]:
    """Random requests, commits and loads, some of which fail."""
    rng = random.Random(seed)
    store = desk.store
    store.commits.closed = store.reads.closed = True
    peers = [Recorder(desk, clock) for _ in range(PEERS)]
    kinds = ["update_session_state"] * 5 + ["restore_session"] * 3 + ["get_session"] * 2
    kinds += ["get_session_info", "update_session_title"]
    for step in range(STEPS):
        clock.now += 1
        what = rng.random()
        if what < 0.5:
            command = rng.choice(kinds) if step < STEPS - 15 or rng.random() < 0.8 else "close_session"
            parameters: dict[str, Any] = {"session_id": rng.choice(SESSIONS)}
            if command == "update_session_state":
                parameters["state_data"] = {rng.choice("abc"): step}
            elif command == "update_session_title":
                parameters["title"] = f"t{step}"
            rng.choice(peers).send(command, **parameters)
        elif what < 0.9:
            _move(rng, desk)
        else:
            desk.engine.cache.limit = rng.choice([0, 2**40])
            desk.engine.cache.trim(desk.engine.committed)
        desk.settle()
    return peers


def _move(rng: random.Random, desk: Desk) -> None:
    for gate in (desk.store.commits, desk.store.reads):
        if gate.waiting and rng.random() < 0.7:
            if rng.random() < 0.25:
                gate.fail(StorageError("the disk refuses"))
            else:
                gate.let_go()


@pytest.mark.parametrize("seed", range(60))
def test_every_history_is_linearizable(seed: int) -> None:
    clock = Steps()
    with Desk(*(stored_session(i, n) for n, i in enumerate(SESSIONS, 1))) as desk:
        peers = schedule(seed, desk, clock)
    histories: dict[str, list[Call]] = defaultdict(list)
    for peer in peers:
        for session_id, calls in peer.calls().items():
            histories[session_id] += calls
    for session_id, history in histories.items():
        assert is_linearizable(history, (1, (), None, True), session_model), (seed, session_id)
