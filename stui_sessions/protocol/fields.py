"""The types that parameters and results share: what a value may be, and what it means.

One description for each, which the reference part of protocol.md and the JSON
Schema repeat.  What an error says was expected follows from the type, unless
`extra` says it in better words (`expected`).
"""

from typing import Annotated, Literal

from msgspec import Meta, Raw

MAX_SESSION_ID = 8192
MAX_TITLE = 60
MAX_TITLE_SENT = 1000
MAX_TAGS = 32
MAX_METADATA_BYTES = 16 * 1024
CENTURY = 100 * 365 * 86_400
"""Seconds: what any setting that is a duration may be at most, and so what any session's timeout may be.
Far above any sane value, low enough that "now + timeout" is always a date of four digits."""

MAX_TTL = 3_155_760_000
"""Seconds: a hundred years, leap days too.  Enough for anybody, and every instant stays within four-digit years."""

MIN_PREFIX = 6

LAST_MS = 253_402_300_799_999
"""The end of the year 9999, in milliseconds: instants on the wire have years of four digits."""

NAME_PATTERN = r"^[A-Za-z0-9/~][A-Za-z0-9._:@/+=%~-]{0,255}\Z"
_NAME = "1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/` or `~`"
_NAME_EXPECTED = {"expected": "a string of " + _NAME.replace("`", "")}


def says(expected: str) -> dict[str, str]:
    """For `Meta(extra=…)`: what an error says was expected, where that says more than the type does."""
    return {"expected": expected}


# --- names ---

SessionId = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_SESSION_ID, description="The session's id, as it was given when it was made."),
]
OwnSessionId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_SESSION_ID,
        description="The id that the session is to have, used as it is: any string of at most 8192 bytes in UTF-8. "
        "Without it the server makes one.",
    ),
]
ClientId = Annotated[str, Meta(pattern=NAME_PATTERN, description=f"The client's name: {_NAME}.", extra=_NAME_EXPECTED)]
UserId = Annotated[str, Meta(pattern=NAME_PATTERN, description=f"The user's name: {_NAME}.", extra=_NAME_EXPECTED)]
ExternalId = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="A name of your own, unique among one user's live sessions."),
]
Tag = Annotated[str, Meta(min_length=1, max_length=64)]
Title = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TITLE_SENT,
        description=f"A title for people: at most {MAX_TITLE} characters, once control characters, zero-width spaces "
        "and byte order marks are removed and blanks at the ends are trimmed.",
        extra=says(f"a string of 1 to {MAX_TITLE} characters that can be seen"),
    ),
]
CleanTitle = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, description="Its title.")]
"""A title as it is stored."""
Tags = Annotated[
    list[Tag], Meta(max_length=MAX_TAGS, description=f"Up to {MAX_TAGS} tags of 1 to 64 characters; each counts once.")
]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]

# --- time ---

Timeout = Annotated[
    int,
    Meta(
        ge=1,
        description="Seconds without use after which the session expires; at most the setting `max_timeout`.",
    ),
]
Ttl = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_TTL,
        description="Seconds after its creation at which the session expires however much it is used.",
    ),
]
IdleTime = Annotated[int, Meta(ge=0, description="Seconds without use after which the session expires.")]
TimeLeft = Annotated[
    int, Meta(ge=0, description="Seconds left until it expires, from 0 to `timeout`; 0 once it has ended.")
]
Created = Annotated[str, Meta(description="When the session was created; UTC, `2025-08-30T10:30:00Z`.")]
Modified = Annotated[str, Meta(description="When state was last saved in it (or it was created); UTC.")]
LastActivity = Annotated[str, Meta(description="When it was last used; UTC.")]
ExpiresAt = Annotated[str, Meta(description="When it will expire if it is not used; UTC.")]

# --- what a session is ---

Revision = Annotated[int, Meta(ge=1, description="1 when created, one more with each accepted `update_session_state`.")]
Active = Annotated[bool, Meta(description="The session can be used: it has not expired, been closed or been deleted.")]
StatusName = Literal["live", "expired", "closed", "deleted"]
Status = Annotated[StatusName, Meta(description="`live`, `expired`, `closed` or `deleted`.")]

# The same four objects in parameters and results; what each is for is the client's business.
SessionState = Annotated[JsonObject, Meta(description="The session's state; `{}` when nothing was saved.")]
WorkspaceContext = Annotated[JsonObject, Meta(description="What the workspace holds; `{}` when nothing was saved.")]
InspectorState = Annotated[JsonObject, Meta(description="What the inspector shows; `{}` when nothing was saved.")]
ObjectRegistry = Annotated[JsonObject, Meta(description="Objects by name; `{}` when nothing was saved.")]

STATE_OBJECTS = ("session_state", "workspace_context", "inspector_state", "object_registry")

NAMING = ("session_id", "external_id")
"""The two ways to name a session that is there; one of them is needed."""
