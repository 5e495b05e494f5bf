"""`stui-sessions serve`: one option for each setting, made from `Settings`.

Exit codes: 0 after an orderly stop, 2 for wrong settings or usage, 1 for any other failure to start.
"""

import os
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from stui_sessions.config import (
    Setting,
    Settings,
    SettingsError,
    check_database_place,
    check_exposure,
    load_settings,
    reload_settings,
    settings_rows,
)
from stui_sessions.config.settings import CONFIG_ENV
from stui_sessions.errors import StartError, printable

HELP = """Run the session server.

It prints one line "listening ADDRESS" for each address on stdout when it is ready, and logs to stderr.
SIGTERM and SIGINT stop it; SIGHUP rereads the settings and applies those marked [reload].
"""
EPILOG = f"""Each setting is also an environment variable (STUI_SESSIONS_MAX_DEPTH) and a key (max_depth) of the flat
TOML file that --config or {CONFIG_ENV} names. Flags win over the environment, and the environment over
the file. Sizes are bytes, or a whole number with KiB, MiB, GiB or TiB. GLOBS are separated by commas."""

METAVARS = {"integer": "INTEGER", "size": "SIZE", "list": "GLOBS", "text": "TEXT"}


def option(setting: Setting) -> click.Option:
    """The flag of one setting.  It stays text: `load_settings` checks every source alike, and all at once."""
    notes = [f"default: {setting.default_text or 'empty'}"]
    notes += [setting.unit] if setting.unit and setting.kind != "size" else []
    notes += ["reload"] if setting.reload else []
    text = f"{setting.meaning.replace('`', '')}  [{'; '.join(notes)}]"
    if setting.kind == "switch":
        return click.Option([setting.flags, setting.name], default=None, help=text)
    place = "PATH|URL" if setting.url else "PATH"
    metavar = "|".join(setting.choices) or (place if setting.path else METAVARS[setting.kind])

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(choice) for choice in setting.choices if choice.startswith(incomplete)]

    return click.Option(
        [setting.flag, setting.name],
        type=click.Path() if setting.path else str,
        metavar=metavar,
        help=text,
        shell_complete=complete if setting.choices else None,
    )


def start(config: Path | None, **flags: object) -> None:
    """The command itself; ends the process with the server's exit code."""
    try:
        settings = load_settings(flags, os.environ, config)
        # Before anything is opened; `run` takes the addresses to bind from the same check.
        check_exposure(settings)
        check_database_place(settings, os.environ)
        code = _run(settings, config, flags)
    except StartError as problem:
        for line in str(problem).splitlines():
            click.echo(f"stui-sessions: {printable(line)}", err=True)
        code = 2 if isinstance(problem, SettingsError) else 1
    sys.exit(code)


def _run(settings: Settings, config: Path | None, flags: dict[str, object]) -> int:
    # Here, so that --help and refusals need not load the event loop, the store and the logs.
    from stui_sessions.app import run

    def reload() -> tuple[Settings, list[str]]:
        # Against the settings of the start: what needs a restart has not changed since, and the rest is replaced.
        return reload_settings(settings, flags, os.environ, config)

    return run(settings, reload)


CONFIG = click.Option(
    ["--config", "config"],
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A flat TOML file of settings.  [default: none]",
)

serve = click.Command(
    "serve",
    callback=start,
    params=[CONFIG, *(option(setting) for setting in settings_rows())],
    help=HELP,
    epilog=EPILOG,
)
