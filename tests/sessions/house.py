"""A session manager with a clock that the test moves and a store that is a dict."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import pytest
from msgspec import UNSET

from stui_sessions.errors import Refusal
from stui_sessions.protocol.commands import COMMANDS
from stui_sessions.protocol.parameters import StateText
from stui_sessions.sessions.book import Change, NotResident, SessionBook
from stui_sessions.sessions.caller import ANYONE_LOCAL
from stui_sessions.sessions.finding import Found, Reference, Row, Search
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.manager import Rules, SessionManager
from stui_sessions.sessions.model import Record, Session, Totals
from stui_sessions.sessions.residents import groups_of
from stui_sessions.sessions.timing import Expiry, Moment, format_instant

START = 1_756_549_800_000  # 2025-08-30T10:30:00Z, in ms
SECOND = 1000


def state_text(value: dict[str, Any] | bytes) -> StateText:
    """What decoding makes of a state object."""
    text = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return StateText(text, tuple(json.loads(text, parse_int=str)))


def fingerprint(book: SessionBook) -> Any:
    """All that a decision may change, in a form that can be compared."""
    residents = book.residents
    return (
        {
            i: (r.session, r.damaged, r.gone, r.size, r.keys, r.dirty, r.written, r.changed, r.recorded_at)
            for i, r in residents.sessions.items()
        },
        {k: (tuple(g.session_ids), g.dirty, g.changed) for k, g in residents.groups.items()},
        residents.bytes,
        book.copy_totals(),
        book.batch,
        list(book.changes),
        set(book.dirty),
        set(book.dirty_groups),
        list(book.overlay),
    )


def search_in(stored: Iterable[Session], search: Search) -> Found:
    """What a store answers that has these snapshots."""
    rows = [Row(s, s.state_bytes) for s in stored if search.matches(s)]
    if isinstance(search, Reference):
        return Found(rows)
    rows.sort(key=lambda row: search.position(row.session), reverse=search.descending)
    if search.after is not None:
        rows = [row for row in rows if search.is_behind(search.position(row.session), search.after)]
    page = rows[: search.limit]
    return Found(page, search.position(page[-1].session) if len(page) < len(rows) else None)


class House:
    """`do("create_session", client_id="me")` decides as the server does, loading from `stored`."""

    def __init__(
        self,
        rules: Rules | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        per_minute: int = 0,
        uncertain_until: int = 0,
    ) -> None:
        self.stored: dict[str, Session] = {}
        self.damaged: set[str] = set()
        self.book = SessionBook(Totals())
        self.wall = START
        self.monotonic = 1000.0
        ids = count(1)
        self.manager = SessionManager(
            self.book,
            Expiry(uncertain_until),
            rules or Rules(),
            ClientLists(allow, deny),
            CreationRate(per_minute),
            lambda number, second, form: f"session_{number}_{second}_{next(ids)}",
        )
        self.loads: list[NotResident] = []

    # -- time

    @property
    def now(self) -> Moment:
        return Moment(self.wall, self.monotonic, format_instant(self.wall))

    def wait(self, seconds: float) -> None:
        self.wall += round(seconds * 1000)
        self.monotonic += seconds

    # -- asking

    def do(self, command: str, /, **parameters: Any) -> Any:
        """The result of a command, state objects given as dict or text.  Raises Refusal."""
        states = COMMANDS[command].state_parameters
        given = {k: state_text(v) if k in states and v is not UNSET else v for k, v in parameters.items()}
        params = COMMANDS[command].params(**given)
        return self.decide(lambda: getattr(self.manager, command)(ANYONE_LOCAL, params, self.now))

    def refused(self, command: str, /, **parameters: Any) -> Refusal:
        """The refusal of a command that must be refused."""
        with pytest.raises(Refusal) as caught:
            self.do(command, **parameters)
        return caught.value

    def create(self, client_id: str = "me", **parameters: Any) -> str:
        session_id = self.do("create_session", client_id=client_id, **parameters).session_id
        assert isinstance(session_id, str)
        return session_id

    def sweep(self, session_id: str) -> None:
        self.decide(lambda: self.manager.sweep(session_id, self.now))

    def decide(self, decision: Callable[[], Any]) -> Any:
        """Decide, load what is missing, decide again; a decision that raised has changed nothing."""
        try:
            return self._decide(decision)
        finally:
            self.book.answers.clear()

    def _decide(self, decision: Callable[[], Any]) -> Any:
        for _ in range(10):
            before, buckets = fingerprint(self.book), dict(self.manager.rate._buckets)
            try:
                return decision()
            except NotResident as missing:
                self._check_unchanged(before, buckets)
                self.loads.append(missing)
                self.load(missing)
            except Refusal:
                self._check_unchanged(before, buckets)
                raise
        raise AssertionError("loading does not help")

    def _check_unchanged(self, before: Any, buckets: Any) -> None:
        assert fingerprint(self.book) == before
        assert self.manager.rate._buckets == buckets

    def load(self, missing: NotResident) -> None:
        for session_id in missing.sessions:
            self.book.add_loaded(session_id, self.stored.get(session_id), session_id in self.damaged)
        for key in missing.groups:
            self.book.add_loaded_group(key, [i for i, s in self.stored.items() if key in groups_of(s)])
        if missing.search is not None:
            self.book.answers[missing.search] = search_in(self.stored.values(), missing.search)

    # -- committing

    def commit(self) -> list[Record]:
        """Commit what was decided; the records for the journal."""
        return [change.record for change in self.book.take_changes()]

    def fail_commit(self) -> None:
        """Try to commit what was decided, in vain."""
        number = self.book.batch
        changes: list[Change] = self.book.take_changes()
        self.manager.undo(changes)
        self.book.batch = number

    def snapshot(self) -> None:
        """Put everything that is committed into the store."""
        assert not self.book.changes
        sequence = self.book.batch - 1
        for resident in list(self.book.dirty.values()):
            for form in resident.forms:
                if isinstance(form, Session):
                    self.stored[form.session_id] = form
                else:
                    self.stored.pop(form.session_id, None)
            self.book.snapshotted(resident, resident.forms, sequence)
        self.book.groups_snapshotted(sequence)

    def forget_residents(self) -> None:
        """Commit, snapshot, and drop everything from memory."""
        self.commit()
        self.snapshot()
        book = self.book
        while book.residents.sessions or book.residents.groups:
            book.mark_unrecorded(book.residents.trim(0))
            self.snapshot()
        assert book.residents.bytes == 0
        self.loads.clear()

    def session(self, session_id: str) -> Session:
        session = self.book.residents.sessions[session_id].session
        assert session is not None
        return session
