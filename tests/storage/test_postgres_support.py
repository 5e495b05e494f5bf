"""What the tests on PostgreSQL stand on: servers that start, die, freeze and are promoted as they are told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MakePostgres
from tests.support.postgres import ROOT, Postgres, PostgresFailed, processes, psql
from tests.support.waiting import until

FILL = "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number"
COUNT = "SELECT count(*), sum(number) FROM kept"
FULL = [("1000", "500500")]


def test_a_test_gets_an_empty_database_that_commits_as_usual(postgres: Postgres, database_url: str) -> None:
    assert psql(database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [("0",)]
    assert psql(database_url, "SHOW fsync") == psql(database_url, "SHOW synchronous_commit") == [("on",)]
    assert psql(database_url, "SELECT 'a,\"b\nc', NULL") == [('a,"b\nc', "")]
    with pytest.raises(PostgresFailed, match="division by zero"):
        postgres.sql("SELECT 1 / 0")


def test_a_user_with_a_password_must_give_it(postgres: Postgres) -> None:
    postgres.create_user("o'neil", "it's a:secret/")
    assert psql(postgres.url("postgres", "o'neil", "it's a:secret/"), "SELECT current_user") == [("o'neil",)]
    for password in (None, "wrong"):
        with pytest.raises(PostgresFailed, match="password"):
            psql(postgres.url("postgres", "o'neil", password), "SELECT 1")
    postgres.sql("""DROP ROLE "o'neil" """)


def test_a_killed_server_leaves_no_process_and_starts_again(make_postgres: MakePostgres) -> None:
    server = make_postgres(max_connections=20)
    server.sql(FILL)
    before = server.processes()
    assert len(before) > 4
    server.kill()
    assert not server.is_running
    assert not server.processes()
    assert {state(pid) for pid in before} <= {"", "Z"}
    server.start()
    assert server.sql(COUNT) == FULL
    server.stop()
    assert not server.processes()
    assert server.start().sql("SHOW max_connections") == [("20",)]


def test_a_frozen_server_answers_when_it_is_thawed(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    server.freeze()
    assert {state(pid) for pid in server.processes()} == {"T"}
    with pytest.raises(PostgresFailed, match="no answer"):
        server.sql("SELECT 1", timeout=0.5)
    server.thaw()
    assert server.sql("SELECT 1") == [("1",)]
    server.freeze()
    server.kill()
    assert not server.processes()


def test_a_setting_is_there_for_whoever_connects_next(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    server.set(work_mem="5MB", search_path="it's")
    assert server.sql("SHOW work_mem") == [("5MB",)]
    server.set(work_mem=None)
    assert server.sql("SHOW work_mem") == [("4MB",)]


def test_a_promoted_standby_has_what_was_committed(make_postgres: MakePostgres) -> None:
    primary = make_postgres()
    standby = primary.standby(synchronous=True, name="second")
    primary.sql(FILL)
    standby.freeze()
    with pytest.raises(PostgresFailed, match="no answer"):
        primary.sql("INSERT INTO kept VALUES (0)", timeout=0.5)
    standby.thaw()
    primary.kill()
    assert standby.sql("SELECT pg_is_in_recovery()") == [("t",)]
    standby.promote()
    standby.sql("DELETE FROM kept WHERE number = 0")
    assert standby.sql(COUNT) == FULL


def test_an_asynchronous_standby_is_not_waited_for(make_postgres: MakePostgres) -> None:
    primary = make_postgres()
    standby = primary.standby(synchronous=False)
    standby.freeze()
    primary.sql(FILL)
    standby.thaw()
    until(lambda: standby.sql("SELECT 1 FROM pg_tables WHERE tablename = 'kept'"), "the table", 60.0)


def test_pgbouncer_shares_one_connection_between_transactions(make_postgres: MakePostgres) -> None:
    server = make_postgres()
    server.create_user("app", "secret")
    bouncer = server.pgbouncer({"app": "secret"}, {"default_pool_size": 1})
    question = "SELECT pg_backend_pid(), current_user"
    first = psql(bouncer.url("postgres", "app"), question)
    assert first[0][1] == "app"
    assert psql(bouncer.url("postgres", "app"), question) == first
    assert ("postgres", "app", "transaction") in [
        (row[0], row[1], row[-1]) for row in psql(bouncer.url("pgbouncer"), "SHOW POOLS")
    ]
    bouncer.kill()
    assert not bouncer.processes()


@pytest.mark.usefixtures("postgres_installed")
def test_nothing_is_left_of_a_run_that_was_killed() -> None:
    code = (
        "from tests.support.postgres import Postgres, base\n"
        "server = Postgres().start()\nserver.pgbouncer()\nprint(base(), flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        directory = Path(run.stdout.readline().decode().strip())
        assert len(processes(directory.name)) > 5
        os.kill(run.pid, signal.SIGKILL)
    until(lambda: not processes(directory.name) and not directory.exists(), "the end of its servers", 60.0)


def state(pid: int) -> str:
    """As the kernel names it; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
