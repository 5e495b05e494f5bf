"""Records: from one entity to the next."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from stui_sessions.domain.entities import (
    CLOSED,
    LIVE,
    OWNER_CHUNK,
    About,
    Absent,
    Entity,
    Owner,
    Session,
    SessionData,
    data_of,
    external_key,
    owner_key,
    session_key,
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
    apply,
    composed,
)

AT = 1_756_549_800_000
KEY = session_key("", "s")
DATA = SessionData(1, "s", "c", AT, AT, AT, 600, session_state=b'{"a":1}')
NEW = session_of(DATA, KEY, 1, 1)
ABOUT = About("u", "x", "T", ("t",), b'{"m":1}', AT + 5, True)


def then(kind: Any, *fields: Any, version: int = 2) -> Entity:
    return apply(NEW, kind(KEY, version, AT + 9, "me", 1, *fields), 7)


def test_a_session_and_its_data_are_the_same() -> None:
    assert data_of(NEW) == DATA
    assert (NEW.state_bytes, NEW.recorded_at, NEW.version, NEW.commit) == (13, AT, 1, 1)
    assert apply(Absent(KEY), Created(KEY, 1, AT, "me", 0, DATA), 1) == NEW


@pytest.mark.parametrize(
    ("kind", "fields", "changed"),
    [
        (Used, (AT + 4,), {"active_at": AT + 4, "recorded_at": AT + 4}),
        (Ended, (CLOSED, AT + 3), {"status": CLOSED, "ended_at": AT + 3}),
        (Edited, (77, ABOUT), {"timeout": 77, "about": ABOUT}),
        (
            Reopened,
            (ABOUT,),
            {"status": LIVE, "ended_at": 0, "active_at": AT + 9, "recorded_at": AT + 9, "about": ABOUT},
        ),
    ],
)
def test_each_record_changes_what_it_says_and_nothing_else(kind: Any, fields: Any, changed: dict[str, Any]) -> None:
    after = then(kind, *fields)
    expected = {name: getattr(NEW, name) for name in NEW.__struct_fields__} | {"version": 2, "commit": 7} | changed
    assert {name: getattr(after, name) for name in NEW.__struct_fields__} == expected


def test_what_is_removed_is_absent() -> None:
    assert then(Removed, 1, "purged") == Absent(KEY, 2, 7)  # a later life goes on from there


@pytest.mark.parametrize("replaces", [True, False])
def test_an_update_of_all_four_objects(replaces: bool) -> None:
    before = apply(NEW, Updated(KEY, 2, AT, "me", 1, 2, True, *[b'{"k":1}'] * 4), 2)
    after = apply(before, Updated(KEY, 3, AT + 9, "me", 2, 3, replaces, *[b'{"l":2}'] * 4), 7)
    assert isinstance(after, Session)
    wanted = b'{"l":2}' if replaces else b'{"k":1,"l":2}'
    objects = (after.session_state, after.workspace_context, after.inspector_state, after.object_registry)
    assert objects == (wanted,) * 4
    assert (after.state_bytes, after.revision, after.modified_at, after.recorded_at) == (
        4 * len(wanted),
        3,
        AT + 9,
        AT + 9,
    )


def test_objects_that_are_not_named_stay() -> None:
    after = then(Updated, 2, False, None, b'{"w":1}')
    assert isinstance(after, Session)
    assert (after.session_state, after.workspace_context, after.inspector_state) == (b'{"a":1}', b'{"w":1}', b"{}")


def test_a_patch_that_names_just_the_keys_there_are_need_not_be_merged() -> None:
    known = apply(NEW, Updated(KEY, 2, AT, "me", 1, 2, True, b'{"a":1,"b":2}'), 2, ("a", "b"))
    assert isinstance(known, Session)
    assert known.keys == ("a", "b")
    patch = b'{ "a":3, "b":4 }'
    same = apply(known, Updated(KEY, 3, AT, "me", 2, 3, False, patch), 3, ("a", "b"))
    other = apply(known, Updated(KEY, 3, AT, "me", 2, 3, False, b'{"b":4}'), 3, ("b",))
    assert isinstance(same, Session)
    assert isinstance(other, Session)
    assert (same.session_state, same.keys) == (patch, ("a", "b"))
    assert (other.session_state, other.keys) == (b'{"a":1,"b":4}', ("a", "b"))


@pytest.mark.parametrize(
    ("before", "record"),
    [
        (Absent(KEY), Updated(KEY, 2, AT, "me", 1, 2, False, b"{}")),
        (Absent(KEY), Used(KEY, 2, AT, "me", 1, AT)),
        (NEW, Joined(KEY, 2, AT, "me", 1, "s")),
        (Absent(("", "owner", "u\0c")), Claimed(("", "owner", "u\0c"), 1, AT, "me", 0, "s")),
        (Absent(("", "external", "u\0x")), Joined(("", "external", "u\0x"), 1, AT, "me", 0, "s")),
    ],
)
def test_a_record_that_its_entity_cannot_have(before: Entity, record: Record) -> None:
    with pytest.raises(ValueError, match="record"):
        apply(before, record, 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 600)), max_size=60), st.integers(0, 2 * OWNER_CHUNK))
def test_an_owner_lists_who_has_joined_and_not_left_in_that_order(steps: list[tuple[bool, int]], many: int) -> None:
    key = owner_key("", "u", "c")
    assert key is not None
    owner: Entity = Absent(key)
    listed = [f"s{n}" for n in range(many)]
    for name in listed:
        owner = apply(owner, Joined(key, owner.version + 1, AT, "me", 0, name), 1)
    for joins, number in steps:
        name = f"s{number}"
        if joins is (name in listed):
            continue
        (listed.append if joins else listed.remove)(name)
        owner = apply(owner, (Joined if joins else Left)(key, owner.version + 1, AT, "me", 0, name), 1)
    if isinstance(owner, Owner):
        assert (owner.session_ids, owner.count) == (listed, len(listed))
        assert all(0 < len(chunk) <= OWNER_CHUNK for chunk in owner.chunks)
    else:
        assert listed == []


def test_an_external_id_has_a_holder_or_none() -> None:
    key = external_key("", "u", "x")
    assert key is not None
    held = apply(Absent(key), Claimed(key, 1, AT, "me", 0, "s"), 2)
    assert held.session_id == "s"  # type: ignore[union-attr]
    assert apply(held, Released(key, 2, AT, "me", 2), 3) == Absent(key, 2, 3)


OBJECTS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, None, {"x": 1}]), max_size=3)
TEXTS = OBJECTS.map(lambda o: json.dumps(o, separators=(",", ":")).encode())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["merge", "merge", "replace", "use"]), st.lists(st.none() | TEXTS, min_size=4, max_size=4)
        ),
        max_size=12,
    )
)
def test_composed_updates_lead_where_single_ones_do(steps: list[tuple[str, list[bytes | None]]]) -> None:
    records: list[Record] = []
    for number, (step, objects) in enumerate(steps, start=2):
        if step == "use":
            records.append(Used(KEY, number, AT, "me", number - 1, AT + number))
        else:
            records.append(Updated(KEY, number, AT + number, "me", number - 1, number, step == "replace", *objects))
    one_by_one: Entity = NEW
    for record in records:
        one_by_one = apply(one_by_one, record, 5)
    together: Entity = NEW
    fewer = composed(records)
    for record in fewer:
        together = apply(together, record, 5)
    assert isinstance(one_by_one, Session)
    assert isinstance(together, Session)
    assert data_of(together) == data_of(one_by_one)
    assert together.version == one_by_one.version
    runs = [not (isinstance(r, Updated) and not r.replaces) for r in fewer]
    assert all(a or b for a, b in pairwise(runs))  # no two that merge stand side by side


def test_records_survive_being_stored() -> None:
    decoder = msgpack.Decoder(Record)
    for record in (
        Created(KEY, 1, AT, "me", 0, DATA),
        Updated(KEY, 2, AT, "me", 1, 2, False, None, b"{}"),
        Used(KEY, 3, AT, "me", 2, AT),
        Edited(KEY, 4, AT, "me", 3, 5, ABOUT),
        Ended(KEY, 5, AT, "me", 4, CLOSED, AT),
        Reopened(KEY, 6, AT, "me", 5, ABOUT),
        Removed(KEY, 7, AT, "me", 6, 1, "purged"),
        Joined(("", "owner", "\0c"), 1, AT, "me", 0, "s"),
        Left(("", "owner", "\0c"), 2, AT, "me", 1, "s"),
        Claimed(("", "external", "\0x"), 1, AT, "me", 0, "s"),
        Released(("", "external", "\0x"), 2, AT, "me", 1),
    ):
        assert decoder.decode(msgpack.encode(record)) == record
