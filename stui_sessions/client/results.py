"""What calls return: the results of the command table, with the state objects decoded.

The table keeps state objects (and the contract) as raw text, because the server never looks into them;
here they are ordinary dicts.  That is the only difference, and a test holds it to that.  Numbers become Python's:
`1.10` is 1.1 and `-0` is 0 (an integer of 40 digits stays exact); `Client.call_raw` keeps their text.
"""

from typing import Any

from msgspec import Struct

from stui_sessions.protocol import commands
from stui_sessions.protocol.commands import (
    CloseResult,
    CreateResult,
    InfoResult,
    ListResult,
    PingResult,
    StatisticsResult,
    Summary,
)

__all__ = [
    "RESULTS",
    "CloseResult",
    "CreateResult",
    "DescribeResult",
    "InfoResult",
    "JsonObject",
    "ListResult",
    "PingResult",
    "RestoreResult",
    "StatisticsResult",
    "Summary",
    "UpdateResult",
]

JsonObject = dict[str, Any]


# gc=True: what the table's structs hold cannot form cycles, a dict in a caller's hands can.
class RestoreResult(commands.RestoreResult, gc=True):
    """Everything that was saved in a session."""

    session_state: JsonObject  # type: ignore[assignment]
    workspace_context: JsonObject  # type: ignore[assignment]
    inspector_state: JsonObject  # type: ignore[assignment]
    object_registry: JsonObject  # type: ignore[assignment]


class UpdateResult(commands.UpdateResult, gc=True):
    """The outcome of an update, with the whole `session_state` after it."""

    session_state: JsonObject  # type: ignore[assignment]


class DescribeResult(commands.DescribeResult, gc=True):
    """The contract, or a command's part of it, with its version."""

    contract: JsonObject  # type: ignore[assignment]


RESULTS: dict[str, type[Struct]] = {name: command.result for name, command in commands.COMMANDS.items()} | {
    "restore_session": RestoreResult,
    "update_session_state": UpdateResult,
    "describe": DescribeResult,
}
"""The type of each command's result."""
