"""The start: from what lies on the disk to a store that can be used.

Synchronous, for a thread: nothing else runs yet.  Whatever is refused stays as it was.
"""

import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path

from msgspec import Struct

from stui_sessions.errors import StartError
from stui_sessions.storage import files
from stui_sessions.storage.border import Log, is_full
from stui_sessions.storage.counting import Tally
from stui_sessions.storage.local import meta, migration, schema, segments, tail
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.local.entry import Header, Payload
from stui_sessions.storage.local.lookup import LookUp, fetching
from stui_sessions.storage.local.meta import Meta
from stui_sessions.storage.local.progress import Progress
from stui_sessions.storage.local.reader import begin_reading, connect_reading
from stui_sessions.storage.local.replay import Replay
from stui_sessions.storage.local.segments import Segment
from stui_sessions.storage.local.statements import PIECE_ROWS
from stui_sessions.storage.local.tail import LEFT, Tail

BASES = 16 * PIECE_ROWS
"""Stored entities that are read and brought up to date at once."""

AT_ONCE = 10_000
"""Entities that a start brings up to date; if there are more, it leaves them to `recovery.py`."""

NO_ROOM = 64 * 1024
"""Bytes.  With less on a disk, what fails there fails for that: SQLite needs half of it to open a database."""


class Start(Struct):
    """What was found."""

    checked: bool  # the file was looked through for damage
    meta: Meta
    replay: Replay
    tail: Tail
    lost: str = ""  # why the log that is there is of no use; "" if it is


def make_ready(path: Path, log: Log) -> bool:
    """Have a database file with tables in it; True if it is new.  What cannot be made whole is not left.

    StartError if there is something that is none of ours; nothing is changed then.
    """
    is_new = not path.exists()
    if is_new:
        files.refuse_orphan_wal(path)
        refuse_orphan_log(path)
        files.make_file(path)
    try:
        kind = files.inspect_header(path, schema.SCHEMA_VERSION)
        files.tighten(path, log)
        if kind != "ours":
            schema.create(path)
    except BaseException:
        if is_new:
            files.remove(path)
        raise
    return is_new


def remove(path: Path) -> None:
    """Remove a database that was new when its start was refused.  OSError if that fails."""
    segments.remove_all(segments.directory_of(path))
    files.remove(path)


def reason(error: BaseException, path: Path, disk: Disk) -> str:
    """Why a start was refused; SQLite's words for a full disk may be "disk I/O error"."""
    with suppress(OSError):
        if not is_full(error) and disk.free(path.parent) < NO_ROOM:
            return f"{error}; the disk is full"
    return str(error)


def found(path: Path, clock: Callable[[], int], log: Log) -> Start:
    """Look at a database and its log, bring them to the present version, and replay.  StartError; nothing is changed.

    On connections that cannot write, as long as something may be wrong: a writing one,
    as the last to close, would merge the write-ahead log.
    """
    with closing(schema.connect(path, "ro")) as connection:
        checked = schema.inspect(connection, path)
        version = schema.version_of(connection)
    if version != schema.SCHEMA_VERSION:
        migration.migrate(path, clock, log)
    with closing(connect_reading(path)) as connection, _no_collections():
        begin_reading(connection)
        return recovered(connection, segments.directory_of(path), checked, clock, log, AT_ONCE)


@contextmanager
def _no_collections() -> Iterator[None]:
    """A replay makes very many objects and drops few: looking for cycles in them costs as much as the rest."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def refuse_orphan_log(path: Path) -> None:
    """StartError if a missing database left a log behind that it may have needed."""
    directory = segments.directory_of(path)
    if segments.ordinals(directory) and not (directory / segments.CLOSED).exists():
        raise StartError(
            f"{path} is missing, but its log {directory} is there: restore the database file that belongs to it, "
            "or remove the log to begin anew"
        )


def recovered(
    connection: sqlite3.Connection,
    directory: Path,
    checked: bool,
    clock: Callable[[], int],
    log: Log,
    at_once: float = inf,
) -> Start:
    """Tables and log of a database of the present version, from a connection that sees it as of one moment.

    If the log changes more entities than `at_once`, they are left to be brought up to date.
    """
    found = meta.read(connection)
    replay = Replay(Tally(found.counters()), found.last_number)
    held, since, lost = _surveyed(directory, found)
    progress = Progress(log, "log_replay", clock, sum(s.size for s in held))
    done = 0

    def on_entry(header: Header, payload: Payload, size: int) -> None:
        nonlocal done
        done += size
        replay.add(header, payload)
        progress.report(done)

    read = tail.read_tail(held, found.log_id, found.tables_commit, on_entry)
    if read.last < since:
        raise StartError(
            f"the log in {directory} ends at commit {read.last}, and went on to commit {since} at least: "
            f"files of it are missing. {LEFT}"
        )
    if replay.left <= at_once:
        put_all(connection, replay, log)
    return Start(checked, found, replay, read, lost)


def _surveyed(directory: Path, found: Meta) -> tuple[list[Segment], int, str]:
    """The segments of the log that goes with the database, and the commit that it reaches at least.

    Or why there are none, where they are not needed.
    """
    if directory.exists() and not directory.is_dir():
        raise StartError(f"{directory} is not a directory: the log is to be there, so move it away")
    survey = tail.survey(directory, found.log_id)
    newest = survey.held[-1].ordinal if survey.held else 0
    if found.log_id and survey.held:
        if survey.damage:
            raise StartError(survey.damage)
        if newest >= found.log_segment:
            return survey.held, survey.since, ""
        survey.foreign = f"{segments.path_of(directory, found.log_segment)} is not there"
    if found.needs_log:
        raise StartError(
            f"the log of this database is missing: {survey.foreign or f'there is none in {directory}'}, and the last "
            "commits are in it alone. Put it back there, or restore a backup"
        )
    return [], 0, survey.foreign or "none"


def put_all(connection: sqlite3.Connection, replay: Replay, log: Log) -> None:
    """Bring all entities of a replay up to date."""
    wanted = replay.wanted()
    for start in range(0, len(wanted), BASES):
        replay.put(LookUp(wanted[start : start + BASES], log).run(fetching(connection)))
