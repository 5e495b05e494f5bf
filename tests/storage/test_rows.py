"""Rows as bytes and back, and what is not what was written."""

from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.sessions.model import Created, Ended, Record, Removed, Session, Totals, Updated, Used
from stui_sessions.storage.rows import (
    JOURNAL_VERSION,
    decode_entry,
    decode_id,
    decode_session,
    due_at,
    encode_entry,
    encode_id,
    encode_session,
)
from tests.storage.stores import T0, session

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
moments = st.integers(0, 2**53)
numbers = st.integers(1, 2**62)
blobs = st.binary(max_size=200)
objects = st.none() | blobs

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
    status=st.integers(0, 2),
    ended_at=moments,
    session_state=blobs,
    workspace_context=blobs,
    inspector_state=blobs,
    object_registry=blobs,
)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Created, sessions),
    st.builds(Updated, numbers, numbers, moments, objects, objects, objects, objects),
    st.builds(Used, numbers, moments),
    st.builds(Ended, numbers, st.integers(1, 2), moments),
    st.builds(Removed, numbers, text, text),
)


@given(numbers, st.lists(records, max_size=8), st.builds(Totals, moments, moments, numbers))
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
        (7, msgspec.msgpack.encode((1, 7)), "cannot be decoded"),
        (7, msgspec.msgpack.encode((1, 7, (), [["?", 1]])), "cannot be decoded"),
        (7, msgspec.msgpack.encode(("x", 7, (), [])), "cannot be decoded"),
        (7, msgspec.msgpack.encode((0, 7, (), [])), "unknown version 0"),
        (7, msgspec.msgpack.encode({"version": 2}), "cannot be decoded"),
    ],
)
def test_entries_that_are_none(sequence: int, data: object, said: str) -> None:
    crc = crc32(data) if isinstance(data, bytes) else 0
    with pytest.raises(StorageDamaged, match=said):
        decode_entry(sequence, crc, data)


@pytest.mark.parametrize("rest", [(7, (), []), (7, (), [["new", 1]]), ()])
def test_an_entry_of_a_newer_server_is_no_damage(rest: tuple[object, ...]) -> None:
    data = msgspec.msgpack.encode((JOURNAL_VERSION + 1, *rest))
    with pytest.raises(StartError, match="version 2, and this server knows up to version 1"):
        decode_entry(7, crc32(data), data)


def test_the_form_of_an_entry_is_fixed() -> None:
    """Files in the field are read by this; a change here is a new JOURNAL_VERSION."""
    records: list[Record] = [
        Created(Session(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}")),
        Updated(1, 2, 5, b"{}", None, None, None),
        Used(1, 6),
        Ended(1, 2, 7),
        Removed(1, "a", "c"),
    ]
    assert msgspec.msgpack.decode(encode_entry(9, records, Totals(1, 2, 3))) == [
        1,
        9,
        [1, 2, 3],
        [
            ["c", [1, "a", "c", 1, 2, 3, 4, 1, 0, 0, b"{1}", b"{}", b"{}", b"{}"]],
            ["u", 1, 2, 5, b"{}", None, None, None],
            ["a", 1, 6],
            ["e", 1, 2, 7],
            ["r", 1, "a", "c"],
        ],
    ]


@given(moments, sessions)
def test_sessions_come_back(sequence: int, s: Session) -> None:
    row = encode_session(sequence, s)
    assert decode_session(row.number, row.sequence, row.session_id, row.crc, row.data) == s
    assert (row.number, row.session_id.decode(), row.client_id, row.status) == (
        s.number,
        s.session_id,
        s.client_id,
        s.status,
    )
    assert row.size == s.state_bytes
    assert row.due_at < 2**63


@given(st.data())
def test_a_changed_byte_of_a_session_is_found(data: st.DataObject) -> None:
    row = encode_session(3, session(1))
    bad = bytearray(row.data)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    assert decode_session(row.number, row.sequence, row.session_id, row.crc, bytes(bad)) is None


def test_a_session_in_anothers_row_is_damage() -> None:
    row, other = encode_session(3, session(1)), encode_session(3, session(2))
    assert decode_session(1, 3, row.session_id, row.crc, row.data) == session(1)
    assert decode_session(1, 3, row.session_id, other.crc, other.data) is None
    assert decode_session(2, 3, row.session_id, row.crc, row.data) is None
    assert decode_session(1, 4, row.session_id, row.crc, row.data) is None
    assert decode_session(1, 3, other.session_id, row.crc, row.data) is None


@pytest.mark.parametrize("data", [None, "text", 5])
def test_a_session_of_another_type_is_damage(data: object) -> None:
    assert decode_session(1, 3, b"a", 0, data) is None
    assert decode_session("1", 3, b"a", 0, b"") is None
    assert decode_session(1, None, b"a", 0, b"") is None
    assert decode_session(1, 3, "a", 0, b"") is None


def test_a_session_that_cannot_be_decoded_is_damage() -> None:
    for data in (b"", b"\xc1", msgspec.msgpack.encode([1, 2])):
        crc = crc32(data, crc32(b"1 3 a"))
        assert decode_session(1, 3, b"a", crc, data) is None


@given(st.text())
def test_ids_come_back(session_id: str) -> None:
    stored = encode_id(session_id)
    assert isinstance(stored, bytes)
    if "\ud800" <= max(session_id, default="") <= "\udfff":
        return
    assert decode_id(encode_id(session_id)) == session_id or any("\ud800" <= c <= "\udfff" for c in session_id)


def test_damaged_ids_are_shown_somehow() -> None:
    assert decode_id(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"
    assert decode_id(5) == "5"
    assert decode_id(None) == "None"


def test_when_a_session_is_due() -> None:
    assert due_at(session(1, active_at=T0, timeout=60)) == T0 + 60_000
    assert due_at(session(1, active_at=T0, timeout=60, status=1, ended_at=T0 + 5)) == T0 + 5
    assert due_at(session(1, active_at=T0, timeout=2**63)) == 2**63 - 1
