"""The wall clock is set two hours ahead and one day back, while the server runs and between two starts."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.storage.postgres import admin
from tests.conftest import StartServer
from tests.support.line_client import LineClient
from tests.support.load import SERVER_ARGS, Load
from tests.support.moved_clock import ALONE, WallClock
from tests.support.server import ServerProcess
from tests.support.waiting import until

HOUR = 3600
DAY = 24 * HOUR
AHEAD = 2 * HOUR
BACK = -DAY

TIMEOUTS = {"brief": 60, "hour": HOUR, "day": DAY, "month": 30 * DAY}


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@pytest.fixture
def server(make_server: StartServer, clock: WallClock) -> ServerProcess:
    """A running server on that clock, sweeping once a second."""
    return make_server(
        "--cleanup-interval", "1", *SERVER_ARGS, env=clock.environment, module="tests.support.moved_clock"
    ).start()


def sessions(client: LineClient) -> dict[str, str]:
    """One session of each timeout: its id by its name."""
    return {
        name: client.result("create_session", client_id=name, timeout=timeout, session_state={"name": name})[
            "session_id"
        ]
        for name, timeout in TIMEOUTS.items()
    }


def info(client: LineClient, session_id: str) -> dict[str, Any]:
    """What is known of a session; its remaining time is always possible."""
    result = client.result("get_session_info", session_id=session_id)
    assert 0 <= result["time_until_expiry"] <= result["timeout"]
    assert result["is_active"] == (result["time_until_expiry"] > 0)
    return result


def active(client: LineClient, ids: dict[str, str]) -> list[str]:
    return [name for name, session_id in ids.items() if info(client, session_id)["is_active"]]


def shift(client: LineClient) -> float:
    """How far the server's clock is from ours, in seconds."""
    told = datetime.fromisoformat(client.request("ping")["timestamp"])
    return (told - datetime.now(UTC)) / timedelta(seconds=1)


def use(client: LineClient, session_id: str, revision: int) -> None:
    """Everything can be done with it."""
    restored = client.result("restore_session", session_id=session_id)
    assert restored["revision"] == revision
    updated = client.result("update_session_state", session_id=session_id, state_data={"used": revision})
    assert updated["revision"] == revision + 1
    left = info(client, session_id)
    assert left["timeout"] - 2 <= left["time_until_expiry"] <= left["timeout"]


@pytest.mark.both_stores
def test_ahead_and_back_while_running(server: ServerProcess, clock: WallClock) -> None:
    with server.connect() as client:
        ids = sessions(client)
        assert active(client, ids) == list(TIMEOUTS)

        clock.set(AHEAD)
        assert shift(client) == pytest.approx(AHEAD, abs=5)
        assert active(client, ids) == ["day", "month"]
        for name in ("brief", "hour"):
            assert client.request("restore_session", session_id=ids[name])["error_code"] == "session_expired"
            assert client.result("list_client_sessions", client_id=name)["session_count"] == 0
        use(client, ids["month"], 1)
        ahead = sessions(client)
        until(lambda: client.result("get_session_statistics")["total_sessions"] == 6, "the sweeper")

        clock.set(BACK)
        assert shift(client) == pytest.approx(BACK, abs=5)
        # What has been swept stays expired; it is known, and nothing else is gone.
        assert active(client, ids) == ["day", "month"]
        assert active(client, ahead) == list(TIMEOUTS)
        use(client, ids["month"], 2)
        for session_id in (ids["day"], *ahead.values()):
            use(client, session_id, 1)
        again = sessions(client)
        assert active(client, again) == list(TIMEOUTS)
        assert client.result("get_session_statistics")["total_sessions"] == 10

        clock.set(0)
        assert active(client, again) == ["month"] or active(client, again) == ["day", "month"]  # a day later for them
        assert client.result("restore_session", session_id=ids["month"])["session_state"] == {
            "name": "month",
            "used": 2,
        }


@pytest.mark.parametrize("way", ["kill", "terminate"])
def test_ahead_and_back_between_two_starts(server: ServerProcess, clock: WallClock, way: str) -> None:
    with server.connect() as client:
        ids = sessions(client)
    ahead: dict[str, str] = {}
    for offset in (AHEAD, BACK):
        getattr(server, way)()
        clock.set(offset)
        server.start()
        with server.connect() as client:
            assert shift(client) == pytest.approx(offset, abs=5)
            for session_id in [*ids.values(), *ahead.values()]:
                info(client, session_id)
            assert {"day", "month"} <= set(active(client, ids))
            use(client, ids["month"], 1 if offset == AHEAD else 2)
            use(client, ids["day"], 1 if offset == AHEAD else 2)
            ahead = ahead or sessions(client)
            assert active(client, ahead) == list(TIMEOUTS)


def test_load_while_the_clock_jumps(server: ServerProcess, clock: WallClock) -> None:
    """Nobody's reply is late or wrong, and a kill afterwards loses nothing."""
    server.kill()
    server.args += ["--default-timeout", str(30 * DAY)]
    load = Load(server.start(), workers=3).start()
    for offset in (AHEAD, BACK, 0):
        clock.set(offset)
        before = load.acknowledged
        until(lambda before=before: load.acknowledged > before + 300, "writes going on")
    load.stop()
    load.verify()
    server.kill()
    server.start()
    load.verify()


def test_a_machines_clock_does_not_count_for_a_shared_store(
    make_server: StartServer, clock: WallClock, database_url: str
) -> None:
    """Somebody sets it two hours ahead: the database's clock says what expires."""
    asyncio.run(admin.init(database_url, "stui_sessions"))
    server = make_server(
        "--cleanup-interval", "1", db=database_url, module="tests.support.moved_clock",
        env={**clock.environment, ALONE: "yes"},
    ).start()  # fmt: skip
    with server.connect() as client:
        ids = sessions(client)
        clock.set(AHEAD)
        assert abs(shift(client)) < 5
        assert client.request("restore_session", session_id=ids["hour"])["status"] == "success"
        before = client.result("get_session_statistics")["sweeper"]["runs"]
        until(lambda: client.result("get_session_statistics")["sweeper"]["runs"] > before + 1, "two sweeps")
        assert active(client, ids) == list(TIMEOUTS)


def test_rates_do_not_follow_the_wall_clock(make_server: StartServer, clock: WallClock) -> None:
    server = make_server("--create-rate", "2", env=clock.environment, module="tests.support.moved_clock").start()
    with server.connect() as client:
        create = ("create_session", {"client_id": "hasty"})
        assert [reply["status"] for reply in client.pipeline([create] * 3)] == ["success", "success", "error"]
        for offset in (AHEAD, BACK):
            clock.set(offset)
            (reply,) = client.pipeline([create])
            assert reply["error_code"] == "create_rate_exceeded"
            assert 1 <= reply["details"]["retry_after"] <= 30
