"""What every store answers, right after commits, against a model that looks at everything."""

import random
from typing import Any, get_args

import pytest

from stui_sessions.domain.entities import CLOSED, DELETED, EXPIRED, LIVE, About, Session
from stui_sessions.domain.finding import (
    MAX_MATCHES,
    Counts,
    Due,
    DueFound,
    DueSession,
    Found,
    Listing,
    Reference,
    Sort,
    Totals,
)
from stui_sessions.domain.times import Expiry
from stui_sessions.storage.contract import Store
from stui_sessions.storage.counting import due_at
from tests.storage.stores import T0, LocalMaker, Maker, Scribe

SORTS = get_args(Sort)
STATUSES = (LIVE, EXPIRED, CLOSED, DELETED)


async def opened(maker: Maker) -> Store:
    store = maker.make()
    await store.open()
    return store


def listing(sort: Sort = "created_at", descending: bool = False, **changes: Any) -> Listing:
    values: dict[str, Any] = {"tenant": "", "status": LIVE, "sort": sort, "descending": descending, "limit": 100}
    return Listing(**(values | changes))


async def page(store: Store, wanted: Listing, now: int = T0) -> Found:
    answer = await store.query(wanted, now)
    assert isinstance(answer, Found)
    assert len(answer.sessions) <= wanted.limit
    return answer


async def walked(store: Store, wanted: Listing, now: int = T0) -> list[Session]:
    """All pages of a list."""
    found: list[Session] = []
    for _ in range(1000):
        answer = await page(store, wanted, now)
        found += answer.sessions
        if answer.next is None:
            return found
        assert len(answer.sessions) == wanted.limit or wanted.tags or wanted.text, "a short page that is not the last"
        wanted = Listing(**{f: getattr(wanted, f) for f in wanted.__struct_fields__ if f != "after"}, after=answer.next)
    raise AssertionError("no end")


def expected(scribe: Scribe, wanted: Listing, now: int = T0, uncertain: int = 0) -> list[Session]:
    expiry = Expiry(uncertain)
    found = [
        s
        for s in scribe.sessions()
        if wanted.matches(s) and (wanted.status != LIVE or wanted.with_state or expiry.is_live(s, now))
    ]
    return sorted(found, key=wanted.position, reverse=wanted.descending)


def told(sessions: list[Session], with_state: bool = False) -> list[Any]:
    """What a list tells of sessions."""
    return [
        (
            *(s.key, s.number, s.version, s.commit, s.status, s.active_at, s.revision, s.about, s.state_bytes),
            s.session_state if with_state else b"{}",
            s.object_registry if with_state else b"{}",
        )
        for s in sessions
    ]


async def check_lists(store: Store, scribe: Scribe, chance: random.Random, now: int) -> None:
    for sort in SORTS:
        for descending in (False, True):
            for status in STATUSES:
                filters: dict[str, Any] = chance.choice(
                    [
                        *({}, {}, {"client_id": "c1"}, {"user_id": "u1"}, {"client_id": "c0", "user_id": "u1"}),
                        *({"tags": ("a",)}, {"text": "t1"}, {"user_id": ""}, {"with_state": True}, {"tenant": "t"}),
                    ]
                )
                limit = chance.choice([1, 2, 3, 7, 100])
                wanted = listing(sort, descending, status=status, limit=limit, **filters)
                found = await walked(store, wanted, now)
                state = wanted.with_state
                assert told(found, state) == told(expected(scribe, wanted, now), state), wanted


async def check_due(store: Store, scribe: Scribe, now: int) -> None:
    """Live ones by an end that may be earlier than the real one."""
    for status in STATUSES:
        found: list[DueSession] = []
        after = (-(2**62), 0)
        while True:
            answer = await store.query(Due(status, now, after, 3), now)
            assert isinstance(answer, DueFound)
            found += answer.due
            if len(answer.due) < 3:
                break
            after = (answer.due[-1].due_at, answer.due[-1].number)
        assert [(d.due_at, d.number) for d in found] == sorted((d.due_at, d.number) for d in found)
        real = {s.number: s for s in scribe.sessions() if s.status == status}
        assert {n for n, s in real.items() if due_at(s) <= now} <= {d.number for d in found}
        for d in found:
            s = real[d.number]
            assert (d.key, d.due_at <= due_at(s), d.size) == (s.key, True, s.state_bytes)


def counted(scribe: Scribe, tenant: str = "") -> Totals:
    mine = [s for s in scribe.sessions() if s.key[0] == tenant]
    by_status = [sum(s.status == status for s in mine) for status in STATUSES]
    return Totals(*by_status, len({(s.user_id, s.client_id) for s in mine if s.status == LIVE and s.client_id}))


async def check_references(store: Store, scribe: Scribe, now: int) -> None:
    for reference in (
        Reference("", prefix="session_1"),
        Reference("", external_id="x1"),
        Reference("", title="t1"),
        Reference("", prefix="session_2", external_id="x2", title="t0"),
        Reference("t", title="t1"),
    ):
        answer = await store.query(reference, now)
        assert isinstance(answer, Found)
        assert told(answer.sessions) == told(named(scribe, reference, now)), reference


def named(scribe: Scribe, r: Reference, now: int) -> list[Session]:
    found: set[int] = set()
    order = sorted(scribe.sessions(), key=lambda s: (s.active_at, s.number), reverse=True)
    for kind in (
        Reference(r.tenant, prefix=r.prefix),
        Reference(r.tenant, external_id=r.external_id),
        Reference(r.tenant, title=r.title),
    ):
        matches = [s.number for s in order if kind.matches(s) and (kind.prefix or Expiry().is_live(s, now))]
        found.update(matches[: MAX_MATCHES + 1])
    return [s for s in order if s.number in found]


class Crowd:
    """Random changes of random sessions."""

    def __init__(self, scribe: Scribe, chance: random.Random, *steps: int) -> None:
        self.scribe = scribe
        self.steps = steps  # of the clock, ms
        self.chance = chance
        self.number = 0

    def change(self) -> None:
        scribe, chance = self.scribe, self.chance
        scribe.at += chance.choice(self.steps)
        live = [s for s in scribe.sessions() if s.status == LIVE]
        ended = [s for s in scribe.sessions() if s.status != LIVE]
        roll = chance.random()
        if roll < 0.3 or not live:
            self.create()
        elif roll < 0.6:
            scribe.update(chance.choice(live), object_registry=b'{"r":%d}' % scribe.at)
        elif roll < 0.7:
            scribe.use(chance.choice(live))
        elif roll < 0.8:
            s = chance.choice(live)
            scribe.edit(s, About(s.user_id, s.about.external_id, f"t{chance.randrange(3)}", ("b",), pinned=True))
        elif roll < 0.9:
            scribe.end(chance.choice(live), chance.choice([EXPIRED, CLOSED, DELETED]))
        elif roll < 0.95 and ended:
            scribe.reopen(chance.choice(ended))
        elif ended:
            scribe.remove(chance.choice(ended))

    def create(self) -> None:
        self.number += 1
        chance = self.chance
        about = About(
            user_id=f"u{chance.randrange(3)}" if chance.random() < 0.7 else "",
            external_id=f"x{chance.randrange(3)}" if chance.random() < 0.3 else "",
            title=f"t{chance.randrange(3)}" if chance.random() < 0.6 else "",
            tags=("a",) if chance.random() < 0.3 else (),
            ends_at=self.scribe.at + chance.randrange(5000) if chance.random() < 0.1 else 0,
        )
        self.scribe.create(
            self.number,
            client_id=f"c{chance.randrange(3)}" if chance.random() < 0.8 else "",
            about=about,
            active_at=self.scribe.at,
            timeout=chance.choice([1, 3600]),
            tenant="t" if chance.random() < 0.1 else "",
        )


@pytest.mark.parametrize("seed", range(6))
async def test_answers_right_after_commits(maker: Maker, seed: int) -> None:
    """With even seeds the clock is set back now and then: then a session may be found due late."""
    store = await opened(maker)
    scribe = Scribe(store)
    chance = random.Random(seed)
    crowd = Crowd(scribe, chance, *([0, 0, 1, 500] if seed % 2 else [0, 1, 500, -300]))
    for step in range(1, 61):
        for _ in range(chance.randrange(1, 6)):
            crowd.change()
        await scribe.commit()
        if chance.random() < 0.15:
            await store.flush()
        if chance.random() < 0.05:
            await store.close(clean=chance.random() < 0.5)
            store = await maker.again(store)
            await scribe.go_on(store)
        assert await store.query(Counts(""), scribe.at) == counted(scribe)
        assert await store.query(Counts("t"), scribe.at) == counted(scribe, "t")
        if step % 6 == 0:
            await check_lists(store, scribe, chance, scribe.at)
            if seed % 2:
                await check_due(store, scribe, scribe.at)
            await check_references(store, scribe, scribe.at)
    await scribe.check()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", SORTS)
async def test_a_page_is_short_only_when_there_is_no_more(maker: Maker, sort: Sort, descending: bool) -> None:
    """Right after thousands were closed, the few that are left are on the first page."""
    store = await opened(maker)
    scribe = Scribe(store)
    for n in range(1, 3001):
        scribe.create(n, client_id=f"c{n}", about=About(title=f"{n:05}"))
    await scribe.commit()
    await store.flush()
    left = (5, 1500, 2999)
    for n in range(1, 3001):
        if n not in left:
            scribe.end(scribe.session(n), CLOSED)
    await scribe.commit()
    found = await page(store, listing(sort, descending, limit=10))
    assert [s.number for s in found.sessions] == sorted(left, reverse=descending)
    assert found.next is None
    answer = await page(store, listing(sort, descending, limit=2))
    assert [s.number for s in answer.sessions] == sorted(left, reverse=descending)[:2]
    assert answer.next is not None


async def test_sessions_whose_end_has_come_are_left_out(maker: Maker) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    for n in range(1, 9):
        scribe.create(n, active_at=T0, timeout=10 * n, about=About(user_id=f"u{n}", external_id="x", title="t"))
    await scribe.commit()
    for _ in range(2):
        now = T0 + 40_000
        assert [s.number for s in await walked(store, listing(limit=3), now)] == [5, 6, 7, 8]
        assert [s.number for s in await walked(store, listing(limit=3, with_state=True), now)] == list(range(1, 9))
        for reference in (Reference("", external_id="x"), Reference("", title="t")):
            answer = await store.query(reference, now)
            assert isinstance(answer, Found)
            assert [s.number for s in answer.sessions] == [8, 7, 6, 5]
        answer = await store.query(Reference("", prefix="session_"), now)
        assert isinstance(answer, Found)
        assert len(answer.sessions) == 8
        await store.flush()
    await store.note_uncertain(T0)
    left = [s.number for s in await walked(store, listing(), T0 + 40_000)]
    assert left == ([5, 6, 7, 8] if store.is_shared else [4, 5, 6, 7, 8])  # which knows of every use


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_reference_with_many_matches_finds_the_most_recent(maker: Maker, flushed: bool) -> None:
    store = await opened(maker)
    scribe = Scribe(store)
    chance = random.Random(7)
    instants = chance.sample(range(100_000), 400)
    for n, instant in enumerate(instants, 1):
        about = About(user_id=f"u{n}", external_id="x", title="t")
        scribe.create(n, session_id=f"a{n}", active_at=T0 + instant, about=about)
    await scribe.commit()
    if flushed:
        await store.flush()
        scribe.at = T0 + 200_000
        scribe.use(scribe.session(3))
        await scribe.commit()
    order = sorted(scribe.sessions(), key=lambda s: s.active_at, reverse=True)[: MAX_MATCHES + 1]
    for reference in (Reference("", prefix="a"), Reference("", external_id="x"), Reference("", title="t")):
        answer = await store.query(reference, T0)
        assert isinstance(answer, Found)
        assert told(answer.sessions) == told(order)


async def test_a_page_with_state_is_cut_where_it_gets_large(local: LocalMaker) -> None:
    store = await opened(local)
    scribe = Scribe(store)
    for n in range(1, 10):
        scribe.create(n, session_state=b"[%s]" % (b"1" * 1_000_000))
    await scribe.commit()
    for _ in range(2):
        answer = await page(store, listing(with_state=True))
        assert [s.number for s in answer.sessions] == [1, 2, 3]
        assert answer.next == (3, 3)
        assert answer.sessions[0].state_bytes == len(answer.sessions[0].session_state) + 6
        answer = await page(store, listing(with_state=True, after=answer.next))
        assert [s.number for s in answer.sessions] == [4, 5, 6]
        await store.flush()
