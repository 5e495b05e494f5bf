"""Copies of the store, made beside normal work and read in parts over the wire."""

import asyncio
import glob
import hashlib
import os
import secrets
from base64 import b64encode
from pathlib import Path
from typing import Any

from stui_sessions.errors import Refusal, StorageError
from stui_sessions.protocol.results import ReadBackupResult
from stui_sessions.sessions.finding import BackupPart
from stui_sessions.storage.base import SessionStore

PART_BYTES = 192 * 1024
"""Of the copy in one reply: a quarter of a MiB once it is in Base64."""

IDLE_SECONDS = 60.0
"""After which a copy that nobody reads is dropped."""

HASH_BYTES = 1024 * 1024


class Backups:
    """One copy at a time: made beside the database, and gone with the last part of it that is read."""

    def __init__(self, store: SessionStore, database: Path | None, log: Any) -> None:
        self._store = store
        self._database = database
        self._log = log
        self._copy: _Copy | None = None
        if database is not None:  # ours alone: the database is locked, and its name is part of theirs
            for left_over in database.parent.glob(f"{glob.escape(self._prefix(database))}*"):
                left_over.unlink(missing_ok=True)

    @staticmethod
    def _prefix(database: Path) -> str:
        return f".{database.name}.backup-"

    def begin(self) -> str:
        """Begin a copy; its name.  Raises Refusal."""
        if self._database is None:
            raise Refusal("backup_unavailable", "this server keeps nothing on disk, so there is nothing to copy")
        if self._copy is not None:
            raise Refusal("backup_in_progress", "another copy is being made or read; try again when it is done")
        name = secrets.token_hex(16)
        self._copy = _Copy(name, self._database.with_name(self._prefix(self._database) + name), self._store)
        self._copy.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop)
        return name

    async def part(self, asked: BackupPart) -> ReadBackupResult | Refusal:
        """A part of the copy, once it is made."""
        copy = self._copy
        if copy is None or copy.name != asked.backup_id:
            return Refusal("backup_not_found", "there is no such copy, or nobody has read it for a minute")
        copy.expiry.cancel()
        copy.readers += 1
        try:
            await asyncio.shield(copy.made)
            result = await asyncio.to_thread(copy.read, asked.offset)
        except (StorageError, OSError) as error:
            self._log.warning("backup.failed", error=str(error))
            self._end(copy)
            return Refusal("backup_unavailable", "the copy could not be made; the server's log says why")
        finally:
            copy.readers -= 1
            copy.close_if_unused()
        if result.next_offset is None:
            self._log.info("backup.done", size=copy.size)
            self._end(copy)
        elif self._copy is copy:
            copy.expiry.cancel()
            copy.expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._drop)
        return result

    async def close(self) -> None:
        """Drop the copy; one that is being made is waited for."""
        copy = self._copy
        self._drop()
        if copy is not None:
            await asyncio.wait([copy.made])

    def _end(self, copy: "_Copy") -> None:
        """`copy` is of no more use; there may be another one by now."""
        if self._copy is copy:
            self._drop()

    def _drop(self) -> None:
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.drop()


class _Copy:
    """A copy that is being made, or was made: a file without a name."""

    def __init__(self, name: str, path: Path, store: SessionStore) -> None:
        self.name = name
        self.size = 0
        self.sha256 = ""
        self.readers = 0
        """Reads under way: the descriptor must not be closed, and its number given to another file, before they end."""
        self.expiry: asyncio.TimerHandle
        self._fd = -1
        self._path = path
        self._dropped = False
        self.made = asyncio.create_task(self._make(store))
        self.made.add_done_callback(lambda task: task.cancelled() or task.exception())  # somebody may ask, or not

    async def _make(self, store: SessionStore) -> None:
        await store.copy(self._path)
        await asyncio.to_thread(self._open)
        self.close_if_unused()

    def _open(self) -> None:
        """Open the file and take its name away, so that no crash leaves it behind."""
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._path.unlink()
        digest = hashlib.sha256()
        while part := os.pread(fd, HASH_BYTES, self.size):
            digest.update(part)
            self.size += len(part)
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
        """Free its room on disk, now or when it is made."""
        self._dropped = True
        self.expiry.cancel()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the file once it is dropped and nobody reads it."""
        if self._dropped and not self.readers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
