"""The tables: made in one transaction, looked at before they are used.

Synchronous, for a thread: runs once, at the start.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage import files
from stui_sessions.storage.files import APPLICATION_ID, FOUND_DAMAGED

SCHEMA_VERSION = 3

QUICK_CHECK_LIMIT = 64 * 2**20
"""Bytes.  A larger database is checked beside normal work instead of before it:
a cold `quick_check` was measured at 80 MB/s."""

OLDEST_SQLITE = (3, 35, 0)

BUSY_MS = 5000
"""How long a statement waits for another connection's lock."""

# Text is stored as UTF-8 in BLOBs: they hold a NUL as well, and their order is
# that of the code points.  `head` is before `data`, so that a list, which needs
# no state, does not follow a large row's overflow pages.
SESSIONS = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT '',
    session_id BLOB NOT NULL,
    client_id BLOB NOT NULL,
    user_id BLOB NOT NULL,
    external_id BLOB NOT NULL,
    title BLOB NOT NULL,
    status INTEGER NOT NULL,
    active_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    head_crc INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    head BLOB NOT NULL,
    data BLOB NOT NULL
);
"""

# `tenant` leads every key that sessions are found by, so that there can be more
# than one some day.  The rowid (`number`) is the last part of every index:
# (status, due_at) is ordered by (status, due_at, number).
INDEXES = """
CREATE UNIQUE INDEX sessions_by_id ON sessions (tenant, session_id);
CREATE INDEX sessions_by_client ON sessions (tenant, client_id, user_id, status);
CREATE INDEX sessions_by_user ON sessions (tenant, user_id, status);
CREATE INDEX sessions_by_external ON sessions (tenant, external_id, user_id) WHERE external_id <> x'' AND status = 0;
CREATE INDEX sessions_by_due ON sessions (status, due_at);
CREATE INDEX sessions_by_status ON sessions (tenant, status);
CREATE INDEX sessions_by_activity ON sessions (tenant, status, active_at);
CREATE INDEX sessions_by_title ON sessions (tenant, status, title);
"""

ENTITIES = """
CREATE TABLE entities (
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    id BLOB NOT NULL,
    version INTEGER NOT NULL,
    "commit" INTEGER NOT NULL,
    crc INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) WITHOUT ROWID;
"""

META = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value
) WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('clean', 1), ('uncertain_until', 0);
"""
"""What is in there: see `meta.py`."""

# Rollback-journal mode and one transaction: whenever the process is killed, the
# next open finds the whole schema or an empty file.  WAL mode is set afterwards.
_CREATE = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
{SESSIONS}
{INDEXES}
{ENTITIES}
{META}
COMMIT;
"""

_JOURNAL = {"journal": {"sequence", "crc", "data"}}  # the former editions' log
_ENTITIES = {"entities": {"tenant", "kind", "id", "version", "commit", "crc", "data"}}
_META = {"meta": {"key", "value"}}
_SESSIONS_1 = {
    *("number", "tenant", "session_id", "client_id", "status"),
    *("due_at", "size", "sequence", "crc", "data"),
}
_SESSIONS_2 = _SESSIONS_1 | {"user_id", "external_id", "title", "active_at", "head_crc", "head"}
_INDEXES_1 = {"sessions_by_id", "sessions_by_client", "sessions_by_due"}
_INDEXES_2 = _INDEXES_1 | {
    *("sessions_by_user", "sessions_by_external", "sessions_by_status", "sessions_by_activity", "sessions_by_title"),
}
_SHAPES: dict[int, tuple[dict[str, set[str]], set[str]]] = {
    1: ({"sessions": _SESSIONS_1, **_META, **_JOURNAL}, _INDEXES_1),
    2: ({"sessions": _SESSIONS_2, **_META, **_JOURNAL}, _INDEXES_2),
    3: ({"sessions": _SESSIONS_2, **_META, **_ENTITIES}, _INDEXES_2),
}
"""What each version of the schema has: tables with their columns, and indexes."""


def connect(path: Path, mode: str, *, any_thread: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode; `mode` is "rw" or "ro".  It never makes a file."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_MS / 1000,
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
        run(connection, _CREATE)


def run(connection: sqlite3.Connection, script: str) -> None:
    """Some statements, in the transaction that is open: `executescript` would commit first."""
    for statement in filter(str.strip, script.split(";")):
        connection.execute(statement)


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the tables in a database of ours."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


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
    version = version_of(connection)
    files.refuse_newer(path, version, SCHEMA_VERSION)
    if version < 1:
        raise StartError(f"{path} is damaged: it has no schema version. {FOUND_DAMAGED}")


def _inspect_tables(connection: sqlite3.Connection, path: Path) -> None:
    tables, needed = _SHAPES[version_of(connection)]
    missing = []
    for table, columns in tables.items():
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if not present:
            missing.append(f"table {table}")
        else:
            missing += [f"column {table}.{column}" for column in sorted(columns - present)]
    indexes = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    missing += [f"index {index}" for index in sorted(needed - indexes)]
    if missing:
        raise StartError(f"{path} is damaged: {', '.join(missing)} missing. {FOUND_DAMAGED}")


def quick_check(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file's structure (the first few); it may raise instead."""
    rows = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    if rows == ["ok"]:
        return []
    # One row may hold several findings under a headline, "*** in database main ***".
    return [line for row in rows for line in row.splitlines() if not line.startswith("***")][:5]
