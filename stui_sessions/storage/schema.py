"""The tables: made in one transaction, looked at before they are used.

Synchronous, for a thread: runs once, at the start.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage.files import APPLICATION_ID, FOUND_DAMAGED

SCHEMA_VERSION = 1

QUICK_CHECK_LIMIT = 64 * 2**20
"""Bytes.  A larger database is checked beside normal work instead of before it:
a cold `quick_check` was measured at 80 MB/s."""

OLDEST_SQLITE = (3, 35, 0)

# `tenant` leads every unique key, so that there can be more than one some day.
# The rowid (`number`) is the last part of every index: (status, due_at) is
# ordered by (status, due_at, number).
_TABLES = """
CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT '',
    session_id BLOB NOT NULL,
    client_id TEXT NOT NULL,
    status INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX sessions_by_id ON sessions (tenant, session_id);
CREATE INDEX sessions_by_client ON sessions (tenant, client_id) WHERE status = 0;
CREATE INDEX sessions_by_due ON sessions (status, due_at);
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('clean', 1), ('uncertain_until', 0);
"""

# Rollback-journal mode and one transaction: whenever the process is killed, the
# next open finds the whole schema or an empty file.  WAL mode is set afterwards.
_CREATE = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
{_TABLES}
COMMIT;
"""

_COLUMNS = {
    "journal": {"sequence", "crc", "data"},
    "sessions": {
        *("number", "tenant", "session_id", "client_id", "status"),
        *("due_at", "size", "sequence", "crc", "data"),
    },
    "meta": {"key", "value"},
}
_INDEXES = {"sessions_by_id", "sessions_by_client", "sessions_by_due"}


def connect(path: Path, mode: str, *, any_thread: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode; `mode` is "rw" or "ro".  It never makes a file."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=5.0,
        cached_statements=64,
        check_same_thread=not any_thread,
    )


def refuse_old_sqlite() -> None:
    """StartError if the SQLite library lacks what we use."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StartError(f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed")


def create(path: Path) -> None:
    """Make the tables if the file is empty, after SQLite has undone what was left half-done."""
    with closing(connect(path, "rw")) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("PRAGMA synchronous = FULL")
        if connection.execute("PRAGMA page_count").fetchone()[0]:
            return
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, _CREATE.split(";")):  # executescript would commit first
            connection.execute(statement)


def inspect(connection: sqlite3.Connection, path: Path) -> bool:
    """Look at an existing database; True if it was checked for damage, False if it is too large.

    StartError says what was found and what would be right.
    """
    _inspect_versions(connection, path)
    _inspect_tables(connection, path)
    if path.stat().st_size > QUICK_CHECK_LIMIT:
        return False
    findings = quick_check(connection)
    if findings:
        raise StorageDamaged("; ".join(findings))
    return True


def _inspect_versions(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise StartError(f"{path} is not a database of this program and is left as it is: name another file")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StartError(
            f"{path} has schema version {version}, and this server knows up to version {SCHEMA_VERSION}: "
            "use the server version that wrote it, or name another file"
        )
    if version < 1:
        raise StartError(f"{path} is damaged: it has no schema version. {FOUND_DAMAGED}")


def _inspect_tables(connection: sqlite3.Connection, path: Path) -> None:
    missing = []
    for table, columns in _COLUMNS.items():
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if not present:
            missing.append(f"table {table}")
        else:
            missing += [f"column {table}.{column}" for column in sorted(columns - present)]
    indexes = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    missing += [f"index {index}" for index in sorted(_INDEXES - indexes)]
    if missing:
        raise StartError(f"{path} is damaged: {', '.join(missing)} missing. {FOUND_DAMAGED}")


def quick_check(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file's structure (the first few); it may raise instead."""
    rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    if rows == ["ok"]:
        return []
    # One row may hold several findings under a headline, "*** in database main ***".
    return [line for row in rows for line in row.splitlines() if not line.startswith("***")][:5]
