"""The default store: a log of its own, and SQLite tables beside it that are written behind.

- A commit is one entry of the log (`log.py`); it touches SQLite no more.
- What the log has and the tables have not is held in memory (`unwritten.py`); rounds
  of writing behind (`writebehind.py`) bring the tables up to date.
- One connection writes (`tables.py`), one reads (`reader.py`), one searches (`searcher.py`), in WAL mode.
- A start reads what of the log is not in the tables (`start.py`), so it does not
  depend on the number of sessions stored.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from stui_sessions.domain.entities import SESSION, Entity, Key, Session
from stui_sessions.domain.finding import Answer, Counts, Question
from stui_sessions.domain.records import Record
from stui_sessions.domain.times import Expiry
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.background import interruptible
from stui_sessions.storage.border import Log, is_full, translate
from stui_sessions.storage.contract import Batch, Commit, Conflict, Opened, Promise, Usage
from stui_sessions.storage.counting import Tally, is_counted, newer, structural
from stui_sessions.storage.local import backup, past, schema, segments, start
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.log import CommitLog, Durability
from stui_sessions.storage.local.reader import Reader
from stui_sessions.storage.local.recovery import Recovery
from stui_sessions.storage.local.searcher import Searcher
from stui_sessions.storage.local.start import Start
from stui_sessions.storage.local.tables import Tables
from stui_sessions.storage.local.unwritten import Pins, Unwritten
from stui_sessions.storage.local.writebehind import Limits, State, WriteBehind
from stui_sessions.storage.lock import FileLock

SETTLED = 512
"""Sessions that may be in another place than the tables say before a search has them written first."""


class LocalStore:
    """A `Store` in an SQLite database at `path` and a log beside it.

    `durability`: "full" has each commit on disk (fsync) when it returns; "normal"
    may lose the last ones when the power fails, never when the process dies.
    `clock` (ms) dates the log and paces the progress lines of a long replay.
    `limits` may be replaced while it runs.
    """

    is_shared = False
    commits_at_once = 1

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability,
        clock: Callable[[], int],
        log: Log,
        limits: Limits | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.path = path.resolve()  # a symlink must not lead round the lock
        self.limits = limits or Limits()
        self.checked = False  # the file was looked through for damage since `open`
        self._durability = durability
        self._disk = disk or Disk()
        self._clock = clock
        self._log = log
        self._lock = FileLock(files.beside(self.path, ".lock"))
        self._tables = Tables(self.path, log)
        self._reader = Reader(self.path, lambda: self._state.last_number, log)
        self._searcher = Searcher(self.path, lambda: self._unwritten.view(), log)
        self._is_open = False
        self._begin(Tally(), State(0, 0, list), Expiry())

    def _begin(self, tally: Tally, state: State, expiry: Expiry) -> None:
        self._tally = tally
        self._state = state
        self._expiry = expiry
        self._unwritten = Unwritten()
        self._pins = Pins()
        self._journal: CommitLog | None = None
        self._behind: WriteBehind | None = None
        self._recovery: Recovery | None = None

    # -- start and stop

    async def open(self) -> Opened:
        """See `Store.open`."""
        if self._is_open:
            raise StartError(f"{self.path} is open already")
        self._is_new = False  # until that is known: a refused start removes what is new
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at DEBUG it logs all parameters
        try:
            found = await asyncio.to_thread(self._prepare)
            return await self._start(found)
        except BaseException as error:
            reason = start.reason(error, self.path, self._disk)  # before there is more room again
            await self._release(refused=True)
            if isinstance(error, StorageDamaged):
                raise StartError(f"{self.path} is damaged: {error}. {files.FOUND_DAMAGED}") from error
            if isinstance(error, StorageError):
                raise StartError(f"{self.path} cannot be used: {reason}") from error
            raise

    def _prepare(self) -> Start:
        """Everything before the first lasting connection; in a thread."""
        try:
            schema.refuse_old_sqlite()
            files.refuse_other_kinds(self.path)
            files.make_parents(self.path)
            self._lock.acquire()
            self._is_new = start.make_ready(self.path, self._log)
            return start.found(self.path, self._clock, self._log)
        except PermissionError as error:
            raise StartError(
                f"{self.path} cannot be used: no permission for {error.filename}. The server must be allowed "
                "to read and write the file, and to make files in its directory"
            ) from error
        except (OSError, sqlite3.Error) as error:
            raise translate("opening the database", error) from error

    async def _start(self, found: Start) -> Opened:
        """Connect to stay, and mark the database as in use."""
        self.checked = found.checked
        replay, read = found.replay, found.tail
        state = State(read.last, replay.last_number, replay.tally.counters)
        self._begin(replay.tally, state, Expiry(found.meta.uncertain_until))
        count = len(replay.entities) + replay.left
        if read.size:
            self._unwritten.begin_with(read.last, read.size)
        await self._tables.open()  # sets WAL mode
        await self._reader.open()
        self._searcher.open()
        log_id = os.urandom(16) if found.lost else found.meta.log_id
        self._journal = CommitLog(segments.directory_of(self.path), log_id, self._durability, self._disk, self._log)
        await asyncio.to_thread(self._open_log, self._journal, found)
        await self._tables.note(
            {"clean": 0, "log_id": log_id, "log_segment": self._journal.segments[-1].ordinal, "needs_log": 1}
        )
        self._is_open = True
        self._behind = WriteBehind(
            *(self._tables, self._unwritten, self._pins, self._journal, state),
            lambda: self.limits,
            self._clock,
            self._log,
        )
        self._recovery = Recovery(replay, self._reader, self._tables, self._unwritten, self._log)
        self._recovery.start()
        self._behind.start(found.meta.tables_commit, self._recovery.done)
        return Opened(
            commit=read.last,
            last_number=replay.last_number,
            clean=bool(found.meta.clean),
            replayed=count,
            uncertain_until=found.meta.uncertain_until,
        )

    def _open_log(self, journal: CommitLog, found: Start) -> None:
        """In a thread."""
        try:
            if found.lost:
                if found.meta.log_id:
                    self._log.warning("log_begun_anew", reason=found.lost)
                segments.remove_all(journal.directory)
            segments.make_directory(journal.directory)
            segments.note_closed(self._disk, journal.directory, False)
            read = found.tail
            if read.size:
                journal.sync_found(s for s in read.segments if s.last > found.meta.tables_commit)
            journal.begin(read.segments, read.last, fresh=read.is_torn)
        except PermissionError as error:
            raise StartError(
                f"{self.path} cannot be used: no permission for {error.filename}. The server must be allowed "
                f"to make files in {journal.directory}"
            ) from error
        except OSError as error:
            raise StorageError(
                f"{error.strerror or error}: no log can be made in {journal.directory}, "
                f"which takes {segments.SMALLEST:,} bytes at least"
            ) from error

    async def close(self, clean: bool) -> None:
        """See `Store.close`.  Closed in any case."""
        try:
            if self._is_open and self._tables.damage is None:
                await self._finish(clean)
        finally:
            self._is_open = False
            await self._release(refused=False)

    async def _finish(self, clean: bool) -> None:
        """Have everything in the tables, and say so."""
        assert self._behind is not None
        assert self._journal is not None
        while not self._unwritten.is_empty:
            await self._behind.flush()
        await self._behind.stop()
        self._is_open = False
        in_tables, ordinal = self._behind.tables_commit, self._journal.segments[-1].ordinal
        more = self._state.commit > in_tables  # a commit has come in between
        await self._tables.note(
            {"clean": int(clean), "tables_commit": in_tables, "log_segment": ordinal, "needs_log": int(more)}
        )
        if more:
            return
        try:
            await asyncio.to_thread(segments.note_closed, self._disk, self._journal.directory, True)
        except OSError as error:
            self._log.debug("log_note_failed", error=str(error))

    async def _release(self, *, refused: bool) -> None:
        if self._recovery is not None:
            await self._recovery.stop()
        if self._behind is not None:
            await self._behind.stop()
        if self._journal is not None:
            await self._journal.close()
        await self._searcher.close()
        if self._tables.damage is None and not refused:
            await self._reader.close()
            await self._tables.close(merge=True)
        else:  # the last connection to close merges the write-ahead log, unless it can only read
            await self._tables.close(merge=False)
            await self._reader.close()
        self._behind = self._journal = self._recovery = None
        try:
            if refused and self._is_new:
                start.remove(self.path)
            self._lock.release(remove=refused)
        except OSError as error:
            self._log.debug("lock_release_failed", error=str(error))

    def _opened(self) -> tuple[CommitLog, WriteBehind]:
        """The log and the writer behind it.  StorageError if the store is not open."""
        if not self._is_open or self._journal is None or self._behind is None:
            raise StorageError("the store is closed")
        return self._journal, self._behind

    # -- writing

    async def commit(self, batch: Batch) -> int:
        """See `Store.commit`."""
        journal, behind = self._opened()
        if batch.number != self._state.commit + 1:  # a gap would stop the next start
            raise ValueError(f"commit {batch.number} after {self._state.commit}")
        self._tables.check_sound()
        while behind.is_full():
            await behind.make_room()
        await self._refuse_stale(batch)
        moving = structural(batch.records)
        counters = self._tally.after(await self._counted(batch, moving)) if moving else []
        last_number = self._last_number(batch, moving)
        entry = batch.number, self._clock(), batch.records, counters, last_number
        try:
            size = await journal.append(*entry)
        except StorageError as error:
            if not is_full(error):
                raise
            await behind.make_room()  # the log gives up what it can
            size = await journal.append(*entry)
        self._state.commit = batch.number
        self._state.last_number = last_number
        self._tally.set(counters)
        self._unwritten.add(batch.number, batch.after, moving, size)
        if behind.is_due():
            behind.hurry()
        return size

    async def _refuse_stale(self, batch: Batch) -> None:
        stale, unknown = self._unwritten.stale(batch.expected)
        if unknown:
            stored = await self.read(unknown)
            stale += [key for key, entity in stored.items() if entity.version != batch.expected[key]]
        if stale:
            raise Conflict(stale)

    async def _counted(self, batch: Batch, moving: Sequence[Record]) -> list[tuple[Entity, Entity]]:
        """The entities that totals may change with, before and after the batch."""
        keys = [key for key in dict.fromkeys(record.key for record in moving) if is_counted(key)]
        before = {key: batch.before.get(key) or self._unwritten.get(key) for key in keys}
        unknown = [key for key, entity in before.items() if entity is None]
        stored = await self.read(unknown) if unknown else {}
        return [(entity or stored[key], batch.after[key]) for key, entity in before.items()]

    def _last_number(self, batch: Batch, moving: Sequence[Record]) -> int:
        created = [e.number for r in moving if r.key[1] == SESSION and isinstance(e := batch.after[r.key], Session)]
        return max([self._state.last_number, *created])

    async def flush(self) -> None:
        """See `Store.flush`."""
        _, behind = self._opened()
        await behind.flush()

    async def note_uncertain(self, at: int) -> None:
        """See `Store.note_uncertain`."""
        await self._tables.note({"uncertain_until": at})
        self._expiry.uncertain_until = at

    # -- reading

    async def read(self, keys: Sequence[Key], known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        """See `Store.read`."""
        return newer(await self._read(keys), known)

    async def _read(self, keys: Sequence[Key]) -> dict[Key, Entity]:
        get = self._unwritten.get
        found = {key: get(key) for key in keys}
        missing = [key for key, entity in found.items() if entity is None]
        if missing:
            if self._recovery is not None:
                await self._recovery.resolve(missing)
            with self._pins.hold():
                stored = await self._reader.read(missing)
                # Committed meanwhile: dropped only behind this read.
                later = {key: entity for key in missing if (entity := get(key)) is not None}
            self._unwritten.remember(stored.values())
            found |= stored | later
        return found  # type: ignore[return-value]

    async def query(self, question: Question, now: int) -> Answer:
        """See `Store.query`."""
        _, behind = self._opened()
        if isinstance(question, Counts):
            return self._tally.totals(question.tenant)
        assert self._recovery is not None
        await self._recovery.done()
        if self._unwritten.moved > SETTLED:
            try:
                await behind.settle()
            except StorageError as error:  # then there is more to correct
                self._log.debug("settling_failed", error=str(error))
        with self._pins.hold():
            return await self._searcher.search(question, self._expiry, now)

    async def log(self, since: int) -> AsyncIterator[Commit]:
        """See `Store.log`."""
        journal, _ = self._opened()
        async for commit in past.commits(journal, since):
            yield commit

    async def history(self, key: Key, before: int, limit: int) -> list[Commit]:
        """See `Store.history`."""
        journal, _ = self._opened()
        entity = (await self.read([key]))[key]
        return await asyncio.to_thread(past.history, journal, key, entity.commit, before, limit)

    # -- the files

    async def copy(self, path: Path) -> None:
        """See `Store.copy`.  The write-ahead log grows while the copy is made, and is brought down again."""
        _, behind = self._opened()
        await behind.flush()
        stop = backup.Stop()
        try:
            work = asyncio.ensure_future(asyncio.to_thread(backup.copy, self.path, path, self._log, stop))
            await interruptible(work, stop.set)
        except StartError as error:
            raise StorageError(str(error)) from error
        finally:
            await self._tables.shrink()

    def promise(self) -> Promise:
        """See `Store.promise`."""
        return Promise("local", self._durability == "full")

    def usage(self) -> Usage:
        """See `Store.usage`."""
        disk = files.size(self.path) + files.size(files.beside(self.path, "-wal"))
        if self._journal is not None:
            disk += self._journal.size
        return Usage(disk, self._unwritten.size)

    async def check(self) -> None:
        """See `Store.check`.

        In a thread and on a connection of its own.  While it runs, the write-ahead
        log cannot be started again and grows.  Once it has found something, this
        store does not touch the file any more.
        """
        if self.checked:
            return
        try:
            with closing(schema.connect(self.path, "ro", any_thread=True)) as connection:
                work = asyncio.ensure_future(asyncio.to_thread(schema.quick_check, connection))
                findings = await interruptible(work, connection.interrupt)
            if findings:
                raise sqlite3.DatabaseError(f"database disk image is malformed: {findings[0]}")
        except (OSError, sqlite3.Error) as error:
            failure = translate("checking the database", error)
            if isinstance(failure, StorageDamaged):
                self._tables.damage = failure
            raise failure from error
        self.checked = True
        self._log.info("database_checked")
