"""Copies of a database: made while the server writes, verified before they are used.

Synchronous, for a thread or for the command line.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage import files, journal, migration, schema
from stui_sessions.storage.border import CAUGHT, Log, translate
from stui_sessions.storage.rows import WHOLE, decode_session

ROWS = 1000
"""Sessions verified between two reports of progress."""


def copy(source: Path, target: Path) -> None:
    """Copy the database at `source` to the new file `target`, as of one moment, and look at the copy.

    In one step: the reading transaction lasts for all of it, so that no write
    comes between and none is held up.  Raises StorageError; what there is of the
    copy is removed then.
    """
    try:
        files.make_file(target)
        with closing(schema.connect(source, "ro", any_thread=True)) as reading:
            _copy_pages(reading, target)
        with closing(schema.connect(target, "rw")) as copied:
            copied.execute("PRAGMA journal_mode = DELETE").fetchone()  # one file, without a log beside it
            findings = schema.quick_check(copied)
        if findings:
            raise StorageDamaged(f"the copy is damaged: {findings[0]}")
        files.sync_file(target)
    except BaseException as error:
        files.remove(target)
        if isinstance(error, CAUGHT):
            raise translate("copying the database", error) from error
        raise


def _copy_pages(reading: sqlite3.Connection, target: Path) -> None:
    with closing(schema.connect(target, "rw")) as writing:
        writing.execute("PRAGMA synchronous = OFF")  # synced as a whole at the end
        reading.backup(writing, pages=-1)


def verify(path: Path, log: Log, on_progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Look at a database as a start would, and at every session in it too; returns how many there are.

    `on_progress(done, total)` hears of sessions looked at.  Raises StartError or
    StorageError with what is wrong.
    """
    files.refuse_other_kinds(path)
    if not path.exists():
        raise StartError(f"{path} does not exist")
    if files.inspect_header(path) != "ours":
        raise StartError(f"{path} is empty: it holds no backup")
    try:
        with closing(schema.connect(path, "ro")) as connection:
            schema.inspect(connection, path)
            findings = schema.quick_check(connection)
            if findings:
                raise StorageDamaged("; ".join(findings))
            return _verify_sessions(connection, log, on_progress)
    except CAUGHT as error:
        raise translate("verifying", error) from error


def _verify_sessions(connection: sqlite3.Connection, log: Log, on_progress: Callable[[int, int], None]) -> int:
    version = schema.version_of(connection)
    form = journal.NEWEST if version == schema.SCHEMA_VERSION else migration.FORM_1
    recovered = journal.recover(connection, form, lambda first, last, size: None, lambda: 0, log)
    known = sum(recovered.totals.by_status())  # those too that are in the journal alone
    total: int = connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
    if form is not journal.NEWEST:
        return known
    done = 0
    with closing(connection.execute(f"SELECT {WHOLE} FROM sessions ORDER BY number")) as rows:
        while some := rows.fetchmany(ROWS):
            damaged = [row[0] for row in some if decode_session(*row) is None]
            if damaged:
                raise StorageDamaged(f"session {damaged[0]} fails its checksum")
            done += len(some)
            on_progress(done, total)
    return known
