"""What each command takes: one Struct for each form of parameters.

A description stands with the type and not round its union with UnsetType: in the
JSON Schema the inner one of two would win.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from stui_sessions.protocol.fields import (
    MAX_METADATA_BYTES,
    MAX_TTL,
    MIN_PREFIX,
    BackupId,
    ClientId,
    CommandName,
    ExternalId,
    JsonObject,
    OwnSessionId,
    SessionId,
    StatusName,
    Tags,
    Timeout,
    Title,
    Ttl,
    UserId,
)
from stui_sessions.protocol.records import ExportRow


class StateText(Struct, frozen=True, gc=False):
    """A JSON object of a request once it is checked: its text, its own copy, and its keys in order.

    Takes the place of the `Raw` in the parameters: that is a view and keeps the
    whole received line alive.
    """

    text: bytes
    keys: tuple[str, ...]


def _initial(name: str) -> Meta:
    return Meta(description=f"The `{name}` that the session is created with; `{{}}` if left out.")


def _sibling(name: str) -> Meta:
    return Meta(description=f"Merged into `{name}`, or put in its place, by the same rule; unchanged if left out.")


Metadata = Annotated[
    JsonObject, Meta(description=f"An object of your own, of at most {MAX_METADATA_BYTES} bytes; `{{}}` if left out.")
]


class NoParams(Struct, forbid_unknown_fields=True, gc=False):
    pass


class ClientParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: ClientId
    user_id: (
        Annotated[UserId, Meta(description="The client's user; without it, the client's sessions that have no user.")]
        | UnsetType
    ) = UNSET


class DescribeParams(Struct, forbid_unknown_fields=True, gc=False):
    command: CommandName | UnsetType = UNSET


class Named(Struct, forbid_unknown_fields=True, gc=False):
    """Parameters that name one session: by its id, or by its external id."""

    session_id: SessionId | UnsetType = UNSET
    external_id: (
        Annotated[
            ExternalId, Meta(description="Names a live session in place of `session_id`, which is left out then.")
        ]
        | UnsetType
    ) = UNSET
    user_id: (
        Annotated[
            UserId,
            Meta(
                description="Whose `external_id` is meant; without it, there must be exactly one live session with it."
            ),
        ]
        | UnsetType
    ) = UNSET


class SessionParams(Named, forbid_unknown_fields=True, gc=False):
    pass


class UpdateParams(Named, forbid_unknown_fields=True, gc=False):
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


class _Birth(Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """What a session may be created with.  By keyword alone, which puts `client_id` before all of it."""

    user_id: UserId | UnsetType = UNSET
    session_id: OwnSessionId | UnsetType = UNSET
    external_id: ExternalId | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    ttl_seconds: (
        Annotated[
            Ttl,
            Meta(
                description="Seconds after its creation at which the session expires however much it is used. "
                "Without it: `create_session` sets no such end, `open_session` the setting `default_ttl`."
            ),
        ]
        | UnsetType
    ) = UNSET
    session_state: Annotated[JsonObject | UnsetType, _initial("session_state")] = UNSET
    workspace_context: Annotated[JsonObject | UnsetType, _initial("workspace_context")] = UNSET
    inspector_state: Annotated[JsonObject | UnsetType, _initial("inspector_state")] = UNSET
    object_registry: Annotated[JsonObject | UnsetType, _initial("object_registry")] = UNSET
    id_format: Annotated[
        Literal["counter", "timestamp", "hex"],
        Meta(
            description="The form of an id that the server makes: `session_{n}_{unix seconds}_{random}`, "
            "`session_YYYYMMDD_HHMMSS_{random}` or `session_{random}`; each holds at least 128 random bits."
        ),
    ] = "counter"


class CreateParams(_Birth, forbid_unknown_fields=True, gc=False):
    client_id: ClientId


class OpenParams(_Birth, forbid_unknown_fields=True, gc=False):
    client_id: ClientId | UnsetType = UNSET
    resume: Annotated[
        bool,
        Meta(description="Resume the most recently active live session of that user and client, if there is one."),
    ] = True
    on_conflict: Annotated[
        Literal["error", "reuse", "new"],
        Meta(
            description="What happens if `session_id` is taken. `error`: nothing, it is an error. `reuse`: a live "
            "session of the same user and client is resumed. `new`: that too, and where it is somebody else's, a new "
            "session with another id is made."
        ),
    ] = "error"


class GetParams(Named, forbid_unknown_fields=True, gc=False):
    include: Annotated[
        list[Literal["state"]], Meta(max_length=1, description='`["state"]`: tell the four state objects too.')
    ] = []


class EditParams(Struct, forbid_unknown_fields=True, gc=False):
    session_id: SessionId
    title: Annotated[Title | UnsetType | None, Meta(description="A new title; `null` removes it.")] = UNSET
    tags: Annotated[Tags, Meta(description="The tags from now on, all of them.")] | UnsetType = UNSET
    metadata: Annotated[
        JsonObject | UnsetType,
        Meta(description="Merged into the metadata at the top level; a key with the value `null` is removed."),
    ] = UNSET
    external_id: Annotated[ExternalId | UnsetType | None, Meta(description="A new external id; `null` removes it.")] = (
        UNSET
    )
    timeout: Timeout | UnsetType = UNSET
    ttl_seconds: Annotated[
        Ttl | UnsetType | None,
        Meta(
            description="Seconds after its creation at which the session expires however much it is used; "
            "`null` removes that end."
        ),
    ] = UNSET
    pin: Annotated[
        bool | UnsetType,
        Meta(
            description="True: the sweeper never removes the session. It expires all the same. The one parameter that "
            "an ended session takes too."
        ),
    ] = UNSET


class TitleParams(Named, forbid_unknown_fields=True, gc=False, kw_only=True):
    title: Title


class ExtendParams(Named, forbid_unknown_fields=True, gc=False, kw_only=True):
    seconds: Annotated[int, Meta(ge=1, le=MAX_TTL, description="By how much to move the absolute end.")]


class DeleteParams(Named, forbid_unknown_fields=True, gc=False):
    purge: Annotated[
        bool, Meta(description="Remove it and everything of it at once, for good; its id is free again.")
    ] = False


Text = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="Only sessions with this in their title, session id or external id, whatever the case. "
        "Needs `client_id` or `user_id` beside it.",
    ),
]
CursorText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=8192,
        description="The `next_cursor` of the page before, everything else being the same.",
    ),
]


class ListParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: Annotated[ClientId, Meta(description="Only sessions of this client.")] | UnsetType = UNSET
    user_id: Annotated[UserId, Meta(description="Only sessions of this user.")] | UnsetType = UNSET
    status: Annotated[StatusName, Meta(description="Only sessions of this status.")] = "live"
    tags: Annotated[Tags, Meta(description="Only sessions that have all these tags.")] | UnsetType = UNSET
    text: Text | UnsetType = UNSET
    sort: Annotated[
        Literal["last_activity", "created_at", "title"],
        Meta(description="What the list is sorted by; titles by their code points, those without a title as if empty."),
    ] = "last_activity"
    order: Annotated[
        Literal["asc", "desc"] | UnsetType,
        Meta(description="Ascending or descending; without it, titles ascend and times descend (the newest first)."),
    ] = UNSET
    limit: Annotated[int, Meta(ge=1, le=100, description="How many rows at most.")] = 20
    cursor: CursorText | UnsetType = UNSET


class ExportParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: Annotated[ClientId, Meta(description="Only sessions of this client.")] | UnsetType = UNSET
    user_id: Annotated[UserId, Meta(description="Only sessions of this user.")] | UnsetType = UNSET
    status: Annotated[StatusName, Meta(description="Only sessions of this status.")] = "live"
    tags: Annotated[Tags, Meta(description="Only sessions that have all these tags.")] | UnsetType = UNSET
    text: Text | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many rows at most.")] = 100
    cursor: CursorText | UnsetType = UNSET


class ImportParams(Struct, forbid_unknown_fields=True, gc=False):
    sessions: Annotated[
        list[ExportRow], Meta(max_length=1000, description="Rows as `export_sessions` gave them, up to 1000.")
    ]
    on_conflict: Annotated[
        Literal["error", "skip", "replace", "new"],
        Meta(
            description="What happens to a row whose id is taken. `error`: it is among the errors. `skip`: nothing. "
            "`replace`: it takes the place of the session that is there. `new`: it gets another id."
        ),
    ] = "error"


class ReadBackupParams(Struct, forbid_unknown_fields=True, gc=False):
    backup_id: BackupId
    offset: Annotated[int, Meta(ge=0, le=2**53, description="Where in the copy the part begins, in bytes.")] = 0


class ResolveParams(Struct, forbid_unknown_fields=True, gc=False):
    ref: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=8192,
            description="A session id, or something that names one session alone: the beginning of an id "
            f"({MIN_PREFIX} characters or more), the external id or the exact title of a live session.",
        ),
    ]
