"""`stui-sessions backup`: a copy of the database of a server that goes on working.

Exit codes: 0 for a success, 1 when there is no good copy, 2 when it could not ask.
"""

import hashlib
import os
from base64 import b64decode
from pathlib import Path
from typing import BinaryIO

import click

from stui_sessions.cli import files
from stui_sessions.cli.conversing import converse
from stui_sessions.cli.database import NoLog, checked, refuse_same, refuse_url
from stui_sessions.cli.target import Failed, Seconds, chosen_target, target_options
from stui_sessions.cli.words import counted
from stui_sessions.client import Client
from stui_sessions.config import Address
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.files import beside, refuse_other_kinds
from stui_sessions.storage.local import backup as storage_backup
from stui_sessions.storage.lock import FileLock

HELP = """Copy the database of a running server to FILE, whole and as of one moment.

\b
  stui-sessions backup sessions.backup
  stui-sessions backup --db /var/lib/stui-sessions/sessions.db sessions.backup

Everything that was acknowledged before is in the copy; clients go on meanwhile. The server sends the copy over the
connection; with --db the command reads the database itself, whether a server has it open or not. The copy is
checked, each session in it too, before it takes its place. `restore` puts it back. A PostgreSQL that servers share is
backed up with its own tools: pg_basebackup, or pg_dump.

Exit code: 0 for a success, 1 when there is no good copy, 2 when it could not ask."""

INSTEAD = (
    "back it up with pg_basebackup and archived WAL (any moment can be restored), or with pg_dump (one moment); export"
    " asks a server for its sessions"
)

COPY_SECONDS = 3600.0
"""For the first part of the copy: it comes when all of it is made."""


@click.command("backup", help=HELP)
@click.argument("file", type=click.Path())
@click.option("--db", type=click.Path(), metavar="PATH", help="Read this database, and ask no server.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@click.option(
    "--timeout", type=Seconds(), default=30.0, show_default=True, help="Seconds to wait for each of the replies."
)
@target_options
def backup(
    file: str,
    db: str | None,
    force: bool,
    timeout: float,
    host: str | None,
    port: int | None,
    unix: str | None,
) -> None:
    """Copy, check, put in place."""
    refuse_url(db, INSTEAD)
    refuse_url(file, INSTEAD)
    if db is not None and any(flag is not None for flag in (host, port, unix)):
        raise click.UsageError("--db reads the database itself: leave out --host, --port and --unix")
    _backup(Path(file), None if db is None else Path(db), force, timeout, (host, port, unix))


def _backup(
    file: Path, db: Path | None, force: bool, timeout: float, target: tuple[str | None, int | None, str | None]
) -> None:
    try:
        if db is not None:
            refuse_same(db, file)
        _refuse_live(file)
        with files.written_whole(file, force=force) as new:
            if db is None:
                _fetch(chosen_target(*target), timeout, new)
            else:
                _copy(db, new)
            count = checked(new, file)
            size = new.stat().st_size
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror or error}") from None
    click.echo(f"{file}: {counted(count, 'session')}, {counted(size, 'byte')}")


def _refuse_live(file: Path) -> None:
    """Never put a copy in the place of a database that a server is using, whatever --force says."""
    if not file.is_file():
        return
    lock = FileLock(beside(file.resolve(), ".lock"))
    try:
        lock.acquire()
    except StartError:
        raise Failed(f"{file} is a database that a server is using: name another file") from None
    lock.release(remove=True)


def _copy(db: Path, new: Path) -> None:
    try:
        refuse_other_kinds(db)
        if not db.exists():
            raise Failed(f"{db} does not exist: name the database with --db")
        storage_backup.copy(db.resolve(), new, NoLog())
    except (StartError, StorageError) as error:
        raise Failed(f"{db}: {error}") from None


def _fetch(target: Address, seconds: float, new: Path) -> None:
    with open(files.create(new), "wb") as out:
        converse(target, seconds, lambda client: _receive(client, out))


async def _receive(client: Client, out: BinaryIO) -> None:
    """All parts of the copy that the server makes, and their checksum."""
    name = (await client.begin_backup()).backup_id
    digest = hashlib.sha256()
    with files.ProgressBar("backup") as progress:
        part = await client.read_backup(name, reply_timeout=COPY_SECONDS)
        while True:
            data = b64decode(part.data)
            digest.update(data)
            out.write(data)
            progress.reached(out.tell(), part.size)
            if part.next_offset is None:
                break
            if part.next_offset != out.tell():
                raise Failed("the server's copy came in parts that do not fit together; try again")
            part = await client.read_backup(name, offset=part.next_offset)
    if out.tell() != part.size or digest.hexdigest() != part.sha256:
        raise Failed("the copy was damaged on its way: its checksum is not that of the server; try again")
    out.flush()
    os.fsync(out.fileno())
