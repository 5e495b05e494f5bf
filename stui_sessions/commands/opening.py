"""Beginning: new sessions, resumption, ids of the client's own."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from stui_sessions.commands.shared import (
    METADATA_EXPECTED,
    WRITING_ERRORS,
    ExternalName,
    MetadataObject,
    RestoreResult,
    TagList,
    TitleOrNone,
    UserName,
    text_of,
    weigh_state,
)
from stui_sessions.commands.views import shaped, view
from stui_sessions.domain.draft import Draft, absent
from stui_sessions.domain.entities import EMPTY, EXPIRED, About, Damaged, Session
from stui_sessions.domain.labels import check_metadata, clean_title, unique_tags
from stui_sessions.domain.lifecycle import taken
from stui_sessions.domain.manager import (
    NewSession,
    check_new,
    create,
    last_expired,
    last_used,
    reopen,
    status_of,
    usable,
)
from stui_sessions.protocol.fields import (
    MAX_METADATA_BYTES,
    MAX_SESSION_ID,
    Active,
    ClientId,
    Created,
    ExpiresAt,
    ExternalId,
    IdleTime,
    JsonObject,
    LastActivity,
    OwnSessionId,
    Revision,
    SessionId,
    Tags,
    Timeout,
    Title,
    Ttl,
    UserId,
)
from stui_sessions.protocol.registry import Command

_ERRORS = (
    "client_not_allowed session_limit_reached create_rate_exceeded state_too_large metadata_too_large "
    f"title_unprintable external_id_conflict session_id_conflict {WRITING_ERRORS} session_damaged"
)


def _initial(name: str) -> Meta:
    return Meta(description=f"The `{name}` that the session is created with; `{{}}` if left out.")


_Metadata = Annotated[
    JsonObject,
    Meta(
        description=f"An object of your own, of at most {MAX_METADATA_BYTES} bytes; `{{}}` if left out.",
        extra=METADATA_EXPECTED,
    ),
]
_Evicted = (
    Annotated[
        SessionId,
        Meta(description="With `on_limit` = `evict_oldest`: the session that was closed to make room. Else left out."),
    ]
    | UnsetType
)


class _NewParams(Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """What a session may be created with.  By keyword alone, which puts `client_id` before all of it."""

    user_id: UserId | UnsetType = UNSET
    session_id: OwnSessionId | UnsetType = UNSET
    external_id: ExternalId | UnsetType = UNSET
    title: Title | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: _Metadata | UnsetType = UNSET
    timeout: (
        Annotated[
            Timeout,
            Meta(
                description="Seconds without use after which the session expires; at most the setting `max_timeout`. "
                "Without it: `create_session` takes the setting `default_timeout`, `open_session` `open_timeout`."
            ),
        ]
        | UnsetType
    ) = UNSET
    ttl_seconds: (
        Annotated[
            Ttl,
            Meta(
                description="Seconds after its creation at which the session expires however much it is used. "
                "Without it: `create_session` sets no such end, `open_session` the setting `default_ttl`."
            ),
        ]
        | UnsetType
    ) = UNSET
    session_state: Annotated[JsonObject | UnsetType, _initial("session_state")] = UNSET
    workspace_context: Annotated[JsonObject | UnsetType, _initial("workspace_context")] = UNSET
    inspector_state: Annotated[JsonObject | UnsetType, _initial("inspector_state")] = UNSET
    object_registry: Annotated[JsonObject | UnsetType, _initial("object_registry")] = UNSET
    id_format: Annotated[
        Literal["counter", "timestamp", "hex"],
        Meta(
            description="The form of an id that the server makes: `session_{n}_{unix seconds}_{random}`, "
            "`session_YYYYMMDD_HHMMSS_{random}` or `session_{random}`; each holds at least 128 random bits."
        ),
    ] = "counter"


def _new_session(
    draft: Draft, p: _NewParams, session_id: str | None, client_id: str, timeout: int, ttl: int
) -> NewSession:
    """What the parameters say of the session to be made; raises Refusal.  `timeout`, `ttl`: where they say nothing."""
    ttl = ttl if p.ttl_seconds is UNSET else p.ttl_seconds
    about = About(
        p.user_id or "",
        p.external_id or "",
        "" if p.title is UNSET else clean_title(draft.command, p.title),
        () if p.tags is UNSET else unique_tags(p.tags),
        check_metadata(text_of(p.metadata) or EMPTY),
        draft.now.wall + ttl * 1000 if ttl else 0,
    )
    objects = (p.session_state, p.workspace_context, p.inspector_state, p.object_registry)
    a, b, c, d = [text_of(o) or EMPTY for o in objects]
    return NewSession(
        client_id, checked_timeout(draft, p.timeout, timeout), about, (a, b, c, d), session_id, p.id_format
    )


def checked_timeout(draft: Draft, asked: int | UnsetType, default: int) -> int:
    """The timeout that is asked for, or the default; raises Refusal."""
    if asked is UNSET:
        return default
    limit = draft.world.rules.max_timeout
    if asked > limit:
        raise draft.command.invalid("timeout", str(asked)[:100], f"an integer from 1 to {limit}")
    return asked


def _check_length(draft: Draft, session_id: str) -> None:
    """Raise Refusal if an id of the client's own is too long (what it may be else, decoding has checked)."""
    size = len(session_id.encode())
    if size > MAX_SESSION_ID:
        expected = draft.command.parameters["session_id"].expected
        raise draft.command.invalid("session_id", f"{size} bytes", f"{expected}, at most {MAX_SESSION_ID} bytes")


def _at(draft: Draft, session_id: str) -> Session | None:
    """The session with an id that is asked for, if there is one; raises Refusal."""
    _check_length(draft, session_id)
    place = draft.place(session_id)
    if isinstance(place, Damaged):
        raise absent(place)
    return place if isinstance(place, Session) else None


# -- open_session


class OpenParams(_NewParams, forbid_unknown_fields=True, gc=False):
    client_id: ClientId | UnsetType = UNSET
    resume: Annotated[
        bool,
        Meta(description="Resume the most recently active live session of that user and client, if there is one."),
    ] = True
    revive: Annotated[
        bool,
        Meta(
            description="Bring back an expired session instead of making a new one: that with `session_id`, if it is "
            "of the same user and client; without `session_id`, their most recently active one that is kept."
        ),
    ] = False
    on_conflict: Annotated[
        Literal["error", "reuse", "new"],
        Meta(
            description="What happens if `session_id` is taken. `error`: nothing, it is an error. `reuse`: a live "
            "session of the same user and client is resumed. `new`: that too, and where it is somebody else's, a new "
            "session with another id is made."
        ),
    ] = "error"


class OpenResult(RestoreResult, gc=False):
    session_resumed: Annotated[
        bool, Meta(description="True: the session was there, and nothing of the request was applied to it.")
    ]
    message: Annotated[
        str, Meta(description="`Session created successfully` or `Session resumed successfully`, for people.")
    ]
    user_id: UserName
    title: TitleOrNone
    tags: TagList
    metadata: MetadataObject
    external_id: ExternalName
    last_activity: LastActivity
    expires_at: ExpiresAt
    was_collision: Annotated[
        bool | UnsetType,
        Meta(description="True where `on_conflict` = `new` has led to another id than asked for. Else left out."),
    ] = UNSET
    requested_session_id: (
        Annotated[SessionId, Meta(description="That id, which is somebody else's. Else left out.")] | UnsetType
    ) = UNSET
    evicted_session_id: _Evicted = UNSET
    session_revived: Annotated[
        bool | UnsetType,
        Meta(description="True where the session that was resumed had expired (`revive`). Else left out."),
    ] = UNSET
    expired_session_id: (
        Annotated[
            SessionId,
            Meta(
                description="Where a new session was made: the most recently active expired one of the same user and "
                "client that is kept; `undelete_session` brings it back. Left out if there is none."
            ),
        ]
        | UnsetType
    ) = UNSET


_open_result = shaped(OpenResult)


def open_session(draft: Draft, p: OpenParams) -> OpenResult:
    if p.session_id is not UNSET:
        return _open_by_id(draft, p, p.session_id)
    user_id, client_id = p.user_id or "", p.client_id or ""
    if client_id and p.resume:
        s = last_used(draft, user_id, client_id)
        if s is not None:
            return _resume(draft, s)
    if p.revive:
        s = last_expired(draft, user_id, client_id)
        if s is not None:
            return _revive(draft, draft.session(s.session_id, "write"))
    return _open_new(draft, p, None)


def _open_by_id(draft: Draft, p: OpenParams, session_id: str) -> OpenResult:
    """The table of the ways in which an id can be taken."""
    s = _at(draft, session_id)
    if s is None:
        return _open_new(draft, p, session_id)
    is_owner = (s.user_id, s.client_id) == (p.user_id or "", p.client_id or "")
    if is_owner and p.on_conflict != "error" and draft.is_live(s):
        return _resume(draft, s)
    if is_owner and p.revive and status_of(draft, s) == EXPIRED:
        return _revive(draft, s)
    if not is_owner and p.on_conflict == "new":
        result = _open_new(draft, p, None)
        result.was_collision = True
        result.requested_session_id = session_id
        return result
    raise taken(status_of(draft, s))


def _resume(draft: Draft, s: Session) -> OpenResult:
    s = draft.use(usable(draft, s))
    return _open_result(view(draft, s), session_resumed=True, message="Session resumed successfully")


def _revive(draft: Draft, s: Session) -> OpenResult:
    s, room = reopen(draft, s, evict=True)
    return _open_result(
        view(draft, s),
        session_resumed=True,
        message="Session resumed successfully",
        session_revived=True,
        evicted_session_id=room.evicted_id or UNSET,
    )


def _open_new(draft: Draft, p: OpenParams, session_id: str | None) -> OpenResult:
    rules = draft.world.rules
    new = _new_session(draft, p, session_id, p.client_id or "", rules.open_timeout, rules.default_ttl)
    room = check_new(draft, new)
    expired = last_expired(draft, new.about.user_id, new.client_id)
    s = create(draft, new, room)
    return _open_result(
        view(draft, s),
        session_resumed=False,
        message="Session created successfully",
        evicted_session_id=room.evicted_id or UNSET,
        expired_session_id=expired.session_id if expired is not None else UNSET,
    )


OPEN_SESSION = Command(
    "open_session",
    "Resumes the client's session, or makes a new one: the one call to begin with.",
    OpenParams,
    OpenResult,
    open_session,
    access="write",
    errors=_ERRORS,
    by_position=("client_id",),
    main_state="session_state",
    weigh=weigh_state,
)


# -- create_session


class CreateParams(_NewParams, forbid_unknown_fields=True, gc=False):
    client_id: ClientId


class CreateResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientId
    created_at: Created
    timeout: IdleTime
    is_active: Active
    revision: Revision
    evicted_session_id: _Evicted = UNSET


_create_result = shaped(CreateResult)


def create_session(draft: Draft, p: CreateParams) -> CreateResult:
    session_id = None
    if p.session_id is not UNSET:
        session_id, s = p.session_id, _at(draft, p.session_id)
        if s is not None:
            raise taken(status_of(draft, s))
    new = _new_session(draft, p, session_id, p.client_id, draft.world.rules.default_timeout, 0)
    room = check_new(draft, new)
    s = create(draft, new, room)
    return _create_result(view(draft, s), evicted_session_id=room.evicted_id or UNSET)


CREATE_SESSION = Command(
    "create_session",
    "Makes a session for a client, always a new one.",
    CreateParams,
    CreateResult,
    create_session,
    access="write",
    errors=_ERRORS,
    by_position=("client_id",),
    main_state="session_state",
)
