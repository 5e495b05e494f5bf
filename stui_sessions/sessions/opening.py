"""Decisions about beginning: new sessions, resumption, ids of the client's own, limits."""

from collections.abc import Hashable

from msgspec import UNSET, Raw, Struct, UnsetType

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.explain import EXPECTED, invalid
from stui_sessions.protocol.fields import MAX_SESSION_ID
from stui_sessions.protocol.parameters import CreateParams, OpenParams
from stui_sessions.protocol.results import CreateResult, OpenResult
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.ground import absent
from stui_sessions.sessions.model import CLOSED, EMPTY, LIVE, About, Ended, Session, ended
from stui_sessions.sessions.residents import Resident, owner_key
from stui_sessions.sessions.saying import check_metadata, clean_title, unique_tags
from stui_sessions.sessions.timing import Moment, format_instant
from stui_sessions.sessions.using import Using, text_of

CREATED, RESUMED = "Session created successfully", "Session resumed successfully"


class Birth(Struct):
    """A session about to be made: everything about it was checked."""

    user_id: str
    client_id: str
    timeout: int
    about: About
    objects: tuple[bytes, bytes, bytes, bytes]
    victims: list[Resident]
    overdue: list[Resident]  # expired ones whose place or external id it takes
    paid: Hashable


class Opening(Using):
    """`create_session` and `open_session`."""

    def create_session(self, caller: Caller, p: CreateParams, now: Moment) -> CreateResult:
        session_id = None if p.session_id is UNSET else self._free_id(p.session_id)
        birth = self._check_birth(caller, p, p.client_id, 0, now)
        s, evicted = self._make(birth, session_id, p.id_format, now)
        return CreateResult(s.session_id, s.client_id, now.text, s.timeout, True, 1, evicted)

    def open_session(self, caller: Caller, p: OpenParams, now: Moment) -> OpenResult:
        if p.session_id is not UNSET:
            return self._open_by_id(caller, p, p.session_id, now)
        client_id = "" if p.client_id is UNSET else p.client_id
        if client_id and p.resume:
            resident = self._last_used("" if p.user_id is UNSET else p.user_id, client_id, now)
            if resident is not None:
                return self._resume(resident, now)
        return self._open_new(caller, p, None, now)

    # -- an id of the client's own

    def _open_by_id(self, caller: Caller, p: OpenParams, session_id: str, now: Moment) -> OpenResult:
        """The table of the ways in which an id can be taken."""
        _check_id(session_id)
        resident = self.book.resident(session_id)
        s = resident.session
        if s is None and not resident.damaged:
            return self._open_new(caller, p, session_id, now)
        if s is None:
            raise absent(resident)
        is_owner = (s.user_id, s.client_id) == (
            "" if p.user_id is UNSET else p.user_id,
            "" if p.client_id is UNSET else p.client_id,
        )
        if is_owner and p.on_conflict != "error" and self.expiry.is_live(s, now.wall):
            return self._resume(resident, now)
        if not is_owner and p.on_conflict == "new":
            result = self._open_new(caller, p, None, now)
            result.was_collision = True
            result.requested_session_id = session_id
            return result
        raise _taken()

    def _free_id(self, session_id: str) -> str:
        _check_id(session_id)
        resident = self.book.resident(session_id)
        if resident.damaged:
            raise absent(resident)
        if resident.session is not None:
            raise _taken()
        return session_id

    # -- resuming

    def _last_used(self, user_id: str, client_id: str, now: Moment) -> Resident | None:
        """The most recently active live session of an owner."""
        key = owner_key(user_id, client_id)
        assert key is not None
        live = self._live_members(self.book.group(key), now)
        return max(live, key=_activity, default=None)

    def _resume(self, resident: Resident, now: Moment) -> OpenResult:
        self.book.named = resident
        return self._opened(self._use(resident, now), resumed=True)

    # -- making

    def _open_new(self, caller: Caller, p: OpenParams, session_id: str | None, now: Moment) -> OpenResult:
        client_id = "" if p.client_id is UNSET else p.client_id
        birth = self._check_birth(caller, p, client_id, self.rules.default_ttl, now)
        s, evicted = self._make(birth, session_id, p.id_format, now)
        result = self._opened(s, resumed=False)
        result.evicted_session_id = evicted
        return result

    def _check_birth(
        self, caller: Caller, p: CreateParams | OpenParams, client_id: str, default_ttl: int, now: Moment
    ) -> Birth:
        """Everything that can be wrong with a new session."""
        user_id = "" if p.user_id is UNSET else p.user_id
        timeout = self._timeout(p.timeout)
        about = _about(p, user_id, default_ttl, now.wall)
        objects = (
            text_of(p.session_state),
            text_of(p.workspace_context),
            text_of(p.inspector_state),
            text_of(p.object_registry),
        )
        self._check_size(sum(map(len, objects)))
        self._check_lists(client_id)
        victims, overdue = self._room_for_one(user_id, client_id, now)
        overdue += self._check_external_id(user_id, about.external_id, now, {r.session_id for r in victims})
        paid = _bucket(caller, user_id, client_id)
        self._check_rate(paid, now)
        return Birth(user_id, client_id, timeout, about, objects, victims, overdue, paid)

    def _make(
        self, birth: Birth, session_id: str | None, id_format: str, now: Moment
    ) -> tuple[Session, str | UnsetType]:
        """Close those that must make room, and put the new session in the book."""
        evicted: str | UnsetType = UNSET
        self._note_expiry(birth.overdue)
        for resident in birth.victims:
            victim = resident.session
            assert victim is not None
            self.book.change(resident, Ended(victim.number, CLOSED, now.wall), ended(victim, CLOSED, now.wall))
            evicted = victim.session_id if evicted is UNSET else evicted
        totals = self.book.totals
        totals.last_number += 1
        if session_id is None:
            session_id = self._new_id(totals.last_number, now.wall // 1000, id_format)
        at = now.wall
        s = Session(
            totals.last_number,
            session_id,
            birth.client_id,
            at,
            at,
            at,
            birth.timeout,
            1,
            LIVE,
            0,
            *birth.objects,
            about=birth.about,
        )
        self.book.create(s, birth.paid)
        self.rate.take(birth.paid, now.monotonic)
        return s, evicted

    def _opened(self, s: Session, *, resumed: bool) -> OpenResult:
        about = s.about
        return OpenResult(
            session_id=s.session_id,
            client_id=s.client_id or None,
            created_at=format_instant(s.created_at),
            last_modified=format_instant(s.modified_at),
            timeout=s.timeout,
            is_active=True,
            session_state=Raw(s.session_state),
            workspace_context=Raw(s.workspace_context),
            inspector_state=Raw(s.inspector_state),
            object_registry=Raw(s.object_registry),
            revision=s.revision,
            session_resumed=resumed,
            message=RESUMED if resumed else CREATED,
            user_id=about.user_id or None,
            title=about.title or None,
            tags=list(about.tags),
            metadata=Raw(about.metadata),
            external_id=about.external_id or None,
            last_activity=format_instant(s.active_at),
            expires_at=format_instant(self.expiry.expires_at(s)),
        )

    # -- limits

    def _check_lists(self, client_id: str) -> None:
        if not self.lists.admits(client_id):
            who = f"the client {quote(client_id)}" if client_id else "sessions without a client_id"
            raise Refusal("client_not_allowed", f"this server does not admit {who}")

    def _room_for_one(self, user_id: str, client_id: str, now: Moment) -> tuple[list[Resident], list[Resident]]:
        """What makes room for one more of the owner's: sessions to close, and expired ones to note.

        Raises Refusal if there is none, and closing is not the rule.
        """
        key = owner_key(user_id, client_id)
        if key is None:
            return [], []
        group = self.book.group(key)
        limit = self.rules.max_sessions_per_client if client_id else self.rules.max_sessions_per_user
        if len(group.session_ids) < limit:
            return [], []
        live, overdue = self._live_members(group, now), self._overdue(key, now)
        if len(live) < limit:
            return [], overdue
        if self.rules.on_limit == "reject" or not limit:
            raise limit_reached(user_id, client_id, limit)
        live.sort(key=_activity)
        victims = live[: len(live) - limit + 1]
        self.book.need_groups(*(r.session for r in victims))
        return victims, overdue

    def _check_rate(self, paid: Hashable, now: Moment) -> None:
        wait = self.rate.seconds_to_wait(paid, now.monotonic)
        if wait:
            raise Refusal(
                "create_rate_exceeded",
                f"the {paid[0]} {quote(paid[-1])} may create {self.rate.per_minute} sessions a minute; "  # type: ignore[index]
                f"try again in {wait} s",
                limit=self.rate.per_minute,
                retry_after=wait,
            )


def limit_reached(user_id: str, client_id: str, limit: int) -> Refusal:
    """The owner has as many live sessions as are allowed."""
    owner = f"the client {quote(client_id)}" if client_id else f"the user {quote(user_id)} without a client"
    return Refusal(
        "session_limit_reached", f"{owner} has {limit} live sessions, which is the limit; close one first", limit=limit
    )


def _about(p: CreateParams | OpenParams, user_id: str, default_ttl: int, now: int) -> About:
    """What the parameters say of the session to be made."""
    ttl = default_ttl if p.ttl_seconds is UNSET else p.ttl_seconds
    return About(
        user_id,
        "" if p.external_id is UNSET else p.external_id,
        "" if p.title is UNSET else clean_title(p.title),
        () if p.tags is UNSET else unique_tags(p.tags),
        EMPTY if p.metadata is UNSET else check_metadata(text_of(p.metadata)),
        now + ttl * 1000 if ttl else 0,
    )


def _bucket(caller: Caller, user_id: str, client_id: str) -> tuple[str, ...]:
    """Whose rate of creation a new session counts for."""
    if client_id:
        return "client", user_id, client_id
    return ("user", user_id) if user_id else ("address", caller.address)


def _activity(resident: Resident) -> tuple[int, int]:
    s = resident.session
    assert s is not None
    return s.active_at, s.number


def _check_id(session_id: str) -> None:
    """Raise Refusal if an id of the client's own is too long (what it may be else, decoding has checked)."""
    size = len(session_id.encode())
    if size > MAX_SESSION_ID:
        raise invalid("session_id", f"{EXPECTED['session_id']}, at most {MAX_SESSION_ID} bytes", f"{size} bytes")


def _taken() -> Refusal:
    return Refusal("session_id_conflict", "Session ID already exists")
