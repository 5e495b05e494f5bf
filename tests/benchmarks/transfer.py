"""Export and import of many sessions through the command line, from one server into another.

    python -m tests.benchmarks.transfer [--sessions 100000] [--state-bytes 400] [--rounds 3]

Fills a database, starts a server on it, and measures `stui-sessions export`
and `stui-sessions import` from start to end, the processes' own starts included.  Compares what the
second server exports with what the first one did.  Loopback only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stui_sessions.domain.entities import About, Session, SessionData
from tests.benchmarks.filling import fill, live
from tests.benchmarks.million import session_id
from tests.support.server import ServerProcess


def notes(count: int, state_bytes: int) -> Iterator[Session]:
    """`count` live sessions, five for each client."""
    now = time.time_ns() // 1_000_000
    state = {"cursor": {"line": 12, "column": 40}, "open": ["a.py", "b.py"], "text": ""}
    state["text"] = "x" * max(0, state_bytes - len(json.dumps(state)))
    text = json.dumps(state).encode()
    for n in range(1, count + 1):
        about = About(title=f"Notes {n}", tags=("draft",))
        client = f"c{(n - 1) // 5}"
        yield live(SessionData(n, session_id(n), client, now, now, now, 86_400, session_state=text, about=about))


def timed(server: ServerProcess, *arguments: str) -> float:
    """Seconds that a command of the command line takes."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "stui_sessions", *arguments, "--port", str(server.port)]
    done = subprocess.run(command, env=server.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--state-bytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        source = ServerProcess(Path(tmp) / "source")
        source.directory.mkdir()
        fill(Path(source.db), notes(a.sessions, a.state_bytes))
        first, second = Path(tmp) / "first.jsonl", Path(tmp) / "second.jsonl"
        with source:
            for round in range(a.rounds):
                seconds = timed(source, "export", str(first))
                size = first.stat().st_size
                print(
                    f"export {a.sessions / seconds:8,.0f} sessions/s  ({size // a.sessions} bytes a line)", flush=True
                )
                directory = Path(tmp) / f"target{round}"
                directory.mkdir()
                with ServerProcess(directory) as target:
                    seconds = timed(target, "import", str(first))
                    print(f"import {a.sessions / seconds:8,.0f} sessions/s", flush=True)
                    seconds = timed(target, "export", str(second))
                    print(f"export {a.sessions / seconds:8,.0f} sessions/s  (what was just imported)", flush=True)
                assert first.read_bytes() == second.read_bytes(), "what came out is not what went in"


if __name__ == "__main__":
    main()
