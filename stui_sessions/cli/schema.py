"""`stui-sessions schema`: the protocol as JSON Schema, as the reference in protocol.md, as client code, or locked."""

from pathlib import Path

import click
import msgspec

from stui_sessions import client as client_package
from stui_sessions import protocol
from stui_sessions.commands import REGISTRY
from stui_sessions.commands.stubs import methods, results
from stui_sessions.protocol.definitions import Schema
from stui_sessions.protocol.lock import changes, check, fits
from stui_sessions.protocol.reference import reference, write_reference
from stui_sessions.protocol.schema import contract

HELP = """Print the protocol as one JSON Schema document (draft 2020-12): commands, results, envelope, error codes.

All of it is made from the server's own registry of commands; a message of either side is valid against it."""

LOCK_HELP = """Compare with the locked copy in the package (protocol/contract.json), and write the copy anew if
protocol_version fits what has changed; else tell each change and the version that would be right."""

UNRELEASED_HELP = """With --lock: write the copy whatever has changed. For a version that has not been released: no
client was written for it, so it may still change under its number."""

CLIENT_HELP = """Write the client's methods and result types (client/commands.py, client/results.py) into the package
anew."""

LOCKED = Path(protocol.__file__).with_name("contract.json")
CLIENT = Path(client_package.__file__).parent


@click.command(help=HELP)
@click.option("--markdown", is_flag=True, help="Print the reference part of protocol.md instead.")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Write the reference into this file, between its two markers, and print nothing.",
)
@click.option("--client", is_flag=True, help=CLIENT_HELP)
@click.option("--lock", is_flag=True, help=LOCK_HELP)
@click.option("--unreleased", is_flag=True, help=UNRELEASED_HELP)
def schema(markdown: bool, write: Path | None, client: bool, lock: bool, unreleased: bool) -> None:
    """Make and print it."""
    if unreleased and not lock:
        raise click.UsageError("--unreleased says how to --lock, and means nothing without it")
    if (lock or client) and (markdown or write or (lock and client)):
        raise click.UsageError("--lock, --client and --markdown or --write are three things, to be done one at a time")
    if client:
        write_client(CLIENT)
    elif lock:
        write_lock(LOCKED, unreleased)
    elif write is not None:
        try:
            write.write_text(write_reference(REGISTRY, write.read_text("utf-8")), "utf-8")
        except ValueError as error:
            raise click.UsageError(f"{write}: {error}") from None
    elif markdown:
        click.echo(reference(REGISTRY), nl=False)
    else:
        click.echo(pretty(contract(REGISTRY)))


def write_client(directory: Path) -> None:
    """Write the generated files of the client; raises ClickException."""
    for name, text in (("commands.py", methods(REGISTRY)), ("results.py", results(REGISTRY))):
        try:
            (directory / name).write_text(text, "utf-8")
        except OSError as error:
            raise click.ClickException(f"cannot write {directory / name}: {error.strerror}") from None
        click.echo(f"{directory / name} is written")


def write_lock(path: Path, unreleased: bool) -> None:
    """Write the locked copy; raises ClickException where the version does not fit what has changed."""
    current = contract(REGISTRY)
    if path.exists() and not unreleased:
        locked = read_lock(path)
        if not fits(locked, current):
            raise click.ClickException("\n  ".join(["the contract is not locked:", *check(locked, current)]))
        for change in changes(locked, current):
            click.echo(change)
    try:
        path.write_text(pretty(current) + "\n", "utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"{path} is written: {current['protocol_version']}")


def read_lock(path: Path) -> Schema:
    """The locked copy; raises ClickException if it cannot be read."""
    try:
        locked: Schema = msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise click.ClickException(f"cannot read {path}: {error}; take it from the repository again") from None
    return locked


def pretty(document: Schema) -> str:
    """`document` as text for people and for diffs."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
