"""One benchmark from beginning to end: sessions made, load applied, sessions purged."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable

from msgspec import Struct

from stui_sessions.bench.load import Load, Open
from stui_sessions.bench.population import Population
from stui_sessions.bench.report import Report
from stui_sessions.bench.requests import Kind, state_text
from stui_sessions.client import Client, connect


class BenchPlan(Struct, frozen=True):
    """What to measure, and where."""

    host: str
    port: int
    unix: str
    """Path of a Unix socket; empty for TCP."""
    connections: int
    pipeline: int
    """Requests that a connection sends at once before it waits for their replies."""
    duration: float
    """Seconds."""
    sessions: int
    mix: dict[str, float]
    state_bytes: int
    timeout: float
    """Seconds that a reply may take."""


class Bench:
    """One run of a plan.  `say` is told what is going on, often."""

    def __init__(self, plan: BenchPlan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self.say = say
        self._rng = random.Random()
        self._population = Population()
        self._load: Load | None = None
        self.interrupted = False
        self.left_behind = 0
        """Sessions that could not be purged."""

    async def run(self) -> Report | None:
        """Measure; None when it was interrupted before the load began.

        Raises ClientError and OSError; the sessions are purged all the same.
        """
        self._heed_signals()
        plan = self._plan
        # Open all the time: afterwards there might be no room for one more connection.
        async with connect(plan.host, plan.port, plan.unix or None, plan.timeout) as client:
            try:
                await self._populate(client)
                return None if self.interrupted else await self._measure()
            finally:
                await self._clean_up(client)

    def interrupt(self) -> None:
        """Stop early, in good order."""
        self.interrupted = True
        if self._load is not None:
            self._load.stop()

    async def _populate(self, client: Client) -> None:
        plan = self._plan
        self.say(f"creating {plan.sessions:,} sessions")
        state = state_text(plan.state_bytes, self._rng)
        await self._population.create(client, plan.sessions, state, plan.duration, lambda: self.interrupted)

    async def _measure(self) -> Report:
        plan, population = self._plan, self._population
        subjects = {"list": population.clients}
        kinds = [Kind(name, subjects.get(name, population.sessions), plan.state_bytes, self._rng) for name in plan.mix]
        load = self._load = Load(kinds, list(plan.mix.values()), plan.pipeline, plan.timeout, self._rng)
        try:
            self.say(f"opening {plan.connections:,} connections")
            await load.connect(self._opener(), plan.connections)
            cpu = time.process_time()
            await load.run(plan.duration, self._progress)
            cpu = time.process_time() - cpu
        finally:
            load.close()
        return Report.of(load, cpu)

    async def _clean_up(self, client: Client) -> None:
        self.say("removing the sessions")
        self.left_behind = await self._population.purge(client)

    def _progress(self, seconds: float, requests: int) -> None:
        self.say(f"{seconds:6.1f} s {requests / seconds:12,.0f} requests/s")

    def _opener(self) -> Open:
        loop, plan = asyncio.get_running_loop(), self._plan
        if plan.unix:
            return lambda factory: loop.create_unix_connection(factory, plan.unix)
        return lambda factory: loop.create_connection(factory, plan.host, plan.port)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def heed(number: int) -> None:
            self.interrupt()
            # The next one ends the process in the ordinary way.
            loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            # Not on Windows, and not outside of the main thread.
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                loop.add_signal_handler(number, heed, number)
