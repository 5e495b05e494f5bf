"""Searches in SQLite: the indexes they use, what they look at, damage, and a connection of their own."""

import asyncio
import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from stui_sessions.domain.entities import CLOSED, DELETED, LIVE, About, session_key
from stui_sessions.domain.finding import MAX_MATCHES, Due, Found, Listing, Reference, Sort
from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.local import LocalStore, lookup, queries, schema, searcher
from stui_sessions.storage.local import store as store_module
from stui_sessions.storage.local.statements import in_list
from tests.storage.stores import T0, LocalMaker, Scribe

SORTS = get_args(Sort)


Fields = dict[str, Any]


async def holding(local: LocalMaker, *sessions: Fields) -> LocalStore:
    """A store whose tables hold some sessions, numbered from 1 on."""
    store = local.at(local.directory / "s.db")
    await store.open()
    scribe = Scribe(store)
    for number, fields in enumerate(sessions, 1):
        scribe.create(number, **fields)
    await scribe.commit()
    await store.flush()
    return store


def listing(sort: Sort = "created_at", descending: bool = False, **changes: Any) -> Listing:
    values: dict[str, Any] = {"tenant": "", "status": LIVE, "sort": sort, "descending": descending, "limit": 100}
    return Listing(**(values | changes))


def edit(path: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount > 0


def log_size(store: LocalStore) -> int:
    log = Path(f"{store.path}-wal")
    return log.stat().st_size if log.exists() else 0


async def search(store: LocalStore, wanted: Listing | Reference, now: int = T0) -> Found:
    answer = await store.query(wanted, now)
    assert isinstance(answer, Found)
    return answer


async def found(store: LocalStore, wanted: Listing | Reference) -> list[int]:
    return [s.number for s in (await search(store, wanted)).sessions]


# Plans: every question has its index, and none reads the whole table.


async def plan(store: LocalStore, sql: str) -> list[str]:
    steps = await store._reader.fetch(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
    return [step[3].decode() for step in steps]


def every_page() -> Iterator[Listing]:
    for sort in SORTS:
        for descending in (False, True):
            for after in (None, ("a" if sort == "title" else 5, 5)):
                for client_id in (None, "", "c"):
                    for user_id in (None, "", "u"):
                        yield listing(sort, descending, after=after, client_id=client_id, user_id=user_id)


async def test_no_list_reads_the_whole_table(local: LocalMaker) -> None:
    store = await holding(local)
    for wanted in every_page():
        for query in queries.page(wanted):
            search, *rest = await plan(store, query.sql)
            assert search.startswith("SEARCH sessions USING INDEX sessions_by_")
            assert "tenant=? AND" in search
            is_owners = "sessions_by_client" in search or "sessions_by_user" in search
            assert rest == [] or (is_owners and rest == ["USE TEMP B-TREE FOR ORDER BY"])


STATUS = "(tenant=? AND status=?"


@pytest.mark.parametrize(
    ("wanted", "plans"),
    [
        (listing(), [f"status {STATUS})"]),
        (listing(after=(5, 5)), [f"status {STATUS} AND rowid>?)"]),
        (listing(descending=True, after=(5, 5)), [f"status {STATUS} AND rowid<?)"]),
        (listing("title"), [f"title {STATUS})"]),
        (
            listing("title", after=("a", 5)),
            [f"title {STATUS} AND title=? AND rowid>?)", f"title {STATUS} AND title>?)"],
        ),
        (
            listing("last_activity", True, after=(5, 5)),
            [f"activity {STATUS} AND active_at=? AND rowid<?)", f"activity {STATUS} AND active_at<?)"],
        ),
        (listing(user_id="u", after=(5, 5)), ["user (tenant=? AND user_id=? AND status=? AND rowid>?)"]),
        (
            listing(client_id="c", user_id="u", after=(5, 5)),
            ["client (tenant=? AND client_id=? AND user_id=? AND status=? AND rowid>?)"],
        ),
    ],
)
async def test_plans_of_lists(local: LocalMaker, wanted: Listing, plans: list[str]) -> None:
    """In the order of the index: nothing is sorted."""
    store = await holding(local)
    got = [await plan(store, query.sql) for query in queries.page(wanted)]
    assert got == [[f"SEARCH sessions USING INDEX sessions_by_{step}"] for step in plans]


async def test_plans_of_references(local: LocalMaker) -> None:
    store = await holding(local)
    assert [await plan(store, query.sql) for _, query in queries.candidates(Reference("", "a", "b", "c"))] == [
        ["SEARCH sessions USING INDEX sessions_by_id (tenant=? AND session_id>? AND session_id<?)"],
        ["SEARCH sessions USING INDEX sessions_by_external (tenant=? AND external_id=?)"],
        ["SEARCH sessions USING INDEX sessions_by_title (tenant=? AND status=? AND title=?)"],
    ]
    for sql in (lookup.LOAD_BY_NUMBER, searcher.HEADS):
        assert await plan(store, in_list(sql, 4)) == ["SEARCH sessions USING INTEGER PRIMARY KEY (rowid=?)"]


async def test_the_plan_of_what_is_due(local: LocalMaker) -> None:
    store = await holding(local)
    by_due = "SEARCH sessions USING INDEX sessions_by_due (status=? AND due_at>? AND due_at<?)"
    assert await plan(store, queries.due(Due(LIVE, 5, (0, 0), 9), 0).sql) == [by_due]  # and no sorting


# How much is looked at.


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_ends_where_it_has_looked_enough(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch, sort: Sort, descending: bool
) -> None:
    """A quarter of the way, and only one session in all is wanted."""
    monkeypatch.setattr(queries, "SCAN_LIMIT", 100)
    every = [
        {"about": About(title="same", tags=("x",) if n == 250 else ()), "client_id": f"c{n}"} for n in range(1, 401)
    ]
    store = await holding(local, *every)
    wanted = listing(sort, descending, tags=("x",))
    places = [wanted.position(s) for s in (await search(store, listing(limit=400))).sessions]
    turned = []
    while True:
        page = await search(store, wanted)
        turned.append([s.number for s in page.sessions])
        if page.next is None:
            break
        last = 100 * len(turned)
        assert page.next == places[400 - last if descending else last - 1]
        wanted = listing(sort, descending, tags=("x",), after=page.next)
    assert turned == ([[], [250], [], []] if descending else [[], [], [250], []])


async def test_a_page_without_filters_goes_on(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have expired unnoticed before the first that is live."""
    monkeypatch.setattr(queries, "SCAN_LIMIT", 10)
    store = await holding(local, *({"timeout": 1 if n < 90 else 3600} for n in range(1, 100)))
    page = await search(store, listing(limit=3), T0 + 60_000)
    assert [s.number for s in page.sessions] == [90, 91, 92]


async def test_lists_read_no_state(local: LocalMaker) -> None:
    """Not even that of damaged rows; where it is asked for, these are left out."""
    store = await holding(local, *[{"session_state": bytes(9000)}] * 3)
    edit(store.path, "UPDATE sessions SET data = 'x' WHERE number = 2")
    assert await found(store, listing()) == [1, 2, 3]
    assert await found(store, listing(with_state=True)) == [1, 3]
    page = await search(store, listing(with_state=True, limit=2))
    assert ([s.number for s in page.sessions], page.next) == ([1], (2, 2))


# What is not in the tables.


async def test_sessions_that_moved_are_written_first_when_they_are_many(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a search has few to correct, however much has changed; and again while a round is under way."""
    monkeypatch.setattr(store_module, "SETTLED", 20)
    store = await holding(local, *({"client_id": ""} for _ in range(200)))
    scribe = Scribe(store, 1)
    keys = [Scribe(store).create(n, client_id="").key for n in range(1, 201)]
    scribe.entities |= await store.read(keys)
    scribe.keys = dict(enumerate(keys, 1))
    for n in range(1, 21):
        scribe.end(scribe.session(n), CLOSED)
    await scribe.commit()
    assert len(await found(store, listing(limit=500))) == 180
    assert store._unwritten.moved == 20
    for n in range(21, 60):
        scribe.end(scribe.session(n), CLOSED)
    scribe.remove(scribe.session(60))
    scribe.update(scribe.session(70))
    await scribe.commit()
    assert len(await found(store, listing(limit=500))) == 140
    assert store._unwritten.moved == 0
    ((closed,),) = await store._reader.fetch("SELECT count(*) FROM sessions WHERE status = 2", ())
    assert closed == 59
    assert store._behind is not None
    assert store._behind.tables_commit == 1  # no round was needed
    crashed = scribe.store = await local.crashed(store)
    await crashed.open()
    await scribe.check()
    assert len(await found(crashed, listing(limit=500))) == 140


async def test_a_search_in_the_middle_of_a_round(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round goes on behind it, and does not write what is older over it."""
    monkeypatch.setattr(store_module, "SETTLED", 5)
    monkeypatch.setattr("stui_sessions.storage.local.statements.WRITTEN_ROWS", 10)
    store = await holding(local)
    scribe = Scribe(store, 1)
    for n in range(1, 101):
        scribe.create(n, client_id="")
    await scribe.commit()
    execute = store._tables.execute
    asked: list[asyncio.Future[Any]] = []

    async def slowly(statement: Any) -> None:
        await execute(statement)
        if len(asked) == 0:
            asked.append(asyncio.ensure_future(found(store, listing(limit=500))))
            for n in (50, 60, 70):
                scribe.end(scribe.session(n), CLOSED)
            scribe.remove(scribe.session(80))
            await scribe.commit()
            asked.append(asyncio.ensure_future(found(store, listing(limit=500))))
            for _ in range(3):
                await asyncio.sleep(0)

    monkeypatch.setattr(store._tables, "execute", slowly)
    await store.flush()
    left = [n for n in range(1, 101) if n not in (50, 60, 70, 80)]
    assert [await answer for answer in asked] == [left, left]
    assert await found(store, listing(limit=500)) == left
    await store.flush()
    assert await found(store, listing(limit=500)) == left
    await scribe.check()
    ((rows,),) = await store._reader.fetch("SELECT count(*) FROM sessions", ())
    assert rows == 99


async def test_what_is_dropped_was_seen_by_every_search(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round ends while a search looks at the tables of before: what it has written is not dropped yet."""
    store = await holding(local)
    scribe = Scribe(store, 1)
    scribe.create(1)
    await scribe.commit()
    began, go_on = threading.Event(), threading.Event()
    run = searcher.run

    def waiting(*arguments: Any) -> Any:
        began.set()
        assert go_on.wait(10)
        return run(*arguments)

    monkeypatch.setattr(searcher, "run", waiting)
    asked = asyncio.ensure_future(found(store, listing()))
    await asyncio.to_thread(began.wait, 10)
    flushing = asyncio.ensure_future(store.flush())
    assert store._behind is not None
    while store._behind.tables_commit < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not flushing.done()
    go_on.set()
    assert await asked == [1]
    await flushing
    assert store._unwritten.is_empty


async def test_a_search_goes_on_when_nothing_can_be_written(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SETTLED", 5)
    store = await holding(local)
    scribe = Scribe(store, 1)
    for n in range(1, 31):
        scribe.create(n, client_id="")
    await scribe.commit()

    async def refusing(_: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store._tables, "execute", refusing)
        assert await found(store, listing()) == list(range(1, 31))


async def test_references_look_at_many_and_take_the_best(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "SCAN_LIMIT", 50)
    store = await holding(
        local,
        *({"session_id": f"a{n:02}", "active_at": T0 + n * 37 % 50, "client_id": ""} for n in range(1, 61)),
    )
    best = sorted(range(1, 51), key=lambda n: n * 37 % 50, reverse=True)[: MAX_MATCHES + 1]
    assert await found(store, Reference("", "a")) == best
    assert await found(store, Reference("", "a60")) == [60]
    scribe = Scribe(store, 1)
    key = session_key("", "a01")
    scribe.entities |= await store.read([key])
    scribe.keys[1] = key
    scribe.end(scribe.session(1), DELETED)
    await scribe.commit()
    assert 1 not in await found(store, Reference("", "a"))


# Damage.

DAMAGES = [
    "head = substr(head, 1, 20) || x'ff' || substr(head, 22)",
    "head = 'text'",
    "head_crc = head_crc + 1",
    "size = size + 1",
    "sequence = 99",
    "session_id = x'61ff'",
    "(head_crc, head) = (SELECT head_crc, head FROM sessions WHERE number = 3)",
]
MISPLACED = [
    *("title = x'ff'", "title = 'text'", "title = x''", "title = 5"),
    *("active_at = 5", "active_at = 'x'", "active_at = 5.5", "status = 1"),
]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_heads_are_left_out(local: LocalMaker, damage: str, sort: Sort) -> None:
    store = await holding(local, *[{"about": About("u", "x", "t"), "client_id": f"c{n}"} for n in (1, 2, 3)])
    edit(store.path, f"UPDATE sessions SET {damage} WHERE number = 2")
    for filters in ({}, {"user_id": "u"}, {"with_state": True}):
        assert await found(store, listing(sort, **filters)) == [1, 3]
        page = await search(store, listing(sort, limit=1, **filters))
        assert [s.number for s in page.sessions] == [1]
        page = await search(store, listing(sort, limit=1, after=page.next, **filters))
        assert ([s.number for s in page.sessions], page.next) == ([3], None)
    for reference in (Reference("", "session"), Reference("", "", "x"), Reference("", "", "", "t")):
        assert sorted(await found(store, reference)) == [1, 3]


@pytest.mark.parametrize("damage", MISPLACED)
async def test_what_is_in_the_wrong_place_of_an_index_is_left_out(local: LocalMaker, damage: str) -> None:
    store = await holding(local, *[{"about": About("u", "x", "t"), "client_id": f"c{n}"} for n in (1, 2, 3)])
    edit(store.path, f"UPDATE sessions SET {damage} WHERE number = 2")
    column = damage.split()[0]
    sort: Sort = "title" if column == "title" else "last_activity"
    for descending in (False, True):
        after, got = None, []
        for _ in range(3):
            page = await search(store, listing(sort, descending, limit=1, after=after))
            got += [s.number for s in page.sessions]
            after = page.next
            if after is None:
                break
        assert sorted(got) == [1, 3]
        assert after is None


async def test_a_damaged_page_is_told(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, *[{"session_state": bytes(1500)}] * 60)
    await store.close(clean=True)
    data = bytearray(store.path.read_bytes())
    page = data.index(b"session_30_1756549800_237570client0") // 4096 * 4096
    data[page : page + 100] = b"\x55" * 100
    store.path.write_bytes(data)
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store = local.at(store.path)
    await store.open()
    with pytest.raises(StorageDamaged, match="searching the database"):
        await search(store, listing())
    assert await found(store, listing(limit=5)) == [1, 2, 3, 4, 5]


# A connection of its own.


async def test_the_connection_is_made_when_it_is_needed(local: LocalMaker) -> None:
    store = await holding(local, {})
    assert store._searcher._connection is None
    await found(store, listing())
    connection = store._searcher._connection
    assert connection is not None
    assert await found(store, listing()) == [1]
    assert store._searcher._connection is connection
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM meta")


async def test_no_read_stays_open(local: LocalMaker) -> None:
    """The write-ahead log can be started again after a search, also one that did not look at everything."""
    store = await holding(local, *[{}] * 500)
    for wanted in (listing(limit=3), listing(with_state=True), Reference("", "session")):
        await found(store, wanted)
        connection = store._searcher._connection
        assert connection is not None
        assert not connection.in_transaction
    await store._tables._checkpoint("TRUNCATE")
    assert log_size(store) == 0


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


LONG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000) SELECT count(*) FROM n"


def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Searches that do not end of themselves; the event says that one has begun."""
    begun = threading.Event()

    def run(connection: sqlite3.Connection, *_: object) -> Any:
        begun.set()
        return connection.execute(ENDLESS).fetchall()

    monkeypatch.setattr(searcher, "run", run)
    return begun


async def test_a_close_ends_a_search(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})
    begun = endless(monkeypatch)
    searching = [asyncio.ensure_future(search(store, listing())) for _ in range(2)]
    await asyncio.to_thread(begun.wait, 10)
    await store.close(clean=True)
    for asked, said in zip(searching, ("interrupted", "closed"), strict=True):
        with pytest.raises(StorageError, match=said):
            await asked
    assert log_size(store) == 0


async def test_a_cancelled_search_ends(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})
    with monkeypatch.context() as patched:
        begun = endless(patched)
        asked = asyncio.ensure_future(search(store, listing()))
        await asyncio.to_thread(begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert await found(store, listing()) == [1]


async def test_a_cancelled_search_ends_though_others_wait_behind_it(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await holding(local, {})
    run, begun = searcher.run, threading.Event()

    def endless_at_first(connection: sqlite3.Connection, question: Any, *others: Any) -> Any:
        if question.limit == 1:
            begun.set()
            return connection.execute(ENDLESS).fetchall()
        return run(connection, question, *others)

    monkeypatch.setattr(searcher, "run", endless_at_first)
    asked, behind = (asyncio.ensure_future(found(store, listing(limit=n))) for n in (1, 2))
    await asyncio.to_thread(begun.wait, 10)
    asked.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert await behind == [1]


async def test_an_interrupt_that_comes_late_harms_no_other(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})
    run, count = searcher.run, itertools.count()

    def interrupted(connection: sqlite3.Connection, *others: Any) -> Any:
        if next(count) == 0:
            threading.Timer(0.05, connection.interrupt).start()
            return connection.execute(ENDLESS).fetchall()
        return run(connection, *others)

    monkeypatch.setattr(searcher, "run", interrupted)
    assert await found(store, listing()) == [1]


@pytest.mark.parametrize("call", ["load", "commit"])
async def test_nothing_waits_behind_a_search(local: LocalMaker, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = await holding(local, {})
    begun = endless(monkeypatch)
    asked = asyncio.ensure_future(search(store, listing()))
    await asyncio.to_thread(begun.wait, 10)
    calls: dict[str, Callable[[], Any]] = {
        "load": lambda: store.read([session_key("", "a")]),
        "commit": lambda: store.commit(Batch(2, [], {}, {})),
    }
    await calls[call]()
    assert not asked.done()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_searches_that_wait_together_are_done_together(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await holding(local, *[{}] * 3)
    statements: list[str] = []
    await found(store, listing())
    connection = store._searcher._connection
    assert connection is not None
    monkeypatch.setattr(searcher, "TOGETHER_SECONDS", 60.0)
    connection.set_trace_callback(statements.append)
    assert await asyncio.gather(*(found(store, listing(limit=n)) for n in (1, 2, 3))) == [[1], [1, 2], [1, 2, 3]]
    assert (statements.count("BEGIN"), statements.count("ROLLBACK")) == (1, 1)


async def test_those_that_take_long_are_told_before_the_rest(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await holding(local, {})
    monkeypatch.setattr(searcher, "TOGETHER_SECONDS", 0.0)
    run, go_on, count = searcher.run, threading.Event(), itertools.count()

    def waiting(*arguments: Any) -> Any:
        if next(count) == 1:
            assert go_on.wait(10)
        return run(*arguments)

    monkeypatch.setattr(searcher, "run", waiting)
    first, second = (asyncio.ensure_future(found(store, listing())) for _ in range(2))
    assert await first == [1]
    assert not second.done()
    go_on.set()
    assert await second == [1]


async def test_one_that_fails_or_is_given_up_harms_no_other(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})
    monkeypatch.setattr(searcher, "TOGETHER_SECONDS", 60.0)
    run, begun, go_on = searcher.run, threading.Event(), threading.Event()

    def some_fail(connection: sqlite3.Connection, question: Any, *others: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        if question.limit == 1:
            connection.execute(LONG).fetchall()
        if question.limit == 2:
            connection.execute("ROLLBACK")  # as some errors do
            raise ValueError("a fault")
        assert connection.in_transaction
        return run(connection, question, *others)

    monkeypatch.setattr(searcher, "run", some_fail)
    asked = [asyncio.ensure_future(found(store, listing(limit=n))) for n in (1, 2, 3, 4)]
    await asyncio.to_thread(begun.wait, 10)
    asked[2].cancel()
    go_on.set()
    one, two, three, four = await asyncio.gather(*asked, return_exceptions=True)
    assert (one, four) == ([1], [1])
    assert isinstance(two, StorageError)
    assert isinstance(three, asyncio.CancelledError)


async def test_a_search_that_gets_no_thread_is_told(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})

    async def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(searcher.asyncio, "to_thread", refuse)
        for refused in await asyncio.gather(*(found(store, listing()) for _ in range(2)), return_exceptions=True):
            assert isinstance(refused, StorageError)
            assert "can't start new thread" in str(refused)
    assert await found(store, listing()) == [1]


async def test_after_an_io_error_the_next_search_works(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(local, {})
    await found(store, listing())
    before = store._searcher._connection

    def broken(*_: object) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(searcher, "run", broken)
        with pytest.raises(StorageError, match=r"searching the database: .*Input/output error"):
            await search(store, listing())
    assert await found(store, listing()) == [1]
    assert store._searcher._connection is not before


async def test_a_closed_store_can_be_searched_when_it_is_open_again(local: LocalMaker) -> None:
    store = await holding(local, {})
    await found(store, listing())
    await store.close(clean=True)
    with pytest.raises(StorageError, match="closed"):
        await search(store, listing())
    await store.open()
    assert await found(store, listing()) == [1]
