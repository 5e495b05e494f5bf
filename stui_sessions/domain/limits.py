"""Who may create sessions, and how fast.  Pure: the time is an argument."""

import re
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from fnmatch import translate
from math import ceil

MAX_BUCKETS = 100_000
"""Clients whose creation rate is remembered; the longest quiet one is forgiven first."""


class ClientLists:
    """The allow and deny lists: shell globs, case-sensitive; deny wins."""

    def __init__(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        self._allow = _any_of(allow)
        self._deny = _any_of(deny)

    def admits(self, client_id: str) -> bool:
        if self._deny is not None and self._deny.match(client_id):
            return False
        return self._allow is None or self._allow.match(client_id) is not None


def _any_of(globs: Iterable[str]) -> re.Pattern[str] | None:
    patterns = [translate(glob) for glob in globs]
    return re.compile("|".join(patterns)) if patterns else None


class CreationRate:
    """A token bucket per key: `per_minute` a minute, in bursts of as many; 0 is off.

    `now` is monotonic seconds.  Tokens are taken by what was created, not by what
    was refused.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # key -> (tokens, as of)

    def __len__(self) -> int:
        return len(self._buckets)

    def change(self, per_minute: int) -> None:
        """Another rate from now on; what was taken stays taken."""
        self.per_minute = per_minute

    def seconds_to_wait(self, key: Hashable, now: float) -> int:
        """0 if one more may be created now, else the whole seconds until one may."""
        if not self.per_minute:
            return 0
        tokens = self._tokens(key, now)
        return 0 if tokens >= 1 else max(1, ceil((1 - tokens) * 60 / self.per_minute))

    def take(self, key: Hashable, now: float) -> None:
        """Count one creation."""
        if not self.per_minute:
            return
        self._buckets[key] = (self._tokens(key, now) - 1, now)
        self._buckets.move_to_end(key)
        self._forget(now)

    def give_back(self, key: Hashable) -> None:
        """A creation that was counted did not come about."""
        if key in self._buckets:
            tokens, at = self._buckets[key]
            self._buckets[key] = (min(tokens + 1, self.per_minute), at)

    def _tokens(self, key: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(key, (float(self.per_minute), now))
        return min(float(self.per_minute), tokens + max(0.0, now - at) * self.per_minute / 60)

    def _forget(self, now: float) -> None:
        """Drop buckets that are full again; they are in the order of their last use."""
        while self._buckets:
            key, (_, at) = next(iter(self._buckets.items()))
            if now - at < 60 and len(self._buckets) <= MAX_BUCKETS:
                break
            del self._buckets[key]
