"""Lists: a client's live sessions, and pages of any, in an order, with cursors."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from stui_sessions.commands.looking import as_details
from stui_sessions.commands.shared import ROW_WEIGHT, Details
from stui_sessions.commands.views import shaped, view
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import LIVE, Session
from stui_sessions.domain.finding import Listing, Position, Sort
from stui_sessions.domain.lifecycle import STATUS_NAMES
from stui_sessions.domain.manager import live_sessions
from stui_sessions.errors import quote
from stui_sessions.protocol.fields import (
    Active,
    ClientId,
    Created,
    IdleTime,
    Modified,
    Revision,
    SessionId,
    StatusName,
    Tags,
    TimeLeft,
    UserId,
    says,
)
from stui_sessions.protocol.registry import Command

# -- list_client_sessions


class ClientParams(Struct, forbid_unknown_fields=True, gc=False):
    client_id: ClientId
    user_id: (
        Annotated[UserId, Meta(description="The client's user; without it, the client's sessions that have no user.")]
        | UnsetType
    ) = UNSET


class Summary(Struct, gc=False):
    """One row of `list_client_sessions`."""

    session_id: SessionId
    created_at: Created
    last_modified: Modified
    timeout: IdleTime
    is_active: Active
    time_until_expiry: TimeLeft
    revision: Revision


class ListResult(Struct):
    client_id: ClientId
    session_count: Annotated[int, Meta(ge=0, description="How many there are in `sessions`.")]
    sessions: Annotated[list[Summary], Meta(description="Live sessions, the oldest first.")]


_summary = shaped(Summary)


def list_client_sessions(draft: Draft, p: ClientParams) -> ListResult:
    rows = [_summary(view(draft, s)) for s in live_sessions(draft, p.user_id or "", p.client_id)]
    return ListResult(p.client_id, len(rows), rows)


LIST_CLIENT_SESSIONS = Command(
    "list_client_sessions",
    "Lists a client's live sessions. A client nobody knows has none; that is not an error.",
    ClientParams,
    ListResult,
    list_client_sessions,
    access="read",
    by_position=("client_id",),
    weigh=lambda result: ROW_WEIGHT * result.session_count,
)


# -- list_sessions


class SelectParams(Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """Which sessions a list or an export has."""

    client_id: Annotated[ClientId, Meta(description="Only sessions of this client.")] | UnsetType = UNSET
    user_id: Annotated[UserId, Meta(description="Only sessions of this user.")] | UnsetType = UNSET
    status: Annotated[StatusName, Meta(description="Only sessions of this status.")] = "live"
    tags: Annotated[Tags, Meta(description="Only sessions that have all these tags.")] | UnsetType = UNSET
    text: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=256,
                description="Only sessions with this in their title, session id or external id, whatever the case. "
                "Needs `client_id` or `user_id` beside it.",
            ),
        ]
        | UnsetType
    ) = UNSET


CursorText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=8192,
        description="The `next_cursor` of the page before, everything else being the same.",
        extra=says("the next_cursor of the page before"),
    ),
]


class ListParams(SelectParams, forbid_unknown_fields=True, gc=False, kw_only=True):
    sort: Annotated[
        Literal["last_activity", "created_at", "title"],
        Meta(description="What the list is sorted by; titles by their code points, those without a title as if empty."),
    ] = "last_activity"
    order: Annotated[
        Literal["asc", "desc"] | UnsetType,
        Meta(description="Ascending or descending; without it, titles ascend and times descend (the newest first)."),
    ] = UNSET
    limit: Annotated[int, Meta(ge=1, le=100, description="How many rows at most.")] = 20
    cursor: CursorText | UnsetType = UNSET


class PageResult(Struct):
    sessions: Annotated[list[Details], Meta(description="The rows of this page, in the order asked for.")]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="The `cursor` of the next page; `null` at the end. A page that is chosen by `tags` or `text` "
            "may hold fewer rows than `limit` before the end; any other only if there are no more."
        ),
    ]


def list_sessions(draft: Draft, p: ListParams) -> PageResult:
    descending = p.sort != "title" if p.order is UNSET else p.order == "desc"
    listing = listing_of(draft, p, p.cursor, p.limit, p.sort, descending)
    sessions, end = _page(draft, listing)
    rows = [as_details(view(draft, s)) for s in sessions]
    return PageResult(rows, None if end is None else encode_cursor(listing, end))


def _page(draft: Draft, listing: Listing) -> tuple[list[Session], Position | None]:
    """The rows of a page, and the position behind which the next one begins, if there is one."""
    rows: list[Session] = []
    end = listing.after
    while True:
        found = draft.find(replace(listing, after=end))
        # Between the answer and now, the end of some may have come.
        rows += [s for s in found.sessions if listing.status != LIVE or draft.is_live(s)]
        end = found.next
        if end is None or len(rows) >= listing.limit or listing.tags or listing.text:
            break
    if len(rows) > listing.limit:
        rows = rows[: listing.limit]
        end = listing.position(rows[-1])
    return rows, end


LIST_SESSIONS = Command(
    "list_sessions",
    "Lists sessions of any client and user, page by page.",
    ListParams,
    PageResult,
    list_sessions,
    access="read",
    weigh=lambda result: sum(ROW_WEIGHT + row.metadata_bytes for row in result.sessions),
)


def listing_of(
    draft: Draft,
    p: SelectParams,
    cursor: str | UnsetType,
    limit: int,
    sort: Sort = "created_at",
    descending: bool = False,
    with_state: bool = False,
) -> Listing:
    """The question to the store; raises Refusal."""
    if p.text is not UNSET and p.client_id is UNSET and p.user_id is UNSET:
        expected = "left out, or come with client_id or user_id"
        raise draft.command.refused("text", expected, "not every session there is can be looked through")
    return Listing(
        draft.caller.tenant,
        STATUS_NAMES.index(p.status),
        sort,
        descending,
        limit,
        None if cursor is UNSET else _decode_cursor(draft, cursor, sort, descending),
        None if p.client_id is UNSET else p.client_id,
        None if p.user_id is UNSET else p.user_id,
        () if p.tags is UNSET else tuple(p.tags),
        "" if p.text is UNSET else p.text.casefold(),
        with_state,
    )


# -- cursors

_Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What the store can compare with: a cursor may have been made by hand."""


class Cursor(Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page ends, and the order it is a page of."""

    sort: str
    descending: bool
    key: _Whole | str
    number: _Whole


def encode_cursor(listing: Listing, position: Position) -> str:
    """The cursor of the page that begins behind `position`."""
    cursor = Cursor(listing.sort, listing.descending, *position)
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode()


def _decode_cursor(draft: Draft, sent: str, sort: str, descending: bool) -> Position:
    expected = draft.command.parameters["cursor"].expected
    try:
        cursor = msgspec.msgpack.decode(urlsafe_b64decode(sent), type=Cursor)
    except (msgspec.MsgspecError, NotBase64, ValueError):
        raise draft.command.invalid("cursor", quote(sent)) from None
    if (cursor.sort, cursor.descending) != (sort, descending) or (type(cursor.key) is str) != (sort == "title"):
        raise draft.command.invalid("cursor", quote(sent), f"{expected}, with the same sort and order")
    return cursor.key, cursor.number
