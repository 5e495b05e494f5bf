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
from stui_sessions.sessions.model import Created, Ended, Removed, Session, Totals, Updated, Used, apply
from stui_sessions.storage.rows import Entry


class Base(NamedTuple):
    """The stored form that a session's journaled changes go on top of."""

    sequence: int  # of its snapshot
    session: Session | None  # None: stored, but damaged


class Gathered(Struct, gc=False):
    """The journaled changes of a session whose stored form has not been read yet."""

    sequence: int  # of the newest one
    updated: Updated | None = None
    used: Used | None = None  # after `updated`
    ended: Ended | None = None

    def add(self, sequence: int, record: Updated | Used | Ended) -> None:
        """One more change, after all others."""
        self.sequence = sequence
        if isinstance(record, Updated):
            self.updated = record if self.updated is None else merged(self.updated, record)
            self.used = None
        elif isinstance(record, Used):
            self.used = record
        else:
            self.ended = record

    def on(self, session: Session) -> Session:
        """The session with all changes."""
        for record in (self.updated, self.used, self.ended):
            if record is not None:
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
            self.entries += 1
            for record in entry.records:
                if isinstance(record, Created):
                    self._latest[record.number] = record.session
                elif isinstance(record, Removed):
                    self._latest[record.number] = record
                else:
                    self._change(sequence, record)

    def _change(self, sequence: int, record: Updated | Used | Ended) -> None:
        number = record.number
        before = self._latest.get(number)
        if before is None:
            before = self._latest[number] = Gathered(sequence)
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
