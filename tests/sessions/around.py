"""What several tests need around a house: what a client sees, sessions that have ended, crashes."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from stui_sessions.sessions.book import SessionBook
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.model import LIVE, Record, Removed, Totals, apply
from tests.sessions.house import House

DAY = 86_400
WAYS_TO_END = ["closed", "deleted", "expired", "unnoticed"]
"""How a session may have ended; the last one has expired, and no sweeper has passed."""


def seen(result: Any) -> Any:
    """A result as a client sees it."""
    return json.loads(msgspec.json.encode(result))


def end(house: House, session_id: str, how: str) -> None:
    """Make a live session end."""
    if how == "closed":
        house.do("close_session", session_id=session_id)
    elif how == "deleted":
        house.do("delete_session", session_id=session_id)
    elif how in ("expired", "unnoticed"):
        house.wait(house.session(session_id).timeout)
        if how == "expired":
            house.sweep(session_id)
    assert status_of(house, session_id) == ("expired" if how == "unnoticed" else how)


def status_of(house: House, session_id: str) -> Any:
    return house.do("get_session", session_id=session_id).status


def titles(page: Any) -> list[Any]:
    return [row.title for row in page.sessions]


def ids(page: Any) -> list[str]:
    return [row.session_id for row in page.sessions]


def restart(house: House, journal: Iterable[Record]) -> None:
    """After a crash: what is stored, and the records that are in no snapshot."""
    sessions = {s.number: s for s in house.stored.values()}
    touched: set[int] = set()
    removed = []
    for record in journal:
        after = apply(sessions.get(record.number), record)
        touched.add(record.number)
        if isinstance(record, Removed):
            removed.append(record)
        if after is None:
            del sessions[record.number]
        else:
            sessions[record.number] = after
    by_status = [[s for s in sessions.values() if s.status == status] for status in range(len(STATUS_NAMES))]
    clients = {(s.user_id, s.client_id) for s in by_status[LIVE] if s.client_id}
    live, *ended = map(len, by_status)
    totals = Totals(live, len(clients), house.book.totals.last_number, *ended)
    house.book = house.manager.book = SessionBook(totals, house.book.batch - 1)
    pending = [*removed, *(s for s in sessions.values() if s.number in touched)]
    house.book.adopt(sorted(pending, key=lambda form: form.number))
