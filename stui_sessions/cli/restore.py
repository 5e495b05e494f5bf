"""`stui-sessions restore`: a backup in the place of the database, while no server has it open.

Exit codes: 0 for a success, 1 when the database was left as it was, 2 for wrong settings or usage.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import click

from stui_sessions.cli.database import NoLog, checked, refuse_same, refuse_url
from stui_sessions.cli.files import refuse_existing, written_whole
from stui_sessions.cli.target import Failed
from stui_sessions.cli.words import counted
from stui_sessions.config import SettingsError, check_database_place, database_path, load_settings
from stui_sessions.errors import StartError, StorageError, printable
from stui_sessions.storage import files
from stui_sessions.storage.border import is_damage
from stui_sessions.storage.local import backup, schema, segments
from stui_sessions.storage.lock import FileLock

HELP = """Put the backup FILE in the place of the database. The server that uses it must be stopped.

\b
  stui-sessions restore sessions.backup
  stui-sessions restore --db /var/lib/stui-sessions/sessions.db --force sessions.backup

FILE is checked first, each session in it too. A database that is there is left as it is without --force. It is
replaced in one step: whatever happens meanwhile, either the old one is there or the new one. A copy of a stopped
server's database file can be restored too; keep its -wal file and its .log directory, if there are any, beside it.
A PostgreSQL that servers share is restored with its own tools.

Exit code: 0 for a success, 1 when the database was left as it was, 2 for wrong settings or usage."""

INSTEAD = (
    "restore what pg_dump wrote with pg_restore, and what pg_basebackup wrote as PostgreSQL's manual says (with"
    " archived WAL: to any moment, PITR); import takes what export wrote"
)


@click.command("restore", help=HELP)
@click.argument("file", type=click.Path())
@click.option(
    "--db",
    type=click.Path(),
    metavar="PATH",
    help="The database, found as `serve` finds it.  [default: what the settings say]",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="PATH", help="The settings file of the server.")
@click.option("--force", is_flag=True, help="Overwrite the database if it exists.")
def restore(file: str, db: str | None, config: Path | None, force: bool) -> None:
    """Check, copy, put in place."""
    refuse_url(file, INSTEAD)
    refuse_url(db, INSTEAD)
    _put(Path(file), _database(db, config), force)


def _put(file: Path, named: Path, force: bool) -> None:
    path = named.resolve()  # as the server does, or the lock would be another one
    if not file.exists():
        raise Failed(f"{file} does not exist: name a backup")
    refuse_same(path, file)
    try:
        files.refuse_other_kinds(file)
        files.refuse_other_kinds(path)
        files.make_parents(path)
        lock = FileLock(files.beside(path, ".lock"))
        lock.acquire()
        try:
            count = _restore(file, path, force)
        finally:
            lock.release(remove=True)
    except (StartError, StorageError) as error:
        raise Failed(str(error)) from None
    except (OSError, sqlite3.Error) as error:
        raise Failed(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    click.echo(f"{named}: {counted(count, 'session')}")


def _database(db: str | None, config: Path | None) -> Path:
    try:
        settings = load_settings({"db": db}, os.environ, config)
        refuse_url(settings.db, INSTEAD)
        check_database_place(settings, os.environ)
        path = database_path(settings, os.environ)
    except SettingsError as problem:
        raise click.UsageError(printable(str(problem))) from None
    if path is None:
        raise click.UsageError("the settings say :memory:, which keeps nothing: name a database with --db")
    return path


def _restore(file: Path, path: Path, force: bool) -> int:
    """The lock is held; how many sessions there are now."""
    refuse_existing(path, force)
    if not force and not path.exists():
        files.refuse_orphan_wal(path)
    with written_whole(path, force=force) as new:
        try:
            backup.copy(file.resolve(), new, NoLog())
        except (StartError, StorageError) as error:
            raise Failed(f"{file} is no good backup: {error}") from None
        count = checked(new, file)
        _merge_log(path)
    # The server's own log, too, is of use with the old database alone.  It cannot meet the new
    # one, which has another identity, so it may stay until the step is done.
    segments.remove_all(segments.directory_of(path))
    return count


def _merge_log(path: Path) -> None:
    """Have all of the old database in its one file, so that the new one can take its place in one step.

    A write-ahead log that stays must not meet the new database: SQLite would put its
    pages in there.  Removed before the step, it would be missing from the old one if
    nothing came of the step.  So it is merged into the old database first: until the
    step that one is whole, and after it nothing is beside the new one.  Only of a
    database that is damaged, and so of no use with or without them, are the log and
    the journal removed.
    """
    if path.exists():
        try:
            with closing(schema.connect(path, "rw")) as connection:
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
            if busy or mode != "delete":
                raise Failed(f"{path} is open in another program: end that first")
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
    for suffix in ("-wal", "-shm", "-journal"):
        files.beside(path, suffix).unlink(missing_ok=True)
    files.sync_directory(path.parent)
