"""What is promised of a session's life holds across an orderly stop and across a kill."""

from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.moved_clock import WallClock
from tests.support.server import ServerProcess


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@pytest.fixture
def server(make_server: StartServer, clock: WallClock) -> ServerProcess:
    """A running server on that clock."""
    return make_server(env=clock.environment, module="tests.support.moved_clock").start()


def is_active(server: ServerProcess, session_id: str) -> bool:
    return bool(server.result("get_session_info", session_id=session_id)["is_active"])


def test_a_use_later_than_the_slack_survives_a_kill_right_after_its_reply(
    server: ServerProcess, clock: WallClock
) -> None:
    session_id = server.result("create_session", client_id="me", timeout=10)["session_id"]
    clock.set(6)
    server.result("touch_session", session_id=session_id)
    server.restart()
    clock.set(6 + 7)  # the restart takes time, too
    assert is_active(server, session_id)


@pytest.mark.parametrize("command", ["restore_session", "touch_session", "open_session"])
def test_a_use_within_the_slack_is_given_back_after_a_kill(
    server: ServerProcess, clock: WallClock, command: str
) -> None:
    session_id = server.result("create_session", client_id="me", timeout=600)["session_id"]
    clock.set(55)
    server.result(command, **({"client_id": "me"} if command == "open_session" else {"session_id": session_id}))
    server.restart()
    clock.set(55 + 595)
    assert is_active(server, session_id)


def test_an_orderly_stop_forgets_no_use(server: ServerProcess, clock: WallClock) -> None:
    session_id = server.result("create_session", client_id="me", timeout=600)["session_id"]
    clock.set(55)
    server.result("restore_session", session_id=session_id)
    assert server.terminate() == 0
    server.start()
    clock.set(55 + 595)
    assert is_active(server, session_id)


def test_the_session_used_last_is_resumed_after_an_orderly_stop(server: ServerProcess, clock: WallClock) -> None:
    first, second = (server.result("create_session", client_id="me")["session_id"] for _ in range(2))
    for seconds, session_id in ((1, second), (2, first)):
        clock.set(seconds)
        server.result("restore_session", session_id=session_id)
    assert server.terminate() == 0
    server.start()
    assert server.result("open_session", client_id="me")["session_id"] == first


def test_uses_are_seen_at_once_where_a_list_is_sorted_by_them(server: ServerProcess, clock: WallClock) -> None:
    ids = [server.result("create_session", client_id="me")["session_id"] for _ in range(3)]
    clock.set(1)
    server.result("restore_session", session_id=ids[0])
    listed = server.result("list_sessions", client_id="me")["sessions"]
    assert listed[0]["session_id"] == ids[0]
