"""The server itself: is it there, what it counts, what it speaks, a copy of its store."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from stui_sessions.commands.shared import NoParams
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.finding import Counts, Totals
from stui_sessions.protocol.describe import describe as contract_of
from stui_sessions.protocol.fields import MAX_METADATA_BYTES, JsonObject, says
from stui_sessions.protocol.registry import Command

# -- ping


class PingParams(Struct, forbid_unknown_fields=True, gc=False):
    storage: Annotated[bool, Meta(description="Ask the store too, to see whether this server is fit for work.")] = False


class PingResult(Struct, gc=False):
    pong: Annotated[bool, Meta(description="Always true.")]


def ping(draft: Draft, p: PingParams) -> PingResult:
    if p.storage:
        draft.ask(Counts(draft.caller.tenant))
    return PingResult(True)


PING = Command("ping", "Answers. For health checks and keeping a connection warm.", PingParams, PingResult, ping)


# -- what a client may ask for


class Limits(Struct, gc=False):
    """The settings that a client meets."""

    max_message_bytes: Annotated[int, Meta(ge=0, description="Longest request line, in bytes, its LF not counted.")]
    max_depth: Annotated[int, Meta(ge=0, description="Nesting of arrays and objects in a request.")]
    max_state_bytes: Annotated[int, Meta(ge=0, description="Bytes of the four objects of one session together.")]
    max_metadata_bytes: Annotated[int, Meta(ge=0, description="Bytes of the metadata of one session.")]
    default_timeout: Annotated[int, Meta(ge=0, description="The `timeout` where `create_session` names none.")]
    open_timeout: Annotated[int, Meta(ge=0, description="The `timeout` where `open_session` names none.")]
    max_timeout: Annotated[int, Meta(ge=0, description="The longest `timeout` that can be asked for.")]
    default_ttl: Annotated[
        int, Meta(ge=0, description="The `ttl_seconds` where `open_session` names none; 0 for no absolute end.")
    ]
    keep_expired: Annotated[int, Meta(ge=0, description="Seconds for which a session is kept after its end.")]
    max_sessions_per_client: Annotated[int, Meta(ge=0, description="Live sessions that one client may have.")]
    max_sessions_per_user: Annotated[
        int, Meta(ge=0, description="Live sessions that one user may have without a client.")
    ]
    create_rate: Annotated[
        int, Meta(ge=0, description="Sessions that one client may make in a minute; 0 for any number.")
    ]


def _limits(draft: Draft) -> Limits:
    rules = draft.world.rules
    return Limits(
        max_message_bytes=rules.max_message_bytes,
        max_depth=rules.max_depth,
        max_state_bytes=rules.max_state_bytes,
        max_metadata_bytes=MAX_METADATA_BYTES,
        default_timeout=rules.default_timeout,
        open_timeout=rules.open_timeout,
        max_timeout=rules.max_timeout,
        default_ttl=rules.default_ttl,
        keep_expired=rules.keep_expired,
        max_sessions_per_client=rules.max_sessions_per_client,
        max_sessions_per_user=rules.max_sessions_per_user,
        create_rate=draft.world.rate.per_minute,
    )


_LimitsField = Annotated[Limits, Meta(description="The settings that a client meets.")]


# -- describe


class DescribeParams(Struct, forbid_unknown_fields=True, gc=False):
    command: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="The command to describe; without it, the whole contract is the answer.",
                extra=says("the name of a command"),
            ),
        ]
        | UnsetType
    ) = UNSET


class DescribeResult(Struct, gc=False):
    protocol_version: Annotated[str, Meta(description="The version of the contract, such as `1.0.0`.")]
    contract: Annotated[
        JsonObject, Meta(description="The contract as JSON Schema, or of the one command what belongs to it.")
    ]
    limits: _LimitsField


def describe(draft: Draft, p: DescribeParams) -> DescribeResult:
    registry = draft.command.registry
    return DescribeResult(registry.version, contract_of(registry, p.command or None), _limits(draft))


DESCRIBE = Command(
    "describe",
    "Gives the contract itself: all commands with their parameters, results and errors, or one of them.",
    DescribeParams,
    DescribeResult,
    describe,
    by_position=("command",),
    weigh=lambda result: len(result.contract),  # shared by all replies, but each of them is encoded for itself
)


# -- get_session_statistics


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


class StorageStatistics(Struct, gc=False):
    """The store, and what it promises of a change that was acknowledged."""

    kind: Annotated[
        Literal["memory", "local", "postgresql"],
        Meta(description="In memory alone, files of this server, or a PostgreSQL that other servers may share."),
    ] = "memory"
    fsync: Annotated[bool, Meta(description="It is on disk and survives a crash of the machine.")] = False
    synchronous_commit: Annotated[
        str | None, Meta(description="PostgreSQL's setting of that name; `null` for other stores.")
    ] = None
    synchronous_standbys: Annotated[
        str | None,
        Meta(description="PostgreSQL's `synchronous_standby_names`, empty for none; `null` for other stores."),
    ] = None


class ServerStatistics(Struct, gc=False):
    """The process."""

    uptime: Annotated[int, Meta(ge=0, description="Seconds since it started.")] = 0
    connections: Annotated[int, Meta(ge=0, description="Open connections.")] = 0
    journal_bytes: Annotated[
        int, Meta(ge=0, description="Log of changes that are on disk and not in the database's tables yet.")
    ] = 0
    database_bytes: Annotated[int, Meta(ge=0, description="All files of the database, the log included.")] = 0
    resident_sessions: Annotated[int, Meta(ge=0, description="Sessions in memory.")] = 0
    resident_bytes: Annotated[int, Meta(ge=0, description="Memory that they take, about.")] = 0
    storage: Annotated[StorageStatistics, Meta(description="The store, and what it promises.")] = field(
        default_factory=StorageStatistics
    )


class StatisticsResult(Struct, gc=False):
    total_sessions: Annotated[int, Meta(ge=0, description="Live sessions.")]
    active_clients: Annotated[int, Meta(ge=0, description="Clients that have a live session.")]
    max_sessions_per_client: Annotated[int, Meta(ge=0, description="Live sessions that one client may have.")]
    default_timeout: Annotated[int, Meta(ge=0, description="The `timeout` where `create_session` names none.")]
    cleanup_interval: Annotated[int, Meta(ge=0, description="Seconds between two sweeps for expired sessions.")]
    sessions_by_status: Annotated[StatusCounts, Meta(description="Sessions by status.")]
    removed_by_reason: Annotated[
        RemovedCounts, Meta(description="Sessions removed for good since the start, by the reason.")
    ]
    sweeper: Annotated[SweeperStatistics, Meta(description="The background expiry.")]
    server: Annotated[ServerStatistics, Meta(description="The process.")]
    limits: _LimitsField


def get_session_statistics(draft: Draft, p: NoParams) -> StatisticsResult:
    totals = draft.ask(Counts(draft.caller.tenant))
    assert isinstance(totals, Totals)
    removed, sweeper, server = draft.world.statistics()
    rules = draft.world.rules
    return StatisticsResult(
        totals.live,
        totals.clients,
        rules.max_sessions_per_client,
        rules.default_timeout,
        rules.cleanup_interval,
        StatusCounts(totals.live, totals.expired, totals.closed, totals.deleted),
        removed,
        sweeper,
        server,
        _limits(draft),
    )


GET_SESSION_STATISTICS = Command(
    "get_session_statistics",
    "Counts live sessions and the clients that have one. Expired ones count until the sweeper has passed.",
    NoParams,
    StatisticsResult,
    get_session_statistics,
    access="read",
)


# -- copies of the store: operations of the server, which await

BackupId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="The copy, as `begin_backup` named it.",
        extra=says("a backup_id that begin_backup gave"),
    ),
]


class BeginBackupResult(Struct, gc=False):
    backup_id: BackupId


BEGIN_BACKUP = Command(
    "begin_backup",
    "Begins to copy the database as it is at this moment; everything acknowledged before is in the copy. Nobody "
    "is held up by it.",
    NoParams,
    BeginBackupResult,
    operation=True,
    errors="backup_unavailable backup_in_progress",
)


class ReadBackupParams(Struct, forbid_unknown_fields=True, gc=False):
    backup_id: BackupId
    offset: Annotated[
        int,
        Meta(
            ge=0,
            le=2**53,
            description="Where in the copy the part begins, in bytes.",
            extra=says("an integer, 0 or more"),
        ),
    ] = 0


class ReadBackupResult(Struct, gc=False):
    backup_id: BackupId
    size: Annotated[int, Meta(ge=0, description="Bytes of the whole copy.")]
    sha256: Annotated[str, Meta(description="Of the whole copy, in hex digits.")]
    data: Annotated[str, Meta(description="The part that begins at `offset`, in Base64.")]
    next_offset: Annotated[int | None, Meta(description="Where the next part begins; `null` after the last.")]


READ_BACKUP = Command(
    "read_backup",
    "Gives a part of the copy, and waits until it is made. A copy that nobody reads for a minute is dropped.",
    ReadBackupParams,
    ReadBackupResult,
    operation=True,
    errors="backup_not_found backup_unavailable",
    by_position=("backup_id",),
    weigh=lambda result: len(result.data),
)
