"""The contract that every session store keeps.

A store is two things: a journal, to which each commit adds one entry that is
durable when `commit` returns; and snapshots, the latest form of each session,
written in the background.  What is journaled and not yet in a snapshot is kept
in memory by the engine, so `load` reads snapshots alone.

All methods are called from one task at a time per group: (commit, snapshot,
forget, close) never overlap each other; (load, load_groups, due) never overlap
each other; the two groups may.

Every method raises `StorageError` when the store cannot do it now (disk full,
read-only, I/O error) and `StorageDamaged` when what is stored is not what was
written.  A commit that raised has changed nothing that a later `load` or `open`
shows, or (where the medium failed half-way) shows it whole.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from stui_sessions.sessions.finding import Found, Search
from stui_sessions.sessions.model import Record, Removed, Session, Totals
from stui_sessions.sessions.residents import GroupKey


class Recovered(Struct):
    """What `open` found."""

    sequence: int  # of the newest commit, 0 in a new store
    totals: Totals  # as of that commit
    clean: bool  # the last server closed the store in order (true for a new store)
    uncertain_until: int  # see `mark_unclean`; ms, 0 if never
    pending: list[Session | Removed]  # journaled, not in a snapshot yet; latest form
    pending_bytes: int  # journal bytes that those came from


class Due(Struct):
    """A session whose end may have come: live and idle, or ended and kept long enough."""

    number: int
    session_id: str
    status: int
    due_at: int
    size: int  # bytes of its four objects


class Stored(Struct):
    """What `load` found for one id."""

    session: Session | None  # None: no such session
    damaged: bool = False  # it is there, but fails its checksum


class SessionStore(Protocol):
    """Keeps sessions.  See the module's text for the rules all methods share."""

    @property
    def checked(self) -> bool:
        """`open` has looked for damage already; otherwise `check` is still to be called."""

    async def open(self) -> Recovered:
        """Open or make the store and replay its journal.  StartError if it must not be used."""

    async def commit(self, sequence: int, records: Sequence[Record], totals: Totals) -> int:
        """Make one batch of changes durable; return its size in bytes.

        `sequence` is one more than that of the last successful commit (a failed
        commit's number is used again).
        """

    async def load(self, session_ids: Sequence[str]) -> dict[str, Stored]:
        """The stored form of each id asked for."""

    async def load_groups(self, keys: Sequence[GroupKey]) -> dict[GroupKey, list[str]]:
        """For each group, the ids of its sessions stored as live."""

    async def search(self, search: Search) -> Found:
        """The stored sessions that match, from indexes.

        A Listing: in its order, from behind `after`, at most `limit` rows.  It looks
        at a bounded number of rows, so there may be fewer although there are more:
        `reached` says so.  A Reference: at most MAX_MATCHES + 1 of each kind, in no order,
        or far more if it is `wide`; `more` says that there may be others.

        Only those whose rows are whole; damaged ones are left out.  May overlap
        every other call, itself included.
        """

    async def snapshot(self, sequence: int, sessions: Sequence[Session | Removed]) -> None:
        """Write (or delete) the latest form of some sessions, as of commit `sequence`.

        `sessions` is sorted by number and small (a few hundred rows, a MiB or so):
        one short transaction.
        """

    async def forget(self, sequence: int) -> bool:
        """Drop journal entries up to `sequence` (all in snapshots now) but the newest one.

        One bounded piece of that work, so that a commit behind it waits for a few
        milliseconds only; True when there is more to do: call it again, with
        commits in between as they come.  Also where the store does its
        housekeeping (checkpoint); called after each round of snapshots.
        """

    async def due(self, status: int, before: int, after: tuple[int, int], limit: int) -> list[Due]:
        """Stored sessions of `status` with `due_at <= before`, ordered by (due_at, number).

        `due_at` is ended_at for ended ones (never, for pinned ones); for live ones it is
        active_at + timeout or `ends_at`, whichever is first, as of some snapshot, so
        perhaps earlier than their real end, never later: the
        caller judges again, and what is not due yet is noted anew with its next
        snapshot.  Only those behind the position `after` (due_at, number), at most
        `limit`.
        """

    async def copy(self, path: Path) -> None:
        """Write everything that is committed to a new file, as of one moment; may overlap every other call.

        StorageError if that cannot be done, or the copy is not sound.
        """

    def size(self) -> int:
        """Bytes that all of it takes on disk (or in memory), about."""

    async def mark_unclean(self, at: int) -> None:
        """Note durably that activity up to `at` may be under-recorded (start after a crash)."""

    async def check(self) -> None:
        """Look for damage, beside normal work.  StorageDamaged if there is some."""

    async def close(self, clean: bool) -> None:
        """Close; `clean` says that all activity has been recorded."""
