"""Counts that follow from what was committed: the feed's first follower."""

from collections import Counter

from stui_sessions.domain.records import Removed
from stui_sessions.engine.feed import Feed, FellBehind
from stui_sessions.storage.contract import Commit


class RemovedSessions:
    """Sessions removed for good since the start, by the reason."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._seen = feed.newest
        self._by_reason: Counter[str] = Counter()

    def by_reason(self) -> Counter[str]:
        """The counts as of the newest commit."""
        for commit in self._feed.recent(self._seen):
            self._count(commit)
        return self._by_reason

    async def run(self) -> None:
        """Follow the feed until cancelled."""
        while True:
            try:
                async for commit in self._feed.follow(self._seen):
                    self._count(commit)
            except FellBehind:
                self._seen = self._feed.newest  # commits that the log no longer holds cannot be counted

    def _count(self, commit: Commit) -> None:
        if commit.number > self._seen:
            self._seen = commit.number
            if Removed in map(type, commit.records):  # few commits remove anything, so the quick look pays
                self._by_reason.update(record.reason for record in commit.records if type(record) is Removed)
