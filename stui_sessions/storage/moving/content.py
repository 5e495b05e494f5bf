"""What is moved, its checksums, and what a target notes of the way.  Pure."""

from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from stui_sessions.domain.entities import LIVE, Absent, Holder, Owner, Session
from stui_sessions.domain.records import Record
from stui_sessions.domain.times import slack_ms
from stui_sessions.storage.counting import Counters, Tally
from stui_sessions.storage.rows import encode_entity, encode_session

Step = Literal["records", "sessions", "entities"]

STEPS: tuple[Step, ...] = ("records", "sessions", "entities")
"""In this order: rows of a local store name the commit of their newest record."""

PIECE_BYTES = 4 * 2**20
PIECE_ROWS = 500
"""What is moved at once, about: of the history, too, for readers take it piece by piece."""

_encode = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """A record of the history."""

    commit: int  # that it belongs to, in the order of the history
    place: int  # among the records of its own entity
    record: Record


class Counts(NamedTuple):
    """How many rows there are."""

    records: int
    sessions: int
    entities: int

    @property
    def all(self) -> int:
        return sum(self)


class Marker(Struct):
    """What a target notes while it is not complete, in one transaction with each piece."""

    source: str  # which database the pieces come from, where that is known
    state: str  # as which they were read; empty: nothing here is of use
    step: str = STEPS[0]
    done: int = 0  # rows of that step


class Sum(Struct):
    """Of rows in any order."""

    rows: int = 0
    checksum: int = 0

    def add(self, content: bytes) -> None:
        digest = blake2b(content, digest_size=16).digest()
        self.rows += 1
        self.checksum = (self.checksum + int.from_bytes(digest, "big")) % 2**128

    def __str__(self) -> str:
        return f"{self.rows:,} with checksum {self.checksum:032x}"


class Contents(Struct):
    """What a side holds."""

    records: Sum = field(default_factory=Sum)
    sessions: Sum = field(default_factory=Sum)
    entities: Sum = field(default_factory=Sum)
    totals: Tally = field(default_factory=Tally)

    def add(self, step: Step, piece: list[Any]) -> None:
        """Some more rows."""
        if step == "records":
            for entry in piece:
                self.records.add(_encode(replace(entry.record, previous=0)))
            return
        self.totals.set(self.totals.after((Absent(entity.key), entity) for entity in piece))
        for entity in piece:
            if step == "sessions":
                self.sessions.add(session_content(entity))
            else:
                self.entities.add(entity_content(entity))

    def counted(self) -> list[Counters]:
        """The totals that its sessions and owners make; none of tenants without any."""
        return told(self.totals.counters())


def told(counters: list[Counters]) -> list[Counters]:
    """Totals in one order, without those that say nothing."""
    return sorted(counts for counts in counters if any(counts[1:]))


def session_content(s: Session) -> bytes:
    """A session but for the number of its commit, which stores have each their own way."""
    row = encode_session(s, 0)
    return _encode((row.tenant, row.head, row.data))


def entity_content(entity: Owner | Holder) -> bytes:
    """The same of an owner, or the holder of an external id."""
    row = encode_entity(entity, 0)
    return _encode((row.tenant, row.kind, row.id, row.version, row.data))


def lasting(s: Session, uncertain_until: int) -> Session:
    """`s` for a store in which no use is uncertain.

    A use that may have been recorded late counts as one by the slack later: the session
    then ends where its own store would have ended it, never before.
    """
    if s.status != LIVE or s.active_at > uncertain_until:
        return s
    at = s.active_at + slack_ms(s.timeout)
    return replace(s, active_at=at, recorded_at=at)


class Side(Protocol):
    """A database that is read, and that nobody else writes meanwhile."""

    name: str

    async def counts(self) -> Counts:
        """How many rows it has."""

    def pieces(self, step: Step, skip: int = 0) -> AsyncIterator[list[Any]]:
        """All rows of a kind in an order that is always the same, but for the first few: entries or entities.

        StorageDamaged if one of them is not what was written.
        """

    async def last_number(self) -> int:
        """A session number that is as high as any that was given out, for a store that counts on."""

    async def least_number(self) -> int:
        """The highest session number that is known for certain to have been given out."""

    async def totals(self) -> list[Counters]:
        """The totals that it keeps, as `told`."""


class Source(Protocol):
    """What is moved.  It stays as it is."""

    name: str

    async def open(self) -> Side:
        """StartError or StorageError if it cannot be used, or a server uses it."""

    async def identity(self) -> str:
        """Which database it is; empty where it cannot be told from others."""

    async def state(self) -> str:
        """What is different after any change."""

    async def close(self) -> None:
        """Never raises."""


class Target(Protocol):
    """What is made.  Errors as for a source."""

    name: str
    hint: str  # what to name instead, where there is something else

    async def open(self) -> Side | None:
        """What is there already, if anything is, and no move has left it half done."""

    async def begin(self, source: str, state: str) -> Marker:
        """How far an earlier move has come, or the beginning of one."""

    async def put(self, step: Step, piece: list[Any]) -> None:
        """Rows in the order of the source: all of them, or none."""

    async def end(self, step: Step) -> None:
        """All rows of this step are there."""

    async def finish(self, totals: list[Counters], last_number: int) -> Side:
        """What there is beside rows; the side to be compared."""

    async def forget(self) -> None:
        """What was made is of no use."""

    async def publish(self) -> None:
        """Servers may use it."""

    async def close(self) -> None:
        """Never raises."""
