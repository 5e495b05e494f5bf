"""Searches in SQLite: the indexes they use, what they look at, damage, and a connection of their own."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import pytest

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.sessions.finding import Listing, Reference, Sort
from stui_sessions.sessions.model import LIVE, About, Session
from stui_sessions.sessions.residents import GroupKey
from stui_sessions.storage import queries, reader, schema, searcher
from stui_sessions.storage.sqlite import SqliteStore
from tests.storage.stores import NONE, T0, SqliteMaker, session

SORTS = get_args(Sort)


async def holding(sqlite: SqliteMaker, *sessions: Session) -> SqliteStore:
    store = sqlite.at(sqlite.directory / "s.db")
    await store.open()
    await store.commit(1, [], NONE)
    await store.snapshot(1, sessions)
    return store


def listing(sort: Sort = "created_at", descending: bool = False, **changes: Any) -> Listing:
    values: dict[str, Any] = {"status": LIVE, "sort": sort, "descending": descending, "limit": 100}
    return Listing(**(values | changes))


def edit(path: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(sql, parameters).rowcount > 0


def log_size(store: SqliteStore) -> int:
    log = Path(f"{store.path}-wal")
    return log.stat().st_size if log.exists() else 0


async def found(store: SqliteStore, wanted: Listing | Reference) -> list[int]:
    return [row.session.number for row in (await store.search(wanted)).rows]


# Plans: every question has its index, and none reads the whole table.


async def plan(store: SqliteStore, sql: str) -> list[str]:
    steps = await store._reader.fetch(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
    return [step[3].decode() for step in steps]


def every_page() -> Iterator[Listing]:
    for sort in SORTS:
        for descending in (False, True):
            for after in (None, ("a" if sort == "title" else 5, 5)):
                for client_id in (None, "", "c"):
                    for user_id in (None, "", "u"):
                        yield listing(sort, descending, after=after, client_id=client_id, user_id=user_id)


async def test_no_list_reads_the_whole_table(sqlite: SqliteMaker) -> None:
    store = await holding(sqlite)
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
async def test_plans_of_lists(sqlite: SqliteMaker, wanted: Listing, plans: list[str]) -> None:
    """In the order of the index: nothing is sorted."""
    store = await holding(sqlite)
    got = [await plan(store, query.sql) for query in queries.page(wanted)]
    assert got == [[f"SEARCH sessions USING INDEX sessions_by_{step}"] for step in plans]


async def test_plans_of_references(sqlite: SqliteMaker) -> None:
    store = await holding(sqlite)
    assert [await plan(store, query.sql) for _, query in queries.candidates(Reference("a", "b", "c"))] == [
        ["SEARCH sessions USING INDEX sessions_by_id (tenant=? AND session_id>? AND session_id<?)"],
        ["SEARCH sessions USING INDEX sessions_by_external (tenant=? AND external_id=?)"],
        ["SEARCH sessions USING INDEX sessions_by_title (tenant=? AND status=? AND title=?)"],
    ]
    assert await plan(store, reader.in_list(searcher._WHOLE, 4)) == [
        "SEARCH sessions USING INTEGER PRIMARY KEY (rowid=?)"
    ]


@pytest.mark.parametrize("count", [1, 4, 256])
@pytest.mark.parametrize(
    ("kind", "index"),
    [
        ("owner", "sessions_by_client (tenant=? AND client_id=? AND user_id=? AND status=?)"),
        ("external", "sessions_by_external (tenant=? AND external_id=? AND user_id=?)"),
    ],
)
async def test_plans_of_groups(sqlite: SqliteMaker, kind: str, index: str, count: int) -> None:
    """The keys come one by one, and each is looked up."""
    store = await holding(sqlite)
    steps = await plan(store, reader.in_list(reader._GROUPS[kind], count, "(?,?)"))
    assert steps[-1] == f"SEARCH sessions USING INDEX {index}"
    assert not any("sessions" in step for step in steps[:-1])


async def test_keys_that_fill_a_query_are_no_names(sqlite: SqliteMaker) -> None:
    store = await holding(sqlite, *(session(n, client_id="", about=About("")) for n in range(1, 4)))
    keys = [GroupKey("owner", "u", f"c{n}") for n in range(3)]
    assert await store.load_groups(keys) == {key: [] for key in keys}


# How much is looked at.


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_ends_where_it_has_looked_enough(
    sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch, sort: Sort, descending: bool
) -> None:
    """A quarter of the way, and only one session in all is wanted."""
    monkeypatch.setattr(queries, "SCAN_LIMIT", 100)
    every = [session(n, about=About(title="same", tags=("x",) if n == 250 else ())) for n in range(1, 401)]
    store = await holding(sqlite, *every)
    wanted = listing(sort, descending, tags=("x",))
    turned = []
    while True:
        page = await store.search(wanted)
        turned.append([row.session.number for row in page.rows])
        if page.reached is None:
            break
        last = 100 * len(turned)
        assert page.reached == wanted.position(every[400 - last if descending else last - 1])
        wanted = listing(sort, descending, tags=("x",), after=page.reached)
    assert turned == ([[], [250], [], []] if descending else [[], [], [250], []])


async def test_a_reference_looks_at_few(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "REFERENCE_ROWS", 5)
    ended = [session(n, session_id=f"a{n}", status=3, ended_at=T0) for n in range(1, 7)]
    store = await holding(sqlite, *ended, session(7, session_id="a7"))
    assert await found(store, Reference("a")) == []
    assert await found(store, Reference("a7")) == [7]


async def test_lists_read_no_state(sqlite: SqliteMaker) -> None:
    """Not even that of damaged rows; where it is asked for, these are left out."""
    store = await holding(sqlite, *(session(n, session_state=bytes(9000)) for n in (1, 2, 3)))
    edit(store.path, "UPDATE sessions SET data = 'x' WHERE number = 2")
    assert await found(store, listing()) == [1, 2, 3]
    assert await found(store, listing(with_state=True)) == [1, 3]
    page = await store.search(listing(with_state=True, limit=2))
    assert ([row.session.number for row in page.rows], page.reached) == ([1], (2, 2))


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
async def test_damaged_heads_are_left_out(sqlite: SqliteMaker, damage: str, sort: Sort) -> None:
    store = await holding(sqlite, *(session(n, about=About("u", "x", "t")) for n in (1, 2, 3)))
    edit(store.path, f"UPDATE sessions SET {damage} WHERE number = 2")
    for filters in ({}, {"user_id": "u"}, {"with_state": True}):
        assert await found(store, listing(sort, **filters)) == [1, 3]
        page = await store.search(listing(sort, limit=1, **filters))
        assert [row.session.number for row in page.rows] == [1]
        page = await store.search(listing(sort, limit=1, after=page.reached, **filters))
        assert ([row.session.number for row in page.rows], page.reached) == ([3], None)
    for reference in (Reference("session"), Reference("", "x"), Reference("", "", "t")):
        assert await found(store, reference) == [1, 3]


@pytest.mark.parametrize("damage", MISPLACED)
async def test_what_is_in_the_wrong_place_of_an_index_is_left_out(sqlite: SqliteMaker, damage: str) -> None:
    store = await holding(sqlite, *(session(n, about=About("u", "x", "t")) for n in (1, 2, 3)))
    edit(store.path, f"UPDATE sessions SET {damage} WHERE number = 2")
    column = damage.split()[0]
    sort: Sort = "title" if column == "title" else "last_activity"
    for descending in (False, True):
        after, got = None, []
        for _ in range(3):
            page = await store.search(listing(sort, descending, limit=1, after=after))
            got += [row.session.number for row in page.rows]
            after = page.reached
            if after is None:
                break
        assert sorted(got) == [1, 3]
        assert after is None


@pytest.mark.parametrize(("sort", "damage"), [("title", "title = x'ff'"), ("last_activity", "active_at = 'x'")])
async def test_places_that_are_damaged_are_no_positions(
    sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch, sort: Sort, damage: str
) -> None:
    """And a page with nothing else is the last: nobody could say where the next begins."""
    monkeypatch.setattr(queries, "SCAN_LIMIT", 2)
    store = await holding(sqlite, *(session(n, about=About(title="t")) for n in range(1, 7)))
    edit(store.path, f"UPDATE sessions SET {damage} WHERE number > 2")
    page = await store.search(listing(sort, tags=("x",)))
    assert page.reached == listing(sort).position(session(2, about=About(title="t")))
    assert (await store.search(listing(sort, tags=("x",), after=page.reached))).reached is None


async def test_a_damaged_page_is_told(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(sqlite, *(session(n, session_state=bytes(1500)) for n in range(1, 61)))
    await store.close(clean=True)
    data = bytearray(store.path.read_bytes())
    page = data.index(session(30).session_id.encode() + b"client0") // 4096 * 4096
    data[page : page + 100] = b"\x55" * 100
    store.path.write_bytes(data)
    monkeypatch.setattr(schema, "QUICK_CHECK_LIMIT", 0)
    store = sqlite.at(store.path)
    await store.open()
    with pytest.raises(StorageDamaged, match="searching the database"):
        await store.search(listing())
    assert await found(store, listing(limit=5)) == [1, 2, 3, 4, 5]


# A connection of its own.


async def test_the_connection_is_made_when_it_is_needed(sqlite: SqliteMaker) -> None:
    store = await holding(sqlite, session(1))
    assert store._searcher._connection is None
    await found(store, listing())
    connection = store._searcher._connection
    assert connection is not None
    assert await found(store, listing()) == [1]
    assert store._searcher._connection is connection
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM journal")


async def test_no_read_stays_open(sqlite: SqliteMaker) -> None:
    """The write-ahead log can be started again after a search, also one that did not look at everything."""
    store = await holding(sqlite, *(session(n) for n in range(1, 500)))
    for wanted in (listing(limit=3), listing(with_state=True), Reference("session")):
        await found(store, wanted)
        connection = store._searcher._connection
        assert connection is not None
        assert not connection.in_transaction
    await store._writer._checkpoint("TRUNCATE")
    assert log_size(store) == 0


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Searches that do not end of themselves; the event says that one has begun."""
    begun = threading.Event()

    def run(connection: sqlite3.Connection, _search: object) -> Any:
        begun.set()
        return connection.execute(ENDLESS).fetchall()

    monkeypatch.setattr(searcher, "run", run)
    return begun


async def test_a_close_ends_a_search(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(sqlite, session(1))
    begun = endless(monkeypatch)
    searches = [asyncio.ensure_future(store.search(listing())) for _ in range(2)]
    await asyncio.to_thread(begun.wait, 10)
    await store.close(clean=True)
    for search, said in zip(searches, ("interrupted", "closed"), strict=True):
        with pytest.raises(StorageError, match=said):
            await search
    assert log_size(store) == 0


async def test_a_cancelled_search_ends(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(sqlite, session(1))
    with monkeypatch.context() as patched:
        begun = endless(patched)
        search = asyncio.ensure_future(store.search(listing()))
        await asyncio.to_thread(begun.wait, 10)
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
    assert await found(store, listing()) == [1]


@pytest.mark.parametrize("call", ["load", "commit"])
async def test_nothing_waits_behind_a_search(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store = await holding(sqlite, session(1))
    begun = endless(monkeypatch)
    search = asyncio.ensure_future(store.search(listing()))
    await asyncio.to_thread(begun.wait, 10)
    calls: dict[str, Callable[[], Any]] = {
        "load": lambda: store.load(["a"]),
        "commit": lambda: store.commit(2, [], NONE),
    }
    await calls[call]()
    assert not search.done()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search


async def test_after_an_io_error_the_next_search_works(sqlite: SqliteMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await holding(sqlite, session(1))
    await found(store, listing())
    before = store._searcher._connection

    def broken(_connection: sqlite3.Connection, _search: object) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(searcher, "run", broken)
        with pytest.raises(StorageError, match=r"searching the database: .*Input/output error"):
            await store.search(listing())
    assert await found(store, listing()) == [1]
    assert store._searcher._connection is not before


async def test_a_closed_store_can_be_searched_when_it_is_open_again(sqlite: SqliteMaker) -> None:
    store = await holding(sqlite, session(1))
    await found(store, listing())
    await store.close(clean=True)
    with pytest.raises(StorageError, match="closed"):
        await store.search(listing())
    await store.open()
    assert await found(store, listing()) == [1]
