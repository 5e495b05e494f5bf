"""What leads from one state of a session to another: the whole of it in one table.

Drawn in protocol.md; a test walks through every field of it.
"""

from typing import Literal

from stui_sessions.errors import Refusal, quote
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, LIVE

GONE = -1
"""The session is no longer known, and its id may be used again."""

STATUS_NAMES = ("live", "expired", "closed", "deleted")
"""The states as the wire names them, in the order of their numbers."""

Event = Literal["use", "edit", "pin", "expire", "close", "delete", "undelete", "purge", "remove"]

_NO_USE = {EXPIRED: "session_expired", CLOSED: "session_closed", DELETED: "session_deleted"}

AFTER: dict[Event, dict[int, int | str]] = {
    # Restoring, resuming, touching, saving state.
    "use": {LIVE: LIVE, **_NO_USE},
    # Changing what is said of it, but for pinning.
    "edit": {LIVE: LIVE, **_NO_USE},
    "pin": {LIVE: LIVE, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "expire": {LIVE: EXPIRED, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "close": {LIVE: CLOSED, EXPIRED: EXPIRED, CLOSED: CLOSED, DELETED: DELETED},
    "delete": {LIVE: DELETED, EXPIRED: DELETED, CLOSED: DELETED, DELETED: DELETED},
    "undelete": {LIVE: LIVE, EXPIRED: LIVE, CLOSED: LIVE, DELETED: LIVE},
    "purge": {LIVE: GONE, EXPIRED: GONE, CLOSED: GONE, DELETED: GONE},
    # The sweeper, `keep_expired` after the end.
    "remove": {LIVE: LIVE, EXPIRED: GONE, CLOSED: GONE, DELETED: GONE},
}
"""For each event and state, the state it leads to, or the code of the refusal."""

_REFUSALS = {
    "session_expired": "the session {} has expired; create a new one, or undelete it",
    "session_closed": "the session {} was closed; create a new one, or undelete it",
    "session_deleted": "the session {} was deleted; create a new one, or undelete it",
}


def after(event: Event, status: int, session_id: str) -> int:
    """The state that `event` leads to from the real `status`; raises Refusal if it leads nowhere."""
    outcome = AFTER[event][status]
    if isinstance(outcome, str):
        raise Refusal(outcome, _REFUSALS[outcome].format(quote(session_id)))
    return outcome
