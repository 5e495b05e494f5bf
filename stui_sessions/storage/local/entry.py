"""Entries of the log as bytes and back.  Pure: no I/O.

An entry is a header and a payload, and describes itself: which log and which use of
a segment it belongs to, its number, its length, and a checksum over all of it.  A
segment is used again and again, so what lies behind its end is old; the use
(`ordinal`) in every header tells old from new.

`synced` is the number up to which every commit was known to be durable when the
entry was written.  It tells what a hole before the entry means: below `synced` it is
damage; above it nobody was promised anything (`durability` "normal").
"""

import struct
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from stui_sessions.domain.records import Record
from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage.counting import Counters

VERSION = 1
"""Of the payload's form.  Goes up when an older server could not read it."""

MAGIC = b"STLE"
_MARK = struct.Struct("<4s8sI")
_HEADER = struct.Struct("<16sQQqIHHI")
HEADER_SIZE = _HEADER.size
_CHECKED = HEADER_SIZE - 4  # the checksum is the last field, and covers all before it

MAX_PAYLOAD = 2**32 - 1


class Header(NamedTuple):
    """What an entry says of itself."""

    number: int  # of the commit
    synced: int  # commits up to here were durable by then
    at: int  # ms; when it was written
    length: int  # bytes of the payload
    version: int


class Payload(Struct, array_like=True, gc=False):
    """What one commit holds.  New fields go at the end, with a default."""

    records: list[Record]
    totals: list[Counters]  # of the tenants whose totals it changes
    last_number: int  # the highest session number given out by then


_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Payload).decode


def mark_of(log_id: bytes, ordinal: int) -> bytes:
    """The 16 bytes that every entry of a segment begins with, in its present use."""
    return _MARK.pack(MAGIC, log_id[:8], ordinal)


def encode_payload(buffer: bytearray, records: list[Record], totals: list[Counters], last_number: int) -> int:
    """Put a payload into `buffer`, behind the place of the header; the bytes of the whole entry.  The hot path."""
    _encoder.encode_into((records, totals, last_number), buffer, HEADER_SIZE)
    return len(buffer)


def seal(buffer: bytearray, mark: bytes, number: int, synced: int, at: int) -> None:
    """Write the header of the entry whose payload is in `buffer`."""
    length = len(buffer) - HEADER_SIZE
    _HEADER.pack_into(buffer, 0, mark, number, synced, at, length, VERSION, 0, 0)
    with memoryview(buffer) as view:
        crc = crc32(view[HEADER_SIZE:], crc32(view[:_CHECKED]))
    buffer[_CHECKED:HEADER_SIZE] = crc.to_bytes(4, "little")


def read_header(data: bytes, mark: bytes) -> Header | None:
    """What the first bytes of an entry say; None if they are not of an entry with this mark.  Not checked yet."""
    if len(data) < HEADER_SIZE or not data.startswith(mark):
        return None
    _mark, number, synced, at, length, version, _reserved, _crc = _HEADER.unpack_from(data)
    return Header(number, synced, at, length, version)


def is_whole(header: bytes, payload: bytes) -> bool:
    """Header and payload are what was written."""
    crc = crc32(payload, crc32(header[:_CHECKED]))
    return crc == int.from_bytes(header[_CHECKED:HEADER_SIZE], "little")


def decode_payload(header: Header, payload: bytes, where: str) -> Payload:
    """The content of a whole entry.  StartError if a newer server wrote it; `where` is for the texts."""
    if header.version != VERSION:
        raise StartError(
            f"entry {header.number} of {where} is of version {header.version}, and this server knows up to version "
            f"{VERSION}: use the server version that wrote it"
        )
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageDamaged(f"entry {header.number} of {where} cannot be decoded: {error}") from error
