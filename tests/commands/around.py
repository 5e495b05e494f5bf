"""What several tests need around a house: what a client sees, sessions that have ended."""

import json
from typing import Any

import msgspec

from tests.commands.house import House

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
