"""Answers while rounds of writing behind are under way all the time, in small pieces."""

import asyncio
import random
import threading
from typing import Any

import pytest

from stui_sessions.domain.finding import Answer, Counts
from stui_sessions.storage.local import Limits, searcher, statements
from stui_sessions.storage.local import store as store_module
from tests.storage.contract.test_query import (
    STATUSES,
    Crowd,
    check_references,
    counted,
    expected,
    listing,
    told,
    walked,
)
from tests.storage.stores import LocalMaker, Scribe


@pytest.mark.parametrize("settled", [0, 3, 10_000])
@pytest.mark.parametrize("seed", range(4))
async def test_answers_right_after_commits(
    local: LocalMaker, monkeypatch: pytest.MonkeyPatch, seed: int, settled: int
) -> None:
    monkeypatch.setattr(statements, "WRITTEN_ROWS", 2)
    monkeypatch.setattr(store_module, "SETTLED", settled)
    local.limits = Limits(interval=0.0)
    store = local.make()
    await store.open()
    scribe = Scribe(store)
    chance = random.Random(seed)
    crowd = Crowd(scribe, chance, 0, 1, 500)
    for _ in range(250):
        for _ in range(chance.randrange(1, 5)):
            crowd.change()
        await scribe.commit()
        for _ in range(chance.choice([0, 0, 1, 5])):
            await asyncio.sleep(0)
        sort = chance.choice(["last_activity", "created_at", "title"])
        filters = chance.choice([{}, {"client_id": "c1"}, {"user_id": "u1"}, {"with_state": True}])
        wanted = listing(
            sort, chance.random() < 0.5, status=chance.choice(STATUSES), limit=chance.choice([2, 100]), **filters
        )
        answers = await asyncio.gather(
            walked(store, wanted, scribe.at),
            store.read([s.key for s in chance.sample(scribe.sessions(), min(5, len(scribe.sessions())))]),
        )
        assert told(answers[0], wanted.with_state) == told(expected(scribe, wanted, scribe.at), wanted.with_state)
        for key, entity in answers[1].items():
            assert entity.version == scribe.entities[key].version
        if chance.random() < 0.1:
            await check_references(store, scribe, scribe.at)
    assert store._behind is not None
    assert store._behind.tables_commit > 20
    await scribe.check()
    assert await store.query(Counts(""), scribe.at) == counted(scribe)


async def test_a_search_that_begins_at_the_end_of_a_round(local: LocalMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it looks into is not emptied under it, though it was not there when the round began to wait for searches."""
    store = local.make()
    await store.open()
    scribe = Scribe(store)
    for n in range(1, 6):
        scribe.create(n)
    await scribe.commit()
    begun, go_on, run = threading.Event(), threading.Event(), searcher.run

    def slow(*arguments: Any) -> Answer:
        begun.set()
        assert go_on.wait(10)
        return run(*arguments)

    monkeypatch.setattr(searcher, "run", slow)
    monkeypatch.setattr(store_module, "SETTLED", 10_000)
    wanted = listing("created_at", True, limit=100)
    waits, passed = asyncio.Event(), store._pins.passed

    async def noted() -> None:
        waits.set()
        await passed()

    store._pins.passed = noted  # type: ignore[method-assign]
    with store._pins.hold():  # a read, for which the round waits
        flushing = asyncio.ensure_future(store.flush())
        await waits.wait()
        searching = asyncio.ensure_future(walked(store, wanted, scribe.at))
        await asyncio.to_thread(begun.wait, 10)
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    assert told(await searching) == told(expected(scribe, wanted, scribe.at))
    await flushing
    await scribe.check()
