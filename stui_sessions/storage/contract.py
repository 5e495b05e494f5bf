"""The contract that every store keeps; the suite that holds stores to it is `tests/storage/contract`.

A store keeps entities, each under its key in one version, and the log of the records
that led to them.  `read` and `query` tell what is committed, always and at once; how
a store gets there (what it holds in memory, what it writes behind, how it starts
again) is its own affair.

A store is shared if other servers write to it as well (`is_shared`): what was read may
be stale at once, so commits check the versions that decisions stood on.  Commits of
several servers have no numbers in common: those that `commit` is given are this
server's own, from 1 on, entities come without one (0), and the log goes by positions
of the store's.

Every method raises `StorageError` when the store cannot do it now (disk full,
read-only, I/O error) and `StorageDamaged` when what is stored is not what was
written.  Calls may overlap each other; of `commit`, as many as `commits_at_once` says.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from stui_sessions.domain.entities import Entity, Key
from stui_sessions.domain.finding import Answer, Question
from stui_sessions.domain.records import Record


class Opened(Struct):
    """What `open` found."""

    commit: int  # the number of the newest commit, 0 in a new store
    last_number: int  # the highest session number given out
    clean: bool  # the last server closed the store in order (true for a new store)
    replayed: int  # entities that were brought up to date from the log
    uncertain_until: int  # uses before it may be recorded late, see `times.Expiry`; ms, 0 for none


class Batch(Struct):
    """What one commit holds: the drafts that were accepted while the one before ran.

    `expected`: the versions, as of the commit before, that its decisions stood on; 0
    for what was not there, an owner without sessions included (a store need not know
    which version that had before).  `before`: the entities of `after` as of the commit
    before, where it is known; a store that counts need not look them up then.
    """

    number: int
    records: list[Record]
    after: dict[Key, Entity]  # each entity that it changes, as it is after it
    expected: dict[Key, int]
    before: dict[Key, Entity] = {}


class Commit(Struct, gc=False):
    """One commit of the log."""

    number: int
    records: list[Record]


class Conflict(Exception):
    """Decisions stood on what is stale: another server has committed meanwhile.  Nothing was committed."""

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(f"{len(keys)} entities have another version")
        self.keys = tuple(keys)


class LogGone(Exception):
    """The log no longer reaches back as far as was asked for."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the log begins at commit {oldest}")
        self.oldest = oldest


class Usage(Struct):
    """What a store takes, for statistics; bytes."""

    disk: int  # all its files
    behind: int  # log that is not in the tables yet, and has to be replayed after a crash


class Promise(Struct, frozen=True):
    """What a store says of changes that it has acknowledged."""

    kind: Literal["memory", "local", "postgresql"]
    fsync: bool  # they are on disk
    synchronous_commit: str | None = None  # PostgreSQL's settings
    synchronous_standbys: str | None = None
    meaning: str = ""  # in words, for a log


class Store(Protocol):
    """See the module's text for the rules that all methods share."""

    is_shared: bool
    """Other servers may write to it too."""

    commits_at_once: int
    """How many commits may be on their way at once, none of which stands on what another changes."""

    async def open(self) -> Opened:
        """Open or make the store.  StartError if it must not be used; nothing is changed then."""

    async def read(self, keys: Sequence[Key], known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        """What is committed under each key: Absent where there is nothing, Damaged where it fails its checksum.

        `known`: versions that the caller has; what is in its version there is left out.
        A shared store reads all as of one moment, and gives an Absent a version above
        all that its key ever had.
        """

    async def query(self, question: Question, now: int) -> Answer:
        """The answer to a question about what is committed.

        `now` (ms): sessions whose end has come by then are left out of lists and
        references that mean live ones.  The work is bounded by the answer, not by how
        much has changed lately.
        """

    async def commit(self, batch: Batch) -> int:
        """Make all of a batch durable, or nothing; the bytes of log that it took.

        `batch.number` is one more than that of the last successful commit (a failed
        commit's number is used again); where the store is shared, it grows from commit to
        commit since `open`.  Raises Conflict if one of `batch.expected` is not the version that is committed.  A
        commit that raised StorageError is seen by nobody, or (where the medium failed
        half-way) whole by the next `open`.
        """

    def log(self, since: int) -> AsyncIterator[Commit]:
        """The commits behind number `since`, in order and none left out, up to the newest one.

        In a shared store a commit's number is a position of the store's (not every
        number is one), and one that may still have others before it is not told yet.
        Raises LogGone if some of them are no longer kept.
        """

    async def history(self, key: Key, before: int, limit: int) -> list[Commit]:
        """An entity's own records, the newest first: those of commits below `before`, of `limit` commits at most.

        Read commit by commit, from one to the one before of the same entity.  It ends where the log does.
        """

    async def flush(self) -> None:
        """Have all that is committed now where a start finds it without the log, as far as that is possible."""

    async def note_uncertain(self, at: int) -> None:
        """Note durably that uses before `at` (ms) may be recorded late: the start after a crash."""

    async def copy(self, path: Path) -> None:
        """Write everything that is committed to the new file `path`, as of one moment.

        Cancelled, it stops and leaves no file.  StorageError if it cannot be done, as
        when there is something at `path`.
        """

    async def check(self) -> None:
        """Look for damage beside normal work, unless `open` has.  StorageDamaged if there is some."""

    def usage(self) -> Usage:
        """What it takes now."""

    def promise(self) -> Promise:
        """What an acknowledged change survives."""

    async def close(self, clean: bool) -> None:
        """Close; `clean` says that all uses have been recorded.  StorageError if that could not be noted."""


@runtime_checkable
class Hearing(Protocol):
    """A shared store whose servers tell each other what they change."""

    def heard(self) -> AsyncIterator[Sequence[Key]]:
        """What other servers have just changed, as hints: some may be left out.  Never ends."""
