"""Servers that share a store: what one told, every later request sees, whichever server it reaches."""

import random
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.records import Created, Ended, Reopened
from stui_sessions.errors import StorageError
from tests.engine.desk import stored_session
from tests.engine.linearizability import Call, is_linearizable
from tests.engine.nodes import Nodes
from tests.engine.test_linearizable import REFUSED, SESSIONS, Recorder, Steps, session_model

SERVERS = 3
STEPS = 150


def let_go(rng: random.Random, nodes: Nodes) -> None:
    """What waits somewhere goes on, or (on its way there) fails."""
    for store in nodes.stores:
        for gate in store.gates:
            if gate.waiting and rng.random() < 0.6:
                if gate in (store.commits, store.reads) and rng.random() < 0.1:
                    gate.fail(StorageError("the database refuses"))
                else:
                    gate.let_go()


def schedule(seed: int, nodes: Nodes, ask: Any) -> list[Recorder]:
    """Random requests to random servers, whose ways to the store are of random length."""
    rng, clock = random.Random(seed), Steps()
    peers = [Recorder(desk, clock) for desk in nodes.desks for _ in range(2)]
    for store in nodes.stores:
        store.hold()
    for step in range(STEPS):
        clock.now += 1
        if rng.random() < 0.4:
            ask(rng, rng.choice(peers), step)
        let_go(rng, nodes)
        if rng.random() < 0.03:
            desk = rng.choice(nodes.desks)
            desk.engine.cache.limit = rng.choice([0, 2**40])
            desk.engine.cache.trim(desk.engine.committed)
        nodes.settle()
    return peers


def ask_sessions(rng: random.Random, peer: Recorder, step: int) -> None:
    kinds = ["update_session_state"] * 5 + ["get_session"] * 3
    kinds += ["restore_session", "get_session_info", "update_session_title"]
    kinds += ["close_session", "undelete_session", "undelete_session"]
    command = rng.choice(kinds)
    parameters: dict[str, Any] = {"session_id": rng.choice(SESSIONS)}
    if command == "update_session_state":
        parameters["state_data"] = {rng.choice("abc"): step}
    elif command == "update_session_title":
        parameters["title"] = f"t{step}"
    peer.send(command, **parameters)


def reopening_model(state: Hashable, call: Call) -> list[Hashable]:
    """The model of a session that is also brought back."""
    revision, items, title, live = state  # type: ignore[misc]
    if call.what[0] != "undelete_session":
        return session_model(state, call)
    code, result = call.answer
    back = (revision, items, title, True)
    if code in (REFUSED, "unanswered"):
        return [state] if code == REFUSED else [state, back]
    return [back] if code == "ok" and result["undeleted"] is not live else []


@pytest.mark.parametrize("seed", range(60))
def test_every_history_is_linearizable(seed: int) -> None:
    nodes = Nodes(SERVERS, *(stored_session(i, n) for n, i in enumerate(SESSIONS, 1)))
    peers = schedule(seed, nodes, ask_sessions)
    nodes.close()
    histories: dict[str, list[Call]] = defaultdict(list)
    for peer in peers:
        for session_id, calls in peer.calls().items():
            histories[session_id] += calls
    assert sum(call.answer[0] == "ok" for calls in histories.values() for call in calls) > 10
    for session_id, history in histories.items():
        assert is_linearizable(history, (1, (), None, True), reopening_model), (seed, session_id)


# -- what several entities must agree on

LIMIT = 2


def ask_owner(rng: random.Random, peer: Recorder, step: int) -> None:
    """One client's sessions, which take two external ids from each other, and give way."""
    kind = rng.random()
    if kind < 0.45:
        peer.send("create_session", client_id="c", user_id="u", external_id=rng.choice("xy"))
    elif kind < 0.6:
        peer.send("open_session", client_id="c", user_id="u")
    elif kind < 0.8:
        peer.send("close_session", external_id=rng.choice("xy"), user_id="u")
    else:
        peer.send("list_client_sessions", client_id="c", user_id="u")


@pytest.mark.parametrize("on_limit", ["reject", "evict_oldest"])
@pytest.mark.parametrize("seed", range(30))
def test_what_must_stay_true_stays_true(seed: int, on_limit: Any) -> None:
    """No more live sessions than the limit, and one for each external id, whoever decides; and what is told is so."""
    nodes = Nodes(SERVERS, rules=Rules(max_sessions_per_client=LIMIT, on_limit=on_limit))
    peers = schedule(seed, nodes, ask_owner)
    nodes.close()
    live: dict[str, str] = {}
    seen = 0
    for _, commit in sorted((c.number, c) for c, _ in nodes.common._log):
        for record in commit.records:
            check_record(record, live)
            seen += 1
        assert len(live) <= LIMIT
    assert seen > 5
    told = [r["result"] for p in peers for r in p.replies if r["status"] == "success"]
    assert all(result["session_count"] <= LIMIT for result in told if "session_count" in result)


def check_record(record: Any, live: dict[str, str]) -> None:
    """Replay what the log says of one session; `live` has the external id of each."""
    if isinstance(record, Created):
        external_id = record.data.about.external_id
        assert not external_id or external_id not in live.values()
        live[record.data.session_id] = external_id
    elif isinstance(record, Ended):
        del live[record.key[2]]
    else:
        assert not isinstance(record, Reopened)
