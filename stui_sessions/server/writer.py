"""The one task that writes: group commits, and snapshots between them.

All changes that are decided while a commit runs share the next one.  Snapshots
run in rounds: everything that is dirty when the round begins is written in small
pieces, one between two commits, and then the journal is dropped up to there.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from stui_sessions.errors import Refusal, StorageDamaged, StorageError
from stui_sessions.server.engine import Engine
from stui_sessions.sessions.model import Removed, Session
from stui_sessions.sessions.residents import Resident
from stui_sessions.storage.base import SessionStore

PIECE_ROWS = 256
PIECE_BYTES = 1024 * 1024
RETRY_SECONDS = 1.0
"""Between two tries to write snapshots to a disk that refuses."""

Form = Session | Removed


class JournalRules(Struct, frozen=True):
    """When to write snapshots."""

    limit: int = 64 * 1024 * 1024  # bytes of journal that commits wait at
    interval: float = 2.0  # seconds between rounds while there is little to write


class Writer:
    """Commits what the engine has decided; the only caller of the store's writing half."""

    def __init__(self, engine: Engine, store: SessionStore, rules: JournalRules, log: Any) -> None:
        self.rules = rules
        self.damage: StorageDamaged | None = None
        """Set when the store was found damaged: nothing is written any more."""
        self.journal_bytes = 0
        """Journaled and not yet in snapshots."""
        self.on_snapshot: Callable[[], None] = lambda: None
        """Called when some more of what is in memory is in snapshots too."""
        self._engine = engine
        self._store = store
        self._log = log
        self._wake = asyncio.Event()
        self._round: _Round | None = None
        self._round_failed = False
        self._next_round = 0.0
        self._wanting: list[asyncio.Future[None]] = []
        """Those who wait for the next round to begin, and then for its end."""
        self._watching: list[asyncio.Future[None]] = []
        """Those who wait for the next piece of the round that is under way."""
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._failing = False

    def wake(self) -> None:
        """There are changes to commit."""
        self._wake.set()

    async def run(self) -> None:
        """Write until stopped."""
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while await self._turn():
                pass
            if self._engine.book.dirty and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._seconds_to_round(), self._on_timer)
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        self._wake.set()

    async def stop(self) -> None:
        """Commit what is decided; `run` returns then."""
        self._stopping = True
        self._wake.set()

    async def snapshot_all(self) -> None:
        """Wait until all that is committed now is in snapshots, or that has failed."""
        if not self._engine.book.dirty or self.damage:
            return
        # The next round: one under way may have begun before the changes that matter.
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanting.append(over)
        self._wake.set()
        await over

    async def snapshot_some(self) -> None:
        """Wait until some more is in snapshots, or that has failed."""
        if not self._engine.book.dirty or self.damage:
            return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._wanting if self._round is None else self._watching).append(over)
        self._wake.set()
        await over

    # -- the inside

    async def _turn(self) -> bool:
        """One commit, one piece of a snapshot; False when there is nothing to do now."""
        if self._engine.book.changes and not await self._make_room():
            await self._commit()
        if self._round is None and self._round_is_due():
            self._begin_round()
        if self._round is not None:
            await self._step()
        return bool(self._engine.book.changes or self._round is not None or self._round_is_due())

    async def _make_room(self) -> bool:
        """With the journal at its limit, write snapshots first.  True: that failed, and so did the commit."""
        while self.journal_bytes >= self.rules.limit and not self.damage:
            if self._round is None:
                self._begin_round()
            if not await self._step():
                self._fail_commit(StorageError("the journal is full and snapshots cannot be written"))
                return True
        return False

    async def _commit(self) -> None:
        book = self._engine.book
        number, totals = book.batch, book.copy_totals()
        changes = book.take_changes()
        try:
            self._refuse_damaged()
            size = await self._store.commit(number, [c.record for c in changes], totals)
        except StorageError as error:
            self._note_failure(error)
            self._engine.on_commit_failed(number, changes, _refusal(error))
            return
        self.journal_bytes += size
        if self._failing:
            self._failing = False
            self._log.info("storage.recovered")
        self._engine.on_committed(number)

    def _fail_commit(self, error: StorageError) -> None:
        """Fail the gathering changes without trying to write them."""
        number = self._engine.book.batch
        changes = self._engine.book.take_changes()
        self._engine.on_commit_failed(number, changes, _refusal(error))

    def _refuse_damaged(self) -> None:
        if self.damage:  # a new exception: one raised again and again would keep all the frames it passed
            raise StorageDamaged(str(self.damage))

    def _note_failure(self, error: StorageError) -> None:
        if isinstance(error, StorageDamaged):
            self.damage = error
        if not self._failing:  # once per outage, not once per request
            self._log.warning("storage.failed", error=str(error), code=error.code)
        self._failing = True

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _seconds_to_round(self) -> float:
        return max(0.01, self._next_round - self._now())

    def _round_is_due(self) -> bool:
        if self.damage or not self._engine.book.dirty:
            self._wanting = _tell(self._wanting)
            return False
        if self._wanting or self._now() >= self._next_round:
            return True
        # Half, so that commits need not wait while the other half fills.
        return self.journal_bytes >= self.rules.limit // 2 and not self._round_failed

    def _begin_round(self) -> None:
        self._round = _Round(self._engine, self.journal_bytes, self._wanting)
        self._wanting = []

    async def _step(self) -> bool:
        """One piece of the round; False if the store refused, which ends the round."""
        round = self._round
        assert round is not None
        try:
            self._refuse_damaged()  # it may have been found since the round began
            more = await round.step(self._store)
        except StorageError as error:
            self._note_failure(error)
            self._end_round(round, RETRY_SECONDS, failed=True)
            return False
        if not more:
            self.journal_bytes -= round.journal_bytes
            self._engine.book.groups_snapshotted(round.upto)
            self._end_round(round, self.rules.interval, failed=False)
        self.on_snapshot()
        self._watching = _tell(self._watching)
        return True

    def _end_round(self, round: "_Round", pause: float, failed: bool) -> None:
        self._round, self._round_failed = None, failed
        self._next_round = self._now() + pause
        _tell(round.wanting)
        self._watching = _tell(self._watching)


class _Round:
    """One round of snapshots: what was dirty when it began, in the order of the numbers."""

    def __init__(self, engine: Engine, journal_bytes: int, wanting: list[asyncio.Future[None]]) -> None:
        self._engine = engine
        self.upto = engine.committed
        self.journal_bytes = journal_bytes
        self.wanting = wanting
        dirty = [r for r in engine.book.dirty.values() if r.forms]
        dirty.sort(key=_number)
        self._todo: Iterator[Resident] = iter(dirty)
        self._written = False

    async def step(self, store: SessionStore) -> bool:
        """Write one piece; False when all is written and the journal is dropped."""
        if not self._written:
            sequence = self._engine.committed
            piece = self._next_piece()
            if piece:
                await store.snapshot(sequence, sorted((f for _, forms in piece for f in forms), key=_form_number))
                for resident, forms in piece:
                    self._engine.book.snapshotted(resident, forms, sequence)
                return True
            self._written = True
        return await store.forget(self.upto)

    def _next_piece(self) -> list[tuple[Resident, tuple[Form, ...]]]:
        """The next few sessions, each in the form that is committed."""
        uncommitted = self._engine.book.uncommitted()
        piece: list[tuple[Resident, tuple[Form, ...]]] = []
        size = 0
        for resident in self._todo:
            forms = uncommitted.get(resident.session_id)
            if forms is None:
                forms = resident.forms
            if forms:
                piece.append((resident, forms))
                size += resident.size
            if len(piece) >= PIECE_ROWS or size >= PIECE_BYTES:
                break
        return piece


def _tell(wanting: list[asyncio.Future[None]]) -> list[asyncio.Future[None]]:
    """Let those go on who still wait; returns the list of those left: nobody."""
    for over in wanting:
        if not over.done():
            over.set_result(None)
    return []


def _number(resident: Resident) -> int:
    return resident.forms[-1].number


def _form_number(form: Form) -> int:
    return form.number


def _refusal(error: StorageError) -> Refusal:
    if isinstance(error, StorageDamaged):
        return Refusal(
            "storage_damaged", "the database is damaged and is no longer written to; the server's log says more"
        )
    return Refusal("storage_unavailable", "the change could not be written to disk and was undone; try again")
