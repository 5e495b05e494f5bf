"""Load on a server from this process, with what a request costs the server's processor.

The load is that of `stui-sessions bench`; its sessions are made once and used by many runs.
"""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from stui_sessions.bench.load import Load
from stui_sessions.bench.population import Population
from stui_sessions.bench.requests import Kind, state_text
from stui_sessions.client import connect
from tests.support.server import ServerProcess

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 120.0
"""Seconds for a reply: the machine may be busy."""


class Measured(NamedTuple):
    """One run."""

    rate: float  # requests per second
    p50: float  # ms, of a burst
    p99: float
    server_us: float  # µs of processor that the server used for a request
    database_us: float  # and all processes of its database, where it has one


class Drive:
    """A server with sessions to work on; `database` tells the ids of its database's processes."""

    def __init__(self, server: ServerProcess, state_bytes: int, database: Callable[[], Sequence[int]] = list) -> None:
        self.server = server
        self._state_bytes = state_bytes
        self._database = database
        self._population = Population()
        self._random = random.Random(7)

    async def fill(self, sessions: int) -> None:
        """Make the sessions; they outlive any run."""
        state = state_text(self._state_bytes, self._random)
        async with connect(self.server.host, self.server.port, None, PATIENCE) as client:
            await self._population.create(client, sessions, state, 1e6, lambda: False)

    async def run(
        self, connections: int, pipeline: int, seconds: float, kind: str = "update", only: int | None = None
    ) -> Measured:
        """Requests about random sessions, or about the first `only` of them."""
        subjects = self._population.sessions[:only]
        kinds = [Kind(kind, subjects, self._state_bytes, self._random)]
        load = Load(kinds, [1.0], pipeline, PATIENCE, self._random)
        loop, server = asyncio.get_running_loop(), self.server
        try:
            await load.connect(lambda factory: loop.create_connection(factory, server.host, server.port), connections)
            before = cpu_seconds([server.pid]), cpu_seconds(self._database())
            await load.run(seconds, lambda *_: None)
            after = cpu_seconds([server.pid]), cpu_seconds(self._database())
        finally:
            load.close()
        assert not load.errors, load.errors
        used = [1e6 * (late - early) / load.requests for early, late in zip(before, after, strict=True)]
        latency = load.latencies[kind]
        return Measured(
            load.requests / load.seconds, latency.percentile(50) / 1000, latency.percentile(99) / 1000, used[0], used[1]
        )


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of the processor, that these processes have used until now."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def ended_seconds(pid: int) -> float:
    """Of the processor, that children of this process have used which have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS
