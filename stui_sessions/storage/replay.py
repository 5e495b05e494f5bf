"""Replay: the journal collapsed to the latest form of each session.  Pure.

Idempotent: every record says what its change led to, so it does not matter how far
snapshots and `forget` had come when the last server stopped.  Changes of a session
that is stored are gathered first and put on top of its stored form at the end, so
that the stored forms can be read once each and in order.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from stui_sessions.errors import StorageDamaged
from stui_sessions.sessions.model import (
    Created,
    Edited,
    Ended,
    Removed,
    Reopened,
    Session,
    Totals,
    Updated,
    Used,
    apply,
)
from stui_sessions.storage.rows import JOURNAL_VERSION, Entry


class Base(NamedTuple):
    """The stored form that a session's journaled changes go on top of."""

    sequence: int  # of its snapshot
    session: Session | None  # None: stored, but damaged


Change = Updated | Used | Ended | Edited | Reopened


class Gathered(Struct, gc=False):
    """The journaled changes of a session whose stored form has not been read yet.

    The newest of each kind, in their order.  That is enough: a record sets all
    that an older one of its kind has set (`merged` sees to that for updates), so
    whatever is left out is written over in the end, and of two kinds that set the
    same the later one counts.
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

    def on(self, session: Session) -> Session:
        """The session with all changes."""
        for record in self.changes.values():
            session = apply(session, record) or session
        return session


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


class Replay:
    """Feed it the journal in order (`apply`), then what is stored (`wanted`, `put`), then ask `pending`."""

    def __init__(self) -> None:
        self.sequence = 0
        self.totals = Totals()
        self.version = JOURNAL_VERSION  # of the newest entry
        self.entries = 0
        self.damaged: list[int] = []  # stored, but damaged: their changes have nothing to go on
        self._latest: dict[int, Session | Removed | Gathered] = {}

    def apply(self, entries: Sequence[Entry]) -> None:
        """The next entries.  StorageDamaged if they do not follow each other."""
        for entry in entries:
            sequence = entry.sequence
            if self.entries and sequence != self.sequence + 1:
                raise StorageDamaged(f"the journal has a gap: entry {self.sequence} is followed by {sequence}")
            self.sequence = sequence
            self.totals = entry.totals
            self.version = entry.version
            self.entries += 1
            for record in entry.records:
                if isinstance(record, Created):
                    self._latest[record.number] = record.session
                elif isinstance(record, Removed):
                    self._latest[record.number] = record
                else:
                    self._change(sequence, record)

    def _change(self, sequence: int, record: Change) -> None:
        number = record.number
        before = self._latest.get(number)
        if before is None:
            before = self._latest[number] = Gathered(sequence, {})
        if isinstance(before, Gathered):
            before.add(sequence, record)
        elif isinstance(before, Session):
            self._latest[number] = apply(before, record) or before
        else:
            raise StorageDamaged(f"journal entry {sequence} changes removed session {number}")

    def wanted(self) -> list[int]:
        """The sessions, sorted, whose stored form is needed: they were not created in the journal.

        Those that it removes in the end are not among them, and their rows may be
        gone already: a snapshot had come so far.
        """
        return sorted(number for number, latest in self._latest.items() if isinstance(latest, Gathered))

    def put(self, number: int, base: Base | None) -> None:
        """What the store holds of a wanted session.  StorageDamaged if that is nothing."""
        if base is None:
            raise StorageDamaged(f"the journal changes session {number}, which is not stored")
        gathered = self._latest.pop(number)
        assert isinstance(gathered, Gathered)
        if base.session is None:
            self.damaged.append(number)
        elif gathered.sequence > base.sequence:  # else: the snapshot has it all
            self._latest[number] = gathered.on(base.session)

    def pending(self) -> list[Session | Removed]:
        """The latest form of each session that no snapshot has, by number."""
        return [latest for _, latest in sorted(self._latest.items()) if not isinstance(latest, Gathered)]
