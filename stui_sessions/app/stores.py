"""Which store a server has, by its settings."""

from pathlib import Path
from typing import Any

from stui_sessions.config import Settings, is_url, shown_url
from stui_sessions.engine.clock import Clock, steady_clock, wall_clock
from stui_sessions.storage.contract import Store
from stui_sessions.storage.local.store import LocalStore
from stui_sessions.storage.local.writebehind import Limits
from stui_sessions.storage.memory import MemoryStore


def make_store(database: Path | None, s: Settings, clock: Clock, log: Any) -> Store:
    """The store that `db` asks for: a file (`database`), a PostgreSQL, or memory."""
    if is_url(s.db):
        # Here, for those alone who have such a database: the driver is an optional dependency.
        from stui_sessions.storage.postgres.store import Options, PostgresStore

        options = Options(s.db, s.db_schema, s.storage_timeout, s.log_retention, s.allow_unsafe_database)
        clock.follow(0)
        return PostgresStore(options, steady_clock, log, clock.follow)
    if database is None:
        return MemoryStore()
    return LocalStore(database, durability=s.durability, clock=wall_clock, log=log, limits=local_limits(s))


def local_limits(s: Settings) -> Limits:
    """The limits of a local store; they may change while it runs."""
    return Limits(
        journal_limit=s.journal_limit,
        interval=s.snapshot_interval,
        log_retention=s.log_retention,
        log_limit=s.log_limit,
        memory_limit=s.resident_limit,
    )


def shown_database(database: Path | None, s: Settings) -> str:
    """The database as a log may tell it."""
    if is_url(s.db):
        return shown_url(s.db)
    return ":memory:" if database is None else str(database)
