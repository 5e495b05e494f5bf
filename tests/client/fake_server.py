"""A server that does what the test says: it hands out the lines it gets and sends what it is told."""

import asyncio
import json
from types import TracebackType
from typing import Any, Self

NOW = "2025-08-30T10:30:00Z"


class FakeServer:
    """Serves one connection on a free port.  With `reading=False` it takes nothing until `read` is called."""

    def __init__(self, *, reading: bool = True, unix: str | None = None) -> None:
        self.port = 0
        self._unix = unix
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self._connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._go = asyncio.Event()
        if reading:
            self._go.set()

    async def __aenter__(self) -> Self:
        if self._unix is not None:
            self._server = await asyncio.start_unix_server(self._serve, self._unix, limit=1 << 24)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        if self._connected.done():
            self._connected.result().transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connected.set_result(writer)
        await self._go.wait()
        while line := await reader.readline():
            self._lines.put_nowait(line)

    def read(self) -> None:
        """From now on, read."""
        self._go.set()

    async def request(self) -> dict[str, Any]:
        """The next request."""
        async with asyncio.timeout(10):
            request = json.loads(await self._lines.get())
        assert isinstance(request, dict)
        return request

    @property
    def unread(self) -> int:
        """Requests that came and that the test has not asked for."""
        return self._lines.qsize()

    async def send(self, data: bytes) -> None:
        """Send exactly these bytes."""
        writer = await self._connected
        writer.write(data)
        await writer.drain()

    async def succeed(self, id: int, **result: Any) -> None:
        """A success reply."""
        reply = {"id": id, "status": "success", "result": result, "timestamp": NOW}
        await self.send(json.dumps(reply).encode() + b"\n")

    async def refuse(self, id: int | None, error_type: str, code: str, **details: Any) -> None:
        """An error reply."""
        await self.send(error_line(id, error_type, code, **details))

    async def hang_up(self) -> None:
        """Close the connection."""
        (await self._connected).close()


def error_line(id: int | None, error_type: str, code: str, **details: Any) -> bytes:
    reply = {
        "id": id,
        "status": "error",
        "error": f"because of {code}",
        "error_type": error_type,
        "error_code": code,
        "details": details,
        "timestamp": NOW,
    }
    return json.dumps(reply).encode() + b"\n"
