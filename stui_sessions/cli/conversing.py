"""A conversation with a running server: what `backup`, `export` and `import` need of a client."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from stui_sessions.cli.target import Failed, Unable, unreachable
from stui_sessions.client import Client, connect
from stui_sessions.client.errors import ClientError, SessionServerError
from stui_sessions.config import Address
from stui_sessions.loops import run_quickly

T = TypeVar("T")


def converse(target: Address, seconds: float, work: Callable[[Client], Awaitable[T]]) -> T:
    """Connect, do `work`, hang up.  Raises Failed for an error reply, Unable if the server cannot be asked."""
    try:
        return run_quickly(_converse(target, seconds, work))
    except SessionServerError as error:
        raise Failed(f"{target}: {error}") from None
    except ClientError as error:
        raise Unable(f"{target}: {error}") from None


async def _converse(target: Address, seconds: float, work: Callable[[Client], Awaitable[T]]) -> T:
    try:
        client = await connect(target.host, target.port, target.unix or None, seconds)
    except (OSError, UnicodeError) as error:
        raise unreachable(target, error) from None
    try:
        return await work(client)
    finally:
        await client.close()
