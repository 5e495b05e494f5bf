"""Memory of idle connections.

    python -m tests.benchmarks.idle [--connections 5000]

Opens the connections, has each ask once, and divides the growth of the server's
resident memory by their number.  Loopback only.
"""

import argparse
import asyncio
import resource
import tempfile
from pathlib import Path

from tests.support.server import ServerProcess

PING = b'{"id":1,"command":"ping"}\n'


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=5000)
    a = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as tmp, ServerProcess(Path(tmp)) as server:
        server.result("ping")
        before = server.rss()
        peers = []
        for _ in range(a.connections):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(PING)
            await reader.readline()
            peers.append(writer)
        grown = server.rss() - before
        print(
            f"{a.connections} idle connections: {grown / a.connections / 1024:.1f} KiB each ({before >> 20} MiB before)"
        )


if __name__ == "__main__":
    asyncio.run(main())
