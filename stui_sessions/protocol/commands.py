"""THE table: each command, its typed parameters, its typed result, its errors.

Decoding, the reference part of protocol.md, the JSON Schema, the client and the
command line all follow from it.  A new command is one entry here, one function
that decides (`sessions/manager.py`), and its tests.
"""

from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

MAX_SESSION_ID = 8192

SessionId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_SESSION_ID, description="The session's id, as `create_session` gave it."),
]
ClientId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z",
        description="The client's name: 1 to 128 of `A-Z a-z 0-9 . _ : @ -`, the first a letter or a digit.",
    ),
]
Timeout = Annotated[
    int,
    Meta(ge=1, description="Seconds without use after which the session expires; at most the setting `max_timeout`."),
]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
Revision = Annotated[int, Meta(ge=1, description="1 when created, one more with each accepted `update_session_state`.")]
Instant = Annotated[str, Meta(description="UTC, whole seconds: `2025-08-30T10:30:00Z`.")]
Seconds = Annotated[int, Meta(ge=0, description="Seconds.")]

STATE_OBJECTS = ("session_state", "workspace_context", "inspector_state", "object_registry")


class StateText(Struct, frozen=True, gc=False):
    """A state object of a request once it is checked: its text, its own copy, and its keys in order.

    Takes the place of the `Raw` in the parameters: that is a view and keeps the
    whole received line alive.
    """

    text: bytes
    keys: tuple[str, ...]


class NoParams(Struct, forbid_unknown_fields=True, gc=False):
    pass


class ClientParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: ClientId


class SessionParams(Struct, forbid_unknown_fields=True, gc=False):
    session_id: SessionId


class CreateParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: ClientId
    timeout: Timeout | UnsetType = UNSET
    session_state: JsonObject | UnsetType = UNSET
    workspace_context: JsonObject | UnsetType = UNSET
    inspector_state: JsonObject | UnsetType = UNSET
    object_registry: JsonObject | UnsetType = UNSET


class UpdateParams(Struct, forbid_unknown_fields=True, gc=False):
    session_id: SessionId
    state_data: Annotated[
        JsonObject | UnsetType,
        Meta(description="Merged into `session_state`, key by key; required unless a sibling is given."),
    ] = UNSET
    mode: Annotated[
        Literal["merge", "replace"],
        Meta(description="`merge`: keys that are not named stay. `replace`: each object that is named is replaced."),
    ] = "merge"
    workspace_context: JsonObject | UnsetType = UNSET
    inspector_state: JsonObject | UnsetType = UNSET
    object_registry: JsonObject | UnsetType = UNSET


class CreateResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Instant
    timeout: Seconds
    is_active: bool
    revision: Revision


class RestoreResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Instant
    last_modified: Instant
    timeout: Seconds
    is_active: bool
    session_state: JsonObject
    workspace_context: JsonObject
    inspector_state: JsonObject
    object_registry: JsonObject
    revision: Revision


class UpdateResult(Struct, gc=False):
    session_id: SessionId
    last_modified: Instant
    session_state: Annotated[JsonObject, Meta(description="The whole `session_state`, after the update.")]
    update_successful: bool
    revision: Revision


class CloseResult(Struct, gc=False):
    session_id: SessionId
    closed: bool
    revision: Revision


class InfoResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Instant
    last_modified: Instant
    timeout: Seconds
    is_active: bool
    time_until_expiry: Annotated[Seconds, Meta(description="From 0 to `timeout`; 0 once it has ended.")]
    is_expired: bool
    revision: Revision


class Summary(Struct, gc=False):
    """One row of `list_client_sessions`."""

    session_id: SessionId
    created_at: Instant
    last_modified: Instant
    timeout: Seconds
    is_active: bool
    time_until_expiry: Seconds
    revision: Revision


class ListResult(Struct):
    client_id: ClientId
    session_count: Annotated[int, Meta(ge=0)]
    sessions: Annotated[list[Summary], Meta(description="Live sessions, the oldest first.")]


class StatisticsResult(Struct, gc=False):
    total_sessions: Annotated[int, Meta(ge=0, description="Live sessions.")]
    active_clients: Annotated[int, Meta(ge=0, description="Clients that have a live session.")]
    max_sessions_per_client: int
    default_timeout: Seconds
    cleanup_interval: Seconds


class PingResult(Struct, gc=False):
    pong: bool


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
        self.names_session = "session_id" in params.__struct_fields__
        self.names_client = "client_id" in params.__struct_fields__
        fields = msgspec.structs.fields(params)
        self.parameters = {f.name: f for f in fields}
        self.required = tuple(f.name for f in fields if f.required)
        self.state_parameters = tuple(f.name for f in fields if f.name == "state_data" or f.name in STATE_OBJECTS)
        self.line_keys = 3 + len(self.required)
        """Keys in a request that brings what is required and nothing else."""
        self.main_state = self.state_parameters[0] if self.state_parameters else None
        """The state object that requests most often bring."""

    def parameter_types(self) -> dict[str, Any]:
        """Parameter names with their types, limits included."""
        return get_type_hints(self.params, include_extras=True)


_USING = "session_not_found session_expired session_closed session_damaged"

COMMANDS: dict[str, Command] = {
    c.name: c
    for c in (
        Command(
            "create_session",
            "Makes a session for a client.",
            CreateParams,
            CreateResult,
            "client_not_allowed session_limit_reached create_rate_exceeded state_too_large storage_unavailable "
            "storage_damaged",
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
            f"{_USING} state_too_large storage_unavailable storage_damaged",
            writes=True,
        ),
        Command(
            "close_session",
            "Ends a session. Its place in the client's limit is free at once; what it was stays known for "
            "`keep_expired` seconds. Closing one that has ended already succeeds and changes nothing.",
            SessionParams,
            CloseResult,
            "session_not_found session_damaged storage_unavailable storage_damaged",
            writes=True,
        ),
        Command(
            "get_session_info",
            "Tells about a session without using it; ended ones included while they are known.",
            SessionParams,
            InfoResult,
            "session_not_found session_damaged",
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
        Command("ping", "Answers. For health checks and keeping a connection warm.", NoParams, PingResult),
    )
}

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
    "shutting_down",
    "internal_error",
)
"""Codes that any request may be answered with."""
