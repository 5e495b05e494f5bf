"""The table `meta`: what the database says of itself."""

import sqlite3
from typing import Any

import msgspec
from msgspec import Struct

from stui_sessions.storage.counting import Counters

_encode = msgspec.msgpack.Encoder().encode
_decode_totals = msgspec.msgpack.Decoder(list[Counters]).decode


class Meta(Struct):
    """The rows of the table, each under its key."""

    clean: int = 1  # the last server closed in order, with all uses recorded
    uncertain_until: int = 0  # ms; see `times.Expiry`
    tables_commit: int = 0  # every commit up to here is in the tables
    last_number: int = 0  # the highest session number given out by then
    totals: bytes = b"\x90"  # MessagePack of the counters by then
    log_id: bytes = b""  # of the log that goes with the database; empty where there is none yet
    log_segment: int = 0  # one that was in use by then
    needs_log: int = 0  # there may be commits that the log alone holds

    def counters(self) -> list[Counters]:
        """The totals; raises msgspec.MsgspecError."""
        return _decode_totals(self.totals)


def read(connection: sqlite3.Connection) -> Meta:
    """All of it.  sqlite3.DatabaseError if a value is not one that was written."""
    rows: dict[str, Any] = {}
    for key, value in connection.execute("SELECT key, value FROM meta"):
        rows[key if isinstance(key, str) else bytes(key).decode("utf-8", "replace")] = value
    try:
        found = msgspec.convert({k: v for k, v in rows.items() if k in Meta.__struct_fields__}, Meta)
        found.counters()
    except msgspec.MsgspecError as error:
        raise sqlite3.DatabaseError(f"database disk image is malformed: the table meta: {error}") from error
    return found


def encode_totals(counters: list[Counters]) -> bytes:
    """The value of `totals`."""
    return _encode(counters)
