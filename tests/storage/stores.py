"""Makers of stores, and somebody who commits to them."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from stui_sessions.domain.entities import (
    LIVE,
    About,
    Absent,
    Entity,
    Key,
    Session,
    SessionData,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.records import (
    Claimed,
    Created,
    Edited,
    Ended,
    Joined,
    Left,
    Record,
    Released,
    Removed,
    Reopened,
    Updated,
    Used,
    apply,
)
from stui_sessions.engine.clock import wall_clock
from stui_sessions.errors import StorageError
from stui_sessions.storage.contract import Batch, Commit, Opened, Store
from stui_sessions.storage.local import Durability, Limits, LocalStore
from stui_sessions.storage.local.disk import Disk
from stui_sessions.storage.memory import MemoryStore
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.store import Options, PostgresStore

T0 = 1_756_549_800_000  # 2025-08-30T10:30:00Z


class RecordingLog:
    """A log that remembers: `events` of (level, event, values)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **kw: Any) -> None:
        self.events.append(("debug", event, kw))

    def info(self, event: str, **kw: Any) -> None:
        self.events.append(("info", event, kw))

    def warning(self, event: str, **kw: Any) -> None:
        self.events.append(("warning", event, kw))

    def error(self, event: str, **kw: Any) -> None:
        self.events.append(("error", event, kw))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [values for _, name, values in self.events if name == event]


class Clock:
    """A wall clock in ms that the test moves."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> int:
        return self.now


class Maker(Protocol):
    """What the contract suite needs to know of a kind of store."""

    def make(self) -> Store:
        """A new store, not opened yet."""

    async def crashed(self, store: Store) -> Store:
        """What is left of an open store when its process is killed; not opened yet."""

    async def again(self, store: Store) -> Store:
        """The store as the next process finds it after `close`; not opened yet."""

    def fail(self, store: Store) -> None:
        """Have the next commit fail."""

    def forget_log(self, store: Store) -> None:
        """Have it keep as little of its log as it may."""

    async def tear_down(self) -> None:
        """Close what is open."""


class FailingMemoryStore(MemoryStore):
    """Fails when it is told to."""

    failing = False

    async def commit(self, batch: Batch) -> int:
        if self.failing:
            self.failing = False
            raise StorageError("told to fail")
        return await super().commit(batch)


class MemoryMaker:
    def make(self) -> MemoryStore:
        return FailingMemoryStore(20_000)

    async def crashed(self, store: Store) -> Store:
        return store

    async def again(self, store: Store) -> Store:
        return store

    def fail(self, store: Store) -> None:
        assert isinstance(store, FailingMemoryStore)
        store.failing = True

    def forget_log(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store._kept_bytes = 0

    async def tear_down(self) -> None:
        pass


class FaultyDisk(Disk):
    """A disk that fails when it is told to.

    `faults` are asked before each operation, with its name and its arguments; what
    they raise is its result.
    """

    def __init__(self) -> None:
        self.faults: list[Callable[..., None]] = []

    def _ask(self, operation: str, *arguments: Any) -> None:
        for fault in list(self.faults):
            fault(operation, *arguments)

    def write_at(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._ask("write_at", fd, data, offset)
        super().write_at(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._ask("sync", fd)
        super().sync(fd)

    def make(self, path: Path, size: int) -> None:
        self._ask("make", path, size)
        super().make(path, size)

    def rename(self, old: Path, new: Path) -> None:
        self._ask("rename", old, new)
        super().rename(old, new)

    def fail_once(self, operation: str, error: OSError) -> None:
        def fault(name: str, *_: Any) -> None:
            if name == operation:
                self.faults.remove(fault)
                raise error

        self.faults.append(fault)

    def refuse(self, operation: str, error: OSError) -> Callable[[], None]:
        """Have all such operations fail, until the function is called that this returns."""

        def fault(name: str, *_: Any) -> None:
            if name == operation:
                raise error

        self.faults.append(fault)
        return lambda: self.faults.remove(fault)


class LocalMaker:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: list[LocalStore] = []
        self.log = RecordingLog()
        self.clock = Clock()
        self.disk = FaultyDisk()
        self.limits = Limits(interval=3600.0)

    def at(self, path: Path, durability: Durability = "full") -> LocalStore:
        store = LocalStore(
            path, durability=durability, clock=self.clock, log=self.log, limits=self.limits, disk=self.disk
        )
        self.stores.append(store)
        return store

    def make(self) -> LocalStore:
        return self.at(self.directory / str(len(self.stores)) / "sessions.db")

    async def crashed(self, store: Store) -> LocalStore:
        assert isinstance(store, LocalStore)
        fresh = self.make()
        await leave(store, fresh.path)
        await store.close(clean=False)
        return fresh

    async def again(self, store: Store) -> LocalStore:
        assert isinstance(store, LocalStore)
        return self.at(store.path)

    def fail(self, store: Store) -> None:
        self.disk.fail_once("sync", OSError(5, "Input/output error"))

    def forget_log(self, store: Store) -> None:
        assert isinstance(store, LocalStore)
        store.limits = Limits(interval=3600.0, log_limit=0)

    async def tear_down(self) -> None:
        self.disk.faults.clear()
        for store in self.stores:
            await store.close(clean=False)


async def leave(store: LocalStore, target: Path) -> Path:
    """What a kill of an open store leaves at this moment, copied to `target`."""
    assert store._journal is not None
    if store._journal._next is not None:  # a file that comes and goes
        await asyncio.wait([store._journal._next])
    copy_files(store.path, target)
    return target


def copy_files(source: Path, target: Path) -> None:
    """A database with its companions, as a kill leaves them."""
    target.parent.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        if Path(f"{source}{suffix}").exists():
            shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")
    log = Path(f"{source}.log")
    if log.exists():
        shutil.copytree(log, f"{target}.log")


class PostgresMaker:
    """Stores in a database that is there for one test; each has a schema of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stores: list[PostgresStore] = []
        self.log = RecordingLog()
        self.clock = Clock()

    async def prepare(self) -> None:
        """Make the tables."""
        await admin.init(self.url, "stui_sessions")

    def make(self) -> PostgresStore:
        self.stores.append(PostgresStore(Options(self.url, timeout=20.0), wall_clock, self.log))
        return self.stores[-1]

    async def crashed(self, store: Store) -> PostgresStore:
        assert isinstance(store, PostgresStore)
        for lane in store._lanes:
            lane._channel.drop()
        return self.make()

    async def again(self, store: Store) -> PostgresStore:
        return self.make()

    def fail(self, store: Store) -> None:
        """The database refuses one statement."""
        assert isinstance(store, PostgresStore)
        lane = store._lanes[0]
        commit = lane.commit

        async def refused(sql: str, day: int, arrays: list[Any]) -> Any:
            del lane.commit  # type: ignore[method-assign]
            return await commit(sql.replace(".lanes", ".no_such_table"), day, arrays)

        lane.commit = refused  # type: ignore[method-assign]

    def forget_log(self, store: Store) -> None:
        raise NotImplementedError("its log goes by days: see test_postgres_log.py")

    async def tear_down(self) -> None:
        for store in self.stores:
            await store.close(clean=False)


class Scribe:
    """Commits to a store, and knows what must be there: the model of the tests.

    Each method stages records; `commit` commits what is staged.
    """

    def __init__(self, store: Store, commit: int = 0) -> None:
        self.store = store
        self.entities: dict[Key, Entity] = {}
        self.commits: list[Commit] = []
        self.keys: dict[int, Key] = {}  # of all sessions that were made, by number
        self.last = commit
        self.at = T0
        self._begin()

    def _begin(self) -> None:
        self.records: list[Record] = []
        self.after: dict[Key, Entity] = {}

    def get(self, key: Key) -> Entity:
        return self.after.get(key) or self.entities.get(key) or Absent(key)

    def session(self, number: int) -> Session:
        """The session of a number, as it is staged."""
        found = self.get(self.keys[number])
        assert isinstance(found, Session)
        return found

    def sessions(self) -> list[Session]:
        return [e for e in (self.entities | self.after).values() if isinstance(e, Session)]

    def stage(self, key: Key | None, kind: Callable[..., Record], *fields: Any) -> None:
        """A record of an entity."""
        if key is None:
            return
        before = self.get(key)
        record = kind(key, before.version + 1, self.at, "test", before.commit, *fields)
        self.records.append(record)
        # Entities of a shared store come without the number of a commit.
        number = 0 if self.store is not None and self.store.is_shared else self.last + 1
        self.after[key] = apply(before, record, number)

    def create(self, number: int, *, tenant: str = "", **changes: Any) -> Session:
        """A session; its id, client and moment follow from its number.  It joins its owner and takes its names."""
        about = changes.pop("about", About())
        values: dict[str, Any] = {
            "number": number,
            "session_id": f"session_{number}_1756549800_{number * 7919}",
            "client_id": f"client{number % 3}",
            "created_at": T0 + number,
            "modified_at": T0 + number,
            "active_at": T0 + number,
            "timeout": 3600,
            "status": LIVE,
            "session_state": b'{"n": %d}' % number,
            "about": about,
        }
        data = SessionData(**(values | changes))
        key = self.keys[number] = session_key(tenant, data.session_id)
        self.stage(key, Created, data)
        if data.status == LIVE:
            self._enter(key)
        found = self.after[key]
        assert isinstance(found, Session)
        return found

    def _enter(self, key: Key) -> None:
        s = self.get(key)
        assert isinstance(s, Session)
        self.stage(owner_key(key[0], s.user_id, s.client_id), Joined, s.session_id)
        self.stage(external_key(key[0], s.user_id, s.about.external_id), Claimed, s.session_id)

    def _leave(self, s: Session) -> None:
        self.stage(owner_key(s.key[0], s.user_id, s.client_id), Left, s.session_id)
        self.stage(external_key(s.key[0], s.user_id, s.about.external_id), Released)

    def update(self, s: Session, state: bytes | None = b'{"u":1}', *, replaces: bool = False, **objects: bytes) -> None:
        s = self.session(s.number)
        names = ("workspace_context", "inspector_state", "object_registry")
        self.stage(s.key, Updated, s.revision + 1, replaces, state, *(objects.get(name) for name in names))

    def use(self, s: Session) -> None:
        self.stage(s.key, Used, self.at)

    def end(self, s: Session, status: int) -> None:
        s = self.session(s.number)
        if s.status == LIVE:
            self._leave(s)
        self.stage(s.key, Ended, status, self.at)

    def reopen(self, s: Session) -> None:
        self.stage(s.key, Reopened, self.session(s.number).about)
        self._enter(s.key)

    def edit(self, s: Session, about: About, timeout: int = 3600) -> None:
        """Other labels; the external id must stay."""
        self.stage(s.key, Edited, timeout, about)

    def remove(self, s: Session, reason: str = "purged") -> None:
        s = self.session(s.number)
        if s.status == LIVE:
            self._leave(s)
        self.stage(s.key, Removed, s.number, reason)

    def batch(self) -> Batch:
        """What is staged; nothing is, afterwards."""
        before = {key: self.entities.get(key, Absent(key)) for key in self.after}
        expected = {key: 0 if same(entity) is Absent else entity.version for key, entity in before.items()}
        batch = Batch(self.last + 1, self.records, self.after, expected)
        self._begin()
        return batch

    async def go_on(self, store: Store) -> Opened:
        """Open `store`, which has what was committed, and go on there."""
        found = await store.open()
        self.store = store
        if store.is_shared:
            self.last = found.commit
        return found

    async def commit(self) -> int:
        """Commit what is staged; the bytes that it took."""
        batch = self.batch()
        size = await self.store.commit(batch)
        self.committed(batch)
        return size

    def committed(self, batch: Batch) -> None:
        """A batch is committed."""
        self.entities |= batch.after
        self.commits.append(Commit(batch.number, batch.records))
        self.last = batch.number

    async def check(self, more: Sequence[Key] = ()) -> None:
        """The store has all that was committed, entity by entity."""
        found = await self.store.read([*self.entities, *more])
        for key, entity in self.entities.items():
            assert same(found[key]) == same(entity), key
        for key in more:
            assert isinstance(found[key], Absent)


async def logged(scribe: Scribe, since: int = 0) -> list[Commit]:
    """The commits of the log behind the first `since`, as the scribe has them: numbered by it, each in its order."""
    store = scribe.store
    found = [commit async for commit in store.log(0)] if store.is_shared else []
    if not store.is_shared:
        return [commit async for commit in store.log(since)]
    position = found[since - 1].number if since else 0
    behind = [commit async for commit in store.log(position)]
    assert behind == found[since:]
    assert [c.number for c in found] == sorted({c.number for c in found})
    return [
        Commit(own.number, sorted(c.records, key=own.records.index))
        for own, c in zip(scribe.commits[since:], behind, strict=True)
    ]


def same(entity: Entity) -> Any:
    """What of an entity has to come back; of what is not there, only that."""
    if isinstance(entity, Absent):
        return Absent
    if isinstance(entity, Session):
        return Session(**{f: getattr(entity, f) for f in entity.__struct_fields__ if f != "keys"})
    return Absent if getattr(entity, "chunks", True) == () else entity
