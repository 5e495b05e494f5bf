"""A session as a whole, as it is exported and imported: one JSON object with a checksum.

Instants are milliseconds here, and not rounded as elsewhere on the wire: what is
imported is what was exported.
"""

from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta, Raw, Struct

from stui_sessions.errors import Refusal
from stui_sessions.protocol.definitions import reference_to
from stui_sessions.protocol.fields import (
    CENTURY,
    LAST_MS,
    MAX_SESSION_ID,
    CleanTitle,
    ClientId,
    ExternalId,
    JsonObject,
    StatusName,
    Tags,
    UserId,
)


def _says(text: str) -> Meta:
    return Meta(description=text)


Instant = Annotated[int, Meta(ge=0, le=LAST_MS)]


class SessionRecord(Struct, forbid_unknown_fields=True, gc=False):
    """Everything that is known of a session.  Instants are milliseconds since 1970, UTC."""

    session_id: Annotated[str, Meta(min_length=1, max_length=MAX_SESSION_ID, description="Its id.")]
    client_id: Annotated[ClientId | None, _says("Its client; `null` if none.")]
    user_id: Annotated[UserId | None, _says("Its user; `null` if none.")]
    external_id: Annotated[ExternalId | None, _says("Its external id; `null` if none.")]
    title: Annotated[CleanTitle | None, _says("Its title; `null` if none.")]
    tags: Annotated[Tags, _says("Its tags.")]
    metadata: Annotated[JsonObject, _says("Its metadata.")]
    status: Annotated[StatusName, _says("Its status as it is stored.")]
    pinned: Annotated[bool, _says("The sweeper never removes it.")]
    revision: Annotated[int, Meta(ge=1, le=2**53, description="Its revision.")]
    timeout: Annotated[int, Meta(ge=1, le=CENTURY, description="Seconds without use after which it expires.")]
    created_at_ms: Annotated[Instant, _says("When it was created.")]
    modified_at_ms: Annotated[Instant, _says("When state was last saved in it.")]
    active_at_ms: Annotated[Instant, _says("When it was last used.")]
    ended_at_ms: Annotated[Instant | None, _says("When it expired, was closed or deleted; `null` while live.")]
    ends_at_ms: Annotated[Instant | None, _says("When it expires however much it is used; `null` for never.")]
    session_state: Annotated[JsonObject, _says("State, as text that equals what was saved.")]
    workspace_context: Annotated[JsonObject, _says("State.")]
    inspector_state: Annotated[JsonObject, _says("State.")]
    object_registry: Annotated[JsonObject, _says("State.")]


class ExportRow(Struct, forbid_unknown_fields=True, gc=False):
    """One line of an export file."""

    checksum: Annotated[
        str,
        Meta(pattern=r"^[0-9a-f]{8}\Z", description="CRC-32 of the text of `session`, in eight hexadecimal digits."),
    ]
    session: Annotated[
        Raw, Meta(description="The session, all of it.", extra_json_schema=reference_to("SessionRecord"))
    ]


EMPTY = Raw(b"{}")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SessionRecord).decode


def row_of(record: SessionRecord) -> ExportRow:
    """The row of a record."""
    text = _encode(record)
    return ExportRow(f"{crc32(text):08x}", Raw(text))


def record_of(checksum: str, text: bytes) -> SessionRecord:
    """The record of a row with this text, once its checksum and its fields are checked; raises Refusal."""
    if crc32(text) != int(checksum, 16):  # its form was checked
        raise Refusal("checksum_mismatch", "the row is not what was exported: its checksum is another one")
    try:
        record = _decode(text)
    except msgspec.MsgspecError as error:
        raise Refusal("invalid_record", f"the row holds no session: {error}") from None
    objects = (record.session_state, record.workspace_context, record.inspector_state, record.object_registry)
    for o in (*objects, record.metadata):
        if o != EMPTY and not bytes(o).lstrip().startswith(b"{"):
            raise Refusal("invalid_record", "the row holds no session: a state or its metadata is no object")
    return record
