"""`stui-sessions move`: everything from a database file to a PostgreSQL, or back.

Exit codes: 0 for a success, 1 when the target is not complete, 2 for wrong settings or usage.
"""

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import click

from stui_sessions.cli.database import NoLog
from stui_sessions.cli.files import ProgressBar
from stui_sessions.cli.target import Failed
from stui_sessions.cli.words import counted
from stui_sessions.config import SETTINGS, Settings, SettingsError, check_database_place, is_url, load_settings
from stui_sessions.config.database import has_password, shown_url
from stui_sessions.errors import StartError, StorageError, printable
from stui_sessions.storage.moving.content import Source, Target
from stui_sessions.storage.moving.filling import SharedTarget
from stui_sessions.storage.moving.local import LocalSource
from stui_sessions.storage.moving.making import LocalTarget
from stui_sessions.storage.moving.shared import SharedSource
from stui_sessions.storage.moving.work import Moved, move

HELP = """Move everything from a database file to a PostgreSQL that servers share, or back.

\b
  stui-sessions db init --db postgresql://stui_sessions@db1,db2/sessions
  stui-sessions move --from sessions.db --to postgresql://stui_sessions@db1,db2/sessions
  stui-sessions move --from postgresql://stui_sessions@db1,db2/sessions --to sessions.db

All servers of both must be stopped. Sessions of every status are moved with their ids, versions, times and state,
and the history as far as it is kept. The tables of a PostgreSQL must be there and empty; a file must not be there
yet. Both sides are compared in the end, and no server can use the new one before that. It is left as it is where
something is found wrong, and so is the old one in any case. A move that was cut off goes on when it is run again.

Exit code: 0 for a success, 1 when the move is not complete, 2 for wrong settings or usage."""

PASSWORD = (
    "a password on the command line is shown to every user of the machine; expected a URL without one: give the"
    " password in PGPASSFILE or PGPASSWORD"
)


class Bars:
    """One progress bar after the other."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._label = ""
        self._bar: ProgressBar | None = None

    def report(self, label: str, done: int, total: int) -> None:
        """So much is done of what `label` says."""
        if self._bar is None or label != self._label:
            self.close()
            self._label, self._bar = label, self._stack.enter_context(ProgressBar(label))
        self._bar.reached(min(done, total), total)

    def close(self) -> None:
        self._stack.close()


@click.command("move", help=HELP)
@click.option("--from", "source", required=True, metavar="PATH|URL", help="The database that is moved.")
@click.option("--to", "target", required=True, metavar="PATH|URL", help="The database that is made.")
@click.option(
    "--db-schema",
    metavar="NAME",
    help=f"The schema of the PostgreSQL.  [default: what the settings say, else {SETTINGS['db_schema'].default}]",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="PATH", help="The settings file of the servers.")
def move_(source: str, target: str, db_schema: str | None, config: Path | None) -> None:
    """Copy, compare, say what is left to do."""
    if is_url(source) == is_url(target):
        raise click.UsageError("one of --from and --to must be a file, and the other one a postgresql:// URL")
    from_settings = _settings("--from", source, db_schema, config)
    to_settings = _settings("--to", target, db_schema, config)
    moved = _moved(_source(from_settings), _target(to_settings))
    _tell(moved, from_settings, to_settings)


def _settings(flag: str, db: str, db_schema: str | None, config: Path | None) -> Settings:
    if has_password(db):
        raise click.UsageError(f"{flag}: {PASSWORD}")
    try:
        settings = load_settings({"db": db, "db_schema": db_schema}, os.environ, config)
        check_database_place(settings, os.environ)
    except SettingsError as problem:
        lines = (line.replace("--db: ", f"{flag}: ", 1) for line in str(problem).splitlines())
        raise click.UsageError("; ".join(map(printable, lines))) from None
    if settings.db in ("", ":memory:"):
        raise click.UsageError(f"{flag}: {db or 'an empty name'} keeps nothing: name a file")
    return settings


def _source(s: Settings) -> Source:
    if is_url(s.db):
        return SharedSource(s.db, s.db_schema, shown_url(s.db))
    return LocalSource(Path(s.db).resolve(), s.db, NoLog())


def _target(s: Settings) -> Target:
    if is_url(s.db):
        return SharedTarget(s.db, s.db_schema, shown_url(s.db), s.allow_unsafe_database)
    return LocalTarget(Path(s.db).resolve(), s.db, NoLog())


def _moved(source: Source, target: Target) -> Moved:
    bars = Bars()
    try:
        return asyncio.run(move(source, target, bars.report))
    except (StartError, StorageError) as error:
        raise Failed(printable(" ".join(str(error).split()))) from None
    except OSError as error:
        raise Failed(f"the move failed: {error.strerror or error}") from None
    finally:
        bars.close()


def _tell(moved: Moved, source: Settings, target: Settings) -> None:
    found = moved.contents
    what = ", ".join(
        (
            counted(found.sessions.rows, "session"),
            f"{found.entities.rows:,} owners and external ids",
            f"{counted(found.records.rows, 'record')} of the history",
        )
    )
    said = "there already" if moved.was_there else "moved"
    new = shown_url(target.db) + (f" --db-schema {target.db_schema}" if is_url(target.db) else "")
    click.echo(f"{said}: {what}; counts and checksums are the same on both sides")
    click.echo(f"{shown_url(source.db)} is left as it is. What is left to do: start the servers with --db {new}")
