"""`stui-sessions db`, with a real PostgreSQL; `backup` and `restore` where the database is one."""

import os
import re
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stui_sessions.cli.main import main
from stui_sessions.storage.postgres import admin, schema
from tests.docs.markdown import fences, read, section
from tests.support.postgres import Postgres
from tests.support.server import environment

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("PG", "STUI_SESSIONS_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def name(database_url: str) -> str:
    """Of the fresh empty database."""
    return database_url.rpartition("/")[2]


@pytest.fixture
def role(postgres: Postgres, name: str) -> Iterator[str]:
    """A role that may connect with the password SECRET, and no more."""
    made = f"r_{secrets.token_hex(4)}"
    postgres.create_user(made, SECRET)
    yield made
    postgres.sql(f"DROP OWNED BY {made} CASCADE", name)
    postgres.sql(f"DROP ROLE {made}")


def run(*arguments: str, **env: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; none of it has a password."""
    result = CliRunner().invoke(main, ["db", *arguments], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result.exit_code, result.stdout, result.stderr


def good(*arguments: str, **env: str) -> list[str]:
    code, said, errors = run(*arguments, **env)
    assert (code, errors) == (0, "")
    return said.splitlines()


def bad(*arguments: str, code: int = 1, **env: str) -> str:
    found, said, errors = run(*arguments, **env)
    assert (found, said) == (code, "")
    assert errors.splitlines()[-1].startswith("stui-sessions: " if code == 1 else "Error: ")
    assert code != 1 or len(errors.splitlines()) == 1
    return errors


def tables(postgres: Postgres, name: str, where: str = "stui_sessions") -> set[str]:
    rows = postgres.sql(f"SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('{where}')::oid", name)
    return {row[0] for row in rows}


def today(postgres: Postgres) -> int:
    return int(postgres.sql("SELECT extract(epoch FROM now())::bigint / 86400")[0][0])


# init


def test_init_makes_everything_and_a_second_one_changes_nothing(
    postgres: Postgres, database_url: str, name: str
) -> None:
    day = today(postgres)
    assert good("init", "--db", database_url) == ["schema stui_sessions: tables made"]
    made = tables(postgres, name)
    assert {"meta", "sessions", "entities", "records", "lanes", "totals"} <= made
    assert {schema.partition_name(n) for n in (day, day + 1, day + 2)} <= made
    postgres.sql("UPDATE stui_sessions.meta SET value = '7' WHERE key = 'log_gone'", name)
    postgres.sql(f"DROP TABLE stui_sessions.{schema.partition_name(day + 2)}", name)
    before = tables(postgres, name)
    assert good("init", "--db", database_url) == ["schema stui_sessions: the tables are there already"]
    assert tables(postgres, name) == before
    assert postgres.sql("SELECT value FROM stui_sessions.meta WHERE key = 'log_gone'", name) == [("7",)]


def test_the_database_is_found_as_serve_finds_it(
    postgres: Postgres, database_url: str, name: str, tmp_path: Path
) -> None:
    assert good("init", STUI_SESSIONS_DB=database_url, STUI_SESSIONS_DB_SCHEMA="one") == ["schema one: tables made"]
    config = tmp_path / "s.toml"
    config.write_text(f'db = "{database_url}"\ndb_schema = "two"')
    assert good("init", "--config", str(config)) == ["schema two: tables made"]
    assert good("init", "--config", str(config), "--db-schema", "three") == ["schema three: tables made"]
    assert all("sessions" in tables(postgres, name, where) for where in ("one", "two", "three"))
    assert tables(postgres, name) == set()


def test_inits_at_once(postgres: Postgres, database_url: str, name: str) -> None:
    """All succeed, and one of them has made the tables; with and without a schema that is there."""
    command = [sys.executable, "-m", "stui_sessions", "db", "init", "--db", database_url, "--db-schema"]
    for where in ("fresh", "there"):
        if where == "there":
            postgres.sql("CREATE SCHEMA there", name)
        running = [
            subprocess.Popen([*command, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(5)
        ]
        done = [(*process.communicate(timeout=60), process.returncode) for process in running]
        assert all((errors, code) == ("", 0) for _, errors, code in done), done
        ends = Counter(said.removeprefix(f"schema {where}: ") for said, _, _ in done)
        assert ends == {"tables made\n": 1, "the tables are there already\n": 4}


def test_an_init_that_is_overtaken_finds_the_tables(postgres: Postgres, database_url: str, name: str) -> None:
    """The other one has begun and not ended: this one waits for it, loses, and looks again."""
    statements = schema.creation("stui_sessions") + schema.partition("stui_sessions", today(postgres))
    other = threading.Thread(
        target=lambda: postgres.sql(f"BEGIN; {statements} SELECT pg_sleep(2); COMMIT", name), daemon=True
    )
    other.start()
    sleeping = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'"
    postgres.until(lambda: postgres.sql(sleeping), "the other to have made the tables")
    assert good("init", "--db", database_url) == ["schema stui_sessions: the tables are there already"]
    other.join(30)


def test_tables_of_another_program_are_left_alone(postgres: Postgres, database_url: str, name: str) -> None:
    for number, sql in enumerate(
        (
            "CREATE TABLE {}.meta (id int)",
            "CREATE TABLE {}.sessions (id int)",
            "CREATE TABLE {}.meta (key text, value text); INSERT INTO {}.meta VALUES ('version', 'x')",
        )
    ):
        where = f"other{number}"
        postgres.sql(f"CREATE SCHEMA {where}; " + sql.replace("{}", where), name)
        before = tables(postgres, name, where)
        assert "take another with --db-schema" in bad("init", "--db", database_url, "--db-schema", where)
        assert tables(postgres, name, where) == before


# The least rights.


def test_the_least_rights_of_the_readme_are_enough(postgres: Postgres, database_url: str, name: str, role: str) -> None:
    (fence,) = fences(section(read("README.md"), "The tables in a PostgreSQL"), "sql")
    create_role, create_schema = fence.body.strip().splitlines()
    flags = re.findall(r"\bNO[A-Z]+", create_role)
    assert flags == ["NOSUPERUSER", "NOCREATEDB", "NOCREATEROLE"]
    postgres.sql(f"ALTER ROLE {role} {' '.join(flags)}")
    postgres.sql(re.sub("AUTHORIZATION stui_sessions", f"AUTHORIZATION {role}", create_schema), name)
    postgres.sql(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO {role}", name)
    url = postgres.url(name, role, SECRET)
    assert good("init", STUI_SESSIONS_DB=url) == ["schema stui_sessions: tables made"]
    lines = good("check", STUI_SESSIONS_DB=url)
    assert not [line for line in lines if line.startswith(admin.PROBLEM)]
    # What servers do each day.
    day = today(postgres)
    next_day = f"SET ROLE {role}; {schema.partition('stui_sessions', day + 9)}"
    postgres.sql(f"{next_day} DROP TABLE stui_sessions.{schema.partition_name(day)}", name)


def test_a_role_without_rights_is_told_so(postgres: Postgres, database_url: str, name: str, role: str) -> None:
    url = postgres.url(name, role, SECRET)
    assert "this user may not do that" in bad("init", STUI_SESSIONS_DB=url)
    good("init", "--db", database_url)
    assert "this user may not do that" in bad("check", STUI_SESSIONS_DB=url)
    postgres.sql(f"GRANT USAGE ON SCHEMA stui_sessions TO {role}", name)
    postgres.sql(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA stui_sessions TO {role}", name)
    code, said, _ = run("check", STUI_SESSIONS_DB=url)
    assert code == 1
    problems = [line.removeprefix(admin.PROBLEM) for line in said.splitlines() if line.startswith(admin.PROBLEM)]
    assert f'the role "{role}" may not make tables in the schema, but servers make one each day' in problems
    assert f'the role "{role}" has no right to DELETE on sessions' in problems
    assert any("does not own records" in line for line in problems)


# check


def test_check_tells_what_the_database_promises(postgres: Postgres, database_url: str, name: str) -> None:
    good("init", "--db", database_url)
    version, where, promise = good("check", "--db", database_url)
    assert re.fullmatch(r"PostgreSQL \d+\.\d+.*", version)
    assert where == "schema stui_sessions: tables of version 1"
    assert promise.startswith("fsync on, synchronous_commit on, no synchronous standby: ")
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    postgres.sql(f"ALTER DATABASE {name} SET statement_timeout = '5s'")
    code, said, _ = run("check", "--db", database_url)
    assert code == 1
    problems = [line for line in said.splitlines() if line.startswith(admin.PROBLEM)]
    assert len(problems) == 2
    assert "synchronous_commit off: a crash of the database loses what it acknowledged last" in problems[0]
    assert "statement_timeout is not 0" in problems[1]


def test_check_finds_what_is_missing(postgres: Postgres, database_url: str, name: str) -> None:
    good("init", "--db", database_url)
    tomorrow = schema.partition_name(today(postgres) + 1)
    postgres.sql(f"DROP TABLE stui_sessions.totals; DROP TABLE stui_sessions.{tomorrow}", name)
    code, said, _ = run("check", "--db", database_url)
    assert code == 1
    assert f"{admin.PROBLEM}the table totals is missing: restore it" in said.splitlines()
    assert f"partitions not made yet (servers do it): {tomorrow}" in said.splitlines()


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_without_tables_the_command_that_helps_is_named(command: str, postgres: Postgres, database_url: str) -> None:
    text = bad(command, "--db", database_url, "--db-schema", "mine")
    assert 'the schema "mine" of the database has no tables' in text
    assert "stui-sessions db init --db URL --db-schema mine" in text


# Versions.


@pytest.mark.parametrize("command", ["init", "check", "upgrade"])
def test_other_versions_are_refused(command: str, postgres: Postgres, database_url: str, name: str) -> None:
    good("init", "--db", database_url)
    assert good("upgrade", "--db", database_url) == ["schema stui_sessions: tables of version 1, nothing to do"]
    change = "UPDATE stui_sessions.meta SET value = '{}' WHERE key = 'version'"
    postgres.sql(change.format(schema.VERSION + 1), name)
    assert "which a newer server has made; this one knows 1: use a newer server" in bad(command, "--db", database_url)
    postgres.sql(change.format(schema.HALF_MOVED), name)
    assert "run stui-sessions move again" in bad(command, "--db", database_url)


# What goes wrong before.


@pytest.mark.parametrize("command", ["init", "check", "upgrade"])
def test_a_wrong_password(command: str, postgres: Postgres, name: str, role: str) -> None:
    assert "wrong user or password" in bad(command, STUI_SESSIONS_DB=postgres.url(name, role, f"not{SECRET}"))


@pytest.mark.parametrize("command", ["init", "check", "upgrade"])
def test_nobody_there(command: str) -> None:
    text = bad(command, STUI_SESSIONS_DB=f"postgresql://u:{SECRET}@127.0.0.1:1/x")
    assert "cannot connect to the database: 127.0.0.1:1: " in text


def test_the_driver_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    text = bad("init", STUI_SESSIONS_DB=f"postgresql://u:{SECRET}@h/x")
    assert "needs asyncpg: pip install 'stui-sessions[postgres]'" in text


@pytest.mark.parametrize("command", ["init", "check", "upgrade"])
def test_wrong_settings(command: str) -> None:
    for arguments, words in (
        ((), "db is a file"),
        (("--db", ":memory:"), "db is a file"),
        (("--db", "x.db"), "db is a file"),
        (("--db", f"postgresql://u:{SECRET}@h/x"), "a password on the command line"),
        (("--db", f"mysql://u:{SECRET}@h/x"), "begins with postgresql://"),
        (("--db", "postgresql://h/x", "--db-schema", "A b"), "not a valid db_schema"),
        ((f"postgresql://u:{SECRET}@h/x",), "unexpected extra argument"),
    ):
        assert words in bad(command, *arguments, code=2)


def test_help_loads_no_driver_and_no_loop() -> None:
    code = (
        "import sys, runpy; sys.argv = ['stui-sessions', 'db', 'init', '--help']\n"
        "try: runpy.run_module('stui_sessions', run_name='__main__')\n"
        "finally: print('asyncpg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert all(flag in done.stdout for flag in ("--db URL", "--db-schema NAME", "--config PATH"))
    assert done.stdout.splitlines()[-1] == "False"


# The other commands.


def other(directory: Path, *arguments: str, **env: str) -> str:
    command = [sys.executable, "-m", "stui_sessions", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=environment(directory, env), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert SECRET not in done.stderr
    assert list(directory.iterdir()) == []
    return done.stderr


def test_backup_and_restore_name_the_tools_of_postgresql(tmp_path: Path) -> None:
    url = f"postgresql://u:{SECRET}@h/x"
    for arguments in (["--db", url, "file"], [url]):
        text = other(tmp_path, "backup", *arguments)
        assert all(tool in text for tool in ("pg_basebackup", "pg_dump", "export"))
    ways: tuple[tuple[list[str], dict[str, Any]], ...] = (
        (["--db", url, "file"], {}),
        ([url], {}),
        (["file"], {"STUI_SESSIONS_DB": url}),
    )
    for arguments, env in ways:
        text = other(tmp_path, "restore", *arguments, **env)
        assert all(tool in text for tool in ("pg_restore", "pg_basebackup", "PITR", "import"))


def test_no_command_repeats_a_url_with_its_password(tmp_path: Path) -> None:
    url = f"postgresql://u:{SECRET}@h/x"
    assert "postgresql://u:***@h/x" in other(tmp_path, "serve", url)
    assert "postgresql://u:***@h/x" in other(tmp_path, url)
    assert "a password on the command line" in other(tmp_path, "serve", "--db", url)
    assert "postgresql://u:***@h/x" in other(tmp_path, "serve", "--port", url)
