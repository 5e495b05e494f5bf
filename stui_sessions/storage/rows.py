"""Rows as bytes and back: the journal's entries and the sessions' rows.

Pure: no SQL, no I/O.  Both kinds carry a CRC-32, because SQLite's own check does
not look at payload.  A session's CRCs also cover its key (number, sequence, size,
id), so that a good payload in the wrong row is damage too.

A session is stored in two parts: its head, which lists need, and its state, which
may be large.  The CRC of the head stands for itself; that of the state goes on
from it and so covers both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.sessions.model import LIVE, NOTHING, About, Record, Session, Totals

JOURNAL_VERSION = 2
"""Of the journal entry's form.  Goes up when an older server could not read it.

1: without Edited and Reopened, Removed.user_id, Session.about, and the totals of ended sessions.
"""

MAX_INTEGER = 2**63 - 1
"""SQLite's largest: as `due_at`, never."""


class Entry(Struct, array_like=True, gc=False):
    """One journal entry: what one commit changed."""

    version: int
    sequence: int
    totals: Totals  # as of this commit
    records: list[Record]


class Row(NamedTuple):
    """A row of the sessions table, without the tenant."""

    number: int
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


HEAD = "number, sequence, session_id, size, head_crc, head"
"""What `decode_head` takes, in SQL."""
WHOLE = f"{HEAD}, crc, data"
"""What `decode_session` takes, in SQL."""

State = tuple[bytes, bytes, bytes, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_state = msgspec.msgpack.Decoder(State).decode
_decode_any = msgspec.msgpack.Decoder().decode


def encode_entry(sequence: int, records: Sequence[Record], totals: Totals) -> bytes:
    """A journal entry's data; its CRC is `crc32(data)`.  One C call: the hot path."""
    return _encode((JOURNAL_VERSION, sequence, totals, records))


def decode_entry(sequence: Any, crc: Any, data: Any) -> Entry:
    """The entry of a journal row.  StorageDamaged, or StartError if a newer server wrote it."""
    if type(data) is not bytes or crc32(data) != crc:
        raise StorageDamaged(f"journal entry {sequence} fails its checksum")
    try:
        entry = _decode_entry(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _refuse_newer(sequence, data)
        raise StorageDamaged(f"journal entry {sequence} cannot be decoded: {error}") from error
    if not 1 <= entry.version <= JOURNAL_VERSION:
        _refuse_newer(sequence, data)
        raise StorageDamaged(f"journal entry {sequence} has the unknown version {entry.version}")
    if entry.sequence != sequence:
        raise StorageDamaged(f"journal entry {sequence} says that it is number {entry.sequence}")
    return entry


def _refuse_newer(sequence: int, data: bytes) -> None:
    """StartError if the entry, whose CRC is right, is of a version we do not know yet."""
    try:
        version = _decode_any(data)[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, LookupError):
        return
    if isinstance(version, int) and version > JOURNAL_VERSION:
        raise StartError(
            f"journal entry {sequence} is of version {version}, and this server knows up to version "
            f"{JOURNAL_VERSION}: use the server version that wrote it"
        )


def encode_text(text: str) -> bytes:
    """Text as it is stored.  Half a surrogate pair is looked up in vain instead of failing."""
    return text.encode("utf-8", "surrogatepass")


def decode_id(stored: Any) -> str:
    """The id of a row whose CRC nobody has checked: damage shows as U+FFFD and finds nothing."""
    return bytes(stored).decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)


def due_at(session: Session) -> int:
    """When its end may come (live), or when it ended; ms.  Never, if it is to be kept."""
    about = session.about
    if session.status != LIVE:
        return MAX_INTEGER if about.pinned else session.ended_at
    idle = session.active_at + session.timeout * 1000
    return min(idle, about.ends_at or idle, MAX_INTEGER)


def head_crc(number: int, sequence: int, session_id: bytes, size: int, head: bytes) -> int:
    """The checksum of a row's head and of the key that the row is stored under."""
    return crc32(head, crc32(b"%d %d %d %b" % (number, sequence, size, session_id)))


def encode_session(sequence: int, session: Session) -> Row:
    """The row of a session as of commit `sequence`."""
    s, about = session, session.about
    number, status, active_at, session_id, size = s.number, s.status, s.active_at, s.session_id.encode(), s.state_bytes
    head = _encode(
        (
            *(number, s.session_id, s.client_id, s.created_at, s.modified_at, active_at),
            *(s.timeout, s.revision, status, s.ended_at, about),
        )
    )
    data = _encode((s.session_state, s.workspace_context, s.inspector_state, s.object_registry))
    crc = head_crc(number, sequence, session_id, size, head)
    return Row(
        number,
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


def decode_head(number: Any, sequence: Any, session_id: Any, size: Any, crc: Any, head: Any) -> Session | None:
    """The session of a row but for its state, None if the row is not what was written."""
    h = _checked_head(number, sequence, session_id, size, crc, head)
    if h is None:
        return None
    return Session(
        *(h.number, h.session_id, h.client_id, h.created_at, h.modified_at, h.active_at),
        *(h.timeout, h.revision, h.status, h.ended_at),
        about=h.about,
    )


def decode_session(
    number: Any, sequence: Any, session_id: Any, size: Any, crc: Any, head: Any, whole_crc: Any, data: Any
) -> Session | None:
    """The whole session of a row, None if the row is not what was written."""
    h = _checked_head(number, sequence, session_id, size, crc, head)
    if h is None or type(data) is not bytes or crc32(data, crc) != whole_crc:
        return None
    try:
        state = _decode_state(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Session(
        *(h.number, h.session_id, h.client_id, h.created_at, h.modified_at, h.active_at),
        *(h.timeout, h.revision, h.status, h.ended_at, *state, h.about),
    )


def _checked_head(number: Any, sequence: Any, session_id: Any, size: Any, crc: Any, head: Any) -> Head | None:
    if not (type(number) is type(sequence) is type(size) is int and type(session_id) is type(head) is bytes):
        return None
    if head_crc(number, sequence, session_id, size, head) != crc:
        return None
    try:
        return _decode_head(head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
