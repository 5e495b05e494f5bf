"""The load: connections that each send a burst, wait for its replies, and send the next."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter_ns
from typing import cast

from stui_sessions.bench.histogram import Histogram
from stui_sessions.bench.requests import Kind
from stui_sessions.client.core import Reply, read_reply
from stui_sessions.client.errors import ClientError, ConnectionLost, ReplyTimeout

Open = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
TICK = 0.2
"""Seconds between two looks at the clock, and between two lines of progress."""
_AT_ONCE = 100
"""Connections that are opened together."""


class Load:
    """One run; its figures are in `latencies`, `errors` and `seconds`."""

    def __init__(
        self, kinds: Sequence[Kind], weights: Sequence[float], pipeline: int, patience: float, rng: random.Random
    ) -> None:
        self.pipeline = pipeline
        self.latencies = {kind.name: Histogram() for kind in kinds}
        """Microseconds from sending a burst to the last of its replies."""
        self.errors: Counter[str] = Counter()
        self.seconds = 0.0
        """From the first burst to the last reply."""
        self.stopping = False
        self.failure: ClientError | None = None
        self._turns = itertools.cycle(rng.choices(kinds, weights, k=4096))
        self._patience = patience
        self._lanes: list[Lane] = []
        self._wake = asyncio.Event()

    @property
    def requests(self) -> int:
        """Those that were answered."""
        return self.pipeline * sum(histogram.count for histogram in self.latencies.values())

    async def connect(self, open: Open, connections: int) -> None:
        """Open the connections; raises OSError."""
        for start in range(0, connections, _AT_ONCE):
            number = min(_AT_ONCE, connections - start)
            await asyncio.gather(*(open(self._new_lane) for _ in range(number)))

    async def run(self, seconds: float, progress: Callable[[float, int], None]) -> None:
        """Keep the connections busy for so long, or until `stop`; then wait for the last replies.

        Raises ClientError when a connection is lost or a reply does not come.
        """
        began = perf_counter_ns()
        for lane in self._lanes:
            lane.next()
        while not self.stopping and (elapsed := (perf_counter_ns() - began) / 1e9) < seconds:
            await self._tick(min(TICK, seconds - elapsed))
            progress((perf_counter_ns() - began) / 1e9, self.requests)
        self.stopping = True
        while any(lane.busy for lane in self._lanes):
            await self._tick(TICK)
        self._raise_failure()
        self.seconds = max(0, max(lane.ended for lane in self._lanes) - began) / 1e9

    def stop(self) -> None:
        """End the run after the bursts that are under way."""
        self.stopping = True
        self._wake.set()

    def close(self) -> None:
        """Close the connections."""
        self.stopping = True
        for lane in self._lanes:
            lane.close()

    # What lanes ask and tell.

    def turn(self) -> Kind:
        """The kind of the next burst."""
        return next(self._turns)

    def answered(self, kind: Kind, nanoseconds: int, replies: bytes) -> None:
        self.latencies[kind.name].add(nanoseconds // 1000)
        # Our own states hold letters and digits only: these are the words of an error reply.
        if b'"error_type"' in replies:
            for reply in errors_among(replies):
                self.errors[reply.error_code] += 1
                if reply.ends_connection:
                    self.fail(reply.failure() or ConnectionLost("the server closed a connection"))
        if self.stopping:
            self._wake.set()

    def fail(self, error: ClientError) -> None:
        self.failure = self.failure or error
        self.stop()

    def _new_lane(self) -> "Lane":
        lane = Lane(self)
        self._lanes.append(lane)
        return lane

    async def _tick(self, seconds: float) -> None:
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            oldest = min((lane.began for lane in self._lanes if lane.busy), default=None)
            if oldest is not None and perf_counter_ns() - oldest > self._patience * 1e9:
                self.fail(ReplyTimeout(f"no reply within {self._patience:g} s"))
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure


class Lane(asyncio.Protocol):
    """One connection.  Callbacks only: no task is woken for a burst."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._kind: Kind | None = None
        self._replies: list[bytes] = []
        self._missing = 0
        self.began = 0
        """When the burst was sent (perf_counter_ns)."""
        self.ended = 0
        """When the last burst was answered."""

    @property
    def busy(self) -> bool:
        return self._kind is not None

    def next(self) -> None:
        """Send the next burst."""
        if self._load.stopping:
            return
        assert self._transport is not None
        self._kind = self._load.turn()
        self._missing = self._load.pipeline
        burst = self._kind.burst(self._missing)
        self.began = perf_counter_ns()
        self._transport.write(burst)

    def close(self) -> None:
        self._kind = None
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._load.stopping:
            transport.close()

    def data_received(self, data: bytes) -> None:
        self._replies.append(data)
        self._missing -= data.count(b"\n")
        if self._missing > 0 or self._kind is None:
            return
        kind, self._kind, self.ended = self._kind, None, perf_counter_ns()
        replies = b"".join(self._replies)
        self._replies.clear()
        self._load.answered(kind, self.ended - self.began, replies)
        self.next()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._load.stopping and self._kind is None:
            return
        # The server may have said why before it closed.
        told = [reply for reply in errors_among(b"".join(self._replies)) if reply.id is None]
        error = told[-1].failure() if told else None
        self._load.fail(error or ConnectionLost(f"a connection was lost: {exc or 'the server closed it'}"))


def errors_among(replies: bytes) -> list[Reply]:
    """The error replies among complete lines."""
    lines = replies.split(b"\n")[:-1]
    return [reply for line in lines if b'"error_type"' in line and (reply := read_reply(line)).status == "error"]
