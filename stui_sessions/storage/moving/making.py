"""A local database as a target: made beside its place, which it takes when it is complete and was compared.

Its log is made where it belongs.  Until the tables take their place, that keeps servers
away: they refuse a log whose database is missing.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from stui_sessions.domain.entities import Entity
from stui_sessions.errors import StorageError
from stui_sessions.storage import files
from stui_sessions.storage.border import CAUGHT, Log, translate
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.local import meta, schema, segments, start
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.statements import Plan
from stui_sessions.storage.local.tables import META, write
from stui_sessions.storage.lock import FileLock
from stui_sessions.storage.moving.content import STEPS, Marker, Side, Step
from stui_sessions.storage.moving.local import LocalSource, LocalTables
from stui_sessions.storage.moving.logs import COMMITS, NewLog, commit_of, commits_of
from stui_sessions.storage.postgres.batches import hash_of

MARKER = "moving"
"""The row of `meta` with the marker."""

CACHE_KIB = 64 * 1024


class LocalTarget:
    """The database at `path`, which is not there yet."""

    hint = "name a file that is not there yet, or move this one away"

    def __init__(self, path: Path, name: str, log: Log) -> None:
        self.path = path
        self.name = name
        self._log = log
        self._new = files.beside(path, ".moving")
        self._directory = segments.directory_of(path)
        self._lock = FileLock(files.beside(path, ".lock"))
        self._there: LocalSource | None = None
        self._tables: sqlite3.Connection | None = None
        self._journal: NewLog | None = None
        self._made: LocalTables | None = None
        self._marker = Marker("", "")

    async def open(self) -> Side | None:
        """See `Target.open`."""
        with self._translated("opening"):
            files.refuse_other_kinds(self.path)
            self._lock.acquire()
            if self.path.exists():
                self._lock.release(remove=True)
                self._there = LocalSource(self.path, self.name, self._log)
                return await self._there.open()
            files.refuse_orphan_wal(self.path)
            if not self._new.exists():
                start.refuse_orphan_log(self.path)
            return None

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except CAUGHT as error:
            raise translate(f"{doing} {self.name}", error) from error

    # -- the beginning

    async def begin(self, source: str, state: str) -> Marker:
        """See `Target.begin`."""
        with self._translated("making"):
            found = self._found()
            if found is not None and found.state == state and found.source == source:
                self._marker = found
            else:
                self._begin_anew(Marker(source, state))
            if self._marker.step == STEPS[0]:
                await self._begin_log()
            return msgspec.structs.replace(self._marker)

    def _found(self) -> Marker | None:
        """How far an earlier move has come; the tables are open then."""
        if not self._new.exists():
            return None
        if files.inspect_header(self._new, schema.SCHEMA_VERSION) != "ours":
            return None
        tables = self._open()
        row = tables.execute("SELECT value FROM meta WHERE key = ?", (MARKER,)).fetchone()
        if row is not None:
            return msgspec.json.decode(row[0], type=Marker)
        if tables.execute("SELECT 1 FROM sessions").fetchone():
            raise StorageError(f"{self._new} is in the way: move it away")
        return None

    def _begin_anew(self, marker: Marker) -> None:
        self._remove()
        files.make_new(self._new)
        schema.create(self._new)
        tables = self._open()
        tables.execute("BEGIN IMMEDIATE")
        tables.execute(COMMITS)
        self._note(tables, marker)
        tables.execute("COMMIT")
        self._marker = marker

    async def _begin_log(self) -> None:
        """A log is no transaction: where it was not complete it is made anew."""
        segments.remove_all(self._directory)
        self._opened().execute("DELETE FROM moving_commits")
        self._journal = NewLog(self._directory, self._opened(), self._log)
        await self._journal.begin()

    def _remove(self) -> None:
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        files.remove(self._new)
        segments.remove_all(self._directory)

    def _open(self) -> sqlite3.Connection:
        tables = self._tables = schema.connect(self._new, "rw")
        tables.execute("PRAGMA journal_mode = WAL").fetchone()
        tables.execute("PRAGMA synchronous = FULL")
        tables.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return tables

    def _opened(self) -> sqlite3.Connection:
        assert self._tables is not None, "it was not begun"
        return self._tables

    def _note(self, tables: sqlite3.Connection, marker: Marker) -> None:
        tables.execute(META, (MARKER, msgspec.json.encode(marker).decode()))

    # -- the rows

    async def put(self, step: Step, piece: list[Any]) -> None:
        """See `Target.put`."""
        with self._translated("writing"):
            if step == "records":
                assert self._journal is not None
                await self._journal.put(piece)
            else:
                self._put_entities(step, piece)

    def _put_entities(self, step: Step, piece: list[Entity]) -> None:
        tables = self._opened()
        commits = commits_of(tables, [hash_of(entity.key) for entity in piece])
        plan = Plan()
        plan.add(replace(entity, commit=commit_of(commits, entity.key)) for entity in piece)
        marker = Marker(self._marker.source, self._marker.state, step, self._marker.done + len(piece))
        tables.execute("BEGIN IMMEDIATE")
        write(tables, plan.statements((), 0))
        self._note(tables, marker)
        tables.execute("COMMIT")
        self._marker = marker

    async def end(self, step: Step) -> None:
        """See `Target.end`."""
        with self._translated("writing"):
            values: dict[str, Any] = {}
            if step == "records":
                values = await self._end_log()
            following = (*STEPS, "")[STEPS.index(step) + 1]
            marker = Marker(self._marker.source, self._marker.state, following)
            tables = self._opened()
            tables.execute("BEGIN IMMEDIATE")
            tables.executemany(META, values.items())
            self._note(tables, marker)
            tables.execute("COMMIT")
            self._marker = marker

    async def _end_log(self) -> dict[str, Any]:
        """Which log goes with the tables."""
        assert self._journal is not None
        await self._journal.sync()
        await self._journal.close()
        return {
            "log_id": self._journal.log_id,
            "log_segment": self._journal.segment,
            "tables_commit": self._journal.last,
        }

    # -- the end

    async def finish(self, totals: list[Counters], last_number: int) -> Side:
        """See `Target.finish`.  The database is one file then, as if a server had closed it."""
        with self._translated("writing"):
            tables = self._opened()
            tables.execute("BEGIN IMMEDIATE")
            tables.executemany(META, {"totals": meta.encode_totals(totals), "last_number": last_number}.items())
            tables.executemany(META, {"clean": 1, "needs_log": 0, "uncertain_until": 0}.items())
            tables.execute("DROP TABLE IF EXISTS moving_commits")
            tables.execute("COMMIT")
            tables.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            tables.execute("PRAGMA journal_mode = DELETE").fetchone()
            findings = schema.quick_check(tables)
            if findings:
                raise StorageError(f"{self._new} is damaged: {findings[0]}")
            tables.close()
            self._tables = None
            files.sync_file(self._new)
            self._made = LocalTables(self._new, self._directory, self.name)
            return self._made

    async def forget(self) -> None:
        """See `Target.forget`."""
        with self._translated("removing"):
            self._close_made()
            self._remove()

    async def publish(self) -> None:
        """See `Target.publish`: one step, to which the rest only tidies up."""
        with self._translated("making"):
            self._close_made()
            self._new.rename(self.path)
            files.sync_directory(self.path.parent)
            tables = schema.connect(self.path, "rw")
            try:
                tables.execute("DELETE FROM meta WHERE key = ?", (MARKER,))
            finally:
                tables.close()
            if self._directory.exists():
                segments.note_closed(Disk(), self._directory, True)

    def _close_made(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None

    async def close(self) -> None:
        """See `Target.close`."""
        if self._journal is not None:
            await self._journal.close()
        self._close_made()
        if self._tables is not None:
            self._tables.close()
            self._tables = None
        if self._there is not None:
            await self._there.close()
        self._lock.release(remove=True)
