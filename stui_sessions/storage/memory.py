"""A store that forgets everything with the process: for tests and throw-away servers."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

from msgspec.structs import replace

from stui_sessions.errors import StorageError
from stui_sessions.sessions.finding import MAX_MATCHES, Found, Listing, Reference, Row, Search
from stui_sessions.sessions.model import CLOSED, DELETED, EMPTY, EXPIRED, LIVE, Record, Removed, Session, Totals
from stui_sessions.sessions.residents import GroupKey, groups_of
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
        self._groups: dict[GroupKey, dict[int, str]] = {}  # -> number -> id
        self._due: dict[int, list[tuple[int, int]]] = {LIVE: [], EXPIRED: [], CLOSED: [], DELETED: []}  # sorted
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

    async def load_groups(self, keys: Sequence[GroupKey]) -> dict[GroupKey, list[str]]:
        """See `SessionStore.load_groups`."""
        self._refuse_closed()
        return {key: list(self._groups.get(key, {}).values()) for key in keys}

    async def search(self, search: Search) -> Found:
        """See `SessionStore.search`.  Looks at everything: this store is for few sessions."""
        self._refuse_closed()
        stored = [row.session for row in self._rows.values() if row.session is not None]
        return _listed(search, stored) if isinstance(search, Listing) else _named(search, stored)

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
        for key in groups_of(session):
            self._groups.setdefault(key, {})[session.number] = session.session_id

    def _drop(self, number: int) -> None:
        row = self._rows.pop(number, None)
        if row is None or row.session is None:
            return
        old = row.session
        del self._numbers[old.session_id]
        due = self._due[old.status]
        del due[bisect_left(due, (due_at(old), number))]
        for key in groups_of(old):
            group = self._groups[key]
            del group[number]
            if not group:
                del self._groups[key]

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

    async def copy(self, path: Path) -> None:
        """There is no file to copy."""
        raise StorageError("nothing is on disk, so there is nothing to copy")

    def size(self) -> int:
        """See `SessionStore.size`: what journal and states take."""
        return sum(map(len, self._journal.values())) + sum(
            row.session.state_bytes for row in self._rows.values() if row.session is not None
        )

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


def _listed(listing: Listing, sessions: list[Session]) -> Found:
    """One page of `sessions`."""
    places = [(listing.position(s), s) for s in sessions if listing.matches(s)]
    if listing.after is not None:
        places = [place for place in places if listing.is_behind(place[0], listing.after)]
    places.sort(key=lambda place: place[0], reverse=listing.descending)
    page = places[: listing.limit]
    reached = page[-1][0] if page and len(places) > len(page) else None
    return Found([_row(s, listing.with_state) for _, s in page], reached)


def _named(reference: Reference, sessions: list[Session]) -> Found:
    """The first few that `reference` names, of each kind, or all."""
    found: dict[int, Session] = {}
    r, more = reference, False
    for kind in (Reference(prefix=r.prefix), Reference(external_id=r.external_id), Reference(title=r.title)):
        matches = [s for s in sessions if kind.matches(s)]
        most = len(matches) if r.wide else MAX_MATCHES + 1
        more = more or len(matches) > most
        found |= {s.number: s for s in matches[:most]}
    return Found([_row(s, with_state=False) for s in found.values()], more=more)


def _row(session: Session, with_state: bool) -> Row:
    bare = replace(session, session_state=EMPTY, workspace_context=EMPTY, inspector_state=EMPTY, object_registry=EMPTY)
    return Row(session if with_state else bare, session.state_bytes)
