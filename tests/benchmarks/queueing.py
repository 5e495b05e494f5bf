"""Servers that share a database, simulated: batches, looks, one processor queue, one flush at a time.  Pure.

What a server does here is what the engine does: all that is decided while one commit runs
shares the next one, all that is asked while one look runs shares the next look; a commit
that stood on what another has changed meanwhile is looked up and sent again, whole.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

READ_AT_ONCE = 256
"""Keys of one look, see `engine/loader.py`."""


class Costs(NamedTuple):
    """What the database's processor and disk take; µs and ms."""

    single_us: float  # a commit of one update
    commit_us: float  # one of several, beside its rows
    row_us: float  # and each row of it
    look_us: float  # a look at what is committed, beside its keys
    key_us: float
    flush_ms: float  # the disk, and the standby where there is one
    way_ms: float  # there and back, between a server and the database


class Load(NamedTuple):
    """What all servers together are asked, each second; `hot` of the updates are of one session."""

    servers: int
    updates: float
    reads: float
    hot: float = 0.0
    hot_servers: int = 0  # how many of the servers they come through
    cores: int = 16
    lanes: int = 2  # commits of one server that are on their way at once


class Seen(NamedTuple):
    """What the simulation found."""

    updates: float  # a second
    reads: float
    batch: float  # updates in a commit
    commits: float  # a second
    looks: float
    tries: float  # sent for each commit that came about, where the hot session is in it
    cores: float  # of the database in use
    p50: float  # ms, from the arrival of an update to its reply
    p99: float


class Simulation:
    """Some seconds of a load.  Times are in seconds; all that is random comes from `seed`."""

    def __init__(self, costs: Costs, load: Load, seed: int = 7) -> None:
        self.costs, self.load = costs, load
        self.now = 0.0
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._free = load.cores
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._flushing = False
        self._unflushed: list[Callable[[], None]] = []
        self._is_locked = False
        self._behind: list[Callable[[], None]] = []
        self.busy = 0.0
        self.commits = self.tries = self.hot_commits = self.hot_tries = self.looks = 0
        self.updates = self.reads = 0
        self.latencies: list[tuple[float, int]] = []

    def run(self, seconds: float, warm: float = 0.3) -> Seen:
        """What is seen in so many seconds, after a start that does not count."""
        for number in range(self.load.servers):
            _Commits(self, number).begin()
            _Looks(self).begin()
        self._until(warm)
        self.busy = 0.0
        self.commits = self.tries = self.hot_commits = self.hot_tries = self.looks = self.updates = self.reads = 0
        self.latencies.clear()
        self._until(warm + seconds)
        p50, p99 = (1000 * _percentile(self.latencies, share) for share in (0.5, 0.99))
        return Seen(
            self.updates / seconds, self.reads / seconds, self.updates / max(1, self.commits), self.commits / seconds,
            self.looks / seconds, self.hot_tries / max(1, self.hot_commits), self.busy / seconds, p50, p99,
        )  # fmt: skip

    def _until(self, end: float) -> None:
        while self._heap and self._heap[0][0] <= end:
            self.now, _, then = heapq.heappop(self._heap)
            then()
        self.now = end

    # What servers ask.

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + seconds, self._order, then))

    def arrivals(self, rate: float, seconds: float) -> int:
        """How many have come meanwhile."""
        mean = rate * seconds
        if mean > 50:
            return max(0, round(self._random.gauss(mean, math.sqrt(mean))))
        count, product, limit = 0, self._random.random(), math.exp(-mean)
        while product > limit:
            count += 1
            product *= self._random.random()
        return count

    def pause(self, rate: float) -> float:
        """Until the next one comes."""
        return self._random.expovariate(rate)

    def has(self, probability: float) -> bool:
        return self._random.random() < probability

    # The database.

    def compute(self, microseconds: float, then: Callable[[], None]) -> None:
        """One process of the database works; those beyond its cores wait."""
        if self._free:
            self._free -= 1
            self._work(microseconds / 1e6, then)
        else:
            self._queue.append((microseconds / 1e6, then))

    def _work(self, seconds: float, then: Callable[[], None]) -> None:
        self.busy += seconds
        self.after(seconds, lambda: self._worked(then))

    def _worked(self, then: Callable[[], None]) -> None:
        if self._queue:
            self._work(*self._queue.popleft())
        else:
            self._free += 1
        then()

    def flush(self, then: Callable[[], None]) -> None:
        """All that is there when a flush begins shares it."""
        self._unflushed.append(then)
        if not self._flushing:
            self._flush()

    def _flush(self) -> None:
        shared, self._unflushed = self._unflushed, []
        self._flushing = bool(shared)
        if shared:
            self.after(self.costs.flush_ms / 1000, lambda: self._flushed(shared))

    def _flushed(self, shared: list[Callable[[], None]]) -> None:
        self._flush()
        for then in shared:
            then()

    def lock(self, won: Callable[[], None], lost: Callable[[], None]) -> None:
        """The row of the hot session: who waits for it finds another version when it is free."""
        if self._is_locked:
            self._behind.append(lost)
        else:
            self._is_locked = True
            won()

    def unlock(self) -> None:
        self._is_locked = False
        behind, self._behind = self._behind, []
        for lost in behind:
            lost()


class _Commits:
    """One server's commits: some on their way at once, while the next one gathers."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        load = simulation.load
        self._s = simulation
        self._hot_rate = load.hot / load.hot_servers if number < load.hot_servers else 0.0
        self._rate = (load.updates - load.hot) / load.servers + self._hot_rate
        self._free = load.lanes
        self._is_hot_sent = False
        self._taken_at = 0.0

    def begin(self) -> None:
        if self._rate > 0:
            self._s.after(self._s.pause(self._rate), lambda: self._take(self._s.now, 1))

    def _take(self, middle: float, count: int) -> None:
        """What has gathered is sent, and the next one is waited for."""
        share = 0.0 if self._is_hot_sent else self._hot_rate / self._rate
        is_hot = share > 0 and self._s.has(1 - (1 - share) ** count)
        self._is_hot_sent |= is_hot
        self._taken_at = self._s.now
        self._free -= 1
        _Commit(self, middle, count, is_hot).send(self._s)
        if self._free:
            self.begin()

    def ended(self, was_hot: bool) -> None:
        self._is_hot_sent &= not was_hot
        self._free += 1
        if self._free > 1:  # the next one is waited for already
            return
        count = self._s.arrivals(self._rate, self._s.now - self._taken_at)
        if count:
            self._take((self._s.now + self._taken_at) / 2, count)
        else:
            self.begin()


class _Commit:
    """One commit, until it has come about."""

    def __init__(self, of: _Commits, middle: float, size: int, is_hot: bool) -> None:
        self._of, self._middle, self._size, self._is_hot = of, middle, size, is_hot

    def send(self, s: Simulation) -> None:
        costs = s.costs
        s.hot_tries += self._is_hot
        work = costs.single_us if self._size == 1 else costs.commit_us + costs.row_us * self._size
        # Rows are locked early in the statement: take it as the beginning of the work.
        s.after(costs.way_ms / 2000, lambda: self._lock(s, work) if self._is_hot else self._compute(s, work))

    def _lock(self, s: Simulation, work: float) -> None:
        s.lock(lambda: self._compute(s, work), lambda: s.compute(work / 2, lambda: self._lost(s)))

    def _compute(self, s: Simulation, work: float) -> None:
        s.compute(work, lambda: s.flush(lambda: self._flushed(s)))

    def _flushed(self, s: Simulation) -> None:
        if self._is_hot:
            s.hot_commits += 1
            s.unlock()
        s.after(s.costs.way_ms / 2000, lambda: self._done(s))

    def _done(self, s: Simulation) -> None:
        s.commits += 1
        s.updates += self._size
        s.latencies.append((s.now - self._middle, self._size))
        self._of.ended(self._is_hot)

    def _lost(self, s: Simulation) -> None:
        """It is told which was stale, reads everything of the batch again, and decides again."""
        costs = s.costs
        work = 2 * costs.look_us + costs.key_us * 2 * self._size
        s.after(2 * costs.way_ms / 1000, lambda: s.compute(work, lambda: self.send(s)))


class _Looks:
    """One server's reads, which it has confirmed before it answers; one look after the other."""

    def __init__(self, simulation: Simulation) -> None:
        self._s = simulation
        self._rate = simulation.load.reads / simulation.load.servers
        self._since = 0.0
        self._waiting = 0

    def begin(self) -> None:
        if self._rate > 0:
            self._s.after(self._s.pause(self._rate), lambda: self._look(1))

    def _look(self, count: int) -> None:
        s, costs = self._s, self._s.costs
        self._since = s.now
        size = min(count, READ_AT_ONCE)
        self._waiting = count - size
        work = costs.look_us + costs.key_us * size
        s.after(costs.way_ms / 2000, lambda: s.compute(work, lambda: s.after(costs.way_ms / 2000, _done(self, size))))

    def done(self, size: int) -> None:
        s = self._s
        s.looks += 1
        s.reads += size
        count = self._waiting + s.arrivals(self._rate, s.now - self._since)
        if count:
            self._look(count)
        else:
            self.begin()


def _done(looks: _Looks, size: int) -> Callable[[], None]:
    return lambda: looks.done(size)


def _percentile(found: list[tuple[float, int]], share: float) -> float:
    """Of values with weights."""
    wanted = share * sum(weight for _, weight in found)
    for value, weight in sorted(found):
        wanted -= weight
        if wanted <= 0:
            return value
    return 0.0
