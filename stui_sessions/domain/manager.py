"""The session manager: what must stay true of an owner's sessions, as functions on a draft.

- An owner entity lists exactly the sessions of its user and client that are stored as live.
- An external id is held by at most one of a user's sessions that are stored as live.
- No owner gets more live sessions than the limit allows.

Each function asks for all that it needs before it stages anything, so that a
decision which lacks something is cheap to begin again.
"""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from stui_sessions.domain.admission import bucket, check_admitted, check_rate, check_size
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import (
    CLOSED,
    EXPIRED,
    LIVE,
    About,
    Absent,
    Entity,
    Owner,
    Session,
    SessionData,
    owner_key,
    session_key,
    size_of_state,
)
from stui_sessions.domain.finding import Listing
from stui_sessions.domain.indexes import (
    ask_for_names,
    check_external_id,
    check_owner,
    claim,
    join,
    leave,
    release,
)
from stui_sessions.domain.lifecycle import Event, after
from stui_sessions.domain.records import Created, Edited, Ended, Removed, Reopened, Used
from stui_sessions.errors import Refusal, quote

# -- judging a session


def status_of(draft: Draft, s: Session) -> int:
    """The real status: a session stored as live may have expired unnoticed."""
    return draft.world.expiry.status(s, draft.now.wall)


def allow(draft: Draft, event: Event, s: Session) -> Session:
    """`s`, in a state in which `event` is possible; raises Refusal."""
    after(event, status_of(draft, s), s.session_id)
    return s


def usable(draft: Draft, s: Session) -> Session:
    """`s`, which can be used; raises Refusal.  The hot path: `allow`, but for those that are surely live."""
    if s.status or s.about.ends_at or draft.now.wall >= s.active_at + s.timeout * 1000:
        after("use", status_of(draft, s), s.session_id)
    return s


# -- an owner's sessions


def live_sessions(draft: Draft, user_id: str, client_id: str) -> list[Session]:
    """The live sessions of an owner, the oldest first."""
    key = owner_key(draft.caller.tenant, user_id, client_id)
    if key is None:
        return []
    live = [s for s in draft.sessions_of(draft.entity(key)) if draft.is_live(s)]
    return sorted(live, key=lambda s: s.number)


def last_used(draft: Draft, user_id: str, client_id: str) -> Session | None:
    """The most recently active live session of an owner."""
    return max(live_sessions(draft, user_id, client_id), key=_activity, default=None)


def last_expired(draft: Draft, user_id: str, client_id: str) -> Session | None:
    """The most recently active session of an owner that has expired and is kept, without its state.

    Asks the store, so it costs more than what is in memory.
    """
    key = owner_key(draft.caller.tenant, user_id, client_id)
    if key is None:
        return None
    question = Listing(*(draft.caller.tenant, EXPIRED, "last_activity", True, 1), client_id=client_id, user_id=user_id)
    found = draft.find(question)
    noted = draft.entities(s.key for s in found.sessions)  # they may have changed since
    overdue = draft.sessions_of(draft.entity(key))
    expired = [s for s in (*noted, *overdue) if isinstance(s, Session) and status_of(draft, s) == EXPIRED]
    return max(expired, key=_activity, default=None)


def _activity(s: Session) -> tuple[int, int]:
    return s.active_at, s.number


# -- sessions begin


class NewSession(Struct):
    """A session to be made; what depends on nothing but the request was checked."""

    client_id: str
    timeout: int
    about: About
    objects: tuple[bytes, bytes, bytes, bytes]
    session_id: str | None  # a free one; None: the server makes one
    id_format: str = "counter"


class Room(Struct):
    """Sessions that give way to one that begins."""

    evicted: list[Session]  # live ones, which are closed
    overdue: list[Session]  # expired ones, which is written down now

    @property
    def evicted_id(self) -> str | None:
        """The first that is closed."""
        return self.evicted[0].session_id if self.evicted else None


def check_new(draft: Draft, new: NewSession) -> Room:
    """Everything that can be wrong with a new session, and the room for it; raises Refusal, stages nothing."""
    check_size(draft, size_of_state(*new.objects))
    check_admitted(draft, new.client_id)
    room = room_for(draft, new.about.user_id, new.client_id, new.about.external_id)
    check_rate(draft, bucket(draft, new.about.user_id, new.client_id))
    return room


def create(draft: Draft, new: NewSession, room: Room) -> Session:
    """Make a session that `check_new` has found room for."""
    _give_way(draft, room)
    at = draft.now.wall
    number = draft.world.numbers.new(at)
    session_id = new.session_id or draft.world.new_id(number, at // 1000, new.id_format)
    key = session_key(draft.caller.tenant, session_id)
    place = draft.entity(key) if new.session_id else Absent(key)  # an id that is made now was never given out before
    data = SessionData(
        *(number, session_id, new.client_id, at, at, at, new.timeout), 1, LIVE, 0, *new.objects, about=new.about
    )
    draft.bucket = bucket(draft, new.about.user_id, new.client_id)
    return begin(draft, place, data)


def reopen(draft: Draft, s: Session, evict: bool = False) -> tuple[Session, Room]:
    """Bring an ended session back, and use it; an absolute end that has passed is dropped.

    It must fit like a new one; `evict`: by the setting `on_limit`, which may close others for it.
    """
    after("undelete", status_of(draft, s), s.session_id)
    room = room_for(draft, s.user_id, s.client_id, s.about.external_id, {s.session_id}, evict)
    _give_way(draft, room)
    about = s.about
    if about.ends_at and about.ends_at <= draft.now.wall:
        about = replace(about, ends_at=0)
    back = as_session(draft.stage(s, Reopened, about))
    if s.status != LIVE:  # one that expired unnoticed has kept its place and its external id
        join(draft, back)
    return back, room


def room_for(
    draft: Draft, user_id: str, client_id: str, external_id: str, besides: Iterable[str] = (), evict: bool = True
) -> Room:
    """What gives way to one more live session of an owner, `besides` certain ones; raises Refusal, stages nothing."""
    room = _place_for(draft, user_id, client_id, set(besides), evict)
    leaving = {*besides, *(s.session_id for s in room.evicted)}
    holder = check_external_id(draft, draft.caller.tenant, user_id, external_id, leaving)
    if holder is not None and all(s.key != holder.key for s in room.overdue):
        room.overdue.append(holder)
    ask_for_names(draft, (*room.evicted, *room.overdue))
    return room


def _place_for(draft: Draft, user_id: str, client_id: str, besides: set[str], evict: bool) -> Room:
    """What gives way so that the owner has a place left."""
    rules = draft.world.rules
    owner = check_owner(draft, user_id, client_id)
    limit = rules.max_sessions_per_client if client_id else rules.max_sessions_per_user
    if owner is None or (owner.count if isinstance(owner, Owner) else 0) < limit:
        return Room([], [])
    others = [s for s in draft.sessions_of(owner) if s.session_id not in besides]
    live = sorted((s for s in others if draft.is_live(s)), key=_activity)
    overdue = [s for s in others if not draft.is_live(s)]
    if len(live) < limit:
        return Room([], overdue)
    if not limit or not evict or rules.on_limit == "reject":
        raise limit_reached(user_id, client_id, limit)
    return Room(live[: len(live) - limit + 1], overdue)


def _give_way(draft: Draft, room: Room) -> None:
    """End those that must make room.

    Expiry is written down where a place or an external id is given to another session:
    a start after a crash gives sessions time back, and both would be live then.
    """
    for s in room.overdue:
        expire(draft, s)
    for s in room.evicted:
        end(draft, s, after("close", LIVE, s.session_id), draft.now.wall)


def begin(draft: Draft, place: Entity, data: SessionData) -> Session:
    """Make the session of `data` in its place, which is free."""
    s = as_session(draft.stage(place, Created, data))
    if s.status == LIVE:
        join(draft, s)
    return s


# -- sessions change and end


def edit(draft: Draft, s: Session, timeout: int, about: About) -> Session:
    """Give `s` another timeout or other labels; raises Refusal where its new external id is taken."""
    if timeout == s.timeout and about == s.about:
        return s
    moves = about.external_id != s.about.external_id
    if moves:
        ask_for_names(draft, [s])
        overdue = check_external_id(draft, s.key[0], s.user_id, about.external_id, {s.session_id})
        if overdue is not None:
            ask_for_names(draft, [overdue])
            expire(draft, overdue)
        release(draft, s)
    if timeout < s.timeout and s.active_at != s.recorded_at:
        # What is recorded may now lag less behind: else it could expire early after a crash.
        s = as_session(draft.stage(s, Used, s.active_at))
    s = as_session(draft.stage(s, Edited, timeout, about))
    if moves:
        claim(draft, s)
    return s


def end(draft: Draft, s: Session, status: int, at: int) -> Session:
    """`s` expires, is closed or deleted: `status`."""
    if s.status == LIVE:
        ask_for_names(draft, [s])
    ended = as_session(draft.stage(s, Ended, status, at))
    if s.status == LIVE:
        leave(draft, s)
    return ended


def expire(draft: Draft, s: Session) -> Session:
    """Record that `s` has expired, if it has and no record says so yet."""
    status = status_of(draft, s)
    if status == s.status:
        return s
    return end(draft, s, after("expire", status, s.session_id), draft.world.expiry.expires_at(s))


def close(draft: Draft, s: Session) -> Session:
    """Close `s` if it is live; it stays as it is otherwise."""
    if after("close", status_of(draft, s), s.session_id) != CLOSED or s.status == CLOSED:
        return s
    return end(draft, s, CLOSED, draft.now.wall)


def remove(draft: Draft, s: Session, reason: str) -> None:
    """`s` is no longer known."""
    if s.status == LIVE:
        ask_for_names(draft, [s])
    draft.stage(s, Removed, s.number, reason)
    if s.status == LIVE:
        leave(draft, s)


def as_session(entity: Entity) -> Session:
    """`entity`, which is a session."""
    assert isinstance(entity, Session)
    return entity


def limit_reached(user_id: str, client_id: str, limit: int) -> Refusal:
    owner = f"the client {quote(client_id)}" if client_id else f"the user {quote(user_id)} without a client"
    return Refusal(
        "session_limit_reached", f"{owner} has {limit} live sessions, which is the limit; close one first", limit=limit
    )
