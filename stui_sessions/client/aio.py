"""The asyncio client.

    async with connect() as client:
        session = await client.create_session("me")
        await client.update_session_state(session.session_id, {"cursor": 42})

Any number of calls can be in flight on one connection (`asyncio.gather`); they are sent, and decided by
the server, in the order in which they were called.
"""

import asyncio
import os
from collections.abc import Generator
from types import TracebackType
from typing import Any

from stui_sessions.client.arguments import DEFAULT, Default, Seconds
from stui_sessions.client.commands import Commands
from stui_sessions.client.connection import Connection
from stui_sessions.client.core import MAX_REPLY_BYTES, Reply
from stui_sessions.config import Address, find_server


class Client(Commands):
    """A connected client; made by `connect`.  Each command is a method, see `stui_sessions.client.commands`.

    Every call raises `ClientError` (see `stui_sessions.client.errors`), and TypeError or ValueError for
    arguments that JSON cannot say.  `reply_timeout` is in seconds, None waits for ever.
    """

    def __init__(self, connection: Connection, address: str, timeout: float | None) -> None:
        self._connection = connection
        self.address = address
        """`tcp://HOST:PORT` or `unix://PATH`."""
        self.timeout = timeout
        """Seconds that a call waits for its reply unless it says otherwise."""

    @property
    def closed(self) -> bool:
        """The connection has ended: every further call raises the reason."""
        return self._connection.closed

    async def close(self) -> None:
        """End the connection; calls in flight raise ConnectionLost.  May be called again."""
        await self._connection.close()

    async def call(self, command: str, /, *, reply_timeout: Seconds = DEFAULT, **parameters: Any) -> Any:
        """Any command with exactly these parameters; the result in the type of `results.RESULTS`."""
        return (await self._ask(command, parameters, reply_timeout)).typed_result(command)

    async def call_raw(self, command: str, /, *, reply_timeout: Seconds = DEFAULT, **parameters: Any) -> bytes:
        """The same; the result as the JSON text that the server wrote, for those who need numbers as they were.

        Among the parameters, `msgspec.Raw(b"…")` sends JSON text as it is.
        """
        return (await self._ask(command, parameters, reply_timeout)).raw_result()

    async def _ask(self, command: str, parameters: dict[str, Any], reply_timeout: Seconds) -> Reply:
        seconds = self.timeout if isinstance(reply_timeout, Default) else reply_timeout
        return await self._connection.ask(command, parameters, seconds)


class Connecting:
    """What `connect` returns: `async with` it, or `await` it and close the client yourself."""

    def __init__(self, server: Address, timeout: float | None, max_reply_bytes: int) -> None:
        self._server = server
        self._timeout = timeout
        self._max_reply_bytes = max_reply_bytes
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._client is not None
        await self._client.close()

    async def _connect(self) -> Client:
        loop = asyncio.get_running_loop()
        server, address = self._server, str(self._server)

        def make() -> Connection:
            return Connection(address, self._max_reply_bytes)

        async with asyncio.timeout(self._timeout):
            if server.unix:
                _, connection = await loop.create_unix_connection(make, server.unix)
            else:
                _, connection = await loop.create_connection(make, server.host, server.port)
        return Client(connection, address, self._timeout)


def connect(
    host: str | None = None,
    port: int | None = None,
    unix: str | os.PathLike[str] | None = None,
    timeout: float | None = 30.0,
    *,
    max_reply_bytes: int = MAX_REPLY_BYTES,
) -> Connecting:
    """Connect over TCP, or over the Unix socket at `unix`; what is not named is found as `find_server` does.

    `timeout` is in seconds (None: none) and holds for connecting and, unless it says otherwise, for each call.
    A reply of more than `max_reply_bytes` ends the connection.  Raises OSError when the server cannot be
    reached (TimeoutError is one), ValueError when environment or settings file name no address.
    """
    server = find_server(host, port, None if unix is None else os.fspath(unix))
    return Connecting(server, timeout, max_reply_bytes)
