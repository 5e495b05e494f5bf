"""The history of a local store: its log, read while no server has it, and made anew.

A new log is complete before the tables name any commit of it, and no commit of it has to
be replayed.  So the tables do not depend on it: it serves those who ask for the history.
"""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from stui_sessions.domain.entities import Key
from stui_sessions.domain.records import Record
from stui_sessions.errors import StorageDamaged
from stui_sessions.storage.border import Log
from stui_sessions.storage.local import tail
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.entry import decode_payload
from stui_sessions.storage.local.log import CommitLog
from stui_sessions.storage.local.segments import Segment, make_directory
from stui_sessions.storage.local.statements import in_list
from stui_sessions.storage.moving.content import Entry
from stui_sessions.storage.postgres.batches import hash_of

COMMIT_RECORDS = 64
"""Of one transaction that become one commit: who asks for one of them reads all of them."""

COMMITS = "CREATE TABLE moving_commits (hash INTEGER PRIMARY KEY, number INTEGER NOT NULL)"
"""Of each entity, the commit with its newest record; in the new database until it is complete."""


class KeptLog:
    """The log in `directory` up to commit `last`, as far back as nothing is missing."""

    def __init__(self, directory: Path, log_id: bytes, last: int) -> None:
        self.first = 0
        """The oldest commit; 0 if there is none."""
        self.count = 0
        """Records."""
        self._log_id = log_id
        self._last = last
        self._held: list[Segment] = []
        self._early: dict[int, int] = {}
        if log_id and last:
            self._look(directory)

    def _look(self, directory: Path) -> None:
        survey = tail.survey(directory, self._log_id)
        if survey.damage:
            raise StorageDamaged(survey.damage)
        held = [segment for segment in survey.held if segment.first]
        for place, segment in enumerate(held):
            self._held, self.first = held[place:], segment.first
            try:
                self._count()
            except LookupError:  # a gap that the tables do not need
                continue
            return
        self._held, self.first, self.count = [], 0, 0

    def _records(self) -> Iterator[tuple[int, Record]]:
        if not self._held:
            return
        for header, payload, path in tail.entries_between(self._held, self._log_id, self.first - 1, self._last):
            for record in decode_payload(header, payload, str(path)).records:
                yield header.number, record

    def _count(self) -> None:
        """Also find out which entities were gone in between: their versions begin anew."""
        seen: Counter[int] = Counter()
        early: dict[int, int] = {}
        for _, record in self._records():
            which = hash_of(record.key)
            if record.version == 1 and seen[which]:
                early[which] = seen[which]
            seen[which] += 1
        self.count, self._early = seen.total(), early

    def entries(self) -> Iterator[Entry]:
        """All records.  An entity's own have rising places: its version, less than 0 before it was last gone."""
        done: Counter[int] = Counter()
        for number, record in self._records():
            place = record.version
            if self._early and (early := self._early.get(which := hash_of(record.key), 0)):
                if done[which] < early:
                    place = done[which] - early
                done[which] += 1
            yield Entry(number, place, record)


class NewLog:
    """A log for a database that is being made; `tables` is that database."""

    def __init__(self, directory: Path, tables: sqlite3.Connection, log: Log) -> None:
        self.log_id = os.urandom(16)
        self.directory = directory
        self._tables = tables
        self._journal = CommitLog(directory, self.log_id, "normal", Disk(), log)

    async def begin(self) -> None:
        """Make the directory and the first file in it."""
        await asyncio.to_thread(make_directory, self.directory)
        await asyncio.to_thread(self._journal.begin, [], 0, True)

    @property
    def last(self) -> int:
        return self._journal.last

    @property
    def segment(self) -> int:
        """The one that is in use."""
        return self._journal.segments[-1].ordinal

    async def put(self, entries: list[Entry]) -> None:
        """Some more, in their order."""
        hashes = [hash_of(entry.record.key) for entry in entries]
        commits = commits_of(self._tables, hashes)
        for start, end in _together(entries):
            number = self._journal.last + 1
            records = []
            for which, entry in zip(hashes[start:end], entries[start:end], strict=True):
                records.append(replace(entry.record, previous=commits.get(which, 0)))
                commits[which] = number
            await self._journal.append(number, max(record.at for record in records), records, [], 0)
        sql = "INSERT OR REPLACE INTO moving_commits VALUES (?, ?)"
        self._tables.execute("BEGIN IMMEDIATE")
        self._tables.executemany(sql, commits.items())
        self._tables.execute("COMMIT")

    async def sync(self) -> None:
        """Have it on the disk."""
        await self._journal.sync()

    async def close(self) -> None:
        """Never raises."""
        await self._journal.close()


def commits_of(tables: sqlite3.Connection, hashes: list[int]) -> dict[int, int]:
    """The newest commits of entities, where they are known."""
    wanted = list(dict.fromkeys(hashes))
    rows = tables.execute(in_list("SELECT hash, number FROM moving_commits WHERE hash IN ({})", len(wanted)), wanted)
    return dict(rows.fetchall())


def commit_of(commits: dict[int, int], key: Key) -> int:
    """That of an entity; 0 if its history is not kept."""
    return commits.get(hash_of(key), 0)


def _together(entries: list[Entry]) -> Iterator[tuple[int, int]]:
    """Where commits begin and end: records of one transaction, few enough."""
    start = 0
    for end in range(1, len(entries) + 1):
        whole = end == len(entries) or entries[end].commit != entries[start].commit
        if whole or end - start == COMMIT_RECORDS:
            yield start, end
            start = end
