"""Decisions about ends: closing, deleting, bringing back, and what the sweeper does."""

from msgspec.structs import replace

from stui_sessions.protocol.parameters import DeleteParams, SessionParams
from stui_sessions.protocol.results import CloseResult, DeleteResult, UndeleteResult
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.editing import Editing
from stui_sessions.sessions.lifecycle import STATUS_NAMES, after
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, LIVE, Ended, Reopened, Session, apply, ended
from stui_sessions.sessions.opening import Opening, limit_reached
from stui_sessions.sessions.residents import Resident, external_key, owner_key
from stui_sessions.sessions.timing import Moment


class Ending(Opening, Editing):
    """The commands that end a session or bring it back, and the sweeper's decision."""

    def close_session(self, caller: Caller, p: SessionParams, now: Moment) -> CloseResult:
        resident = self._named("close_session", p, now)
        s = self._known(resident)
        if after("close", self.expiry.status(s, now.wall), s.session_id) == CLOSED != s.status:
            self._end(resident, s, CLOSED, now.wall)
        return CloseResult(s.session_id, True, s.revision)

    def delete_session(self, caller: Caller, p: DeleteParams, now: Moment) -> DeleteResult:
        resident = self._named("delete_session", p, now)
        s = self._known(resident)
        was_deleted = s.status == DELETED
        if p.purge:
            self.book.need_groups(s)
            self.book.remove(resident, "purged")
        elif not was_deleted:
            self._end(resident, s, DELETED, now.wall)
        return DeleteResult(s.session_id, True, was_deleted, p.purge)

    def undelete_session(self, caller: Caller, p: SessionParams, now: Moment) -> UndeleteResult:
        resident = self._named("undelete_session", p, now)
        s = self._known(resident)
        if self.expiry.is_live(s, now.wall):
            return UndeleteResult(*(*self._details(s, resident.size, now), False))
        overdue = self._check_may_return(s, now)
        about = s.about
        if about.ends_at and about.ends_at <= now.wall:
            about = replace(about, ends_at=0)
        record = Reopened(s.number, now.wall, about)
        back = apply(s, record)
        assert back is not None
        self.book.need_groups(s, back)
        self.book.change(resident, record, back)
        self._note_expiry(r for r in overdue if r is not resident)
        return UndeleteResult(*(*self._details(back, resident.size, now), True))

    def _check_may_return(self, s: Session, now: Moment) -> list[Resident]:
        """The limit and the external id, as for a new session; nobody is evicted for it.

        Returns the expired ones whose place or external id it takes.
        """
        overdue: list[Resident] = []
        key = owner_key(s.user_id, s.client_id)
        if key is not None:
            limit = self.rules.max_sessions_per_client if s.client_id else self.rules.max_sessions_per_user
            if len(self._live_members(self.book.group(key), now)) >= limit:
                raise limit_reached(s.user_id, s.client_id, limit)
            overdue += self._overdue(key, now)
        if external_key(s.user_id, s.about.external_id) is not None:
            overdue += self._check_external_id(s.user_id, s.about.external_id, now, {s.session_id})
        return overdue

    def sweep(self, session_id: str, now: Moment) -> Session | None:
        """Do what time has made due: mark a session expired, remove one that was kept long enough.

        Returns the session that was removed, as it was.
        """
        resident = self.book.resident(session_id)
        s = resident.session
        if s is None:
            return None
        self.book.need_groups(s)
        if s.status == LIVE and not self.expiry.is_live(s, now.wall):
            s = self._end(resident, s, EXPIRED, self.expiry.expires_at(s))
        if s.status == LIVE or s.about.pinned or s.ended_at + self.rules.keep_expired * 1000 > now.wall:
            return None
        self.book.remove(resident, STATUS_NAMES[s.status])
        return s

    def _end(self, resident: Resident, s: Session, status: int, at: int) -> Session:
        self.book.need_groups(s)
        result = ended(s, status, at)
        self.book.change(resident, Ended(s.number, status, at), result)
        return result
