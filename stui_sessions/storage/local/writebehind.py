"""Writing behind: what is committed goes into the tables, round by round.

A round takes everything committed so far.  It is written in the order of the keys
and in pieces, between which others may run; only then the tables are said to hold
it.  A search that needs sessions in their places first (`settle`) is served between
two pieces.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from stui_sessions.domain.entities import Entity
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.border import Log, is_full
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.local import meta
from stui_sessions.storage.local.log import CommitLog
from stui_sessions.storage.local.statements import Plan, Statement
from stui_sessions.storage.local.tables import Tables
from stui_sessions.storage.local.unwritten import Generation, Pins, Unwritten

PORTION = 2048
UNDER_WAY = 4
"""Statements handed over at once: while the loop is busy, the tables' thread goes on with the next one."""

REST = 4
"""Times as long as a round took until the next one, where nothing urges: rounds take a part of the machine only."""


CRAMPED = 2**20
"""Bytes of log that a round is made for where the disk is all but full: before there is no room for it."""


class Limits(Struct):
    """How much there may be, and for how long."""

    journal_limit: int = 32 * 2**20  # bytes of log that the tables do not have; beyond it, commits wait
    memory_limit: int = 64 * 2**20  # bytes of entities that they do not have; the same
    interval: float = 2.0  # seconds between two rounds
    log_retention: int = 86_400  # seconds for which the log is kept once the tables have it
    log_limit: int = 256 * 2**20  # bytes of log that are kept


class State(Struct):
    """What the newest commit led to."""

    commit: int
    last_number: int
    counters: Callable[[], list[Counters]]


class WriteBehind:
    """One task, the only one that writes sessions and entities to the tables."""

    def __init__(
        self,
        tables: Tables,
        unwritten: Unwritten,
        pins: Pins,
        journal: CommitLog,
        state: State,
        limits: Callable[[], Limits],
        clock: Callable[[], int],
        log: Log,
    ) -> None:
        self.tables_commit = 0
        """Every commit up to here is in the tables."""
        self.rounds = 0
        """Rounds that are over."""
        self._tables = tables
        self._unwritten = unwritten
        self._pins = pins
        self._journal = journal
        self._state = state
        self._limits = limits
        self._clock = clock
        self._log = log
        self._wake = asyncio.Event()
        self._round_wanted: asyncio.Future[None] | None = None
        self._settling_wanted: asyncio.Future[None] | None = None
        self._round_over: asyncio.Future[None] | None = None
        self._failing = False
        self._is_cramped = False  # there was no room in the tables
        self._task: asyncio.Task[None] | None = None

    def start(self, tables_commit: int, ready: Callable[[], Awaitable[None]]) -> None:
        """Begin when `ready` returns; the tables hold every commit up to `tables_commit`."""
        self.tables_commit = tables_commit
        self._task = asyncio.create_task(self._run(ready))

    async def stop(self) -> None:
        """End, with or without having written everything.  Who waits is told."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for waiting in (self._round_wanted, self._settling_wanted, self._round_over):
            _tell(waiting, StorageError("the store is closed"))
        self._round_wanted = self._settling_wanted = self._round_over = None

    def hurry(self) -> None:
        """Begin a round as soon as possible."""
        self._wake.set()

    async def flush(self) -> None:
        """Until a round is over that began after this call.  StorageError if it failed."""
        self._round_wanted = self._awaited(self._round_wanted)
        await asyncio.shield(self._round_wanted)

    async def make_room(self) -> None:
        """Until the round that is under way, or else the next one, is over.  StorageError if it failed."""
        self._round_over = self._awaited(self._round_over)
        await asyncio.shield(self._round_over)

    async def settle(self) -> None:
        """Until all sessions are in the places of lists in which they are now.  StorageError if that failed."""
        self._settling_wanted = self._awaited(self._settling_wanted)
        await asyncio.shield(self._settling_wanted)

    def _awaited(self, waiting: asyncio.Future[None] | None) -> asyncio.Future[None]:
        """What others wait for already, or a new one; the task is woken."""
        if self._task is None:
            raise StorageError("the store is closed")
        self._wake.set()
        return asyncio.get_running_loop().create_future() if waiting is None else waiting

    # -- the task

    async def _run(self, ready: Callable[[], Awaitable[None]]) -> None:
        with suppress(StorageDamaged):  # what is found damaged is not written any more
            await ready()
        rest, ended = 0.0, time.monotonic()
        while True:
            due = ended + max(self._limits().interval, rest)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), due - time.monotonic())
            self._wake.clear()
            if self._settling_wanted is not None:
                await self._settle()
            if time.monotonic() >= due or self._round_wanted or self._round_over or self.is_due():
                waiting, self._round_wanted = self._round_wanted, None
                began = time.monotonic()
                await self._attempt(waiting)
                ended = time.monotonic()
                rest = REST * (ended - began)

    def is_due(self) -> bool:
        """There is so much that a round should not wait for its time."""
        limits, unwritten = self._limits(), self._unwritten
        enough = CRAMPED if self._journal.is_cramped else limits.journal_limit // 2
        return unwritten.gathered >= enough or unwritten.takes(limits.memory_limit // 2)

    def is_full(self) -> bool:
        """There is so much that is not in the tables that commits have to wait."""
        limits, unwritten = self._limits(), self._unwritten
        more = 1.5 if self.rounds == 0 else 1.0  # a start with a full log takes changes at once
        return unwritten.size >= more * limits.journal_limit or unwritten.takes(int(more * limits.memory_limit))

    async def _attempt(self, waiting: asyncio.Future[None] | None) -> None:
        """A round, and what follows from its success."""
        try:
            await self._make_way()
            await self._round()
            self._is_cramped = False
            await self._tidy()
        except StorageError as error:
            self._is_cramped = is_full(error)
            if not self._failing:
                self._log.warning("write_behind_failed", error=str(error))
            self._failing = True
            self._over(waiting, error)
        except Exception as error:  # a fault of ours: it must not end all rounds to come
            self._log.error("write_behind_fault", exc_info=error)
            self._over(waiting, StorageError("a fault in the server; its log says more"))
        except BaseException:
            self._over(waiting, StorageError("the store is closed"))
            raise
        else:
            self._failing = False
            self._over(waiting, None)

    def _over(self, waiting: asyncio.Future[None] | None, error: StorageError | None) -> None:
        """Tell those who waited for this round, and those who wait for any."""
        other, self._round_over = self._round_over, None
        _tell(waiting, error)
        _tell(other, error)

    async def _round(self) -> None:
        generation = self._unwritten.begin_round()
        if generation is None:
            return
        values = {
            "tables_commit": generation.last,
            "last_number": self._state.last_number,
            "log_segment": self._journal.segments[-1].ordinal,
            "totals": meta.encode_totals(self._state.counters()),
        }
        try:
            # A row must not tell of a commit that the log can still lose.
            await self._journal.sync()
            await self._write(generation)
            await self._tables.note(values)
        except BaseException:
            self._unwritten.give_back()
            raise
        self.tables_commit = generation.last
        self.rounds += 1
        for some in _portions(generation.entities.values()):
            self._unwritten.remember(some)
            await asyncio.sleep(0)
        await self._pins.passed()
        self._unwritten.drop()
        # A search that began while that was waited for looks into this very generation.
        await self._pins.passed()
        while generation.entities:  # freeing many at once takes long, too
            for _ in range(min(PORTION, len(generation.entities))):
                generation.entities.popitem()
            await asyncio.sleep(0)

    async def _write(self, generation: Generation) -> None:
        plan = Plan()
        for some in _portions(generation.entities.values()):
            plan.add(some)
            await asyncio.sleep(0)
        await self._run_all(plan.statements(generation.removed, self._clock(), self._unwritten.is_ahead), True)

    async def _run_all(self, statements: Iterable[Statement], settling: bool = False) -> None:
        """Run statements in their order, a few of them handed over ahead; `settling`: that may come in between."""
        under_way: deque[asyncio.Task[None]] = deque()
        try:
            for statement in statements:
                under_way.append(asyncio.create_task(self._tables.execute(statement)))
                if len(under_way) == UNDER_WAY:
                    await under_way[0]
                    under_way.popleft()
                if settling and self._settling_wanted is not None:
                    await self._settle()
            while under_way:
                await under_way[0]
                under_way.popleft()
        finally:
            if under_way:  # one has failed: the others are over too before anybody writes what is newer
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _settle(self) -> None:
        """Write the sessions that are in other places of lists than the tables say."""
        waiting, self._settling_wanted = self._settling_wanted, None
        moved, entities, removed = self._unwritten.all_moved()
        try:
            await self._journal.sync()
            plan = Plan()
            for some in _portions(entities):
                plan.add(some)
                await asyncio.sleep(0)
            await self._run_all(plan.statements(removed, self._clock()))
            self._unwritten.note_ahead(entities)
            await self._pins.passed()
            self._unwritten.settle(moved, entities)
        except StorageError as error:
            _tell(waiting, error)
        except Exception as error:  # a fault of ours
            self._log.error("write_behind_fault", exc_info=error)
            _tell(waiting, StorageError("a fault in the server; its log says more"))
        except BaseException:
            _tell(waiting, StorageError("the store is closed"))
            raise
        else:
            _tell(waiting, None)

    async def _make_way(self) -> None:
        """Where the disk is full, the log that is only kept for a while gives way: to the tables, or to new commits."""
        if self._is_cramped or self._journal.is_cramped:
            await self._journal.give_up(self.tables_commit)

    async def _tidy(self) -> None:
        limits = self._limits()
        await self._tables.tidy()
        await self._make_way()
        before = self._clock() - limits.log_retention * 1000
        await self._journal.retain(self.tables_commit, before, limits.log_limit)


def _portions(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    """A few thousand at a time: others may run in between."""
    rest = iter(entities)
    while some := list(islice(rest, PORTION)):
        yield some


def _tell(waiting: asyncio.Future[None] | None, error: StorageError | None) -> None:
    """Those who wait; nobody may be there any more."""
    if waiting is None or waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)
        waiting.exception()  # seen
