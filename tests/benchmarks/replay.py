"""The start after kill -9 with a full log: what is in the log alone has to be replayed.

    python -m tests.benchmarks.replay [--mebibytes 64] [--sessions 10000 100000] [--rounds 3]

Fills a database, has a real server update random sessions until its tables lack so
much of the log (its settings forbid it to write them meanwhile), and kills it.  Then
the time from starting a process with default settings to its first replies, to a
look at a session and to an update of it, each time on a copy of what was left.  Loopback only.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.filling import fill
from tests.benchmarks.million import load, session_id, small_sessions
from tests.support.server import ServerProcess

PATIENT = ("--journal-limit", "4GiB", "--resident-limit", "4GiB", "--snapshot-interval", "3600")
"""Nothing makes this server write its tables."""

STEP_SECONDS = 0.2
"""Of load, until the log is looked at again."""


def leave_log(directory: Path, sessions: int, size: int) -> None:
    """A killed server's database of so many sessions, with so many bytes of log that the tables do not have."""
    server = ServerProcess(directory, *PATIENT)
    directory.mkdir()
    fill(directory / "sessions.db", small_sessions(sessions))
    updates, seed = 0.0, 0
    with server:
        while (behind := _behind(server)) < size:
            seed += 1
            rate = asyncio.run(load(server.port, ["update_session_state"], sessions, STEP_SECONDS, 50, 16, seed))
            updates += STEP_SECONDS * rate
        server.kill()
    print(
        f"{sessions} sessions, {updates:.0f} updates: {behind / 2**20:.0f} MiB of log that the tables lack", flush=True
    )


def _behind(server: ServerProcess) -> int:
    return int(server.result("get_session_statistics")["server"]["journal_bytes"])


def start_of_copy(left: Path, place: Path) -> float:
    """Seconds from starting a server on a copy to its first reply; tells how long the first update takes, too."""
    shutil.copytree(left, place)
    server = ServerProcess(place)
    begun = time.monotonic()
    with server, server.connect(timeout=60) as client:
        client.result("get_session_info", session_id=session_id(1_234))
        seconds = time.monotonic() - begun
        client.result("update_session_state", session_id=session_id(1_234), state_data={"a": 1})
        updated = time.monotonic() - begun
        print(
            f"  first reply after {seconds:.2f} s, update after {updated:.2f} s; {server.rss() >> 20} MiB", flush=True
        )
    shutil.rmtree(place)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--sessions", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        for sessions in a.sessions:
            left = Path(tmp) / str(sessions)
            leave_log(left, sessions, a.mebibytes * 2**20)
            seconds = [start_of_copy(left, Path(tmp) / "copy") for _ in range(a.rounds)]
            print(f"{sessions} sessions: median {statistics.median(seconds):.2f} s", flush=True)


if __name__ == "__main__":
    main()
