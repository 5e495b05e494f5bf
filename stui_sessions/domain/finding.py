"""Questions about more than one entity: lists, references that are no ids, counts.

Pure.  A store answers them from its indexes, by the rules in this file; what it
answers is committed, always.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from stui_sessions.domain.entities import DELETED, LIVE, Session

Sort = Literal["last_activity", "created_at", "title"]
Position = tuple[int | str, int]
"""A place in a list: the value that it is sorted by, and the session's number."""

MAX_MATCHES = 10
"""Candidates that are told when a reference is ambiguous."""

_PLACES: dict[Sort, Callable[[Session], Position]] = {
    "last_activity": attrgetter("active_at", "number"),
    "created_at": attrgetter("number", "number"),  # numbers are given out in the order of creation
    "title": attrgetter("about.title", "number"),
}


class Listing(Struct, frozen=True):
    """One page of a list, in words that an index can answer.

    `after` is the position behind which the page begins.  `status` is the one that is
    stored; a list of live sessions is without those whose end has come unnoticed,
    unless it is `with_state`: an export has them.
    """

    tenant: str
    status: int
    sort: Sort
    descending: bool
    limit: int
    after: Position | None = None
    client_id: str | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()  # all of them
    text: str = ""  # casefolded; in the title or one of the ids
    with_state: bool = False  # the rows come with their state

    @property
    def position(self) -> Callable[[Session], Position]:
        """Tells the place of a session in the list."""
        return _PLACES[self.sort]

    def matches(self, s: Session) -> bool:
        """`s` belongs in the list, by the status that is stored."""
        return (
            s.status == self.status
            and s.key[0] == self.tenant
            and (self.client_id is None or s.client_id == self.client_id)
            and (self.user_id is None or s.user_id == self.user_id)
            and (not self.tags or set(self.tags) <= set(s.about.tags))
            and (not self.text or self._holds_text(s))
        )

    def _holds_text(self, s: Session) -> bool:
        return any(self.text in name.casefold() for name in (s.about.title, s.session_id, s.about.external_id))

    def is_behind(self, position: Position, mark: Position) -> bool:
        """`position` comes after `mark` in the order of the list."""
        return position < mark if self.descending else position > mark


class Reference(Struct, frozen=True):
    """Something that names a session without being its whole id.

    `prefix` is the beginning of an id, `external_id` and `title` are whole; each is
    looked for unless it is empty.  External ids and titles name sessions stored as
    live, prefixes any session that is not deleted.
    """

    tenant: str
    prefix: str = ""
    external_id: str = ""
    title: str = ""

    def matches(self, s: Session) -> bool:
        """`s` is named, by the status that is stored."""
        if s.key[0] != self.tenant:
            return False
        if self.prefix and s.status != DELETED and s.session_id.startswith(self.prefix):
            return True
        return s.status == LIVE and bool(
            (self.external_id and s.about.external_id == self.external_id)
            or (self.title and s.about.title == self.title)
        )


class Due(Struct, frozen=True):
    """Sessions of a status whose end may have come, in the order of their ends.

    Live ones by the end that is stored (perhaps earlier than the real one, never
    later: a handler judges it again), ended ones by when they ended; pinned ones never.
    """

    status: int
    before: int  # ms, inclusive
    after: Position
    limit: int


class Counts(Struct, frozen=True):
    """How many sessions there are of each status, and clients that have a live one."""

    tenant: str


Question = Listing | Reference | Due | Counts
"""What a store can be asked beside entities by their keys."""


class DueSession(Struct, frozen=True, gc=False):
    """A session that may be due."""

    key: tuple[str, str, str]
    due_at: int  # ms, as stored
    number: int
    size: int  # bytes of its four objects


class Found(Struct):
    """The sessions that a Listing or Reference finds.

    Without their state, unless that was asked for; `state_bytes` tells its size all
    the same.  A Listing: in its order, fewer than `limit` only if there are no more;
    `next` is the position behind which the next page begins, None if this is the last
    (with state, a page may be cut where it gets large).  A Reference: the most
    recently active first, at most MAX_MATCHES + 1 of each kind.
    """

    sessions: list[Session]
    next: Position | None = None


class Totals(Struct, array_like=True, gc=False):
    """The answer to Counts."""

    live: int = 0
    expired: int = 0
    closed: int = 0
    deleted: int = 0
    clients: int = 0


class DueFound(Struct):
    """The answer to Due."""

    due: list[DueSession]


Answer = Found | Totals | DueFound
