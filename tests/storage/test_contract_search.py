"""What every store finds: lists in pages, references, and what is in neither."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from stui_sessions.sessions.finding import MAX_MATCHES, Found, Listing, Position, Reference, Row, Sort
from stui_sessions.sessions.model import CLOSED, DELETED, EMPTY, EXPIRED, LIVE, About, Removed, Session
from stui_sessions.storage.base import SessionStore
from tests.storage.stores import NONE, T0, Maker, MemoryMaker, SqliteMaker, session

SORTS = get_args(Sort)
ODD = ["", "a", "A", "a\0", "a\0b", "\0", "b", "é", "e\u0301", "\uffff", "\U0001f600", "\U0010ffff"]


def listing(sort: Sort = "created_at", descending: bool = False, **changes: Any) -> Listing:
    values: dict[str, Any] = {"status": LIVE, "sort": sort, "descending": descending, "limit": 100}
    return Listing(**(values | changes))


def titled(number: int, title: str, **changes: Any) -> Session:
    return session(number, about=About(title=title, external_id=title), **changes)


async def holding(maker: Maker, *sessions: Session) -> SessionStore:
    store = maker.make()
    await store.open()
    await store.commit(1, [], NONE)
    await store.snapshot(1, sessions)
    return store


def bare(s: Session) -> Session:
    return replace(s, session_state=EMPTY, workspace_context=EMPTY, inspector_state=EMPTY, object_registry=EMPTY)


def numbers(found: Found) -> list[int]:
    return [row.session.number for row in found.rows]


def expected(sessions: list[Session], wanted: Listing) -> list[int]:
    """The whole list."""
    places = sorted((wanted.position(s) for s in sessions if wanted.matches(s)), reverse=wanted.descending)
    return [number for _, number in places]


async def pages(store: SessionStore, wanted: Listing) -> list[list[int]]:
    """All pages of a list, from `wanted` on."""
    found = await store.search(wanted)
    turned = [numbers(found)]
    while found.reached is not None:
        assert wanted.after is None or wanted.is_behind(found.reached, wanted.after)
        wanted = replace(wanted, after=found.reached)
        found = await store.search(wanted)
        turned.append(numbers(found))
        assert len(turned) < 1000
    return turned


def joined(turned: list[list[int]]) -> list[int]:
    return [number for one in turned for number in one]


# Lists.


async def test_a_row_is_a_session_without_its_state(maker: Maker) -> None:
    one = session(1, about=About("u", "x", "t", ("a",), b'{"m":1}', T0 + 5, True), workspace_context=b'{"w":1}')
    store = await holding(maker, one, session(2, status=CLOSED, ended_at=T0))
    assert await store.search(listing()) == Found([Row(bare(one), one.state_bytes)])
    assert await store.search(listing(with_state=True)) == Found([Row(one, one.state_bytes)])


async def test_many_whole_rows(maker: Maker) -> None:
    many = [session(n) for n in range(1, 301)]
    store = await holding(maker, *many)
    found = await store.search(listing(limit=290, descending=True, with_state=True))
    assert [row.session for row in found.rows] == many[:9:-1]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_the_order_of_a_list(maker: Maker, sort: Sort, descending: bool) -> None:
    """By number where it is the same otherwise; titles by their code points."""
    every = [titled(n, ODD[n * 7 % len(ODD)], active_at=T0 + n * 5 % 7) for n in range(1, 40)]
    store = await holding(maker, *every)
    wanted = listing(sort, descending)
    assert numbers(await store.search(wanted)) == expected(every, wanted)
    assert joined(await pages(store, replace(wanted, limit=3))) == expected(every, wanted)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("filters", [{}, {"client_id": "c"}, {"user_id": "u"}, {"client_id": "c", "user_id": "u"}])
async def test_pages(maker: Maker, sort: Sort, descending: bool, filters: dict[str, str]) -> None:
    """300 sessions; most of them have a title and a moment in common."""
    every = [
        session(n, client_id="c", active_at=T0 + n % 2, about=About("u", title="same" if n % 10 else f"t{n}"))
        for n in range(1, 301)
    ]
    store = await holding(maker, *every)
    wanted = listing(sort, descending, limit=70, **filters)
    turned = await pages(store, wanted)
    assert list(map(len, turned)) == [70, 70, 70, 70, 20]
    assert joined(turned) == expected(every, wanted)


@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_that_is_just_full(maker: Maker, sort: Sort) -> None:
    every = [titled(n, f"{n}") for n in range(1, 5)]
    store = await holding(maker, *every)
    found = await store.search(listing(sort, limit=4))
    assert (numbers(found), found.reached) == ([1, 2, 3, 4], None)
    wanted = listing(sort, limit=3)
    found = await store.search(wanted)
    assert (numbers(found), found.reached) == ([1, 2, 3], wanted.position(every[2]))
    found = await store.search(replace(wanted, after=found.reached))
    assert (numbers(found), found.reached) == ([4], None)


FAR: list[tuple[Sort, Position]] = [
    ("created_at", (2**80, 2**80)),
    ("last_activity", (2**80, 1)),
    ("title", ("\U0010ffff\U0010ffff", 2**80)),
    ("title", ("\udfff", 1)),
]


@pytest.mark.parametrize(("sort", "after"), FAR)
async def test_a_position_where_nothing_is(maker: Maker, sort: Sort, after: Position) -> None:
    store = await holding(maker, titled(1, "a"), titled(2, "b"))
    assert await store.search(listing(sort, after=after)) == Found([])
    assert numbers(await store.search(listing(sort, descending=True, after=after))) == [2, 1]


MIXED = [
    session(1, client_id="c", about=About("u", title="One", tags=("x", "y"))),
    session(2, client_id="c", about=About("v", title="two", tags=("x",))),
    session(3, client_id="d", about=About("u", external_id="Stra\u00dfe")),
    session(4, client_id="", about=About("u", title="ONE more", tags=("y", "x"))),
    session(5, client_id="c", about=About()),
    session(6, client_id="", about=About(), session_id="one\0"),
    session(7, client_id="c", about=About("u"), status=EXPIRED, ended_at=T0),
    session(8, client_id="c", about=About("u", tags=("x",)), status=CLOSED, ended_at=T0),
    session(9, client_id="c", about=About("u"), status=DELETED, ended_at=T0),
    session(10, client_id="\0", about=About("\0", tags=("",))),
]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 10]),
        ({"status": EXPIRED}, [7]),
        ({"status": CLOSED}, [8]),
        ({"status": DELETED, "client_id": "c"}, [9]),
        ({"client_id": "c"}, [1, 2, 5]),
        ({"client_id": "C"}, []),
        ({"client_id": "\0"}, [10]),
        ({"client_id": ""}, [4, 6]),
        ({"user_id": "u"}, [1, 3, 4]),
        ({"user_id": ""}, [5, 6]),
        ({"user_id": "\0"}, [10]),
        ({"client_id": "c", "user_id": "u"}, [1]),
        ({"client_id": "c", "user_id": ""}, [5]),
        ({"client_id": "", "user_id": "u"}, [4]),
        ({"client_id": "", "user_id": ""}, [6]),
        ({"client_id": "\ud800"}, []),
        ({"tags": ("x",)}, [1, 2, 4]),
        ({"tags": ("x", "y")}, [1, 4]),
        ({"tags": ("x", "y"), "user_id": "u", "client_id": ""}, [4]),
        ({"tags": ("",)}, [10]),
        ({"tags": ("x",), "status": CLOSED, "user_id": "u"}, [8]),
        ({"text": "one"}, [1, 4, 6]),
        ({"text": "strasse"}, [3]),
        ({"text": "one", "client_id": "c"}, [1]),
        ({"text": "session_5_"}, [5]),
        ({"text": "\0"}, [6]),
    ],
)
async def test_filters(maker: Maker, filters: dict[str, Any], wanted: list[int]) -> None:
    store = await holding(maker, *MIXED)
    for sort in SORTS:
        question = listing(sort, **filters)
        assert sorted(numbers(await store.search(question))) == wanted
        assert joined(await pages(store, replace(question, limit=2))) == expected(MIXED, question)


async def test_lists_follow_the_snapshots(maker: Maker) -> None:
    store = await holding(maker, *(titled(n, "old", active_at=T0 + n) for n in (1, 2, 3, 4)))
    ended = titled(2, "old", active_at=T0 + 2, status=CLOSED, ended_at=T0 + 9)
    gone = Removed(4, session(4).session_id, "client1")
    await store.snapshot(2, [titled(1, "old", active_at=T0 + 7), ended, titled(3, "new", active_at=T0 + 3), gone])
    assert numbers(await store.search(listing("last_activity"))) == [3, 1]
    assert numbers(await store.search(listing("title"))) == [3, 1]
    assert numbers(await store.search(listing(status=CLOSED))) == [2]
    assert numbers(await store.search(Reference(title="old"))) == [1]
    assert numbers(await store.search(Reference(external_id="new"))) == [3]
    await store.snapshot(3, [titled(2, "old")])  # reopened
    assert numbers(await store.search(listing("title"))) == [3, 1, 2]
    assert numbers(await store.search(listing(status=CLOSED))) == []


async def test_searches_may_overlap(maker: Maker) -> None:
    store = await holding(maker, *(session(n) for n in range(1, 200)))
    wanted = listing(limit=150)
    loading = asyncio.ensure_future(store.load([session(1).session_id]))
    found = await asyncio.gather(*(store.search(wanted) for _ in range(8)))
    assert all(len(f.rows) == 150 for f in found)
    assert (await loading)[session(1).session_id].session == session(1)


# References.


async def test_references(maker: Maker) -> None:
    store = await holding(
        maker,
        session(1, session_id="abc", about=About("u", "x", "t")),
        session(2, session_id="abd", about=About("v", "x", "T")),
        session(3, session_id="ab\0", about=About("", "\0", "\U0001f600")),
        session(4, session_id="ab\U0010ffff", status=EXPIRED, ended_at=T0, about=About("u", "x", "t")),
        session(5, session_id="abz", status=DELETED, ended_at=T0, about=About("u", "x", "t")),
        session(6, session_id="aC"),
    )
    for reference, wanted in {
        Reference(prefix="ab"): {1, 2, 3, 4},
        Reference(prefix="abc"): {1},
        Reference(prefix="ab\0"): {3},
        Reference(prefix="ab\U0010ffff"): {4},
        Reference(prefix="abz"): set(),
        Reference(prefix="A"): set(),
        Reference(prefix="\ud800"): set(),
        Reference(external_id="x"): {1, 2},
        Reference(external_id="\0"): {3},
        Reference(external_id="X"): set(),
        Reference(title="t"): {1},
        Reference(title="\U0001f600"): {3},
        Reference("abc", "x", "T"): {1, 2},
        Reference("aC", "\0", "t"): {1, 3, 6},
        Reference(): set(),
    }.items():
        found = await store.search(reference)
        assert sorted(numbers(found)) == sorted(wanted)
        assert found.reached is None
        assert all(row.session.session_state == EMPTY and row.state_bytes > 8 for row in found.rows)


async def test_only_the_first_of_many_are_named(maker: Maker) -> None:
    every = [session(n, session_id=f"a{n}", about=About("u", "x", "t")) for n in range(1, 50)]
    store = await holding(maker, *every)
    for kind in (Reference(prefix="a"), Reference(external_id="x"), Reference(title="t")):
        found = numbers(await store.search(kind))
        assert len(found) == len(set(found)) == MAX_MATCHES + 1
    found = numbers(await store.search(Reference("a", "x", "t")))
    assert len(set(found)) == len(found)


async def test_it_is_told_whether_more_are_named(maker: Maker) -> None:
    count = MAX_MATCHES + 1
    store = await holding(maker, *(session(n, session_id=f"a{n}", about=About("u", "x", "t")) for n in range(count)))
    kinds = (Reference(prefix="a"), Reference(external_id="x"), Reference(title="t"))
    for kind in (*kinds, Reference("a", "x", "t")):
        assert len((await store.search(kind)).rows) == count
    assert not (await store.search(Reference(prefix="a1"))).more
    await store.snapshot(2, [session(count, session_id="b", about=About("u", "x", "t"))])
    for kind in kinds[1:]:
        found = await store.search(kind)
        assert (len(found.rows), found.more) == (count, True)


async def test_a_wide_search_names_the_others_too(maker: Maker) -> None:
    every = [session(n, session_id=f"a{n}", about=About("u", "x", "t")) for n in range(1, 400)]
    store = await holding(maker, *every)
    for kind in (Reference(prefix="a"), Reference(external_id="x"), Reference(title="t"), Reference("a", "x", "t")):
        found = await store.search(replace(kind, wide=True))
        assert (sorted(numbers(found)), found.more) == ([*range(1, 400)], False)


# All of it, for any sessions.

names = st.sampled_from(["", "a", "b\0", "\uffff", "\U0001f600"])
some_sessions = st.lists(
    st.tuples(
        *(names, names, names, st.sampled_from([(), ("x",), ("x", "y")]), st.integers(0, 3)),
        *(st.sampled_from([LIVE, LIVE, EXPIRED, DELETED]), st.booleans()),
    ),
    max_size=25,
)
questions = st.builds(
    Listing,
    status=st.sampled_from([LIVE, LIVE, LIVE, EXPIRED]),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    limit=st.integers(1, 7),
    client_id=st.none() | names,
    user_id=st.none() | names,
    tags=st.sampled_from([(), (), ("x",), ("y", "x")]),
    text=st.sampled_from(["", "", "a", "\0"]),
    with_state=st.booleans(),
)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@settings(max_examples=60)
@given(drawn=some_sessions, wanted=st.lists(questions, min_size=1, max_size=5))
def test_pages_are_the_sorted_list(kind: str, drawn: list[Any], wanted: list[Listing]) -> None:
    every, before = [], []
    for n, (client, user, title, tags, at, status, moved) in enumerate(drawn, 1):
        about = About(user, title=title, tags=tags)
        s = session(n, client_id=client, active_at=T0 + at, status=status, about=about)
        every.append(s)
        before.append(session(n, client_id=client, about=About(user)) if moved else s)

    async def run(maker: Maker) -> None:
        store = await holding(maker, *before)
        await store.snapshot(2, every)
        for question in wanted:
            turned = await pages(store, question)
            assert joined(turned) == expected(every, question)
            assert max(map(len, turned)) <= question.limit
        await store.close(clean=False)

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(MemoryMaker() if kind == "memory" else SqliteMaker(Path(directory))))
