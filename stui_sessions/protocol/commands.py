"""THE table: each command, its typed parameters, its typed result, its errors.

Decoding, the reference part of protocol.md, the JSON Schema, the client and the
command line all follow from it.  A new command is one entry here, one function
that decides (`sessions/manager.py`), and its tests.
"""

from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from stui_sessions.protocol.fields import JSON_OBJECTS
from stui_sessions.protocol.parameters import (
    ClientParams,
    CreateParams,
    DeleteParams,
    DescribeParams,
    EditParams,
    ExportParams,
    ExtendParams,
    GetParams,
    ImportParams,
    ListParams,
    Named,
    NoParams,
    OpenParams,
    ReadBackupParams,
    ResolveParams,
    SessionParams,
    TitleParams,
    UpdateParams,
)
from stui_sessions.protocol.results import (
    BeginBackupResult,
    CloseResult,
    CreateResult,
    DeleteResult,
    DescribeResult,
    Details,
    ExportResult,
    ExtendResult,
    GetResult,
    ImportResult,
    InfoResult,
    ListResult,
    OpenResult,
    PageResult,
    PingResult,
    ReadBackupResult,
    RestoreResult,
    StatisticsResult,
    TouchResult,
    UndeleteResult,
    UpdateResult,
    ValidateResult,
)


class Command:
    """One row of the table."""

    def __init__(
        self,
        name: str,
        summary: str,
        params: type[Struct],
        result: type[Struct],
        errors: str = "",
        writes: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.params = params
        self.result = result
        self.errors = tuple(errors.split())
        """Codes beyond those that any request can be answered with."""
        self.writes = writes
        self.tells_state = result not in (PingResult, DescribeResult, BeginBackupResult, ReadBackupResult)
        """What it answers depends on sessions, so it waits for their changes."""
        self.returns_state = "session_state" in result.__struct_fields__
        self.names_session = issubclass(params, Named)
        """One session alone decides what it answers."""
        self.takes_id = self.names_session or params is EditParams
        self.takes_owner = params in (ClientParams, CreateParams, OpenParams)
        fields = msgspec.structs.fields(params)
        self.parameters = {f.name: f for f in fields}
        self.required = tuple(f.name for f in fields if f.required)
        self.state_parameters = tuple(name for name in JSON_OBJECTS if name in self.parameters)
        self.line_keys = 3 + len(self.required) + self.names_session
        """Keys in a request that brings what is needed and nothing else; a session is named in one of two ways."""
        self.levels = 3 if params is ImportParams else 0
        """How much deeper a state lies in a request than in an update: what was saved must fit again."""
        self.main_state = self.state_parameters[0] if self.state_parameters else None
        """The state object that requests most often bring."""

    def parameter_types(self) -> dict[str, Any]:
        """Parameter names with their types, limits included."""
        return get_type_hints(self.params, include_extras=True)


_NAMING = "session_not_found session_damaged external_id_ambiguous"
_USING = f"{_NAMING} session_expired session_closed session_deleted"
_WRITING = "storage_unavailable storage_damaged"
_CREATING = (
    "client_not_allowed session_limit_reached create_rate_exceeded state_too_large metadata_too_large "
    f"title_unprintable external_id_conflict session_id_conflict {_WRITING}"
)

_TABLE = (
    Command(
        "open_session",
        "Resumes the client's session, or makes a new one: the one call to begin with.",
        OpenParams,
        OpenResult,
        f"{_CREATING} session_damaged",
        writes=True,
    ),
    Command(
        "create_session",
        "Makes a session for a client, always a new one.",
        CreateParams,
        CreateResult,
        f"{_CREATING} session_damaged",
        writes=True,
    ),
    Command(
        "restore_session",
        "Gives back everything that was saved in a session, and counts as use of it.",
        SessionParams,
        RestoreResult,
        _USING,
    ),
    Command(
        "update_session_state",
        "Saves state in a session. It is on disk when the reply arrives.",
        UpdateParams,
        UpdateResult,
        f"{_USING} state_too_large {_WRITING}",
        writes=True,
    ),
    Command(
        "close_session",
        "Ends a session. Its place in the client's limit is free at once; what it was stays known for "
        "`keep_expired` seconds. Closing one that has ended already succeeds and changes nothing.",
        SessionParams,
        CloseResult,
        f"{_NAMING} {_WRITING}",
        writes=True,
    ),
    Command(
        "get_session_info",
        "Tells about a session without using it; ended ones included while they are known.",
        SessionParams,
        InfoResult,
        _NAMING,
    ),
    Command(
        "list_client_sessions",
        "Lists a client's live sessions. A client nobody knows has none; that is not an error.",
        ClientParams,
        ListResult,
    ),
    Command(
        "get_session_statistics",
        "Counts live sessions and the clients that have one. Expired ones count until the sweeper has passed.",
        NoParams,
        StatisticsResult,
    ),
    Command(
        "get_session",
        "Tells everything about a session, ended ones included, without using it; its state only if asked.",
        GetParams,
        GetResult,
        _NAMING,
    ),
    Command(
        "validate_session",
        "Says whether a session can be used. Cheap, and never an error for an unknown one.",
        SessionParams,
        ValidateResult,
        "external_id_ambiguous",
    ),
    Command(
        "update_session",
        "Changes what is said of a session: title, tags, metadata, external id, lifetimes, pin. Whatever is left out "
        "stays. Does not count as use, and leaves `revision` alone.",
        EditParams,
        Details,
        "session_not_found session_damaged session_expired session_closed session_deleted "
        f"title_unprintable metadata_too_large external_id_conflict {_WRITING}",
        writes=True,
    ),
    Command(
        "update_session_title",
        "Gives a session a title, and changes nothing else.",
        TitleParams,
        Details,
        f"{_USING} title_unprintable {_WRITING}",
        writes=True,
    ),
    Command(
        "touch_session",
        "Counts as use of a session, and does nothing else.",
        SessionParams,
        TouchResult,
        _USING,
    ),
    Command(
        "extend_session",
        "Moves the absolute end of a session (`ttl_seconds`).",
        ExtendParams,
        ExtendResult,
        f"{_USING} no_ttl {_WRITING}",
        writes=True,
    ),
    Command(
        "list_sessions",
        "Lists sessions of any client and user, page by page.",
        ListParams,
        PageResult,
    ),
    Command(
        "resolve_session",
        "Finds the one session that a person may mean, and tells what `get_session` tells.",
        ResolveParams,
        Details,
        "session_not_found session_damaged reference_ambiguous",
    ),
    Command(
        "delete_session",
        "Deletes a session: it is gone from lists, resumption and restore, and its external id is free; its id stays "
        "taken. It can be undeleted for `keep_expired` seconds. Deleting it again succeeds.",
        DeleteParams,
        DeleteResult,
        f"{_NAMING} {_WRITING}",
        writes=True,
    ),
    Command(
        "undelete_session",
        "Brings back a deleted, closed or expired session while it is kept. Idle time starts again; an absolute end "
        "that has passed is dropped.",
        SessionParams,
        UndeleteResult,
        f"{_NAMING} session_limit_reached external_id_conflict {_WRITING}",
        writes=True,
    ),
    Command(
        "export_sessions",
        "Gives sessions as a whole, page by page, in the order of their creation: what a line of an export file is.",
        ExportParams,
        ExportResult,
    ),
    Command(
        "import_sessions",
        "Takes sessions as `export_sessions` gave them. Neither the limits of clients and users hold for it nor the "
        "rate of creation. A row that cannot be taken is told, and does not stop the others.",
        ImportParams,
        ImportResult,
        "checksum_mismatch invalid_record session_id_conflict external_id_conflict state_too_large "
        f"metadata_too_large {_WRITING}",
        writes=True,
    ),
    Command(
        "begin_backup",
        "Begins to copy the database as it is at this moment; everything acknowledged before is in the copy. Nobody "
        "is held up by it.",
        NoParams,
        BeginBackupResult,
        "backup_unavailable backup_in_progress",
    ),
    Command(
        "read_backup",
        "Gives a part of the copy, and waits until it is made. A copy that nobody reads for a minute is dropped.",
        ReadBackupParams,
        ReadBackupResult,
        "backup_not_found backup_unavailable",
    ),
    Command("ping", "Answers. For health checks and keeping a connection warm.", NoParams, PingResult),
    Command(
        "describe",
        "Gives the contract itself: all commands with their parameters, results and errors, or one of them.",
        DescribeParams,
        DescribeResult,
    ),
)

COMMANDS: dict[str, Command] = {c.name: c for c in _TABLE}

UNIVERSAL_ERRORS = (
    "invalid_json",
    "invalid_utf8",
    "invalid_request",
    "lone_surrogate",
    "duplicate_key",
    "number_out_of_range",
    "too_deep",
    "message_too_large",
    "line_timeout",
    "unknown_command",
    "unknown_parameter",
    "missing_parameter",
    "null_parameter",
    "empty_parameter",
    "wrong_type",
    "invalid_parameter",
    "storage_unavailable",
    "overloaded",
    "too_many_connections",
    "internal_error",
)
"""Codes that any request may be answered with."""
