"""With sweeps, evictions and kill -9 going on, no index names a session that is not there, and none is missing.

The big run:

    STUI_TEST_INDEX_ROUNDS=25 python -m pytest -s tests/end_to_end/test_indexes.py
"""

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.config import is_url
from tests.conftest import StartServer
from tests.support.audit import STATUSES, Audit, at_once, in_file, in_postgres, pages
from tests.support.crowd import Crowd
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess
from tests.support.waiting import until

ROUNDS = int(os.environ.get("STUI_TEST_INDEX_ROUNDS", "1"))
WRITES = 150
"""Acknowledged writes before and after the sweeper was there."""

LIMIT = 3
ARGS = (
    *("--create-rate", "0", "--cleanup-interval", "1", "--snapshot-interval", "1", "--resident-limit", "40KiB"),
    *("--log-rate", "0", "--log-format", "json"),
    *("--max-sessions-per-client", str(LIMIT), "--max-sessions-per-user", str(LIMIT)),
)


class Settings:
    """Whether the sweeper removes at once what has ended, or keeps it so that it can be looked at; and the like."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = 1000
        self.set(removing=False, on_limit="reject")

    def set(self, *, removing: bool, on_limit: str) -> None:
        """`default_timeout` is used by nobody here: statistics tell it, so it says which settings are in force."""
        self._version += 1
        keep = 1 if removing else 86_400
        text = f'keep_expired = {keep}\non_limit = "{on_limit}"\ndefault_timeout = {self._version}\n'
        self.path.write_text(text)

    def change(self, server: ServerProcess, *, removing: bool, on_limit: str) -> None:
        """Have the running server read them again."""
        self.set(removing=removing, on_limit=on_limit)
        server.send_signal(signal.SIGHUP)
        until(lambda: {told["default_timeout"] for told in statistics(server)} == {self._version}, "the settings")


class Still:
    """Sessions of every status that nobody touches, and somebody who walks through the lists all the time."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.walks = 0
        self._failures: list[BaseException] = []
        self._stopping = threading.Event()
        with server.connect() as client:
            self.ids = {status: {self._make(client, status) for _ in range(12)} for status in STATUSES}
            until(lambda: len(list(pages(client, status="expired"))) == 12, "the sweeper")

    def _make(self, client: LineClient, status: str) -> str:
        timeout = 1 if status == "expired" else 100_000
        session_id = str(client.result("open_session", timeout=timeout)["session_id"])
        client.result("update_session", session_id=session_id, pin=True)  # or the sweeper would touch it
        if status in ("closed", "deleted"):
            client.result("close_session" if status == "closed" else "delete_session", session_id=session_id)
        return session_id

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._walk_on, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """One more walk to its end, unless the server goes away."""
        self._stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._failures:
            raise self._failures[0]

    def _walk_on(self) -> None:
        try:
            with self.server.connect() as client:
                while not self._stopping.is_set():
                    for status in STATUSES:
                        for order in ("asc", "desc"):
                            self._walk(client, status, order)
        except (ConnectionError, EOFError):
            pass  # the server went away
        except BaseException as failure:
            self._failures.append(failure)

    def _walk(self, client: LineClient, status: str, order: str) -> None:
        rows = [r["session_id"] for r in pages(client, status=status, order=order, sort="created_at", limit=7)]
        once = [i for i in rows if not i.startswith("own-")]  # such an id may be another session's by now
        assert len(set(once)) == len(once), f"twice: {[i for i in once if once.count(i) > 1]}"
        assert self.ids[status] <= set(rows), f"left out: {self.ids[status] - set(rows)}"
        self.walks += 1


def removals(server: ServerProcess) -> Counter[str]:
    """What the sweeper says to have removed since the start, by the reason."""
    found = [told["removed_by_reason"] for told in statistics(server)]
    return Counter({reason: sum(counts[reason] for counts in found) for reason in ("expired", "closed", "deleted")})


def statistics(server: ServerProcess) -> list[dict[str, Any]]:
    """What each process says of itself."""
    found = []
    for port in server.ports:
        with LineClient.tcp(server.host, port) as client:
            found.append(client.result("get_session_statistics"))
    return found


def logged(server: ServerProcess, since: int) -> Counter[str]:
    """What it has logged of that."""
    text = server.stderr()[since:]
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # the last one may be half there
    return Counter(line["reason"] for line in lines if line["event"] == "session.removed")


def load(server: ServerProcess, crowd: Crowd) -> None:
    """Until enough was written, and the sweeper has removed some of it."""
    before = removals(server).total()
    crowd.go_on(WRITES)
    until(lambda: removals(server).total() > before + 5, "the sweeper", timeout=30)
    crowd.go_on(WRITES)


@pytest.mark.both_stores
def test_indexes_agree_with_the_sessions(make_server: StartServer, tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.toml")
    server = make_server(*ARGS, "--config", str(settings.path)).start()
    still = Still(server)
    crowd = Crowd(server, seed=ROUNDS)
    started = 0
    """Where this run of the server begins in its log."""
    removed: Counter[str] = Counter()

    def look() -> Audit:
        with server.connect() as client:
            audit = Audit(client, crowd)
            audit.run(LIMIT)
        counted = Counter(removals(server))
        until(lambda: logged(server, started) == +counted, f"lines in the log: {counted}")
        assert not any(session_id in server.stderr() for session_id in audit.truth)
        removed.update(counted)
        return audit

    for _ in range(ROUNDS):
        settings.change(server, removing=True, on_limit="reject")
        crowd.start()
        still.start()
        load(server, crowd)
        crowd.stop()
        still.join()
        settings.change(server, removing=False, on_limit="reject")
        look()

        settings.change(server, removing=True, on_limit="evict_oldest")
        crowd.start()
        still.start()
        load(server, crowd)
        server.kill()
        crowd.join()
        still.join()
        settings.set(removing=False, on_limit="evict_oldest")
        started = len(server.stderr())
        server.start()
        with server.connect() as client:
            at_once(client, crowd)
        audit = look()

        assert server.terminate() == 0
        audit.tables(in_postgres(server.db) if is_url(server.db) else in_file(Path(server.db)))
        started = len(server.stderr())
        server.start()
    print(f"\n{crowd.acknowledged} writes, {still.walks} walks, removed {dict(removed)}")
    assert still.walks > 8
