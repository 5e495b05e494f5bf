"""Which server the commands ask, and what they say when they cannot."""

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from msgspec import Struct

from stui_sessions.client.errors import ClientError

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


class Target(Struct, frozen=True):
    """The address of a server: a Unix socket if `unix` is set, TCP otherwise."""

    host: str
    port: int
    unix: str = ""

    def __str__(self) -> str:
        if self.unix:
            return f"unix://{self.unix}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    def connect(self, seconds: float) -> socket.socket:
        """A blocking socket with that time-out; raises Unable."""
        try:
            if not self.unix:
                return socket.create_connection((self.host, self.port), seconds)
            with contextlib.ExitStack() as undo:
                sock = undo.enter_context(socket.socket(socket.AF_UNIX))
                sock.settimeout(seconds)
                sock.connect(self.unix)
                undo.pop_all()
                return sock
        except (OSError, UnicodeError) as error:
            raise self.unreachable(error) from None

    def unreachable(self, error: Exception) -> Unable:
        """`error` came of connecting."""
        return Unable(f"cannot connect to {self}: {reason(error)}; is the server running there?")


def reason(error: BaseException) -> str:
    """What went wrong, for people."""
    if isinstance(error, ClientError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _address_option(name: str, meaning: str, **more: Any) -> Callable[[F], F]:
    variable = f"STUI_SESSIONS_{name.upper()}"
    return click.option(f"--{name}", envvar=variable, show_envvar=True, help=meaning, **more)


def target_options(function: F) -> F:
    """The options --host, --port and --unix; the command gets a `target`."""
    for option in (
        _address_option("unix", "The server's Unix socket.", type=click.Path()),
        _address_option(
            "port", "The server's TCP port.", type=click.IntRange(1, 65_535), default=7884, show_default=True
        ),
        _address_option("host", "The server's address.", default="127.0.0.1", show_default=True),
    ):
        function = option(function)
    return function


def chosen_target(context: click.Context, host: str, port: int, unix: str | None) -> Target:
    """What flags, or else the environment, or else the defaults say.

    The environment may name both a port and a socket, for it may be the server's own: the socket is taken then.
    """
    flags = {name for name in ("host", "port", "unix") if from_command_line(context, name)}
    if "unix" in flags and len(flags) > 1:
        raise click.UsageError("--unix is an address of its own: leave out --host and --port")
    if unix and not flags & {"host", "port"}:
        return Target(host, port, os.fspath(unix))
    return Target(host, port)


def from_command_line(context: click.Context, name: str) -> bool:
    """The option was given as a flag."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
