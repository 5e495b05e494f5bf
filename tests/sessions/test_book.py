"""The book: undo restores everything, totals and memory are exact, nothing gets lost between memory and store."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import UNSET, structs

from stui_sessions.errors import Refusal
from stui_sessions.sessions.book import Change, SessionBook
from stui_sessions.sessions.lifecycle import STATUS_NAMES
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import (
    CLOSED,
    DELETED,
    EXPIRED,
    LIVE,
    Created,
    Edited,
    Ended,
    Record,
    Removed,
    Session,
    Totals,
    Updated,
    apply,
    used,
)
from stui_sessions.sessions.residents import SESSION_COST, GroupKey, Resident, external_key, groups_of, owner_key
from tests.sessions.house import START, House, fingerprint

CLIENTS = ["a", "b", "c"]
USERS = ["u", "v"]
OWN_IDS = ["mine", "yours"]
EXTERNAL_IDS = ["x", "y"]
GROUPS = [
    key
    for user in ["", *USERS]
    for key in (
        *(owner_key(user, client) for client in [*CLIENTS, ""]),
        *(external_key(user, external_id) for external_id in EXTERNAL_IDS),
    )
    if key is not None
]
STATES = [{}, {"x": 1}, {"x": 22, "y": [1]}, {"y": 1, "x": "long" * 5}]


def still(session: Session | None) -> Session | None:
    """A session without its activity, which is soft."""
    return None if session is None else used(session, 0)


def recount_bytes(book: SessionBook) -> int:
    residents = book.residents
    return sum(r.cost for r in residents.sessions.values()) + sum(e.cost for e in residents.groups.values())


class BookMachine(RuleBasedStateMachine):
    """A house with a store beside it, and a model that knows what is decided and what is committed.

    Like the writer, it has at most one thing in hand: a commit or a snapshot; requests
    are decided meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Rules(max_sessions_per_client=3, default_timeout=100, keep_expired=50))
        self.current: dict[str, Session] = {}
        """What has been decided, committed or not."""
        self.committed: dict[str, Session] = {}
        """What the journal leads to."""
        self.active: dict[str, int] = {}
        self.journal: list[tuple[int, list[Record]]] = []
        self.committing: list[Change] | None = None
        self.writing: list[tuple[Resident, tuple[Session | Removed, ...]]] | None = None
        self.upto = 0

    @property
    def book(self) -> SessionBook:
        return self.house.book

    @property
    def last_committed(self) -> int:
        return self.book.batch - (2 if self.committing is not None else 1)

    # -- requests

    def attempt(self, command: str, **parameters: Any) -> Any:
        noted = len(self.book.changes)
        try:
            result = self.house.do(command, **parameters)
        except Refusal:
            return None
        self.follow(self.book.changes[noted:])
        return result

    def follow(self, changes: list[Change]) -> None:
        for change in changes:
            session_id = change.resident.session_id
            after = apply(self.current.get(session_id), change.record)
            if after is None:
                del self.current[session_id], self.active[session_id]
            else:
                self.current[session_id] = after
                if not isinstance(change.record, Ended | Edited):
                    self.active[session_id] = after.active_at

    def pick(self, index: int) -> str:
        known = sorted(self.current, key=lambda i: self.current[i].number)
        return known[index % len(known)] if known else "nobody"

    @rule(client=st.sampled_from(CLIENTS), timeout=st.sampled_from([10, 100]), state=st.sampled_from(STATES))
    def create(self, client: str, timeout: int, state: dict[str, Any]) -> None:
        self.attempt("create_session", client_id=client, timeout=timeout, session_state=state)

    @rule(
        index=st.integers(0, 8),
        state=st.sampled_from(STATES),
        other=st.sampled_from(STATES),
        mode=st.sampled_from(["merge", "replace"]),
    )
    def update(self, index: int, state: dict[str, Any], other: dict[str, Any], mode: str) -> None:
        more = {"object_registry": other} if other else {}
        self.attempt("update_session_state", session_id=self.pick(index), state_data=state, mode=mode, **more)

    @rule(index=st.integers(0, 8))
    def restore(self, index: int) -> None:
        session_id = self.pick(index)
        if self.attempt("restore_session", session_id=session_id) is not None:
            self.active[session_id] = self.house.wall

    @rule(index=st.integers(0, 8))
    def close(self, index: int) -> None:
        self.attempt("close_session", session_id=self.pick(index))

    @rule(
        user=st.sampled_from([*USERS, UNSET]),
        client=st.sampled_from([*CLIENTS, UNSET]),
        session_id=st.sampled_from([*OWN_IDS, UNSET]),
        external_id=st.sampled_from([*EXTERNAL_IDS, UNSET]),
        conflict=st.sampled_from(["error", "reuse", "new"]),
        resume=st.booleans(),
    )
    def open(self, user: Any, client: Any, session_id: Any, external_id: Any, conflict: str, resume: bool) -> None:
        result = self.attempt(
            "open_session",
            user_id=user,
            client_id=client,
            session_id=session_id,
            external_id=external_id,
            on_conflict=conflict,
            resume=resume,
        )
        if result is not None and result.session_resumed:
            self.active[result.session_id] = self.house.wall

    @rule(
        index=st.integers(0, 8),
        external_id=st.sampled_from([*EXTERNAL_IDS, None, UNSET]),
        title=st.sampled_from(["t", UNSET]),
    )
    def edit(self, index: int, external_id: Any, title: Any) -> None:
        self.attempt("update_session", session_id=self.pick(index), external_id=external_id, title=title)

    @rule(index=st.integers(0, 8), purge=st.booleans())
    def delete(self, index: int, purge: bool) -> None:
        self.attempt("delete_session", session_id=self.pick(index), purge=purge)

    @rule(index=st.integers(0, 8))
    def undelete(self, index: int) -> None:
        session_id = self.pick(index)
        result = self.attempt("undelete_session", session_id=session_id)
        if result is not None and result.undeleted:
            self.active[session_id] = self.house.wall

    @rule(
        status=st.sampled_from(STATUS_NAMES),
        sort=st.sampled_from(["last_activity", "created_at", "title"]),
        order=st.sampled_from(["asc", "desc"]),
        limit=st.sampled_from([1, 2, 50]),
        user=st.sampled_from([*USERS, UNSET]),
    )
    def list_pages(self, status: str, sort: str, order: str, limit: int, user: Any) -> None:
        """All pages together are what a look at everything gives."""
        cursor, told = UNSET, []
        while cursor is not None:
            page = self.house.do(
                "list_sessions", status=status, sort=sort, order=order, limit=limit, user_id=user, cursor=cursor
            )
            told += [row.session_id for row in page.sessions]
            cursor = page.next_cursor
        wanted = [
            (
                self.active[i] if sort == "last_activity" else s.number if sort == "created_at" else s.about.title,
                s.number,
                i,
            )
            for i, s in self.current.items()
            if s.status == STATUS_NAMES.index(status)
            and (user is UNSET or s.user_id == user)
            and (status != "live" or self.house.wall < self.active[i] + s.timeout * 1000)
        ]
        assert told == [i for _, _, i in sorted(wanted, reverse=order == "desc")]

    @rule(external_id=st.sampled_from(EXTERNAL_IDS), user=st.sampled_from([*USERS, UNSET]))
    def find(self, external_id: str, user: Any) -> None:
        """An external id names what it should, and nothing else."""
        holders = [
            i
            for i, s in self.current.items()
            if s.about.external_id == external_id
            and (user is UNSET or s.user_id == user)
            and s.status == LIVE
            and self.house.wall < self.active[i] + s.timeout * 1000
        ]
        if len(holders) == 1:
            assert self.house.do("get_session", external_id=external_id, user_id=user).session_id == holders[0]
        else:
            refusal = self.house.refused("get_session", external_id=external_id, user_id=user)
            assert refusal.code == ("external_id_ambiguous" if holders else "session_not_found")

    @rule(client=st.sampled_from(CLIENTS), user=st.sampled_from([*USERS, UNSET]))
    def list(self, client: str, user: Any) -> None:
        result = self.house.do("list_client_sessions", client_id=client, user_id=user)
        live = [
            s.number
            for i, s in self.current.items()
            if (s.client_id, s.user_id) == (client, "" if user is UNSET else user)
            and s.status == LIVE
            and self.house.wall < self.active[i] + s.timeout * 1000
        ]
        assert [self.current[row.session_id].number for row in result.sessions] == sorted(live)

    @rule(index=st.integers(0, 8))
    def sweep(self, index: int) -> None:
        noted = len(self.book.changes)
        self.house.sweep(self.pick(index))
        self.follow(self.book.changes[noted:])

    @rule(policy=st.sampled_from(["reject", "evict_oldest"]))
    def change_policy(self, policy: str) -> None:
        self.house.manager.rules = structs.replace(self.house.manager.rules, on_limit=policy)

    @rule(seconds=st.sampled_from([0.5, 1, 5, 30, 101]))
    def wait(self, seconds: float) -> None:
        self.house.wait(seconds)

    # -- the writer

    @precondition(lambda self: self.committing is None and self.writing is None and self.book.changes)
    @rule()
    def begin_commit(self) -> None:
        self.committing = self.book.take_changes()

    @precondition(lambda self: self.committing is not None)
    @rule()
    def commit_succeeds(self) -> None:
        assert self.committing is not None
        records = [change.record for change in self.committing]
        self.journal.append((self.book.batch - 1, records))
        for change in self.committing:
            session_id = change.resident.session_id
            before = self.committed.get(session_id)
            if isinstance(change.record, Updated):
                assert before is not None
                assert change.record.revision == before.revision + 1
            after = apply(before, change.record)
            if after is None:
                self.committed.pop(session_id)
            else:
                self.committed[session_id] = after
        self.committing = None

    @precondition(lambda self: self.committing is not None)
    @rule()
    def commit_fails(self) -> None:
        """As `Engine.on_commit_failed` does it."""
        assert self.committing is not None
        number = self.book.batch - 1
        self.house.manager.undo(self.book.changes)
        self.book.changes = []
        self.house.manager.undo(self.committing)
        self.book.batch = number
        self.committing = None
        self.current = dict(self.committed)
        # What was undone took its activity along; the rest keeps it.
        for session_id in self.current:
            resident = self.book.residents.sessions.get(session_id)
            if resident is not None and resident.session is not None:
                assert resident.session.active_at >= self.committed[session_id].active_at
                self.active[session_id] = resident.session.active_at
        self.active = {i: at for i, at in self.active.items() if i in self.current}

    @precondition(lambda self: self.committing is None and self.writing is None)
    @rule()
    def begin_snapshot(self) -> None:
        """A round, as `writer._Round` does it, in one piece."""
        before = self.book.uncommitted()
        self.upto = self.last_committed
        self.writing = []
        for resident in self.book.dirty.values():
            forms = before.get(resident.session_id, resident.forms)
            if forms:
                self.writing.append((resident, forms))

    @precondition(lambda self: self.writing is not None)
    @rule()
    def finish_snapshot(self) -> None:
        assert self.writing is not None
        for resident, forms in self.writing:
            for form in forms:
                if isinstance(form, Removed):
                    assert self.house.stored.get(form.session_id, form).number == form.number, "it was made again"
                    self.house.stored.pop(form.session_id, None)
                else:
                    self.house.stored[form.session_id] = form
            self.book.snapshotted(resident, forms, self.upto)
        self.writing = None
        self.book.groups_snapshotted(self.upto)
        self.journal = [(number, records) for number, records in self.journal if number > self.upto]

    @rule(limit=st.sampled_from([0, 2000, 5000]))
    def trim(self, limit: int) -> None:
        self.book.mark_unrecorded(self.book.residents.trim(limit, most=5))

    # -- a crash

    @rule()
    def restart(self) -> None:
        """What is not committed is lost, what is journaled and in no snapshot is replayed."""
        touched = {r.number for _, records in self.journal for r in records}
        removed = [r for _, records in self.journal for r in records if isinstance(r, Removed)]
        pending = [s for s in self.committed.values() if s.number in touched]
        live = [s for s in self.committed.values() if s.status == LIVE]
        ended = [[s for s in self.committed.values() if s.status == status] for status in (EXPIRED, CLOSED, DELETED)]
        clients = {(s.user_id, s.client_id) for s in live if s.client_id}
        totals = Totals(len(live), len(clients), self.book.totals.last_number, *map(len, ended))
        book = SessionBook(totals, self.last_committed)
        book.adopt(sorted([*removed, *pending], key=lambda form: form.number))
        self.house.book = self.house.manager.book = book
        self.committing = self.writing = None
        self.current = dict(self.committed)
        # Snapshots may have written activity that the journal never had.
        for session_id, session in self.current.items():
            stored = self.house.stored.get(session_id)
            if session.number not in touched and stored is not None:
                self.committed[session_id] = self.current[session_id] = stored
        self.active = {i: s.active_at for i, s in self.current.items()}

    # -- what must hold

    @invariant()
    def totals_equal_a_recount(self) -> None:
        live = {(s.user_id, s.client_id) for s in self.current.values() if s.status == LIVE and s.client_id}
        assert self.book.totals.clients == len(live)
        statuses = [s.status for s in self.current.values()]
        assert self.book.totals.by_status() == tuple(map(statuses.count, (LIVE, EXPIRED, CLOSED, DELETED)))

    @invariant()
    def memory_equals_a_recount(self) -> None:
        assert self.book.residents.bytes == recount_bytes(self.book)
        for resident in self.book.residents.sessions.values():
            session = resident.session
            assert resident.size == (0 if session is None else session.state_bytes)
            if resident.keys is not None:
                assert session is not None
                assert resident.keys == tuple(json.loads(session.session_state))

    @invariant()
    def residents_are_what_was_decided(self) -> None:
        for session_id, resident in self.book.residents.sessions.items():
            assert still(resident.session) == still(self.current.get(session_id))
            if resident.session is not None:
                assert resident.session.active_at == self.active[session_id]

    @invariant()
    def what_is_not_resident_is_in_the_store(self) -> None:
        for session_id, session in self.current.items():
            if session_id not in self.book.residents.sessions:
                stored = self.house.stored[session_id]
                assert still(stored) == still(session)
                assert stored.active_at == self.active[session_id]
        for session_id in self.house.stored.keys() - self.current.keys():
            assert session_id in self.book.residents.sessions

    @invariant()
    def what_is_not_dirty_is_in_the_store(self) -> None:
        assert {i: r for i, r in self.book.residents.sessions.items() if r.dirty} == self.book.dirty
        assert all(r.forms for r in self.book.dirty.values())
        for session_id, resident in self.book.residents.sessions.items():
            if not resident.dirty:
                assert still(self.house.stored.get(session_id)) == still(resident.session)

    @invariant()
    def groups_have_exactly_their_live_sessions(self) -> None:
        for key in GROUPS:
            live = {i for i, s in self.current.items() if key in groups_of(s)}
            group = self.book.residents.groups.get(key)
            if group is not None:
                assert live == set(group.session_ids) & self.really_in(key, group.session_ids)
                assert group.dirty == (key in self.book.dirty_groups)
            elif key not in self.book._recovered:
                stored = {i for i, s in self.house.stored.items() if key in groups_of(s)}
                assert live == stored if key.kind == "owner" else live == stored & self.really_in(key, stored)

    def really_in(self, key: GroupKey, session_ids: Iterable[str]) -> set[str]:
        """Of an owner's group, all: it has to be exact.  A replay may leave others in the group of an external id."""
        if key.kind == "owner":
            return set(session_ids)
        return {i for i in session_ids if key in groups_of(self.current.get(i))}

    @invariant()
    def what_snapshots_do_not_have_is_in_the_overlay(self) -> None:
        overlay = {r.session_id: r for r in self.book.overlay}
        for session_id, resident in self.book.residents.sessions.items():
            if resident.dirty or resident.is_unrecorded:
                assert overlay[session_id] is resident
            elif session_id in overlay:
                assert not self.book.residents.bytes < 0

    @invariant()
    def the_form_before_uncommitted_changes_is_the_committed_one(self) -> None:
        if self.committing is None:
            for session_id, forms in self.book.uncommitted().items():
                before = next((form for form in forms if isinstance(form, Session)), None)
                assert still(before) == still(self.committed.get(session_id))


BookMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBook = BookMachine.TestCase


# -- single points


@pytest.fixture
def house() -> House:
    return House(Rules(default_timeout=100))


def test_undo_restores_what_was_before(house: House) -> None:
    kept, closed = house.create("a", session_state={"a": 1}), house.create("b")
    house.forget_residents()
    house.do("get_session_info", session_id=kept)
    house.do("list_client_sessions", client_id="a")
    house.do("list_client_sessions", client_id="b")
    before = fingerprint(house.book)

    house.do("update_session_state", session_id=kept, state_data={"b": 2})
    house.do("close_session", session_id=closed)
    house.do("update_session_state", session_id=kept, mode="replace", state_data={})
    house.do("close_session", session_id=kept)
    house.fail_commit()

    sessions, _, memory, totals, batch, changes, _, _, _ = fingerprint(house.book)
    for session_id, (session, _, gone, size, _, _, written, changed, _) in sessions.items():
        was = before[0][session_id]
        assert (session, gone, size, written, changed) == (was[0], was[2], was[3], was[6], was[7])
    assert (memory, totals, batch, changes) == before[2:6]
    assert house.do("list_client_sessions", client_id="a").session_count == 1


def test_an_update_of_a_session_that_is_undone_with_its_creation(house: House) -> None:
    session_id = house.create()
    house.do("update_session_state", session_id=session_id, state_data={"a": 1})
    house.do("close_session", session_id=session_id)
    house.fail_commit()
    assert house.refused("get_session_info", session_id=session_id).code == "session_not_found"
    assert house.book.totals == Totals(0, 0, 1)


def test_a_session_that_never_was_is_not_held_in_memory(house: House) -> None:
    """During an outage, each creation that failed would be kept for ever: dirty, with nothing to write."""
    house.create()
    house.fail_commit()
    assert not house.book.dirty
    house.book.residents.trim(0)
    assert not house.book.residents.sessions


def test_activity_that_was_undone_is_cleared_by_the_next_snapshot(house: House) -> None:
    """Without a commit in between: its commit number may never come."""
    session_id = house.create()
    house.forget_residents()
    house.wait(50)
    house.do("restore_session", session_id=session_id)
    house.fail_commit()
    house.snapshot()
    assert not house.book.dirty
    assert house.stored[session_id].active_at == house.wall


def test_a_new_sessions_first_use_need_not_be_recorded(house: House) -> None:
    session_id = house.create()
    house.do("restore_session", session_id=session_id)
    assert [type(c.record) for c in house.book.changes] == [Created]


def test_what_changed_while_its_snapshot_was_written_stays_dirty(house: House) -> None:
    session_id = house.create()
    house.commit()
    (resident,) = house.book.dirty.values()
    form = house.session(session_id)
    house.do("update_session_state", session_id=session_id, state_data={"a": 1})
    house.book.snapshotted(resident, (form,), house.book.batch - 1)
    assert resident.dirty
    house.commit()
    house.snapshot()
    assert not resident.dirty
    assert house.stored[session_id].session_state == b'{"a":1}'


def test_loading_never_overwrites_what_is_resident(house: House) -> None:
    session_id = house.create()
    house.book.add_loaded(session_id, None, damaged=True)
    house.book.add_loaded_group("me", [])
    assert house.session(session_id).client_id == "me"
    assert house.do("list_client_sessions", client_id="me").session_count == 1


def test_trim_keeps_what_is_dirty_and_drops_the_longest_unused(house: House) -> None:
    ids = [house.create(f"c{i}") for i in range(4)]
    house.commit()
    house.snapshot()
    house.do("update_session_state", session_id=ids[0], state_data={})
    house.do("get_session_info", session_id=ids[1])
    house.book.residents.trim(house.book.residents.bytes - 2 * SESSION_COST)
    assert set(house.book.residents.sessions) == {ids[0], ids[1]}


def test_trim_looks_at_a_bounded_number(house: House) -> None:
    for i in range(10):
        house.create(f"c{i}")
    house.commit()
    house.snapshot()
    house.book.residents.trim(0, most=3)
    assert len(house.book.residents.sessions) == 7
    assert len(house.book.residents.groups) == 7


def test_trim_has_unrecorded_activity_written_first(house: House) -> None:
    session_id = house.create()
    house.commit()
    house.snapshot()
    house.wait(1)
    house.do("restore_session", session_id=session_id)
    (waiting,) = house.book.residents.trim(0, most=1)
    assert waiting.session_id == session_id
    house.book.mark_unrecorded([waiting])
    house.snapshot()
    house.book.residents.trim(0)
    assert not house.book.residents.sessions
    assert house.stored[session_id].active_at == house.wall


# -- after a replay


def adopted(*forms: Session | Removed) -> House:
    house = House()
    live = [f for f in forms if isinstance(f, Session) and f.status == LIVE]
    book = SessionBook(Totals(len(live), len({s.client_id for s in live}), 9), sequence=7)
    book.adopt(forms)
    house.book = house.manager.book = book
    return house


def session(number: int, client_id: str = "me", status: int = LIVE) -> Session:
    return Session(number, f"s{number}", client_id, START, START, START, 600, status=status)


def test_what_was_replayed_is_resident_and_dirty() -> None:
    house = adopted(session(1))
    assert house.session("s1") == session(1)
    assert set(house.book.dirty) == {"s1"}
    assert house.book.batch == 8
    house.snapshot()
    assert house.stored["s1"] == session(1)
    assert not house.book.dirty


def test_what_a_replay_found_goes_before_what_the_store_says_of_a_client() -> None:
    house = adopted(session(1), session(2, status=CLOSED), Removed(3, "s3", "me"))
    for number in (2, 3, 4):
        house.stored[f"s{number}"] = session(number)  # older snapshots: all of them live
    result = house.do("list_client_sessions", client_id="me")
    assert [row.session_id for row in result.sessions] == ["s1", "s4"]


def test_an_entry_mended_by_a_replay_stays_until_the_snapshots_agree() -> None:
    house = adopted(session(1))
    house.do("list_client_sessions", client_id="me")
    house.book.residents.trim(0)
    assert owner_key("", "me") in house.book.residents.groups
    house.snapshot()
    house.book.residents.trim(0)
    assert house.do("list_client_sessions", client_id="me").session_count == 1


def test_what_a_replay_removed_is_not_found_and_then_deleted() -> None:
    house = adopted(Removed(3, "s3", "me"))
    house.stored["s3"] = session(3)
    assert house.refused("restore_session", session_id="s3").code == "session_not_found"
    house.snapshot()
    assert "s3" not in house.stored
    house.book.residents.trim(0)
    assert house.refused("restore_session", session_id="s3").code == "session_not_found"
