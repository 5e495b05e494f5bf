"""Decisions about what is said of a session: title, tags, metadata, external id, lifetimes."""

from msgspec import UNSET
from msgspec.structs import replace

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.explain import EXPECTED, invalid
from stui_sessions.protocol.fields import MAX_TTL
from stui_sessions.protocol.jsontext import merge_removing
from stui_sessions.protocol.parameters import EditParams, ExtendParams, TitleParams
from stui_sessions.protocol.results import Details, ExtendResult
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.model import About, Edited, Session
from stui_sessions.sessions.residents import Resident
from stui_sessions.sessions.saying import check_metadata, clean_title, unique_tags
from stui_sessions.sessions.telling import Telling
from stui_sessions.sessions.timing import Moment, format_instant
from stui_sessions.sessions.using import checked


class Editing(Telling):
    """The commands that change what is said of a session.  None of them counts as use."""

    def update_session(self, caller: Caller, p: EditParams, now: Moment) -> Details:
        resident = self.book.resident(p.session_id)
        s = self._allow("pin" if _only_pins(p) else "edit", resident, now.wall)
        timeout = s.timeout if p.timeout is UNSET else self._timeout(p.timeout)
        about = _edited(s, p)
        overdue = []
        if about.external_id != s.about.external_id:
            overdue = self._check_external_id(s.user_id, about.external_id, now, {s.session_id})
        s = self._edit(resident, s, timeout, about)
        self._note_expiry(overdue)
        return Details(*self._details(s, resident.size, now))

    def update_session_title(self, caller: Caller, p: TitleParams, now: Moment) -> Details:
        resident = self._named("update_session_title", p, now)
        s = self._allow("edit", resident, now.wall)
        s = self._edit(resident, s, s.timeout, replace(s.about, title=clean_title(p.title)))
        return Details(*self._details(s, resident.size, now))

    def extend_session(self, caller: Caller, p: ExtendParams, now: Moment) -> ExtendResult:
        resident = self._named("extend_session", p, now)
        s = self._allow("edit", resident, now.wall)
        if not s.about.ends_at:
            raise Refusal(
                "no_ttl",
                f"the session {quote(s.session_id)} has no absolute end; update_session sets one with ttl_seconds",
            )
        ends_at = s.about.ends_at + p.seconds * 1000
        if ends_at > s.created_at + MAX_TTL * 1000:
            raise invalid("seconds", EXPECTED["seconds"] + " in all", str(p.seconds))
        s = self._edit(resident, s, s.timeout, replace(s.about, ends_at=ends_at))
        return ExtendResult(s.session_id, format_instant(self.expiry.expires_at(s)), (ends_at - s.created_at) // 1000)

    def _edit(self, resident: Resident, s: Session, timeout: int, about: About) -> Session:
        """Put it in the book, unless it is what was there already."""
        if timeout == s.timeout and about == s.about:
            return s
        after = replace(s, timeout=timeout, about=about)
        self.book.need_groups(s, after)
        if timeout < s.timeout and resident.is_unrecorded:
            # What is recorded may now lag less behind: else it could expire early after a crash.
            self.book.use(resident, s, record=True)
        self.book.change(resident, Edited(s.number, timeout, about), after)
        return after


def _only_pins(p: EditParams) -> bool:
    others = (p.title, p.tags, p.metadata, p.external_id, p.timeout, p.ttl_seconds)
    return p.pin is not UNSET and all(value is UNSET for value in others)


def _edited(s: Session, p: EditParams) -> About:
    """What is said of `s` once the parameters are applied; raises Refusal."""
    about = s.about
    ends_at = about.ends_at
    if p.ttl_seconds is not UNSET:
        ends_at = 0 if p.ttl_seconds is None else s.created_at + p.ttl_seconds * 1000
    metadata = about.metadata
    if p.metadata is not UNSET:
        metadata = check_metadata(merge_removing(metadata, checked(p.metadata).text))
    return About(
        about.user_id,
        about.external_id if p.external_id is UNSET else p.external_id or "",
        about.title if p.title is UNSET else clean_title(p.title) if p.title is not None else "",
        about.tags if p.tags is UNSET else unique_tags(p.tags),
        metadata,
        ends_at,
        about.pinned if p.pin is UNSET else p.pin,
    )
