"""A backup beside a full load: how long it takes, and what the clients notice.

    python -m tests.benchmarks.backup [--sessions 200000] [--pipeline 16]

Fills a database, has `stui-sessions bench` update without
a pause on 50 connections, and takes a `stui-sessions backup` meanwhile.  Prints
the report of the one and the words of the other.  Loopback only.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.filling import fill
from tests.benchmarks.finding import findable
from tests.support.server import ServerProcess

SECONDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--pipeline", type=int, default=16)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        server = ServerProcess(Path(tmp), "--create-rate", "0")
        fill(Path(server.db), findable(a.sessions))
        with server:
            command = [sys.executable, "-m", "stui_sessions"]
            where = ["--port", str(server.port)]
            load = [*command, "bench", *where, "--connections", "50", "--pipeline", str(a.pipeline)]
            load += ["--duration", str(SECONDS), "--mix", "update=1"]
            bench = subprocess.Popen(load, env=server.env, stdout=subprocess.PIPE, text=True)
            time.sleep(4)  # its sessions are made by then
            begun = time.monotonic()
            file = str(Path(tmp) / "backup.db")
            subprocess.run([*command, "backup", file, *where], env=server.env, check=True)
            print(f"the backup took {time.monotonic() - begun:.1f} s")
            print(bench.communicate()[0])
            print(f"write-ahead log afterwards: {Path(f'{server.db}-wal').stat().st_size >> 20} MiB")


if __name__ == "__main__":
    main()
