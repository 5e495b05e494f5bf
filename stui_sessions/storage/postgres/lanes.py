"""Lanes: the way of batches to the database, on which it is known of each what became of it.

A lane is a row that numbers one server's batches; the statement of a batch raises the
number.  When its connection dies in the middle, the lane is closed for good, and its
row then tells whether the batch was committed; it cannot be, later.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.border import Log
from stui_sessions.storage.postgres import statements
from stui_sessions.storage.postgres.channel import Channel
from stui_sessions.storage.postgres.connection import is_outcome_known, translate

DOING = "committing to the database"

RETRY_SECONDS = 0.2
"""Between two tries to find out what became of a batch."""

PATIENCE = 2.0
"""Seconds without an answer after which it is asked whether the database is elsewhere by now."""

TRIES = 5
"""Of a batch that met a deadlock, or a transaction that could not be serialised."""

_AGAIN = ("40001", "40P01")
UNIQUE = "23505"
NO_PARTITION = "23514"


class Outcome(NamedTuple):
    """What became of a batch."""

    committed: bool  # else it stood on what is stale, or the lane was closed
    now: int = 0  # ms, by the database's clock; 0 where it did not say
    is_taken: bool = False  # something that it would have made was there already


class Lane:
    """One batch after the other.  `moved()` is called when the database was found to be elsewhere."""

    def __init__(self, url: str, schema: str, timeout: float, moved: Callable[[], None], log: Log) -> None:
        self._channel = Channel(url, timeout)
        self._patience = min(timeout, PATIENCE)
        self._looking: asyncio.Task[None] | None = None
        self._moved = moved
        self._log = log
        self.name = ""
        """Of the row; empty while there is none."""
        self._batch = 0  # the last that was committed
        self._opening = statements.opening(schema)
        self._closing = statements.closing(schema)

    async def open(self) -> None:
        """Begin a new lane: the first, or one in the place of a lane that somebody has closed.  StorageError."""
        name = secrets.token_hex(8)
        try:
            await self._channel.fetch(self._opening, name)
        except (StorageError, StartError):
            raise
        except Exception as error:
            raise translate("opening a lane in the database", error) from error
        self.name, self._batch = name, 0

    async def commit(self, sql: str, day: int, arrays: list[Any]) -> Outcome:
        """Send a batch, and wait until its outcome is known, however long that takes.

        Never cancelled and without a timeout: a wait that was cut short might be over a
        commit that others see.  StorageError says for certain that nothing was committed.
        """
        for _ in range(TRIES):
            if not self.name:
                await self.open()
            try:
                rows = await self._fetch(sql, self.name, self._batch + 1, day, *arrays)
            except (StorageError, StartError):  # it was not sent
                raise
            except Exception as error:
                if is_outcome_known(error):
                    if error.sqlstate == UNIQUE:  # type: ignore[attr-defined]
                        return Outcome(False, is_taken=True)
                    if error.sqlstate not in _AGAIN:  # type: ignore[attr-defined]
                        raise translate(DOING, error) from error
                elif await self._was_committed(error):
                    return Outcome(True)
                continue
            committed, now = rows[0]
            self._batch += committed
            return Outcome(committed, now)
        raise StorageError(f"{DOING}: it was broken off {TRIES} times")

    async def _fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """The rows of a statement; a server that no longer answers is left once another has taken its place."""
        watch = asyncio.get_running_loop().call_later(self._patience, self._look_around)
        try:
            return await self._channel.fetch(sql, *arguments)
        finally:
            watch.cancel()
            if self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _look_around(self) -> None:
        self._looking = asyncio.create_task(self._leave_when_moved())

    async def _leave_when_moved(self) -> None:
        """Ask now and then whether the database is elsewhere; then the statement that waits here is broken off."""
        while not await self._channel.has_moved():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(self._patience)
        self._log.warning("storage.moved")
        self._channel.drop()
        self._moved()

    async def _was_committed(self, error: BaseException) -> bool:
        """Whether the last batch was committed: asked again and again, until the database answers."""
        self._log.warning("storage.outcome_unknown", error=str(translate(DOING, error)))
        name, self.name = self.name, ""
        while True:
            try:
                rows = await self._fetch(self._closing, name)
            except Exception as failed:
                self._log.debug("storage.outcome_unknown", error=str(translate(DOING, failed)))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            committed = bool(rows) and rows[0][0] == self._batch + 1
            self._log.info("storage.outcome_known", committed=committed)
            return committed

    async def close(self) -> None:
        """Give the lane back, where the database still answers."""
        if self.name and self._channel.is_open:
            try:
                async with asyncio.timeout(1.0):
                    await self._channel.fetch(self._closing, self.name)
            except Exception:
                self._channel.drop()
        self.name = ""
        await self._channel.close()
