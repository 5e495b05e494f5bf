"""What each command answers: one Struct for each form of result.

Fields may be added in time; none is ever taken away within a major version.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from stui_sessions.protocol.fields import (
    Active,
    BackupId,
    ClientId,
    Created,
    ExpiresAt,
    ExternalId,
    IdleTime,
    InspectorState,
    JsonObject,
    LastActivity,
    Modified,
    ObjectRegistry,
    Revision,
    SessionId,
    SessionState,
    Status,
    Tags,
    TimeLeft,
    Title,
    UserId,
    WorkspaceContext,
)
from stui_sessions.protocol.records import ExportRow

ClientName = Annotated[ClientId | None, Meta(description="The client that it belongs to; `null` if none.")]
UserName = Annotated[UserId | None, Meta(description="The user that it belongs to; `null` if none.")]
ExternalName = Annotated[ExternalId | None, Meta(description="Its external id; `null` if it has none.")]
TitleOrNone = Annotated[Title | None, Meta(description="Its title; `null` if it has none.")]
TagList = Annotated[Tags, Meta(description="Its tags, in the order in which they were given.")]
MetadataObject = Annotated[JsonObject, Meta(description="Its metadata; `{}` when nothing was given.")]
ExpiresAtOrNone = Annotated[
    str | None,
    Meta(
        description="When it will expire if it is not used, or has expired; UTC. `null` once it was closed or deleted."
    ),
]
Evicted = (
    Annotated[
        SessionId,
        Meta(description="With `on_limit` = `evict_oldest`: the session that was closed to make room. Else left out."),
    ]
    | UnsetType
)


class CreateResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Created
    timeout: IdleTime
    is_active: Active
    revision: Revision
    evicted_session_id: Evicted = UNSET


class RestoreResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientName
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    session_state: SessionState
    workspace_context: WorkspaceContext
    inspector_state: InspectorState
    object_registry: ObjectRegistry
    revision: Revision


class OpenResult(RestoreResult, gc=False):
    session_resumed: Annotated[
        bool, Meta(description="True: the session was there, and nothing of the request was applied to it.")
    ]
    message: Annotated[
        str, Meta(description="`Session created successfully` or `Session resumed successfully`, for people.")
    ]
    user_id: UserName
    title: TitleOrNone
    tags: TagList
    metadata: MetadataObject
    external_id: ExternalName
    last_activity: LastActivity
    expires_at: ExpiresAt
    was_collision: Annotated[
        bool | UnsetType,
        Meta(description="True where `on_conflict` = `new` has led to another id than asked for. Else left out."),
    ] = UNSET
    requested_session_id: (
        Annotated[SessionId, Meta(description="That id, which is somebody else's. Else left out.")] | UnsetType
    ) = UNSET
    evicted_session_id: Evicted = UNSET


class UpdateResult(Struct, gc=False):
    session_id: SessionId
    last_modified: Modified
    session_state: Annotated[JsonObject, Meta(description="The whole `session_state`, after the update.")]
    update_successful: Annotated[bool, Meta(description="Always true: whatever fails is an error.")]
    revision: Revision


class CloseResult(Struct, gc=False):
    session_id: SessionId
    closed: Annotated[bool, Meta(description="Always true: the session has ended, now or before.")]
    revision: Revision


class InfoResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientName
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    time_until_expiry: TimeLeft
    is_expired: Annotated[bool, Meta(description="It has expired; false for a closed one.")]
    revision: Revision


class Summary(Struct, gc=False):
    """One row of `list_client_sessions`."""

    session_id: SessionId
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    time_until_expiry: TimeLeft
    revision: Revision


class ListResult(Struct):
    client_id: ClientId
    session_count: Annotated[int, Meta(ge=0, description="How many there are in `sessions`.")]
    sessions: Annotated[list[Summary], Meta(description="Live sessions, the oldest first.")]


class Details(Struct, gc=False):
    """All that is known of a session but its state."""

    session_id: SessionId
    client_id: ClientName
    user_id: UserName
    external_id: ExternalName
    title: TitleOrNone
    tags: TagList
    metadata: MetadataObject
    status: Status
    is_active: Active
    created_at: Created
    last_modified: Modified
    last_activity: LastActivity
    ended_at: Annotated[str | None, Meta(description="When it expired, was closed or deleted; UTC. `null` while live.")]
    expires_at: ExpiresAtOrNone
    time_until_expiry: TimeLeft
    timeout: IdleTime
    ttl_seconds: Annotated[
        int | None,
        Meta(description="Seconds after its creation at which it expires however much it is used; `null` for never."),
    ]
    pinned: Annotated[bool, Meta(description="The sweeper never removes it.")]
    revision: Revision
    state_bytes: Annotated[int, Meta(ge=0, description="Bytes of its four state objects together.")]
    metadata_bytes: Annotated[int, Meta(ge=0, description="Bytes of its metadata.")]


class GetResult(Details, gc=False):
    session_state: SessionState | UnsetType = UNSET
    workspace_context: WorkspaceContext | UnsetType = UNSET
    inspector_state: InspectorState | UnsetType = UNSET
    object_registry: ObjectRegistry | UnsetType = UNSET


class UndeleteResult(Details, gc=False):
    undeleted: Annotated[bool, Meta(description="False: it was live all along, and nothing was changed.")]


class ValidateResult(Struct, gc=False):
    session_id: Annotated[SessionId | None, Meta(description="`null` if an external id finds none.")]
    valid: Annotated[bool, Meta(description="The session can be used.")]
    reason: Annotated[
        str | None,
        Meta(description="Why not: `not_found`, `expired`, `closed`, `deleted` or `damaged`. `null` if it can."),
    ]


class TouchResult(Struct, gc=False):
    session_id: SessionId
    last_activity: LastActivity
    expires_at: ExpiresAt


class ExtendResult(Struct, gc=False):
    session_id: SessionId
    expires_at: ExpiresAt
    ttl_seconds: Annotated[int, Meta(ge=1, description="The absolute end, in seconds after its creation.")]


class DeleteResult(Struct, gc=False):
    session_id: SessionId
    deleted: Annotated[bool, Meta(description="Always true.")]
    already_deleted: Annotated[bool, Meta(description="It was deleted before.")]
    purged: Annotated[bool, Meta(description="It is gone for good.")]


class PageResult(Struct):
    sessions: Annotated[list[Details], Meta(description="The rows of this page, in the order asked for.")]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="The `cursor` of the next page; `null` at the end. A page may hold fewer rows than `limit`, "
            "even none, before the end."
        ),
    ]


class StatusCounts(Struct, gc=False):
    """Sessions by status."""

    live: Annotated[int, Meta(ge=0, description="Live ones; those that the sweeper has not found expired included.")]
    expired: Annotated[int, Meta(ge=0, description="Expired ones that are still kept.")]
    closed: Annotated[int, Meta(ge=0, description="Closed ones that are still kept.")]
    deleted: Annotated[int, Meta(ge=0, description="Deleted ones that are still kept.")]


class RemovedCounts(Struct, gc=False):
    """Sessions removed for good, since the server started, by the reason."""

    expired: Annotated[int, Meta(ge=0, description="Kept long enough after they expired.")] = 0
    closed: Annotated[int, Meta(ge=0, description="Kept long enough after they were closed.")] = 0
    deleted: Annotated[int, Meta(ge=0, description="Kept long enough after they were deleted.")] = 0
    purged: Annotated[int, Meta(ge=0, description="Removed by `delete_session` with `purge`.")] = 0
    replaced: Annotated[int, Meta(ge=0, description="Replaced by an import.")] = 0


class SweeperStatistics(Struct, gc=False):
    """The background expiry."""

    runs: Annotated[int, Meta(ge=0, description="Sweeps since the server started.")] = 0
    last_run: Annotated[str | None, Meta(description="When the last one ended; UTC. `null` before the first.")] = None


class ServerStatistics(Struct, gc=False):
    """The process."""

    uptime: Annotated[int, Meta(ge=0, description="Seconds since it started.")] = 0
    connections: Annotated[int, Meta(ge=0, description="Open connections.")] = 0
    journal_bytes: Annotated[int, Meta(ge=0, description="Changes that are on disk and in no snapshot yet.")] = 0
    database_bytes: Annotated[int, Meta(ge=0, description="The database's files: snapshots, journal, indexes.")] = 0
    resident_sessions: Annotated[int, Meta(ge=0, description="Sessions in memory.")] = 0
    resident_bytes: Annotated[int, Meta(ge=0, description="Memory that they take, about.")] = 0


class StatisticsResult(Struct, gc=False):
    total_sessions: Annotated[int, Meta(ge=0, description="Live sessions.")]
    active_clients: Annotated[int, Meta(ge=0, description="Clients that have a live session.")]
    max_sessions_per_client: Annotated[int, Meta(ge=0, description="Live sessions that one client may have.")]
    default_timeout: Annotated[int, Meta(ge=0, description="The `timeout` of sessions whose creator names none.")]
    cleanup_interval: Annotated[int, Meta(ge=0, description="Seconds between two sweeps for expired sessions.")]
    sessions_by_status: Annotated[StatusCounts, Meta(description="Sessions by status.")]
    removed_by_reason: Annotated[
        RemovedCounts, Meta(description="Sessions removed for good since the start, by the reason.")
    ]
    sweeper: Annotated[SweeperStatistics, Meta(description="The background expiry.")]
    server: Annotated[ServerStatistics, Meta(description="The process.")]


class PingResult(Struct, gc=False):
    pong: Annotated[bool, Meta(description="Always true.")]


class DescribeResult(Struct, gc=False):
    protocol_version: Annotated[str, Meta(description="The version of the contract, such as `1.0.0`.")]
    contract: Annotated[
        JsonObject, Meta(description="The contract as JSON Schema, or of the one command what belongs to it.")
    ]


class BeginBackupResult(Struct, gc=False):
    backup_id: BackupId


class ReadBackupResult(Struct, gc=False):
    backup_id: BackupId
    size: Annotated[int, Meta(ge=0, description="Bytes of the whole copy.")]
    sha256: Annotated[str, Meta(description="Of the whole copy, in hex digits.")]
    data: Annotated[str, Meta(description="The part that begins at `offset`, in Base64.")]
    next_offset: Annotated[int | None, Meta(description="Where the next part begins; `null` after the last.")]


class ExportResult(Struct):
    sessions: Annotated[
        list[ExportRow],
        Meta(description="The sessions of this page, the oldest first; each line of an export file is one of them."),
    ]
    next_cursor: Annotated[
        str | None,
        Meta(description="The `cursor` of the next page; `null` at the end. A page is cut short where it gets large."),
    ]


class ImportFailure(Struct, gc=False):
    """A row that was not taken."""

    row: Annotated[int, Meta(ge=0, description="Which one, counted from 0.")]
    error: Annotated[str, Meta(description="What was wrong, for people.")]
    error_code: Annotated[str, Meta(description="The stable name, for programs.")]


class ImportRename(Struct, gc=False):
    """A row whose id was taken, with `on_conflict` = `new`."""

    row: Annotated[int, Meta(ge=0, description="Which one, counted from 0.")]
    session_id: SessionId


class ImportResult(Struct):
    created: Annotated[int, Meta(ge=0, description="Sessions made, the renamed ones included.")]
    replaced: Annotated[int, Meta(ge=0, description="Sessions that took the place of one with the same id.")]
    skipped: Annotated[int, Meta(ge=0, description="Rows left out because their id is taken.")]
    renamed: Annotated[list[ImportRename], Meta(description="Rows that were given another id.")]
    errors: Annotated[list[ImportFailure], Meta(description="Rows that were not taken; the others were.")]
