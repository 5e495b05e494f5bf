"""What the database promises, and which tables a server can live with."""

import pytest

from stui_sessions.errors import StartError
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.admin import Promise, is_safe, meaning, refuse_unsafe, refuse_version
from stui_sessions.storage.postgres.connection import connect
from stui_sessions.storage.postgres.schema import HALF_MOVED, VERSION
from tests.conftest import MakePostgres


async def promise_of(url: str) -> Promise:
    connection = await connect(url)
    try:
        return await admin.promise(connection)
    finally:
        await connection.close()


async def test_the_promise_is_the_databases_own(make_postgres: MakePostgres) -> None:
    server = make_postgres(fsync="off", synchronous_commit="remote_apply", synchronous_standby_names='ANY 1 ("a", b)')
    assert await promise_of(server.url("postgres")) == Promise(False, "remote_apply", 'ANY 1 ("a", b)')


async def test_a_role_may_have_a_promise_of_its_own(database_url: str) -> None:
    assert await promise_of(database_url) == Promise(True, "on", "")
    url = f"{database_url}?options=-csynchronous_commit%3Doff"
    assert await promise_of(url) == Promise(True, "off", "")


@pytest.mark.parametrize(
    ("promise", "safe", "words"),
    [
        (Promise(True, "on", ""), True, "no synchronous standby: acknowledged changes survive a crash, not the loss"),
        (Promise(True, "on", "ANY 1 (a)"), True, "survive a crash and a fail-over"),
        (Promise(True, "remote_apply", "a"), True, "survive a crash and a fail-over"),
        (Promise(True, "remote_write", "a"), True, "unless the standby's machine crashes too"),
        (Promise(True, "local", "a"), True, "a fail-over can lose acknowledged changes"),
        (Promise(True, "off", "a"), False, "loses what it acknowledged last"),
        (Promise(False, "on", "a"), False, "fsync off, synchronous_commit on: a crash of its machine can lose"),
    ],
)
def test_what_a_promise_means(promise: Promise, safe: bool, words: str) -> None:
    assert words in meaning(promise)
    assert is_safe(promise) is safe
    refuse_unsafe(promise, True)
    if safe:
        refuse_unsafe(promise, False)
    else:
        with pytest.raises(StartError, match=r"the database does not keep its promises: .*allow_unsafe_database"):
            refuse_unsafe(promise, False)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, 'the schema "mine" of the database has no tables.*stui-sessions db init --db URL --db-schema mine'),
        (HALF_MOVED, "run stui-sessions move again"),
        (VERSION - 2, "stui-sessions db upgrade --db URL --db-schema mine"),
        (VERSION + 1, "use a newer server"),
    ],
)
def test_other_tables_are_refused(found: int | None, words: str) -> None:
    refuse_version(VERSION, "mine")
    with pytest.raises(StartError, match=words):
        refuse_version(found, "mine")
