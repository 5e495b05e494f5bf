"""Which server the commands ask, and what they say when they cannot."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from stui_sessions.client.errors import ClientError
from stui_sessions.config import SETTINGS, Address, SettingsError, find_server
from stui_sessions.errors import printable

F = TypeVar("F", bound=Callable[..., Any])


class Failed(click.ClickException):
    """It did not succeed: exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"stui-sessions: {self.message}", err=True)


class Unable(Failed):
    """It could not ask: exit code 2, as for bad usage."""

    exit_code = 2


class Seconds(click.FloatRange):
    """A duration: more than 0 and at most a day (`nan` is neither)."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True, max=86_400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail("nan is no duration", param, ctx)
        return seconds


def connected(server: Address, seconds: float) -> socket.socket:
    """A blocking socket with that time-out; raises Unable."""
    try:
        if not server.unix:
            return socket.create_connection((server.host, server.port), seconds)
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(seconds)
            sock.connect(server.unix)
            undo.pop_all()
            return sock
    except (OSError, UnicodeError) as error:
        raise unreachable(server, error) from None


def unreachable(server: Address, error: Exception) -> Unable:
    """`error` came of connecting."""
    return Unable(f"cannot connect to {server}: {reason(error)}; is the server running there?")


def reason(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, ClientError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _address_option(name: str, meaning: str, default: str, **more: Any) -> Callable[[F], F]:
    text = f"{meaning}  [default: {SETTINGS[name].env}, else the settings file, else {default}]"
    return click.option(f"--{name}", help=text, **more)


def target_options(function: F) -> F:
    """The options --host, --port and --unix; the command gives them to `chosen_target`."""
    for option in (
        _address_option("unix", "The server's Unix socket.", "none", type=click.Path()),
        _address_option("port", "The server's TCP port.", "7884", type=click.IntRange(1, 65_535)),
        _address_option("host", "The server's address.", "127.0.0.1"),
    ):
        function = option(function)
    return function


def chosen_target(host: str | None, port: int | None, unix: str | None) -> Address:
    """The server that the flags mean; what they leave open is found as `find_server` does."""
    if unix is not None and (host is not None or port is not None):
        raise click.UsageError("--unix is an address of its own: leave out --host and --port")
    try:
        return find_server(host, port, unix)
    except SettingsError as problem:
        raise click.UsageError(printable(str(problem))) from None
