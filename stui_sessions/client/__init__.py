"""Clients of the session server: asyncio today, over a core that does no I/O."""

from typing import TYPE_CHECKING, Any

from stui_sessions.client.arguments import DEFAULT, REMOVE
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
    BeginBackupResult,
    CloseResult,
    CreateResult,
    DeleteResult,
    DescribeResult,
    Details,
    ExportResult,
    ExportRow,
    ExtendResult,
    GetResult,
    ImportFailure,
    ImportRename,
    ImportResult,
    InfoResult,
    Limits,
    ListResult,
    OpenResult,
    PageResult,
    PingResult,
    ReadBackupResult,
    RemovedCounts,
    RestoreResult,
    ServerStatistics,
    StatisticsResult,
    StatusCounts,
    StorageStatistics,
    Summary,
    SweeperStatistics,
    TouchResult,
    UndeleteResult,
    UpdateResult,
    ValidateResult,
)
from stui_sessions.config import Address, find_server

if TYPE_CHECKING:
    from stui_sessions.client.aio import Client, connect

__all__ = [
    "DEFAULT",
    "REMOVE",
    "Address",
    "BeginBackupResult",
    "Client",
    "ClientError",
    "CloseResult",
    "ConnectionLost",
    "CreateResult",
    "DeleteResult",
    "DescribeResult",
    "Details",
    "ExportResult",
    "ExportRow",
    "ExtendResult",
    "GetResult",
    "ImportFailure",
    "ImportRename",
    "ImportResult",
    "InfoResult",
    "Limits",
    "ListResult",
    "OpenResult",
    "PageResult",
    "PingResult",
    "ProtocolViolation",
    "ReadBackupResult",
    "RemovedCounts",
    "ReplyTimeout",
    "RequestError",
    "RestoreResult",
    "ServerRuntimeError",
    "ServerStatistics",
    "SessionError",
    "SessionNotFound",
    "SessionServerError",
    "StatisticsResult",
    "StatusCounts",
    "StorageStatistics",
    "Summary",
    "SweeperStatistics",
    "TouchResult",
    "UndeleteResult",
    "UpdateResult",
    "ValidateResult",
    "connect",
    "find_server",
]


def __getattr__(name: str) -> Any:
    # asyncio takes longer to load than `stui-sessions call` takes for all the rest, and it needs only the core.
    if name in ("Client", "connect"):
        from stui_sessions.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
