"""How a session's fields look from outside: one mapping for all results, and for the rows of an export."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec import Raw, Struct

from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import CLOSED, EXPIRED, LIVE, About, Session, SessionData
from stui_sessions.domain.lifecycle import STATUS_NAMES
from stui_sessions.domain.times import format_instant
from stui_sessions.protocol.records import SessionRecord

R = TypeVar("R")


class View(Struct, gc=False):
    """A session at the moment of a decision."""

    s: Session
    status: int  # the real one
    time_left: int  # seconds
    ends: int  # ms: when it will end, has expired, or has ended


Getter = Callable[[View], Any]

FIELDS: dict[str, Getter] = {
    "session_id": lambda v: v.s.session_id,
    "client_id": lambda v: v.s.client_id or None,
    "user_id": lambda v: v.s.about.user_id or None,
    "external_id": lambda v: v.s.about.external_id or None,
    "title": lambda v: v.s.about.title or None,
    "tags": lambda v: list(v.s.about.tags),
    "metadata": lambda v: Raw(v.s.about.metadata),
    "status": lambda v: STATUS_NAMES[v.status],
    "is_active": lambda v: v.status == LIVE,
    "is_expired": lambda v: v.status == EXPIRED,
    "created_at": lambda v: format_instant(v.s.created_at),
    "last_modified": lambda v: format_instant(v.s.modified_at),
    "last_activity": lambda v: format_instant(v.s.active_at),
    "ended_at": lambda v: format_instant(v.ends) if v.status != LIVE else None,
    "expires_at": lambda v: format_instant(v.ends) if v.status < CLOSED else None,
    "time_until_expiry": lambda v: v.time_left,
    "timeout": lambda v: v.s.timeout,
    "ttl_seconds": lambda v: (v.s.about.ends_at - v.s.created_at) // 1000 if v.s.about.ends_at else None,
    "pinned": lambda v: v.s.about.pinned,
    "revision": lambda v: v.s.revision,
    "state_bytes": lambda v: v.s.state_bytes,
    "metadata_bytes": lambda v: len(v.s.about.metadata),
    "session_state": lambda v: Raw(v.s.session_state),
    "workspace_context": lambda v: Raw(v.s.workspace_context),
    "inspector_state": lambda v: Raw(v.s.inspector_state),
    "object_registry": lambda v: Raw(v.s.object_registry),
}
"""What each field of a result says of a session."""

EXPORTED: dict[str, Getter] = FIELDS | {
    "status": lambda v: STATUS_NAMES[v.s.status],  # as it is stored
    "created_at_ms": lambda v: v.s.created_at,
    "modified_at_ms": lambda v: v.s.modified_at,
    "active_at_ms": lambda v: v.s.active_at,
    "ended_at_ms": lambda v: v.s.ended_at or None,
    "ends_at_ms": lambda v: v.s.about.ends_at or None,
}
"""The same for a row of an export, which has instants in milliseconds."""


def shaped(result: type[R], fields: Mapping[str, Getter] = FIELDS, without: tuple[str, ...] = ()) -> Callable[..., R]:
    """Makes a `result` of a view; fields that say nothing of a session are given by name, or left out."""
    names = [name for name in result.__struct_fields__ if name in fields and name not in without]  # type: ignore[attr-defined]
    getters = [fields[name] for name in names]
    if names == list(result.__struct_fields__[: len(names)]):  # type: ignore[attr-defined]

        def by_place(view: View, **others: Any) -> R:
            return result(*[get(view) for get in getters], **others)

        return by_place

    def by_name(view: View, **others: Any) -> R:
        values: dict[str, Any] = {name: get(view) for name, get in zip(names, getters, strict=True)}
        return result(**values, **others)

    return by_name


def view(draft: Draft, s: Session) -> View:
    """`s` as it is now.

    Its end is promised only as far as what is recorded says it: a kill at once would
    forget the rest.
    """
    expiry, now = draft.world.expiry, draft.now.wall
    status = expiry.status(s, now)
    if status == LIVE:
        return View(s, status, expiry.seconds_left(s, now), expiry.promised_end(s))
    return View(s, status, 0, s.ended_at or expiry.expires_at(s))


as_record = shaped(SessionRecord, EXPORTED)


def data_of_record(r: SessionRecord) -> SessionData:
    """The session that an exported row tells of; its number is given when it is made."""
    about = About(
        r.user_id or "",
        r.external_id or "",
        r.title or "",
        tuple(r.tags),
        bytes(r.metadata),
        r.ends_at_ms or 0,
        r.pinned,
    )
    return SessionData(  # by their places, which takes half as long
        0,
        r.session_id,
        r.client_id or "",
        r.created_at_ms,
        r.modified_at_ms,
        r.active_at_ms,
        r.timeout,
        r.revision,
        STATUS_NAMES.index(r.status),
        r.ended_at_ms or 0,
        bytes(r.session_state),
        bytes(r.workspace_context),
        bytes(r.inspector_state),
        bytes(r.object_registry),
        about,
    )
