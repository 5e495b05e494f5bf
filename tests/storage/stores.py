"""Makers of stores, and sessions to put into them."""

import shutil
from pathlib import Path
from typing import Any, Protocol

from stui_sessions.sessions.model import LIVE, Session, Totals
from stui_sessions.storage.base import SessionStore
from stui_sessions.storage.memory import MemoryStore
from stui_sessions.storage.sqlite import SqliteStore
from stui_sessions.storage.writer import Durability

T0 = 1_756_549_800_000  # 2025-08-30T10:30:00Z
NONE = Totals()


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

    def make(self) -> SessionStore:
        """A new store, not opened yet."""

    async def crashed(self, store: SessionStore) -> SessionStore:
        """What is left of an open store when its process is killed; not opened yet."""

    async def again(self, store: SessionStore) -> SessionStore:
        """The store as the next process finds it after `close`; not opened yet."""

    async def tear_down(self) -> None:
        """Close what is open."""


class MemoryMaker:
    def __init__(self) -> None:
        self.stores: list[MemoryStore] = []

    def make(self) -> MemoryStore:
        return MemoryStore()

    async def crashed(self, store: SessionStore) -> SessionStore:
        return store

    async def again(self, store: SessionStore) -> SessionStore:
        return store

    async def tear_down(self) -> None:
        pass


class SqliteMaker:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stores: list[SqliteStore] = []
        self.log = RecordingLog()
        self.clock = Clock()

    def at(self, path: Path, durability: Durability = "full") -> SqliteStore:
        store = SqliteStore(path, durability=durability, clock=self.clock, log=self.log)
        self.stores.append(store)
        return store

    def make(self) -> SqliteStore:
        return self.at(self.directory / str(len(self.stores)) / "sessions.db")

    async def crashed(self, store: SessionStore) -> SqliteStore:
        assert isinstance(store, SqliteStore)
        fresh = self.make()
        fresh.path.parent.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{store.path}{suffix}", f"{fresh.path}{suffix}")
        await store.close(clean=False)
        return fresh

    async def again(self, store: SessionStore) -> SqliteStore:
        assert isinstance(store, SqliteStore)
        return self.at(store.path)

    async def tear_down(self) -> None:
        for store in self.stores:
            await store.close(clean=False)


def session(number: int, **changes: Any) -> Session:
    """A live session; its id, client and moment follow from its number."""
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
    }
    return Session(**(values | changes))
