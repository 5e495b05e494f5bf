"""Makes sessions resident that are named and not in memory.

All that is missed while one read runs shares the next one (measured: one at a
time 20 k/s, fifty together 96 k/s).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

from stui_sessions.errors import Refusal, StorageError
from stui_sessions.server.engine import Engine, Waiter
from stui_sessions.sessions.book import NotResident
from stui_sessions.sessions.finding import BackupPart, Question
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage.base import SessionStore

K = TypeVar("K")

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
        self._groups: dict[GroupKey, list[Waiter]] = {}
        self._searches: dict[Question, list[Waiter]] = {}
        self._searching: set[asyncio.Task[None]] = set()
        self._served: dict[Waiter, None] = {}
        """Those who went on after the last read; perhaps not far."""
        self._reading = asyncio.Lock()
        self._at_once = READ_AT_ONCE
        self.read_backup: Callable[[BackupPart], Awaitable[Any]] = _no_backups
        """Answers for copies of the store."""
        self.relieve: Callable[[], Awaitable[None]] = _nothing
        """Waits until some more is in snapshots, so that it need not stay in memory."""
        self._failing = False

    def want(self, missing: NotResident, waiter: Waiter | None) -> None:
        """Load what is missing, then let `waiter` go on."""
        if missing.search is not None and waiter is not None:
            self._begin_search(missing, missing.search, waiter)
            return
        for session_id in missing.sessions:
            _add(self._sessions, session_id, waiter)
        for key in missing.groups:
            _add(self._groups, key, waiter)
        self._wake.set()

    async def load(self, missing: NotResident) -> None:
        """Load what is missing and return when it is resident.  StorageError if it cannot be."""
        async with self._reading:
            await self._read_sessions(missing.sessions)
            await self._read_groups(missing.groups)

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Any]:
        """Stored sessions whose end may have come; see `SessionStore.due`."""
        async with self._reading:
            return await self._store.due(status, before, after, limit)

    async def run(self) -> None:
        """Load until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._sessions or self._groups:
                await self._load_some()

    async def _load_some(self) -> None:
        """A few reads, and then what is too much is dropped."""
        if self._engine.book.residents.bytes > CROWDED * self.resident_limit:
            await self._make_room()
        for _ in range(STAGES):
            if self._sessions or self._groups:
                await self._read_next()
        self.trim()

    async def _read_next(self) -> None:
        """One read; those who waited for it go on."""
        sessions, groups = self._first(self._sessions), self._first(self._groups)
        error: StorageError | None = None
        try:
            await self.load(NotResident(tuple(sessions), tuple(groups)))
        except StorageError as failed:
            error = failed
        self._note(error)
        waiters: dict[Waiter, None] = {}
        for session_id in sessions:
            waiters.update(dict.fromkeys(self._sessions.pop(session_id)))
        for key in groups:
            waiters.update(dict.fromkeys(self._groups.pop(key)))
        self._served = waiters
        self._tell(waiters, error)

    def _tell(self, waiters: Iterable[Waiter], error: StorageError | None) -> None:
        if error is None:
            self._engine.resume(waiters)
        else:
            self._fail(waiters)

    # -- searches

    def _begin_search(self, missing: NotResident, search: Question, waiter: Waiter) -> None:
        """Ask the store beside all loads; who asks the same meanwhile gets the same answer."""
        waiters = self._searches.get(search)
        if waiters is None:
            waiters = self._searches[search] = []
            task = asyncio.create_task(self._search(missing.sessions, search))
            self._searching.add(task)
            task.add_done_callback(self._searching.discard)
        waiters.append(waiter)

    async def _search(self, session_ids: tuple[str, ...], search: Question) -> None:
        """One search; its answer is there while those who wait for it decide, and no longer."""
        if isinstance(search, BackupPart):  # it may take minutes, and nothing need be kept in the overlay for it
            await self._answer(session_ids, search, self.read_backup(search))
            return
        number = self._engine.book.overlay.begin_search()
        try:
            await self._answer(session_ids, search, self._store.search(search))
        finally:
            self._engine.book.overlay.end_search(number)

    async def _answer(self, session_ids: tuple[str, ...], search: Question, asked: Awaitable[Any]) -> None:
        book = self._engine.book
        error: StorageError | None = None
        try:
            answer = await asked
            # Last, or they might be dropped again before those who wait for both can decide.
            await self.load(NotResident(session_ids))
            book.answers[search] = answer
        except StorageError as failed:
            error = failed
        except Exception as fault:  # ours; nobody may wait for ever because of it
            self._log.error("search.fault", exc_info=fault)
            error = StorageError(f"the search broke: {fault!r}")
        self._note(error)
        try:
            self._tell(dict.fromkeys(self._searches.pop(search)), error)
        finally:
            book.answers.pop(search, None)

    def _first(self, wanted: dict[K, list[Waiter]]) -> list[K]:
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

    async def _read_groups(self, keys: Iterable[GroupKey]) -> None:
        wanted = [key for key in keys if key not in self._engine.book.residents.groups]
        if wanted:
            found = await self._store.load_groups(wanted)
            for key in wanted:
                self._engine.book.add_loaded_group(key, found.get(key, ()))


def _add(wanted: dict[K, list[Waiter]], key: K, waiter: Waiter | None) -> None:
    waiters = wanted.setdefault(key, [])
    if waiter is not None:
        waiters.append(waiter)


async def _no_backups(part: BackupPart) -> Any:
    return Refusal("backup_not_found", "there is no such copy")


async def _nothing() -> None:
    """No snapshots to wait for."""
