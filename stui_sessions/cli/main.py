"""The command group.  A subcommand's module is imported when it is run: `--help` and `call` stay quick."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from stui_sessions import __version__
from stui_sessions.cli.streams import standard_streams

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("stui_sessions.cli.serve:serve", "Run the session server."),
    "call": ("stui_sessions.cli.call:call", "Send one request and print the reply as JSON."),
    "backup": ("stui_sessions.cli.backup:backup", "Copy the database of a running server."),
    "restore": ("stui_sessions.cli.restore:restore", "Put a backup in the place of the database."),
    "move": ("stui_sessions.cli.move:move_", "Move everything to a PostgreSQL that servers share, or back."),
    "db": ("stui_sessions.cli.db:db", "Look after the tables of a PostgreSQL that servers share."),
    "export": ("stui_sessions.cli.exporting:export", "Write sessions as JSON lines."),
    "import": ("stui_sessions.cli.importing:import_", "Read sessions from JSON lines."),
    "bench": ("stui_sessions.cli.bench:bench", "Measure a running server."),
    "schema": ("stui_sessions.cli.schema:schema", "Print the protocol as JSON Schema or as reference."),
}
"""Each command: where it lives (`module:attribute`), and its line in the overview."""


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only when it is used."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run a command line; without `args` that of the process, whose streams are seen to first."""
        with standard_streams() if args is None else nullcontext():
            return super().main(args, *more, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.  What it does not understand may be the URL of a database, with a password."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            from stui_sessions.config.database import shown_url

            said = error.format_message()
            if shown_url(said) == said:
                raise
            raise click.UsageError(shown_url(said), error.ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would import every command for its first line.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        own = [CompletionItem(n, help=text) for n, (_, text) in self._lazy.items() if n.startswith(incomplete)]
        return own + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stui-sessions")
def main() -> None:
    """A durable session server for programs with a terminal or an editor in front."""
