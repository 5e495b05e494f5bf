"""The book: undo restores everything, totals and memory are exact, nothing gets lost between memory and store."""

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stui_sessions.errors import Refusal
from stui_sessions.sessions.book import Change, SessionBook
from stui_sessions.sessions.manager import Rules
from stui_sessions.sessions.model import (
    CLOSED,
    LIVE,
    Created,
    Ended,
    Record,
    Removed,
    Session,
    Totals,
    Updated,
    apply,
    used,
)
from stui_sessions.sessions.residents import SESSION_COST, Resident
from tests.sessions.house import START, House, fingerprint

CLIENTS = ["a", "b", "c"]
STATES = [{}, {"x": 1}, {"x": 22, "y": [1]}, {"y": 1, "x": "long" * 5}]


def still(session: Session | None) -> Session | None:
    """A session without its activity, which is soft."""
    return None if session is None else used(session, 0)


def recount_bytes(book: SessionBook) -> int:
    residents = book.residents
    return sum(r.cost for r in residents.sessions.values()) + sum(e.cost for e in residents.clients.values())


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
        self.writing: list[tuple[Resident, Session | Removed]] | None = None
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
                if not isinstance(change.record, Ended):
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

    @rule(client=st.sampled_from(CLIENTS))
    def list(self, client: str) -> None:
        result = self.house.do("list_client_sessions", client_id=client)
        live = [
            s.number
            for i, s in self.current.items()
            if s.client_id == client and s.status == LIVE and self.house.wall < self.active[i] + s.timeout * 1000
        ]
        assert [self.current[row.session_id].number for row in result.sessions] == sorted(live)

    @rule(index=st.integers(0, 8))
    def sweep(self, index: int) -> None:
        noted = len(self.book.changes)
        self.house.sweep(self.pick(index))
        self.follow(self.book.changes[noted:])

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
            form = before.get(resident.session_id, resident.form)
            if form is not None:
                self.writing.append((resident, form))

    @precondition(lambda self: self.writing is not None)
    @rule()
    def finish_snapshot(self) -> None:
        assert self.writing is not None
        for resident, form in self.writing:
            if isinstance(form, Removed):
                self.house.stored.pop(form.session_id, None)
            else:
                self.house.stored[form.session_id] = form
            self.book.snapshotted(resident, form, self.upto)
        self.writing = None
        self.book.clients_snapshotted(self.upto)
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
        totals = Totals(len(live), len({s.client_id for s in live}), self.book.totals.last_number)
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
        live = [s.client_id for s in self.current.values() if s.status == LIVE]
        assert (self.book.totals.live, self.book.totals.clients) == (len(live), len(set(live)))

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
        assert all(r.form is not None for r in self.book.dirty.values())
        for session_id, resident in self.book.residents.sessions.items():
            if not resident.dirty:
                assert still(self.house.stored.get(session_id)) == still(resident.session)

    @invariant()
    def clients_have_exactly_their_live_sessions(self) -> None:
        for client in CLIENTS:
            live = {i for i, s in self.current.items() if s.client_id == client and s.status == LIVE}
            entry = self.book.residents.clients.get(client)
            if entry is not None:
                assert set(entry.session_ids) == live
                assert entry.dirty == (client in self.book.dirty_clients)
            if entry is None and client not in self.book._recovered:
                assert live == {i for i, s in self.house.stored.items() if s.client_id == client and s.status == LIVE}

    @invariant()
    def the_form_before_uncommitted_changes_is_the_committed_one(self) -> None:
        if self.committing is None:
            for session_id, form in self.book.uncommitted().items():
                before = None if isinstance(form, Removed) else form
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

    sessions, _, memory, totals, batch, changes, _, _ = fingerprint(house.book)
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
    house.book.snapshotted(resident, form, house.book.batch - 1)
    assert resident.dirty
    house.commit()
    house.snapshot()
    assert not resident.dirty
    assert house.stored[session_id].session_state == b'{"a":1}'


def test_loading_never_overwrites_what_is_resident(house: House) -> None:
    session_id = house.create()
    house.book.add_loaded(session_id, None, damaged=True)
    house.book.add_loaded_client("me", [])
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
    assert len(house.book.residents.clients) == 7


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
    assert "me" in house.book.residents.clients
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
