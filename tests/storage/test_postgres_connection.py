"""Connecting to PostgreSQL: which host, how long, and in which words it fails."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import asyncpg
import pytest

from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.postgres import connection
from stui_sessions.storage.postgres.connection import connect, is_outcome_known, translate
from tests.support.postgres import Postgres

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGTARGETSESSIONATTRS", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a host that takes connections and never says a word, as one does that is frozen."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """The address of a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def also(url: str, *hosts: str) -> str:
    """The URL with further hosts before its own."""
    return url.replace("@", "@" + "".join(f"{host}," for host in hosts))


async def value(url: str, sql: str, **options: Any) -> Any:
    made = await connect(url, **options)
    try:
        return await made.fetchval(sql)
    finally:
        await made.close()


async def failure(url: str, **options: Any) -> str:
    with pytest.raises(StorageError) as problem:
        await connect(url, **options)
    text = str(problem.value)
    assert SECRET not in text
    assert text.isprintable()
    return text


async def test_what_a_connection_is_like(database_url: str) -> None:
    assert await value(database_url, "SHOW application_name") == "stui-sessions"
    named = f"{database_url}?application_name=other&connect_timeout=5&options=-cwork_mem%3D1MB"
    assert await value(named, "SHOW application_name") == "other"
    assert await value(named, "SHOW work_mem") == "1MB"
    made = await connect(database_url)
    try:
        assert made._params.target_session_attrs == "read-write"
        for n in range(3):
            assert await made.fetchval("SELECT $1::int", n) == n
        assert await made.fetch("SELECT 1 FROM pg_prepared_statements WHERE statement LIKE '%::int%'") == []
    finally:
        await made.close()


async def test_the_next_host_is_asked_when_one_does_not_answer(database_url: str, silent: str, closed: str) -> None:
    began = monotonic()
    assert await value(also(database_url, closed, silent), "SELECT 1", timeout=20.0) == 1
    assert monotonic() - began < 8.0


async def test_a_host_that_is_closed_costs_no_time(database_url: str, closed: str) -> None:
    began = monotonic()
    assert await value(also(database_url, closed), "SELECT 1") == 1
    assert monotonic() - began < connection.STAGGER_SECONDS


async def test_hosts_are_also_read_from_the_parameters(database_url: str, postgres: Postgres, closed: str) -> None:
    name = database_url.rpartition("/")[2]
    ports = f"{closed.rpartition(':')[2]},{postgres.port}"
    url = f"postgresql://postgres@/{name}?host=127.0.0.1,127.0.0.1&port={ports}"
    assert await value(url, "SELECT current_database()") == name


async def test_connections_that_come_late_are_closed(
    database_url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hosts are the same database; the one that is not taken leaves nothing behind."""
    monkeypatch.setattr(connection, "STAGGER_SECONDS", 0.0)
    name = database_url.rpartition("/")[2]
    for _ in range(5):
        made = await connect(also(database_url, f"127.0.0.1:{postgres.port}"))
        await made.close()
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'"
    await asyncio.to_thread(postgres.until, lambda: postgres.sql(count) == [("0",)], "the connections to be closed")


async def test_of_connections_made_at_the_same_time_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one comes although it was given up."""
    monkeypatch.setattr(connection, "STAGGER_SECONDS", 0.01)
    ended: list[str] = []

    class Made:
        def __init__(self, name: str) -> None:
            self.name = name

        def terminate(self) -> None:
            ended.append(self.name)

    async def at_once(name: str) -> Made:
        await both.wait()
        return Made(name)

    async def stubborn() -> Made:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        return Made("stubborn")

    both = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, both.set)
    taken = await connection._first([stubborn, lambda: at_once("a"), lambda: at_once("b")], ["", "", ""], 0.01)
    for _ in range(5):
        await asyncio.sleep(0)
    assert sorted([taken.name, *ended]) == ["a", "b", "stubborn"]


async def test_no_host_answers(silent: str, closed: str) -> None:
    began = monotonic()
    url = f"postgresql://u:{SECRET}@{closed},{silent}/x"
    text = await failure(url, timeout=1.0)
    assert text.startswith("cannot connect to the database: ")
    assert f"{closed}: " in text
    assert f"{silent}: no answer in time" in text
    assert monotonic() - began < 5.0
    assert "no answer in time" in await failure(f"postgresql://u@{silent}/x?connect_timeout=1", timeout=60.0)
    assert monotonic() - began < 10.0


async def test_giving_up_is_possible_at_any_time(silent: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await connect(f"postgresql://u@{silent}/x", timeout=60.0)


async def test_a_wrong_password_user_or_database(postgres: Postgres, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    postgres.create_user(f"u_{name}", "right")
    try:
        url = postgres.url(name, f"u_{name}", SECRET)
        assert "wrong user or password" in await failure(url)
        assert await value(postgres.url(name, f"u_{name}", "right"), "SELECT 1") == 1
    finally:
        postgres.sql(f"DROP ROLE u_{name}")
    assert "no such database" in await failure(postgres.url("nowhere"))
    assert "does not let this user in" in await failure(postgres.url(name, "nobody_at_all"))


async def test_passwords_from_the_environment_and_from_a_file(
    postgres: Postgres, database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_url.rpartition("/")[2]
    postgres.create_user(f"u_{name}", SECRET)
    try:
        file = tmp_path / "pgpass"
        file.write_text(f"127.0.0.1:{postgres.port}:*:u_{name}:{SECRET}\n")
        file.chmod(0o600)
        url = postgres.url(name, f"u_{name}")
        assert await value(f"{url}?passfile={file}", "SELECT 1") == 1
        monkeypatch.setenv("PGPASSFILE", str(file))
        assert await value(url, "SELECT 1") == 1
        monkeypatch.delenv("PGPASSFILE")
        monkeypatch.setenv("PGPASSWORD", SECRET)
        assert await value(url, "SELECT 1") == 1
    finally:
        postgres.sql(f"DROP ROLE u_{name}")


async def test_a_standby_is_passed_over(postgres: Postgres) -> None:
    with postgres.standby(synchronous=False) as standby:
        assert "is a read-only standby" in await failure(standby.url("postgres"))
        url = also(postgres.url("postgres"), f"127.0.0.1:{standby.port}")
        assert await value(url, "SELECT pg_is_in_recovery()") is False
        any_host = f"{standby.url('postgres')}?target_session_attrs=any"
        assert await value(any_host, "SELECT pg_is_in_recovery()") is True
        made = await connect(any_host)
        with pytest.raises(asyncpg.PostgresError) as refusal:
            await made.execute("CREATE TABLE x ()")
        await made.close()
        assert "read-only standby" in str(translate("making", refusal.value))


async def test_behind_pgbouncer(postgres: Postgres, database_url: str) -> None:
    """Each transaction may go to another session of the database; ten clients share two."""
    name = database_url.rpartition("/")[2]
    with postgres.pgbouncer(settings={"default_pool_size": 2}) as bouncer:
        clients = [await connect(bouncer.url(name)) for _ in range(10)]

        async def work(client: Any, number: int) -> None:
            for n in range(50):
                assert await client.fetchval(f"SELECT $1::int + {number}", n) == n + number

        await asyncio.gather(*(work(client, 1000 * number) for number, client in enumerate(clients)))
        for client in clients:
            await client.close()


@pytest.mark.parametrize(
    "url", [f"postgresql://u:{SECRET}/x@h/d", f"postgresql://u:{SECRET}@h:{SECRET}/x", "postgresql://h/x?port=a"]
)
async def test_a_url_that_nobody_checked_shows_no_password(url: str) -> None:
    with pytest.raises((StartError, StorageError)) as problem:
        await connect(url, timeout=5.0)
    assert SECRET not in str(problem.value)


async def test_the_driver_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StartError, match=r"needs asyncpg: pip install 'stui-sessions\[postgres\]'"):
        await connect("postgresql://h/x")


# The words.


def error(code: str, said: str = "said so", severity: str | None = "ERROR") -> asyncpg.PostgresError:
    made = asyncpg.PostgresError.new({"C": code, "M": said, **({"V": severity} if severity else {})})
    assert isinstance(made, asyncpg.PostgresError)
    return made


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (error("28P01"), "wrong user or password (said so)"),
        (error("28000"), "does not let this user in"),
        (error("3D000"), "no such database"),
        (error("53300"), "too many connections"),
        (error("53100"), "the disk of the database is full"),
        (error("25006"), "read-only"),
        (error("3F000"), "stui-sessions db init"),
        (error("42P01"), "stui-sessions db init"),
        (error("42501"), "may not do that"),
        (error("57P01"), "shutting down"),
        (error("57P02"), "crashed"),
        (error("57P03"), "starting up or shutting down"),
        (error("42601", "a\nb"), "doing: a b (SQLSTATE 42601)"),
        (error("08006", "gone"), "the connection is lost (gone)"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "the connection is lost (gone)"),
        (asyncpg.InterfaceError("odd"), "the connection is lost (odd)"),
        (asyncpg.InternalClientError("odd"), "the connection is lost (odd)"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "doing: Connection refused"),
        (OSError("unreachable"), "doing: unreachable"),
        (ValueError(f"invalid literal: '{SECRET}'"), "is not valid"),
        (RuntimeError(), "doing: RuntimeError"),
    ],
)
def test_each_error_has_a_line(problem: Exception, words: str) -> None:
    made = translate("doing", problem)
    assert str(made).startswith("doing: ")
    assert words in str(made)
    assert SECRET not in str(made)
    assert made.__cause__ is problem
    assert translate("again", made) is made


@pytest.mark.parametrize(
    ("problem", "known"),
    [
        (error("23505"), True),
        (error("40P01"), True),
        (error("57014"), True),
        (error("53100"), True),
        (error("23505", severity=None), True),
        (error("53100", severity="PANIC"), False),
        (error("53100", severity="FATAL"), False),
        (error("08006"), False),
        (error("57P01"), False),
        (error("57P02"), False),
        (error("57P03"), False),
        (asyncpg.ConnectionDoesNotExistError("gone"), False),
        (asyncpg.InterfaceError("odd"), False),
        (asyncpg.InternalClientError(), False),
        (OSError(), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_which_outcomes_are_known(problem: BaseException, known: bool) -> None:
    assert is_outcome_known(problem) is known
    assert is_outcome_known(translate("doing", problem)) is known
