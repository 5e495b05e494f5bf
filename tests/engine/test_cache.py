"""What memory keeps: the longest unused goes first, nothing that is needed goes, and the bytes are exact."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from stui_sessions.domain.entities import Absent, Entity, Key, Owner, Session, owner_key, session_key, session_of
from stui_sessions.engine import cache as module
from stui_sessions.engine.cache import Cache
from tests.engine.desk import stored_session

NAMES = [f"s{n}" for n in range(6)]


def a_session(name: str, commit: int = 1, size: int = 0) -> Session:
    state = b'{"a":"%b"}' % (b"x" * size)
    return session_of(stored_session(name, session_state=state), session_key("", name), 1, commit)


def a_cache(*entities: Entity, limit: int = 0) -> Cache:
    cache = Cache(limit)
    for entity in entities:
        cache.put(entity)
    return cache


def names(cache: Cache) -> list[str]:
    return [id for _, _, id in cache.entities]


# -- what goes first


def test_the_longest_unused_goes_first() -> None:
    cache = a_cache(*(a_session(name) for name in "abcd"), limit=2 * a_session("a").cost)
    cache.note_use([a_session("a")])
    cache.renew(a_session("b"))
    cache.trim(1)
    assert names(cache) == ["a", "b"]


def test_the_order_of_use_is_kept_only_where_something_may_have_to_go() -> None:
    cache = a_cache(*(a_session(name) for name in "abcd"), limit=8 * a_session("a").cost)
    cache.renew(a_session("a"))
    assert names(cache) == ["a", "b", "c", "d"]


def test_what_is_put_again_is_used() -> None:
    cache = a_cache(*(a_session(name) for name in "abca"), limit=2 * a_session("a").cost)
    cache.trim(1)
    assert names(cache) == ["c", "a"]


def test_nothing_goes_while_there_is_room() -> None:
    cache = a_cache(*(a_session(name) for name in "abc"), limit=3 * a_session("a").cost)
    cache.trim(1)
    assert names(cache) == ["a", "b", "c"]


def test_what_is_not_committed_stays() -> None:
    cache = a_cache(a_session("a", 1), a_session("b", 2), a_session("c", 3))
    cache.trim(1)
    assert names(cache) == ["b", "c"]
    cache.trim(2)
    assert names(cache) == ["c"]


def test_what_is_pinned_stays_until_it_is_unpinned_as_often() -> None:
    cache, key = a_cache(a_session("a")), session_key("", "a")
    cache.pin(key)
    cache.pin(key)
    for kept in (["a"], ["a"]):
        cache.trim(1)
        assert names(cache) == kept
        cache.unpin([key])
    cache.trim(1)
    assert names(cache) == []


def test_what_had_to_stay_goes_to_the_end_of_the_line() -> None:
    """Or each trim would look at it again, before it comes to what can go."""
    cache = a_cache(a_session("a", 2), a_session("b"), a_session("c"), limit=2 * a_session("a").cost)
    cache.trim(1)
    assert names(cache) == ["c", "a"]


def test_one_trim_looks_at_so_many_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOKED_AT", 3)
    cache = a_cache(*(a_session(name) for name in "abcdefg"))
    cache.trim(1)
    assert names(cache) == ["d", "e", "f", "g"]
    cache.trim(1)
    assert names(cache) == ["g"]


def test_a_pin_holds_what_comes_later_too() -> None:
    cache, session = a_cache(), a_session("a")
    cache.pin(session.key)
    assert cache.pinned_bytes == 0
    cache.put(session)
    assert cache.pinned_bytes == session.cost
    cache.trim(1)
    assert names(cache) == ["a"]


def test_what_is_dropped_goes_though_it_is_pinned() -> None:
    cache, session = a_cache(), a_session("a")
    cache.put(session)
    cache.pin(session.key)
    cache.drop([session.key, session_key("", "unknown")])
    assert (names(cache), cache.bytes, cache.pinned_bytes) == ([], 0, 0)
    cache.put(session)  # the pin is still there
    cache.trim(1)
    assert names(cache) == ["a"]


# -- whatever happens


class Caching(RuleBasedStateMachine):
    """A cache, beside what it should hold and which pins there are."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache(5000)
        self.held: dict[Key, Entity] = {}
        """In the order of their last use."""
        self.pins: Counter[Key] = Counter()

    def _hold(self, entity: Entity) -> None:
        self.held.pop(entity.key, None)
        self.held[entity.key] = entity

    @rule(name=st.sampled_from(NAMES), size=st.integers(0, 3000), commit=st.integers(1, 4))
    def put_a_session(self, name: str, size: int, commit: int) -> None:
        session = a_session(name, commit, size)
        self.cache.put(session)
        self._hold(session)

    @rule(name=st.sampled_from(NAMES), count=st.integers(0, 9))
    def put_an_owner(self, name: str, count: int) -> None:
        key = owner_key("", "", name)
        assert key is not None
        owner = Owner(key, 1, 1, (tuple("x" * count),)) if count else Absent(key)
        self.cache.put(owner)
        self._hold(owner)

    @rule(name=st.sampled_from(NAMES), size=st.integers(0, 3000))
    def save_in_a_session(self, name: str, size: int) -> None:
        """As the engine does it where nothing but the state changes."""
        key = session_key("", name)
        before = self.held.get(key)
        if isinstance(before, Session):
            state = b"x" * size
            after = replace(before, session_state=state, state_bytes=size)
            if 2 * self.cache.bytes > self.cache.limit:
                self._hold(after)
            else:  # nothing has to go before long, so nobody notes who uses what
                self.held[key] = after
            self.cache.renew(after, after.state_bytes - before.state_bytes)

    @rule(name=st.sampled_from(NAMES))
    def drop(self, name: str) -> None:
        self.cache.drop([session_key("", name)])
        self.held.pop(session_key("", name), None)

    @rule(name=st.sampled_from(NAMES))
    def pin(self, name: str) -> None:
        self.cache.pin(session_key("", name))
        self.pins[session_key("", name)] += 1

    @rule(name=st.sampled_from(NAMES))
    def unpin(self, name: str) -> None:
        key = session_key("", name)
        if self.pins[key]:
            self.cache.unpin([key])
            self.pins[key] -= 1

    @rule(committed=st.integers(0, 4), limit=st.integers(0, 15_000))
    def trim(self, committed: int, limit: int) -> None:
        self.cache.limit = limit
        self.cache.trim(committed)
        size = sum(entity.cost for entity in self.held.values())
        for key, entity in list(self.held.items()):
            if size > limit and not self.pins[key] and entity.commit <= committed:
                size -= self.held.pop(key).cost
        self.held = {key: self.held[key] for key in self.cache.entities if key in self.held}

    @invariant()
    def it_holds_what_it_should(self) -> None:
        assert list(self.cache.entities.items()) == list(self.held.items())

    @invariant()
    def what_is_counted_is_exact(self) -> None:
        assert self.cache.sessions == sum(isinstance(entity, Session) for entity in self.held.values())
        assert self.cache.bytes == sum(entity.cost for entity in self.held.values())
        assert self.cache.pinned_bytes == sum(entity.cost for key, entity in self.held.items() if self.pins[key])


Caching.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCaching = Caching.TestCase
