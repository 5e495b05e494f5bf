"""What is in memory: entities as they were committed, or as the gathering commit will have them."""

from collections import OrderedDict
from collections.abc import Iterable

from stui_sessions.domain.entities import Entity, Key, Session

LOOKED_AT = 1000
"""Entities that one trim looks at, so that it is short."""


class Cache:
    """Entities by their keys, the longest unused first.

    Anything that is committed may be dropped at any time, unless a decision that waits
    for more has pinned it.

    Who uses what is noted only while more than half of the limit is kept: before that
    nothing has to go, and to note it costs a tenth of a read.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes to be kept; may be passed by what is pinned or not committed."""
        self.entities: OrderedDict[Key, Entity] = OrderedDict()
        self.bytes = 0
        """Memory that they take, about."""
        self.sessions = 0
        """How many of them are sessions."""
        self.pinned_bytes = 0
        self._pins: dict[Key, int] = {}

    def note_use(self, entities: Iterable[Entity]) -> None:
        """These were looked at, and memory may run short."""
        for entity in entities:
            self.entities.move_to_end(entity.key)

    def renew(self, entity: Entity, growth: int = 0) -> None:
        """Keep a newer form of what is there, which takes so many bytes more.  The hot path of `put`."""
        self.entities[entity.key] = entity
        if 2 * self.bytes > self.limit:
            self.entities.move_to_end(entity.key)
        if growth:
            self.grow(entity.key, growth)

    def put(self, entity: Entity) -> None:
        """Keep it, in the place of what was there."""
        key, growth = entity.key, entity.cost
        before = self.entities.get(key)
        self.entities[key] = entity
        self.sessions += type(entity) is Session
        if before is not None:
            self.sessions -= type(before) is Session
            self.entities.move_to_end(key)
            growth -= before.cost
        self.grow(key, growth)

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget these, pinned or not: they are not what is committed."""
        for key in keys:
            entity = self.entities.pop(key, None)
            if entity is not None:
                self.sessions -= type(entity) is Session
                self.bytes -= entity.cost
                if key in self._pins:
                    self.pinned_bytes -= entity.cost

    def pin(self, key: Key) -> None:
        """Keep what is (or comes) under this key until it is unpinned as often."""
        pins = self._pins[key] = self._pins.get(key, 0) + 1
        if pins == 1 and key in self.entities:
            self.pinned_bytes += self.entities[key].cost

    def unpin(self, keys: Iterable[Key]) -> None:
        pins, entities = self._pins, self.entities
        for key in keys:
            left = pins.pop(key) - 1
            if left:
                pins[key] = left
            elif (entity := entities.get(key)) is not None:
                self.pinned_bytes -= entity.cost

    def grow(self, key: Key, growth: int) -> None:
        """What is under `key` takes so many bytes more."""
        self.bytes += growth
        if key in self._pins:
            self.pinned_bytes += growth

    def trim(self, committed: int) -> None:
        """Drop what was not used for longest until no more than the limit is kept.

        What belongs to a later commit than `committed` is nowhere else yet: it stays,
        and so does what is pinned; both go to the end of the line.
        """
        entities, pins = self.entities, self._pins
        for _ in range(min(LOOKED_AT, len(entities))):
            if self.bytes <= self.limit:
                break
            key, entity = entities.popitem(last=False)
            if entity.commit > committed or key in pins:
                entities[key] = entity
            else:
                self.sessions -= type(entity) is Session
                self.bytes -= entity.cost
