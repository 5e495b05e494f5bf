"""Makes sessions resident that are named and not in memory.

All that is missed while one read runs shares the next one (measured: one at a
time 20 k/s, fifty together 96 k/s).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any

from stui_sessions.errors import Refusal, StorageError
from stui_sessions.server.engine import Engine, Waiter
from stui_sessions.sessions.book import NotResident
from stui_sessions.storage.base import SessionStore

READ_AT_ONCE = 256
CROWDED = 1.5
"""Loads wait for snapshots when the residents, dirty ones for the most part, take so many times their limit."""

READ_BYTES = 8 * 1024 * 1024
"""After a read of more, the next one asks for half as many; nobody knows a session's size before it is read."""

STAGES = 3
"""Reads before anything is dropped.  A decision may need a client and then its sessions, or
the other way round; if the first were dropped before it has the rest, it would never be made."""


class Loader:
    """The only caller of the store's reading half."""

    def __init__(self, engine: Engine, store: SessionStore, resident_limit: int, log: Any) -> None:
        self.resident_limit = resident_limit
        self._engine = engine
        self._store = store
        self._log = log
        self._wake = asyncio.Event()
        # Each key with those who wait for it; a key stays here until it is loaded.
        self._sessions: dict[str, list[Waiter]] = {}
        self._clients: dict[str, list[Waiter]] = {}
        self._served: dict[Waiter, None] = {}
        """Those who went on after the last read; perhaps not far."""
        self._reading = asyncio.Lock()
        self._at_once = READ_AT_ONCE
        self.relieve: Callable[[], Awaitable[None]] = _nothing
        """Waits until some more is in snapshots, so that it need not stay in memory."""
        self._failing = False

    def want(self, missing: NotResident, waiter: Waiter | None) -> None:
        """Load what is missing, then let `waiter` go on."""
        for wanted, keys in ((self._sessions, missing.sessions), (self._clients, missing.clients)):
            for key in keys:
                waiters = wanted.setdefault(key, [])
                if waiter is not None:
                    waiters.append(waiter)
        self._wake.set()

    async def load(self, missing: NotResident) -> None:
        """Load what is missing and return when it is resident.  StorageError if it cannot be."""
        async with self._reading:
            await self._read_sessions(missing.sessions)
            await self._read_clients(missing.clients)

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Any]:
        """Stored sessions whose end may have come; see `SessionStore.due`."""
        async with self._reading:
            return await self._store.due(status, before, after, limit)

    async def run(self) -> None:
        """Load until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._sessions or self._clients:
                await self._load_some()

    async def _load_some(self) -> None:
        """A few reads, and then what is too much is dropped."""
        if self._engine.book.residents.bytes > CROWDED * self.resident_limit:
            await self._make_room()
        for _ in range(STAGES):
            if self._sessions or self._clients:
                await self._read_next()
        self.trim()

    async def _read_next(self) -> None:
        """One read; those who waited for it go on."""
        sessions, clients = self._first(self._sessions), self._first(self._clients)
        error: StorageError | None = None
        try:
            await self.load(NotResident(tuple(sessions), tuple(clients)))
        except StorageError as failed:
            error = failed
        self._note(error)
        waiters: dict[Waiter, None] = {}
        for key in sessions:
            waiters.update(dict.fromkeys(self._sessions.pop(key)))
        for key in clients:
            waiters.update(dict.fromkeys(self._clients.pop(key)))
        self._served = waiters
        if error is None:
            self._engine.resume(waiters)
        else:
            self._fail(waiters)

    def _first(self, wanted: dict[str, list[Waiter]]) -> list[str]:
        """The keys to read next: those that the last read was not enough for, then the others in order."""
        served = self._served.keys()
        theirs = {key: None for key, waiters in wanted.items() if not served.isdisjoint(waiters)}
        others = (key for key in wanted if key not in theirs)
        return [*theirs, *islice(others, max(0, self._at_once - len(theirs)))]

    async def _make_room(self) -> None:
        """Nothing more comes in until enough of what is there is in snapshots and was dropped."""
        residents = self._engine.book.residents
        before = residents.bytes + 1
        while CROWDED * self.resident_limit < residents.bytes < before:  # or the disk refuses
            before = residents.bytes
            await self.relieve()
            self.trim()

    def trim(self) -> None:
        """Drop what is not in use when the residents pass their limit."""
        book = self._engine.book
        if book.residents.bytes > self.resident_limit:
            unrecorded = book.residents.trim(self.resident_limit)
            if unrecorded:
                book.mark_unrecorded(unrecorded)
                self._engine.want_commit()  # nothing to commit, but snapshots to write

    def _fail(self, waiters: Iterable[Waiter]) -> None:
        refusal = Refusal("storage_unavailable", "the session could not be read from disk; try again")
        for waiter in waiters:
            waiter.fail_load(refusal)

    def _note(self, error: StorageError | None) -> None:
        if error is not None and not self._failing:
            self._log.warning("storage.read_failed", error=str(error))
        self._failing = error is not None

    async def _read_sessions(self, session_ids: Iterable[str]) -> None:
        wanted = [i for i in session_ids if i not in self._engine.book.residents.sessions]
        if wanted:
            found = await self._store.load(wanted)
            self._adapt(sum(stored.session.state_bytes for stored in found.values() if stored.session is not None))
            for session_id in wanted:
                stored = found[session_id]
                self._engine.book.add_loaded(session_id, stored.session, stored.damaged)

    def _adapt(self, size: int) -> None:
        """Ask for fewer sessions at once while they are large."""
        self._at_once = max(1, self._at_once // 2) if size > READ_BYTES else min(READ_AT_ONCE, self._at_once * 2)

    async def _read_clients(self, client_ids: Iterable[str]) -> None:
        wanted = [i for i in client_ids if i not in self._engine.book.residents.clients]
        if wanted:
            found = await self._store.load_clients(wanted)
            for client_id in wanted:
                self._engine.book.add_loaded_client(client_id, found.get(client_id, ()))


async def _nothing() -> None:
    """No snapshots to wait for."""
