"""Requests that need more in memory than `resident_limit` holds are answered, and leave the server idle."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from tests.conftest import StartServer
from tests.support.moved_clock import WallClock
from tests.support.server import ServerProcess
from tests.support.waiting import until

KIB = 1024
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(server: ServerProcess) -> float:
    """Processor time that it has used so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def assert_idle_and_quick_to_stop(server: ServerProcess) -> None:
    def rests() -> bool:
        before = cpu_seconds(server)
        time.sleep(0.5)
        return cpu_seconds(server) - before <= 0.1

    until(rests, "the server to rest", timeout=20)
    begun = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - begun < 2


def imported_row(number: int, now: float) -> dict[str, Any]:
    """A small live session with an external id, as an export has it."""
    at = int(now * 1000)
    session = {
        "session_id": f"new{number}", "client_id": f"c{number}", "user_id": None, "external_id": f"x{number}",
        "title": None, "tags": [], "metadata": {}, "status": "live", "pinned": False, "revision": 1, "timeout": 1000,
        "created_at_ms": at, "modified_at_ms": at, "active_at_ms": at, "ended_at_ms": None, "ends_at_ms": None,
        "session_state": {"n": number}, "workspace_context": {}, "inspector_state": {}, "object_registry": {},
    }  # fmt: skip
    return {"checksum": f"{crc32(json.dumps(session).encode()):08x}", "session": session}


def test_a_creation_that_evicts_and_names_where_memory_holds_next_to_nothing(start_server: StartServer) -> None:
    server = start_server("--resident-limit", "4KiB", "--on-limit", "evict_oldest")
    with server.connect() as client:
        ids = [
            client.result("create_session", client_id="me", external_id=f"x{n}", session_state={"pad": "x" * 3000})[
                "session_id"
            ]
            for n in range(5)
        ]
        assert client.result("list_client_sessions", client_id="me")["session_count"] == 5
        made = client.result("create_session", client_id="me", session_id="mine", external_id="new")
        assert (made["session_id"], made["evicted_session_id"]) == ("mine", ids[0])
        assert client.result("get_session", external_id="new")["session_id"] == "mine"
    assert_idle_and_quick_to_stop(server)


def test_the_same_after_a_restart_and_for_a_peer_that_leaves(start_server: StartServer) -> None:
    """Nothing is in memory then, and nobody waits for the reply."""
    server = start_server("--resident-limit", "4KiB", "--on-limit", "evict_oldest")
    with server.connect() as client:
        for n in range(5):
            client.result("create_session", client_id="me", external_id=f"x{n}", session_state={"pad": "x" * 3000})
    assert server.terminate() == 0
    server.start()
    leaver = server.connect()
    leaver.send_request("create_session", client_id="me", session_id="first", external_id="first")
    leaver.reset()
    with server.connect() as client:
        made = client.result("create_session", client_id="me", session_id="mine", external_id="new")
        assert "evicted_session_id" in made
    assert_idle_and_quick_to_stop(server)


@pytest.mark.parametrize("restarted", [False, True])
def test_an_import_over_many_large_sessions_that_expired_unnoticed(
    make_server: StartServer, tmp_path: Path, restarted: bool
) -> None:
    """With default settings: 135 MB of them, of which memory may hold 64 MiB."""
    clock = WallClock(tmp_path / "clock")
    server = make_server(env=clock.environment, module="tests.support.moved_clock").start()
    state = {"pad": "x" * (900 * KIB)}
    count = 150
    with server.connect(timeout=60) as client:
        for n in range(count):
            client.result("create_session", client_id=f"c{n}", external_id=f"x{n}", timeout=10, session_state=state)
    if restarted:
        server.restart()
    clock.set(100)
    with server.connect(timeout=60) as client:
        rows = [imported_row(n, time.time() + 100) for n in range(count)]
        told = client.result("import_sessions", sessions=rows)
        assert (told["created"], told["errors"]) == (count, [])
        found = client.pipeline([("get_session", {"external_id": f"x{n}"}) for n in range(count)])
        assert [reply["result"]["session_id"] for reply in found] == [f"new{n}" for n in range(count)]
        counts = client.result("get_session_statistics")["sessions_by_status"]
        assert (counts["live"], counts["expired"]) == (count, count)
        told = client.result("get_session_statistics")
        assert told["server"]["resident_bytes"] <= 64 * KIB * KIB
    assert_idle_and_quick_to_stop(server)


@pytest.mark.one_server
def test_one_sweep_ends_all_that_is_due_whatever_memory_holds(make_server: StartServer, tmp_path: Path) -> None:
    clock, file = WallClock(tmp_path / "clock"), tmp_path / "settings.toml"
    file.write_text('cleanup_interval = 86400\nresident_limit = "30KiB"\n')
    server = make_server("--config", str(file), env=clock.environment, module="tests.support.moved_clock").start()
    with server.connect() as client:

        def told() -> dict[str, Any]:
            return client.result("get_session_statistics")

        before = until(lambda: told()["sweeper"]["runs"], "the first sweep, after which the interval runs")
        for n in range(20):
            client.result("create_session", client_id=f"c{n}", timeout=10, session_state={"pad": "x" * 9000})
        clock.set(100)
        file.write_text('cleanup_interval = 1\nresident_limit = "30KiB"\n')
        server.send_signal(signal.SIGHUP)
        after = until(lambda: (now := told())["sweeper"]["runs"] > before and now, "one sweep more")
        assert after["sweeper"]["runs"] == before + 1
        assert (after["sessions_by_status"]["live"], after["sessions_by_status"]["expired"]) == (0, 20)
