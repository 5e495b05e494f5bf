"""Reading the journal at the start.

Synchronous, for a thread: nothing else runs yet, and with rows fetched one by one
a second busy thread would cost a switch of the interpreter lock for each.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from stui_sessions.errors import StorageDamaged
from stui_sessions.sessions.model import CLOSED, DELETED, EXPIRED, Session, Totals
from stui_sessions.storage.base import Recovered
from stui_sessions.storage.border import Log
from stui_sessions.storage.replay import Base, Replay
from stui_sessions.storage.rows import JOURNAL_VERSION, WHOLE, decode_entry, decode_session

CHUNK_BYTES = 2**20  # of journal in memory at once, about
CHUNK_ROWS = 2048
PROGRESS_EVERY = 2000  # ms between log lines of a long replay
BASES = 256  # stored sessions read by one query

_ENDS = "SELECT (SELECT min(sequence) FROM journal), (SELECT max(sequence) FROM journal)"
_ENTRIES = "SELECT sequence, crc, data FROM journal ORDER BY sequence"
_LISTED = f"WHERE number IN ({','.join('?' * BASES)})"
_BASE = f"SELECT {{}} FROM sessions {_LISTED} ORDER BY number"
_STATUS = f"SELECT status FROM sessions {_LISTED}"
_STATUSES = "SELECT status, count(*) FROM sessions INDEXED BY sessions_by_due GROUP BY status"


class Form(NamedTuple):
    """How sessions are stored."""

    columns: str
    decode: Callable[..., Session | None]  # of a row of these; the first two are number and sequence


NEWEST = Form(WHOLE, decode_session)


def recover(
    connection: sqlite3.Connection,
    form: Form,
    on_piece: Callable[[int, int, int], None],
    clock: Callable[[], int],
    log: Log,
) -> Recovered:
    """What the database holds; `on_piece(first, last, bytes)` hears what the journal is made of.

    StorageDamaged if the journal is not what was written.
    """
    connection.text_factory = bytes  # a damaged text would be repeated in the driver's error
    replay, size = Replay(), 0
    progress = Progress(log, "journal_replay", clock, _count(connection))
    for rows in _chunks(connection):
        replay.apply([decode_entry(*row) for row in rows])
        piece = sum(len(row[2]) for row in rows)
        on_piece(rows[0][0], rows[-1][0], piece)
        size += piece
        progress.report(replay.entries)
    _put_bases(connection, form, replay)
    for number in replay.damaged:
        log.error("session_damaged", number=number, found_by="replay")
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    return Recovered(
        sequence=replay.sequence,
        totals=replay.totals if replay.version == JOURNAL_VERSION else _counted(connection, replay),
        clean=bool(meta.get(b"clean")),
        uncertain_until=meta.get(b"uncertain_until", 0),
        pending=replay.pending(),
        pending_bytes=size,
    )


def _count(connection: sqlite3.Connection) -> int:
    """Entries in the journal, if it has no gaps."""
    first, last = connection.execute(_ENDS).fetchone()
    if last is not None:
        return int(last - first + 1)
    # The newest entry is never dropped, so without one nothing was ever stored.
    if connection.execute("SELECT 1 FROM sessions LIMIT 1").fetchone():
        raise StorageDamaged("the journal is empty, and there are sessions")
    return 0


def _chunks(connection: sqlite3.Connection) -> Iterator[list[Any]]:
    """The journal's rows in order, about CHUNK_BYTES at a time."""
    cursor = connection.execute(_ENTRIES)
    count = 16
    while rows := cursor.fetchmany(count):
        yield rows
        largest = max(len(row[2]) for row in rows)
        count = min(CHUNK_BYTES // (largest + 1) + 1, CHUNK_ROWS, count * 4)


def _put_bases(connection: sqlite3.Connection, form: Form, replay: Replay) -> None:
    for numbers in _padded(replay.wanted()):
        rows = connection.execute(_BASE.format(form.columns), numbers)
        bases = {row[0]: _base(form, row) for row in rows}
        for number in numbers:
            if number is not None:
                replay.put(number, bases.get(number))


def _base(form: Form, row: tuple[Any, ...]) -> Base:
    session = form.decode(*row)
    return Base(0 if session is None else row[1], session)


def _padded(numbers: list[int]) -> Iterator[list[int | None]]:
    """BASES at a time; NULLs, which match nothing, at the end."""
    for start in range(0, len(numbers), BASES):
        some = numbers[start : start + BASES]
        yield [*some, *[None] * (BASES - len(some))]


def _counted(connection: sqlite3.Connection, replay: Replay) -> Totals:
    """The totals after entries of version 1, which do not say how many sessions have ended in which way."""
    counts = Counter(dict(connection.execute(_STATUSES).fetchall()))
    pending = replay.pending()
    for numbers in _padded([form.number for form in pending]):
        counts.subtract(status for (status,) in connection.execute(_STATUS, numbers))
    counts.update(form.status for form in pending if isinstance(form, Session))
    return replace(replay.totals, expired=counts[EXPIRED], closed=counts[CLOSED], deleted=counts[DELETED])


class Progress:
    """Says now and then how far a long replay has come, or a long migration."""

    def __init__(self, log: Log, event: str, clock: Callable[[], int], total: int) -> None:
        self._log = log
        self._event = event
        self._clock = clock
        self._total = total
        self._next = clock() + PROGRESS_EVERY

    def report(self, done: int) -> None:
        """`done` of them are done."""
        now = self._clock()
        if now >= self._next:
            self._next = now + PROGRESS_EVERY
            self._log.info(self._event, done=done, total=self._total)
