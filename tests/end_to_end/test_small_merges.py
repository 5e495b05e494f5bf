"""A small merge into a large session is cheap: only the patch goes into the log."""

import pytest

from tests.conftest import StartServer
from tests.support.line_client import LineClient

pytestmark = pytest.mark.local_store

LARGE = 900_000
MOST = 2_000
"""Bytes of log that one small merge may take."""


def log_bytes(client: LineClient) -> int:
    return int(client.result("get_session_statistics")["server"]["journal_bytes"])


@pytest.mark.parametrize("reply", ["full", "brief"])
def test_a_small_merge_into_a_large_session_writes_little_to_the_log(make_server: StartServer, reply: str) -> None:
    server = make_server("--snapshot-interval", "3600").start()  # no round of writing behind comes in between
    state = {f"member{n}": "x" * 1_000 for n in range(LARGE // 1_000)}
    with server.connect() as client:
        session_id = client.result("create_session", client_id="me", session_state=state)["session_id"]
        before = log_bytes(client)
        for number in range(5):
            client.result("update_session_state", session_id=session_id, state_data={"cursor": number}, reply=reply)
        written = log_bytes(client) - before
    assert 0 < written < 5 * MOST
    server.restart()  # killed: what is restored comes from the log
    assert server.result("restore_session", session_id=session_id)["session_state"] == {**state, "cursor": 4}
