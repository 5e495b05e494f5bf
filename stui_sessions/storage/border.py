"""Where SQLite's and the system's errors become ours, and what a store asks of a log."""

import errno
import sqlite3
from typing import Any, Protocol

from stui_sessions.errors import StorageDamaged, StorageError

CAUGHT = (sqlite3.Error, OSError, ValueError)
"""What a call to SQLite may raise.  ValueError is aiosqlite's word for a closed connection."""

_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_DAMAGE_WORDS = ("malformed", "not a database", "Could not decode to UTF-8")
_FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
_MEDIUM_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


class Log(Protocol):
    """The part of a structlog logger that a store uses."""

    def debug(self, event: str, **kw: Any) -> Any: ...
    def info(self, event: str, **kw: Any) -> Any: ...
    def warning(self, event: str, **kw: Any) -> Any: ...
    def error(self, event: str, **kw: Any) -> Any: ...


def primary_code(error: BaseException) -> int | None:
    """SQLite's primary result code, or None where the error did not come from the library."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the file is not what was written."""
    if primary_code(error) in _DAMAGE_CODES:
        return True
    return isinstance(error, sqlite3.Error) and any(word in str(error) for word in _DAMAGE_WORDS)


def is_medium(error: BaseException) -> bool:
    """Whether the medium failed, so that the connection is better opened anew."""
    return primary_code(error) in _MEDIUM_CODES or isinstance(error, OSError | ValueError)


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, as an error says, or the one that it was translated from."""
    origin = error.__cause__ or error
    return primary_code(origin) == sqlite3.SQLITE_FULL or getattr(origin, "errno", None) in _FULL_ERRORS


def translate(doing: str, error: BaseException) -> StorageError:
    """The error of ours that says what was being done and what went wrong.

    The text is for the log: it never reaches a client.
    """
    kind = StorageDamaged if is_damage(error) else StorageError
    return kind(f"{doing}: {error}")
