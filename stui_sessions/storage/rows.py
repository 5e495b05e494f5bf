"""Rows of the tables as bytes and back.  Pure: no SQL, no I/O.

Every row carries a CRC-32, because SQLite's own check does not look at payload; it
also covers the row's key, so that a good payload in the wrong row is damage too.

A session is stored in two parts: its head, which lists need, and its state, which
may be large.  The CRC of the head stands for itself; that of the state goes on
from it and so covers both.
"""

from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from stui_sessions.domain.entities import (
    EMPTY,
    NOTHING,
    OWNER,
    SESSION,
    About,
    Damaged,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
)
from stui_sessions.storage.counting import due_at


class Row(NamedTuple):
    """A row of the sessions table."""

    number: int
    tenant: str
    session_id: bytes  # UTF-8, as all text here; BLOBs, because a NUL ends an SQL text
    client_id: bytes
    user_id: bytes
    external_id: bytes
    title: bytes
    status: int
    active_at: int
    due_at: int
    size: int
    sequence: int
    head_crc: int
    crc: int
    head: bytes
    data: bytes


class EntityRow(NamedTuple):
    """A row of the entities table: an owner, or the holder of an external id."""

    tenant: str
    kind: str
    id: bytes
    version: int
    commit: int
    crc: int
    data: bytes


class Head(Struct, array_like=True, gc=False):
    """A session without its state, as it is stored.  New fields go at the end, with a default."""

    number: int
    session_id: str
    client_id: str
    created_at: int
    modified_at: int
    active_at: int
    timeout: int
    revision: int
    status: int
    ended_at: int
    about: About = NOTHING
    version: int = 1


HEAD = "tenant, number, sequence, session_id, size, head_crc, head"
"""What `decode_head` takes, in SQL."""
WHOLE = f"{HEAD}, crc, data"
"""What `decode_session` takes, in SQL."""
ENTITY = 'tenant, kind, id, version, "commit", crc, data'
"""What `decode_entity` takes, in SQL."""

State = tuple[bytes, bytes, bytes, bytes]

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_state = msgspec.msgpack.Decoder(State).decode
_decode_chunks = msgspec.msgpack.Decoder(tuple[tuple[str, ...], ...]).decode
_decode_name = msgspec.msgpack.Decoder(str).decode


def encode_text(text: str) -> bytes:
    """Text as it is stored.  Half a surrogate pair is looked up in vain instead of failing."""
    return text.encode("utf-8", "surrogatepass")


def decode_text(stored: Any) -> str:
    """Text of a row whose CRC nobody has checked: damage shows as U+FFFD and finds nothing."""
    return bytes(stored).decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)


def head_crc(tenant: bytes, number: int, sequence: int, session_id: bytes, size: int, head: bytes) -> int:
    """The checksum of a row's head and of the key that the row is stored under."""
    key = b"%d %d %d %b" % (number, sequence, size, session_id)
    return crc32(head, crc32(b"%b\0%b" % (key, tenant) if tenant else key))


def encode_session(s: Session, sequence: int | None = None) -> Row:
    """The row of a session.  `sequence`: in the place of its commit, where commits have no common order."""
    about, session_id, size = s.about, s.session_id.encode(), s.state_bytes
    sequence = s.commit if sequence is None else sequence
    number, status, active_at, tenant = s.number, s.status, s.active_at, s.key[0]
    head = _encode(
        (
            *(number, s.session_id, s.client_id, s.created_at, s.modified_at, active_at),
            *(s.timeout, s.revision, status, s.ended_at, about, s.version),
        )
    )
    data = _encode((s.session_state, s.workspace_context, s.inspector_state, s.object_registry))
    crc = head_crc(tenant.encode(), number, sequence, session_id, size, head)
    return Row(
        number,
        tenant,
        session_id,
        s.client_id.encode(),
        about.user_id.encode(),
        about.external_id.encode(),
        about.title.encode(),
        status,
        active_at,
        due_at(s),
        size,
        sequence,
        crc,
        crc32(data, crc),
        head,
        data,
    )


def decode_head(
    tenant: Any, number: Any, sequence: Any, session_id: Any, size: Any, crc: Any, head: Any
) -> Session | None:
    """The session of a row but for its state, None if the row is not what was written."""
    h = _checked_head(tenant, number, sequence, session_id, size, crc, head)
    return None if h is None else _session(h, tenant, sequence, (EMPTY, EMPTY, EMPTY, EMPTY), size)


def decode_session(
    tenant: Any,
    number: Any,
    sequence: Any,
    session_id: Any,
    size: Any,
    crc: Any,
    head: Any,
    whole_crc: Any,
    data: Any,
) -> Session | None:
    """The whole session of a row, None if the row is not what was written."""
    h = _checked_head(tenant, number, sequence, session_id, size, crc, head)
    if h is None or type(data) is not bytes or crc32(data, crc) != whole_crc:
        return None
    try:
        state = _decode_state(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return _session(h, tenant, sequence, state, size)


def _session(h: Head, tenant: bytes, sequence: int, state: State, size: int) -> Session:
    return Session(  # by their places, which takes half as long
        (tenant.decode(), SESSION, h.session_id),
        h.version,
        sequence,
        h.number,
        h.session_id,
        h.client_id,
        h.created_at,
        h.modified_at,
        h.active_at,
        h.timeout,
        h.revision,
        h.status,
        h.ended_at,
        state[0],
        state[1],
        state[2],
        state[3],
        h.about,
        h.active_at,
        size,
    )


def _checked_head(
    tenant: Any, number: Any, sequence: Any, session_id: Any, size: Any, crc: Any, head: Any
) -> Head | None:
    if not (type(number) is type(sequence) is type(size) is int):
        return None
    if not (type(tenant) is type(session_id) is type(head) is bytes):
        return None
    if head_crc(tenant, number, sequence, session_id, size, head) != crc:
        return None
    try:
        return _decode_head(head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def encode_entity(entity: Owner | Holder, sequence: int | None = None) -> EntityRow:
    """The row of an owner, or of the holder of an external id; `sequence` as for `encode_session`."""
    tenant, kind, name = entity.key
    sequence = entity.commit if sequence is None else sequence
    data = _encode(entity.chunks if isinstance(entity, Owner) else entity.session_id)
    encoded = name.encode()
    crc = _entity_crc(tenant.encode(), kind.encode(), encoded, entity.version, sequence, data)
    return EntityRow(tenant, kind, encoded, entity.version, sequence, crc, data)


def _entity_crc(tenant: bytes, kind: bytes, name: bytes, version: int, commit: int, data: bytes) -> int:
    return crc32(data, crc32(b"%b\0%b\0%b\0%d %d" % (tenant, kind, name, version, commit)))


def decode_entity(key: Key, version: Any, commit: Any, crc: Any, data: Any) -> Entity:
    """The entity of a row that was found under `key`: Damaged if it is not what was written."""
    tenant, kind, name = (encode_text(part) for part in key)
    if type(version) is not int or type(commit) is not int or type(data) is not bytes:
        return Damaged(key)
    if _entity_crc(tenant, kind, name, version, commit, data) != crc:
        return Damaged(key)
    try:
        if key[1] == OWNER:
            return Owner(key, version, commit, _decode_chunks(data))
        return Holder(key, version, commit, _decode_name(data))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Damaged(key)
