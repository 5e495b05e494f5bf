"""Rows as bytes and back: the journal's entries and the sessions' rows.

Pure: no SQL, no I/O.  Both kinds carry a CRC-32, because SQLite's own check does
not look at payload.  A session's CRC also covers its key (number, sequence, id),
so that a good payload in the wrong row is damage too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.sessions.model import LIVE, Record, Session, Totals

JOURNAL_VERSION = 1
"""Of the journal entry's form.  Goes up when an older server could not read it."""

_MAX_INTEGER = 2**63 - 1  # SQLite's


class Entry(Struct, array_like=True, gc=False):
    """One journal entry: what one commit changed."""

    version: int
    sequence: int
    totals: Totals  # as of this commit
    records: list[Record]


class Row(NamedTuple):
    """A row of the sessions table, without the tenant."""

    number: int
    session_id: bytes  # UTF-8; a BLOB, because a NUL ends an SQL text
    client_id: str
    status: int
    due_at: int
    size: int
    sequence: int
    crc: int
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_decode_session = msgspec.msgpack.Decoder(Session).decode
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
    if entry.version != JOURNAL_VERSION:
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


def encode_id(session_id: str) -> bytes:
    """An id as it is stored.  Half a surrogate pair is looked up in vain instead of failing."""
    return session_id.encode("utf-8", "surrogatepass")


def decode_id(stored: Any) -> str:
    """The id of a row whose CRC nobody has checked: damage shows as U+FFFD and finds nothing."""
    return bytes(stored).decode("utf-8", "replace") if isinstance(stored, bytes) else str(stored)


def due_at(session: Session) -> int:
    """When its end may come (live), or when it ended; ms."""
    if session.status != LIVE:
        return session.ended_at
    return min(session.active_at + session.timeout * 1000, _MAX_INTEGER)


def session_crc(number: int, sequence: int, session_id: bytes, data: bytes) -> int:
    """The checksum of a session's row: its payload and the key it is stored under."""
    return crc32(data, crc32(b"%d %d %b" % (number, sequence, session_id)))


def encode_session(sequence: int, session: Session) -> Row:
    """The row of a session as of commit `sequence`."""
    data = _encode(session)
    session_id = session.session_id.encode()
    return Row(
        session.number,
        session_id,
        session.client_id,
        session.status,
        due_at(session),
        session.state_bytes,
        sequence,
        session_crc(session.number, sequence, session_id, data),
        data,
    )


def decode_session(number: Any, sequence: Any, session_id: Any, crc: Any, data: Any) -> Session | None:
    """The session of a row, None if the row is not what was written."""
    if not (type(number) is int and type(sequence) is int and type(session_id) is bytes and type(data) is bytes):
        return None
    if session_crc(number, sequence, session_id, data) != crc:
        return None
    try:
        return _decode_session(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
