"""Gets what decisions lack: entities by their keys, and answers to questions.

All keys that are missed while one read runs share the next one (measured: one at a
time 20 k/s, fifty together 96 k/s).
"""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from stui_sessions.domain.entities import Entity, Key, Session
from stui_sessions.domain.finding import Answer, Listing, Question, Reference
from stui_sessions.engine.attempts import Attempt
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.storage.contract import Store

if TYPE_CHECKING:
    from stui_sessions.engine.engine import Engine

READ_AT_ONCE = 256
READ_BYTES = 8 * 1024 * 1024
"""After a read of more, the next one asks for half as many: a session's size is known only once it is read."""


class Loader:
    """Brings entities into memory and answers to attempts, and lets these go on."""

    def __init__(self, store: Store, engine: "Engine", log: Any) -> None:
        self._store = store
        self._engine = engine
        self._log = log
        self._wanted: dict[Key, list[Attempt]] = {}
        """Each key with the attempts that wait for it; it stays here until it is loaded."""
        self._wake = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()
        self._at_once = READ_AT_ONCE
        self._failing = False

    def load(self, attempt: Attempt | None, keys: Iterable[Key]) -> None:
        """Load these and pin them, then let the attempt go on; without one, only load."""
        for key in keys:
            attempts = self._wanted.setdefault(key, [])
            if attempt is not None:
                attempts.append(attempt)
                attempt.lacking.add(key)
                if key not in attempt.pinned:
                    attempt.pinned.add(key)
                    self._engine.cache.pin(key)
        if attempt is not None:
            attempt.busy = True
        self._wake.set()

    def answer(self, attempt: Attempt, question: Question) -> None:
        """Ask the store, then let the attempt go on."""
        attempt.busy = True
        task = asyncio.create_task(self._ask(attempt, question, attempt.answers))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def run(self) -> None:
        """Load until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                await self._read_some()
                self._engine.cache.trim(self._engine.committed)

    async def _read_some(self) -> None:
        """One read; attempts that have all they need then go on."""
        keys = self._next()
        error: StorageError | None = None
        try:
            await (self._read(keys) if self._engine.freshness is None else self._look(keys))
        except StorageError as failed:
            error = failed
        self._note(error)
        ready: dict[Attempt, None] = {}
        for key in keys:
            for attempt in self._wanted.pop(key):
                attempt.lacking.discard(key)
                if error is not None:
                    attempt.refusal = _unreadable()
                    attempt.lacking.clear()
                if not attempt.lacking and attempt.busy:
                    ready[attempt] = None
        for attempt in ready:
            self._resume(attempt)

    async def _read(self, keys: list[Key]) -> None:
        """Read what is not in memory."""
        found = await self._store.read(keys)
        self._adapt(found.values())
        self._engine.take_in(found)

    async def _look(self, keys: list[Key]) -> None:
        """See what has changed of what is in memory, and read what is not."""
        engine = self._engine
        entities = engine.cache.entities
        before = {key: entities.get(key) for key in keys}
        # What belongs to a commit that is still to come is ours, and newer than what the store has.
        before = {key: e for key, e in before.items() if e is None or e.commit <= engine.committed}
        assert engine.freshness is not None
        look = engine.freshness.begin_look()
        found = await self._store.read(list(before), {key: e.version for key, e in before.items() if e is not None})
        self._adapt(found.values())
        engine.freshness.take_news(before, found, look, engine.batch.expected)

    def _next(self) -> list[Key]:
        """The keys to read now.

        While more is pinned than may be kept, only what the attempt needs that has
        waited longest: each of them is decided in the end, whatever the limit, but
        not all of them fill the memory at once.
        """
        cache = self._engine.cache
        if cache.pinned_bytes > cache.limit:
            for attempts in self._wanted.values():
                for attempt in attempts:
                    if attempt.lacking and not attempt.abandoned:  # one that was refused needs no read
                        return list(islice((key for key in self._wanted if key in attempt.lacking), self._at_once))
        return list(islice(self._wanted, self._at_once))

    def _adapt(self, found: Iterable[Entity]) -> None:
        """Read fewer sessions at once while they are large."""
        size = sum(entity.state_bytes for entity in found if isinstance(entity, Session))
        self._at_once = max(1, self._at_once // 2) if size > READ_BYTES else min(READ_AT_ONCE, self._at_once * 2)

    def _resume(self, attempt: Attempt) -> None:
        attempt.busy = False
        if not attempt.abandoned:
            attempt.resume()

    async def _ask(self, attempt: Attempt, question: Question, answers: dict[Question, tuple[Answer, int]]) -> None:
        engine = self._engine
        try:
            # What was decided before is to be in the answer, and so are uses where they tell who is live.
            await engine.until_committed()
            if isinstance(question, Listing | Reference):
                await engine.recorder.record_all()
            answer = await self._store.query(question, engine.clock().wall)
            answers[question] = answer, engine.committed
            self._note(None)
        except StorageError as error:
            attempt.refusal = _unreadable()
            self._note(error)
        except Exception as fault:  # ours; those who wait are told of it
            self._log.error("query.fault", exc_info=fault)
            attempt.refusal = _unreadable()
        self._resume(attempt)

    def _note(self, error: StorageError | None) -> None:
        if error is not None and not self._failing:
            self._log.warning("storage.read_failed", error=str(error))
        self._failing = error is not None


def _unreadable() -> Refusal:
    return Refusal("storage_unavailable", "the session could not be read from disk; try again")
