"""What every store promises of `commit`, `read` and a new start."""

import asyncio

import pytest

from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, About, Absent, external_key, owner_key, session_key
from stui_sessions.domain.finding import Counts, Totals
from stui_sessions.errors import StorageError
from stui_sessions.storage.contract import Batch, Conflict, Opened, Store
from tests.storage.stores import T0, LocalMaker, Maker, Scribe, logged, same


async def opened(maker: Maker) -> Store:
    store = maker.make()
    await store.open()
    return store


async def test_a_new_store_is_empty(maker: Maker) -> None:
    store = maker.make()
    assert await store.open() == Opened(commit=0, last_number=0, clean=True, replayed=0, uncertain_until=0)
    key = session_key("", "a")
    assert {key: same(entity) for key, entity in (await store.read([key])).items()} == {key: Absent}
    assert await store.query(Counts(""), T0) == Totals()
    assert [c async for c in store.log(0)] == []


async def test_a_read_after_a_commit_tells_the_new_value_at_once(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1, about=About(user_id="u", external_id="x", title="t", tags=("a",)))
    await scribe.commit()
    await scribe.check()
    for n in range(5):
        scribe.update(s, b'{"k%d":%d}' % (n, n), workspace_context=b'{"w":%d}' % n)
        await scribe.commit()
        await scribe.check()
        if n == 2:
            await store.flush()
            await scribe.check()
    scribe.end(s, CLOSED)
    await scribe.commit()
    await scribe.check()
    scribe.remove(s)
    await scribe.commit()
    await scribe.check()


async def test_all_kinds_of_entities(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    for n in range(1, 700):
        scribe.create(n, client_id="many", about=About(user_id="u", external_id=f"x\0{n}"))
    scribe.create(700, tenant="t", client_id="c")
    await scribe.commit()
    for _ in range(2):
        key = owner_key("", "u", "many")
        assert key is not None
        owner = (await store.read([key]))[key]
        assert same(owner) == same(scribe.entities[key])
        name = external_key("", "u", "x\0" + "5")
        assert name is not None
        await scribe.check([session_key("", "nobody"), ("t", "owner", "\0nobody"), ("x", *name[1:])])
        await store.flush()


async def test_a_failed_commit_is_seen_by_nobody(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    before = scribe.entities.copy()
    for n in (2, 3):
        maker.fail(store)
        scribe.create(n)
        scribe.update(s)
        with pytest.raises(StorageError):
            await store.commit(scribe.batch())
        assert scribe.entities == before
        await scribe.check([session_key("", f"session_{n}_1756549800_{n * 7919}")])
        assert await store.query(Counts(""), T0) == Totals(live=1, clients=1)
        assert await logged(scribe) == scribe.commits
    scribe.create(4)
    await scribe.commit()
    await scribe.check()
    assert await logged(scribe) == scribe.commits
    again = await maker.crashed(store)
    found = await scribe.go_on(again)
    assert found.commit == (0 if again.is_shared else 2)
    await scribe.check([session_key("", f"session_{n}_1756549800_{n * 7919}") for n in (2, 3)])


@pytest.mark.parametrize("flushed", [False, True])
async def test_two_drafts_that_contradict_are_never_both_committed(maker: Maker, flushed: bool) -> None:
    """Each took the last place of an owner, and the same external id, on what was there before."""
    store = await opened(maker)
    scribe = Scribe(store)
    scribe.create(1, client_id="c", about=About(user_id="u"))
    await scribe.commit()
    if flushed:
        await store.flush()
    rival = Scribe(store, scribe.last)
    rival.entities = scribe.entities.copy()
    scribe.create(2, client_id="c", about=About(user_id="u", external_id="x"))
    rival.create(3, client_id="c", about=About(user_id="u", external_id="x"))
    await scribe.commit()
    if flushed:
        await store.flush()
    batch = rival.batch()
    batch.number += 1
    with pytest.raises(Conflict) as caught:
        await store.commit(batch)
    assert set(caught.value.keys) == {owner_key("", "u", "c"), external_key("", "u", "x")}
    await scribe.check([session_key("", "session_3_1756549800_23757")])
    assert await store.query(Counts(""), T0) == Totals(live=2, clients=1)
    assert await logged(scribe) == scribe.commits


async def test_versions_are_known_after_a_new_start(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    scribe.update(s)
    await scribe.commit()
    await store.close(clean=True)
    store = await maker.again(store)
    await scribe.go_on(store)
    scribe.update(s)
    batch = scribe.batch()
    batch.expected[s.key] = 1
    with pytest.raises(Conflict):
        await store.commit(batch)
    batch.expected[s.key] = 2
    await store.commit(batch)
    scribe.committed(batch)
    await scribe.check()


async def test_a_decision_may_stand_on_what_it_does_not_change(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    first, second = scribe.create(1), scribe.create(2)
    await scribe.commit()
    await store.flush()
    scribe.update(first)
    await scribe.commit()
    scribe.update(second)
    batch = scribe.batch()
    batch.expected[first.key] = 1
    with pytest.raises(Conflict):
        await store.commit(batch)


@pytest.mark.parametrize("end", ["clean", "unclean"])
async def test_everything_is_there_after_a_new_start(maker: Maker, end: str) -> None:
    await everything_is_there(maker, end)


@pytest.mark.parametrize("end", ["killed", "flushed and killed"])
async def test_everything_is_there_after_a_kill(local: LocalMaker, end: str) -> None:
    await everything_is_there(local, end)


async def everything_is_there(maker: Maker, end: str) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    for n in range(1, 40):
        scribe.create(n, about=About(user_id=f"u{n % 2}", title=f"t{n}", external_id=f"x{n}"))
    await scribe.commit()
    for n in range(1, 40, 2):
        scribe.update(scribe.session(n))
        await scribe.commit()
    if end.startswith("flushed"):
        await store.flush()
    scribe.end(scribe.session(3), EXPIRED)
    scribe.end(scribe.session(4), DELETED)
    scribe.remove(scribe.session(5))
    gone = session_key("", "session_5_1756549800_39595")
    await scribe.commit()
    scribe.reopen(scribe.session(4))
    await scribe.commit()
    counts = await store.query(Counts(""), T0)
    if end.endswith("killed"):
        store = await maker.crashed(store)
    else:
        await store.close(clean=end == "clean")
        store = await maker.again(store)
    last = scribe.last
    found = await scribe.go_on(store)
    if not store.is_shared:  # which has no order of its own commits, and no end
        assert (found.commit, found.last_number, found.clean) == (last, 39, end == "clean")
    await scribe.check([gone])
    assert await store.query(Counts(""), T0) == counts == Totals(live=37, expired=1, clients=6)
    s = scribe.session(7)
    scribe.update(s)
    scribe.create(40)
    await scribe.commit()
    await scribe.check()
    await store.flush()
    await scribe.check()


async def test_commits_are_numbered_one_by_one(maker: Maker) -> None:
    store = await opened(maker)
    await store.commit(Batch(1, [], {}, {}))
    for number in (0, 1) if store.is_shared else (0, 1, 3):  # where a number may be left out
        with pytest.raises(ValueError, match="after 1"):
            await store.commit(Batch(number, [], {}, {}))
    await store.commit(Batch(2, [], {}, {}))


async def test_an_id_that_is_used_again(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    scribe.create(1, session_id="own")
    await scribe.commit()
    await store.flush()
    scribe.remove(scribe.session(1), "replaced")
    scribe.create(2, session_id="own")
    await scribe.commit()
    await scribe.check()
    await store.flush()
    await scribe.check()
    scribe.remove(scribe.session(2), "replaced")
    await scribe.commit()
    scribe.create(3, session_id="own")
    await scribe.commit()
    await store.close(clean=False)
    store = await maker.again(store)
    await scribe.go_on(store)
    await scribe.check()
    assert await store.query(Counts(""), T0) == Totals(live=1, clients=1)


async def test_counts_are_exact_whoever_knows_what_was_there(maker: Maker) -> None:
    """The engine may tell what was there before; a store that is not told looks it up."""
    store = await opened(maker)
    scribe = Scribe(store)
    for n in range(1, 7):
        scribe.create(n, client_id="c" if n % 2 else "", about=About(user_id="u"), tenant="t" if n == 6 else "")
    await scribe.commit()
    assert await store.query(Counts(""), T0) == Totals(live=5, clients=1)
    assert await store.query(Counts("t"), T0) == Totals(live=1)
    await store.flush()
    for n, status in ((1, EXPIRED), (3, CLOSED), (5, DELETED)):
        scribe.end(scribe.session(n), status)
    batch = scribe.batch()
    batch.before = {key: scribe.entities[key] for key in batch.after}
    await store.commit(batch)
    scribe.committed(batch)
    expected = Totals(live=2, expired=1, closed=1, deleted=1)
    assert await store.query(Counts(""), T0) == expected
    scribe.end(scribe.session(1), DELETED)
    scribe.remove(scribe.session(3))
    scribe.reopen(scribe.session(5))
    await scribe.commit()
    assert await store.query(Counts(""), T0) == Totals(live=3, deleted=1, clients=1)
    assert await store.query(Counts("nobody"), T0) == Totals()


async def test_the_last_number_is_kept_when_its_session_is_gone(own: Maker) -> None:
    store = await opened(maker := own)
    scribe = Scribe(store)
    scribe.create(9)
    await scribe.commit()
    scribe.remove(scribe.session(9))
    await scribe.commit()
    await store.close(clean=True)
    store = await maker.again(store)
    assert (await store.open()).last_number == 9


async def test_what_is_uncertain_is_noted(own: Maker) -> None:
    store = await opened(maker := own)
    await store.note_uncertain(T0)
    await store.close(clean=False)
    store = await maker.again(store)
    found = await store.open()
    assert (found.clean, found.uncertain_until) == (False, T0)


async def test_a_closed_store_does_nothing(maker: Maker) -> None:
    store = await opened(maker)
    await store.close(clean=True)
    await store.close(clean=True)
    with pytest.raises(StorageError, match="closed"):
        await store.commit(Batch(1, [], {}, {}))
    for call in (store.read([session_key("", "a")]), store.query(Counts(""), T0), store.flush()):
        with pytest.raises(StorageError, match="closed"):
            await call
    with pytest.raises(StorageError, match="closed"):
        [c async for c in store.log(0)]


async def test_reading_goes_on_beside_committing(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()

    async def write() -> None:
        for n in range(60):
            scribe.update(s, b'{"n":%d}' % n)
            await scribe.commit()
            if n % 7 == 0:
                await store.flush()

    writing = asyncio.ensure_future(write())
    seen = []
    while not writing.done():
        found = (await store.read([s.key]))[s.key]
        seen.append(found.version)
        await asyncio.sleep(0)
    await writing
    assert seen == sorted(seen)
    assert same((await store.read([s.key]))[s.key]) == same(scribe.entities[s.key])
