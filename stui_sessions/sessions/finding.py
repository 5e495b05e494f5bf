"""Questions about more than one session: lists, and references that are no ids.

Pure.  The store answers from its indexes, with sessions as their last snapshots
have them; the book adds what is newer.  Both use the rules in this file.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Literal

from msgspec import Struct

from stui_sessions.sessions.model import DELETED, LIVE, Session

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

    `after` is the position behind which the page begins.  `status` is the one
    that is stored: a live session may have expired unnoticed, so the asker
    judges again.
    """

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

    @property
    def is_plain(self) -> bool:
        """The status alone decides what belongs in the list."""
        return self.client_id is None and self.user_id is None and not self.tags and not self.text

    def matches(self, s: Session) -> bool:
        """`s` belongs in the list, if its status as stored is the real one."""
        return (
            s.status == self.status
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

    `prefix` is the beginning of an id, `external_id` and `title` are whole; each
    is looked for unless it is empty.  External ids and titles name live sessions
    alone, prefixes any session that is not deleted.  `wide`: many more are wanted than
    anybody is told, because the first few turned out not to be meant any more.
    """

    prefix: str = ""
    external_id: str = ""
    title: str = ""
    wide: bool = False

    def matches(self, s: Session) -> bool:
        """`s` is named, if its status as stored is the real one."""
        if self.prefix and s.status != DELETED and s.session_id.startswith(self.prefix):
            return True
        return s.status == LIVE and bool(
            (self.external_id and s.about.external_id == self.external_id)
            or (self.title and s.about.title == self.title)
        )


Search = Listing | Reference


class BackupPart(Struct, frozen=True):
    """A part of a copy of the store."""

    backup_id: str
    offset: int


Question = Search | BackupPart
"""What is answered by somebody who takes his time."""


class Row(Struct):
    """A stored session that was found; without its state unless that was asked for."""

    session: Session
    state_bytes: int


class Found(Struct):
    """The stored sessions that match a search, as of some moment while it ran.

    `reached`: how far the store has looked, if that was not to the end; what is
    behind it is for the next page.  `more`: there may be others that a reference names.
    """

    rows: list[Row]
    reached: Position | None = None
    more: bool = False
