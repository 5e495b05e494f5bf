"""Decisions that only tell: nothing is changed, nothing counts as use."""

from typing import Any

from msgspec import UNSET, Raw

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.describe import describe
from stui_sessions.protocol.fields import MIN_PREFIX
from stui_sessions.protocol.parameters import (
    ClientParams,
    DescribeParams,
    GetParams,
    NoParams,
    ResolveParams,
    SessionParams,
)
from stui_sessions.protocol.results import (
    DescribeResult,
    Details,
    GetResult,
    InfoResult,
    ListResult,
    PingResult,
    RemovedCounts,
    StatisticsResult,
    StatusCounts,
    Summary,
    ValidateResult,
)
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.finding import MAX_MATCHES, Reference
from stui_sessions.sessions.ground import Ground, absent
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, LIVE, Session
from stui_sessions.sessions.residents import owner_key
from stui_sessions.sessions.timing import Moment, format_instant, format_second


class Telling(Ground):
    """The commands that tell about one session, or one client's sessions, or the whole."""

    def get_session(self, caller: Caller, p: GetParams, now: Moment) -> GetResult:
        resident = self._named("get_session", p, now)
        s = self._known(resident)
        result = GetResult(*self._details(s, resident.size, now))
        if p.include:
            result.session_state = Raw(s.session_state)
            result.workspace_context = Raw(s.workspace_context)
            result.inspector_state = Raw(s.inspector_state)
            result.object_registry = Raw(s.object_registry)
        return result

    def get_session_info(self, caller: Caller, p: SessionParams, now: Moment) -> InfoResult:
        resident = self._named("get_session_info", p, now)
        s = resident.session
        if s is None:
            raise absent(resident)
        left = self.expiry.seconds_left(s, now.wall)
        return InfoResult(
            s.session_id,
            s.client_id or None,
            format_second(s.created_at // 1000),
            format_second(s.modified_at // 1000),
            s.timeout,
            left > 0,  # rounded up, so 0 only from the instant of expiry
            left,
            left == 0 and s.status <= EXPIRED,
            s.revision,
        )

    def validate_session(self, caller: Caller, p: SessionParams, now: Moment) -> ValidateResult:
        try:
            resident = self._named("validate_session", p, now)
        except Refusal as refusal:
            if refusal.code != "session_not_found":
                raise
            return ValidateResult(None, False, "not_found")
        s = resident.session
        if s is None:
            return ValidateResult(resident.session_id, False, "damaged" if resident.damaged else "not_found")
        status = self.expiry.status(s, now.wall)
        return ValidateResult(s.session_id, status == LIVE, None if status == LIVE else STATUS_NAMES[status])

    def resolve_session(self, caller: Caller, p: ResolveParams, now: Moment) -> Details:
        resident = self.book.resident(p.ref)
        if resident.damaged:
            raise absent(resident)
        if resident.session is not None:  # the whole id: nothing else can be meant
            return Details(*self._details(resident.session, resident.size, now))
        prefix = p.ref if len(p.ref) >= MIN_PREFIX else ""
        search, found = self._referred(
            Reference(prefix, p.ref, p.ref),
            MAX_MATCHES,
            lambda s: self.expiry.is_live(s, now.wall) or bool(prefix and s.session_id.startswith(prefix)),
        )
        if not found:
            raise Refusal(
                "session_not_found",
                f"nothing is called {quote(p.ref)}: no session has that id, no live one that external id or title, and "
                f"no id begins with it (for which it must have {MIN_PREFIX} characters)",
            )
        if len(found) > 1 or self._may_be_more(search):
            raise _ambiguous(p.ref, [s for s, _ in found])
        return Details(*self._details(*found[0], now))

    def list_client_sessions(self, caller: Caller, p: ClientParams, now: Moment) -> ListResult:
        key = owner_key("" if p.user_id is UNSET else p.user_id, p.client_id)
        assert key is not None
        live = [s for r in self._live_members(self.book.group(key), now) if (s := r.session) is not None]
        live.sort(key=lambda s: s.number)
        rows = [
            Summary(
                s.session_id,
                format_instant(s.created_at),
                format_instant(s.modified_at),
                s.timeout,
                True,
                self.expiry.seconds_left(s, now.wall),
                s.revision,
            )
            for s in live
        ]
        return ListResult(p.client_id, len(rows), rows)

    def get_session_statistics(self, caller: Caller, p: NoParams, now: Moment) -> StatisticsResult:
        totals, rules = self.book.totals, self.rules
        sweeper, server = self.vitals()
        return StatisticsResult(
            totals.live,
            totals.clients,
            rules.max_sessions_per_client,
            rules.default_timeout,
            rules.cleanup_interval,
            StatusCounts(*totals.by_status()),
            RemovedCounts(**self.book.removed),
            sweeper,
            server,
        )

    def ping(self, caller: Caller, p: NoParams, now: Moment) -> PingResult:
        return PingResult(True)

    def describe(self, caller: Caller, p: DescribeParams, now: Moment) -> DescribeResult:
        return describe() if p.command is UNSET else describe(p.command)

    def _details(self, s: Session, state_bytes: int, now: Moment) -> tuple[Any, ...]:
        """The fields of `Details`, in their order."""
        about = s.about
        status = self.expiry.status(s, now.wall)
        ends = self.expiry.expires_at(s) if s.status == LIVE else s.ended_at
        return (
            s.session_id,
            s.client_id or None,
            about.user_id or None,
            about.external_id or None,
            about.title or None,
            list(about.tags),
            Raw(about.metadata),
            STATUS_NAMES[status],
            status == LIVE,
            format_instant(s.created_at),
            format_instant(s.modified_at),
            format_instant(s.active_at),
            format_instant(ends) if status != LIVE else None,
            format_instant(ends) if status not in (CLOSED, DELETED) else None,
            self.expiry.seconds_left(s, now.wall),
            s.timeout,
            (about.ends_at - s.created_at) // 1000 if about.ends_at else None,
            about.pinned,
            s.revision,
            state_bytes,
            len(about.metadata),
        )


def _ambiguous(ref: str, found: list[Session]) -> Refusal:
    candidates = [
        {"session_id": s.session_id, "title": s.about.title or None, "client_id": s.client_id or None}
        for s in sorted(found, key=lambda s: s.active_at, reverse=True)[:MAX_MATCHES]
    ]
    return Refusal(
        "reference_ambiguous", f"{quote(ref)} may mean several sessions; name one by its id", candidates=candidates
    )
