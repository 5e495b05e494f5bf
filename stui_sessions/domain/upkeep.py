"""What the server does by itself: it notes expiry, removes what was kept long enough, and records uses."""

from collections.abc import Iterable

from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import LIVE, Key, Session
from stui_sessions.domain.lifecycle import REMOVED, STATUS_NAMES, after
from stui_sessions.domain.manager import expire, remove
from stui_sessions.domain.records import Used


def sweep(draft: Draft, key: Key) -> Session | None:
    """Do what time has made due: mark a session expired, remove one that was kept long enough.

    Returns the session that was removed, as it was.  The use of one that is not due is
    recorded, so that the end that is stored moves on with it.
    """
    s = draft.entity(key)
    if not isinstance(s, Session):
        return None
    s = expire(draft, s)
    if s.status == LIVE:
        _record_use(draft, s)
        return None
    kept_until = s.ended_at + draft.world.rules.keep_expired * 1000
    if s.about.pinned or kept_until > draft.now.wall or after("remove", s.status, s.session_id) != REMOVED:
        return None
    remove(draft, s, STATUS_NAMES[s.status])
    return s


def record_uses(draft: Draft, keys: Iterable[Key]) -> None:
    """Record the last use of each of these sessions that is live, where it is not recorded."""
    for s in draft.entities(keys):
        if isinstance(s, Session) and s.status == LIVE:
            _record_use(draft, s)


def _record_use(draft: Draft, s: Session) -> None:
    if s.active_at != s.recorded_at:
        draft.stage(s, Used, s.active_at)
