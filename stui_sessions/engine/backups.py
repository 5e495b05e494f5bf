"""Copies of the store, made beside normal work and read in parts over the wire."""

import asyncio
import glob
import hashlib
import os
import secrets
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stui_sessions.commands.operating import BeginBackupResult, ReadBackupParams, ReadBackupResult
from stui_sessions.commands.shared import NoParams
from stui_sessions.domain.caller import Caller
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.storage import files
from stui_sessions.storage.contract import Store

PART_BYTES = 192 * 1024
"""Of the copy in one reply: a quarter of a MiB once it is in Base64."""

IDLE_SECONDS = 60.0
"""A copy of which no part was read for so long is dropped."""

HASH_BYTES = 1024 * 1024


class Backups:
    """One copy at a time: made beside the database, and gone with the last part of it that is read.

    `is_connected(connection)` says whether that connection is still there: when the one that
    began a copy is lost, the next caller may begin another.
    """

    def __init__(self, store: Store, database: Path | None, is_connected: Callable[[int], bool], log: Any) -> None:
        self._store = store
        self._database = database
        self._is_connected = is_connected
        self._log = log
        self._copy: _Copy | None = None
        self._beginning = asyncio.Lock()
        self._stopping = False
        if database is not None:  # ours alone: the database is locked, and its name is part of theirs
            for left_over in database.parent.glob(f"{glob.escape(self._prefix(database))}*"):
                files.remove(left_over)

    @staticmethod
    def _prefix(database: Path) -> str:
        return f".{database.name}.backup-"

    async def begin(self, parameters: NoParams, caller: Caller) -> BeginBackupResult:
        """Begin a copy.  Raises Refusal."""
        if self._store.is_shared:
            raise Refusal(
                "backup_unavailable",
                "the sessions are in PostgreSQL: copy that with pg_basebackup or pg_dump, or export the sessions",
            )
        if self._database is None:
            raise Refusal("backup_unavailable", "this server keeps nothing on disk, so there is nothing to copy")
        async with self._beginning:  # dropping the old copy awaits: meanwhile no other caller may begin one
            return await self._begin(self._database, caller)

    async def _begin(self, database: Path, caller: Caller) -> BeginBackupResult:
        if self._stopping:
            raise Refusal("backup_unavailable", "the server is stopping")
        if self._copy is not None and self._is_connected(self._copy.connection):
            raise Refusal("backup_in_progress", "another copy is being made or read; try again when it is done")
        await self._drop_and_wait()
        name = secrets.token_hex(16)
        path = database.with_name(self._prefix(database) + name)
        self._copy = _Copy(name, path, self._store, caller.connection)
        self._copy.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop)
        return BeginBackupResult(name)

    async def read(self, parameters: ReadBackupParams, caller: Caller) -> ReadBackupResult:
        """A part of the copy, once it is made.  Raises Refusal."""
        copy = self._copy
        if copy is None or copy.name != parameters.backup_id:
            raise Refusal("backup_not_found", "there is no such copy, or nobody has read it for a minute")
        copy.connection = caller.connection
        copy.expiry.cancel()
        copy.readers += 1
        try:
            await asyncio.wait([copy.made])
            if copy.made.cancelled():
                raise Refusal("backup_not_found", "the copy was dropped while it was made")
            copy.made.result()
            result = await asyncio.to_thread(copy.read, parameters.offset)
        except (StorageError, OSError) as error:
            self._log.warning("backup.failed", error=str(error))
            self._end(copy)
            raise Refusal("backup_unavailable", "the copy could not be made; the server's log says why") from None
        finally:
            copy.readers -= 1
            copy.close_if_unused()
        self._after_part(copy, result)
        return result

    def _after_part(self, copy: "_Copy", result: ReadBackupResult) -> None:
        if result.next_offset is None:
            self._log.info("backup.done", size=copy.size)
            self._end(copy)
        elif self._copy is copy:
            copy.expiry.cancel()
            copy.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop)

    async def close(self) -> None:
        """Drop the copy, also one that is still being made, and begin no other."""
        self._stopping = True
        async with self._beginning:
            await self._drop_and_wait()

    async def _drop_and_wait(self) -> None:
        copy = self._copy
        self._drop()
        if copy is not None:
            await asyncio.wait([copy.made])

    def _end(self, copy: "_Copy") -> None:
        """Drop `copy`, unless another one has taken its place by now."""
        if self._copy is copy:
            self._drop()

    def _drop(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.drop()


class _Copy:
    """A copy that is being made, or was made: a file without a name."""

    def __init__(self, name: str, path: Path, store: Store, connection: int) -> None:
        self.name = name
        self.connection = connection
        """The connection that began it, or read from it last."""
        self.size = 0
        self.sha256 = ""
        self.readers = 0
        """Reads under way: the descriptor must not be closed, and its number given to another file, before they end."""
        self.expiry: asyncio.TimerHandle
        self._fd = -1
        self._path = path
        self._dropped = False
        self.made = asyncio.create_task(self._make(store))
        # Its error counts as seen, also where no reader asks for it.
        self.made.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _make(self, store: Store) -> None:
        await store.copy(self._path)
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:  # a thread cannot be cancelled: what it opens is to be closed
            await asyncio.wait([opening])
            raise
        finally:
            self.close_if_unused()

    def _open(self) -> None:
        """Open the file and take its name away, so that no crash leaves it behind."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        digest = hashlib.sha256()
        try:
            self._path.unlink()
            while part := os.pread(fd, HASH_BYTES, self.size):
                digest.update(part)
                self.size += len(part)
        except OSError:
            os.close(fd)
            raise
        self.sha256 = digest.hexdigest()
        self._fd = fd  # from now on it may be closed

    def read(self, offset: int) -> ReadBackupResult:
        """In a thread: the part that begins at `offset`."""
        part = os.pread(self._fd, PART_BYTES, offset)
        end = offset + len(part)
        return ReadBackupResult(
            self.name, self.size, self.sha256, b64encode(part).decode(), end if end < self.size and part else None
        )

    def drop(self) -> None:
        """Free its room on disk; if it is being made, stop that."""
        self._dropped = True
        self.made.cancel()
        self.expiry.cancel()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the file once it is dropped and no read is under way."""
        if self._dropped and not self.readers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
