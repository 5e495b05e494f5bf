"""Decisions about lists: pages of sessions, in an order, with cursors."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from heapq import nlargest, nsmallest
from typing import Annotated

import msgspec
from msgspec import UNSET

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.explain import EXPECTED, invalid
from stui_sessions.protocol.parameters import ExportParams, ListParams
from stui_sessions.protocol.results import Details, PageResult
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.finding import Listing, Position, Sort
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.model import LIVE, Session
from stui_sessions.sessions.telling import Telling
from stui_sessions.sessions.timing import Moment

Found = tuple[Position, Session, int]
"""A row of a list: its place, the session, the bytes of its state."""

SPARE = 16
"""Rows that are read beside half as many again as are asked for: some will turn out to have changed since."""


Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What the store can compare with: a cursor may come from anybody."""


class Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a page ends, and the order it is a page of."""

    sort: str
    descending: bool
    key: Whole | str
    number: Whole


class Lists(Telling):
    """`list_sessions`."""

    def list_sessions(self, caller: Caller, p: ListParams, now: Moment) -> PageResult:
        descending = p.sort != "title" if p.order is UNSET else p.order == "desc"
        listing = listing_of(p, p.limit + p.limit // 2 + SPARE, p.sort, descending)
        page, end = self._page(listing, p.limit, now)
        rows = [Details(*self._details(s, size, now)) for _, s, size in page]
        return PageResult(rows, None if end is None else encode_cursor(listing, end))

    def _page(self, listing: Listing, limit: int, now: Moment) -> tuple[list[Found], Position | None]:
        """At most `limit` rows, and the position that the next page begins behind, if there is one."""
        found, overlay = self.book.answer(listing), self.book.overlay
        stored = [row for row in found.rows if row.session.session_id not in overlay]
        sizes = {row.session.number: row.state_bytes for row in stored}
        sessions = _between(listing, [*(row.session for row in stored), *self._newer(listing)], found.reached)
        first = self._first(listing, sessions, limit + 1, now)
        page = [(listing.position(s), s, sizes.get(s.number, s.state_bytes)) for s in first[:limit]]
        return page, page[-1][0] if len(first) > limit else found.reached

    def _newer(self, listing: Listing) -> list[Session]:
        """What matches of the sessions that changed lately.

        There may be tens of thousands, so no more is done with each than must be.
        """
        status, matches = listing.status, listing.matches
        sessions = [s for r in self.book.overlay if (s := r.session) is not None and s.status == status]
        return sessions if listing.is_plain else [s for s in sessions if matches(s)]

    def _first(self, listing: Listing, sessions: list[Session], count: int, now: Moment) -> list[Session]:
        """The first `count` in the order of the list.

        A list is without those that have expired and that nobody has noticed: they are
        not live any more, and not marked yet for another list.  An export has them.
        """
        pick = nlargest if listing.descending else nsmallest
        wanted = count
        while True:
            first = pick(wanted, sessions, key=listing.position)
            if listing.status == LIVE and not listing.with_state:
                first = [s for s in first if self.expiry.is_live(s, now.wall)]
            if len(first) >= count or wanted >= len(sessions):
                return first[:count]
            wanted *= 4


def _between(listing: Listing, sessions: list[Session], reached: Position | None) -> list[Session]:
    """Those behind `after`, up to `reached`: what is farther is for the next page."""
    place, is_behind, after = listing.position, listing.is_behind, listing.after
    if after is not None:
        sessions = [s for s in sessions if is_behind(place(s), after)]
    if reached is not None:
        sessions = [s for s in sessions if not is_behind(place(s), reached)]
    return sessions


def listing_of(
    p: ListParams | ExportParams,
    limit: int,
    sort: Sort = "created_at",
    descending: bool = False,
    with_state: bool = False,
) -> Listing:
    """The question to the store; raises Refusal."""
    if p.text is not UNSET and p.client_id is UNSET and p.user_id is UNSET:
        expected = "left out, or come with client_id or user_id"
        raise Refusal(
            "invalid_parameter",
            f"text must be {expected}: not every session there is can be looked through",
            parameter="text",
            expected=expected,
        )
    return Listing(
        STATUS_NAMES.index(p.status),
        sort,
        descending,
        limit,
        None if p.cursor is UNSET else _decode_cursor(p.cursor, sort, descending),
        None if p.client_id is UNSET else p.client_id,
        None if p.user_id is UNSET else p.user_id,
        () if p.tags is UNSET else tuple(p.tags),
        "" if p.text is UNSET else p.text.casefold(),
        with_state,
    )


def encode_cursor(listing: Listing, position: Position) -> str:
    """The cursor of the page that begins behind `position`."""
    cursor = Cursor(listing.sort, listing.descending, *position)
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode()


def _decode_cursor(sent: str, sort: str, descending: bool) -> Position:
    try:
        cursor = msgspec.msgpack.decode(urlsafe_b64decode(sent), type=Cursor)
    except (msgspec.MsgspecError, NotBase64, ValueError):
        raise invalid("cursor", EXPECTED["cursor"], quote(sent)) from None
    if (cursor.sort, cursor.descending) != (sort, descending) or (type(cursor.key) is str) != (sort == "title"):
        raise invalid("cursor", f"{EXPECTED['cursor']}, with the same sort and order", quote(sent))
    return cursor.key, cursor.number
