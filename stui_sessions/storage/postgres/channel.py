"""A connection to the database that is made anew when it was lost, and statements that are ready on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.postgres.connection import connect, is_outcome_known, translate

SETTINGS = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; \
SET enable_mergejoin = off; SET jit = off"
"""For the sessions of the database that are ours alone: every statement goes by an index, so one plan serves."""


WHERE = "SELECT pg_backend_pid(), inet_server_addr()::text, inet_server_port(), pg_postmaster_start_time()"

SCOUT_SECONDS = 3.0

RETRY_SECONDS = 0.1
"""Between two tries to connect."""


class Channel:
    """One connection, for one statement at a time.

    Statements stay prepared under names of their own where the connection is ours from
    end to end.  A pooler that hands each transaction to another session (pgbouncer)
    shows in the number of the process behind it; then each statement is sent whole.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._connection: Any = None
        self._server: tuple[Any, ...] = ()
        self.is_direct = False
        """The database's session is ours alone, with no pooler between."""
        self._prepared: dict[str, Any] = {}

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> Any:
        """The connection, made if there is none: tried until the timeout has passed.  StorageError, StartError."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        while not self.is_open:
            left = deadline - asyncio.get_running_loop().time()
            try:
                await self._connect(left)
            except Exception as error:
                self.drop()
                if isinstance(error, StartError):
                    raise
                if left < RETRY_SECONDS:
                    raise translate("connecting to the database", error) from error
                await asyncio.sleep(RETRY_SECONDS)
        return self._connection

    async def _connect(self, seconds: float) -> None:
        self._prepared = {}
        connection = self._connection = await connect(self._url, timeout=max(0.1, seconds))
        pid, *self._server = await connection.fetchrow(WHERE)
        self.is_direct = pid == connection.get_server_pid()
        if self.is_direct:
            await connection.execute(SETTINGS)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        """The rows of one statement.  Raises what the driver raises; the connection is dropped unless it is sound."""
        connection = await self.open()
        try:
            statement = self._prepared.get(sql)
            if statement is None:
                name = f"stui_{len(self._prepared)}" if self.is_direct else None
                statement = self._prepared[sql] = await connection.prepare(sql, name=name)
            rows: list[Any] = await statement.fetch(*arguments)
            return rows
        except BaseException as error:
            if not is_outcome_known(error):
                self.drop()
            raise

    async def has_moved(self) -> bool:
        """Whether the database answers elsewhere: this connection leads to a server that takes writes no more.

        Asked when an answer takes long: a server that is cut off, or frozen, does not say so.
        """
        before = self._server
        scout = Channel(self._url, 0.0)
        try:
            await scout._connect(SCOUT_SECONDS)
            return bool(before) and scout._server != before
        except Exception:
            return False
        finally:
            scout.drop()

    def drop(self) -> None:
        """Give the connection up at once; the database undoes what was under way."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close in order, where the database still answers."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1.0)
            except Exception:
                connection.terminate()


class Readers:
    """Some channels for statements that change nothing, or nothing more when they are sent twice."""

    def __init__(self, url: str, number: int, timeout: float) -> None:
        self.timeout = timeout
        """Seconds after which a read is given up."""
        self._channels = [Channel(url, timeout) for _ in range(number)]
        self._free: asyncio.LifoQueue[Channel] = asyncio.LifoQueue()
        for channel in self._channels:
            self._free.put_nowait(channel)

    async def fetch(self, doing: str, sql: str, *arguments: Any) -> list[Any]:
        """The rows of one statement; StorageError with what was being done.

        Sent once more where a connection turns out to be lost.
        """
        was_open = True
        while True:
            try:
                async with self.channel(doing) as channel:
                    was_open = was_open and channel.is_open
                    return await channel.fetch(sql, *arguments)
            except StorageError as error:
                if not was_open or is_outcome_known(error) or isinstance(error.__cause__, TimeoutError):
                    raise
                was_open = False  # once is enough

    @asynccontextmanager
    async def channel(self, doing: str) -> AsyncIterator[Channel]:
        """A channel for some statements, within the timeout; StorageError with what was being done."""
        try:
            async with asyncio.timeout(self.timeout):
                channel = await self._free.get()
                try:
                    yield channel
                except TimeoutError:
                    channel.drop()
                    raise
                except asyncio.CancelledError:
                    channel.drop()  # what it has sent is answered to nobody
                    raise
                finally:
                    self._free.put_nowait(channel)
        except (StorageError, StartError):
            raise
        except Exception as error:
            raise translate(doing, error) from error

    def drop(self) -> None:
        """Give all connections up: the database is elsewhere."""
        for channel in self._channels:
            channel.drop()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
