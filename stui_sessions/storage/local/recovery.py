"""The rest of a replay, beside normal work.

A start reads the log, and puts what it tells on top of the tables where that is
little.  Where it is much, that would hold the start up for seconds: it is done here
for each entity when somebody reads it, and for all of them in the background.
Searches and rounds of writing behind wait until it is done.
"""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice

from stui_sessions.domain.entities import Key
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.border import Log
from stui_sessions.storage.local.reader import Reader
from stui_sessions.storage.local.replay import Replay
from stui_sessions.storage.local.tables import Tables
from stui_sessions.storage.local.unwritten import Unwritten

PORTION = 64
"""Entities that are read and brought up to date at once: the loop does nothing else meanwhile."""

RETRY_SECONDS = 1.0


class Recovery:
    """What of a replay is still to be done."""

    def __init__(self, replay: Replay, reader: Reader, tables: Tables, unwritten: Unwritten, log: Log) -> None:
        self._replay = replay
        self._reader = reader
        self._tables = tables
        self._unwritten = unwritten
        self._log = log
        self._work: asyncio.Task[None] | None = None
        self._done = asyncio.Event()
        self._damage = ""  # what ended it before its time
        self._is_stopped = False

    def start(self) -> None:
        """Take over what the replay has, and go on with the rest."""
        replay = self._replay
        self._unwritten.adopt(replay.entities.values(), replay.moving, replay.removed)
        if replay.left:
            self._log.info("log_replay_goes_on", entities=replay.left)
            self._work = asyncio.create_task(self._run())
        else:
            self._finish()

    async def stop(self) -> None:
        """Leave the rest."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait([work])
        self._is_stopped = not self._done.is_set()
        self._done.set()

    async def done(self) -> None:
        """Until nothing is left.  StorageDamaged if that cannot be: the log and the tables do not go together."""
        await self._done.wait()
        if self._is_stopped:
            raise StorageError("the store is closed")
        if self._damage:
            raise StorageDamaged(self._damage)

    async def resolve(self, keys: Iterable[Key]) -> None:
        """Bring these entities up to date, where the log has something of them."""
        if self._replay.left:
            wanted = [key for key in keys if self._replay.is_left(key)]
            if wanted:
                await self._resolve(wanted)

    async def _resolve(self, keys: Sequence[Key]) -> None:
        stored = await self._reader.read(keys)
        try:
            # Somebody else may have been faster.
            self._replay.put({key: entity for key, entity in stored.items() if self._replay.is_left(key)})
        finally:
            self._adopt()  # those before one that is damaged, too: they are no longer left

    def _adopt(self) -> None:
        found, self._replay.entities = self._replay.entities, {}
        fresh = [entity for key, entity in found.items() if self._unwritten.get(key) is None]
        self._unwritten.adopt(fresh, self._replay.moving, {})

    async def _run(self) -> None:
        try:
            await self._resolve_rest()
        except StorageDamaged as error:
            self._log.error("log_replay_failed", error=str(error))
            self._give_up(str(error))
        except Exception as error:  # a fault of ours: nobody must wait for the rest for ever
            self._log.error("log_replay_fault", exc_info=error)
            self._give_up("a fault in the server; its log says more")
        self._finish()

    async def _resolve_rest(self) -> None:
        rest = iter(self._replay.wanted())
        some: list[Key] = []
        while some := some or list(islice(rest, PORTION)):
            try:
                await self.resolve(some)
                some = []
            except StorageDamaged:
                raise
            except StorageError as error:
                self._log.warning("log_replay_delayed", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _give_up(self, damage: str) -> None:
        """What is left stays so; the tables, which lack it, must not be written any more."""
        self._damage = damage
        self._tables.damage = StorageDamaged(damage)

    def _finish(self) -> None:
        self._unwritten.adopted()
        self._replay.report_damage(self._log)
        self._done.set()
