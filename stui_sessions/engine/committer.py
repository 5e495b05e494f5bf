"""The one task that commits: all that is decided while a commit runs shares the next one."""

import asyncio
from typing import TYPE_CHECKING, Any

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
        loop = asyncio.get_running_loop()
        engine = self._engine
        while True:
            if engine.batch.records:
                await self._commit()
                if engine.batch.records:
                    await asyncio.sleep(0)  # a store may commit without a pause: others first
            elif self._stopping:
                return
            else:
                self._sleeping = loop.create_future()
                await self._sleeping

    def stop(self) -> None:
        """Commit what is decided; `run` returns then."""
        self._stopping = True
        self.wake()

    async def _commit(self) -> None:
        engine = self._engine
        batch, buckets = engine.take_batch()
        try:
            look = engine.begin_look()
            if self.damage is not None:  # a new exception: one raised again would keep all the frames it passed
                raise StorageDamaged(str(self.damage))
            size = await (self._store.commit(batch) if self._patience is None else self._watched(batch))
        except Conflict as conflict:
            engine.cache.drop(conflict.keys)
            engine.on_commit_failed(batch, buckets, None)
        except StorageError as error:
            self._note_failure(error)
            engine.on_commit_failed(batch, buckets, _refusal(error))
        else:
            self._note_success(batch, size, look)

    async def _watched(self, batch: Batch) -> int:
        """Commit, however long that takes; what gathers behind it meanwhile does not wait for ever."""
        self._wait_on()
        try:
            return await self._store.commit(batch)
        finally:
            assert self._late is not None
            self._late.cancel()
            self._is_late = False

    def _wait_on(self) -> None:
        assert self._patience is not None
        self._late = asyncio.get_running_loop().call_later(self._patience, self._refuse_gathered)

    def _refuse_gathered(self) -> None:
        if not self._is_late:
            self._log.warning("storage.unanswered", seconds=self._patience)
        self._is_late = True
        self._engine.refuse_gathered(_UNANSWERED)
        self._wait_on()

    def _note_success(self, batch: Batch, size: int, look: int) -> None:
        engine = self._engine
        if engine.freshness is not None:
            engine.note_committed(batch.after, look)
        if self._failing and self._well is None:
            self._well = asyncio.get_running_loop().call_later(WELL_SECONDS, self._recovered)
        self._feed.publish(Commit(batch.number, batch.records), size)
        engine.on_committed(batch)
        if engine.cache.bytes > engine.cache.limit:
            engine.cache.trim(engine.committed)

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
