"""Pages of lists: the tables' rows, corrected by what is not in the tables yet, in one order.

Synchronous, for the searcher's thread.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from heapq import merge
from typing import Any

from stui_sessions.domain.entities import LIVE, SESSION, Entity, Session
from stui_sessions.domain.finding import Found, Listing, Position
from stui_sessions.storage.counting import bare
from stui_sessions.storage.local import queries
from stui_sessions.storage.local.lookup import LOAD_BY_NUMBER
from stui_sessions.storage.local.statements import PIECE_ROWS, in_list, padded
from stui_sessions.storage.local.unwritten import Layer, View
from stui_sessions.storage.rows import decode_head, decode_session, decode_text

PIECE = 64
"""Rows fetched at once: a small page should not read thousands."""

WHOLE_BYTES = 2 * 1024 * 1024
"""State that a page holds, where it is asked for; one session more may be in it."""

Place = tuple[Position, Session | None]
"""A position in the list, and what is there; None for what does not belong there."""


def listed(connection: sqlite3.Connection, listing: Listing, view: View, is_live: Callable[[Session], bool]) -> Found:
    """One page.  `is_live` tells whether the end of a session, stored as live, has not come unnoticed."""
    hidden = listing.status == LIVE and not listing.with_state
    stored = _stored(connection, listing, view)
    places = merge(stored, _unwritten(listing, view), key=_position_of, reverse=listing.descending)
    found: list[Session] = []
    reached: Position | None = None
    looked = size = 0
    limit = queries.SCAN_LIMIT if listing.tags or listing.text else None
    with closing(stored):
        for position, session in places:
            if len(found) == listing.limit or looked == limit:
                return _whole(connection, listing, view, found, reached)
            looked += 1
            reached = position
            if session is None or (hidden and not is_live(session)):
                continue
            found.append(session)
            size += session.state_bytes + len(session.about.metadata)
            if listing.with_state and size > WHOLE_BYTES:
                return _whole(connection, listing, view, found, reached)
    return _whole(connection, listing, view, found, None)


def _position_of(place: Place) -> Position:
    return place[0]


# -- the tables' part


def _stored(connection: sqlite3.Connection, listing: Listing, view: View) -> Generator[Place, None, None]:
    """What the tables have in the places of the list, in the newest form."""
    with closing(rows(connection, queries.page(listing), min(PIECE, listing.limit + 1))) as found:
        for *head, value in found:
            number = head[1]
            if number in view.moved:
                continue
            position = position_of(listing, value, number)
            if position is None:  # damaged
                continue
            newer = view.get((listing.tenant, SESSION, decode_text(head[3])))
            if listing.sort == "last_activity" and newer is not None:
                continue  # it comes in its own place
            session = newer if isinstance(newer, Session) else decode_head(*head)
            # A row in the wrong place of the index is damage too.
            if session is not None and listing.matches(session) and listing.position(session) == position:
                yield position, session
            else:
                yield position, None


def rows(
    connection: sqlite3.Connection, pages: Iterable[queries.Query], piece: int
) -> Generator[tuple[Any, ...], None, None]:
    """What some queries find, one after the other."""
    for sql, parameters in pages:
        with closing(connection.execute(sql, parameters)) as cursor:
            while some := cursor.fetchmany(piece):
                yield from some


def position_of(listing: Listing, value: Any, number: Any) -> Position | None:
    """The place in the list that a row's index entry has; None if it is damaged."""
    if listing.sort != "title":
        return (value, number) if isinstance(value, int) else None
    try:
        return str(value, "utf-8"), number
    except (TypeError, UnicodeDecodeError):
        return None


# -- the unwritten part


def _unwritten(listing: Listing, view: View) -> Iterator[Place]:
    """What is not in the tables, or elsewhere there, in the order of the list."""
    if listing.sort == "last_activity":
        return _by_activity(listing, view)
    return iter(_in_order(listing, view.moved_sessions()))


def _in_order(listing: Listing, sessions: Iterable[Session]) -> list[Place]:
    """Those that belong into the page, in their order."""
    found: list[Place] = []
    for session in sessions:
        if listing.matches(session):
            position = listing.position(session)
            if listing.after is None or listing.is_behind(position, listing.after):
                found.append((position, session))
    found.sort(key=_position_of, reverse=listing.descending)
    return found


def _by_activity(listing: Listing, view: View) -> Iterator[Place]:
    """Commit by commit, only as far as the page needs: nearly all are active when they are committed."""
    view.measure()
    layers = sorted(view.layers, key=_newest if listing.descending else _oldest, reverse=listing.descending)
    waiting: list[Place] = []
    for place, layer in enumerate(layers):
        waiting = list(
            merge(waiting, _in_order(listing, view.layer_sessions(layer)), key=_position_of, reverse=listing.descending)
        )
        if place + 1 == len(layers):
            break
        ready = _ready(listing, waiting, layers[place + 1])
        yield from waiting[:ready]
        del waiting[:ready]
    yield from waiting


def _ready(listing: Listing, waiting: list[Place], following: Layer) -> int:
    """How many of those that wait come before all that the following layers have."""
    count = 0
    for (value, _number), _ in waiting:
        assert isinstance(value, int)
        if not (value > following.newest if listing.descending else value < following.oldest):
            break
        count += 1
    return count


def _newest(layer: Layer) -> int:
    return layer.newest


def _oldest(layer: Layer) -> int:
    return layer.oldest


# -- with their state or without


def _whole(
    connection: sqlite3.Connection, listing: Listing, view: View, found: list[Session], reached: Position | None
) -> Found:
    """The page, with the state of its sessions or without."""
    if not listing.with_state:
        return Found([bare(s) for s in found], reached)
    wanted = [s.number for s in found if view.get(s.key) is None]
    whole = decoded(connection, LOAD_BY_NUMBER, wanted, decode_session)
    newest: list[Entity | None] = [view.get(s.key) or whole.get(s.number) for s in found]
    return Found([s for s in newest if isinstance(s, Session)], reached)


def decoded(
    connection: sqlite3.Connection, sql: str, numbers: list[int], decode: Callable[..., Session | None]
) -> dict[int, Session]:
    """The sessions of some rows, by their numbers; without those that `decode` finds damaged."""
    found = {}
    for start in range(0, len(numbers), PIECE_ROWS):
        some = padded(numbers[start : start + PIECE_ROWS])
        for row in connection.execute(in_list(sql, len(some)), some).fetchall():
            session = decode(*row)
            if session is not None:
                found[session.number] = session
    return found
