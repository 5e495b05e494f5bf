"""`stui-sessions db`: the tables of the shared store, in a PostgreSQL.

Exit codes: 0 for a success, 1 when it failed or `check` found a problem, 2 for wrong settings or usage.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from stui_sessions.cli.target import Failed
from stui_sessions.config import SETTINGS, Settings, SettingsError, is_url, load_settings
from stui_sessions.errors import StartError, StorageError, printable

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

HELP = """Make the tables of a store that several servers share, in a PostgreSQL, and look after them.

\b
  export PGPASSFILE=~/.pgpass-sessions
  stui-sessions db init --db postgresql://stui_sessions@db1,db2/sessions
  stui-sessions db check --db postgresql://stui_sessions@db1,db2/sessions

The database, its schema and its password are found as `serve` finds them. A password in a URL is taken from the
environment variable STUI_SESSIONS_DB or the settings file, not from the command line.

Exit code: 0 for a success, 1 when it failed or something is wrong, 2 for wrong settings or usage."""


def _options(function: F) -> F:
    """Which database; the command gives them to `_settings`."""
    for option in (
        click.option(
            "--config", type=click.Path(path_type=Path), metavar="PATH", help="The settings file of the servers."
        ),
        click.option(
            "--db-schema",
            metavar="NAME",
            help=f"The schema of its tables.  [default: what the settings say, else {SETTINGS['db_schema'].default}]",
        ),
        click.option("--db", metavar="URL", help="The database, as postgresql://….  [default: what the settings say]"),
    ):
        function = option(function)
    return function


def _settings(db: str | None, db_schema: str | None, config: Path | None) -> Settings:
    try:
        settings = load_settings({"db": db, "db_schema": db_schema}, os.environ, config)
    except SettingsError as problem:
        raise click.UsageError("; ".join(printable(line) for line in str(problem).splitlines())) from None
    if not is_url(settings.db):
        raise click.UsageError(
            "db is a file, whose tables `serve` makes: name a database with --db postgresql://USER@HOST/NAME"
        )
    return settings


def _done(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except (StartError, StorageError) as error:
        raise Failed(printable(str(error))) from None


@click.group("db", help=HELP)
def db() -> None:
    """The group; its commands load the driver only when they are run."""


@db.command("init", short_help="Make the tables.")
@_options
def init(db: str | None, db_schema: str | None, config: Path | None) -> None:
    """Make the tables, all or none. Where they are there already nothing is changed, and the exit code is 0.

    The role that does it owns them, and must be the one that the servers connect as. It needs a schema of its own,
    or the right to make one.
    """
    from stui_sessions.storage.postgres import admin

    settings = _settings(db, db_schema, config)
    made = _done(admin.init(settings.db, settings.db_schema))
    what = "tables made" if made else "the tables are there already"
    click.echo(f"schema {settings.db_schema}: {what}")


@db.command("upgrade", short_help="Bring the tables up to the version of this program.")
@_options
def upgrade(db: str | None, db_schema: str | None, config: Path | None) -> None:
    """Bring the tables up to the version of this program. Where they have it already nothing is changed."""
    from stui_sessions.storage.postgres import admin

    settings = _settings(db, db_schema, config)
    old, new = _done(admin.upgrade(settings.db, settings.db_schema))
    what = f"tables of version {new}, nothing to do" if old == new else f"tables brought from version {old} to {new}"
    click.echo(f"schema {settings.db_schema}: {what}")


@db.command("check", short_help="Say what the database is like, and what is wrong with it.")
@_options
def check(db: str | None, db_schema: str | None, config: Path | None) -> None:
    """Say what the database is like, what its settings promise, and what is missing. Nothing is changed.

    What must be corrected is told in lines that begin with "problem: ", and makes the exit code 1.
    """
    from stui_sessions.storage.postgres import admin

    settings = _settings(db, db_schema, config)
    lines = _done(admin.check(settings.db, settings.db_schema))
    for line in lines:
        click.echo(printable(line))
    if any(line.startswith(admin.PROBLEM) for line in lines):
        raise click.exceptions.Exit(1)
