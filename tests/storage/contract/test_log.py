"""What every store promises of its log: each record once, in order, or the word that it is gone."""

import pytest

from stui_sessions.domain.entities import CLOSED, Key
from stui_sessions.storage.contract import Commit, LogGone, Store
from tests.storage.stores import LocalMaker, Maker, Scribe, logged


async def opened(maker: Maker) -> Store:
    store = maker.make()
    await store.open()
    return store


async def test_the_log_has_each_commit_once_and_in_order(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    for n in range(1, 20):
        scribe.update(s, b'{"n":%d}' % n)
        if n % 5 == 0:
            scribe.create(n)
        await scribe.commit()
        if n == 8:
            await store.flush()
    for since in (0, 1, 7, 8, 9, 19, 20):
        assert await logged(scribe, since) == scribe.commits[since:]
    assert [c async for c in store.log(2**60)] == []


@pytest.mark.parametrize("end", ["clean", "killed"])
async def test_the_log_goes_on_across_starts(maker: Maker, end: str) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    for n in range(6):
        scribe.update(s, b'{"n":%d}' % n)
        await scribe.commit()
        if n % 2:
            if end == "clean":
                await store.close(clean=True)
                store = await maker.again(store)
            else:
                store = await maker.crashed(store)
            await scribe.go_on(store)
            for since in (0, 3):
                assert await logged(scribe, since) == scribe.commits[since:]
    versions = [[r.version for r in c.records] for c in await store.history(s.key, 2**60, 99)]
    assert versions == [[7], [6], [5], [4], [3], [2], [1]]


async def test_a_reader_catches_up_with_what_is_committed_meanwhile(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    seen = []
    async for commit in store.log(0):
        seen.append(commit)
        if len(seen) < 30:
            scribe.update(s)
            await scribe.commit()
    assert [c.records for c in seen[1:]] == [c.records for c in scribe.commits[1:]]
    assert sorted(c.number for c in seen) == [c.number for c in seen]


async def test_many_commits_and_large_ones(local: LocalMaker) -> None:
    store = await opened(local)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    for n in range(700):
        size = 2_000_000 if n == 300 else 5 + n
        scribe.update(s, b'{"n":"%s"}' % (b"x" * size), replaces=True)
        await scribe.commit()
    assert await logged(scribe) == scribe.commits
    assert await logged(scribe, 600) == scribe.commits[600:]


async def test_a_log_that_is_gone_says_so(own: Maker) -> None:
    store = await opened(maker := own)
    scribe = Scribe(store)
    s = scribe.create(1)
    await scribe.commit()
    maker.forget_log(store)
    for _ in range(12):
        scribe.update(s, b'{"n":"%s"}' % (b"x" * 500_000), replaces=True)
        scribe.at += 1000
        await scribe.commit()
    await store.flush()
    with pytest.raises(LogGone) as caught:
        await logged(scribe)
    oldest = caught.value.oldest
    assert 2 < oldest <= 13
    assert await logged(scribe, oldest - 1) == scribe.commits[oldest - 1 :]
    with pytest.raises(LogGone):
        await logged(scribe, oldest - 2)
    history = await store.history(s.key, 99, 99)
    assert [c.number for c in history] == list(range(13, oldest - 1, -1))
    await scribe.check()


async def test_history_is_an_entitys_own(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    mine, other = scribe.create(1, client_id="c"), scribe.create(2, client_id="c")
    await scribe.commit()
    for n in range(10):
        scribe.update(other)
        if n in (2, 5, 6):
            scribe.update(mine, b'{"n":%d}' % n)
            scribe.use(mine)
        await scribe.commit()
    scribe.end(mine, CLOSED)
    await scribe.commit()

    at = [0, *[commit.number async for commit in store.log(0)]]
    end = 2**60

    def own(key: Key, *numbers: int) -> list[Commit]:
        return [Commit(at[n], [r for r in scribe.commits[n - 1].records if r.key == key]) for n in numbers]

    assert await store.history(mine.key, end, 99) == own(mine.key, 12, 8, 7, 4, 1)
    assert await store.history(mine.key, end, 2) == own(mine.key, 12, 8)
    assert await store.history(mine.key, at[8], 2) == own(mine.key, 7, 4)
    assert await store.history(mine.key, at[1], 5) == []
    assert await store.history(("", "owner", "\0c"), end, 99) == own(("", "owner", "\0c"), 12, 1)
    assert await store.history(("", "session", "nobody"), end, 99) == []
    await store.flush()
    assert await store.history(mine.key, end, 99) == own(mine.key, 12, 8, 7, 4, 1)
    scribe.remove(mine)
    await scribe.commit()
