"""The one task that commits: all that is decided while a commit runs shares the next one."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from stui_sessions.engine.attempts import Flight
from stui_sessions.engine.feed import Feed
from stui_sessions.errors import Refusal, StorageDamaged, StorageError
from stui_sessions.storage.contract import Batch, Commit, Conflict, Store

if TYPE_CHECKING:
    from stui_sessions.engine.engine import Engine


WELL_SECONDS = 5.0
"""Without a failure until an outage is over: at the edge of a full disk, writes fail and succeed in turn."""


class Committer:
    """Commits what the engine has gathered, and publishes it to the feed.

    `patience`: seconds for which what gathers waits for a commit that is under way; None
    for a store that always answers.
    """

    def __init__(self, store: Store, engine: "Engine", feed: Feed, patience: float | None, log: Any) -> None:
        self.damage: StorageDamaged | None = None
        """Set when the store was found damaged: from then on nothing is written."""
        self._failing = False  # there is an outage
        self._well: asyncio.TimerHandle | None = None  # its end, if nothing fails before
        self._store = store
        self._engine = engine
        self._patience = patience
        self._sent: deque[tuple[Flight, asyncio.Task[int | None]]] = deque()
        self._late: asyncio.TimerHandle | None = None
        self._is_late = False
        self._feed = feed
        self._log = log
        self._sleeping: asyncio.Future[None] | None = None
        self._stopping = False

    def wake(self) -> None:
        """There is something to commit."""
        sleeping = self._sleeping
        if sleeping is not None and not sleeping.done():
            sleeping.set_result(None)

    async def run(self) -> None:
        """Commit until stopped."""
        await (self._run_one_by_one() if self._engine.freshness is None else self._run_side_by_side())

    async def _run_one_by_one(self) -> None:
        engine = self._engine
        while True:
            if engine.batch.records:
                flight = engine.take_batch()
                if (size := await self._send(flight, 0)) is None:
                    engine.on_commits_failed({flight.batch.number: flight}, flight.batch.number)
                else:
                    self._note_success(flight.batch, size)
                if engine.batch.records:
                    await asyncio.sleep(0)  # a store may commit without a pause: others first
            elif self._stopping:
                return
            else:
                await self._until_woken()

    async def _until_woken(self) -> None:
        self._sleeping = asyncio.get_running_loop().create_future()
        await self._sleeping

    def stop(self) -> None:
        """Commit what is decided; `run` returns then."""
        self._stopping = True
        self.wake()

    async def _send(self, flight: Flight, look: int) -> int | None:
        """Try a commit; the bytes that it took, None if it failed."""
        engine = self._engine
        try:
            if self.damage is not None:  # a new exception: one raised again would keep all the frames it passed
                raise StorageDamaged(str(self.damage))
            size = await self._store.commit(flight.batch)
        except Conflict as conflict:
            engine.cache.drop(conflict.keys)
            return None
        except StorageError as error:
            self._note_failure(error)
            flight.refusal = _refusal(error)
            return None
        if engine.freshness is not None:
            engine.freshness.note_committed(flight.batch, look)
        return size

    # -- a store that others write to: some commits on their way at once

    async def _run_side_by_side(self) -> None:
        """As many at once as the store takes, if nothing in one comes after something in another.

        Their ends are told in the order of their numbers.
        """
        engine, sent = self._engine, self._sent
        assert engine.freshness is not None
        while True:
            while engine.batch.records and self._may_send():
                flight = engine.take_batch()
                task = asyncio.ensure_future(self._send(flight, engine.freshness.begin_look()))
                task.add_done_callback(lambda _: self.wake())
                sent.append((flight, task))
                self._watch()
            if not sent and self._stopping:
                return
            await self._until_woken()
            while sent and sent[0][1].done() and self._land():
                self._watch()

    def _may_send(self) -> bool:
        batch, freshness = self._engine.batch, self._engine.freshness
        assert freshness is not None
        room = len(self._sent) < self._store.commits_at_once
        return room and all(freshness.may_overtake(batch, flight.batch) for flight, _ in self._sent)

    def _land(self) -> bool:
        """The oldest commit has ended; False if others must have ended first, because it failed."""
        sent = self._sent
        flight, task = sent[0]
        if (size := task.result()) is not None:
            sent.popleft()
            self._note_success(flight.batch, size)
            return True
        if not all(task.done() for _, task in sent):
            return False
        ended = list(sent)
        sent.clear()
        failed: dict[int, Flight] = {}
        for flight, task in ended:
            number, size = flight.batch.number, task.result()
            if size is None:
                failed[number] = flight
            else:
                self._engine.committed = number  # who waits is told below, all at once
                self._publish(flight.batch, size)
        self._engine.on_commits_failed(failed, ended[-1][0].batch.number)
        return True

    def _watch(self) -> None:
        """What gathers behind the oldest commit on its way does not wait for ever."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._sent and self._patience is not None:
            self._late = asyncio.get_running_loop().call_later(self._patience, self._refuse_gathered)
        else:
            self._is_late = False

    def _refuse_gathered(self) -> None:
        if not self._is_late:
            self._log.warning("storage.unanswered", seconds=self._patience)
        self._is_late = True
        self._engine.refuse_gathered(_UNANSWERED)
        self._late = None
        self._watch()

    # -- what has come of it

    def _note_success(self, batch: Batch, size: int) -> None:
        engine = self._engine
        self._publish(batch, size)
        engine.on_committed(batch)
        if engine.cache.bytes > engine.cache.limit:
            engine.cache.trim(engine.committed)

    def _publish(self, batch: Batch, size: int) -> None:
        if self._failing and self._well is None:
            self._well = asyncio.get_running_loop().call_later(WELL_SECONDS, self._recovered)
        self._feed.publish(Commit(batch.number, batch.records), size)

    def _recovered(self) -> None:
        self._well = None
        if self.damage is not None:  # found by others meanwhile
            return
        self._failing = False
        self._log.info("storage.recovered")

    def _note_failure(self, error: StorageError) -> None:
        if isinstance(error, StorageDamaged):
            self.damage = error
        if self._well is not None:
            self._well.cancel()
            self._well = None
        if not self._failing:  # once per outage, not once per request
            self._log.warning("storage.failed", error=str(error), code=error.code)
        self._failing = True


_UNANSWERED = Refusal("storage_unavailable", "the database does not answer; the request was not carried out, try again")


def _refusal(error: StorageError) -> Refusal:
    if isinstance(error, StorageDamaged):
        return Refusal(
            "storage_damaged", "the database is damaged and is no longer written to; the server's log says more"
        )
    return Refusal("storage_unavailable", "the change could not be written to disk and was undone; try again")
