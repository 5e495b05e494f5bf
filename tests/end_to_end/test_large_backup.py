"""SIGTERM while a copy of a database that is not small is made, and while it is read."""

import signal
import time
from pathlib import Path

from tests.conftest import StartServer
from tests.support.line_client import LineClient
from tests.support.load import SERVER_ARGS
from tests.support.server import ServerProcess
from tests.support.waiting import until

SESSIONS = 200
STATE = {"pad": "x" * 900_000}
STOP_WITHIN = 5.0


def fill(server: ServerProcess) -> str:
    """Some 180 MB; the id of the last session."""
    with server.connect(timeout=60) as client:
        made = [client.result("create_session", client_id="c", session_state=STATE) for _ in range(SESSIONS)]
    return str(made[-1]["session_id"])


def copies(server: ServerProcess) -> list[Path]:
    database = Path(server.db)
    return list(database.parent.glob(f".{database.name}.backup-*"))


def stop(server: ServerProcess) -> None:
    """SIGTERM: soon over, exit code 0, and nothing of a copy is left."""
    begun = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - begun < STOP_WITHIN
    assert copies(server) == []


def test_a_server_stops_while_a_large_copy_is_made_and_while_it_is_read(start_server: StartServer) -> None:
    server = start_server(*SERVER_ARGS)
    last = fill(server)
    with server.connect() as maker:
        name = maker.result("begin_backup")["backup_id"]
        until(lambda: any(copy.stat().st_size for copy in copies(server)), "the copy to grow")
        maker.send_request("read_backup", backup_id=name)  # which waits until the copy is made
        assert copies(server)  # its name is taken away once it is made
        stop(server)

    server.start()
    with server.connect(timeout=60) as reader:
        name = reader.result("begin_backup")["backup_id"]
        part = reader.result("read_backup", backup_id=name)
        assert part["next_offset"] < part["size"]
        reader.send_request("read_backup", backup_id=name, offset=part["next_offset"])
        stop(server)

    server.start()
    assert server.result("restore_session", session_id=last)["session_state"] == STATE
    assert server.result("get_session_statistics")["total_sessions"] == SESSIONS


def test_a_copy_that_is_still_being_made_is_replaced_when_its_maker_has_left(start_server: StartServer) -> None:
    """Its maker waits for the first part, so the server reads nothing from that connection."""
    server = start_server(*SERVER_ARGS)
    fill(server)
    with server.connect(timeout=60) as other:

        def begun() -> str:
            reply = other.request("begin_backup")
            return str(reply["result"]["backup_id"]) if reply["status"] == "success" else ""

        for leave in (LineClient.reset, LineClient.close):
            maker = server.connect()
            name = maker.result("begin_backup")["backup_id"]
            maker.send_request("read_backup", backup_id=name)
            (first,) = until(lambda: copies(server), "the copying to begin")
            assert not begun()
            leave(maker)
            assert first.exists()  # it is not made yet
            second = until(begun, "the loss to be noticed, long before the copy is made", timeout=0.3)
            assert first not in copies(server)
            assert other.result("read_backup", backup_id=second, offset=2**40)["next_offset"] is None
