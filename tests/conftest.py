"""Fixtures for end-to-end tests: real servers in processes of their own.

They keep their sessions in files, or with `STUI_TEST_STORE=postgres` each in a database of its own in the tests'
PostgreSQL; tests with the mark `both_stores` do both, unless that variable says which.  With `STUI_TEST_NODES=2`
two servers over one database stand for each on PostgreSQL, and clients are sent to either.
"""

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from stui_sessions.config import is_url
from tests.support.databases import Databases, Files, PostgresDatabases
from tests.support.postgres import MISSING, Postgres, installed
from tests.support.server import ServerProcess
from tests.support.twins import Twins

# A machine that is busy for a moment is no failure; nor may a test depend on what an earlier run has found.
settings.register_profile("steady", deadline=None, database=None)
settings.load_profile("steady")

StartServer = Callable[..., ServerProcess]
MakePostgres = Callable[..., Postgres]


STORE = os.environ.get("STUI_TEST_STORE", "")
"""What all servers of the tests have: `local` or `postgres`; empty: what their tests say."""

NODES = os.environ.get("STUI_TEST_NODES", "1")
"""How many servers stand for each on PostgreSQL: 1 or 2."""

SMALL = {"STUI_TEST_STORE", "STUI_TEST_NODES"}
"""Variables that do not make a run a big one."""

assert STORE in ("", "local", "postgres"), f"STUI_TEST_STORE is {STORE!r}"
assert NODES in ("1", "2"), f"STUI_TEST_NODES is {NODES!r}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with the mark `both_stores` are run on both."""
    marked = metafunc.definition.get_closest_marker("both_stores")
    if marked and not STORE and "databases" in metafunc.fixturenames:
        metafunc.parametrize("databases", ["local", "postgres"], indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A big run, which some variables ask for, takes as long as it takes.  What does not fit is left out."""
    if any(name.startswith("STUI_TEST_") for name in os.environ.keys() - SMALL):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
    marks = {name for name, out in (("local_store", STORE == "postgres"), ("one_server", NODES == "2")) if out}
    unfit = [item for item in items if marks & {mark.name for mark in item.iter_markers()}]
    if unfit:
        config.hook.pytest_deselected(items=unfit)
    items[:] = [item for item in items if item not in set(unfit) and not is_nothing(item)]


def is_nothing(item: pytest.Item) -> bool:
    """Whether a test about files, one of many that are run on both stores, would be run on PostgreSQL."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    return item.callspec.params.get("databases") == "postgres" and item.get_closest_marker("local_store") is not None


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest) -> Databases:
    """Where servers keep their sessions."""
    if getattr(request, "param", STORE) == "postgres":
        return request.getfixturevalue("postgres_databases")
    return Files()


@pytest.fixture(scope="session")
def postgres_databases(postgres: Postgres) -> Databases:
    """One for each server in the tests' PostgreSQL; see `databases`."""
    return PostgresDatabases(postgres)


@contextmanager
def servers(directory: Path, databases: Databases) -> Iterator[StartServer]:
    """A maker of servers that are not started yet; each has a directory and, unless `db` names one, a database."""
    made: list[ServerProcess] = []

    def make(*args: str, **options: Any) -> ServerProcess:
        place = directory / f"server{len(made)}"
        place.mkdir()
        kind = ServerProcess
        if options.get("db") is None:
            options["db"] = databases.fresh(place)
            kind = Twins if NODES == "2" and is_url(options["db"]) and options.get("tcp", True) else kind
        made.append(kind(place, *args, **options))
        return made[-1]

    yield make
    for server in made:
        server.kill()
        # pytest shows this with a test that failed.
        print(f"--- stderr of {server.directory.name}\n{server.stderr()[-20_000:]}", file=sys.stderr)
    for server in made:
        databases.drop(str(server.db))


@pytest.fixture
def make_server(tmp_path: Path, databases: Databases) -> Iterator[StartServer]:
    """A maker of servers that are not started yet, and end with the test."""
    with servers(tmp_path, databases) as make:
        yield make


@pytest.fixture(scope="module")
def make_lasting_server(tmp_path_factory: pytest.TempPathFactory, databases: Databases) -> Iterator[StartServer]:
    """The same for all tests of a module."""
    with servers(tmp_path_factory.mktemp("lasting"), databases) as make:
        yield make


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
