"""Hints between servers: which entities have just been changed.

Sent after commits, from a connection of its own, many at once.  Nothing waits for a
hint and nothing depends on one: it spares a decision on what is stale, which its
commit would find out anyway.  Behind a pooler, which cannot listen, there are none.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec

from stui_sessions.domain.entities import Key
from stui_sessions.storage.border import Log
from stui_sessions.storage.postgres.channel import Channel
from stui_sessions.storage.postgres.connection import translate

PAUSE_SECONDS = 0.02
"""For so long hints are gathered before they are sent."""

RETRY_SECONDS = 5.0

ALIVE_SECONDS = 10.0
"""Between two looks whether the connection is still there."""

PAYLOAD_BYTES = 7000
"""PostgreSQL takes less than 8,000."""

KEPT_KEYS = 10_000
"""Hints that wait at most; of more that come while the database is away, the oldest are forgotten."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, list[Key]]).decode


def payloads(sender: str, keys: Iterable[Key]) -> list[str]:
    """Keys in as many payloads as it takes."""
    found: list[str] = []
    some: list[Key] = []
    size = 0
    for key in keys:
        length = len(_encode(key)) + 1
        if size + length > PAYLOAD_BYTES and some:
            found.append(_encode((sender, some)).decode())
            some, size = [], 0
        if length <= PAYLOAD_BYTES:
            some.append(key)
            size += length
    return [*found, _encode((sender, some)).decode()] if some else found


def keys_of(payload: str, besides: str) -> list[Key]:
    """The keys that another server tells of; none of what is our own, or no hint at all."""
    try:
        sender, keys = _decode(payload)
    except msgspec.MsgspecError:
        return []
    return [] if sender == besides else keys


class News:
    """Tells other servers what was changed here, and hears of what they have changed.

    `sender` is this server's name among them; they meet in the channel of their schema.
    """

    def __init__(self, url: str, schema: str, sender: str, log: Log) -> None:
        self._channel = Channel(url, 0.0)
        self._name = schema
        self._sender = sender
        self._log = log
        self._pending: dict[Key, None] = {}
        self._some = asyncio.Event()
        self._heard: asyncio.Queue[list[Key]] = asyncio.Queue(maxsize=100)

    def tell(self, keys: Iterable[Key]) -> None:
        """These were changed here."""
        self._pending.update(dict.fromkeys(keys))
        while len(self._pending) > KEPT_KEYS:
            del self._pending[next(iter(self._pending))]
        self._some.set()

    async def hear(self) -> AsyncIterator[Sequence[Key]]:
        """What others have changed, as it becomes known."""
        while True:
            yield await self._heard.get()

    async def run(self) -> None:
        """Send and listen until cancelled."""
        try:
            while True:
                try:
                    if not await self._listen():
                        self._log.debug("news.off")
                        return
                    await self._send()
                except Exception as error:
                    self._log.debug("news.lost", error=str(translate("listening to other servers", error)))
                    self._channel.drop()
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._channel.drop()

    async def _listen(self) -> bool:
        """False where nobody can: the sessions of the database are a pooler's."""
        connection = await self._channel.open()
        if not self._channel.is_direct:
            return False
        await connection.execute("SET synchronous_commit = off")
        await connection.add_listener(self._name, self._on_hint)
        return True

    async def _send(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ALIVE_SECONDS):
                    await self._some.wait()
                    await asyncio.sleep(PAUSE_SECONDS)
            except TimeoutError:
                await self._channel.fetch("SELECT 1")
                continue
            self._some.clear()
            pending, self._pending = self._pending, {}
            for payload in payloads(self._sender, pending):
                await self._channel.fetch("SELECT pg_notify($1, $2)", self._name, payload)

    def _on_hint(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        keys = keys_of(payload, self._sender)
        if keys and not self._heard.full():
            self._heard.put_nowait(keys)
