"""Version 1 of the schema, and the way from there to the present one.

Version 1 had a session in one part, `data`, and no user, external id or title.

Synchronous, for a thread: runs once, at the start.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from stui_sessions.sessions.model import Session
from stui_sessions.storage.border import Log
from stui_sessions.storage.journal import Form, Progress
from stui_sessions.storage.rows import Row, encode_session
from stui_sessions.storage.schema import INDEXES, SCHEMA_VERSION, SESSIONS, connect, run, version_of

CHUNK_ROWS = 256
CACHE_KIB = 64 * 1024

_INSERT = f"INSERT INTO sessions ({','.join(Row._fields)}) VALUES ({','.join('?' * len(Row._fields))})"
_ROWS = "SELECT number, sequence, session_id, crc, data, client_id, status, due_at, size FROM former ORDER BY number"

_NO_CRC = -1  # no CRC is negative

_decode = msgspec.msgpack.Decoder(Session).decode


def decode_session_1(number: Any, sequence: Any, session_id: Any, crc: Any, data: Any) -> Session | None:
    """The session of a row of version 1, None if the row is not what was written."""
    if not (type(number) is int and type(sequence) is int and type(session_id) is bytes and type(data) is bytes):
        return None
    if crc32(data, crc32(b"%d %d %b" % (number, sequence, session_id))) != crc:
        return None
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


FORM_1 = Form("number, sequence, session_id, crc, data", decode_session_1)


def migrate(path: Path, clock: Callable[[], int], log: Log) -> None:
    """Bring the database to the present version, in one transaction.

    The old table is copied and not altered: new columns would come behind the
    state.  Its pages are free afterwards, for what is written later.
    """
    with closing(connect(path, "rw")) as connection:  # closing it undoes what was not committed
        connection.text_factory = bytes  # a damaged text is copied as it is
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA secure_delete = OFF").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        was = version_of(connection)
        connection.execute("ALTER TABLE sessions RENAME TO former")
        run(connection, SESSIONS)
        count, damaged = _copy(connection, clock, log)
        connection.execute("DROP TABLE former")  # and its indexes, whose names are used again
        run(connection, INDEXES)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    log.info("database_migrated", was=was, now=SCHEMA_VERSION, sessions=count, damaged=damaged)


def _copy(connection: sqlite3.Connection, clock: Callable[[], int], log: Log) -> tuple[int, int]:
    """All rows in their new form; how many there were, and how many of them damaged."""
    total = connection.execute("SELECT count(*) FROM former").fetchone()[0]
    progress = Progress(log, "database_migration", clock, total)
    count = damaged = 0
    with closing(connection.execute(_ROWS)) as cursor:
        while rows := cursor.fetchmany(CHUNK_ROWS):
            migrated = [migrated_row(*row) for row in rows]
            connection.executemany(_INSERT, migrated)
            for row in migrated:
                if row.crc == _NO_CRC:
                    log.error("session_damaged", number=row.number, found_by="migration")
                    damaged += 1
            count += len(rows)
            progress.report(count)
    return count, damaged


def migrated_row(number: int, sequence: Any, session_id: Any, crc: Any, data: Any, *columns: Any) -> Row:
    """A row of version 1 as one of today.  A damaged one stays that, with what there is of it."""
    session = decode_session_1(number, sequence, session_id, crc, data)
    if session is not None:
        return encode_session(sequence, session)
    client_id, status, due_at, size = columns
    return Row(
        number,
        session_id,
        client_id,
        user_id=b"",
        external_id=b"",
        title=b"",
        status=status,
        active_at=0,
        due_at=due_at,
        size=size,
        sequence=sequence,
        head_crc=_NO_CRC,
        crc=_NO_CRC,
        head=b"",
        data=data,
    )
