"""Rows as bytes and back, and what is not what was written."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.sessions.model import (
    EMPTY,
    About,
    Created,
    Edited,
    Ended,
    Record,
    Removed,
    Reopened,
    Session,
    Totals,
    Updated,
    Used,
)
from stui_sessions.storage.rows import (
    JOURNAL_VERSION,
    MAX_INTEGER,
    Row,
    decode_entry,
    decode_head,
    decode_id,
    decode_session,
    due_at,
    encode_entry,
    encode_session,
    encode_text,
    head_crc,
)
from tests.storage.stores import T0, session

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
moments = st.integers(0, 2**53)
numbers = st.integers(1, 2**62)
blobs = st.binary(max_size=200)
objects = st.none() | blobs

abouts = st.builds(
    About,
    user_id=text,
    external_id=text,
    title=text,
    tags=st.lists(text, max_size=3).map(tuple),
    metadata=blobs,
    ends_at=moments,
    pinned=st.booleans(),
)
sessions = st.builds(
    Session,
    number=numbers,
    session_id=text,
    client_id=text,
    created_at=moments,
    modified_at=moments,
    active_at=moments,
    timeout=st.integers(1, 2**40),
    revision=numbers,
    status=st.integers(0, 3),
    ended_at=moments,
    session_state=blobs,
    workspace_context=blobs,
    inspector_state=blobs,
    object_registry=blobs,
    about=abouts,
)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Created, sessions),
    st.builds(Updated, numbers, numbers, moments, objects, objects, objects, objects),
    st.builds(Used, numbers, moments),
    st.builds(Ended, numbers, st.integers(1, 3), moments),
    st.builds(Edited, numbers, st.integers(1, 2**40), abouts),
    st.builds(Reopened, numbers, moments, abouts),
    st.builds(Removed, numbers, text, text, text),
)
totals = st.builds(Totals, moments, moments, numbers, moments, moments, moments)


@given(numbers, st.lists(records, max_size=8), totals)
def test_entries_come_back(sequence: int, records: list[Record], totals: Totals) -> None:
    data = encode_entry(sequence, records, totals)
    entry = decode_entry(sequence, crc32(data), data)
    assert (entry.version, entry.sequence, entry.totals, entry.records) == (JOURNAL_VERSION, sequence, totals, records)


@given(st.data())
def test_a_changed_byte_of_an_entry_is_found(data: st.DataObject) -> None:
    good = encode_entry(7, [Used(1, T0)], Totals(1, 1, 1))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StorageDamaged, match="journal entry 7 fails its checksum"):
        decode_entry(7, crc32(good), bytes(bad))


@pytest.mark.parametrize(
    ("sequence", "data", "said"),
    [
        (8, encode_entry(7, [], Totals()), "says that it is number 7"),
        (7, "text", "fails its checksum"),
        (7, None, "fails its checksum"),
        (7, b"", "cannot be decoded"),
        (7, b"\xc1", "cannot be decoded"),
        (7, msgspec.msgpack.encode((2, 7)), "cannot be decoded"),
        (7, msgspec.msgpack.encode((2, 7, (), [["?", 1]])), "cannot be decoded"),
        (7, msgspec.msgpack.encode(("x", 7, (), [])), "cannot be decoded"),
        (7, msgspec.msgpack.encode((0, 7, (), [])), "unknown version 0"),
        (7, msgspec.msgpack.encode({"version": 3}), "cannot be decoded"),
    ],
)
def test_entries_that_are_none(sequence: int, data: object, said: str) -> None:
    crc = crc32(data) if isinstance(data, bytes) else 0
    with pytest.raises(StorageDamaged, match=said):
        decode_entry(sequence, crc, data)


@pytest.mark.parametrize("rest", [(7, (), []), (7, (), [["new", 1]]), ()])
def test_an_entry_of_a_newer_server_is_no_damage(rest: tuple[object, ...]) -> None:
    data = msgspec.msgpack.encode((JOURNAL_VERSION + 1, *rest))
    with pytest.raises(StartError, match="version 3, and this server knows up to version 2"):
        decode_entry(7, crc32(data), data)


ABOUT = About("u", "x", "t", ("a", "b"), b"{2}", 77, True)


def test_the_form_of_an_entry_is_fixed() -> None:
    """Files in the field are read by this; a change here is a new JOURNAL_VERSION."""
    records: list[Record] = [
        Created(Session(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}", about=ABOUT)),
        Updated(1, 2, 5, b"{}", None, None, None),
        Used(1, 6),
        Ended(1, 2, 7),
        Edited(1, 5, ABOUT),
        Reopened(1, 8, ABOUT),
        Removed(1, "a", "c", "u", "expired"),
    ]
    about = ["u", "x", "t", ["a", "b"], b"{2}", 77, True]
    assert msgspec.msgpack.decode(encode_entry(9, records, Totals(1, 2, 3, 4, 5, 6))) == [
        2,
        9,
        [1, 2, 3, 4, 5, 6],
        [
            ["c", [1, "a", "c", 1, 2, 3, 4, 1, 0, 0, b"{1}", b"{}", b"{}", b"{}", about]],
            ["u", 1, 2, 5, b"{}", None, None, None],
            ["a", 1, 6],
            ["e", 1, 2, 7],
            ["d", 1, 5, about],
            ["o", 1, 8, about],
            ["r", 1, "a", "c", "u", "expired"],
        ],
    ]


def test_an_entry_of_version_1() -> None:
    data = msgspec.msgpack.encode(
        (
            1,
            9,
            (1, 2, 3),
            [
                ("c", (1, "a", "c", 1, 2, 3, 4, 1, 0, 0, b"{1}", b"{}", b"{}", b"{}")),
                ("u", 1, 2, 5, b"{}", None, None, None),
                ("a", 1, 6),
                ("e", 1, 2, 7),
                ("r", 1, "a", "c"),
            ],
        )
    )
    entry = decode_entry(9, crc32(data), data)
    assert (entry.version, entry.sequence, entry.totals) == (1, 9, Totals(1, 2, 3))
    assert entry.records == [
        Created(Session(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}")),
        Updated(1, 2, 5, b"{}", None, None, None),
        Used(1, 6),
        Ended(1, 2, 7),
        Removed(1, "a", "c"),
    ]


def test_the_form_of_a_row_is_fixed() -> None:
    """Files in the field are read by this; a change here is a new SCHEMA_VERSION."""
    row = encode_session(9, Session(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}", about=ABOUT))
    about = ["u", "x", "t", ["a", "b"], b"{2}", 77, True]
    assert msgspec.msgpack.decode(row.head) == [1, "a", "c", 1, 2, 3, 4, 1, 0, 0, about]
    assert msgspec.msgpack.decode(row.data) == [b"{1}", b"{}", b"{}", b"{}"]
    assert row.head_crc == crc32(b"1 9 9 a" + row.head)
    assert row.crc == crc32(b"1 9 9 a" + row.head + row.data)
    assert row[:11] == (1, b"a", b"c", b"u", b"x", b"t", 0, 3, 77, 9, 9)


def head_of(row: Row, **changes: Any) -> Session | None:
    r = row._replace(**changes)
    return decode_head(r.number, r.sequence, r.session_id, r.size, r.head_crc, r.head)


def whole_of(row: Row, **changes: Any) -> Session | None:
    r = row._replace(**changes)
    return decode_session(r.number, r.sequence, r.session_id, r.size, r.head_crc, r.head, r.crc, r.data)


@given(moments, sessions)
def test_sessions_come_back(sequence: int, s: Session) -> None:
    row = encode_session(sequence, s)
    assert whole_of(row) == s
    bare = replace(s, session_state=EMPTY, workspace_context=EMPTY, inspector_state=EMPTY, object_registry=EMPTY)
    assert head_of(row) == bare
    texts = (row.session_id, row.client_id, row.user_id, row.external_id, row.title)
    about = s.about
    assert tuple(map(bytes.decode, texts)) == (s.session_id, s.client_id, s.user_id, about.external_id, about.title)
    assert (row.number, row.status, row.active_at) == (s.number, s.status, s.active_at)
    assert row.size == s.state_bytes
    assert row.due_at <= MAX_INTEGER


@given(st.data())
def test_a_changed_byte_of_a_session_is_found(data: st.DataObject) -> None:
    row = encode_session(3, session(1))
    part = data.draw(st.sampled_from(["head", "data"]))
    bad = bytearray(getattr(row, part))
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    assert whole_of(row, **{part: bytes(bad)}) is None
    assert (head_of(row, **{part: bytes(bad)}) is None) == (part == "head")


def test_a_session_in_anothers_row_is_damage() -> None:
    row, other = encode_session(3, session(1)), encode_session(3, session(2))
    assert whole_of(row) == session(1)
    for field in ("number", "session_id", "head", "head_crc"):
        changes = {field: getattr(other, field)}
        assert head_of(row, **changes) is whole_of(row, **changes) is None
    assert head_of(row, head=other.head, head_crc=other.head_crc) is None
    assert head_of(row, sequence=4) is head_of(row, size=row.size + 1) is None
    assert whole_of(row, data=other.data) is whole_of(row, crc=other.crc) is None
    assert whole_of(row, data=other.data, crc=other.crc) is None


@pytest.mark.parametrize("value", [None, "text", 5.5])
@pytest.mark.parametrize("field", ["number", "sequence", "session_id", "size", "head_crc", "head", "crc", "data"])
def test_a_session_of_another_type_is_damage(field: str, value: object) -> None:
    row = encode_session(3, session(1))
    assert whole_of(row, **{field: value}) is None
    assert (head_of(row, **{field: value}) is None) == (field not in ("crc", "data"))


@pytest.mark.parametrize("bad", [b"", b"\xc1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode("x")])
def test_a_session_that_cannot_be_decoded_is_damage(bad: bytes) -> None:
    row = encode_session(3, session(1))
    crc = head_crc(row.number, row.sequence, row.session_id, row.size, bad)
    assert head_of(row, head=bad, head_crc=crc) is None
    assert whole_of(row, head=bad, head_crc=crc, crc=crc32(row.data, crc)) is None
    assert whole_of(row, data=bad, crc=crc32(bad, row.head_crc)) is None


@given(text)
def test_ids_come_back(session_id: str) -> None:
    assert decode_id(encode_text(session_id)) == session_id


@given(text, text)
def test_the_order_of_stored_texts_is_that_of_code_points(one: str, other: str) -> None:
    assert (encode_text(one) < encode_text(other)) == (one < other)


def test_half_a_surrogate_pair_is_some_text() -> None:
    assert encode_text("\ud800") == b"\xed\xa0\x80"


def test_damaged_ids_are_shown_somehow() -> None:
    assert decode_id(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"
    assert decode_id(5) == "5"
    assert decode_id(None) == "None"


def test_when_a_session_is_due() -> None:
    assert due_at(session(1, active_at=T0, timeout=60)) == T0 + 60_000
    assert due_at(session(1, active_at=T0, timeout=60, status=1, ended_at=T0 + 5)) == T0 + 5
    assert due_at(session(1, active_at=T0, timeout=2**63)) == 2**63 - 1
    assert due_at(session(1, active_at=T0, timeout=60, about=About(ends_at=T0 + 59_999))) == T0 + 59_999
    assert due_at(session(1, active_at=T0, timeout=60, about=About(ends_at=T0 + 60_001))) == T0 + 60_000
    kept = About(pinned=True, ends_at=T0 + 1)
    assert due_at(session(1, status=1, ended_at=T0 + 5, about=kept)) == 2**63 - 1
    assert due_at(session(1, about=kept)) == T0 + 1
