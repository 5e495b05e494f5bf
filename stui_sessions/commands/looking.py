"""Looking at one session: nothing is changed, nothing counts as use."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from stui_sessions.commands.shared import (
    NAMING_ERRORS,
    ONE_SESSION,
    ClientName,
    Details,
    Named,
    SessionParams,
    weigh_state,
)
from stui_sessions.commands.views import shaped, view
from stui_sessions.domain.draft import Draft, absent
from stui_sessions.domain.entities import EXPIRED, LIVE, Damaged, Session, session_key
from stui_sessions.domain.finding import MAX_MATCHES, Reference
from stui_sessions.domain.lifecycle import STATUS_NAMES
from stui_sessions.domain.manager import status_of
from stui_sessions.domain.times import format_second
from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.fields import (
    MIN_PREFIX,
    STATE_OBJECTS,
    Active,
    Created,
    IdleTime,
    InspectorState,
    Modified,
    ObjectRegistry,
    Revision,
    SessionId,
    SessionState,
    TimeLeft,
    WorkspaceContext,
    says,
)
from stui_sessions.protocol.registry import Command

as_details = shaped(Details)


# -- get_session_info


class InfoResult(Struct, gc=False):
    session_id: SessionId
    client_id: ClientName
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    time_until_expiry: TimeLeft
    is_expired: Annotated[bool, Meta(description="It has expired; false for a closed one.")]
    revision: Revision


def get_session_info(draft: Draft, p: SessionParams) -> InfoResult:
    s = draft.session(p, "read")
    left = draft.world.expiry.seconds_left(s, draft.now.wall)
    return InfoResult(  # as `views.FIELDS` has it, and twice as fast
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


GET_SESSION_INFO = Command(
    "get_session_info",
    "Tells about a session without using it; ended ones included while they are known.",
    SessionParams,
    InfoResult,
    get_session_info,
    access="read",
    errors=NAMING_ERRORS,
    one_of=ONE_SESSION,
    by_position=("session_id",),
)


# -- get_session


class GetParams(Named, forbid_unknown_fields=True, gc=False):
    include: Annotated[
        list[Literal["state"]],
        Meta(
            max_length=1,
            description='`["state"]`: tell the four state objects too.',
            extra=says('["state"] or an empty array'),
        ),
    ] = msgspec.field(default_factory=list)


class GetResult(Details, gc=False):
    session_state: SessionState | UnsetType = UNSET
    workspace_context: WorkspaceContext | UnsetType = UNSET
    inspector_state: InspectorState | UnsetType = UNSET
    object_registry: ObjectRegistry | UnsetType = UNSET


_with_state, _without_state = shaped(GetResult), shaped(GetResult, without=STATE_OBJECTS)


def get_session(draft: Draft, p: GetParams) -> GetResult:
    s = view(draft, draft.session(p, "read"))
    return _with_state(s) if p.include else _without_state(s)


GET_SESSION = Command(
    "get_session",
    "Tells everything about a session, ended ones included, without using it; its state only if asked.",
    GetParams,
    GetResult,
    get_session,
    access="read",
    errors=NAMING_ERRORS,
    one_of=ONE_SESSION,
    by_position=("session_id",),
    weigh=weigh_state,
)


# -- validate_session


class ValidateResult(Struct, gc=False):
    session_id: Annotated[SessionId | None, Meta(description="`null` if an external id finds none.")]
    valid: Annotated[bool, Meta(description="The session can be used.")]
    reason: Annotated[
        str | None,
        Meta(description="Why not: `not_found`, `expired`, `closed`, `deleted` or `damaged`. `null` if it can."),
    ]


_REASONS = {"session_not_found": "not_found", "session_damaged": "damaged"}


def validate_session(draft: Draft, p: SessionParams) -> ValidateResult:
    try:
        s = draft.session(p, "read")
    except Refusal as refusal:
        if refusal.code not in _REASONS:
            raise
        return ValidateResult(p.session_id or None, False, _REASONS[refusal.code])
    status = status_of(draft, s)
    return ValidateResult(s.session_id, status == LIVE, None if status == LIVE else STATUS_NAMES[status])


VALIDATE_SESSION = Command(
    "validate_session",
    "Says whether a session can be used. Cheap, and never an error for an unknown one.",
    SessionParams,
    ValidateResult,
    validate_session,
    access="read",
    errors="external_id_ambiguous",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)


# -- resolve_session


class ResolveParams(Struct, forbid_unknown_fields=True, gc=False):
    ref: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=8192,
            description="A session id, or something that names one session alone: the beginning of an id "
            f"({MIN_PREFIX} characters or more), the external id or the exact title of a live session.",
        ),
    ]


def resolve_session(draft: Draft, p: ResolveParams) -> Details:
    place = draft.place(p.ref)
    if isinstance(place, Damaged):
        raise absent(place)
    if isinstance(place, Session):  # the whole id: nothing else can be meant
        return as_details(view(draft, place))
    found = _meant(draft, p.ref)
    if not found:
        raise Refusal(
            "session_not_found",
            f"nothing is called {quote(p.ref)}: no session has that id, no live one that external id or title, and "
            f"no id begins with it (for which it must have {MIN_PREFIX} characters)",
        )
    if len(found) > 1:
        raise _ambiguous(p.ref, found)
    return as_details(view(draft, found[0]))


def _meant(draft: Draft, ref: str) -> list[Session]:
    """What a reference may mean, the most recently active first; as it is now, whatever the store has told."""
    tenant = draft.caller.tenant
    reference = Reference(tenant, ref if len(ref) >= MIN_PREFIX else "", ref, ref)
    found = draft.find(reference)
    now = draft.entities(session_key(tenant, s.session_id) for s in found.sessions)
    meant = [s for s in now if isinstance(s, Session) and reference.matches(s)]
    meant = [s for s in meant if draft.is_live(s) or (reference.prefix and s.session_id.startswith(ref))]
    return sorted(meant, key=lambda s: (s.active_at, s.number), reverse=True)


def _ambiguous(ref: str, found: list[Session]) -> Refusal:
    candidates = [
        {"session_id": s.session_id, "title": s.about.title or None, "client_id": s.client_id or None}
        for s in found[:MAX_MATCHES]
    ]
    return Refusal(
        "reference_ambiguous", f"{quote(ref)} may mean several sessions; name one by its id", candidates=candidates
    )


RESOLVE_SESSION = Command(
    "resolve_session",
    "Finds the one session that a person may mean, and tells what `get_session` tells.",
    ResolveParams,
    Details,
    resolve_session,
    access="read",
    errors="session_not_found session_damaged reference_ambiguous",
    by_position=("ref",),
)
