"""What calls return: the results of the commands, with the state objects decoded.

Numbers become Python's: `1.10` is 1.1 and `-0` is 0 (an integer of 40 digits stays exact);
`Client.call_raw` keeps their text.

Made by `stui-sessions schema --client` from the registry of commands: not to be edited.
"""
# fmt: off
# ruff: noqa: RUF022

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, field

JsonObject = dict[str, Any]

__all__ = [
    "BeginBackupResult", "CloseResult", "CreateResult", "DeleteResult", "DescribeResult", "Details", "ExportResult",
    "ExportRow", "ExtendResult", "GetResult", "ImportFailure", "ImportRename", "ImportResult", "InfoResult",
    "JsonObject", "Limits", "ListResult", "OpenResult", "PageResult", "PingResult", "RESULTS", "ReadBackupResult",
    "RemovedCounts", "RestoreResult", "ServerStatistics", "StatisticsResult", "StatusCounts", "StorageStatistics",
    "Summary", "SweeperStatistics", "TouchResult", "UndeleteResult", "UpdateResult", "ValidateResult",
]


class RestoreResult(Struct):
    """What `restore_session` answers."""

    session_id: str
    client_id: str | None
    created_at: str
    last_modified: str
    timeout: int
    is_active: bool
    session_state: JsonObject
    workspace_context: JsonObject
    inspector_state: JsonObject
    object_registry: JsonObject
    revision: int


class OpenResult(RestoreResult):
    """What `open_session` answers."""

    session_resumed: bool
    message: str
    user_id: str | None
    title: str | None
    tags: list[str]
    metadata: JsonObject
    external_id: str | None
    last_activity: str
    expires_at: str
    was_collision: bool | UnsetType = UNSET
    requested_session_id: str | UnsetType = UNSET
    evicted_session_id: str | UnsetType = UNSET
    session_revived: bool | UnsetType = UNSET
    expired_session_id: str | UnsetType = UNSET


class CreateResult(Struct):
    """What `create_session` answers."""

    session_id: str
    client_id: str
    created_at: str
    timeout: int
    is_active: bool
    revision: int
    evicted_session_id: str | UnsetType = UNSET


class UpdateResult(Struct, kw_only=True):
    """What `update_session_state` answers."""

    session_id: str
    last_modified: str
    session_state: JsonObject = UNSET  # type: ignore[assignment]  # UNSET where the request asked for that
    update_successful: bool
    revision: int


class CloseResult(Struct):
    """What `close_session` answers."""

    session_id: str
    closed: bool
    revision: int


class InfoResult(Struct):
    """What `get_session_info` answers."""

    session_id: str
    client_id: str | None
    created_at: str
    last_modified: str
    timeout: int
    is_active: bool
    time_until_expiry: int
    is_expired: bool
    revision: int


class Summary(Struct):
    """One row of `list_client_sessions`."""

    session_id: str
    created_at: str
    last_modified: str
    timeout: int
    is_active: bool
    time_until_expiry: int
    revision: int


class ListResult(Struct):
    """What `list_client_sessions` answers."""

    client_id: str
    session_count: int
    sessions: list[Summary]


class StatusCounts(Struct):
    """Sessions by status."""

    live: int
    expired: int
    closed: int
    deleted: int


class RemovedCounts(Struct):
    """Sessions removed for good, since the server started, by the reason."""

    expired: int = 0
    closed: int = 0
    deleted: int = 0
    purged: int = 0
    replaced: int = 0


class SweeperStatistics(Struct):
    """The background expiry."""

    runs: int = 0
    last_run: str | None = None


class StorageStatistics(Struct):
    """The store, and what it promises of a change that was acknowledged."""

    kind: Literal["memory", "local", "postgresql"] = 'memory'
    fsync: bool = False
    synchronous_commit: str | None = None
    synchronous_standbys: str | None = None


class ServerStatistics(Struct):
    """The process."""

    uptime: int = 0
    connections: int = 0
    journal_bytes: int = 0
    database_bytes: int = 0
    resident_sessions: int = 0
    resident_bytes: int = 0
    storage: StorageStatistics = field(default_factory=StorageStatistics)


class Limits(Struct):
    """The settings that a client meets."""

    max_message_bytes: int
    max_depth: int
    max_state_bytes: int
    max_metadata_bytes: int
    default_timeout: int
    open_timeout: int
    max_timeout: int
    default_ttl: int
    keep_expired: int
    max_sessions_per_client: int
    max_sessions_per_user: int
    create_rate: int


class StatisticsResult(Struct):
    """What `get_session_statistics` answers."""

    total_sessions: int
    active_clients: int
    max_sessions_per_client: int
    default_timeout: int
    cleanup_interval: int
    sessions_by_status: StatusCounts
    removed_by_reason: RemovedCounts
    sweeper: SweeperStatistics
    server: ServerStatistics
    limits: Limits


class Details(Struct):
    """All that is known of a session but its state."""

    session_id: str
    client_id: str | None
    user_id: str | None
    external_id: str | None
    title: str | None
    tags: list[str]
    metadata: JsonObject
    status: Literal["live", "expired", "closed", "deleted"]
    is_active: bool
    created_at: str
    last_modified: str
    last_activity: str
    ended_at: str | None
    expires_at: str | None
    time_until_expiry: int
    timeout: int
    ttl_seconds: int | None
    pinned: bool
    revision: int
    state_bytes: int
    metadata_bytes: int


class GetResult(Details):
    """What `get_session` answers."""

    session_state: JsonObject | UnsetType = UNSET
    workspace_context: JsonObject | UnsetType = UNSET
    inspector_state: JsonObject | UnsetType = UNSET
    object_registry: JsonObject | UnsetType = UNSET


class ValidateResult(Struct):
    """What `validate_session` answers."""

    session_id: str | None
    valid: bool
    reason: str | None


class TouchResult(Struct):
    """What `touch_session` answers."""

    session_id: str
    last_activity: str
    expires_at: str


class ExtendResult(Struct):
    """What `extend_session` answers."""

    session_id: str
    expires_at: str
    ttl_seconds: int


class PageResult(Struct):
    """What `list_sessions` answers."""

    sessions: list[Details]
    next_cursor: str | None


class DeleteResult(Struct):
    """What `delete_session` answers."""

    session_id: str
    deleted: bool
    already_deleted: bool
    purged: bool


class UndeleteResult(Details):
    """What `undelete_session` answers."""

    undeleted: bool


class ExportRow(Struct):
    """One line of an export file."""

    checksum: str
    session: Raw


class ExportResult(Struct):
    """What `export_sessions` answers."""

    sessions: list[ExportRow]
    next_cursor: str | None


class ImportRename(Struct):
    """A row whose id was taken, with `on_conflict` = `new`."""

    row: int
    session_id: str


class ImportFailure(Struct):
    """A row that was not taken."""

    row: int
    error: str
    error_code: str


class ImportResult(Struct):
    """What `import_sessions` answers."""

    created: int
    replaced: int
    skipped: int
    renamed: list[ImportRename]
    errors: list[ImportFailure]


class BeginBackupResult(Struct):
    """What `begin_backup` answers."""

    backup_id: str


class ReadBackupResult(Struct):
    """What `read_backup` answers."""

    backup_id: str
    size: int
    sha256: str
    data: str
    next_offset: int | None


class PingResult(Struct):
    """What `ping` answers."""

    pong: bool


class DescribeResult(Struct):
    """What `describe` answers."""

    protocol_version: str
    contract: JsonObject
    limits: Limits


RESULTS: dict[str, type[Struct]] = {
    "open_session": OpenResult, "create_session": CreateResult, "restore_session": RestoreResult,
    "update_session_state": UpdateResult, "close_session": CloseResult, "get_session_info": InfoResult,
    "list_client_sessions": ListResult, "get_session_statistics": StatisticsResult, "get_session": GetResult,
    "validate_session": ValidateResult, "update_session": Details, "update_session_title": Details,
    "touch_session": TouchResult, "extend_session": ExtendResult, "list_sessions": PageResult,
    "resolve_session": Details, "delete_session": DeleteResult, "undelete_session": UndeleteResult,
    "export_sessions": ExportResult, "import_sessions": ImportResult, "begin_backup": BeginBackupResult,
    "read_backup": ReadBackupResult, "ping": PingResult, "describe": DescribeResult,
}
"""The type of each command's result."""
