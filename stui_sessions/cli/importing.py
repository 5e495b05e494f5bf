"""`stui-sessions import`: sessions from JSON lines as `export` wrote them.

Exit codes: 0 when all went well, 1 when there were errors, 2 when it could not ask.
"""

import asyncio
import io
import os
import stat
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import click
import msgspec
from msgspec import Raw, Struct

from stui_sessions.cli.conversing import converse
from stui_sessions.cli.files import ProgressBar
from stui_sessions.cli.target import Failed, Seconds, Unable, chosen_target, target_options
from stui_sessions.cli.words import counted
from stui_sessions.client import Client
from stui_sessions.client.errors import ServerRuntimeError, SessionServerError
from stui_sessions.client.results import ImportResult
from stui_sessions.protocol.records import ExportRow

HELP = """Read sessions from FILE, as `export` wrote them; without FILE, or with -, from stdin.

\b
  stui-sessions import sessions.jsonl
  zcat mine.jsonl.gz | stui-sessions import --on-conflict skip

Every session is as it was, its id, its times and its end included. Neither the limits of clients and users hold
for it nor the rate of creation. A line that cannot be taken is told on stderr with its number, and the others are
taken; with --strict, the first one ends the import, and nothing behind it is taken. That takes longer: the lines
go to the server one by one.

Exit code: 0 when all went well, 1 when there were errors, 2 when it could not ask."""

CONFLICT_HELP = """What happens to a session whose id is taken. error: it is an error. skip: nothing. replace: it takes
the place of the one that is there. new: it gets another id."""

BATCH_BYTES = 224 * 1024
"""Many rows share a commit, and yet a server's core has room for all that it makes of them in its cache."""
BATCH_ROWS = 1000
IN_FLIGHT = 4
"""Batches that the server may have at once.  All on one connection: sessions are made in the order of the lines."""

BACKUP_BEGINS = b"SQLite format 3\0"

LONGEST_LINE = 64 * 1024 * 1024
TOLD = 20
"""Errors that are told one by one."""

_decode_row = msgspec.json.Decoder(ExportRow).decode


class Line(Struct):
    """A line of the file: a row to send, or what is wrong with it."""

    number: int
    row: bytes
    error: str = ""


class ImportCounts(Struct):
    """What has come of the lines so far."""

    imported: int = 0
    renamed: int = 0
    replaced: int = 0
    skipped: int = 0
    errors: int = 0

    def add(self, result: ImportResult) -> None:
        self.imported += result.created
        self.renamed += len(result.renamed)
        self.replaced += result.replaced
        self.skipped += result.skipped

    def tell(self, number: int, text: str) -> None:
        """An error, unless there were many already."""
        self.errors += 1
        if self.errors <= TOLD:
            click.echo(f"line {number}: {text}", err=True)

    def conclude(self) -> None:
        """The summary."""
        if self.errors > TOLD:
            click.echo(f"and {self.errors - TOLD:,} more", err=True)
        click.echo(str(self))

    def __str__(self) -> str:
        new_ids = f" ({self.renamed:,} with new ids)" if self.renamed else ""
        counts = f"imported {self.imported:,}{new_ids}, replaced {self.replaced:,}, skipped {self.skipped:,}"
        return f"{counts}, {counted(self.errors, 'error')}"


class StoppedAtError(Exception):
    """No more is to be imported."""


@click.command("import", help=HELP)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-", metavar="[FILE]")
@click.option(
    "--on-conflict",
    type=click.Choice(("error", "skip", "replace", "new")),
    default="error",
    show_default=True,
    help=CONFLICT_HELP,
)
@click.option("--strict", is_flag=True, help="Stop at the first error; what comes before it stays imported.")
@click.option(
    "--timeout", type=Seconds(), default=30.0, show_default=True, help="Seconds to wait for each of the replies."
)
@target_options
@click.pass_context
def import_(
    context: click.Context,
    file: Path,
    on_conflict: str,
    strict: bool,
    timeout: float,
    host: str | None,
    port: int | None,
    unix: str | None,
) -> None:
    """Send batch after batch."""
    target = chosen_target(host, port, unix)
    source = _opened(file)
    counts = ImportCounts()
    begun: list[Import] = []

    async def work(client: Client) -> str:
        begun.append(Import(client, source, on_conflict, strict, counts))
        return await begun[0].run()

    try:
        with source:
            stopped = converse(target, timeout, work)
    except BaseException:
        if begun:
            counts.conclude()
            click.echo(f"what came of the lines after {begun[0].done:,} is not known", err=True)
        raise
    counts.conclude()
    if stopped:
        raise Failed(stopped)
    context.exit(1 if counts.errors else 0)


def _opened(file: Path) -> BinaryIO:
    """The file, once it is sure that it can be read and that it is no backup."""
    try:
        source = io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer) if str(file) == "-" else io.FileIO(file))
        begins = source.peek(len(BACKUP_BEGINS))
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from None
    if begins.startswith(BACKUP_BEGINS):
        source.close()
        name = "FILE" if str(file) == "-" else file
        raise Unable(f"{file} is a backup, not an export: use `stui-sessions restore {name}`")
    return source


class Import:
    """One import: batches go out in the order of the lines, several at a time."""

    def __init__(self, client: Client, source: BinaryIO, on_conflict: str, strict: bool, counts: ImportCounts) -> None:
        self._client = client
        self._source = source
        self._on_conflict = on_conflict
        self._strict = strict
        # What is sent together is decided together: nothing may stand behind a line that is perhaps refused.
        self._batch_rows = 1 if strict else BATCH_ROWS
        self._in_flight = 1 if strict else IN_FLIGHT
        self._counts = counts
        self._sent: deque[tuple[list[Line], asyncio.Task[None]]] = deque()
        self._read = 0
        self.done = 0
        """The line up to which it is known what came of all."""

    async def run(self) -> str:
        """Import everything; why it stopped before the end, or ""."""
        try:
            with ProgressBar("import", _size(self._source)) as progress:
                for batch in self._batches():
                    await self._room(self._in_flight, progress)
                    self._sent.append((batch, asyncio.ensure_future(self._send(batch))))
                await self._room(1, progress)
        except StoppedAtError as stopped:
            return str(stopped)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            return f"the file cannot be read any further: {error.strerror}"
        finally:
            for _, task in self._sent:
                task.cancel()
        return ""

    async def _room(self, most: int, progress: ProgressBar) -> None:
        """Wait until fewer than `most` batches are under way, and tell what came of the others, in their order."""
        await asyncio.sleep(0)  # what was begun goes out
        while len(self._sent) >= most or (self._sent and self._sent[0][1].done()):
            batch, task = self._sent[0]
            await task
            self._sent.popleft()
            for line in batch:
                if line.error:
                    self._counts.tell(line.number, line.error)
            self.done = batch[-1].number
            self._read += sum(len(line.row) + 1 for line in batch)
            progress.reached(self._read)
            if self._strict and self._counts.errors:
                raise StoppedAtError(
                    f"stopped at an error: the lines up to {self.done:,} are imported but for those told"
                )

    def _batches(self) -> Iterator[list[Line]]:
        """All lines in pieces that are not too large."""
        batch: list[Line] = []
        size = 0
        for line in _lines(self._source):
            if batch and (len(batch) == self._batch_rows or size + len(line.row) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line.row)
        if batch:
            yield batch

    async def _send(self, batch: list[Line]) -> None:
        """Import the rows of a batch; what is wrong with one is noted there."""
        lines = [line for line in batch if not line.error]
        if not lines:
            return
        sessions = Raw(b"[" + b",".join([line.row for line in lines]) + b"]")
        try:
            result = await self._client.call("import_sessions", sessions=sessions, on_conflict=self._on_conflict)
        except ServerRuntimeError:
            raise
        except (SessionServerError, ValueError) as refused:  # ValueError: half a surrogate pair cannot even be sent
            await self._send_halves(lines, refused)
            return
        self._counts.add(result)
        for failure in result.errors:
            lines[failure.row].error = f"{failure.error} [{failure.error_code}]"

    async def _send_halves(self, lines: list[Line], refused: Exception) -> None:
        """One of the rows is such that the whole request was refused: find it."""
        if len(lines) == 1:
            lines[0].error = str(refused)
            return
        middle = len(lines) // 2
        await self._send(lines[:middle])
        await self._send(lines[middle:])


def _lines(source: BinaryIO) -> Iterator[Line]:
    """The lines that are not blank.  None is ever held that is longer than any session."""
    number = 0
    while text := source.readline(LONGEST_LINE + 1):
        number += 1
        if len(text) > LONGEST_LINE and not text.endswith(b"\n"):
            while text and not text.endswith(b"\n"):
                text = source.readline(1024 * 1024)
            yield Line(number, b"", f"longer than {LONGEST_LINE} bytes; no session is")
        elif row := text.strip():
            yield Line(number, row, _fault(row))


def _fault(row: bytes) -> str:
    """What is wrong with a row that the server could not even tell from others, or ""."""
    try:
        row.decode()
        _decode_row(row)
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1})"
    except (msgspec.MsgspecError, RecursionError) as error:
        return f"no row of an export: {error}"
    return ""


def _size(source: BinaryIO) -> int | None:
    """Bytes of a regular file."""
    try:
        found = os.fstat(source.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
