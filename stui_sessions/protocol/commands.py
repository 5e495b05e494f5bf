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
    Meta(
        ge=1,
        description="Seconds without use after which the session expires; at most the setting `max_timeout`, "
        "and without it the setting `default_timeout`.",
    ),
]
CommandName = Annotated[
    str, Meta(min_length=1, description="The command to describe; without it, the whole contract is the answer.")
]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
Revision = Annotated[int, Meta(ge=1, description="1 when created, one more with each accepted `update_session_state`.")]
Created = Annotated[str, Meta(description="When the session was created; UTC, `2025-08-30T10:30:00Z`.")]
Modified = Annotated[str, Meta(description="When state was last saved in it (or it was created); UTC.")]
IdleTime = Annotated[int, Meta(ge=0, description="Seconds without use after which the session expires.")]
TimeLeft = Annotated[
    int, Meta(ge=0, description="Seconds left until it expires, from 0 to `timeout`; 0 once it has ended.")
]
Active = Annotated[bool, Meta(description="The session can be used: it has neither expired nor been closed.")]

# The same four objects in parameters and results; what each is for is the client's business.
SessionState = Annotated[JsonObject, Meta(description="The session's state; `{}` when nothing was saved.")]
WorkspaceContext = Annotated[JsonObject, Meta(description="What the workspace holds; `{}` when nothing was saved.")]
InspectorState = Annotated[JsonObject, Meta(description="What the inspector shows; `{}` when nothing was saved.")]
ObjectRegistry = Annotated[JsonObject, Meta(description="Objects by name; `{}` when nothing was saved.")]


def _initial(name: str) -> Meta:
    return Meta(description=f"The `{name}` that the session is created with; `{{}}` if left out.")


def _sibling(name: str) -> Meta:
    return Meta(description=f"Merged into `{name}`, or put in its place, by the same rule; unchanged if left out.")


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


class DescribeParams(Struct, forbid_unknown_fields=True, gc=False):
    command: CommandName | UnsetType = UNSET


class CreateParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: ClientId
    timeout: Timeout | UnsetType = UNSET
    session_state: Annotated[JsonObject | UnsetType, _initial("session_state")] = UNSET
    workspace_context: Annotated[JsonObject | UnsetType, _initial("workspace_context")] = UNSET
    inspector_state: Annotated[JsonObject | UnsetType, _initial("inspector_state")] = UNSET
    object_registry: Annotated[JsonObject | UnsetType, _initial("object_registry")] = UNSET


class UpdateParams(Struct, forbid_unknown_fields=True, gc=False):
    session_id: SessionId
    state_data: Annotated[
        JsonObject | UnsetType,
        Meta(
            description="What to save: merged into `session_state` key by key, `null` being stored like any value. "
            "It may be left out when another of the objects is given."
        ),
    ] = UNSET
    mode: Annotated[
        Literal["merge", "replace"],
        Meta(
            description="`merge`: top-level keys that are not named stay. `replace`: each object that is given takes "
            "the place of the saved one; objects that are not given stay."
        ),
    ] = "merge"
    workspace_context: Annotated[JsonObject | UnsetType, _sibling("workspace_context")] = UNSET
    inspector_state: Annotated[JsonObject | UnsetType, _sibling("inspector_state")] = UNSET
    object_registry: Annotated[JsonObject | UnsetType, _sibling("object_registry")] = UNSET


class CreateResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Created
    timeout: IdleTime
    is_active: Active
    revision: Revision


class RestoreResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    session_state: SessionState
    workspace_context: WorkspaceContext
    inspector_state: InspectorState
    object_registry: ObjectRegistry
    revision: Revision


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
    client_id: ClientId
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


class StatisticsResult(Struct, gc=False):
    total_sessions: Annotated[int, Meta(ge=0, description="Live sessions.")]
    active_clients: Annotated[int, Meta(ge=0, description="Clients that have a live session.")]
    max_sessions_per_client: Annotated[int, Meta(ge=0, description="Live sessions that one client may have.")]
    default_timeout: Annotated[int, Meta(ge=0, description="The `timeout` of sessions whose creator names none.")]
    cleanup_interval: Annotated[int, Meta(ge=0, description="Seconds between two sweeps for expired sessions.")]


class PingResult(Struct, gc=False):
    pong: Annotated[bool, Meta(description="Always true.")]


class DescribeResult(Struct, gc=False):
    protocol_version: Annotated[str, Meta(description="The version of the contract, such as `1.0.0`.")]
    contract: Annotated[
        JsonObject, Meta(description="The contract as JSON Schema, or of the one command what belongs to it.")
    ]


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
        self.tells_state = result not in (PingResult, DescribeResult)
        """What it answers depends on sessions, so it waits for their changes."""
        self.returns_state = "session_state" in result.__struct_fields__
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
        Command(
            "describe",
            "Gives the contract itself: all commands with their parameters, results and errors, or one of them.",
            DescribeParams,
            DescribeResult,
        ),
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
    "internal_error",
)
"""Codes that any request may be answered with."""
