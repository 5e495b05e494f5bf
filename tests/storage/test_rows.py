"""Rows as bytes and back, and what is not what was written."""

from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stui_sessions.domain.entities import (
    EMPTY,
    EXTERNAL,
    OWNER,
    About,
    Damaged,
    Holder,
    Owner,
    Session,
    SessionData,
    session_of,
)
from stui_sessions.domain.records import (
    Claimed,
    Created,
    Edited,
    Ended,
    Joined,
    Left,
    Record,
    Released,
    Removed,
    Reopened,
    Updated,
    Used,
)
from stui_sessions.errors import StartError, StorageDamaged
from stui_sessions.storage.counting import MAX_INTEGER, Counters, due_at
from stui_sessions.storage.local.entry import (
    HEADER_SIZE,
    Header,
    decode_payload,
    encode_payload,
    is_whole,
    mark_of,
    read_header,
    seal,
)
from stui_sessions.storage.rows import (
    Row,
    decode_entity,
    decode_head,
    decode_session,
    decode_text,
    encode_entity,
    encode_session,
    encode_text,
    head_crc,
)
from tests.storage.stores import T0, Scribe

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
data = st.builds(
    SessionData,
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
tenants = st.sampled_from(["", "t", "é"])
sessions = st.builds(
    lambda d, tenant, version, commit: session_of(d, (tenant, "session", d.session_id), version, commit),
    *(data, tenants, numbers, moments),
)
keys = st.tuples(text, st.sampled_from(["session", "owner", "external"]), text)
start = (keys, numbers, moments, text, moments)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(Created, *start, data),
    st.builds(Updated, *start, numbers, st.booleans(), objects, objects, objects, objects),
    st.builds(Used, *start, moments),
    st.builds(Ended, *start, st.integers(1, 3), moments),
    st.builds(Edited, *start, st.integers(1, 2**40), abouts),
    st.builds(Reopened, *start, abouts),
    st.builds(Removed, *start, numbers, text),
    st.builds(Joined, *start, text),
    st.builds(Left, *start, text),
    st.builds(Claimed, *start, text),
    st.builds(Released, *start),
)
counters: st.SearchStrategy[Counters] = st.tuples(tenants, *[st.integers(0, 2**40)] * 5)

MARK = mark_of(b"0123456789abcdef", 7)


def entry(records: list[Record], totals: list[Counters] = [], last_number: int = 0) -> bytes:  # noqa: B006
    """An entry as it is in a segment."""
    buffer = bytearray()
    encode_payload(buffer, records, totals, last_number)
    seal(buffer, MARK, 7, 6, T0)
    return bytes(buffer)


@given(st.lists(records, max_size=8), st.lists(counters, max_size=2), numbers)
def test_entries_come_back(records: list[Record], totals: list[Counters], last_number: int) -> None:
    written = entry(records, totals, last_number)
    header = read_header(written, MARK)
    assert header == Header(7, 6, T0, len(written) - HEADER_SIZE, 1)
    assert is_whole(written[:HEADER_SIZE], written[HEADER_SIZE:])
    payload = decode_payload(header, written[HEADER_SIZE:], "here")
    assert (payload.records, payload.totals, payload.last_number) == (records, totals, last_number)


@given(st.data())
def test_a_changed_byte_of_an_entry_is_found(data: st.DataObject) -> None:
    good = entry([Used(("", "session", "a"), 2, T0, "me", 1, T0)])
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    header = read_header(bytes(bad), MARK)
    assert header is None or not is_whole(bytes(bad[:HEADER_SIZE]), bytes(bad[HEADER_SIZE:]))


@pytest.mark.parametrize("mark", [mark_of(b"0123456789abcdef", 8), mark_of(b"x123456789abcdef", 7), bytes(16)])
def test_entries_of_another_use_or_another_log_are_none(mark: bytes) -> None:
    assert read_header(entry([]), mark) is None
    assert read_header(entry([])[: HEADER_SIZE - 1], MARK) is None


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode([[["?", 1]], [], 0])]
)
def test_a_payload_that_cannot_be_decoded_is_damage(payload: bytes) -> None:
    with pytest.raises(StorageDamaged, match=r"entry 7 of here cannot be decoded"):
        decode_payload(Header(7, 6, T0, len(payload), 1), payload, "here")


def test_an_entry_of_a_newer_server_is_no_damage() -> None:
    with pytest.raises(StartError, match="version 2, and this server knows up to version 1"):
        decode_payload(Header(7, 6, T0, 0, 2), b"", "here")


ABOUT = About("u", "x", "t", ("a", "b"), b"{2}", 77, True)


def test_the_form_of_an_entry_is_fixed() -> None:
    """Files in the field are read by this; a change here is a new version of the entry."""
    key, owner, name = ("t", "session", "a"), ("t", "owner", "u\0c"), ("t", "external", "u\0x")
    start = (key, 2, 9, "me", 1)
    records: list[Record] = [
        Created(*start, SessionData(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}", about=ABOUT)),
        Updated(*start, 2, True, b"{}"),
        Used(*start, 6),
        Ended(*start, 2, 7),
        Edited(*start, 5, ABOUT),
        Reopened(*start, ABOUT),
        Removed(*start, 1, "expired"),
        Joined(owner, 2, 9, "me", 1, "a"),
        Left(owner, 2, 9, "me", 1, "a"),
        Claimed(name, 2, 9, "me", 1, "a"),
        Released(name, 2, 9, "me", 1),
    ]
    about = ["u", "x", "t", ["a", "b"], b"{2}", 77, True]
    begin: list[Any] = [["t", "session", "a"], 2, 9, "me", 1]
    written = entry(records, [("t", 1, 2, 3, 4, 5)], 6)
    assert written[:16] == b"STLE01234567\x07\0\0\0"
    crc = crc32(written[HEADER_SIZE:], crc32(written[: HEADER_SIZE - 4]))
    numbers = [(7, 8), (6, 8), (T0, 8), (len(written) - 52, 4), (1, 2), (0, 2), (crc, 4)]
    assert written[16:52] == b"".join(number.to_bytes(size, "little") for number, size in numbers)
    assert msgspec.msgpack.decode(written[52:]) == [
        [
            ["c", *begin, [1, "a", "c", 1, 2, 3, 4, 1, 0, 0, b"{1}", b"{}", b"{}", b"{}", about]],
            ["u", *begin, 2, True, b"{}", None, None, None],
            ["a", *begin, 6],
            ["e", *begin, 2, 7],
            ["d", *begin, 5, about],
            ["o", *begin, about],
            ["r", *begin, 1, "expired"],
            ["j", ["t", "owner", "u\0c"], 2, 9, "me", 1, "a"],
            ["l", ["t", "owner", "u\0c"], 2, 9, "me", 1, "a"],
            ["k", ["t", "external", "u\0x"], 2, 9, "me", 1, "a"],
            ["f", ["t", "external", "u\0x"], 2, 9, "me", 1],
        ],
        [["t", 1, 2, 3, 4, 5]],
        6,
    ]


def stored(number: int, **changes: Any) -> Session:
    return Scribe(None).create(number, **changes)  # type: ignore[arg-type]


def test_the_form_of_a_row_is_fixed() -> None:
    """Files in the field are read by this; a change here is a new SCHEMA_VERSION."""
    d = SessionData(1, "a", "c", 1, 2, 3, 4, session_state=b"{1}", about=ABOUT)
    row = encode_session(session_of(d, ("", "session", "a"), 5, 9))
    about = ["u", "x", "t", ["a", "b"], b"{2}", 77, True]
    assert msgspec.msgpack.decode(row.head) == [1, "a", "c", 1, 2, 3, 4, 1, 0, 0, about, 5]
    assert msgspec.msgpack.decode(row.data) == [b"{1}", b"{}", b"{}", b"{}"]
    assert row.head_crc == crc32(b"1 9 9 a" + row.head)
    assert row.crc == crc32(b"1 9 9 a" + row.head + row.data)
    assert row[:12] == (1, "", b"a", b"c", b"u", b"x", b"t", 0, 3, 77, 9, 9)
    other = encode_session(session_of(d, ("t", "session", "a"), 5, 9))
    assert other.head_crc == crc32(b"1 9 9 a\0t" + row.head)


def test_the_form_of_an_entity_is_fixed() -> None:
    row = encode_entity(Owner(("t", OWNER, "u\0c"), 3, 9, (("a", "b"), ("c",))))
    assert msgspec.msgpack.decode(row.data) == [["a", "b"], ["c"]]
    assert row[:5] == ("t", "owner", b"u\0c", 3, 9)
    assert row.crc == crc32(b"t\0owner\0u\0c\x003 9" + row.data)
    row = encode_entity(Holder(("t", EXTERNAL, "u\0x"), 3, 9, "a"))
    assert msgspec.msgpack.decode(row.data) == "a"


@given(st.sampled_from([OWNER, EXTERNAL]), text, numbers, moments, st.lists(text, min_size=1, max_size=3))
def test_entities_come_back(kind: str, name: str, version: int, commit: int, ids: list[str]) -> None:
    key = ("t", kind, name)
    entity = Owner(key, version, commit, (tuple(ids),)) if kind == OWNER else Holder(key, version, commit, ids[0])
    row = encode_entity(entity)
    assert decode_entity(key, *row[3:]) == entity
    for field, value in (("version", version + 1), ("commit", commit + 1), ("crc", row.crc ^ 1), ("data", b"x")):
        assert decode_entity(key, *row._replace(**{field: value})[3:]) == Damaged(key)
    for place in range(4):
        fields: list[Any] = [*row[3:]]
        fields[place] = None
        assert decode_entity(key, *fields) == Damaged(key)
    other = ("t", kind, name + "x")
    assert decode_entity(other, *row[3:]) == Damaged(other)


def head_of(row: Row, **changes: Any) -> Session | None:
    r = row._replace(**changes)
    return decode_head(r.tenant.encode(), r.number, r.sequence, r.session_id, r.size, r.head_crc, r.head)


def whole_of(row: Row, **changes: Any) -> Session | None:
    r = row._replace(**changes)
    tenant = r.tenant.encode()
    return decode_session(tenant, r.number, r.sequence, r.session_id, r.size, r.head_crc, r.head, r.crc, r.data)


@given(sessions)
def test_sessions_come_back(s: Session) -> None:
    row = encode_session(s)
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
    row = encode_session(stored(1))
    part = data.draw(st.sampled_from(["head", "data"]))
    bad = bytearray(getattr(row, part))
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    assert whole_of(row, **{part: bytes(bad)}) is None
    assert (head_of(row, **{part: bytes(bad)}) is None) == (part == "head")


def test_a_session_in_anothers_row_is_damage() -> None:
    row, other = encode_session(stored(1)), encode_session(stored(2, tenant="t"))
    assert whole_of(row) == stored(1)
    for field in ("number", "session_id", "head", "head_crc", "tenant"):
        changes = {field: getattr(other, field)}
        assert head_of(row, **changes) is whole_of(row, **changes) is None
    assert head_of(row, head=other.head, head_crc=other.head_crc) is None
    assert head_of(row, sequence=4) is head_of(row, size=row.size + 1) is None
    assert whole_of(row, data=other.data) is whole_of(row, crc=other.crc) is None
    assert whole_of(row, data=other.data, crc=other.crc) is None


@pytest.mark.parametrize("value", [None, "text", 5.5])
@pytest.mark.parametrize("field", ["number", "sequence", "session_id", "size", "head_crc", "head", "crc", "data"])
def test_a_session_of_another_type_is_damage(field: str, value: object) -> None:
    row = encode_session(stored(1))
    assert whole_of(row, **{field: value}) is None
    assert (head_of(row, **{field: value}) is None) == (field not in ("crc", "data"))


@pytest.mark.parametrize("bad", [b"", b"\xc1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode("x")])
def test_a_session_that_cannot_be_decoded_is_damage(bad: bytes) -> None:
    row = encode_session(stored(1))
    crc = head_crc(b"", row.number, row.sequence, row.session_id, row.size, bad)
    assert head_of(row, head=bad, head_crc=crc) is None
    assert whole_of(row, head=bad, head_crc=crc, crc=crc32(row.data, crc)) is None
    assert whole_of(row, data=bad, crc=crc32(bad, row.head_crc)) is None


@given(text)
def test_ids_come_back(session_id: str) -> None:
    assert decode_text(encode_text(session_id)) == session_id


@given(text, text)
def test_the_order_of_stored_texts_is_that_of_code_points(one: str, other: str) -> None:
    assert (encode_text(one) < encode_text(other)) == (one < other)


def test_half_a_surrogate_pair_is_some_text() -> None:
    assert encode_text("\ud800") == b"\xed\xa0\x80"


def test_damaged_ids_are_shown_somehow() -> None:
    assert decode_text(b"a\xff") == "a\N{REPLACEMENT CHARACTER}"
    assert decode_text(5) == "5"
    assert decode_text(None) == "None"


def test_when_a_session_is_due() -> None:
    assert due_at(stored(1, active_at=T0, timeout=60)) == T0 + 60_000
    assert due_at(stored(1, active_at=T0, timeout=60, status=1, ended_at=T0 + 5)) == T0 + 5
    assert due_at(stored(1, active_at=T0, timeout=2**63)) == 2**63 - 1
    assert due_at(stored(1, active_at=T0, timeout=60, about=About(ends_at=T0 + 59_999))) == T0 + 59_999
    assert due_at(stored(1, active_at=T0, timeout=60, about=About(ends_at=T0 + 60_001))) == T0 + 60_000
    kept = About(pinned=True, ends_at=T0 + 1)
    assert due_at(stored(1, status=1, ended_at=T0 + 5, about=kept)) == 2**63 - 1
    assert due_at(stored(1, about=kept)) == T0 + 1
