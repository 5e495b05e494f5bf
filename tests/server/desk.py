"""An engine whose writer and loader are moved by hand, and peers that talk to it."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from stui_sessions.errors import Refusal
from stui_sessions.protocol.framing import Overflow
from stui_sessions.protocol.messages import WireLimits
from stui_sessions.server.dialogue import Dialogue
from stui_sessions.server.engine import Engine, Waiter
from stui_sessions.sessions.book import Change, NotResident, SessionBook
from stui_sessions.sessions.caller import ANYONE_LOCAL
from stui_sessions.sessions.finding import Found, Search
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.manager import Rules, SessionManager
from stui_sessions.sessions.model import LIVE, Removed, Session, Totals, Updated, apply
from stui_sessions.sessions.residents import GroupKey, groups_of
from stui_sessions.sessions.timing import Expiry, Moment, format_instant
from tests.sessions.house import search_in

START = 1_756_549_800_000
UNAVAILABLE = Refusal("storage_unavailable", "undone")
UNREADABLE = Refusal("storage_unavailable", "unreadable")

Reply = dict[str, Any]


def request(id: Any, command: str, /, **parameters: Any) -> bytes:
    message = {"id": id, "command": command, "parameters": parameters}
    return json.dumps(message, separators=(",", ":")).encode()


def stored_session(session_id: str, number: int = 1, client_id: str = "me", **fields: Any) -> Session:
    return Session(number, session_id, client_id, START, START, START, 3600, **fields)


class Reading(NamedTuple):
    """A load under way: what was found, and who waits for it."""

    sessions: dict[str, Session | None]
    groups: dict[GroupKey, list[str]]
    answers: dict[Search, Found]
    searches: list[int]
    waiters: list[Waiter]


class Desk:
    """The engine; `begin`, `succeed`, `fail` are the writer, `load` is the loader, `turn` is the event loop."""

    def __init__(self, *stored: Session, rules: Rules | None = None, limits: WireLimits | None = None) -> None:
        self.stored = {s.session_id: s for s in stored}
        self.committed = dict(self.stored)
        """What the journal and the snapshots lead to."""
        live = [s for s in stored if s.status == LIVE]
        totals = Totals(len(live), len({s.client_id for s in live}), len(stored))
        self.book = SessionBook(totals)
        self.wall = START
        ids = count(1)
        self.manager = SessionManager(
            self.book,
            Expiry(),
            rules or Rules(max_sessions_per_client=100),
            ClientLists([], []),
            CreationRate(0),
            lambda number, second, form: f"new{next(ids)}",
        )
        self.engine = Engine(self.manager, self.clock, limits or WireLimits())
        self.commits_wanted = 0
        self.engine.want_commit = self._want_commit
        self.engine.want_load = self._want_load
        self.wanted: list[tuple[NotResident, Waiter | None]] = []
        self.reading: Reading | None = None
        self.next_turn: list[Callable[[], None]] = []
        self.in_flight: tuple[int, list[Change]] | None = None

    def clock(self) -> Moment:
        return Moment(self.wall, self.wall / 1000, format_instant(self.wall))

    def _want_commit(self) -> None:
        self.commits_wanted += 1

    def _want_load(self, missing: NotResident, waiter: Waiter | None) -> None:
        self.wanted.append((missing, waiter))

    # -- the writer

    def begin(self) -> int:
        """A commit starts; its number."""
        assert self.in_flight is None
        number = self.book.batch
        self.in_flight = number, self.book.take_changes()
        return number

    def succeed(self) -> None:
        """The commit that was begun is on disk."""
        assert self.in_flight is not None
        (number, changes), self.in_flight = self.in_flight, None
        for change in changes:
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
        self.engine.on_committed(number)

    def fail(self) -> None:
        """The commit that was begun was refused by the disk."""
        assert self.in_flight is not None
        (number, changes), self.in_flight = self.in_flight, None
        self.engine.on_commit_failed(number, changes, UNAVAILABLE)

    def commit(self) -> None:
        self.begin()
        self.succeed()

    def snapshot(self) -> None:
        assert self.in_flight is None
        before = self.book.uncommitted()
        for resident in list(self.book.dirty.values()):
            forms = before.get(resident.session_id, resident.forms)
            for form in forms:
                if isinstance(form, Removed):
                    self.stored.pop(form.session_id, None)
                else:
                    self.stored[form.session_id] = form
            if forms:
                self.book.snapshotted(resident, forms, self.engine.committed)
        self.book.groups_snapshotted(self.engine.committed)

    # -- the loader

    @property
    def wanted_ids(self) -> list[str]:
        return [key for missing, _ in self.wanted for key in (*missing.sessions, *(g.name for g in missing.groups))]

    def load(self) -> None:
        """Everything that was wanted is read, then those who wait go on."""
        self.begin_load()
        self.finish_load()

    def begin_load(self) -> None:
        """As the loader does: what is not in memory is read as it is stored now."""
        assert self.reading is None
        wanted, self.wanted = self.wanted, []
        residents = self.book.residents
        found_sessions, found_groups, answers = {}, {}, {}
        searches = []
        for missing, _ in wanted:
            for session_id in missing.sessions:
                if session_id not in residents.sessions:
                    found_sessions[session_id] = self.stored.get(session_id)
            for key in missing.groups:
                if key not in residents.groups:
                    found_groups[key] = [i for i, s in self.stored.items() if key in groups_of(s)]
            if missing.search is not None:
                searches.append(self.book.overlay.begin_search())
                answers[missing.search] = search_in(self.stored.values(), missing.search)
        waiters = dict.fromkeys(w for _, w in wanted if w is not None)
        self.reading = Reading(found_sessions, found_groups, answers, searches, list(waiters))

    def finish_load(self) -> None:
        assert self.reading is not None
        reading, self.reading = self.reading, None
        for session_id, session in reading.sessions.items():
            self.book.add_loaded(session_id, session, False)
        for key, session_ids in reading.groups.items():
            self.book.add_loaded_group(key, session_ids)
        self.book.answers.update(reading.answers)
        for waiter in reading.waiters:
            waiter.resume()
        self.book.answers.clear()
        for number in reading.searches:
            self.book.overlay.end_search(number)

    def fail_load(self) -> None:
        """What was wanted cannot be read."""
        if self.reading is None:
            self.begin_load()
        assert self.reading is not None
        reading, self.reading = self.reading, None
        for number in reading.searches:
            self.book.overlay.end_search(number)
        for waiter in reading.waiters:
            waiter.fail_load(UNREADABLE)

    # -- the event loop

    def later(self, callback: Callable[[], None]) -> None:
        self.next_turn.append(callback)

    def turn(self) -> None:
        callbacks, self.next_turn = self.next_turn, []
        for callback in callbacks:
            callback()

    def settle(self) -> None:
        """Turn, load and commit until nothing is left to do."""
        for _ in range(1000):
            if self.next_turn:
                self.turn()
            elif self.reading:
                self.finish_load()
            elif self.wanted:
                self.begin_load()
            elif self.in_flight:
                self.succeed()
            elif self.book.changes:
                self.begin()
            else:
                return
        raise AssertionError("it does not settle")


class Peer:
    """One end of a dialogue, and what it was told."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.replies: list[Reply] = []
        self.sends = 0
        self.drained = 0
        """How often it was told that nothing undecided is left."""
        self.on_send: Callable[[list[Reply]], None] = lambda replies: None
        self.dialogue = self._open()

    def _open(self) -> Dialogue:
        return Dialogue(self.desk.engine, ANYONE_LOCAL, self._send, self.desk.later, self._on_drained)

    def _on_drained(self) -> None:
        self.drained += 1

    def _send(self, data: bytes) -> None:
        assert data.endswith(b"\n")
        self.sends += 1
        replies = [json.loads(line) for line in data.splitlines()]
        self.replies += replies
        self.on_send(replies)

    @property
    def ids(self) -> list[Any]:
        return [reply["id"] for reply in self.replies]

    @property
    def codes(self) -> list[str]:
        return [reply.get("error_code", "ok") for reply in self.replies]

    def say(self, *lines: bytes | Overflow) -> None:
        self.dialogue.receive(lines)

    def ask(self, id: Any, command: str, /, **parameters: Any) -> None:
        self.say(request(id, command, **parameters))

    def pause(self) -> None:
        self.dialogue.paused = True

    def unpause(self) -> None:
        self.dialogue.paused = False
        self.dialogue.proceed()
