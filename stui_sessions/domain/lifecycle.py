"""What leads from one state of a session to another: the whole of it in one table.

Every decision about a session goes through `after`.  Drawn in protocol.md; a test
walks through every field of it.
"""

from typing import Literal

from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE
from stui_sessions.errors import Refusal, quote

REMOVED = -1
"""The session is no longer known, and its id may be used again."""

STATUS_NAMES = ("live", "expired", "closed", "deleted")
"""The states as the wire names them, in the order of their numbers."""

Event = Literal["use", "edit", "pin", "expire", "close", "delete", "undelete", "purge", "remove"]

_NO_USE = {EXPIRED: "session_expired", CLOSED: "session_closed", DELETED: "session_deleted"}

AFTER: dict[Event, dict[int, int | str]] = {
    # Restoring, resuming, touching, saving state.
    "use": {LIVE: LIVE, **_NO_USE},
    # Changing its labels and lifetimes, but for pinning.
    "edit": {LIVE: LIVE, **_NO_USE},
    "pin": {LIVE: LIVE, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "expire": {LIVE: EXPIRED, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "close": {LIVE: CLOSED, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "delete": {LIVE: DELETED, EXPIRED: DELETED, CLOSED: DELETED, DELETED: DELETED},
    "undelete": {LIVE: LIVE, EXPIRED: LIVE, CLOSED: LIVE, DELETED: LIVE},
    "purge": {LIVE: REMOVED, EXPIRED: REMOVED, CLOSED: REMOVED, DELETED: REMOVED},
    # The sweeper, `keep_expired` after the end.
    "remove": {LIVE: LIVE, EXPIRED: REMOVED, CLOSED: REMOVED, DELETED: REMOVED},
}
"""For each event and state, the state it leads to, or the code of the refusal."""

_ENDED = {"session_expired": "has expired", "session_closed": "was closed", "session_deleted": "was deleted"}


def after(event: Event, status: int, session_id: str) -> int:
    """The state that `event` leads to from the real `status`; raises Refusal if it leads nowhere."""
    outcome = AFTER[event][status]
    if isinstance(outcome, str):
        raise Refusal(
            outcome,
            f"the session {quote(session_id)} {_ENDED[outcome]}; undelete_session brings it back",
            status=STATUS_NAMES[status],
        )
    return outcome


def taken(status: int) -> Refusal:
    """The id that a session is to have is that of another one, whose real status is given."""
    helps = {
        LIVE: "",
        EXPIRED: ": that session has expired; undelete_session brings it back, and so does open_session with revive",
        CLOSED: ": that session was closed; undelete_session brings it back",
        DELETED: ": that session was deleted; undelete_session brings it back",
    }
    return Refusal("session_id_conflict", f"Session ID already exists{helps[status]}", status=STATUS_NAMES[status])
