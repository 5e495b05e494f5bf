"""The commands for whoever runs the server: export, import, backup, and what the server says of its contract."""

from collections.abc import Sequence
from typing import Any, Literal

from stui_sessions.client.asking import DEFAULT, Asker, Seconds
from stui_sessions.client.results import BeginBackupResult, DescribeResult, ExportResult, ImportResult, ReadBackupResult


class Transfer(Asker):
    """Methods of `Client`."""

    async def export_sessions(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: Literal["live", "expired", "closed", "deleted"] | None = None,
        tags: Sequence[str] | None = None,
        text: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ExportResult:
        """One page of sessions as a whole; the next one with the same words and `cursor=page.next_cursor`."""
        parameters = {
            "client_id": client_id,
            "user_id": user_id,
            "status": status,
            "tags": tags,
            "text": text,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._get(ExportResult, "export_sessions", parameters, reply_timeout)

    async def import_sessions(
        self,
        sessions: Sequence[Any],
        *,
        on_conflict: Literal["error", "skip", "replace", "new"] | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ImportResult:
        """Take sessions as `export_sessions` gave them: rows, or `msgspec.Raw` of their text."""
        parameters = {"sessions": sessions, "on_conflict": on_conflict}
        return await self._get(ImportResult, "import_sessions", parameters, reply_timeout)

    async def begin_backup(self, *, reply_timeout: Seconds = DEFAULT) -> BeginBackupResult:
        """Have the server make a copy of its database, for `read_backup`."""
        return await self._get(BeginBackupResult, "begin_backup", {}, reply_timeout)

    async def read_backup(
        self, backup_id: str, *, offset: int | None = None, reply_timeout: Seconds = DEFAULT
    ) -> ReadBackupResult:
        """A part of the copy; waits until it is made."""
        parameters = {"backup_id": backup_id, "offset": offset}
        return await self._get(ReadBackupResult, "read_backup", parameters, reply_timeout)

    async def describe(self, command: str | None = None, *, reply_timeout: Seconds = DEFAULT) -> DescribeResult:
        """The contract that the server keeps, or its part about one command, and the version of it."""
        return await self._get(DescribeResult, "describe", {"command": command}, reply_timeout)
