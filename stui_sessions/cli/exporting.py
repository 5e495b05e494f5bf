"""`stui-sessions export`: sessions as JSON lines, exactly as the server wrote them.

Exit codes: 0 for a success, 1 for an error reply or a file that cannot be written, 2 when it could not ask or
stdout took nothing more.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from msgspec import Raw, Struct

from stui_sessions.cli import files
from stui_sessions.cli.conversing import converse
from stui_sessions.cli.streams import OutputError
from stui_sessions.cli.target import Failed, Seconds, chosen_target, target_options
from stui_sessions.cli.words import counted
from stui_sessions.client import Client
from stui_sessions.domain.lifecycle import STATUS_NAMES

HELP = """Write sessions to FILE, one line of JSON for each; without FILE, or with -, to stdout.

\b
  stui-sessions export sessions.jsonl
  stui-sessions export --client-id me --status live | gzip > mine.jsonl.gz

Each line holds a whole session and a checksum; `import` reads them, on this server or another one. Without
filters that is every session, ended ones too. The sessions are read page by page while the server goes on: a
session that changes meanwhile may be there as it was or as it is, and one that changes its status twice or not
at all (`backup` makes a copy of one moment).

FILE is written beside its place and takes it when it is whole; a FILE that is there is replaced.

Exit code: 0 for a success, 1 for an error reply or a file that cannot be written, 2 when it could not ask or
stdout took nothing more."""

PAGE = 1000


class Page(Struct):
    """A page of an export whose rows are left as they came."""

    sessions: list[Raw]
    next_cursor: str | None


_decode_page = msgspec.json.Decoder(Page).decode


@click.command("export", help=HELP)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default="-", metavar="[FILE]")
@click.option("--client-id", metavar="ID", help="Only sessions of this client.")
@click.option("--user-id", metavar="ID", help="Only sessions of this user.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUS_NAMES),
    multiple=True,
    help="Only sessions of this status; may be given more than once.  [default: all]",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Only sessions with this tag; with all, if several.")
@click.option("--text", help="Only sessions with this in title or ids; needs --client-id or --user-id.")
@click.option(
    "--timeout", type=Seconds(), default=30.0, show_default=True, help="Seconds to wait for each of the replies."
)
@target_options
def export(
    file: Path,
    client_id: str | None,
    user_id: str | None,
    statuses: tuple[str, ...],
    tags: tuple[str, ...],
    text: str | None,
    timeout: float,
    host: str | None,
    port: int | None,
    unix: str | None,
) -> None:
    """Read page after page."""
    target = chosen_target(host, port, unix)
    words = {"client_id": client_id, "user_id": user_id, "tags": list(tags) or None, "text": text}
    filters = {name: value for name, value in words.items() if value is not None}
    wanted = [name for name in STATUS_NAMES if name in statuses or not statuses]

    def write(out: BinaryIO) -> int:
        return converse(target, timeout, lambda client: _export(client, filters, wanted, out))

    try:
        count = write(sys.stdout.buffer) if str(file) == "-" else _to_file(file, write)
    except OutputError:
        raise  # told as for every command
    except OSError as error:
        raise Failed(f"{file} cannot be written: {error.strerror or error}") from None
    click.echo(f"exported {counted(count, 'session')}", err=str(file) == "-")


def _to_file(file: Path, write: Callable[[BinaryIO], int]) -> int:
    if file.exists() and not file.is_file() and not file.is_dir():  # a device, a pipe: there is no place beside it
        with file.open("wb") as out:
            return write(out)
    with files.written_whole(file, force=True) as new, open(files.create(new), "wb") as out:
        return write(out)


async def _export(client: Client, filters: dict[str, Any], statuses: list[str], out: BinaryIO) -> int:
    """Write all sessions that are meant; how many there were."""
    count = 0
    with files.ProgressBar("export", None if filters else await _number_of(client, statuses)) as progress:
        for status in statuses:
            async with contextlib.aclosing(_pages(client, {**filters, "status": status, "limit": PAGE})) as pages:
                async for sessions in pages:
                    if sessions:
                        out.write(b"\n".join((*sessions, b"")))
                    count += len(sessions)
                    progress.reached(count)
        out.flush()
    return count


async def _pages(client: Client, words: dict[str, Any]) -> AsyncGenerator[list[Raw], None]:
    """The pages of one export; the server looks for the next one while this one is written."""
    reply = await client.call_raw("export_sessions", **words)
    while True:
        page = _decode_page(reply)
        if not page.next_cursor:
            yield page.sessions
            return
        more = asyncio.ensure_future(client.call_raw("export_sessions", **words, cursor=page.next_cursor))
        try:
            await asyncio.sleep(0)  # the request goes out
            yield page.sessions
            reply = await more
        finally:
            more.cancel()  # not needed where this page could not be written


async def _number_of(client: Client, statuses: list[str]) -> int:
    counts = (await client.get_session_statistics()).sessions_by_status
    return sum(getattr(counts, status) for status in statuses)
