"""What is told while the disk refuses is still true when it takes writes again, and after a kill."""

import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.end_to_end.test_disk import FileSizeLimit
from tests.support.moved_clock import WallClock
from tests.support.server import ServerProcess

pytestmark = pytest.mark.local_store


def test_a_name_that_a_refused_close_would_have_freed_stays_ambiguous(server: ServerProcess) -> None:
    """Two users have the same external id; a close of one of the sessions is decided, and cannot be committed."""
    disk = FileSizeLimit(server)
    with server.connect() as client, server.connect() as other:
        ids = [
            client.result("open_session", client_id="me", user_id=user, external_id="x")["session_id"]
            for user in ("u1", "u2")
        ]
        ask = ("get_session_info", {"external_id": "x"})
        disk.refuse()
        for _ in range(50):
            other.send_request(ask[0], **ask[1])
            close, info = client.pipeline([("close_session", {"session_id": ids[0]}), ask])
            assert close["error_code"] == "storage_unavailable"
            assert info["error_code"] == "external_id_ambiguous"
            assert other.receive()["error_code"] == "external_id_ambiguous"
        disk.relent()
        close, info = client.pipeline([("close_session", {"session_id": ids[0]}), ask])
        assert close["status"] == "success"
        assert info["result"]["session_id"] == ids[1]


def test_uses_while_the_disk_refuses_promise_what_holds_after_a_kill(make_server: StartServer, tmp_path: Path) -> None:
    """A timeout of ten seconds, a use every second for fourteen seconds, none of which can be recorded."""
    clock = WallClock(tmp_path / "clock")
    server = make_server(env=clock.environment, module="tests.support.moved_clock").start()
    with server.connect() as client:
        session_id = client.result("create_session", client_id="me", timeout=10)["session_id"]
        FileSizeLimit(server).refuse()
        promised = []
        for seconds in range(1, 15):
            clock.set(seconds)
            told = client.result("touch_session", session_id=session_id)
            promised.append(datetime.fromisoformat(told["expires_at"]).timestamp())
        assert client.result("get_session_info", session_id=session_id)["is_active"]
        # It lives on in memory, and more is not promised than is on disk.
        assert max(promised) - min(promised) <= 1
    server.restart()
    clock.set(int(max(promised) - time.time()) - 1)
    assert server.result("get_session_info", session_id=session_id)["is_active"]


def test_uses_after_the_disk_has_come_back_are_promised_again(make_server: StartServer, tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    server = make_server(env=clock.environment, module="tests.support.moved_clock").start()
    disk = FileSizeLimit(server)
    with server.connect() as client:
        session_id = client.result("create_session", client_id="me", timeout=10)["session_id"]
        disk.refuse()
        clock.set(8)
        client.result("touch_session", session_id=session_id)
        disk.relent()
        clock.set(16)
        client.result("touch_session", session_id=session_id)
    server.restart()
    clock.set(16 + 9)
    assert server.result("get_session_info", session_id=session_id)["is_active"]
