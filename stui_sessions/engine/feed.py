"""The feed: committed records in order, for whoever in this process follows them.

One way for news to travel: statistics today, subscribers and other followers later.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from itertools import takewhile

from stui_sessions.storage.contract import Commit, LogGone, Store

KEPT_BYTES = 256 * 1024
"""Of the newest commits in memory, measured as in the log; older ones are read from the log."""


class FellBehind(Exception):
    """The log no longer holds what the follower has not seen; it begins at commit `oldest`."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the log begins at commit {oldest}")
        self.oldest = oldest


class Feed:
    """Tells followers what this server has committed.

    `store` has the log of that; None where its log is everybody's, and goes by other numbers.
    """

    def __init__(self, store: Store | None, committed: int, kept_bytes: int = KEPT_BYTES) -> None:
        self.newest = committed
        """The number of the newest commit."""
        self._store = store
        self._kept_bytes = kept_bytes
        self._recent: deque[tuple[Commit, int]] = deque()
        self._bytes = 0
        self._gone = committed  # what is behind this one is in memory
        self._news: asyncio.Future[None] | None = None

    def publish(self, commit: Commit, size: int) -> None:
        """A commit is on disk; `size` in bytes of log."""
        self.newest = commit.number
        self._recent.append((commit, size))
        self._bytes += size
        while self._bytes > self._kept_bytes and len(self._recent) > 1:
            gone, size = self._recent.popleft()
            self._bytes -= size
            self._gone = gone.number
        if self._news is not None:
            news, self._news = self._news, None
            if not news.done():
                news.set_result(None)

    async def follow(self, since: int) -> AsyncIterator[Commit]:
        """Every commit behind number `since`, in order, as they come.  Raises FellBehind."""
        while True:
            if since >= self.newest:
                await self._more()
            elif commits := self.recent(since):
                for commit in commits:
                    since = commit.number
                    yield commit
            else:
                async for commit in self._logged(since):
                    since = commit.number
                    yield commit

    def recent(self, since: int) -> list[Commit]:
        """All commits behind number `since`, if they are still in memory; else none.

        A number that failed may be missing between them.
        """
        if since < self._gone:
            return []
        found = [commit for commit, _ in takewhile(lambda kept: kept[0].number > since, reversed(self._recent))]
        found.reverse()
        return found

    async def _logged(self, since: int) -> AsyncIterator[Commit]:
        if self._store is None:
            raise FellBehind(self._recent[0][0].number)
        try:
            async for commit in self._store.log(since):
                yield commit
        except LogGone as error:
            raise FellBehind(error.oldest) from None

    async def _more(self) -> None:
        """Wait for the next commit."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)
