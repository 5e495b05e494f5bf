"""Recorded histories of several clients of several nodes, and what they may look like.

The sessions' own rules are those of `tests/engine/test_linearizable.py`; here are those of what several sessions
share: the limit of a client, and an external id.
"""

import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Hashable
from typing import Any, Self

from tests.engine.linearizability import NEVER, Call, Model, is_linearizable
from tests.engine.test_linearizable import session_model
from tests.nodes.cluster import LIMIT, PATIENCE, Cluster
from tests.nodes.talking import REFUSED, UNANSWERED, Client
from tests.support.waiting import until

WORKERS = 12
MOST = 150
"""Operations on one subject, about: the checker's work grows with the square."""

Subject = tuple[str, str]
"""What a call was about: `session`, `client` or `name`, and which one."""

NEW_SESSION = (1, (), None, True)
NOBODY: Any = (frozenset(), frozenset())
FREE: Any = (None, frozenset())


# What may be answered.


def limit_model(state: Any, call: Call) -> list[Hashable]:
    """One client: its live sessions, never more than the limit, and those that have ended."""
    live, ended = state
    (command, parameters), (code, result) = call.what, call.answer
    if code == REFUSED:
        return [state]
    if command == "list_client_sessions":
        told = {row["session_id"] for row in result["sessions"]} if code == "ok" else live
        return [state] if told == live else []
    session_id = parameters["session_id"]
    if command == "close_session":
        if session_id in live:
            after: list[Hashable] = [(live - {session_id}, ended | {session_id})]
            return _as_told(code, state, after)
        return _not_live(code, state, session_id in ended)
    if command == "create_session":
        is_new, fits = session_id not in live | ended, len(live) < LIMIT
        if code == "session_id_conflict":
            return [] if is_new else [state]
        after = [(live | {session_id}, ended)] if is_new and fits else []
        return [state] if code == "session_limit_reached" and not fits else _as_told(code, state, after)
    assert command == "undelete_session"
    if session_id not in ended:
        return _not_live(code, state, session_id in live)
    after = [(live | {session_id}, ended - {session_id})] if len(live) < LIMIT else []
    return [state] if code == "session_limit_reached" and not after else _as_told(code, state, after)


def name_model(state: Any, call: Call) -> list[Hashable]:
    """One external id: who has it, and who had it."""
    holder, before = state
    (command, parameters), (code, result) = call.what, call.answer
    if code == REFUSED:
        return [state]
    if command == "get_session":
        if code == "ok":
            return [state] if result["session_id"] == holder else []
        return [state] if code == UNANSWERED or (code == "session_not_found" and holder is None) else []
    session_id = parameters["session_id"]
    if command == "create_session":
        after: list[Hashable] = [(session_id, before)] if holder is None else []
        return [state] if code == "external_id_conflict" and not after else _as_told(code, state, after)
    assert command == "close_session"
    if session_id == holder:
        return _as_told(code, state, [(None, before | {session_id})])
    return _not_live(code, state, session_id in before)


def _as_told(code: str, state: Hashable, after: list[Hashable]) -> list[Hashable]:
    """What a call leads to that changes something: done, or perhaps done."""
    if code == UNANSWERED:
        return [state, *after]
    return after if code == "ok" else []


def _not_live(code: str, state: Hashable, is_there: bool) -> list[Hashable]:
    """A call that finds nothing to change."""
    expected = "ok" if is_there else "session_not_found"
    return [state] if code in (expected, UNANSWERED) else []


MODELS: dict[str, tuple[Hashable, Model]] = {
    "session": (NEW_SESSION, session_model),
    "client": (NOBODY, limit_model),
    "name": (FREE, name_model),
}


# Recording.


class Recording:
    """Clients that ask any node about some sessions, clients and names, each in a thread, `operations` in all."""

    def __init__(self, cluster: Cluster, operations: int, seed: object) -> None:
        self.cluster = cluster
        self.operations = operations
        self.calls: dict[Subject, list[Call]] = defaultdict(list)
        self._seed = seed
        self._names = itertools.count(1)
        self._time = itertools.count(1)
        self._taken = itertools.count(1)
        self.asked = 0
        """Operations begun."""
        self._ids: dict[Subject, list[str]] = defaultdict(list)
        self._failures: list[BaseException] = []
        several = max(2, operations // (4 * MOST))
        self.sessions = [f"{seed}-s{n}" for n in range(2 * several)]
        self.clients = [f"{seed}-c{n}" for n in range(several)]
        self.external = [f"{seed}-x{n}" for n in range(several)]
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(WORKERS)]

    def start(self) -> Self:
        """Make the sessions, and start."""
        with Client(self.cluster, self._seed) as client:
            for session_id in self.sessions:
                told = client.ask("create_session", client_id=session_id, session_id=session_id)
                assert told.is_ok, told
        for thread in self._threads:
            thread.start()
        return self

    def go_on(self, operations: int) -> None:
        """Wait for so many operations, or the end."""
        wanted = min(self.asked + operations, self.operations)
        until(lambda: self._failures or self.asked >= wanted, f"{operations} operations", 2 * PATIENCE)

    @property
    def is_over(self) -> bool:
        return bool(self._failures) or self.asked >= self.operations

    def finish(self) -> None:
        """Wait for the last answers, then look at everything through every node."""
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "a client still waits for a node"
        if self._failures:
            raise self._failures[0]
        for number in range(len(self.cluster.nodes)):
            with Client(self.cluster, number, [number]) as client:
                for session_id in self.sessions:
                    self._ask(client, ("session", session_id), "get_session", session_id=session_id)
                for client_id in self.clients:
                    self._ask(client, ("client", client_id), "list_client_sessions", client_id=client_id)
                for name in self.external:
                    self._ask(client, ("name", name), "get_session", external_id=name)

    def inexplicable(self) -> list[Subject]:
        """Whose history no order of the calls explains."""
        found = []
        for subject, calls in self.calls.items():
            start, model = MODELS[subject[0]]
            if not is_linearizable(calls, start, model):
                found.append(subject)
        return found

    def __str__(self) -> str:
        answers = [call.answer[0] for calls in self.calls.values() for call in calls]
        told = {code: answers.count(code) for code in sorted(set(answers))}
        return f"{len(answers)} operations on {len(self.calls)} subjects: {told}"

    # What a client does.

    def _work(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        kinds = (self._on_session, self._on_client, self._on_name)
        try:
            # Some have asked a node that is frozen already: it may tell them nothing that is old when it goes on.
            with Client(self.cluster, rng.random(), patient=number % 4 == 0) as client:
                while (taken := next(self._taken)) <= self.operations:
                    self.asked = max(self.asked, taken)
                    rng.choices(kinds, (2, 1, 1))[0](client, rng)
        except BaseException as failure:
            self._failures.append(failure)

    def _ask(self, client: Client, subject: Subject, command: str, **parameters: Any) -> None:
        invoked = next(self._time)
        told = client.ask(command, **parameters)
        returned = NEVER if told.code == UNANSWERED else next(self._time)
        self.calls[subject].append(Call((command, parameters), (told.code, told.result), invoked, returned))

    def _on_session(self, client: Client, rng: random.Random) -> None:
        session_id = rng.choice(self.sessions)
        commands = ["update_session_state", "restore_session", "get_session", "get_session_info"]
        commands += ["update_session_title", "close_session"]
        command = rng.choices(commands, (50, 20, 15, 5, 10, 0.2))[0]
        more: dict[str, Any] = {}
        if command == "update_session_state":
            more["state_data"] = {rng.choice("abc"): next(self._names)}
        elif command == "update_session_title":
            more["title"] = f"t{next(self._names)}"
        self._ask(client, ("session", session_id), command, session_id=session_id, **more)

    def _on_client(self, client: Client, rng: random.Random) -> None:
        client_id = rng.choice(self.clients)
        subject = "client", client_id
        command = rng.choices(["create_session", "close_session", "undelete_session", "list_client_sessions"],
                              (45, 25, 10, 20))[0]  # fmt: skip
        if command == "list_client_sessions":
            self._ask(client, subject, command, client_id=client_id)
        elif command == "create_session":
            session_id = self._new(subject)
            self._ask(client, subject, command, client_id=client_id, session_id=session_id)
        elif known := self._ids[subject][-3 * LIMIT :]:
            self._ask(client, subject, command, session_id=rng.choice(known))

    def _on_name(self, client: Client, rng: random.Random) -> None:
        name = rng.choice(self.external)
        subject = "name", name
        command = rng.choices(["create_session", "close_session", "get_session"], (40, 30, 30))[0]
        if command == "get_session":
            self._ask(client, subject, command, external_id=name)
        elif command == "create_session":
            session_id = self._new(subject)
            self._ask(client, subject, command, client_id=session_id, session_id=session_id, external_id=name)
        elif known := self._ids[subject][-LIMIT:]:
            self._ask(client, subject, command, session_id=rng.choice(known))

    def _new(self, subject: Subject) -> str:
        """An id that a close or an undelete may name from now on, also before its session is there."""
        session_id = f"{subject[1]}-{next(self._names)}"
        self._ids[subject].append(session_id)
        return session_id
