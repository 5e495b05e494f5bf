"""Where clients find the server: one rule for `connect`, the commands of the command line and the examples."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from stui_sessions.config.settings import CONFIG_ENV, SETTINGS, SettingsError
from stui_sessions.config.sources import environment_file, read_table
from stui_sessions.config.values import Invalid, parse
from stui_sessions.errors import printable

NAMES = ("host", "port", "unix")

_REACHED_AT = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""A server that listens on all its addresses is asked on the one that every machine has."""


class Address(Struct, frozen=True):
    """The address of a server: a Unix socket if `unix` is set, TCP otherwise."""

    host: str = SETTINGS["host"].default
    port: int = SETTINGS["port"].default
    unix: str = ""

    def __str__(self) -> str:
        """`tcp://HOST:PORT` or `unix://PATH`."""
        if self.unix:
            return f"unix://{self.unix}"
        # An IPv6 address is full of colons: brackets, as in a URL.
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


def find_server(
    host: str | None = None,
    port: int | None = None,
    unix: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Address:
    """The server's address: arguments, else the environment, else the settings file, else the defaults.

    The environment is STUI_SESSIONS_HOST, _PORT and _UNIX; STUI_SESSIONS_CONFIG names the file.  Whichever of
    them is the first to name an address also decides between TCP and a Unix socket; one that names both may be
    the server's own, and the socket is taken.  The file is read only if something is still open.

    Raises SettingsError, which is a ValueError.
    """
    arguments = {"host": host, "port": port, "unix": unix}
    sources: tuple[Callable[[], dict[str, Any]], ...] = (
        lambda: {name: value for name, value in arguments.items() if value is not None},
        lambda: _from_environment(environ),
        lambda: _from_file(environ),
    )
    named: dict[str, Any] = {}
    for source in sources:
        values = source()
        if not named and values.get("unix"):
            return Address(unix=values["unix"])
        named = values | named
        if "host" in named and "port" in named:
            break
    named.pop("unix", None)
    if named.get("port") == 0:
        raise SettingsError("port 0 is a free one that only the server knows: name the port that it printed")
    return Address(**named)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ[SETTINGS[name].env] for name in NAMES if SETTINGS[name].env in environ}
    return {
        name: _checked(name, value, f"environment {SETTINGS[name].env}", text=True) for name, value in given.items()
    }


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the file says of the address; the rest of it is the server's business."""
    path = environment_file(environ)
    if path is None:
        return {}
    table = read_table(path, f" (from environment {CONFIG_ENV})")
    where = f"file {printable(str(path))}"
    return {name: _checked(name, table[name], f"{where}: {name}", text=False) for name in NAMES if name in table}


def _checked(name: str, value: object, label: str, *, text: bool) -> Any:
    try:
        checked: Any = parse(SETTINGS[name], value, text=text)
    except Invalid as problem:
        raise SettingsError(f"{label}: {problem}") from None
    return _REACHED_AT.get(checked, checked) if name == "host" else checked
