"""`stui-sessions schema`: the protocol as JSON Schema, or as the reference part of protocol.md."""

from pathlib import Path

import click
import msgspec

from stui_sessions.protocol.reference import reference, write_reference
from stui_sessions.protocol.schema import contract

HELP = """Print the protocol as one JSON Schema document (draft 2020-12): commands, results, envelope, error codes.

All of it is made from the server's own table of commands; a message of either side is valid against it."""


@click.command(help=HELP, short_help="Print the protocol as JSON Schema or as reference.")
@click.option("--markdown", is_flag=True, help="Print the reference part of protocol.md instead.")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Write the reference into this file, between its two markers, and print nothing.",
)
def schema(markdown: bool, write: Path | None) -> None:
    """Make and print it."""
    if write is not None:
        try:
            write.write_text(write_reference(write.read_text("utf-8")), "utf-8")
        except ValueError as error:
            raise click.UsageError(f"{write}: {error}") from None
    elif markdown:
        click.echo(reference(), nl=False)
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(contract()), indent=2))
