"""Where settings come from: defaults < file < environment < flags.

Each source is checked whole and on its own, values that a later source overrides included: a mistake that
is hidden today would otherwise stop the server on the day the flag is taken away.
"""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from stui_sessions.config.database import has_password
from stui_sessions.config.settings import (
    CONFIG_ENV,
    ENV_PREFIX,
    MIB,
    SETTINGS,
    Settings,
    SettingsError,
    broken_rules,
)
from stui_sessions.config.values import Invalid, parse, shown
from stui_sessions.errors import printable, quote

LARGEST_FILE = MIB
"""Bytes; a longer file is no settings file, and is not read into memory to find that out."""

PASSWORD_IN_A_FLAG = (
    "--db: a password on the command line is shown to every user of the machine; expected a URL without one: give the"
    " password in PGPASSFILE or PGPASSWORD, or the whole URL in the environment variable STUI_SESSIONS_DB or in the"
    " settings file"
)


class Source(Struct):
    """What one source says, and what is wrong with it."""

    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None) -> Settings:
    """The settings in force.

    `flags` holds what was given on the command line (None: not given), by setting name; `config` is the file
    of `--config`, without which `STUI_SESSIONS_CONFIG` names it.

    Raises `SettingsError` with one line for each problem of every source; rules between settings are checked
    once each of them is right.
    """
    environment = _environment_source(environ)
    file = _file_source(config, environ)
    flagged = _source({k: v for k, v in flags.items() if v is not None}, _flag_label, _nearest_flag, text=True)
    if has_password(str(flagged.values.get("db", ""))):
        flagged.problems.append(PASSWORD_IN_A_FLAG)
    sources = (file, environment, flagged)
    values: dict[str, Any] = {}
    for source in sources:
        values.update(source.values)
    _refuse([problem for source in sources for problem in source.problems])
    if "max_timeout" in values and "open_timeout" not in values:
        # Otherwise a smaller `max_timeout` would be refused for a setting that was never given.
        values["open_timeout"] = min(SETTINGS["open_timeout"].default, values["max_timeout"])
    settings = Settings(**values)
    _refuse(broken_rules(settings))
    return settings


def reload_settings(
    current: Settings, flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None
) -> tuple[Settings, list[str]]:
    """`current` with what can change while running taken from a fresh load.

    Also returns the names that changed and need a restart.  Raises `SettingsError`; then nothing is to change.
    """
    fresh = load_settings(flags, environ, config)
    changed = [name for name in SETTINGS if getattr(fresh, name) != getattr(current, name)]
    applied = replace(current, **{name: getattr(fresh, name) for name in changed if SETTINGS[name].reload})
    # A rule may one day stand between a setting that is applied and one that is not.
    _refuse(broken_rules(applied))
    return applied, [name for name in changed if not SETTINGS[name].reload]


def _refuse(problems: list[str]) -> None:
    if problems:
        raise SettingsError("\n".join(problems))


def _source(
    raw: Mapping[str, object], label: Callable[[str], str], unknown: Callable[[str], str], *, text: bool
) -> Source:
    """`raw` checked value by value.  `label` names source and setting, `unknown` says what a wrong name may mean."""
    source = Source()
    for name, value in raw.items():
        setting = SETTINGS.get(name)
        if setting is None:
            source.problems.append(f"{label(name)}: there is no such setting{unknown(name)}")
            continue
        try:
            source.values[name] = parse(setting, value, text=text)
        except Invalid as problem:
            source.problems.append(f"{label(name)}: {problem}")
    return source


def _nearest(name: str) -> str:
    import difflib  # only after a mistake

    wanted = name[:100].lower().replace("-", "_")
    found = difflib.get_close_matches(wanted, SETTINGS, n=1)
    return found[0] if found else ""


# Flags.


def _flag_label(name: str) -> str:
    return SETTINGS[name].flag if name in SETTINGS else f"flag {quote(name)}"


def _nearest_flag(name: str) -> str:
    near = _nearest(name)
    return f"; did you mean {SETTINGS[near].flag}?" if near else "; see serve --help"


# Environment.


def _environment_source(environ: Mapping[str, str]) -> Source:
    """The variables that begin with the prefix, whatever their case; all others are not ours."""
    raw: dict[str, object] = {}
    for variable, value in environ.items():
        if variable.upper().startswith(ENV_PREFIX) and variable != CONFIG_ENV:
            suffix = variable[len(ENV_PREFIX) :]
            # Only capitals name a setting, so that one setting has one variable.
            raw[suffix.lower() if variable.isupper() else variable] = value
    return _source(raw, _environment_label, _nearest_variable, text=True)


def _environment_label(name: str) -> str:
    if name in SETTINGS:
        return f"environment {SETTINGS[name].env}"
    variable = name if name.upper().startswith(ENV_PREFIX) else ENV_PREFIX + name.upper()
    return f"environment {printable(variable[:100])}"


def _nearest_variable(name: str) -> str:
    suffix = name[len(ENV_PREFIX) :] if name.upper().startswith(ENV_PREFIX) else name
    near = _nearest(suffix)
    return f"; did you mean {SETTINGS[near].env}?" if near else "; see serve --help"


# File.


def _file_source(config: Path | None, environ: Mapping[str, str]) -> Source:
    try:
        path = environment_file(environ) if config is None else config.expanduser()
        if path is None:
            return Source()
        table = read_table(path, f" (from environment {CONFIG_ENV})" if config is None else "")
    except SettingsError as problem:
        return Source(problems=[str(problem)])
    return _table_source(table, _name(path))


def environment_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file that the environment names, if it does; raises SettingsError."""
    named = environ.get(CONFIG_ENV)
    if named == "":
        raise SettingsError(f"environment {CONFIG_ENV}: is empty; expected the path of a TOML file")
    return None if named is None else Path(named).expanduser()


def read_table(path: Path, origin: str) -> dict[str, object]:
    """What stands in the file, not checked any further; raises SettingsError, with `origin` behind the name."""
    import tomllib  # here: a client that needs no file loads this module too

    try:
        data = _regular_file(path)
        if data is None:
            raise SettingsError(f"{_name(path)}{origin}: is no regular file; expected a flat TOML file of settings")
        if len(data) > LARGEST_FILE:
            raise SettingsError(f"{_name(path)}{origin}: is longer than 1 MiB; expected a flat TOML file of settings")
        return tomllib.loads(data.decode())
    except SettingsError:
        raise
    except OSError as problem:
        raise SettingsError(f"{_name(path)}{origin}: cannot be read: {problem.strerror or problem}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{_name(path)}{origin}: is not UTF-8; expected a TOML file") from None
    except (ValueError, RecursionError) as problem:
        # ValueError beyond TOMLDecodeError: an integer of 5,000 digits, a NUL in the path.
        reason = printable(str(problem)[:200])
        raise SettingsError(f"{_name(path)}{origin}: is not valid TOML: {reason}") from None


def _name(path: Path) -> str:
    return f"file {printable(str(path))}"


def _regular_file(path: Path) -> bytes | None:
    """The file up to the largest that is taken and one byte; None if it is a pipe or a device.

    To read these, or to open a FIFO without a writer, could keep a running server waiting for ever.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        return file.read(LARGEST_FILE + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _table_source(table: Mapping[str, object], name: str) -> Source:
    def label(key: str) -> str:
        return f"{name}: {key if key in SETTINGS else quote(key)}"

    def unknown(key: str) -> str:
        near = _nearest(key)
        if near:
            return f"; did you mean {near}?"
        if isinstance(table[key], dict):
            return "; the file is flat: write the settings without tables"
        return f" (found {shown(table[key])}); see serve --help"

    return _source(table, label, unknown, text=False)
