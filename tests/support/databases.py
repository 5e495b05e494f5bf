"""Where the servers of a test keep their sessions: in a file, or in a PostgreSQL that they may share."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from stui_sessions.storage.postgres import admin
from tests.support.postgres import Postgres

SCHEMA = "stui_sessions"
"""The default of `db_schema`."""


class Databases(Protocol):
    """A maker of databases, each for one server, which finds it again after a restart."""

    def fresh(self, directory: Path) -> str:
        """The `--db` of a new server with this directory."""

    def drop(self, db: str) -> None:
        """Remove one that was made here, when its server has ended."""


class Files:
    """Each server has a file in its directory, and goes with it."""

    def fresh(self, directory: Path) -> str:
        return str(directory / "sessions.db")

    def drop(self, db: str) -> None:
        pass


class PostgresDatabases:
    """Each server has a database of its own, with the tables of `stui-sessions db init`.

    They are copies of one: that takes half as long.
    """

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self._template = f"template_{secrets.token_hex(6)}"
        self._names: dict[str, str] = {}
        url = postgres.create_database(self._template)
        # In a thread: it may be a test with an event loop that asks for the first server.
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(asyncio.run, admin.init(url, SCHEMA)).result()

    def fresh(self, directory: Path) -> str:
        name = f"server_{secrets.token_hex(6)}"
        self.postgres.sql(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        url = self.postgres.url(name)
        self._names[url] = name
        return url

    def drop(self, db: str) -> None:
        if db in self._names:
            self.postgres.drop_database(self._names.pop(db))
