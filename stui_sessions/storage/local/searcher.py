"""The searching side of the tables: a read-only connection of its own.

So that no load waits behind a search.  Searches run one after the other, in a
thread; those that wait together go there together, for the way there and back takes
longer than most searches (measured: 40 us of 800).
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from heapq import nlargest
from pathlib import Path

from msgspec import Struct

from stui_sessions.domain.entities import SESSION, Session, session_key
from stui_sessions.domain.finding import (
    MAX_MATCHES,
    Answer,
    Counts,
    Due,
    DueFound,
    DueSession,
    Found,
    Listing,
    Question,
    Reference,
)
from stui_sessions.domain.times import Expiry
from stui_sessions.errors import StorageError
from stui_sessions.storage.background import ended
from stui_sessions.storage.border import CAUGHT, Log, is_medium, primary_code, translate
from stui_sessions.storage.counting import bare, due_at
from stui_sessions.storage.local import queries
from stui_sessions.storage.local.lists import decoded, listed, rows
from stui_sessions.storage.local.reader import begin_reading, connect_reading
from stui_sessions.storage.local.statements import PIECE_ROWS
from stui_sessions.storage.local.unwritten import View
from stui_sessions.storage.rows import HEAD, decode_head, decode_text

HEADS = f"SELECT {HEAD} FROM sessions WHERE number IN ({{}})"

TOGETHER_SECONDS = 0.002
"""After so much time in the thread, those that have their answers get them, and the others go there anew."""


class Asked(Struct, eq=False):
    """A question, and who waits for its answer."""

    question: Question
    expiry: Expiry
    now: int
    answer: asyncio.Future[Answer]
    given_up: bool = False  # nobody waits any more


class Searcher:
    """Answers questions.  Connects when it is first asked.

    `view` tells what is not in the tables; while a question waits, it must hold what
    the tables get, too.
    """

    def __init__(self, path: Path, view: Callable[[], View], log: Log) -> None:
        self._path = path
        self._view = view
        self._log = log
        self._is_open = False
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[Asked] = []
        self._searched: list[Asked] = []
        """What is in the thread."""
        self._running: Asked | None = None
        """The one of them that is searched for now; set by the thread."""
        self._work: asyncio.Future[list[Answer | Exception]] | None = None
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Searches are welcome."""
        self._is_open = True

    async def search(self, question: Question, expiry: Expiry, now: int) -> Answer:
        """The answer, as of one moment from now on."""
        if not self._is_open:
            raise StorageError("the store is closed")
        asked = Asked(question, expiry, now, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._task is None:
            self._task = asyncio.create_task(self._answer_all())
        try:
            return await asked.answer
        except asyncio.CancelledError:
            asked.given_up = True
            if asked in self._searched and self._work is not None:
                # The caller holds what the search looks at until this returns.
                await ended(self._work, self._interrupt_for_nobody)
            raise

    async def close(self) -> None:
        """End the search that is running, if one is, and disconnect.  Never raises."""
        self._is_open = False
        if self._work is not None:
            await ended(self._work, self._interrupt)
        if self._task is not None:
            await asyncio.wait([self._task])
        self._disconnect()

    def _interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def _interrupt_for_nobody(self) -> None:
        """End the search that is running, if nobody waits for it any more."""
        if self._running is not None and self._running.given_up:
            self._interrupt()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except CAUGHT as error:
            self._log.debug("database_close_failed", error=str(error))

    async def _answer_all(self) -> None:
        """Until nobody waits."""
        try:
            while self._waiting and self._is_open:
                self._searched, self._waiting = self._waiting, []
                self._work = asyncio.ensure_future(asyncio.to_thread(self._run, list(self._searched)))
                await asyncio.wait([self._work])
                fault = self._work.exception()  # no thread could be had
                self._tell(self._work.result() if fault is None else [StorageError(f"searching the database: {fault}")])
        finally:
            self._work = self._task = None
            for asked in (*self._searched, *self._waiting):
                _answer(asked, StorageError("the store is closed"))
            self._searched, self._waiting = [], []

    def _tell(self, answers: list[Answer | Exception]) -> None:
        """Give the answers to the first of them; the others wait again."""
        searched, self._searched = self._searched, []
        self._waiting = searched[len(answers) :] + self._waiting
        for asked, answer in zip(searched, answers, strict=False):
            if isinstance(answer, CAUGHT):
                if is_medium(answer):
                    self._disconnect()  # the next search tries anew
                told = translate("searching the database", answer)
                told.__cause__ = answer
                answer = told
            _answer(asked, answer)

    # -- in the thread

    def _run(self, searched: list[Asked]) -> list[Answer | Exception]:
        """Answers to the first of them, or what went wrong with each; the others are to come again."""
        answers: list[Answer | Exception] = []
        until = time.monotonic() + TOGETHER_SECONDS
        try:
            connection, view = self._moment()
            for asked in searched:
                if answers and (time.monotonic() > until or not connection.in_transaction):  # some errors end it
                    break
                self._running = asked
                outcome = _outcome(connection, asked, view)
                if _is_interrupt(outcome) and self._is_open and not asked.given_up:
                    break  # that was meant for the one before
                answers.append(outcome)
        except Exception as error:
            answers.append(error)
        finally:
            self._running = None
            self._end_reading()
        return answers

    def _moment(self) -> tuple[sqlite3.Connection, View]:
        """First the moment of the tables, then that of the rest: so nothing is in neither."""
        if self._connection is None:
            self._connection = connect_reading(self._path, any_thread=True)
        begin_reading(self._connection)
        return self._connection, self._view()

    def _end_reading(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except CAUGHT:
                self._disconnect()


def _outcome(connection: sqlite3.Connection, asked: Asked, view: View) -> Answer | Exception:
    if asked.given_up:
        return StorageError("nobody waits for it")
    try:
        return run(connection, asked.question, view, asked.expiry, asked.now)
    except Exception as error:
        return error


def _is_interrupt(outcome: Answer | Exception) -> bool:
    return isinstance(outcome, Exception) and primary_code(outcome) == sqlite3.SQLITE_INTERRUPT


def _answer(asked: Asked, answer: Answer | Exception) -> None:
    if asked.answer.done():
        return
    if isinstance(answer, Exception):
        asked.answer.set_exception(answer)
    else:
        asked.answer.set_result(answer)


def run(connection: sqlite3.Connection, question: Question, view: View, expiry: Expiry, now: int) -> Answer:
    """The answer to a question; in a transaction, so that all of it is of one moment."""

    def is_live(s: Session) -> bool:
        return expiry.is_live(s, now)

    if isinstance(question, Listing):
        return listed(connection, question, view, is_live)
    if isinstance(question, Reference):
        return _named(connection, question, view, is_live)
    assert not isinstance(question, Counts)
    return _due(connection, question, view)


# -- references

Candidate = tuple[int, int, Session | None]
"""When a session was active, its number, and what it is, where that is known."""


def _named(
    connection: sqlite3.Connection, reference: Reference, view: View, is_live: Callable[[Session], bool]
) -> Found:
    """The most recently active of each kind of reference."""
    found: dict[int, Session] = {}
    for kind, query in queries.candidates(reference):
        candidates = _candidates(connection, kind, query, view)
        for s in _best(connection, kind, candidates, is_live):
            found[s.number] = s
    best = sorted(found.values(), key=lambda s: (s.active_at, s.number), reverse=True)
    return Found([bare(s) for s in best])


def _candidates(connection: sqlite3.Connection, kind: Reference, query: queries.Query, view: View) -> list[Candidate]:
    """All that may be meant, some thousands at most."""
    found: list[Candidate] = [(s.active_at, s.number, s) for s in view.moved_sessions() if kind.matches(s)]
    for number, name, active_at in rows(connection, [query], PIECE_ROWS):
        if number in view.moved:
            continue
        newer = view.get((kind.tenant, SESSION, decode_text(name)))
        if isinstance(newer, Session):
            found.append((newer.active_at, newer.number, newer))
        elif isinstance(active_at, int):
            found.append((active_at, number, None))
    return found


def _best(
    connection: sqlite3.Connection, kind: Reference, candidates: list[Candidate], is_live: Callable[[Session], bool]
) -> list[Session]:
    """MAX_MATCHES + 1 of them, the most recently active first."""
    found: list[Session] = []
    most = MAX_MATCHES + 1
    count = most
    while candidates and len(found) < most:
        some = nlargest(count, candidates, key=lambda c: c[:2])
        heads = decoded(connection, HEADS, [number for _, number, s in some if s is None], decode_head)
        for _, number, known in some:
            s = known or heads.get(number)
            # Ids name sessions of any status; the other kinds name live ones.
            if s is not None and kind.matches(s) and (kind.prefix or is_live(s)):
                found.append(s)
        taken = {number for _, number, _ in some}
        candidates = [c for c in candidates if c[1] not in taken]
        count = PIECE_ROWS
    return found[:most]


# -- sessions that are due


def _due(connection: sqlite3.Connection, question: Due, view: View) -> DueFound:
    found = []
    for tenant, number, name, at, size in connection.execute(*queries.due(question, len(view.moved))).fetchall():
        if number not in view.moved:
            key = session_key(decode_text(tenant), decode_text(name))
            newer = view.get(key)
            found.append(DueSession(key, at, number, newer.state_bytes if isinstance(newer, Session) else size))
    for s in view.moved_sessions():
        at = due_at(s)
        if s.status == question.status and at <= question.before and (at, s.number) > question.after:
            found.append(DueSession(s.key, at, s.number, s.state_bytes))
    found.sort(key=lambda d: (d.due_at, d.number))
    return DueFound(found[: question.limit])
