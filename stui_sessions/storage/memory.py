"""A store that forgets everything with the process: for tests and throw-away servers."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from zlib import crc32

from stui_sessions.errors import StorageError
from stui_sessions.sessions.model import CLOSED, EXPIRED, LIVE, Record, Removed, Session, Totals
from stui_sessions.storage.base import Due, Recovered, Stored
from stui_sessions.storage.replay import Base, Replay
from stui_sessions.storage.rows import decode_entry, due_at, encode_entry


class MemoryStore:
    """A `SessionStore` in memory.  What it holds survives `close` and `open`, not the process."""

    checked = True

    def __init__(self) -> None:
        self._journal: dict[int, bytes] = {}
        self._rows: dict[int, Base] = {}
        self._numbers: dict[str, int] = {}
        self._live: dict[str, dict[int, str]] = {}  # client -> number -> id
        self._due: dict[int, list[tuple[int, int]]] = {LIVE: [], EXPIRED: [], CLOSED: []}  # sorted
        self._clean = True
        self._uncertain_until = 0
        self._is_open = False

    async def open(self) -> Recovered:
        """See `SessionStore.open`."""
        replay = Replay()
        entries = [decode_entry(sequence, crc32(data), data) for sequence, data in self._journal.items()]
        replay.apply(entries)
        for number in replay.wanted():
            replay.put(number, self._rows.get(number))
        clean, self._clean, self._is_open = self._clean, False, True
        return Recovered(
            sequence=replay.sequence,
            totals=replay.totals,
            clean=clean,
            uncertain_until=self._uncertain_until,
            pending=replay.pending(),
            pending_bytes=sum(map(len, self._journal.values())),
        )

    async def commit(self, sequence: int, records: Sequence[Record], totals: Totals) -> int:
        """See `SessionStore.commit`."""
        self._refuse_closed()
        data = encode_entry(sequence, records, totals)
        self._journal[sequence] = data
        return len(data)

    async def load(self, session_ids: Sequence[str]) -> dict[str, Stored]:
        """See `SessionStore.load`."""
        self._refuse_closed()
        return {session_id: Stored(self._find(session_id)) for session_id in session_ids}

    def _find(self, session_id: str) -> Session | None:
        number = self._numbers.get(session_id)
        return None if number is None else self._rows[number].session

    async def load_clients(self, client_ids: Sequence[str]) -> dict[str, list[str]]:
        """See `SessionStore.load_clients`."""
        self._refuse_closed()
        return {client_id: list(self._live.get(client_id, {}).values()) for client_id in client_ids}

    async def snapshot(self, sequence: int, sessions: Sequence[Session | Removed]) -> None:
        """See `SessionStore.snapshot`."""
        self._refuse_closed()
        for session in sessions:
            self._drop(session.number)
        for session in sessions:
            if isinstance(session, Session):
                self._put(sequence, session)

    def _put(self, sequence: int, session: Session) -> None:
        self._rows[session.number] = Base(sequence, session)
        self._numbers[session.session_id] = session.number
        insort(self._due[session.status], (due_at(session), session.number))
        if session.status == LIVE:
            self._live.setdefault(session.client_id, {})[session.number] = session.session_id

    def _drop(self, number: int) -> None:
        row = self._rows.pop(number, None)
        if row is None or row.session is None:
            return
        old = row.session
        del self._numbers[old.session_id]
        due = self._due[old.status]
        del due[bisect_left(due, (due_at(old), number))]
        if old.status == LIVE:
            mine = self._live[old.client_id]
            del mine[number]
            if not mine:
                del self._live[old.client_id]

    async def forget(self, sequence: int) -> bool:
        """See `SessionStore.forget`."""
        self._refuse_closed()
        newest = max(self._journal, default=0)
        for old in [s for s in self._journal if s <= sequence and s < newest]:
            del self._journal[old]
        return False

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        """See `SessionStore.due`."""
        self._refuse_closed()
        ordered = self._due[status]
        start = bisect_right(ordered, after)
        found = [(at, number) for at, number in ordered[start : start + limit] if at <= before]
        return [self._due_row(at, number) for at, number in found]

    def _due_row(self, at: int, number: int) -> Due:
        session = self._rows[number].session
        assert session is not None
        return Due(number, session.session_id, session.status, at, session.state_bytes)

    async def mark_unclean(self, at: int) -> None:
        """See `SessionStore.mark_unclean`."""
        self._refuse_closed()
        self._uncertain_until = at

    async def check(self) -> None:
        """Memory has no damage to look for."""
        self._refuse_closed()

    async def close(self, clean: bool) -> None:
        """See `SessionStore.close`."""
        if self._is_open:
            self._is_open, self._clean = False, clean

    def _refuse_closed(self) -> None:
        if not self._is_open:
            raise StorageError("the store is closed")
