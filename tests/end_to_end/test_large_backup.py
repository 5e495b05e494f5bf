"""While a copy of a database that takes several steps is made, and while it is read: SIGTERM, and its maker's loss.

Copies are held after their first step where they are to be met while they are made: no machine is too fast.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.held_copy import VARIABLE
from tests.support.line_client import LineClient
from tests.support.load import SERVER_ARGS
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.local_store

SESSIONS = 20
STATE = {"pad": "x" * 900_000}
STOP_WITHIN = 5.0


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """While this file is there, copies stand still."""
    file = tmp_path / "hold"
    file.touch()
    return file


@pytest.fixture
def holding(start_server: StartServer, hold: Path) -> ServerProcess:
    """A server that heeds it, with some 18 MB."""
    server = start_server(*SERVER_ARGS, module="tests.support.held_copy", env={VARIABLE: str(hold)})
    with server.connect(timeout=60) as client:
        for n in range(SESSIONS):
            client.result("create_session", client_id="c", session_id=f"s{n}", session_state=STATE)
    return server


def copies(server: ServerProcess) -> list[Path]:
    database = Path(server.db)
    return list(database.parent.glob(f".{database.name}.backup-*"))


def begin(server: ServerProcess, client: LineClient) -> Path:
    """Begin a copy, and ask for its first part, which comes once it is made; its file."""
    name = client.result("begin_backup")["backup_id"]
    client.send_request("read_backup", backup_id=name)
    (file,) = until(lambda: copies(server), "the copying to begin")
    return file


def stop(server: ServerProcess) -> None:
    """SIGTERM: soon over, exit code 0, and nothing of a copy is left."""
    begun = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - begun < STOP_WITHIN
    assert copies(server) == []


def test_a_server_stops_while_a_large_copy_is_made_and_while_it_is_read(holding: ServerProcess, hold: Path) -> None:
    server = holding
    with server.connect(timeout=60) as maker:
        copy = begin(server, maker)
        until(lambda: copy.stat().st_size, "the copy to grow")
        stop(server)
        # Dropped at once, and not with whatever else runs when the time for answers is over.
        assert maker.receive()["error_code"] == "backup_not_found"

    hold.unlink()
    server.start()
    with server.connect(timeout=60) as reader:
        name = reader.result("begin_backup")["backup_id"]
        part = reader.result("read_backup", backup_id=name)
        assert part["next_offset"] < part["size"]
        reader.send_request("read_backup", backup_id=name, offset=part["next_offset"])
        stop(server)

    server.start()
    assert server.result("restore_session", session_id=f"s{SESSIONS - 1}")["session_state"] == STATE
    assert server.result("get_session_statistics")["total_sessions"] == SESSIONS


@pytest.mark.parametrize("leave", [LineClient.reset, LineClient.close])
def test_a_copy_that_is_still_being_made_is_replaced_when_its_maker_has_left(
    holding: ServerProcess, hold: Path, leave: Callable[[LineClient], None]
) -> None:
    """Its maker waits for the first part, so the server reads nothing from that connection."""
    server = holding
    with server.connect(timeout=60) as other:

        def begun() -> str:
            reply = other.request("begin_backup")
            return str(reply["result"]["backup_id"]) if reply["status"] == "success" else ""

        maker = server.connect()
        first = begin(server, maker)
        assert not begun()
        leave(maker)
        second = until(begun, "the loss to be noticed")
        assert first not in copies(server)
        hold.unlink()
        assert other.result("read_backup", backup_id=second, offset=2**40)["next_offset"] is None
