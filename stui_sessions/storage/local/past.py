"""Reading the log of a running store: what was committed since, and one entity's own records."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice

from stui_sessions.domain.entities import Key
from stui_sessions.errors import StorageError
from stui_sessions.storage.border import CAUGHT, translate
from stui_sessions.storage.contract import Commit, LogGone
from stui_sessions.storage.local import tail
from stui_sessions.storage.local.entry import decode_payload
from stui_sessions.storage.local.log import CommitLog

READ_BYTES = 2**20
READ_COMMITS = 256
"""Read at once, about; the reader may be slow, and should not hold more."""


async def commits(journal: CommitLog, since: int) -> AsyncIterator[Commit]:
    """All commits behind `since`, up to the newest one by the time that it is reached.  LogGone, StorageError."""
    while since < journal.last:
        upto = journal.last
        if journal.oldest > since + 1:
            raise LogGone(journal.oldest)
        for commit in await asyncio.to_thread(_some, journal, since, upto):
            yield commit
            since = commit.number


def _some(journal: CommitLog, since: int, upto: int) -> list[Commit]:
    """The next few, in a thread."""
    found: list[Commit] = []
    size = 0
    try:
        entries = tail.entries_between(journal.holding(since + 1), journal.log_id, since, upto)
        for header, payload, path in islice(entries, READ_COMMITS):
            found.append(Commit(header.number, decode_payload(header, payload, str(path)).records))
            size += len(payload)
            if size > READ_BYTES:
                break
    except LookupError:
        if not found:  # taken out of use while it was read, or lost by a power cut
            raise LogGone(max(journal.oldest, since + 2)) from None
    except CAUGHT as error:
        raise translate("reading the log", error) from error
    return found


def history(journal: CommitLog, key: Key, newest: int, before: int, limit: int) -> list[Commit]:
    """An entity's own records, commit by commit, the newest first; `newest` is its last commit.  In a thread."""
    found: list[Commit] = []
    number = newest
    try:
        while number and len(found) < limit:
            commit = _own(journal, key, number)
            if commit is None:
                break
            if number < before:
                found.append(commit)
            number = min(record.previous for record in commit.records)
            if number >= commit.number:
                raise StorageError(f"commit {commit.number} of the log names commit {number} as the one before")
    except CAUGHT as error:
        raise translate("reading the log", error) from error
    return found


def _own(journal: CommitLog, key: Key, number: int) -> Commit | None:
    """The records of an entity in a commit; None if the log does not have it."""
    try:
        entries = tail.entries_between(journal.holding(number), journal.log_id, number - 1, number)
        ((header, payload, path),) = entries
    except LookupError:
        return None
    records = decode_payload(header, payload, str(path)).records
    own = [record for record in records if record.key == key]
    return Commit(number, own) if own else None
