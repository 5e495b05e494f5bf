"""Labels and lifetimes of a session: title, tags, metadata, external id, timeout, absolute end.

None of these commands counts as use, and none moves `revision`.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from stui_sessions.commands.looking import as_details
from stui_sessions.commands.opening import checked_timeout
from stui_sessions.commands.shared import (
    METADATA_EXPECTED,
    ONE_SESSION,
    USING_ERRORS,
    WRITING_ERRORS,
    Details,
    Named,
    checked,
)
from stui_sessions.commands.views import view
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import About, Session
from stui_sessions.domain.labels import check_metadata, clean_title, unique_tags
from stui_sessions.domain.manager import allow, edit
from stui_sessions.domain.times import format_instant
from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.fields import (
    LAST_MS,
    MAX_TTL,
    ExpiresAt,
    ExternalId,
    JsonObject,
    SessionId,
    Tags,
    Timeout,
    Title,
    Ttl,
)
from stui_sessions.protocol.jsontext import merge_removing
from stui_sessions.protocol.registry import Command

# -- update_session


class EditParams(Struct, forbid_unknown_fields=True, gc=False):
    session_id: SessionId
    title: Annotated[Title | UnsetType | None, Meta(description="A new title; `null` removes it.")] = UNSET
    tags: Annotated[Tags, Meta(description="The tags from now on, all of them.")] | UnsetType = UNSET
    metadata: Annotated[
        JsonObject | UnsetType,
        Meta(
            description="Merged into the metadata at the top level; a key with the value `null` is removed.",
            extra=METADATA_EXPECTED,
        ),
    ] = UNSET
    external_id: Annotated[ExternalId | UnsetType | None, Meta(description="A new external id; `null` removes it.")] = (
        UNSET
    )
    timeout: Timeout | UnsetType = UNSET
    ttl_seconds: Annotated[
        Ttl | UnsetType | None,
        Meta(
            description="Seconds after its creation at which the session expires however much it is used; "
            "`null` removes that end."
        ),
    ] = UNSET
    pin: Annotated[
        bool | UnsetType,
        Meta(
            description="True: the sweeper never removes the session. It expires all the same. The one parameter that "
            "an ended session takes too."
        ),
    ] = UNSET


def update_session(draft: Draft, p: EditParams) -> Details:
    s = allow(draft, "pin" if _only_pins(p) else "edit", draft.session(p.session_id, "write"))
    timeout = checked_timeout(draft, p.timeout, s.timeout)
    s = edit(draft, s, timeout, _labels_after(draft, s, p))
    return as_details(view(draft, s))


def _only_pins(p: EditParams) -> bool:
    others = (p.title, p.tags, p.metadata, p.external_id, p.timeout, p.ttl_seconds)
    return p.pin is not UNSET and all(value is UNSET for value in others)


def _labels_after(draft: Draft, s: Session, p: EditParams) -> About:
    """The labels of `s` once the parameters are applied; raises Refusal."""
    about = s.about
    ends_at = about.ends_at
    if p.ttl_seconds is not UNSET:
        ends_at = 0 if p.ttl_seconds is None else s.created_at + p.ttl_seconds * 1000
        if ends_at > LAST_MS:  # of a session that was imported from the far future
            raise draft.command.invalid("ttl_seconds", str(p.ttl_seconds))
    metadata = about.metadata
    if p.metadata is not UNSET:
        metadata = check_metadata(merge_removing(metadata, checked(p.metadata).text))
    title = about.title
    if p.title is not UNSET:
        title = "" if p.title is None else clean_title(draft.command, p.title)
    return About(
        about.user_id,
        about.external_id if p.external_id is UNSET else p.external_id or "",
        title,
        about.tags if p.tags is UNSET else unique_tags(p.tags),
        metadata,
        ends_at,
        about.pinned if p.pin is UNSET else p.pin,
    )


UPDATE_SESSION = Command(
    "update_session",
    "Changes the labels and lifetimes of a session: title, tags, metadata, external id, timeout, absolute end, pin. "
    "Whatever is left out stays. Does not count as use, and leaves `revision` alone.",
    EditParams,
    Details,
    update_session,
    access="write",
    errors="session_not_found session_damaged session_expired session_closed session_deleted "
    f"title_unprintable metadata_too_large external_id_conflict {WRITING_ERRORS}",
    by_position=("session_id",),
    main_state="metadata",
)


# -- update_session_title


class TitleParams(Named, forbid_unknown_fields=True, gc=False, kw_only=True):
    title: Title


def update_session_title(draft: Draft, p: TitleParams) -> Details:
    s = allow(draft, "edit", draft.session(p, "write"))
    title = clean_title(draft.command, p.title)
    s = edit(draft, s, s.timeout, replace(s.about, title=title))
    return as_details(view(draft, s))


UPDATE_SESSION_TITLE = Command(
    "update_session_title",
    "Gives a session a title, and changes nothing else.",
    TitleParams,
    Details,
    update_session_title,
    access="write",
    errors=f"{USING_ERRORS} title_unprintable {WRITING_ERRORS}",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)


# -- extend_session


class ExtendParams(Named, forbid_unknown_fields=True, gc=False, kw_only=True):
    seconds: Annotated[int, Meta(ge=1, le=MAX_TTL, description="By how much to move the absolute end.")]


class ExtendResult(Struct, gc=False):
    session_id: SessionId
    expires_at: ExpiresAt
    ttl_seconds: Annotated[int, Meta(ge=1, description="The absolute end, in seconds after its creation.")]


def extend_session(draft: Draft, p: ExtendParams) -> ExtendResult:
    s = allow(draft, "edit", draft.session(p, "write"))
    if not s.about.ends_at:
        raise Refusal(
            "no_ttl",
            f"the session {quote(s.session_id)} has no absolute end; update_session sets one with ttl_seconds",
        )
    ends_at = s.about.ends_at + p.seconds * 1000
    if ends_at > min(s.created_at + MAX_TTL * 1000, LAST_MS):
        why = f"the absolute end may be {MAX_TTL} seconds after the creation, and not after the year 9999"
        raise draft.command.refused("seconds", "small enough", why)
    s = edit(draft, s, s.timeout, replace(s.about, ends_at=ends_at))
    end = draft.world.expiry.promised_end(s)
    return ExtendResult(s.session_id, format_instant(end), (ends_at - s.created_at) // 1000)


EXTEND_SESSION = Command(
    "extend_session",
    "Moves the absolute end of a session (`ttl_seconds`).",
    ExtendParams,
    ExtendResult,
    extend_session,
    access="write",
    errors=f"{USING_ERRORS} no_ttl {WRITING_ERRORS}",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)
