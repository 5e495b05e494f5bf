"""The feed: every commit once and in order, from memory or from the log; and the counts that follow from it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from stui_sessions.domain.entities import session_key
from stui_sessions.domain.records import Removed
from stui_sessions.engine.feed import Feed, FellBehind
from stui_sessions.engine.statistics import RemovedSessions
from stui_sessions.storage.contract import Commit, LogGone
from stui_sessions.storage.memory import MemoryStore
from tests.engine.desk import Desk, stored_session

OFTEN = 100
"""More than any test here comes to.  A follower that is lost may go round without ever giving way to the test."""


class LogStore(MemoryStore):
    """A log of commits that begins at `oldest`."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[Commit] = []
        self.oldest = 1
        self.asked: list[int] = []
        """Since which numbers it was read."""

    async def log(self, since: int) -> AsyncIterator[Commit]:
        self.asked.append(since)
        assert len(self.asked) < OFTEN
        if since + 1 < self.oldest:
            raise LogGone(self.oldest)
        for commit in [c for c in self.commits if c.number > since]:
            yield commit
            await asyncio.sleep(0)


class News:
    """A feed, and what is published on it: each commit takes ten bytes."""

    def __init__(self, kept_bytes: int = 1000) -> None:
        self.store = LogStore()
        self.feed = Feed(self.store, 0, kept_bytes)

    def publish(self, *reasons: str, size: int = 10) -> None:
        number = self.feed.newest + 1
        records = [Removed(session_key("", "s"), 2, 0, "test", 0, 1, reason) for reason in reasons]
        self.store.commits.append(Commit(number, list(records)))
        self.feed.publish(self.store.commits[-1], size)


class Follower:
    """Follows, and keeps what it was told."""

    def __init__(self, feed: Feed, since: int) -> None:
        self.seen: list[int] = []
        self.free = asyncio.Event()
        """Cleared: it is busy with a commit."""
        self.free.set()
        self.task = asyncio.create_task(self._run(feed, since))

    async def _run(self, feed: Feed, since: int) -> None:
        async for commit in feed.follow(since):
            self.seen.append(commit.number)
            assert len(self.seen) < OFTEN
            await self.free.wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


# -- following


@pytest.mark.parametrize("since", range(6))
async def test_what_is_in_memory_is_told_from_there(since: int) -> None:
    news = News()
    for _ in range(5):
        news.publish()
    follower = Follower(news.feed, since)
    await settle()
    assert follower.seen == [1, 2, 3, 4, 5][since:]
    assert news.store.asked == []
    await follower.stop()


@pytest.mark.parametrize("since", range(10))
async def test_what_is_older_is_told_from_the_log(since: int) -> None:
    news = News(kept_bytes=30)
    for _ in range(10):
        news.publish()
    follower = Follower(news.feed, since)
    await settle()
    assert follower.seen == list(range(since + 1, 11))
    assert news.store.asked == ([since] if since < 7 else [])
    await follower.stop()


async def test_what_is_committed_while_the_log_is_read_is_told_after_it() -> None:
    news = News(kept_bytes=30)
    for _ in range(10):
        news.publish()
    follower = Follower(news.feed, 0)
    for _ in range(7):
        await asyncio.sleep(0)
        news.publish()
    await settle()
    assert follower.seen == list(range(1, 18))
    await follower.stop()


async def test_a_follower_waits_for_news() -> None:
    news = News()
    follower = Follower(news.feed, 0)
    for count in range(1, 4):
        await settle()
        assert follower.seen == list(range(1, count))
        news.publish()
    await settle()
    assert follower.seen == [1, 2, 3]
    await follower.stop()


async def test_each_follower_is_told_everything_and_none_disturbs_another() -> None:
    news = News()
    first, second, third = [Follower(news.feed, 0) for _ in range(3)]
    await settle()
    await third.stop()
    second.free.clear()
    for _ in range(3):
        news.publish()
        await settle()
    assert first.seen == [1, 2, 3]
    assert second.seen == [1]
    second.free.set()
    await settle()
    assert second.seen == [1, 2, 3]
    assert third.seen == []
    await first.stop()
    await second.stop()


async def test_one_that_was_slow_is_told_from_the_log_what_memory_no_longer_has() -> None:
    news = News(kept_bytes=30)
    follower = Follower(news.feed, 0)
    follower.free.clear()
    for _ in range(20):
        news.publish()
        await settle()
    assert follower.seen == [1]
    follower.free.set()
    await settle()
    assert follower.seen == list(range(1, 21))
    assert news.store.asked == [1]
    await follower.stop()


async def test_one_that_is_too_slow_is_told_that_it_fell_behind() -> None:
    news = News(kept_bytes=30)
    for _ in range(10):
        news.publish()
    news.store.oldest = 5
    follower = Follower(news.feed, 3)
    with pytest.raises(FellBehind) as caught:
        await follower.task
    assert caught.value.oldest == 5
    follower = Follower(news.feed, 4)
    await settle()
    assert follower.seen == list(range(5, 11))
    await follower.stop()


async def test_a_feed_begins_with_what_was_committed_before() -> None:
    news = News()
    for _ in range(3):
        news.publish()
    later = Feed(news.store, 3)
    assert later.newest == 3
    follower = Follower(later, 1)
    await settle()
    assert follower.seen == [2, 3]
    await follower.stop()


async def test_memory_holds_the_newest_commits_up_to_so_many_bytes() -> None:
    news = News(kept_bytes=30)
    for _ in range(9):
        news.publish()
    assert [commit.number for commit in news.feed.recent(6)] == [7, 8, 9]
    assert news.feed.recent(5) == []
    news.publish(size=1000)  # the newest is kept, however large
    assert [commit.number for commit in news.feed.recent(9)] == [10]
    assert news.feed.recent(8) == []


# -- sessions removed


async def test_removals_are_counted_once_whoever_asks_when() -> None:
    news = News(kept_bytes=30)
    removed = RemovedSessions(news.feed)
    news.publish("purged", "expired")
    assert removed.by_reason() == removed.by_reason() == Counter(purged=1, expired=1)
    following = asyncio.create_task(removed.run())
    await settle()
    news.publish("purged")
    assert removed.by_reason()["purged"] == 2
    await settle()
    for _ in range(20):  # more than memory holds, before the follower comes to a turn
        news.publish("closed")
    await settle()
    assert removed.by_reason() == Counter(purged=2, expired=1, closed=20)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_counting_goes_on_after_what_the_log_has_lost() -> None:
    news = News(kept_bytes=10)
    removed = RemovedSessions(news.feed)
    for _ in range(9):
        news.publish("purged")
    news.store.oldest = 8
    following = asyncio.create_task(removed.run())
    await settle()
    news.publish("closed")
    await settle()
    assert removed.by_reason()["closed"] == 1
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_a_removal_is_counted_as_soon_as_it_is_told() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.start(desk.removed.run())
        desk.ask("delete_session", session_id="s1", purge=True)
        assert desk.ask("get_session_statistics")["removed_by_reason"]["purged"] == 1


def test_a_removal_that_failed_is_not() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peer = desk.peer()
        peer.ask(1, "delete_session", session_id="s1", purge=True)
        desk.settle()
        peer.ask(2, "get_session_statistics")
        desk.fail()
        assert peer.codes == ["storage_unavailable", "ok"]
        assert peer.replies[1]["result"]["removed_by_reason"]["purged"] == 0


async def test_a_number_that_failed_is_missing_and_nothing_else() -> None:
    """As with a store that others write to, where numbers are not used again."""
    feed = Feed(None, 0)
    removed = RemovedSessions(feed)
    for number in (2, 3, 7, 8):
        feed.publish(Commit(number, [Removed(session_key("", "s"), 2, 0, "test", 0, 1, "closed")]), 10)
        assert [commit.number for commit in feed.recent(number - 1)] == [number]
    assert [commit.number for commit in feed.recent(0)] == [2, 3, 7, 8]
    assert [commit.number for commit in feed.recent(3)] == [commit.number for commit in feed.recent(5)] == [7, 8]
    assert removed.by_reason() == {"closed": 4}
