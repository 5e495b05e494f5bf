"""Questions as SQL: which index answers which.  Pure.

INDEXED BY throughout: a question that no index answers is an error here, and not
a look at the whole table.
"""

from functools import cache
from typing import Any, NamedTuple

from stui_sessions.domain.finding import Due, Listing, Position, Reference
from stui_sessions.storage.counting import MAX_INTEGER
from stui_sessions.storage.rows import HEAD, encode_text

SCAN_LIMIT = 5000
"""Rows that a filtered page looks at, at most; and each kind of reference."""

_SORTED = {  # the column sorted by, and the index that has all sessions of a status in its order
    "last_activity": ("active_at", "sessions_by_activity"),
    "created_at": ("number", "sessions_by_status"),
    "title": ("title", "sessions_by_title"),
}


class Query(NamedTuple):
    """A statement and its parameters."""

    sql: str
    parameters: list[Any]


def page(listing: Listing) -> list[Query]:
    """The rows of a list behind `after`, one query after the other: HEAD and the value sorted by.

    Rows of other sessions may be among them, for `Listing.matches` to leave out:
    were SQLite to do that, the number of rows looked at would have no bound.
    """
    column, index = _SORTED[listing.sort]
    key: dict[str, Any] = {}
    # An empty name is not worth an index: it may be that of all sessions.
    if listing.client_id:
        index, key["client_id"] = "sessions_by_client", encode_text(listing.client_id)
        if listing.user_id is not None:
            key["user_id"] = encode_text(listing.user_id)
    elif listing.user_id:
        index, key["user_id"] = "sessions_by_user", encode_text(listing.user_id)
    is_sorted = not key
    key["status"] = listing.status
    where = "".join(f" AND {name} = ?" for name in key)
    return [
        Query(_page_sql(index, column, where + behind, listing.descending), [listing.tenant, *key.values(), *place])
        for behind, place in _behind(listing, column, is_sorted)
    ]


def _behind(listing: Listing, column: str, is_sorted: bool) -> list[tuple[str, list[Any]]]:
    """The part of the list that is behind `after`, as conditions and their parameters."""
    if listing.after is None:
        return [("", [])]
    sign = "<" if listing.descending else ">"
    value, number = _stored(listing.after)
    if column == "number":
        return [(f" AND number {sign} ?", [number])]
    if not is_sorted:
        return [(f" AND ({column}, number) {sign} (?, ?)", [value, number])]
    # Of a row value SQLite uses the first part alone, and would look at all that have
    # the same: the sessions without a title, for example.
    return [(f" AND {column} = ? AND number {sign} ?", [value, number]), (f" AND {column} {sign} ?", [value])]


def _stored(position: Position) -> tuple[Any, int]:
    """A position as the indexes have it."""
    value, number = position
    return (encode_text(value) if isinstance(value, str) else _bounded(value)), _bounded(number)


def _bounded(number: int) -> int:
    """The nearest number that SQLite knows."""
    return max(-MAX_INTEGER - 1, min(number, MAX_INTEGER))


@cache
def _page_sql(index: str, column: str, where: str, descending: bool) -> str:
    direction = "DESC" if descending else "ASC"
    order = ", ".join(f"{name} {direction}" for name in dict.fromkeys((column, "number")))
    return f"SELECT {HEAD}, {column} FROM sessions INDEXED BY {index} WHERE tenant = ?{where} ORDER BY {order}"


_PLACE = "number, session_id, active_at"
_PREFIX = (
    f"SELECT {_PLACE} FROM sessions INDEXED BY sessions_by_id "
    "WHERE tenant = ? AND session_id >= ? AND session_id < ? LIMIT ?"
)
_EXTERNAL = (
    f"SELECT {_PLACE} FROM sessions INDEXED BY sessions_by_external "
    "WHERE tenant = ? AND external_id = ? AND external_id <> x'' AND status = 0 LIMIT ?"
)
_TITLE = (
    f"SELECT {_PLACE} FROM sessions INDEXED BY sessions_by_title WHERE tenant = ? AND status = 0 AND title = ? LIMIT ?"
)


def candidates(reference: Reference) -> list[tuple[Reference, Query]]:
    """For each kind of reference that is asked for: it alone, and the places of rows that may be meant."""
    found = []
    tenant = reference.tenant
    if reference.prefix:
        prefix = encode_text(reference.prefix)
        # No byte of UTF-8 is as large as 0xff.
        query = Query(_PREFIX, [tenant, prefix, prefix + b"\xff", SCAN_LIMIT])
        found.append((Reference(tenant, prefix=reference.prefix), query))
    if reference.external_id:
        query = Query(_EXTERNAL, [tenant, encode_text(reference.external_id), SCAN_LIMIT])
        found.append((Reference(tenant, external_id=reference.external_id), query))
    if reference.title:
        query = Query(_TITLE, [tenant, encode_text(reference.title), SCAN_LIMIT])
        found.append((Reference(tenant, title=reference.title), query))
    return found


_DUE = (
    "SELECT tenant, number, session_id, due_at, size FROM sessions INDEXED BY sessions_by_due "
    "WHERE status = ? AND due_at <= ? AND (due_at, number) > (?, ?) ORDER BY due_at, number LIMIT ?"
)


def due(question: Due, more: int) -> Query:
    """The rows that are due, and `more` than are asked for: some may have to be left out."""
    position = map(_bounded, (int(part) for part in question.after))
    return Query(_DUE, [question.status, _bounded(question.before), *position, question.limit + more])
