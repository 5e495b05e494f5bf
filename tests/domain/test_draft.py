"""The draft: what it hands out, what it notes, what it stages."""

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.shared import SessionParams
from stui_sessions.domain.caller import Caller
from stui_sessions.domain.draft import Draft, Missing
from stui_sessions.domain.entities import (
    Absent,
    Damaged,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.finding import Counts, Found, Reference, Totals
from stui_sessions.domain.records import Claimed, Edited, Joined, Left, Released, Updated, Used
from stui_sessions.errors import Refusal
from tests.commands.house import SECOND, START, House

HOUSE = House()


def session(name: str = "s", version: int = 3, commit: int = 5, **fields: Any) -> Session:
    at = START
    s = Session(session_key("", name), version, commit, 1, name, "c", at, at, at, 600, recorded_at=at)
    return replace(s, **fields)


def draft_of(*entities: Entity, answers: Any = None, caller: Caller | None = None, **more: Any) -> Draft:
    known = {e.key: e for e in entities}
    row = REGISTRY["restore_session"]
    return Draft(HOUSE.world, known, 9, row, caller or HOUSE.caller, HOUSE.now, answers, **more)


def named(session_id: Any = UNSET, external_id: Any = UNSET, user_id: Any = UNSET) -> SessionParams:
    return SessionParams(session_id, external_id, user_id)


# -- reading


def test_what_is_read_is_noted_with_its_version_and_the_highest_commit() -> None:
    a, b = session("a", commit=7), session("b", commit=6)
    draft = draft_of(a, b)
    assert draft.commit == 0
    assert draft.entity(a.key) is a
    assert draft.entities([b.key, a.key]) == [b, a]
    assert draft.read == [a, b, a]
    assert draft.commit == 7


def test_what_is_not_in_memory_is_missing_all_at_once() -> None:
    a = session("a")
    draft = draft_of(a)
    missing = session_key("", "m"), session_key("", "n")
    with pytest.raises(Missing) as caught:
        draft.entities([missing[0], a.key, missing[1], missing[0]])
    assert caught.value.keys == missing
    assert draft.read == [a]  # it was looked at too, so that it stays
    with pytest.raises(Missing) as caught:
        draft.entity(missing[0])
    assert (caught.value.keys, caught.value.question) == ((missing[0],), None)


def test_an_answer_is_committed_and_the_reply_waits_for_that() -> None:
    question, totals = Counts(""), Totals(1)
    with pytest.raises(Missing) as caught:
        draft_of().ask(question)
    assert (caught.value.keys, caught.value.question) == ((), question)
    draft = draft_of(answers={question: (totals, 4)})
    assert draft.ask(question) is totals
    assert draft.commit == 4


# -- the one look-up of a session


def test_a_session_by_its_id() -> None:
    s = session()
    for ref in ("s", named("s")):
        assert draft_of(s).session(ref, "read") is s


@pytest.mark.parametrize(("entity", "code"), [(Absent, "session_not_found"), (Damaged, "session_damaged")])
def test_no_session_by_its_id(entity: type[Entity], code: str) -> None:
    for ref in ("s", named("s")):
        with pytest.raises(Refusal) as caught:
            draft_of(entity(session_key("", "s"))).session(ref, "read")  # type: ignore[call-arg]
        assert caught.value.code == code


def test_every_tenant_has_ids_of_its_own() -> None:
    theirs = replace(session(), key=session_key("them", "s"))
    draft = draft_of(theirs, Absent(session_key("", "s")))
    with pytest.raises(Refusal, match="there is no session"):
        draft.session("s", "read")
    assert draft_of(theirs, caller=Caller("x", "them")).session("s", "read") is theirs
    assert draft_of(theirs, caller=Caller("x", "them")).place("s") is theirs


def holding(user_id: str, external_id: str, session_id: str) -> Holder:
    key = external_key("", user_id, external_id)
    assert key is not None
    return Holder(key, 1, 2, session_id)


def labelled(name: str, external_id: str, user_id: str = "u", **fields: Any) -> Session:
    s = session(name, **fields)
    return replace(s, about=replace(s.about, external_id=external_id, user_id=user_id))


def test_a_session_by_its_users_external_id() -> None:
    s = labelled("s", "x")
    draft = draft_of(s, holding("u", "x", "s"))
    assert draft.session(named(external_id="x", user_id="u"), "read") is s
    assert draft.commit == 5
    late = labelled("s", "x", active_at=START - 600 * SECOND)
    with pytest.raises(Refusal) as caught:
        draft_of(late, holding("u", "x", "s")).session(named(external_id="x", user_id="u"), "read")
    assert caught.value.code == "session_not_found"


def test_an_external_id_of_any_user_is_asked_for_and_looked_at_again() -> None:
    one, moved, ended = labelled("a", "x"), labelled("b", "x", "v"), labelled("c", "x", "w")
    answers = {Reference("", external_id="x"): (Found([one, moved, ended]), 8)}
    now = (one, labelled("b", "y", "v"), replace(ended, status=2))
    draft = draft_of(*now, answers=answers)
    assert draft.session(named(external_id="x"), "read") is one
    assert draft.commit == 8
    with pytest.raises(Refusal) as caught:
        draft_of(one, moved, now[2], answers=answers).session(named(external_id="x"), "read")
    assert caught.value.code == "external_id_ambiguous"


@pytest.mark.parametrize(
    ("ref", "code", "parameter"),
    [
        (named(), "missing_parameter", "session_id"),
        (named(user_id="u"), "missing_parameter", "external_id"),
        (named("s", "x"), "invalid_parameter", "external_id"),
        (named("s", user_id="u"), "invalid_parameter", "user_id"),
    ],
)
def test_names_that_do_not_go_together(ref: SessionParams, code: str, parameter: str) -> None:
    with pytest.raises(Refusal) as caught:
        draft_of().session(ref, "read")
    assert (caught.value.code, caught.value.details["parameter"]) == (code, parameter)


def test_the_sessions_of_an_owner() -> None:
    key = owner_key("", "u", "c")
    assert key is not None
    owner = Owner(key, 1, 1, (("a", "b"), ("d",)))
    a, d = session("a"), session("d")
    damaged = Damaged(session_key("", "b"))
    assert draft_of(a, d, damaged).sessions_of(owner) == [a, d]
    assert draft_of().sessions_of(Absent(key)) == []


# -- staging


def test_what_is_staged_is_seen_by_the_draft_alone() -> None:
    s = session()
    memory: dict[Key, Entity] = {s.key: s}
    draft = draft_of(*memory.values(), caller=Caller("me"))
    after = draft.stage(s, Edited, 77, s.about)
    assert isinstance(after, Session)
    assert (after.timeout, after.version, after.commit) == (77, 4, 9)
    assert draft.entity(s.key) is after
    assert draft.session("s", "read") is after
    assert memory[s.key] is s
    ((record, before, staged),) = draft.changes
    assert (before, staged) == (s, after)
    assert record == Edited(s.key, 4, HOUSE.now.wall, "me", 5, 77, s.about)


def test_one_decision_may_stage_several_records_of_an_entity() -> None:
    key = owner_key("", "u", "c")
    held = external_key("", "u", "x")
    assert key is not None
    assert held is not None
    draft = draft_of(Absent(key), Absent(held))
    for kind, name in ((Joined, "a"), (Joined, "b"), (Left, "a")):
        draft.stage(draft.entity(key), kind, name)
    owner = draft.entity(key)
    assert isinstance(owner, Owner)
    assert (owner.session_ids, owner.count, owner.version) == (["b"], 1, 3)
    draft.stage(draft.entity(held), Claimed, "a")
    assert isinstance(draft.entity(held), Holder)
    draft.stage(draft.entity(held), Released)
    assert draft.entity(held) == Absent(held, 2, 9)
    assert [record.version for record, _, _ in draft.changes] == [1, 2, 3, 1, 2]


def test_saved_state_is_merged_and_measured() -> None:
    s = session(session_state=b'{"a":1}', state_bytes=13)
    draft = draft_of(s)
    record = Updated(s.key, 4, START + 5, "me", 5, 2, False, b'{"b":22}')
    after = draft.save(s, record, ("b",))
    assert (after.session_state, after.state_bytes, after.revision) == (b'{"a":1,"b":22}', 20, 2)
    assert (after.modified_at, after.active_at, after.recorded_at) == (START + 5,) * 3
    assert draft.entity(s.key) is after
    assert [r for r, _, _ in draft.changes] == [record]


def test_a_use_is_soft_until_it_is_too_late_for_that() -> None:
    soft = session(active_at=START - 59_999, recorded_at=START - 59_999)
    draft = draft_of(soft)
    used = draft.use(soft)
    assert (used.active_at, used.recorded_at, used.version) == (START, START - 59_999, 3)
    assert (draft.uses, draft.changes, draft.commit) == ({used.key: START}, [], 0)
    late = session(active_at=START - 60_000, recorded_at=START - 60_000)
    draft = draft_of(late)
    used = draft.use(late)
    assert (used.active_at, used.recorded_at, used.version) == (START, START, 4)
    assert draft.uses is None
    assert [type(r) for r, _, _ in draft.changes] == [Used]
    draft = draft_of(late, forgiving=True)
    used = draft.use(late)
    assert (used.active_at, used.recorded_at) == (START, START - 60_000)
    assert (draft.uses, draft.changes, draft.commit) == ({used.key: START}, [], 0)


def test_a_use_after_the_clock_was_set_back_is_recorded_too() -> None:
    ahead = session(active_at=START + 60_000, recorded_at=START + 60_000)
    draft = draft_of(ahead)
    assert draft.use(ahead).recorded_at == START
