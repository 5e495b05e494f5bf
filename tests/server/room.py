"""An engine with the real writer, loader and sweeper over a store that can be stopped and can refuse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from stui_sessions.errors import StorageError
from stui_sessions.protocol.messages import WireLimits
from stui_sessions.server.engine import Engine
from stui_sessions.server.loader import Loader
from stui_sessions.server.sweeper import Sweeper
from stui_sessions.server.writer import JournalRules, Writer
from stui_sessions.sessions.book import SessionBook
from stui_sessions.sessions.finding import Found, Search
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.manager import Rules, SessionManager
from stui_sessions.sessions.model import Record, Removed, Session, Totals
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.sessions.timing import Expiry, Moment, format_instant
from stui_sessions.storage.base import Due, Stored
from stui_sessions.storage.memory import MemoryStore
from tests.server.desk import START, Peer

YIELDS = 50


async def settle() -> None:
    """Let everybody go on until all of them wait for something."""
    for _ in range(YIELDS):
        await asyncio.sleep(0)


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.lines: list[tuple[str, dict[str, Any]]] = []
        """Events with what is said of them."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._note

    def _note(self, event: str, **fields: Any) -> None:
        self.events.append(event)
        self.lines.append((event, fields))


class Gate:
    """Stops calls of one kind, or makes them fail, and keeps what they were given."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.calls: list[Any] = []

    def close(self) -> None:
        self.open.clear()

    async def passing(self, call: Any) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        await self.open.wait()
        if self.error is not None:
            raise self.error


class FaultyStore(MemoryStore):
    """A store in memory with a gate before each of its methods.

    Checks the contract: writing calls never overlap each other, nor do reading ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commits, self.snapshots, self.forgets = Gate(), Gate(), Gate()
        self.loads, self.group_loads, self.dues, self.searches = Gate(), Gate(), Gate(), Gate()
        self._busy: set[str] = set()

    def refuse(self, error: Exception | None, *gates: Gate) -> None:
        for gate in gates or (self.commits, self.snapshots, self.forgets):
            gate.error = error

    async def _one_at_a_time(self, group: str, gate: Gate, call: Any, work: Awaitable[Any]) -> Any:
        assert group not in self._busy, f"two {group} calls at once"
        self._busy.add(group)
        try:
            await gate.passing(call)
            return await work
        finally:
            work.close()  # type: ignore[attr-defined]
            self._busy.discard(group)

    async def commit(self, sequence: int, records: Sequence[Record], totals: Totals) -> int:
        newest = max(self._journal, default=0)
        assert sequence == newest + 1, "the sequence has no gaps"
        work = super().commit(sequence, records, totals)
        size = await self._one_at_a_time("writing", self.commits, (sequence, list(records)), work)
        assert isinstance(size, int)
        return size

    async def snapshot(self, sequence: int, sessions: Sequence[Session | Removed]) -> None:
        assert [s.number for s in sessions] == sorted(s.number for s in sessions)
        work = super().snapshot(sequence, sessions)
        await self._one_at_a_time("writing", self.snapshots, (sequence, list(sessions)), work)

    async def forget(self, sequence: int) -> bool:
        more = await self._one_at_a_time("writing", self.forgets, sequence, super().forget(sequence))
        return bool(more)

    async def load(self, session_ids: Sequence[str]) -> dict[str, Stored]:
        work = super().load(session_ids)
        found: dict[str, Stored] = await self._one_at_a_time("reading", self.loads, list(session_ids), work)
        return found

    async def load_groups(self, keys: Sequence[GroupKey]) -> dict[GroupKey, list[str]]:
        work = super().load_groups(keys)
        found: dict[GroupKey, list[str]] = await self._one_at_a_time("reading", self.group_loads, list(keys), work)
        return found

    async def search(self, search: Search) -> Found:
        found = await super().search(search)  # as it is now; what changes while it is on its way is for the overlay
        await self.searches.passing(search)
        return found

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        work = super().due(status, before, after, limit)
        found: list[Due] = await self._one_at_a_time("reading", self.dues, (status, before, after, limit), work)
        return found

    # -- looking in

    @property
    def stored(self) -> dict[str, Session]:
        return {row.session.session_id: row.session for row in self._rows.values() if row.session is not None}

    @property
    def journaled(self) -> list[int]:
        return sorted(self._journal)


class Room:
    """A server without sockets.  The writer's clock is `now`, moved by hand; its timer is `tick`."""

    def __init__(self, store: FaultyStore, rules: Rules, journal: JournalRules, resident_limit: int) -> None:
        self.store = store
        self.log = Log()
        self.wall = START
        self.now = 100.0
        self.faults: list[BaseException] = []
        self._rules, self._journal, self._resident_limit = rules, journal, resident_limit

    async def open(self) -> None:
        recovered = await self.store.open()
        self.book = SessionBook(recovered.totals, recovered.sequence)
        self.book.adopt(recovered.pending)
        lists, rate = ClientLists([], []), CreationRate(0)
        self.manager = SessionManager(
            self.book, Expiry(), self._rules, lists, rate, lambda number, second, form: f"session{number}"
        )
        self.engine = Engine(self.manager, self.clock, WireLimits())
        self.writer = Writer(self.engine, self.store, self._journal, self.log)
        self.writer.journal_bytes = recovered.pending_bytes
        self.writer._now = lambda: self.now  # type: ignore[method-assign]
        self.writer._next_round = self.now + 1  # the first round waits for `tick`
        self.loader = Loader(self.engine, self.store, self._resident_limit, self.log)
        self.engine.want_commit = self.writer.wake
        self.engine.want_load = self.loader.want
        self.engine.on_fault = lambda command, error: self.faults.append(error)
        self.writer.on_snapshot = self.loader.trim
        self.loader.relieve = self.writer.snapshot_some
        self.sweeper = Sweeper(self.engine, self.writer, self.loader, lambda: 300, self.log)

    def clock(self) -> Moment:
        return Moment(self.wall, self.wall / 1000, format_instant(self.wall))

    def later(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)

    def peer(self) -> Peer:
        return Peer(self)

    async def tick(self, seconds: float = 3600) -> None:
        """Time for the writer's next round."""
        self.now += seconds
        self.writer._on_timer()
        await settle()

    async def ask(self, command: str, /, **parameters: Any) -> Any:
        """Ask and wait for the answer: the result, or the code of the refusal."""
        peer = self.peer()
        peer.ask(1, command, **parameters)
        for _ in range(100):
            if peer.replies:
                break
            await settle()
        (reply,) = peer.replies
        return reply.get("result", reply.get("error_code"))


@asynccontextmanager
async def a_room(
    store: FaultyStore | None = None,
    rules: Rules | None = None,
    journal: JournalRules | None = None,
    resident_limit: int = 2**40,
) -> AsyncIterator[Room]:
    """A running room; in the end, no task of it may have failed."""
    quiet = JournalRules(interval=3600.0)  # no timer fires during a test
    room = Room(store or FaultyStore(), rules or Rules(max_sessions_per_client=1000), journal or quiet, resident_limit)
    await room.open()
    tasks = [asyncio.create_task(room.writer.run()), asyncio.create_task(room.loader.run())]
    try:
        yield room
        assert room.faults == []
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        room.store._is_open = False
        assert [end for end in ends if isinstance(end, Exception)] == []


UNAVAILABLE = StorageError("the disk is full")
