"""What is committed and not in the tables yet.

Two generations: commits go into the current one; a round of writing behind takes it
as a whole, and drops it when the tables have it.  So a commit costs one update of a
dictionary, and dropping costs nothing.
"""

import asyncio
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter

from msgspec import Struct

from stui_sessions.domain.entities import OTHER_COST, SESSION, SESSION_COST, Entity, Key, Session
from stui_sessions.domain.records import Record, Removed
from stui_sessions.storage.counting import is_stored

REMEMBERED = 65_536
"""Versions of written entities that are remembered, at least; twice as many at most."""

_state_bytes: Callable[[Entity], int] = attrgetter("state_bytes")


class Layer(Struct, gc=False):
    """One commit: which entities it changed, and between which instants its sessions were active.

    The instants are found out when a search asks for them; they are bounds, because
    later commits take sessions away from it.
    """

    number: int
    keys: tuple[Key, ...]
    oldest: int = -1  # ms; -1 while they are not known
    newest: int = -1


class Generation(Struct):
    """Commits that go into the tables together."""

    entities: dict[Key, Entity]  # each as the newest of these commits left it
    layers: list[Layer]
    moved: dict[int, Key]  # sessions, by number, that are in another place of lists than the tables say
    removed: dict[int, Key]  # sessions, by number, that are no longer known
    last: int = 0  # the newest commit
    size: int = 0  # bytes of log
    memory: int = 0  # bytes of entities, at most
    exact: int = 0  # what they took when they were last counted


def _generation() -> Generation:
    return Generation({}, [], {}, {})


class View:
    """What is not in the tables, as of one moment.  For a search, in its thread."""

    def __init__(self, current: Generation, former: Generation) -> None:
        self._current = dict(current.entities)
        self._former = former.entities  # it does not change any more
        self.layers = [*former.layers, *current.layers]
        self.moved = {**former.moved, **current.moved}

    def get(self, key: Key) -> Entity | None:
        """The entity, None if the tables have it."""
        found = self._current.get(key)
        return self._former.get(key) if found is None else found

    def moved_sessions(self) -> Iterator[Session]:
        """Those of `moved` that are still known."""
        for number, key in self.moved.items():
            entity = self.get(key)
            if isinstance(entity, Session) and entity.number == number:
                yield entity

    def layer_sessions(self, layer: Layer) -> list[Session]:
        """The sessions that are as this commit left them."""
        found = []
        for key in layer.keys:
            entity = self.get(key)
            if isinstance(entity, Session) and entity.commit == layer.number:
                found.append(entity)
        return found

    def measure(self) -> None:
        """Find out the instants of all layers."""
        for layer in self.layers:
            if layer.oldest < 0:
                instants = [s.active_at for s in self.layer_sessions(layer)]
                layer.oldest, layer.newest = min(instants, default=0), max(instants, default=0)


class Unwritten:
    """See the module's text.  All but `view` is for the loop's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current = _generation()
        self._former = _generation()
        self._standings: dict[Key, int] = {}
        self._older_standings: dict[Key, int] = {}
        self._ahead: set[Key] = set()  # of the former generation, written already in a newer form

    # -- reading

    def get(self, key: Key) -> Entity | None:
        """The entity, None if the tables have it."""
        found = self._current.entities.get(key)
        return self._former.entities.get(key) if found is None else found

    def view(self) -> View:
        """All of it, as of now.  From any thread."""
        with self._lock:
            return View(self._current, self._former)

    @property
    def size(self) -> int:
        """Bytes of log that the tables do not have."""
        return self._current.size + self._former.size

    @property
    def moved(self) -> int:
        """How many sessions are in another place of lists than the tables say."""
        return len(self._current.moved) + len(self._former.moved)

    @property
    def is_empty(self) -> bool:
        return not self._current.last and not self._former.last

    def takes(self, enough: int) -> bool:
        """The entities of no round take `enough` bytes; counted anew if it seems so, for some are counted twice."""
        current = self._current
        if current.memory < enough:
            return False
        if current.exact < enough:
            current.memory = current.exact = _memory_of(current.entities.values())
        return current.memory >= enough

    @property
    def gathered(self) -> int:
        """Bytes of log that no round has begun to write."""
        return self._current.size

    # -- versions

    def stale(self, expected: dict[Key, int]) -> tuple[list[Key], list[Key]]:
        """The keys whose version is another one than expected, and those whose version only the tables know.

        The hot path: nearly all are in the current generation.
        """
        get = self._current.entities.get
        doubtful = [k for k, version in expected.items() if (e := get(k)) is None or e.version != version]
        if not doubtful:
            return [], []
        stale, unknown = [], []
        for key in doubtful:
            standing = self._standing(key)
            if standing is None:
                unknown.append(key)
            elif standing != expected[key] and not (standing <= 0 and expected[key] in (0, -standing)):
                stale.append(key)
        return stale, unknown

    def _standing(self, key: Key) -> int | None:
        entity = self.get(key)
        if entity is not None:
            return _standing_of(entity)
        standing = self._standings.get(key)
        return self._older_standings.get(key) if standing is None else standing

    def remember(self, entities: Iterable[Entity]) -> None:
        """These are in the tables."""
        if len(self._standings) >= REMEMBERED:
            self._older_standings, self._standings = self._standings, {}
        self._standings.update([(entity.key, _standing_of(entity)) for entity in entities])

    # -- changing

    def add(self, number: int, after: dict[Key, Entity], moving: Sequence[Record], size: int) -> None:
        """A commit of `size` bytes; `moving` are those of its records that may move a session in lists."""
        with self._lock:
            current = self._current
            current.entities.update(after)
            current.layers.append(Layer(number, tuple(after)))
            current.last = number
            current.size += size
            current.memory += _memory_of(after.values())
            for record in moving:
                if record.key[1] == SESSION:
                    self._move(record, after[record.key])

    def _move(self, record: Record, after: Entity) -> None:
        if isinstance(record, Removed):
            self._current.moved[record.number] = self._current.removed[record.number] = record.key
        elif isinstance(after, Session):
            self._current.moved[after.number] = after.key

    def adopt(self, entities: Iterable[Entity], moving: Container[Key], removed: dict[int, Key]) -> None:
        """What a replay has found; no search has begun yet.  See `Replay` for what the arguments say."""
        entities = list(entities)
        current = self._current
        current.entities.update([(entity.key, entity) for entity in entities])
        current.memory += _memory_of(entities)
        for entity in entities:
            if isinstance(entity, Session) and entity.key in moving:
                current.moved[entity.number] = entity.key
        current.moved |= removed
        current.removed |= removed

    def begin_with(self, last: int, size: int) -> None:
        """The log has commits up to `last` that the tables do not have, of `size` bytes together."""
        self._current.last, self._current.size = last, size

    def adopted(self) -> None:
        """All has been adopted."""
        known = {layer.number for layer in self._current.layers}
        commits: dict[int, list[Key]] = {}
        for key, entity in self._current.entities.items():
            if entity.commit not in known:
                commits.setdefault(entity.commit, []).append(key)
        self._current.layers[:0] = [Layer(number, tuple(keys)) for number, keys in sorted(commits.items())]

    # -- writing behind

    def begin_round(self) -> Generation | None:
        """The generation that is to be written; None if there is nothing to write."""
        if not self._current.last:
            return None
        assert not self._former.last
        with self._lock:
            self._former, self._current = self._current, _generation()
        return self._former

    def give_back(self) -> None:
        """The round has failed: what it was to write is with the rest again."""
        former, current = self._former, self._current
        with self._lock:
            self._current = Generation(
                former.entities | current.entities,
                former.layers + current.layers,
                former.moved | current.moved,
                former.removed | current.removed,
                current.last or former.last,
                former.size + current.size,
                former.memory + current.memory,
            )
            self._former = _generation()
        self._ahead.clear()

    def drop(self) -> None:
        """The round is done: the tables have the former generation."""
        with self._lock:
            self._former = _generation()
        self._ahead.clear()

    def is_ahead(self, key: Key) -> bool:
        """The tables have a newer form of it than the former generation."""
        return key in self._ahead

    def all_moved(self) -> tuple[dict[int, Key], list[Entity], list[int]]:
        """Sessions in another place than the tables say: by number; as they are now; and the removed ones' numbers."""
        moved = self._former.moved | self._current.moved
        removed = self._former.removed | self._current.removed
        keys = dict.fromkeys(moved.values())
        return moved, [e for key in keys if (e := self.get(key)) is not None], [n for n in moved if n in removed]

    def settle(self, moved: dict[int, Key], written: Iterable[Entity]) -> None:
        """The tables have these sessions in their places now, but for those that have moved again meanwhile."""
        same = {e.key for e in written if self.get(e.key) is e}
        with self._lock:
            for generation in (self._former, self._current):
                generation.moved = {n: k for n, k in generation.moved.items() if not (n in moved and k in same)}

    def note_ahead(self, entities: Iterable[Entity]) -> None:
        """The tables have these; if a round is under way, in a newer form than it was going to write."""
        if self._former.last:
            self._ahead.update(e.key for e in entities)


def _standing_of(entity: Entity) -> int:
    """Its version; below zero where nothing is stored, or no longer."""
    return entity.version if is_stored(entity) else -entity.version


def _memory_of(entities: Iterable[Entity]) -> int:
    entities = list(entities)
    try:
        return sum(map(_state_bytes, entities), SESSION_COST * len(entities))
    except AttributeError:  # not all of them are sessions
        return sum(e.state_bytes + SESSION_COST if isinstance(e, Session) else OTHER_COST for e in entities)


class Pins:
    """Reads that are under way.

    What the tables have is dropped only behind them: they may have looked at the tables before.
    """

    def __init__(self) -> None:
        self._held: set[asyncio.Future[None]] = set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A read, from before it looks at the tables until it has its answer."""
        done = asyncio.get_running_loop().create_future()
        self._held.add(done)
        try:
            yield
        finally:
            self._held.discard(done)
            done.set_result(None)

    async def passed(self) -> None:
        """Until all that are held now are over."""
        if self._held:
            await asyncio.wait(list(self._held))
