"""Fixtures for end-to-end tests: real servers in processes of their own."""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.postgres import MISSING, Postgres, installed
from tests.support.server import ServerProcess

# A machine that is busy for a moment is no failure; nor may a test depend on what an earlier run has found.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")

StartServer = Callable[..., ServerProcess]
MakePostgres = Callable[..., Postgres]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A big run, which one of these variables asks for, takes as long as it takes."""
    if any(name.startswith("STUI_TEST_") for name in os.environ):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[StartServer]:
    """A maker of servers that are not started yet; each has a directory of its own and ends with the test."""
    made: list[ServerProcess] = []

    def make(*args: str, **options: Any) -> ServerProcess:
        directory = tmp_path / f"server{len(made)}"
        directory.mkdir()
        made.append(ServerProcess(directory, *args, **options))
        return made[-1]

    yield make
    for server in made:
        server.kill()
        # pytest shows this with a test that failed.
        print(f"--- stderr of {server.directory.name}\n{server.stderr()[-20_000:]}", file=sys.stderr)


@pytest.fixture
def start_server(make_server: StartServer) -> StartServer:
    """A maker of running servers: `start_server("--max-depth", "8", unix=path)`."""

    def start(*args: str, **options: Any) -> ServerProcess:
        return make_server(*args, **options).start()

    return start


@pytest.fixture
def server(start_server: StartServer) -> ServerProcess:
    """A running server with the default settings, for this test alone."""
    return start_server()


@pytest.fixture(scope="session")
def postgres_installed() -> None:
    """For tests that need PostgreSQL: skips them where it is missing; CI, which allows no skip, says so at once."""
    if not installed():
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def postgres(postgres_installed: None) -> Iterator[Postgres]:
    """A running PostgreSQL for all tests that leave it as it is; see `database_url`."""
    with Postgres() as server:
        yield server


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a fresh empty database."""
    name = f"test_{secrets.token_hex(6)}"
    logged = len(postgres.log())
    yield postgres.create_database(name)
    postgres.drop_database(name)
    print(f"--- log of PostgreSQL\n{postgres.log()[logged:][-20_000:]}", file=sys.stderr)


@pytest.fixture
def make_postgres(postgres_installed: None) -> Iterator[MakePostgres]:
    """A maker of running PostgreSQL servers for this test alone: `make_postgres(max_connections=20)`."""
    made: list[Postgres] = []

    def make(**settings: object) -> Postgres:
        made.append(Postgres(settings))
        return made[-1].start()

    yield make
    for server in made:
        print(f"--- log of {server.mark}\n{server.log()[-20_000:]}", file=sys.stderr)
        server.remove()
