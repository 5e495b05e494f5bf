"""A million sessions on disk: start-up, memory, and throughput beside a small database.

    python -m tests.benchmarks.million [--sessions 1000000] [--seconds 60] [--connections 50] [--pipeline 16]

Fills a database, then asks a real server: the time from
starting the process to the first reply; resident memory while random sessions of
all of them are restored and updated; update throughput with random sessions of
all of them, as a ratio to the same load on 20,000 sessions, in bursts and one at a
time (the two servers in turn, three rounds, the median ratio).  Loopback only.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stui_sessions.domain.entities import Session, SessionData
from tests.benchmarks.filling import fill, live
from tests.support.server import ServerProcess

SMALL = 20_000
STATE = {"workspace": "updated workspace state", "inspector": "inspector", "variables": ["var1", "var2", "var3"]}


def session_id(number: int) -> str:
    return f"session_{number}_1735567800_{number:039d}"


def client_id(number: int) -> str:
    return f"c{(number - 1) // 5}"


def small_sessions(count: int) -> Iterator[Session]:
    """`count` live sessions, five for each client, each with a small state."""
    now = time.time_ns() // 1_000_000
    text = json.dumps(STATE).encode()
    for n in range(1, count + 1):
        yield live(SessionData(n, session_id(n), client_id(n), now, now, now, 86_400, session_state=text))


def line(command: str, number: int) -> bytes:
    parameters: dict[str, object] = {"session_id": session_id(number)}
    if command == "update_session_state":
        parameters["state_data"] = STATE
    return json.dumps({"id": number, "command": command, "parameters": parameters}).encode() + b"\n"


async def load(
    port: int, commands: list[str], sessions: int, seconds: float, connections: int, pipeline: int, seed: int = 7
) -> float:
    """Requests per second over `connections`, each with bursts of `pipeline` requests for random sessions."""
    choose = random.Random(seed)
    done = 0
    end = time.monotonic() + seconds

    async def one() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        while time.monotonic() < end:
            writer.write(b"".join(line(choose.choice(commands), choose.randint(1, sessions)) for _ in range(pipeline)))
            for _ in range(pipeline):
                reply = await reader.readline()
                if b'"success"' not in reply:
                    raise AssertionError(reply[:300])
            done += pipeline
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return done / seconds


def first_reply(server: ServerProcess) -> float:
    """Seconds from starting the process to the reply to a restore."""
    begun = time.monotonic()
    server.start()
    server.result("restore_session", session_id=session_id(12_345))
    return time.monotonic() - begun


async def compared(small: int, large: int, sessions: int, connections: int, pipeline: int) -> float:
    """The rate of updates of random sessions among so many, as a part of that among few; the median of three."""
    ratios = []
    for _ in range(3):
        update = ["update_session_state"]
        of_small = await load(small, update, SMALL, 5, connections, pipeline)
        of_large = await load(large, update, sessions, 5, connections, pipeline)
        ratios.append(of_large / of_small)
        print(f"updates/s: {SMALL} sessions {of_small:.0f}, {sessions} sessions {of_large:.0f}", flush=True)
    return statistics.median(ratios)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--pipeline", type=int, default=16)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        large, small = (ServerProcess(Path(tmp) / name) for name in ("large", "small"))
        for server, count in ((large, a.sessions), (small, SMALL)):
            server.directory.mkdir()
            begun = time.monotonic()
            fill(Path(server.db), small_sessions(count))
            print(f"{count} sessions written in {time.monotonic() - begun:.1f} s, {server.db.stat().st_size >> 20} MiB")
        with large, small:
            large.kill()
            for server, count in ((small, SMALL), (large, a.sessions)):
                server.kill()
                print(f"first reply {first_reply(server):.2f} s after start, {count} sessions", flush=True)
            mixed = ["restore_session", "update_session_state"]
            rate = await load(large.port, mixed, a.sessions, a.seconds, a.connections, a.pipeline)
            print(f"{rate:.0f} restores and updates/s over all; resident memory {large.rss() >> 20} MiB", flush=True)
            for pipeline in (a.pipeline, 1):
                ratio = await compared(small.port, large.port, a.sessions, a.connections, pipeline)
                print(f"median ratio at {a.connections} x {pipeline}: {ratio:.2f}; {large.rss() >> 20} MiB", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
