"""Fifty requests at the same instant: one session is opened, one id is taken, the limit is the limit.

They lie in the server's sockets before it sees any of them: it is stopped while they are sent.
"""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess

CROWD = 50
LIMIT = 5
ARGS = (
    *("--create-rate", "0", "--snapshot-interval", "1"),
    *("--max-sessions-per-client", str(LIMIT), "--max-sessions-per-user", str(LIMIT)),
)

CLIENT: dict[str, Any] = {"client_id": "me"}
CLIENT_OF_USER: dict[str, Any] = {"client_id": "me", "user_id": "u"}
USER_ALONE: dict[str, Any] = {"user_id": "u"}
OWNERS = [CLIENT, CLIENT_OF_USER, USER_ALONE]

Replies = list[dict[str, Any]]


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    return start_server(*ARGS)


@contextlib.contextmanager
def a_crowd(server: ServerProcess) -> Iterator[list[LineClient]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.connect()) for _ in range(CROWD)]


def at_once(server: ServerProcess, crowd: list[LineClient], command: str, *parameters: dict[str, Any]) -> Replies:
    """One request of each, all of which the server finds when it next looks."""
    server.send_signal(signal.SIGSTOP)
    for n, client in enumerate(crowd):
        client.send_request(command, **parameters[n % len(parameters)])
    server.send_signal(signal.SIGCONT)
    return [client.receive() for client in crowd]


def all_at_once(server: ServerProcess, command: str, *parameters: dict[str, Any]) -> Replies:
    with a_crowd(server) as crowd:
        return at_once(server, crowd, command, *parameters)


def results(replies: Replies) -> Replies:
    return [reply["result"] for reply in replies if reply["status"] == "success"]


def codes(replies: Replies) -> set[str]:
    return {reply["error_code"] for reply in replies if reply["status"] != "success"}


def listed(server: ServerProcess, status: str = "live", **only: Any) -> set[str]:
    return {s["session_id"] for s in server.result("list_sessions", limit=100, status=status, **only)["sessions"]}


# One client.


@pytest.mark.both_stores
def test_a_client_opens_one_session(server: ServerProcess) -> None:
    states = [{**CLIENT, "session_state": {"n": n}} for n in range(CROWD)]
    server.result("create_session", client_id="other")
    replies = results(all_at_once(server, "open_session", *states))
    assert len(replies) == CROWD
    (created,) = (r for r in replies if not r["session_resumed"])
    assert {r["session_id"] for r in replies} == {created["session_id"]}
    assert {r["session_state"]["n"] for r in replies} == {created["session_state"]["n"]}
    assert listed(server) - listed(server, client_id="other") == {created["session_id"]}
    server.restart()
    assert server.result("open_session", **CLIENT)["session_id"] == created["session_id"]


def test_each_user_of_a_client_opens_one_session(server: ServerProcess) -> None:
    replies = results(all_at_once(server, "open_session", CLIENT, CLIENT_OF_USER, {"client_id": "me", "user_id": "v"}))
    assert sum(not r["session_resumed"] for r in replies) == 3
    assert len({(r["user_id"], r["session_id"]) for r in replies}) == 3


# One id.


@pytest.mark.parametrize("owner", [*OWNERS, {}])
def test_an_id_is_created_once_and_then_resumed(server: ServerProcess, owner: dict[str, Any]) -> None:
    request = {"session_id": "mine", "on_conflict": "reuse", **owner}
    replies = results(all_at_once(server, "open_session", request))
    assert len(replies) == CROWD
    assert sum(not r["session_resumed"] for r in replies) == 1
    assert {r["session_id"] for r in replies} == {"mine"}


@pytest.mark.both_stores
@pytest.mark.parametrize("command", ["open_session", "create_session"])
def test_an_id_is_created_once_and_then_refused(server: ServerProcess, command: str) -> None:
    replies = all_at_once(server, command, {"session_id": "mine", **CLIENT})
    assert len(results(replies)) == 1
    assert codes(replies) == {"session_id_conflict"}
    assert listed(server, client_id="me") == {"mine"}


def test_an_id_is_given_to_one_and_the_others_get_their_own(server: ServerProcess) -> None:
    requests = [{"session_id": "mine", "on_conflict": "new", "client_id": f"c{n}"} for n in range(CROWD)]
    replies = results(all_at_once(server, "open_session", *requests))
    assert len({r["session_id"] for r in replies}) == CROWD
    (first,) = (r for r in replies if not r.get("was_collision"))
    assert first["session_id"] == "mine"
    assert all(r["requested_session_id"] == "mine" for r in replies if r is not first)


@pytest.mark.both_stores
def test_an_external_id_is_given_to_one_session_of_each_user(server: ServerProcess) -> None:
    requests = [{"external_id": "x", "user_id": f"u{n % 10}", "client_id": f"c{n}"} for n in range(CROWD)]
    replies = all_at_once(server, "create_session", *requests)
    assert len(results(replies)) == 10
    assert codes(replies) == {"external_id_conflict"}
    for n in range(10):
        assert server.result("get_session", external_id="x", user_id=f"u{n}")["user_id"] == f"u{n}"


# The limit.


@pytest.mark.both_stores
@pytest.mark.parametrize("owner", OWNERS)
def test_at_the_limit_there_are_exactly_so_many(server: ServerProcess, owner: dict[str, Any]) -> None:
    replies = all_at_once(server, "open_session", {"resume": False, **owner})
    assert len(results(replies)) == LIMIT
    assert codes(replies) == {"session_limit_reached"}
    ids = {r["session_id"] for r in results(replies)}
    # There is room for two again, and nobody in memory to say so.
    for session_id, command in zip(ids, ("close_session", "delete_session"), strict=False):
        server.result(command, session_id=session_id)
    server.restart()
    replies = all_at_once(server, "open_session", {"resume": False, **owner})
    assert len(results(replies)) == 2
    assert len(listed(server, user_id=owner["user_id"]) if "user_id" in owner else listed(server, **owner)) == LIMIT


def test_create_session_keeps_the_limit_too(server: ServerProcess) -> None:
    replies = all_at_once(server, "create_session", CLIENT, CLIENT_OF_USER)
    assert len(results(replies)) == 2 * LIMIT  # the two owners do not count for each other
    assert codes(replies) == {"session_limit_reached"}


def test_as_many_come_back_as_there_is_room_for(server: ServerProcess) -> None:
    ids = []
    for _ in range(CROWD):
        ids.append(server.result("create_session", **CLIENT)["session_id"])
        server.result("delete_session", session_id=ids[-1])
    server.restart()
    replies = all_at_once(server, "undelete_session", *({"session_id": i} for i in ids))
    assert len(results(replies)) == LIMIT
    assert codes(replies) == {"session_limit_reached"}
    assert listed(server, **CLIENT) == {r["session_id"] for r in results(replies)}


@pytest.mark.both_stores
@pytest.mark.parametrize("owner", OWNERS)
def test_each_beyond_the_limit_closes_the_oldest(start_server: StartServer, owner: dict[str, Any]) -> None:
    server = start_server(*ARGS, "--on-limit", "evict_oldest")
    replies = results(all_at_once(server, "open_session", {"resume": False, **owner}))
    made = [r["session_id"] for r in replies]
    evicted = [r["evicted_session_id"] for r in replies if "evicted_session_id" in r]
    assert len(set(made)) == CROWD
    assert len(set(evicted)) == len(evicted) == CROWD - LIMIT
    only = {name: value for name, value in owner.items() if name == "user_id" or owner is CLIENT}
    assert listed(server, **only) == set(made) - set(evicted)
    assert listed(server, status="closed") == set(evicted)


def test_open_and_close_at_once(server: ServerProcess) -> None:
    """Whoever closes in between: what is told to be open is there, or was closed by somebody."""
    with a_crowd(server) as crowd:
        first = crowd[0].result("open_session", **CLIENT)["session_id"]
        server.send_signal(signal.SIGSTOP)
        for n, client in enumerate(crowd):
            if n % 10 == 5:
                client.send_request("close_session", session_id=first)
            else:
                client.send_request("open_session", **CLIENT)
        server.send_signal(signal.SIGCONT)
        replies = [client.receive() for client in crowd]
    opened = {r["session_id"] for r in results(replies) if "session_resumed" in r}
    assert len(results(replies)) == CROWD
    created = [r for r in results(replies) if r.get("session_resumed") is False]
    assert len(created) <= 1
    assert opened <= {first, *(r["session_id"] for r in created)}
    assert len(listed(server, **CLIENT)) == len(created)
