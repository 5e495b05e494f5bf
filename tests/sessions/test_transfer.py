"""Export and import: what is moved is what was there, and a row that cannot be taken stops no other."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from msgspec import Raw

from stui_sessions.protocol.records import ExportRow
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import CLOSED, DELETED, LIVE, Session
from stui_sessions.sessions.transfer import PAGE_BYTES
from tests.sessions.house import House

STATE = b'{"b":1.10,"a":-0,"n":1234567890123456789012345678901234567890,"s":"\\u0000\xc3\xa9"}'


@pytest.fixture
def house() -> House:
    return House(Rules(max_sessions_per_client=3))


@pytest.fixture
def other() -> House:
    """Where the sessions go."""
    return House(Rules(max_sessions_per_client=1))


def exported(house: House, **filters: Any) -> list[ExportRow]:
    """All rows, page by page."""
    rows: list[ExportRow] = []
    cursor: Any = msgspec.UNSET
    while cursor is not None:
        page = house.do("export_sessions", cursor=cursor, **filters)
        rows += page.sessions
        cursor = page.next_cursor
    return rows


def ids(house: House, **filters: Any) -> list[str]:
    return [msgspec.json.decode(row.session)["session_id"] for row in exported(house, **filters)]


def changed(row: ExportRow, **fields: Any) -> ExportRow:
    """The row with other values, and a checksum that fits."""
    text = msgspec.json.encode(msgspec.json.decode(row.session) | fields)
    return ExportRow(f"{crc32(text):08x}", Raw(text))


def same(a: Session, b: Session) -> bool:
    """Equal but for the number, which is the server's own."""
    return msgspec.structs.replace(a, number=0) == msgspec.structs.replace(b, number=0)


def variety(house: House) -> list[str]:
    """Sessions of all kinds."""
    made = [
        house.do(
            "open_session",
            client_id="me",
            user_id="ada",
            session_id="mine\0\U0001f600",
            external_id="x",
            title="A title",
            tags=["a", "b"],
            metadata=b'{"k":[1]}',
            ttl_seconds=5000,
            session_state=STATE,
            object_registry={"o": 1},
        ).session_id,
        house.create("closed", session_state={"c": 1}),
        house.do("open_session").session_id,
        house.create("deleted"),
    ]
    house.wait(5)
    house.do("update_session_state", session_id=made[0], workspace_context={"w": 1})
    house.do("update_session", session_id=made[2], pin=True)
    house.do("close_session", session_id=made[1])
    house.do("delete_session", session_id=made[3])
    return made


@pytest.mark.parametrize("forgotten", [False, True])
def test_what_is_imported_is_what_was_exported(house: House, other: House, forgotten: bool) -> None:
    made = variety(house)
    if forgotten:
        house.forget_residents()
    rows = [row for status in ("live", "expired", "closed", "deleted") for row in exported(house, status=status)]
    assert len(rows) == 4
    result = other.do("import_sessions", sessions=rows)
    assert (result.created, result.replaced, result.skipped, result.renamed, result.errors) == (4, 0, 0, [], [])
    for session_id in made:
        house.do("get_session", session_id=session_id)
        assert same(house.session(session_id), other.session(session_id))
    assert other.book.totals.by_status() == (2, 0, 1, 1)
    assert other.do("get_session", external_id="x").session_id == made[0]


def test_an_export_tells_filters_and_pages(house: House) -> None:
    made = [house.create(f"c{n % 2}", tags=["even" if n % 2 == 0 else "odd"]) for n in range(5)]
    assert ids(house) == made
    assert ids(house, limit=2) == made
    assert ids(house, client_id="c0") == made[::2]
    assert ids(house, tags=["odd"]) == made[1::2]
    assert ids(house, status="closed") == []


def test_a_page_is_cut_where_it_gets_large(house: House) -> None:
    large = {"a": "x" * (PAGE_BYTES // 3)}
    made = [house.create(f"c{n}", session_state=large) for n in range(4)]
    first = house.do("export_sessions")
    assert len(first.sessions) == 2
    assert ids(house) == made


def test_what_has_expired_unnoticed_is_exported(house: House) -> None:
    """Else it would be in no export at all."""
    session_id = house.create(timeout=10)
    house.wait(11)
    assert house.do("list_sessions").sessions == []
    assert ids(house) == [session_id]


def test_neither_limits_nor_rates_hold(house: House) -> None:
    for _ in range(3):
        house.create()
    other = House(Rules(max_sessions_per_client=1), per_minute=1)
    assert other.do("import_sessions", sessions=exported(house)).created == 3
    assert other.do("list_client_sessions", client_id="me").session_count == 3


@pytest.mark.parametrize("ended", ["no", "closed", "deleted"])
@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("mode", ["error", "skip", "replace", "new"])
def test_an_id_that_is_taken(house: House, other: House, mode: str, forgotten: bool, ended: str) -> None:
    house.do("open_session", client_id="me", session_id="x", session_state={"from": "afar"})
    other.do("open_session", client_id="you", session_id="x", external_id="e", session_state={"from": "here"})
    if ended != "no":
        other.do("close_session" if ended == "closed" else "delete_session", session_id="x")
    if forgotten:
        other.forget_residents()
    result = other.do("import_sessions", sessions=exported(house), on_conflict=mode)
    counts = (result.created, result.replaced, result.skipped, len(result.renamed), len(result.errors))
    assert counts == {"error": (0, 0, 0, 0, 1), "skip": (0, 0, 1, 0, 0), "replace": (0, 1, 0, 0, 0),
                      "new": (1, 0, 0, 1, 0)}[mode]  # fmt: skip
    there = other.do("get_session", session_id="x", include=["state"])
    assert bytes(there.session_state) == (b'{"from":"afar"}' if mode == "replace" else b'{"from":"here"}')
    if mode == "error":
        assert result.errors[0].error_code == "session_id_conflict"
    if mode == "new":
        renamed = other.do("get_session", session_id=result.renamed[0].session_id, include=["state"])
        assert bytes(renamed.session_state) == b'{"from":"afar"}'
    other.commit()
    other.snapshot()
    assert same(other.stored["x"], other.session("x"))


def test_a_replaced_session_leaves_nothing_behind(house: House, other: House) -> None:
    house.do("open_session", client_id="me", session_id="x")
    other.do("open_session", client_id="you", session_id="x", external_id="e", title="t")
    other.commit()
    other.do("import_sessions", sessions=exported(house), on_conflict="replace")
    assert other.do("list_client_sessions", client_id="you").session_count == 0
    assert other.refused("get_session", external_id="e").code == "session_not_found"
    assert other.book.removed["replaced"] == 1
    other.fail_commit()
    assert other.do("get_session", external_id="e").client_id == "you"
    assert other.book.removed["replaced"] == 0


def test_the_same_id_twice_in_one_import(house: House, other: House) -> None:
    house.do("open_session", session_id="x")
    (row,) = exported(house)
    result = other.do("import_sessions", sessions=[row, row])
    assert (result.created, [e.row for e in result.errors]) == (1, [1])


def test_an_external_id_that_is_taken(house: House, other: House) -> None:
    house.do("open_session", user_id="ada", session_id="x", external_id="e")
    house.do("open_session", user_id="ada", session_id="y", external_id="f")
    other.do("open_session", user_id="ada", session_id="z", external_id="e")
    result = other.do("import_sessions", sessions=exported(house))
    assert [(e.row, e.error_code) for e in result.errors] == [(0, "external_id_conflict")]
    assert result.created == 1
    # An ended session does not hold its external id, so it may come with it.
    closed = [changed(row, status="closed", ended_at_ms=1) for row in exported(house)[:1]]
    assert other.do("import_sessions", sessions=closed).created == 1


def test_rows_that_cannot_be_taken_stop_no_other(house: House, other: House) -> None:
    house.do("open_session", session_id="good")
    (good,) = exported(house)
    bad = [
        ExportRow("00000000", good.session),
        changed(good, status="asleep"),
        changed(good, revision=0),
        changed(good, session_state=[1]),
        changed(good, metadata="x"),
        changed(good, metadata={"a": "x" * 20_000}),
        changed(good, session_id=""),
        changed(good, session_id="\N{SNOWMAN}" * 8000),
        changed(good, unknown=1),
        changed(good, session_state={"a": "x" * 2_000_000}),
        ExportRow(f"{crc32(b'5'):08x}", Raw(b"5")),
        changed(good, ends_at_ms=5),
        changed(good, status="closed"),
        changed(good, ended_at_ms=5),
        changed(good, tags=["a", "a"]),
    ]
    result = other.do("import_sessions", sessions=[*bad, good])
    assert result.created == 1
    codes = [e.error_code for e in result.errors]
    assert [e.row for e in result.errors] == list(range(len(bad)))
    assert codes[0] == "checksum_mismatch"
    assert codes[5] == "metadata_too_large"
    assert codes[9] == "state_too_large"
    assert {codes[i] for i in (1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14)} == {"invalid_record"}


def test_an_import_that_cannot_be_committed_leaves_nothing(house: House, other: House) -> None:
    variety(house)
    rows = [row for status in ("live", "closed", "deleted") for row in exported(house, status=status)]
    other.do("import_sessions", sessions=rows)
    other.fail_commit()
    assert other.book.totals.by_status() == (0, 0, 0, 0)
    assert other.do("list_sessions").sessions == []


def test_ended_sessions_come_as_they_are(house: House, other: House) -> None:
    made = variety(house)
    rows = [row for status in ("closed", "deleted") for row in exported(house, status=status)]
    other.do("import_sessions", sessions=rows)
    assert [other.session(i).status for i in (made[1], made[3])] == [CLOSED, DELETED]
    assert other.do("undelete_session", session_id=made[3]).undeleted
    assert other.session(made[3]).status == LIVE


def test_without_a_store_on_disk_there_is_no_backup(house: House) -> None:
    assert house.refused("begin_backup").code == "backup_unavailable"
