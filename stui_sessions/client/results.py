"""What calls return: the results of the command table, with the state objects decoded.

The table keeps JSON objects as raw text, because the server never looks into them; here they are
ordinary dicts.  That is the only difference, and a test holds it to that.  Numbers become Python's:
`1.10` is 1.1 and `-0` is 0 (an integer of 40 digits stays exact); `Client.call_raw` keeps their text.
"""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from stui_sessions.protocol import results
from stui_sessions.protocol.commands import COMMANDS
from stui_sessions.protocol.results import (
    BeginBackupResult,
    CloseResult,
    CreateResult,
    DeleteResult,
    ExportResult,
    ExtendResult,
    ImportResult,
    InfoResult,
    ListResult,
    PingResult,
    ReadBackupResult,
    StatisticsResult,
    Summary,
    TouchResult,
    ValidateResult,
)

__all__ = [
    "RESULTS",
    "BeginBackupResult",
    "CloseResult",
    "CreateResult",
    "DeleteResult",
    "DescribeResult",
    "Details",
    "ExportResult",
    "ExtendResult",
    "GetResult",
    "ImportResult",
    "InfoResult",
    "JsonObject",
    "ListResult",
    "OpenResult",
    "PageResult",
    "PingResult",
    "ReadBackupResult",
    "RestoreResult",
    "StatisticsResult",
    "Summary",
    "TouchResult",
    "UndeleteResult",
    "UpdateResult",
    "ValidateResult",
]

JsonObject = dict[str, Any]


# gc=True: what the table's structs hold cannot form cycles, a dict in a caller's hands can.
class RestoreResult(results.RestoreResult, gc=True):
    """Everything that was saved in a session."""

    session_state: JsonObject  # type: ignore[assignment]
    workspace_context: JsonObject  # type: ignore[assignment]
    inspector_state: JsonObject  # type: ignore[assignment]
    object_registry: JsonObject  # type: ignore[assignment]


class OpenResult(results.OpenResult, gc=True):
    """The session that was resumed or made, with everything that was saved in it."""

    session_state: JsonObject  # type: ignore[assignment]
    workspace_context: JsonObject  # type: ignore[assignment]
    inspector_state: JsonObject  # type: ignore[assignment]
    object_registry: JsonObject  # type: ignore[assignment]
    metadata: JsonObject  # type: ignore[assignment]


class UpdateResult(results.UpdateResult, gc=True):
    """The outcome of an update, with the whole `session_state` after it."""

    session_state: JsonObject  # type: ignore[assignment]


class Details(results.Details, gc=True):
    """All that is known of a session but its state."""

    metadata: JsonObject  # type: ignore[assignment]


class GetResult(results.GetResult, gc=True):
    """The same, with its state if that was asked for."""

    metadata: JsonObject  # type: ignore[assignment]
    session_state: JsonObject | UnsetType = UNSET  # type: ignore[assignment]
    workspace_context: JsonObject | UnsetType = UNSET  # type: ignore[assignment]
    inspector_state: JsonObject | UnsetType = UNSET  # type: ignore[assignment]
    object_registry: JsonObject | UnsetType = UNSET  # type: ignore[assignment]


class UndeleteResult(results.UndeleteResult, gc=True):
    """All that is known of a session that was brought back."""

    metadata: JsonObject  # type: ignore[assignment]


class PageResult(results.PageResult):
    """One page of a list."""

    sessions: list[Details]  # type: ignore[assignment]


class DescribeResult(results.DescribeResult, gc=True):
    """The contract, or a command's part of it, with its version."""

    contract: JsonObject  # type: ignore[assignment]


RESULTS: dict[str, type[Struct]] = {name: command.result for name, command in COMMANDS.items()} | {
    "open_session": OpenResult,
    "restore_session": RestoreResult,
    "update_session_state": UpdateResult,
    "get_session": GetResult,
    "update_session": Details,
    "update_session_title": Details,
    "resolve_session": Details,
    "undelete_session": UndeleteResult,
    "list_sessions": PageResult,
    "describe": DescribeResult,
}
"""The type of each command's result."""
