"""Export and import: what is moved is what was there, and a row that cannot be taken stops no other."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from msgspec import Raw

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.moving import PAGE_BYTES, ImportParams, import_sessions
from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import CLOSED, DELETED, LIVE, Damaged, Session, data_of, owner_key
from stui_sessions.protocol.fields import LAST_MS, MAX_TTL
from stui_sessions.protocol.messages import Codec, WireLimits
from stui_sessions.protocol.records import ExportRow
from tests.commands.house import House

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
    """Equal but for what is the server's own."""
    return msgspec.structs.replace(data_of(a), number=0) == msgspec.structs.replace(data_of(b), number=0)


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
        house.forget()
    rows = [row for status in ("live", "expired", "closed", "deleted") for row in exported(house, status=status)]
    assert len(rows) == 4
    result = other.do("import_sessions", sessions=rows)
    assert (result.created, result.replaced, result.skipped, result.renamed, result.errors) == (4, 0, 0, [], [])
    for session_id in made:
        house.do("get_session", session_id=session_id)
        assert same(house.session(session_id), other.session(session_id))
    assert other.counts() == (2, 0, 1, 1)
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
        other.forget()
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
        changed(good, status="closed", ended_at_ms=0),  # inside, 0 is not to have ended
        changed(good, tags=["a", "a"]),
        changed(good, title=" "),
        changed(good, title="a\u0007"),
        changed(good, title=" a"),
        changed(good, title="\u200b"),
        changed(good, title="x" * 61),
        changed(good, timeout=1, created_at_ms=LAST_MS),
        changed(good, timeout=1, active_at_ms=LAST_MS - 999),
        changed(good, timeout=10, active_at_ms=LAST_MS - 10_000),  # a start after a crash might give it a second more
        changed(good, timeout=3_153_600_000, modified_at_ms=LAST_MS - 3_153_600_000_000 + 1),
        changed(good, ends_at_ms=LAST_MS + 1),
        changed(good, status="closed", ended_at_ms=LAST_MS + 1),
    ]
    result = other.do("import_sessions", sessions=[*bad, good])
    assert result.created == 1
    codes = [e.error_code for e in result.errors]
    assert [e.row for e in result.errors] == list(range(len(bad)))
    assert codes[0] == "checksum_mismatch"
    assert codes[5] == "metadata_too_large"
    assert codes[9] == "state_too_large"
    assert {codes[i] for i in set(range(1, len(bad))) - {5, 9}} == {"invalid_record"}


def test_rows_at_the_edge_are_taken(house: House, other: House) -> None:
    house.do("open_session", session_id="good", timeout=10)
    (good,) = exported(house)
    rows = [
        changed(good, session_id="a", title="x" * 60),
        changed(good, session_id="b", created_at_ms=LAST_MS - 11_000),
        changed(good, session_id="c", ends_at_ms=LAST_MS),
        changed(good, session_id="d", status="closed", ended_at_ms=LAST_MS),
        changed(good, session_id="e", created_at_ms=LAST_MS - 11_000, ends_at_ms=LAST_MS),
    ]
    assert other.do("import_sessions", sessions=rows).created == 5
    for session_id in "abcde":
        told = other.do("get_session", session_id=session_id)
        assert all(len(t) == 20 for t in (told.created_at, told.expires_at, told.ended_at) if t is not None)
    for wrong in ({"ttl_seconds": 12}, {"ttl_seconds": MAX_TTL}):
        assert other.refused("update_session", session_id="b", **wrong).code == "invalid_parameter"
    assert other.refused("extend_session", session_id="e", seconds=1).code == "invalid_parameter"


def test_the_largest_session_fits_on_a_line_of_an_import(house: House, other: House) -> None:
    """With the default settings: a state of 1 MiB, all else at its longest, each character as long as JSON makes it."""
    rules, long = other.world.rules, "\u0001"
    text = b'{"a":"' + b"x" * (rules.max_state_bytes - 6 - len(b'{"a":""}')) + b'"}'
    tags = [f"{n:02}" + long * 62 for n in range(32)]
    own = {"session_id": long * 8192, "external_id": long * 256, "title": "\\" * 60, "tags": tags}
    names = {"client_id": "c" * 256, "user_id": "u" * 256}
    house.do("open_session", **own, **names, metadata={"a": "x" * (16_384 - 8)}, session_state=text)
    (row,) = exported(house)
    line = msgspec.json.encode({"id": 1, "command": "import_sessions", "parameters": {"sessions": [row]}})
    assert rules.max_state_bytes == 1024 * 1024 < len(line) < rules.max_message_bytes
    request = Codec(REGISTRY, WireLimits(rules.max_message_bytes)).decode(line)
    assert other.do("import_sessions", sessions=request.parameters.sessions).created == 1


def test_rows_whose_owner_is_damaged_are_refused_and_nothing_of_them_is_staged(house: House, other: House) -> None:
    house.do("open_session", client_id="bad", session_id="a", external_id="x")
    house.do("open_session", client_id="good", session_id="b", external_id="y")
    key = owner_key("", "", "bad")
    assert key is not None
    other.stored[key] = Damaged(key)
    result = other.do("import_sessions", sessions=exported(house))
    assert [(e.row, e.error_code) for e in result.errors] == [(0, "session_damaged")]
    assert result.created == 1
    assert other.draft is not None
    assert {record.key[2] for record, _, _ in other.draft.changes} == {"b", "\0good", "\0y"}


def test_a_request_is_read_once_however_often_it_is_decided(house: House, other: House) -> None:
    variety(house)
    rows = exported(house)
    other.do("import_sessions", sessions=rows[:1])
    other.forget()
    p = ImportParams(rows, "replace")
    read = p.read
    row = REGISTRY["import_sessions"]
    other.decide(lambda draft: import_sessions(draft, p), row)
    assert other.loads
    assert p.read is read


def test_everything_is_asked_for_in_a_few_loads(house: House) -> None:
    """Not row by row, whatever there is in its way."""
    n = 40
    giver, taker = House(Rules(max_sessions_per_user=1000)), House(Rules(max_sessions_per_user=1000))
    for i in range(n):
        giver.do("open_session", user_id="u", session_id=f"new{i}", external_id=f"x{i}")
        taker.do("open_session", user_id="u", session_id=f"old{i}", external_id=f"x{i}", timeout=5)
        taker.do("open_session", user_id=f"v{i}", session_id=f"new{i}", external_id="e")
    taker.forget()
    taker.wait(6)
    result = taker.do("import_sessions", sessions=exported(giver), on_conflict="replace")
    assert (result.replaced, result.errors) == (n, [])
    assert len(taker.loads) <= 4


def test_ended_sessions_come_as_they_are(house: House, other: House) -> None:
    made = variety(house)
    rows = [row for status in ("closed", "deleted") for row in exported(house, status=status)]
    other.do("import_sessions", sessions=rows)
    assert [other.session(i).status for i in (made[1], made[3])] == [CLOSED, DELETED]
    assert other.do("undelete_session", session_id=made[3]).undeleted
    assert other.session(made[3]).status == LIVE
