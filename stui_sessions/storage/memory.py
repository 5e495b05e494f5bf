"""A store that forgets everything with the process: for tests and throw-away servers."""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

from stui_sessions.domain.entities import LIVE, Absent, Entity, Key, Session
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
from stui_sessions.domain.records import Updated
from stui_sessions.domain.times import Expiry
from stui_sessions.errors import StorageError
from stui_sessions.storage.contract import Batch, Commit, Conflict, LogGone, Opened, Promise, Usage
from stui_sessions.storage.counting import Tally, bare, due_at, is_counted, is_stored, newer, structural

KEPT_BYTES = 16 * 2**20
"""Of the log, about."""

RECORD_COST = 500

KEPT_VERSIONS = 65_536
"""Versions of removed entities that are remembered: decisions may still stand on them."""


class MemoryStore:
    """A `Store` in memory.  What it holds survives `close` and `open`, not the process."""

    is_shared = False
    commits_at_once = 1

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._entities: dict[Key, Entity] = {}
        self._removed: dict[Key, int] = {}
        self._log: deque[tuple[Commit, int]] = deque()
        self._log_bytes = 0
        self._kept_bytes = kept_bytes
        self._state_bytes = 0
        self._commit = 0
        self._last_number = 0
        self._tally = Tally()
        self._expiry = Expiry()
        self._clean = True
        self._is_open = False

    async def open(self) -> Opened:
        """See `Store.open`."""
        clean, self._clean, self._is_open = self._clean, False, True
        return Opened(self._commit, self._last_number, clean, 0, self._expiry.uncertain_until)

    async def read(self, keys: Sequence[Key], known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        """See `Store.read`."""
        self._refuse_closed()
        return newer({key: self._get(key) for key in keys}, known)

    def _get(self, key: Key) -> Entity:
        return self._entities.get(key) or Absent(key)

    async def commit(self, batch: Batch) -> int:
        """See `Store.commit`."""
        self._refuse_closed()
        if batch.number != self._commit + 1:
            raise ValueError(f"commit {batch.number} after {self._commit}")
        stale = [key for key, version in batch.expected.items() if not self._stands(key, version)]
        if stale:
            raise Conflict(stale)
        size = sum(map(_bytes_of, batch.records))
        keys = [key for key in dict.fromkeys(r.key for r in structural(batch.records)) if is_counted(key)]
        self._tally.set(self._tally.after([(self._get(key), batch.after[key]) for key in keys]))
        for entity in batch.after.values():
            self._put(entity)
        self._log.append((Commit(batch.number, list(batch.records)), size))
        self._log_bytes += size
        while self._log_bytes > self._kept_bytes and len(self._log) > 1:
            self._log_bytes -= self._log.popleft()[1]
        self._commit = batch.number
        return size

    def _stands(self, key: Key, version: int) -> bool:
        entity = self._entities.get(key)
        if entity is not None:
            return entity.version == version
        return version in (0, self._removed.get(key))

    def _put(self, entity: Entity) -> None:
        before = self._entities.get(entity.key)
        if isinstance(before, Session):
            self._state_bytes -= before.cost
        if isinstance(entity, Session):
            self._state_bytes += entity.cost
            self._last_number = max(self._last_number, entity.number)
        if not is_stored(entity):
            self._entities.pop(entity.key, None)
            if len(self._removed) > KEPT_VERSIONS:
                self._removed.clear()
            self._removed[entity.key] = entity.version
        else:
            self._entities[entity.key] = entity

    async def query(self, question: Question, now: int) -> Answer:
        """See `Store.query`.  Looks at everything: this store is for few sessions."""
        self._refuse_closed()
        if isinstance(question, Counts):
            return self._tally.totals(question.tenant)
        sessions = [entity for entity in self._entities.values() if isinstance(entity, Session)]
        if isinstance(question, Listing):
            return _listed(question, sessions, self._expiry, now)
        if isinstance(question, Reference):
            return _named(question, sessions, self._expiry, now)
        return _due(question, sessions)

    async def log(self, since: int) -> AsyncIterator[Commit]:
        """See `Store.log`."""
        self._refuse_closed()
        while since < self._commit:
            oldest = self._log[0][0].number
            if oldest > since + 1:
                raise LogGone(oldest)
            commit = self._log[since + 1 - oldest][0]
            yield commit
            since = commit.number

    async def history(self, key: Key, before: int, limit: int) -> list[Commit]:
        """See `Store.history`."""
        self._refuse_closed()
        found: list[Commit] = []
        number = self._get(key).commit
        oldest = self._log[0][0].number if self._log else 0
        while number and number >= oldest and len(found) < limit:
            own = [record for record in self._log[number - oldest][0].records if record.key == key]
            if number < before:
                found.append(Commit(number, own))
            number = min(record.previous for record in own)
        return found

    async def flush(self) -> None:
        """There is no better place."""
        self._refuse_closed()

    async def note_uncertain(self, at: int) -> None:
        """See `Store.note_uncertain`."""
        self._refuse_closed()
        self._expiry.uncertain_until = at

    async def copy(self, path: Path) -> None:
        """There is no file to copy."""
        raise StorageError("nothing is on disk, so there is nothing to copy")

    async def check(self) -> None:
        """Memory has no damage to look for."""
        self._refuse_closed()

    def usage(self) -> Usage:
        """See `Store.usage`: what it takes in memory, about."""
        return Usage(self._log_bytes + self._state_bytes, 0)

    def promise(self) -> Promise:
        """See `Store.promise`."""
        return Promise("memory", False)

    async def close(self, clean: bool) -> None:
        """See `Store.close`."""
        if self._is_open:
            self._is_open, self._clean = False, clean

    def _refuse_closed(self) -> None:
        if not self._is_open:
            raise StorageError("the store is closed")


def _bytes_of(record: object) -> int:
    """Of a record, about."""
    if isinstance(record, Updated):
        objects = (record.session_state, record.workspace_context, record.inspector_state, record.object_registry)
        return RECORD_COST + sum(len(part) for part in objects if part is not None)
    return RECORD_COST


def _listed(listing: Listing, sessions: Iterable[Session], expiry: Expiry, now: int) -> Found:
    """One page of `sessions`."""
    hidden = listing.status == LIVE and not listing.with_state
    places = [
        (listing.position(s), s) for s in sessions if listing.matches(s) and not (hidden and not expiry.is_live(s, now))
    ]
    if listing.after is not None:
        places = [place for place in places if listing.is_behind(place[0], listing.after)]
    places.sort(key=lambda place: place[0], reverse=listing.descending)
    page = places[: listing.limit]
    following = page[-1][0] if page and len(places) > len(page) else None
    return Found([s if listing.with_state else bare(s) for _, s in page], following)


def _named(reference: Reference, sessions: Iterable[Session], expiry: Expiry, now: int) -> Found:
    """The most recently active that `reference` names, of each kind."""
    found: dict[int, Session] = {}
    r, by_activity = reference, sorted(sessions, key=lambda s: (s.active_at, s.number), reverse=True)
    for kind in (
        Reference(r.tenant, prefix=r.prefix),
        Reference(r.tenant, external_id=r.external_id),
        Reference(r.tenant, title=r.title),
    ):
        matches = [s for s in by_activity if kind.matches(s) and (kind.prefix or expiry.is_live(s, now))]
        found |= {s.number: s for s in matches[: MAX_MATCHES + 1]}
    return Found([bare(s) for s in by_activity if s.number in found])


def _due(question: Due, sessions: Iterable[Session]) -> DueFound:
    found = [
        DueSession(s.key, due_at(s), s.number, s.state_bytes)
        for s in sessions
        if s.status == question.status and due_at(s) <= question.before and (due_at(s), s.number) > question.after
    ]
    found.sort(key=lambda due: (due.due_at, due.number))
    return DueFound(found[: question.limit])
