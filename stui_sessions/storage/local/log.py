"""The log: where a commit becomes durable.

One entry for each commit, behind the one before.  The loop itself writes and syncs
where the disk answers in a fraction of a millisecond (a hand-over to a thread costs
as much as the rest); a slow sync moves that to a thread, until the disk has been
fast for a while.  What takes long in any case, making the next segment and taking
old ones out of use, is done ahead and aside.

An entry whose write or sync failed is not trusted: nothing counts before the same
place holds another one, or is made void.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from msgspec import Struct

from stui_sessions.domain.records import Record
from stui_sessions.errors import StorageError
from stui_sessions.storage.border import CAUGHT, Log, is_full, translate
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.local import segments
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.entry import HEADER_SIZE, MAX_PAYLOAD, encode_payload, mark_of, seal
from stui_sessions.storage.local.segments import START, Segment

Durability = Literal["full", "normal"]
T = TypeVar("T")

SLOW_SECONDS = 0.01
"""A write that took longer moves them to the thread at once."""
FAST_SECONDS = 0.001
"""What they should take.  Twice that on average moves them there, too, and less than that lets them come back:
in the thread, waiting for the interpreter counts as well."""
FIRST_TRUST, LEAST_TRUST, MOST_TRUST = 16, 64, 4096
"""Writes that are made there before they come back."""

KEPT_BUFFER = 4 * 2**20
_VOID = bytes(HEADER_SIZE)


class CommitLog:
    """The log of one database, open for writing.

    `segments` are those that are there, in their order; the last one is written to.
    """

    def __init__(self, directory: Path, log_id: bytes, durability: Durability, disk: Disk, log: Log) -> None:
        self.directory = directory
        self.log_id = log_id
        self.segments: list[Segment] = []
        self.last = 0
        """The number of the newest entry."""
        self.synced = 0
        """Commits up to here are durable."""
        self.is_cramped = False
        """There was no room for the newest segment in its full size."""
        self._has_given_up = False
        self._full = durability == "full"
        self._disk = disk
        self._log = log
        self._taken = 0  # files with ordinals up to here are there, of other logs too: they are not replaced
        self._fd = -1
        self._mark = b""
        self._buffer = bytearray()
        self._doubtful = False
        self._unsynced: list[Unsynced] = []  # of former segments, in "normal" durability
        self._synced_end = START  # in the present segment: what is before it is durable
        self._suspect = False  # a sync failed, and the system has forgotten what it could not write
        self._next: asyncio.Future[Segment] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._pace = Pace()
        self._writer = ThreadPoolExecutor(1, "log-write")
        self._aside = ThreadPoolExecutor(1, "log-aside")

    # -- opening and closing

    def begin(self, found: list[Segment], last: int, fresh: bool) -> None:
        """Go on behind commit `last`: in the last of the segments that were `found`, or (`fresh`) in a new one.

        In a thread, before anything else.  OSError if there is no room.
        """
        used = [s for s in found if s.first]
        for segment in found:
            if not segment.first:
                segments.retire(self._disk, segment, keep=True)
        self.segments, self.last, self.synced = used, last, last
        self._taken = max(segments.ordinals(self.directory), default=0)
        if fresh or not used:
            ordinal = max([self._taken, *(s.ordinal for s in found)]) + 1
            self._use(self._make(segments.Label(self.log_id, ordinal, last, self._size(0)), segments.SMALLEST))
        else:
            self._open(used[-1])
            self._synced_end = used[-1].end

    def sync_found(self, found: Iterable[Segment]) -> None:
        """Have segments on the disk: a process that was killed may not have come to it, and they have been read."""
        for segment in found:
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._disk.sync(fd)
            finally:
                os.close(fd)

    async def close(self) -> None:
        """Close the files.  Never raises."""
        await self._settled()
        if self._next is not None:
            await asyncio.wait([self._next])
        if self._doubtful and self._fd >= 0:
            try:
                await self._in_thread(self._writer, self._void)
            except StorageError as error:
                self._log.warning("log_void_failed", error=str(error))
        for executor in (self._writer, self._aside):
            executor.shutdown(wait=True)
        for fd in [*(part.fd for part in self._unsynced), self._fd]:
            if fd >= 0:
                os.close(fd)
        self._unsynced, self._fd = [], -1

    # -- writing

    async def append(
        self, number: int, at: int, records: list[Record], totals: list[Counters], last_number: int
    ) -> int:
        """Write the entry of a commit; its bytes.  StorageError: it does not count.

        `number` is one more than `last`; `at` is the time (ms).
        """
        await self._settled()
        if len(self._buffer) > KEPT_BUFFER:
            self._buffer = bytearray()
        size = encode_payload(self._buffer, records, totals, last_number)
        if size - HEADER_SIZE > MAX_PAYLOAD:
            raise StorageError(f"a commit of {size} bytes is too large")
        if size > self.segments[-1].size - self.segments[-1].end:
            await self._go_on(size)
        seal(self._buffer, self._mark, number, self.synced, at)
        offset = self.segments[-1].end
        if self._pace.on_loop:
            try:
                self._pace.note(self._write(offset))
            except CAUGHT as error:
                self._failed()
                raise translate("writing the log", error) from error
        else:
            await self._write_aside(offset)
        self._doubtful = False
        self.segments[-1].note(number, offset, offset + size, at)
        self.last = number
        if self._full:
            self.synced = number
        self._look_ahead()
        return size

    async def _settled(self) -> None:
        """Until the write of a commit that was cancelled is over."""
        writing = self._writing
        if writing is not None:
            await asyncio.wait([writing])  # who is cancelled here leaves it to the next one
            writing.exception()  # seen
            self._writing = None

    async def _write_aside(self, offset: int) -> None:
        self._writing = asyncio.ensure_future(self._in_thread(self._writer, lambda: self._timed(offset)))
        self._doubtful = True  # if this is cancelled
        try:
            await asyncio.shield(self._writing)
        except StorageError:
            self._failed()
            raise
        finally:
            if self._writing.done():
                self._writing = None

    def _timed(self, offset: int) -> None:
        self._pace.note(self._write(offset))

    def _write(self, offset: int) -> float:
        """Write what is in the buffer, and sync it; the seconds that took."""
        began = self._disk.clock()
        self._disk.write_at(self._fd, self._buffer, offset)
        if self._full:
            self._disk.sync(self._fd)
        return self._disk.clock() - began

    def _failed(self) -> None:
        self._doubtful = True
        self._pace.move()  # whatever it was, the loop need not wait for it

    def _void(self) -> None:
        """Have nothing at the place of an entry that failed."""
        self._disk.write_at(self._fd, _VOID, self.segments[-1].end)
        self._disk.sync(self._fd)
        self._doubtful = False

    # -- segments

    def _size(self, needed: int) -> int:
        """How large the next segment is, for an entry of `needed` bytes."""
        before = self.segments[-1].size if self.segments else segments.SMALLEST // 2
        return max(min(before * 2, segments.LARGEST), needed + START)

    def _look_ahead(self) -> None:
        """Have the next segment ready before this one is full."""
        current = self.segments[-1]
        if self._next is None and current.end * 2 > current.size:
            self._next = asyncio.ensure_future(self._prepare(0))
            self._next.add_done_callback(self._told)

    def _told(self, prepared: asyncio.Future[Segment]) -> None:
        """No room for it: tried again when it is needed."""
        if not prepared.cancelled() and (error := prepared.exception()) is not None:
            self._log.warning("log_preparation_failed", error=str(error))

    async def _prepare(self, needed: int) -> Segment:
        """Make the next segment; if there is no room for that, a smaller one, with an entry of `needed` bytes."""
        size, least = self._size(needed), max(segments.SMALLEST, needed + START)
        ordinal = max(self._taken, self.segments[-1].ordinal) + 1
        label = segments.Label(self.log_id, ordinal, self.synced, size)
        try:
            segment: Segment = await self._in_thread(self._aside, lambda: self._make(label, least))
        except StorageError as error:
            self.is_cramped = is_full(error)
            raise
        self.is_cramped = segment.size < size
        return segment

    def _make(self, label: segments.Label, least: int) -> Segment:
        """As large as there is room for, and as much again: the tables need some, too; `least` in any case."""
        while label.size > least:
            try:
                if segments.has_room(self._disk, self.directory, label.size):
                    return segments.prepare(self._disk, self.directory, label)
            except OSError as error:
                if not is_full(error):
                    raise
            label = label._replace(size=max(label.size // 2, least))
        return segments.prepare(self._disk, self.directory, label)

    async def _go_on(self, needed: int) -> None:
        """Change over to the next segment, which has room for an entry of `needed` bytes."""
        if self._doubtful:
            await self._in_thread(self._writer, self._void)
        following = await self._following(needed)
        former, end = self._fd, self.segments[-1].end
        try:
            self._use(following)
        except OSError as error:  # out of descriptors, for example: the segment is there for the next try
            raise translate("writing the log", error) from error
        self._next = None
        if self._full:
            os.close(former)
        else:
            self._unsynced.append(Unsynced(former, self._synced_end, end))
        self._synced_end = START

    async def _following(self, needed: int) -> Segment:
        """The next segment, with room for an entry of `needed` bytes; it stays `_next` until it is in use."""
        if self._next is not None:
            try:
                segment = await asyncio.shield(self._next)
                if segment.size >= needed + START:
                    return segment
                self._next = None  # whatever becomes of this: its file may be gone
                await self._in_thread(self._aside, lambda: segments.retire(self._disk, segment, keep=True))
            except StorageError:
                pass  # there may be room by now
        self._next = asyncio.ensure_future(self._prepare(needed))
        return await asyncio.shield(self._next)

    def _use(self, segment: Segment) -> None:
        self._open(segment)
        self.segments.append(segment)

    def _open(self, segment: Segment) -> None:
        self._fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        self._mark = mark_of(self.log_id, segment.ordinal)

    # -- beside commits

    async def sync(self) -> None:
        """Have what was written on the disk, in "normal" durability too.  StorageError if that failed."""
        if self._full or self.synced == self.last:
            return
        newest, end, segment = self.last, self.segments[-1].end, self.segments[-1]
        former = list(self._unsynced)
        parts = [*former, Unsynced(self._fd, self._synced_end, end)]
        again, self._suspect = self._suspect, True
        await self._in_thread(self._aside, lambda: self._sync(parts, again))
        self._suspect = False
        self.synced = newest
        if segment is self.segments[-1]:
            self._synced_end = end
        else:
            self._unsynced[len(former)].since = end
        del self._unsynced[: len(former)]
        for part in former:
            os.close(part.fd)

    def _sync(self, parts: list["Unsynced"], again: bool) -> None:
        for part in parts:
            if again:
                self._disk.write_at(part.fd, os.pread(part.fd, part.end - part.since, part.since), part.since)
            self._disk.sync(part.fd)

    async def retain(self, in_tables: int, before: int, limit: int) -> None:
        """Take out of use what need not be kept: the tables have it, and it is from before `before` (ms), or
        there are more than `limit` bytes.  StorageError if that failed.
        """
        while self._is_over(in_tables):
            too_much = sum(s.size for s in self.segments) > limit
            if not (too_much or self.segments[1].first_at <= before):
                return
            spare = segments.spare_bytes(self.directory) == 0 and self.segments[0].size <= segments.LARGEST
            await self._retire_oldest(spare)

    async def give_up(self, in_tables: int) -> None:
        """Make room on a full disk: take out of use all that the tables have, and keep no spare.

        StorageError if that failed.
        """
        before = len(self.segments)
        while self._is_over(in_tables):
            await self._retire_oldest(spare=False)
        await self._in_thread(self._aside, lambda: segments.remove_spares(self._disk, self.directory))
        if len(self.segments) < before and not self._has_given_up:
            self._has_given_up = True  # said once: on a small disk it happens with every other segment
            self._log.warning("log_given_up", files=before - len(self.segments))

    def _is_over(self, in_tables: int) -> bool:
        """The oldest segment is out of use, and the tables have all of it."""
        return len(self.segments) > 1 and 0 < self.segments[1].first <= in_tables + 1

    async def _retire_oldest(self, spare: bool) -> None:
        await self._in_thread(self._aside, partial(segments.retire, self._disk, self.segments.pop(0), spare))

    @property
    def oldest(self) -> int:
        """The number of the oldest entry that is kept; one more than the newest, if none is."""
        return next((s.first for s in self.segments if s.first), self.last + 1)

    def holding(self, number: int) -> list[Segment]:
        """The segments from that one on which holds commit `number`; none if it is not kept.  From any thread."""
        held = [s for s in list(self.segments) if s.first]
        older = [place for place, s in enumerate(held) if s.first <= number]
        return held[older[-1] :] if older else []

    @property
    def size(self) -> int:
        """Bytes of its segments in use and of the spare ones; the next one comes to it when it is used."""
        return sum(s.size for s in self.segments) + segments.spare_bytes(self.directory)

    async def _in_thread(self, executor: ThreadPoolExecutor, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except CAUGHT as error:
            raise translate("writing the log", error) from error


class Unsynced(Struct):
    """A part of a segment that may not be on the disk."""

    fd: int
    since: int  # offsets
    end: int


class Pace:
    """Decides whether the loop or a thread waits for the disk."""

    def __init__(self) -> None:
        self.on_loop = False
        self._mean = 0.0  # seconds that a write and its sync take, of late
        self._count = 0  # writes since the last change
        self._needed = FIRST_TRUST

    def note(self, seconds: float) -> None:
        """A write took so long."""
        self._mean += (seconds - self._mean) / 16
        self._count += 1
        if not self.on_loop:
            if self._count >= self._needed and self._mean < 2 * FAST_SECONDS:
                self.on_loop, self._count = True, 0
        elif seconds > SLOW_SECONDS or self._mean > 2 * FAST_SECONDS:
            self.move()

    def move(self) -> None:
        """To the thread, for a good while; for a longer one, if it has been there lately."""
        if self.on_loop:
            lately = self._count < 16 * self._needed
            self._needed = min(self._needed * 2, MOST_TRUST) if lately else LEAST_TRUST
        self.on_loop, self._count = False, 0
