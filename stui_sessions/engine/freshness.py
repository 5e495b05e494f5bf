"""Which entities in memory may be told as they are, where other servers write to the store too.

Looks at the store are numbered as they begin: reads, and commits, which check the
versions that they stand on.  What a look has found to be so is fresh for all requests
that came before it began.  So what one reply told, every later request sees, whichever
server it reaches.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from stui_sessions.domain.entities import Entity, Key

RECENT_SECONDS = 5.0
"""For so long after a look, a write is decided on what that has found, and its commit checks it.

A decision on what is stale costs all that share its commit another try, so what was
not looked at for longer is looked at first.
"""

SPARE = 1000


class View(Struct, gc=False):
    """What of the memory is fresh enough: in the place of the cache's entities, for one decision."""

    entities: Mapping[Key, Entity]
    confirmed: Mapping[Key, int]
    since: int  # looks up to this one are too old
    committed: int  # what belongs to a later commit is ours, and that commit checks it

    def get(self, key: Key, default: Any = None) -> Entity | None:
        entity = self.entities.get(key)
        if entity is None or entity.commit > self.committed or self.confirmed.get(key, 0) > self.since:
            return entity
        return None


class Freshness:
    """When each entity in memory was last found to be what is committed."""

    def __init__(self, entities: Mapping[Key, Entity]) -> None:
        self.begun = 0
        """Looks that have begun."""
        self._entities = entities
        self._confirmed: dict[Key, int] = {}
        self._times: deque[tuple[float, int]] = deque()
        self._old = 0

    def begin(self, now: float) -> int:
        """A look begins, at `now` (monotonic seconds); its number."""
        self.begun += 1
        self._times.append((now, self.begun))
        while self._times[0][0] < now - RECENT_SECONDS:
            self._old = self._times.popleft()[1]
        if len(self._confirmed) > 2 * len(self._entities) + SPARE:
            self._confirmed = {key: at for key, at in self._confirmed.items() if key in self._entities}
        return self.begun

    def confirm(self, keys: Iterable[Key], look: int) -> None:
        """A look has found that these are as they are in memory."""
        self._confirmed.update(dict.fromkeys(keys, look))

    def strict(self, since: int, committed: int) -> View:
        """What a request may be told that came when `since` looks had begun."""
        return View(self._entities, self._confirmed, since, committed)

    def recent(self, committed: int) -> View:
        """What a decision may stand on whose commit checks it."""
        return View(self._entities, self._confirmed, self._old, committed)
