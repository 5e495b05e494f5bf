"""Clients of the session server: asyncio today, over a core that does no I/O."""

from typing import TYPE_CHECKING, Any

from stui_sessions.client.errors import (
    ClientError,
    ConnectionLost,
    ProtocolViolation,
    ReplyTimeout,
    RequestError,
    ServerRuntimeError,
    SessionError,
    SessionNotFound,
    SessionServerError,
)
from stui_sessions.client.results import (
    CloseResult,
    CreateResult,
    DescribeResult,
    InfoResult,
    ListResult,
    PingResult,
    RestoreResult,
    StatisticsResult,
    Summary,
    UpdateResult,
)

if TYPE_CHECKING:
    from stui_sessions.client.aio import DEFAULT, Client, connect

__all__ = [
    "DEFAULT",
    "Client",
    "ClientError",
    "CloseResult",
    "ConnectionLost",
    "CreateResult",
    "DescribeResult",
    "InfoResult",
    "ListResult",
    "PingResult",
    "ProtocolViolation",
    "ReplyTimeout",
    "RequestError",
    "RestoreResult",
    "ServerRuntimeError",
    "SessionError",
    "SessionNotFound",
    "SessionServerError",
    "StatisticsResult",
    "Summary",
    "UpdateResult",
    "connect",
]


def __getattr__(name: str) -> Any:
    # asyncio takes longer to load than `stui-sessions call` takes for all the rest, and it needs only the core.
    if name in ("DEFAULT", "Client", "connect"):
        from stui_sessions.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
