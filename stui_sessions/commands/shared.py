"""What several commands share: how a session is named, what a session is told as, codes, weights."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from stui_sessions.protocol.fields import (
    MAX_METADATA_BYTES,
    NAMING,
    Active,
    CleanTitle,
    ClientId,
    Created,
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
    UserId,
    WorkspaceContext,
    says,
)
from stui_sessions.protocol.jsontext import StateText

ONE_SESSION = (NAMING,)
"""For a row's `one_of`: the command is about one session that is there."""

# -- error codes

NAMING_ERRORS = "session_not_found session_damaged external_id_ambiguous"
USING_ERRORS = f"{NAMING_ERRORS} session_expired session_closed session_deleted"
WRITING_ERRORS = "storage_unavailable storage_damaged"

# -- parameters


class NoParams(Struct, forbid_unknown_fields=True, gc=False):
    pass


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


METADATA_EXPECTED = says(f"an object of at most {MAX_METADATA_BYTES // 1024} KiB")


def text_of(o: Raw | UnsetType) -> bytes | None:
    """The text of a JSON object among the parameters; None where it is left out."""
    return None if o is UNSET else checked(o).text


def checked(o: Raw | UnsetType) -> StateText:
    """What decoding has made of a JSON object that was given."""
    return o  # type: ignore[return-value]


# -- results

ClientName = Annotated[ClientId | None, Meta(description="The client that it belongs to; `null` if none.")]
UserName = Annotated[UserId | None, Meta(description="The user that it belongs to; `null` if none.")]
ExternalName = Annotated[ExternalId | None, Meta(description="Its external id; `null` if it has none.")]
TitleOrNone = Annotated[CleanTitle | None, Meta(description="Its title; `null` if it has none.")]
TagList = Annotated[Tags, Meta(description="Its tags, in the order in which they were given.")]
MetadataObject = Annotated[JsonObject, Meta(description="Its metadata; `{}` when nothing was given.")]
ExpiresAtOrNone = Annotated[
    str | None,
    Meta(
        description="When it will expire if it is not used, or has expired; UTC. `null` once it was closed or deleted."
    ),
]


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


ROW_WEIGHT = 300
"""Bytes that a session takes in a list, beside its metadata, about."""


def weigh_state(r: Any) -> int:
    """Bytes of the four state objects that a result holds."""
    if r.session_state is UNSET:
        return 0
    return len(r.session_state) + len(r.workspace_context) + len(r.inspector_state) + len(r.object_registry)
