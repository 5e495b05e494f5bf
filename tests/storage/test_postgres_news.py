"""Hints between servers: they arrive, are cut to size, and are nobody's ground to stand on."""

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.domain.entities import Key, session_key
from stui_sessions.storage.postgres.news import PAYLOAD_BYTES, keys_of, payloads
from tests.storage.stores import PostgresMaker, Scribe
from tests.support.postgres import Postgres

KEYS = st.lists(st.tuples(st.text(max_size=5), st.just("session"), st.text(max_size=4000)), max_size=40)


@given(KEYS)
def test_keys_come_back_in_payloads_that_are_not_too_long(keys: list[Key]) -> None:
    found = payloads("me", keys)
    assert all(len(payload.encode()) < 8000 for payload in found)
    told = [key for payload in found for key in keys_of(payload, "another")]
    assert told == [key for key in keys if len(msgspec.json.encode(key)) < PAYLOAD_BYTES]


def test_what_is_our_own_or_no_hint_says_nothing() -> None:
    (payload,) = payloads("me", [session_key("", "a")])
    assert keys_of(payload, "another") == [session_key("", "a")]
    assert keys_of(payload, "me") == keys_of("no hint", "me") == keys_of("[1,2]", "me") == []
    assert payloads("me", []) == []


async def test_others_hear_what_was_committed(database_url: str) -> None:
    maker = PostgresMaker(database_url)
    await maker.prepare()
    first, second = maker.make(), maker.make()
    await first.open()
    await second.open()
    heard = second.heard()
    scribe = Scribe(first)
    s = scribe.create(1)
    await scribe.commit()
    keys: set[Key] = set()

    async def commit() -> None:
        """Until it is heard: who does not listen yet hears nothing, and nothing is told twice."""
        while True:
            scribe.update(s)
            await scribe.commit()
            await asyncio.sleep(0.05)

    committing = asyncio.ensure_future(commit())
    async with asyncio.timeout(60):
        keys |= set(await anext(heard))
    committing.cancel()
    assert s.key in keys
    await maker.tear_down()


async def test_behind_a_pooler_there_are_none(postgres: Postgres, database_url: str) -> None:
    with postgres.pgbouncer() as bouncer:
        maker = PostgresMaker(bouncer.url(database_url.rpartition("/")[2]))
        await maker.prepare()
        store = maker.make()
        await store.open()
        scribe = Scribe(store)
        s = scribe.create(1)
        for _ in range(5):
            await scribe.commit()
            scribe.update(s)
        await scribe.check()
        async with asyncio.timeout(60):
            while not maker.log.named("news.off"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await maker.tear_down()
