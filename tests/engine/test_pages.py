"""Lists page by page, and references that many sessions answer to, over a store that tells a few at a time."""

from collections.abc import Callable
from typing import Any

import pytest

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import About
from stui_sessions.domain.finding import MAX_MATCHES
from tests.engine.desk import Desk, stored_session


def test_matches_that_expired_unnoticed_do_not_hide_the_true_one() -> None:
    names = [f"n{n:02}" for n in range(3 * MAX_MATCHES)]
    stored = [
        stored_session(
            *(name, n),
            timeout=1 if name != names[-1] else 1000,
            about=About(user_id=name, external_id="x", title="same"),
        )
        for n, name in enumerate(names, 1)
    ]
    with Desk(*stored) as desk:
        assert desk.ask("get_session", external_id="x") == "external_id_ambiguous"
        assert desk.ask("resolve_session", ref="same") == "reference_ambiguous"
        desk.wall += 5000
        assert desk.ask("resolve_session", ref="same")["session_id"] == names[-1]
        assert desk.ask("get_session", external_id="x")["session_id"] == names[-1]


def walk(desk: Desk, meanwhile: Callable[[int], None] = lambda page: None, **parameters: Any) -> list[str]:
    """The ids on all pages, in their order."""
    walked: list[str] = []
    cursor: dict[str, str] = {}
    for number in range(1000):
        page = desk.ask("list_sessions", **parameters, **cursor)
        walked += [row["session_id"] for row in page["sessions"]]
        if page["next_cursor"] is None:
            return walked
        assert len(page["sessions"]) == parameters["limit"]
        cursor = {"cursor": page["next_cursor"]}
        meanwhile(number)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["created_at", "last_activity", "title"])
def test_pages_leave_nothing_out_among_many_that_expired_unnoticed(sort: str, order: str) -> None:
    left = [*range(9, 15), *range(20, 25)]
    stored = [
        stored_session(f"s{n:02}", n + 1, timeout=3600 if n in left else 1, about=About(title=f"t{n:02}"))
        for n in range(30)
    ]
    with Desk(*stored) as desk:
        desk.wall += 5000
        for n in left:
            desk.wall += 1000
            desk.ask("touch_session", session_id=f"s{n:02}")
        names = [f"s{n:02}" for n in left]
        assert walk(desk, sort=sort, order=order, limit=2) == (names if order == "asc" else names[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_walk_in_the_order_of_creation_while_sessions_come_and_go(order: str) -> None:
    stay = [f"s{n:02}" for n in range(20)]
    stored = [stored_session(f"{n}{end}", number) for number, (n, end) in enumerate(_twice(stay), 1)]
    with Desk(*stored, rules=Rules(max_sessions_per_client=1000)) as desk:

        def come_and_go(page: int) -> None:
            desk.ask("delete_session", session_id=f"s{page:02}-goes", purge=page % 2 == 0)
            if page < 10:
                desk.ask("create_session", client_id="me", session_id=f"{order}{page}")
            desk.ask("touch_session", session_id=stay[page % 20])

        walked = walk(desk, come_and_go, sort="created_at", order=order, limit=3)
        assert len(set(walked)) == len(walked)
        assert [i for i in walked if i in stay] == (stay if order == "asc" else stay[::-1])


def _twice(names: list[str]) -> list[tuple[str, str]]:
    return [(name, end) for name in names for end in ("", "-goes")]
