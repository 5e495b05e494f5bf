"""The searching side of the SQLite store: a read-only connection of its own.

So that no load waits behind a search.  One search at a time, in a thread.
"""

import asyncio
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from stui_sessions.errors import StorageError
from stui_sessions.sessions.finding import MAX_MATCHES, Found, Listing, Position, Reference, Row, Search
from stui_sessions.sessions.model import Session
from stui_sessions.storage import queries
from stui_sessions.storage.background import ended, interruptible
from stui_sessions.storage.border import CAUGHT, Log, is_medium, translate
from stui_sessions.storage.reader import MAX_IN, connect_reading, in_list, padded
from stui_sessions.storage.rows import WHOLE, decode_head, decode_session

PIECE = 64
"""Rows fetched at once: a small page should not read thousands."""

WHOLE_BYTES = 2 * 1024 * 1024
"""State that a page holds, where it is asked for; one session more may be in it."""

_WHOLE = f"SELECT {WHOLE} FROM sessions WHERE number IN ({{}})"


class Searcher:
    """Answers `SessionStore.search`.  Connects when it is first asked."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._is_open = False
        self._one = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._work: asyncio.Future[Found] | None = None

    def open(self) -> None:
        """Searches are welcome."""
        self._is_open = True

    async def search(self, search: Search) -> Found:
        """See `SessionStore.search`."""
        async with self._one:
            if not self._is_open:
                raise StorageError("the store is closed")
            self._work = asyncio.ensure_future(asyncio.to_thread(self._run, search))
            try:
                return await interruptible(self._work, self._interrupt)
            except CAUGHT as error:
                if is_medium(error):
                    self._disconnect()  # the next search tries anew
                raise translate("searching the database", error) from error

    async def close(self) -> None:
        """End the search that is running, if one is, and disconnect.  Never raises."""
        self._is_open = False
        if self._work is not None:
            await ended(self._work, self._interrupt)
        self._disconnect()

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except CAUGHT as error:
            self._log.debug("database_close_failed", error=str(error))

    def _run(self, search: Search) -> Found:
        """In the thread.  All of it sees the database at one moment."""
        if self._connection is None:
            self._connection = connect_reading(self._path, any_thread=True)
        self._connection.execute("BEGIN")
        try:
            return run(self._connection, search)
        finally:
            if self._connection.in_transaction:  # some errors end it
                self._connection.execute("ROLLBACK")


def run(connection: sqlite3.Connection, search: Search) -> Found:
    """What a search finds; in a transaction, if all of it is to be of one moment."""
    if isinstance(search, Reference):
        return _named(connection, search)
    found = _listed(connection, search)
    if search.with_state:
        whole = _whole(connection, [row.session.number for row in found.rows])
        found.rows = [Row(whole[n], row.state_bytes) for row in found.rows if (n := row.session.number) in whole]
    return found


def _listed(connection: sqlite3.Connection, listing: Listing) -> Found:
    """One page, without the state."""
    found: list[Row] = []
    reached: Position | None = None
    looked = size = 0
    with closing(_rows(connection, queries.page(listing), min(PIECE, listing.limit + 1))) as rows:
        for *head, value in rows:
            if looked == queries.SCAN_LIMIT or len(found) == listing.limit:
                return Found(found, reached)
            looked += 1
            position = _position(listing, value, head[0])
            if position is None:
                continue
            reached = position
            session = decode_head(*head)
            # A row in the wrong place of the index is damage too.
            if session is not None and listing.matches(session) and listing.position(session) == position:
                found.append(Row(session, head[3]))
                size += head[3] + len(head[5])
                if listing.with_state and size > WHOLE_BYTES:
                    return Found(found, reached)
    return Found(found)


def _rows(
    connection: sqlite3.Connection, pages: list[queries.Query], piece: int
) -> Generator[tuple[Any, ...], None, None]:
    """What some queries find, one after the other."""
    for sql, parameters in pages:
        with closing(connection.execute(sql, parameters)) as cursor:
            while rows := cursor.fetchmany(piece):
                yield from rows


def _position(listing: Listing, value: Any, number: int) -> Position | None:
    """The place in the list that a row's index entry has; None if it is damaged."""
    if listing.sort != "title":
        return (value, number) if isinstance(value, int) else None
    try:
        return str(value, "utf-8"), number
    except (TypeError, UnicodeDecodeError):
        return None


def _whole(connection: sqlite3.Connection, numbers: list[int]) -> dict[int, Session]:
    """The sessions of some rows, with their state; without those whose state is damaged."""
    found = {}
    for start in range(0, len(numbers), MAX_IN):
        some = padded(numbers[start : start + MAX_IN])
        for row in connection.execute(in_list(_WHOLE, len(some)), some).fetchall():
            session = decode_session(*row)
            if session is not None:
                found[session.number] = session
    return found


def _named(connection: sqlite3.Connection, reference: Reference) -> Found:
    """The first few of each kind of reference, or many of each."""
    found: dict[int, Row] = {}
    more = False
    for kind, query in queries.candidates(reference):
        matches: list[Row] = []
        looked = 0
        with closing(_rows(connection, [query], MAX_MATCHES + 1)) as rows:
            for head in rows:
                looked += 1
                session = decode_head(*head)
                if session is not None and kind.matches(session):
                    matches.append(Row(session, head[3]))
                if len(matches) > MAX_MATCHES and not reference.wide:
                    more = True
                    break
        more = more or looked == query.parameters[-1]  # its LIMIT
        found |= {row.session.number: row for row in matches}
    return Found(list(found.values()), more=more)
