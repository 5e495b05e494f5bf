"""Which entities in memory may be told as they are, where other servers write to the store too.

Looks at the store are numbered as they begin: reads, and commits, which check the
versions that they stand on.  What a look has found to be so is fresh for all requests
that came before it began.  So what one reply told, every later request sees, whichever
server it reaches.
"""

from collections import deque
from collections.abc import Container, Iterable, Mapping
from time import monotonic
from typing import Any

from msgspec import Struct

from stui_sessions.domain.entities import Entity, Key
from stui_sessions.engine.cache import Cache
from stui_sessions.protocol.registry import Command
from stui_sessions.storage.contract import Batch

RECENT_SECONDS = 600.0
"""For so long after a look, a write is decided on what that has found, and its commit checks it.

A decision on what is stale costs all that share its commit another try.  So what others
are said to have changed (`doubt`) is looked at first, and what was not looked at for
longer than this, since they may not have been heard.
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
    """When each entity in memory was last found to be what is committed, and which peers stand on what is not yet."""

    def __init__(self, cache: Cache) -> None:
        self.begun = 0
        """Looks that have begun."""
        self._cache = cache
        self._confirmed: dict[Key, int] = {}
        self._times: deque[tuple[float, int]] = deque()
        self._old = 0
        self._writers: dict[int, set[int]] = {}
        self._standing: dict[int, set[int]] = {}

    # -- looks

    def begin_look(self) -> int:
        """A read or a commit begins; its number."""
        now = monotonic()
        self.begun += 1
        self._times.append((now, self.begun))
        while self._times[0][0] < now - RECENT_SECONDS:
            self._old = self._times.popleft()[1]
        entities = self._cache.entities
        if len(self._confirmed) > 2 * len(entities) + SPARE:
            self._confirmed = {key: at for key, at in self._confirmed.items() if key in entities}
        return self.begun

    def confirm(self, keys: Iterable[Key], look: int) -> None:
        """A look has found that these are as they are in memory."""
        self._confirmed.update(dict.fromkeys(keys, look))

    def doubt(self, keys: Iterable[Key]) -> None:
        """Others have changed these, it is said: a look comes before the next decision on them."""
        for key in keys:
            self._confirmed.pop(key, None)

    def take_news(
        self, before: Mapping[Key, Entity | None], found: Mapping[Key, Entity], look: int, expected: Container[Key]
    ) -> None:
        """What a look has found of entities that were in memory as `before` when it began.

        What has changed in memory meanwhile is ours and newer; what the gathering batch
        stands on (`expected`) stays as it is, for the commit to find it stale.
        """
        cache, confirmed = self._cache, []
        for key, entity in before.items():
            if cache.entities.get(key) is entity and key not in expected:
                if key in found:
                    cache.put(found[key])
                confirmed.append(key)
        self.confirm(confirmed, look)

    def note_committed(self, batch: Batch, look: int) -> None:
        """A commit, which was a look too, is in the store.

        What is in memory of it is that, or newer; what a look has brought in its place
        meanwhile may be older, and goes.
        """
        get = self._cache.entities.get
        others = [m for key, entity in batch.after.items() if (m := get(key)) is not None and m is not entity]
        self._cache.drop([m.key for m in others if m.commit < batch.number])
        self.confirm(batch.after, look)

    # -- what a request may see

    def asked_at(self, command: Command) -> int | None:
        """Since when what is told must be fresh; None for what may write: its commit checks what it stood on."""
        return None if command.access == "write" else self.begun

    def view(self, since: int | None, committed: int) -> View:
        """What a request may see that came when `since` looks had begun; None: what is worth a decision."""
        return View(self._cache.entities, self._confirmed, self._old if since is None else since, committed)

    # -- commits on their way at the same time

    def note_peer(self, connection: int, number: int, wrote: bool) -> None:
        """A reply to this connection stands on commit `number`, which is still to come."""
        self._standing.setdefault(number, set()).add(connection)
        if wrote:
            self._writers.setdefault(number, set()).add(connection)

    def may_overtake(self, batch: Batch, before: Batch) -> bool:
        """Whether `batch` may be on its way at the same time as `before`: nothing in it comes after something there.

        Neither stands on what the other changes, and what one connection has asked
        stays in its order.
        """
        if not self._writers.get(batch.number, _NOBODY).isdisjoint(self._standing.get(before.number, _NOBODY)):
            return False
        if not before.after.keys().isdisjoint(batch.expected) or not before.after.keys().isdisjoint(batch.after):
            return False
        return batch.after.keys().isdisjoint(before.expected)

    def forget_peers(self, ended: int, given_up: int = 0) -> None:
        """All commits up to `ended` have ended; `given_up` was not tried."""
        for noted in (self._standing, self._writers):
            for number in [number for number in noted if number <= ended or number == given_up]:
                del noted[number]


_NOBODY: frozenset[int] = frozenset()
