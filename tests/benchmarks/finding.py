"""Finding sessions among a million on disk: lists, references, resumption.

    python -m tests.benchmarks.finding [--sessions 1000000] [--seconds 5] [--connections 10]

Fills a database, then asks a real server: the latency
(p50, p99, longest) of each kind of question at so many connections, one question
in flight on each; and the rate of updates of one more connection, alone and while
another process asks 100 questions a second.  Loopback only.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from stui_sessions.domain.entities import About, Session, SessionData
from tests.benchmarks.filling import fill, live
from tests.benchmarks.million import session_id
from tests.support.server import ServerProcess

STATE = json.dumps({"workspace": "a workspace", "variables": ["var1", "var2", "var3"]}).encode()
RATE = 100
Parameters = dict[str, Any]


def stored(number: int, count: int, now: int) -> Session:
    """Five sessions for a client, two clients for a user; used at random instants of the last hour."""
    at = now - (number * 7919 % count) * 3_000_000 // count
    about = About(f"u{number // 10}", f"ext-{number}", f"Notebook {number}", ("even" if number % 2 == 0 else "odd",))
    client = f"c{number // 5}"
    return live(SessionData(number, session_id(number), client, at, at, at, 86_400, session_state=STATE, about=about))


def findable(count: int) -> Iterator[Session]:
    """`count` live sessions with everything that they can be found by."""
    now = time.time_ns() // 1_000_000
    return (stored(n, count, now) for n in range(1, count + 1))


def questions(count: int, choose: random.Random) -> dict[str, Callable[[], tuple[str, Parameters]]]:
    """A maker of requests for each kind of question."""

    def number() -> int:
        return choose.randint(1, count)

    def resume() -> tuple[str, Parameters]:
        n = number()
        return "open_session", {"user_id": f"u{n // 10}", "client_id": f"c{n // 5}"}

    return {
        "list by last activity": lambda: ("list_sessions", {}),
        "list by creation, ascending": lambda: ("list_sessions", {"sort": "created_at", "order": "asc"}),
        "list by title": lambda: ("list_sessions", {"sort": "title"}),
        "list by tag": lambda: ("list_sessions", {"tags": ["odd"]}),
        "list of a user": lambda: ("list_sessions", {"user_id": f"u{number() // 10}"}),
        "list of a client": lambda: ("list_sessions", {"client_id": f"c{number() // 5}", "sort": "title"}),
        "resolve an id": lambda: ("resolve_session", {"ref": session_id(number())}),
        "resolve a prefix": lambda: ("resolve_session", {"ref": session_id(number())[:-4]}),
        "resolve a title": lambda: ("resolve_session", {"ref": f"Notebook {number()}"}),
        "resolve an external id": lambda: ("resolve_session", {"ref": f"ext-{number()}"}),
        "resume by client": resume,
    }


class Asker:
    """Connections that ask one question after the other, and the seconds that each answer took.

    `rate`: no more than so many questions a second on each connection.
    """

    def __init__(self, port: int, make: Callable[[], tuple[str, Parameters]], rate: float = 1e9) -> None:
        self.port = port
        self.make = make
        self.rate = rate
        self.took: list[float] = []

    async def ask(self, connections: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._one(end) for _ in range(connections)))

    async def _one(self, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        while time.monotonic() < end:
            command, parameters = self.make()
            begun = time.monotonic()
            writer.write(json.dumps({"id": 1, "command": command, "parameters": parameters}).encode() + b"\n")
            reply = await reader.readline()
            self.took.append(time.monotonic() - begun)
            if b'"success"' not in reply:
                raise AssertionError(reply[:300])
            await asyncio.sleep(max(0.0, begun + 1 / self.rate - time.monotonic()))
        writer.close()

    def __str__(self) -> str:
        ms = [1000 * s for s in sorted(self.took)]
        p99 = ms[int(len(ms) * 0.99)]
        return f"p50 {statistics.median(ms):5.2f}  p99 {p99:5.2f}  longest {ms[-1]:6.2f} ms"


def ask_slowly(port: int, count: int, kind: str, connections: int, seconds: float) -> None:
    """In a process of its own: 100 questions a second."""
    make = questions(count, random.Random(11))[kind]
    asyncio.run(Asker(port, make, RATE / connections).ask(connections, seconds))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=10)
    a = parser.parse_args()
    choose = random.Random(7)
    with tempfile.TemporaryDirectory() as tmp:
        server = ServerProcess(Path(tmp), "--max-sessions-per-client", "1000")
        begun = time.monotonic()
        fill(Path(server.db), findable(a.sessions))
        print(
            f"{a.sessions} sessions written in {time.monotonic() - begun:.1f} s, {server.db.stat().st_size >> 20} MiB"
        )

        def update() -> tuple[str, Parameters]:
            return "update_session_state", {"session_id": session_id(choose.randint(1, 20_000)), "state_data": {"a": 1}}

        with server, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
            alone = Asker(server.port, update)
            await alone.ask(1, a.seconds)
            print(f"{'updates alone':30} {alone}  {len(alone.took) / a.seconds:.0f}/s", flush=True)
            for name, make in questions(a.sessions, choose).items():
                asker, updates = Asker(server.port, make), Asker(server.port, update)
                await asker.ask(a.connections, a.seconds)
                print(f"{name:30} {asker}  {len(asker.took) / a.seconds:.0f}/s", flush=True)
                others = asyncio.get_running_loop().run_in_executor(
                    processes, ask_slowly, server.port, a.sessions, name, a.connections, a.seconds + 1
                )
                await asyncio.sleep(0.5)
                await updates.ask(1, a.seconds)
                await others
                part = len(updates.took) / len(alone.took)
                print(f"{'  updates beside 100 of these/s':30} {updates}  {part:.2f} of the rate alone", flush=True)
            print(f"resident memory {server.rss() >> 20} MiB")


if __name__ == "__main__":
    asyncio.run(main())
