"""What the first edition stored: sessions and the journal's entries, of schema versions 1 and 2.

Its journal was a table, and its records held what a change led to.  Only to be
read: `migration.py` brings it to the present form.  Pure.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from stui_sessions.domain.entities import SESSION, About, SessionData, session_of
from stui_sessions.domain.entities import Session as PresentSession
from stui_sessions.errors import StartError, StorageDamaged

JOURNAL_VERSION = 2
"""1: without Edited and Reopened, Removed.user_id, Session.about, and the totals of ended sessions."""


class Updated(Struct, array_like=True, tag="u", gc=False):
    """State changed.  Objects that did not change are None, the others are whole."""

    number: int
    revision: int
    at: int
    session_state: bytes | None
    workspace_context: bytes | None
    inspector_state: bytes | None
    object_registry: bytes | None


class Used(Struct, array_like=True, tag="a", gc=False):
    """Activity alone."""

    number: int
    at: int


class Ended(Struct, array_like=True, tag="e", gc=False):
    """A session expired, was closed or deleted."""

    number: int
    status: int
    at: int


class Edited(Struct, array_like=True, tag="d", gc=False):
    """Labels or lifetimes changed."""

    number: int
    timeout: int
    about: About


class Reopened(Struct, array_like=True, tag="o", gc=False):
    """An ended session is live again."""

    number: int
    at: int
    about: About


class Removed(Struct, array_like=True, tag="r", gc=False):
    """A session is no longer known."""

    number: int
    session_id: str
    client_id: str
    user_id: str = ""
    reason: str = ""


class Created(Struct, array_like=True, tag="c", gc=False):
    """A session was made."""

    session: SessionData

    @property
    def number(self) -> int:
        return self.session.number


Change = Updated | Used | Ended | Edited | Reopened
Record = Created | Removed | Change


class Entry(Struct, array_like=True, gc=False):
    """One journal entry.  The third of its totals is the last number given out."""

    version: int
    sequence: int
    totals: list[int]
    records: list[Record]

    @property
    def last_number(self) -> int:
        return self.totals[2] if len(self.totals) > 2 else 0


_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_decode_session = msgspec.msgpack.Decoder(SessionData).decode
_decode_any = msgspec.msgpack.Decoder().decode


def decode_entry(sequence: Any, crc: Any, data: Any) -> Entry:
    """The entry of a journal row.  StorageDamaged, or StartError if a newer server wrote it."""
    if type(data) is not bytes or crc32(data) != crc:
        raise StorageDamaged(f"journal entry {sequence} fails its checksum")
    try:
        entry = _decode_entry(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _refuse_newer(sequence, data)
        raise StorageDamaged(f"journal entry {sequence} cannot be decoded: {error}") from error
    if not 1 <= entry.version <= JOURNAL_VERSION:
        _refuse_newer(sequence, data)
        raise StorageDamaged(f"journal entry {sequence} has the unknown version {entry.version}")
    if entry.sequence != sequence:
        raise StorageDamaged(f"journal entry {sequence} says that it is number {entry.sequence}")
    return entry


def _refuse_newer(sequence: int, data: bytes) -> None:
    """StartError if the entry, whose CRC is right, is of a version we do not know."""
    try:
        version = _decode_any(data)[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError, LookupError):
        return
    if isinstance(version, int) and version > JOURNAL_VERSION:
        raise StartError(
            f"journal entry {sequence} is of version {version}, and this server knows up to version "
            f"{JOURNAL_VERSION}: use the server version that wrote it"
        )


def decode_session_1(number: Any, sequence: Any, session_id: Any, crc: Any, data: Any) -> PresentSession | None:
    """The session of a row of schema version 1, None if the row is not what was written."""
    if not (type(number) is int and type(sequence) is int and type(session_id) is bytes and type(data) is bytes):
        return None
    if crc32(data, crc32(b"%d %d %b" % (number, sequence, session_id))) != crc:
        return None
    try:
        return present(_decode_session(data), sequence)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def present(data: SessionData, sequence: int) -> PresentSession:
    """A session in its present form, as of commit `sequence`."""
    return session_of(data, ("", SESSION, data.session_id), 1, sequence)


class Gathered(Struct, gc=False):
    """The journaled changes of a session that is stored: the newest of each kind, in their order.

    That is enough: a record sets all that an older one of its kind has set (`merged`
    sees to that for updates), and of two kinds that set the same the later one counts.
    """

    sequence: int  # of the newest one
    changes: dict[type[Change], Change]

    def add(self, sequence: int, record: Change) -> None:
        """One more change, after all others."""
        self.sequence = sequence
        before = self.changes.pop(type(record), None)
        if isinstance(record, Updated) and isinstance(before, Updated):
            record = merged(before, record)
        self.changes[type(record)] = record

    def on(self, session: PresentSession) -> PresentSession:
        """The session with all changes."""
        for record in self.changes.values():
            session = changed(session, record)
        return replace(session, commit=self.sequence)


def merged(first: Updated, then: Updated) -> Updated:
    """Two updates as one."""
    return Updated(
        then.number,
        then.revision,
        then.at,
        first.session_state if then.session_state is None else then.session_state,
        first.workspace_context if then.workspace_context is None else then.workspace_context,
        first.inspector_state if then.inspector_state is None else then.inspector_state,
        first.object_registry if then.object_registry is None else then.object_registry,
    )


def changed(s: PresentSession, record: Change) -> PresentSession:
    """The session after a change."""
    if isinstance(record, Updated):
        return _updated(s, record)
    if isinstance(record, Used):
        return replace(s, active_at=record.at, recorded_at=record.at)
    if isinstance(record, Edited):
        return replace(s, timeout=record.timeout, about=record.about)
    if isinstance(record, Reopened):
        return replace(s, status=0, ended_at=0, active_at=record.at, recorded_at=record.at, about=record.about)
    return replace(s, status=record.status, ended_at=record.at)


def _updated(s: PresentSession, r: Updated) -> PresentSession:
    objects = (
        s.session_state if r.session_state is None else r.session_state,
        s.workspace_context if r.workspace_context is None else r.workspace_context,
        s.inspector_state if r.inspector_state is None else r.inspector_state,
        s.object_registry if r.object_registry is None else r.object_registry,
    )
    return replace(
        s,
        modified_at=r.at,
        active_at=r.at,
        recorded_at=r.at,
        revision=r.revision,
        session_state=objects[0],
        workspace_context=objects[1],
        inspector_state=objects[2],
        object_registry=objects[3],
        state_bytes=sum(map(len, objects)),
    )


class FormerReplay:
    """Feed it the journal in order (`add`), then what is stored (`wanted`, `put`), then look at `latest`."""

    def __init__(self) -> None:
        self.sequence = 0
        self.last_number = 0
        self.latest: dict[int, PresentSession | Removed | Gathered] = {}
        """By number; when all that was wanted has been put, without Gathered."""
        self.damaged: list[int] = []
        """Stored, but damaged: their changes have nothing to go on."""

    def add(self, entries: Sequence[Entry]) -> None:
        """The next entries.  StorageDamaged if they do not follow each other."""
        for entry in entries:
            sequence = entry.sequence
            if self.sequence and sequence != self.sequence + 1:
                raise StorageDamaged(f"the journal has a gap: entry {self.sequence} is followed by {sequence}")
            self.sequence = sequence
            self.last_number = entry.last_number
            for record in entry.records:
                if isinstance(record, Created):
                    self.latest[record.number] = present(record.session, sequence)
                elif isinstance(record, Removed):
                    self.latest[record.number] = record
                else:
                    self._change(sequence, record)

    def _change(self, sequence: int, record: Change) -> None:
        number = record.number
        before = self.latest.get(number)
        if before is None:
            before = self.latest[number] = Gathered(sequence, {})
        if isinstance(before, Gathered):
            before.add(sequence, record)
        elif isinstance(before, PresentSession):
            self.latest[number] = replace(changed(before, record), commit=sequence)
        else:
            raise StorageDamaged(f"journal entry {sequence} changes removed session {number}")

    def wanted(self) -> list[int]:
        """The sessions, sorted, whose stored form is needed: they were not created in the journal."""
        return sorted(number for number, latest in self.latest.items() if isinstance(latest, Gathered))

    def put(self, number: int, sequence: int, stored: PresentSession | UnsetType | None) -> None:
        """What is stored of a wanted session, as of a commit; None if it is damaged, UNSET if it is not there."""
        gathered = self.latest.pop(number)
        assert isinstance(gathered, Gathered)
        if stored is UNSET:
            raise StorageDamaged(f"the journal changes session {number}, which is not stored")
        if stored is None:
            self.damaged.append(number)
        elif gathered.sequence > sequence:  # else: what is stored has it all
            assert isinstance(stored, PresentSession)
            self.latest[number] = gathered.on(stored)
