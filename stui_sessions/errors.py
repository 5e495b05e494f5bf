"""Every error a client can see: its type, its stable code, its text.

The four error types are those of the wire contract (seed 004).  The code is the
stable name for programs; the text is for people and may change.
"""

from typing import Any, Literal

from msgspec import Struct

ErrorType = Literal["SessionError", "SessionNotFound", "RuntimeError", "Error"]

MAX_QUOTE = 100
"""Characters of a client's own text that an error may repeat."""


class Code(Struct, frozen=True):
    """One row of the table of error codes."""

    error_type: ErrorType
    meaning: str
    details: str = ""


CODES: dict[str, Code] = {
    # The request itself is wrong: nothing was changed.
    "invalid_json": Code("Error", "The line is not JSON (NaN and Infinity are not JSON either)."),
    "invalid_utf8": Code("Error", "The line is not UTF-8."),
    "invalid_request": Code("Error", "The line is JSON but not a request: `id`, `command`, `parameters`.", "`field`"),
    "lone_surrogate": Code("Error", "A string holds half of a UTF-16 surrogate pair."),
    "duplicate_key": Code("Error", "An object names the same key twice.", "`key`"),
    "number_out_of_range": Code("Error", "A number is larger than a double can hold (about 1.8e308)."),
    "too_deep": Code("Error", "Arrays and objects are nested deeper than `max_depth`.", "`limit`"),
    "message_too_large": Code(
        "Error", "The line is longer than `max_message_bytes`; all of it was discarded.", "`limit`"
    ),
    "line_timeout": Code(
        "Error", "A line was begun and not ended within `line_timeout`; the connection is closed.", "`limit`"
    ),
    "unknown_command": Code("Error", "There is no such command.", "`command`, `nearest`"),
    "unknown_parameter": Code("Error", "The command has no such parameter.", "`parameter`, `nearest`"),
    "missing_parameter": Code("Error", "A required parameter is not there.", "`parameter`, `expected`"),
    "null_parameter": Code("Error", "A parameter is `null`, and null is no value for it.", "`parameter`, `expected`"),
    "empty_parameter": Code("Error", 'A parameter is `""`, and must not be empty.', "`parameter`, `expected`"),
    "wrong_type": Code("Error", "A parameter is of another JSON type.", "`parameter`, `expected`, `got`"),
    "invalid_parameter": Code(
        "Error", "A parameter is of the right type, but its value is not allowed.", "`parameter`, `expected`"
    ),
    "title_unprintable": Code(
        "Error", "Nothing is left of the title once control characters are removed.", "`parameter`, `expected`"
    ),
    "metadata_too_large": Code("Error", "The metadata would pass 16 KiB.", "`limit`, `size`"),
    "checksum_mismatch": Code("Error", "A row of an import is not what was exported."),
    "invalid_record": Code("Error", "A row of an import holds no session."),
    # The session cannot be used.
    "session_not_found": Code("SessionNotFound", "There is no session of that id."),
    "session_expired": Code("SessionNotFound", "The session has expired; it can be looked at, not used.", "`status`"),
    "session_closed": Code("SessionNotFound", "The session was closed; it can be looked at, not used.", "`status`"),
    "session_deleted": Code("SessionNotFound", "The session was deleted; it can be looked at, not used.", "`status`"),
    # A rule of session management says no.
    "session_limit_reached": Code(
        "SessionError",
        "The client has `max_sessions_per_client` live sessions, or the user `max_sessions_per_user` without a client.",
        "`limit`",
    ),
    "session_id_conflict": Code("SessionError", "The id asked for is taken.", "`status` (of the session that has it)"),
    "external_id_conflict": Code("SessionError", "A live session of the same user has that external id."),
    "external_id_ambiguous": Code(
        "SessionError", "Live sessions of several users have that external id; name the user, or the session's id."
    ),
    "reference_ambiguous": Code(
        "SessionError", "Several sessions are meant by the reference; take one of their ids.", "`candidates`"
    ),
    "backup_not_found": Code("Error", "There is no such copy, or nobody has read it for too long."),
    "no_ttl": Code("SessionError", "The session has no absolute end that could be moved."),
    "client_not_allowed": Code("SessionError", "The allow and deny lists keep this client out."),
    "create_rate_exceeded": Code(
        "SessionError",
        "The client (or the user, or the address, where there is no client) creates sessions too fast.",
        "`limit`, `retry_after` (seconds)",
    ),
    "state_too_large": Code(
        "SessionError", "The four objects together would pass `max_state_bytes`.", "`limit`, `size`"
    ),
    # The server failed or is full: nothing was changed, safe to send again.
    "storage_unavailable": Code("RuntimeError", "The disk refuses (full, read-only, failing)."),
    "storage_damaged": Code("RuntimeError", "The database is damaged; the server no longer writes to it."),
    "session_damaged": Code("RuntimeError", "What is stored of this session fails its checksum."),
    "too_many_connections": Code(
        "RuntimeError", "The server has `max_connections`; the connection is closed.", "`limit`"
    ),
    "backup_unavailable": Code("RuntimeError", "The copy cannot be made: no room on disk, or nothing is on disk."),
    "backup_in_progress": Code("RuntimeError", "Another copy is being made or read; try again when it is done."),
    "overloaded": Code("RuntimeError", "The memory for unfinished lines is used up; the line was discarded."),
    "internal_error": Code("RuntimeError", "A fault in the server; its log says more."),
}


class Refusal(Exception):
    """The answer to a request is no.  `code` is a key of `CODES`."""

    def __init__(self, code: str, text: str, **details: Any) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details

    @classmethod
    def told(cls, code: str, text: str) -> "Refusal":
        """The refusal that an error reply tells of."""
        return cls(code, text)

    @property
    def error_type(self) -> ErrorType:
        return CODES[self.code].error_type


def quote(sent: str, most: int = MAX_QUOTE) -> str:
    """`sent` in quotes, printable, and cut to `most` characters so that no error echoes a megabyte."""
    cut = sent if len(sent) <= most else sent[: most - 1] + "…"
    return f'"{printable(cut)}"'


def printable(text: str) -> str:
    """`text` with something to be seen in the place of each character that no terminal should be sent."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class StorageError(Exception):
    """The store cannot do what was asked now; `sqlite3.Error` and `OSError` end here."""

    code = "storage_unavailable"


class StorageDamaged(StorageError):
    """What is in the store is not what was written.  It is never overwritten."""

    code = "storage_damaged"


class StartError(Exception):
    """The server cannot start; the text is for the person who started it."""
