"""Replay: what the log tells, put on top of what the tables have.  Pure.

Records are gathered for each entity and applied once.  The tables may be ahead of
the commit up to which they are complete, because a round of writing behind was cut
off; every row tells its commit, and what it has already is left out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

from stui_sessions.domain.entities import SESSION, Absent, Damaged, Entity, Key, Session
from stui_sessions.domain.records import Created, Record, Removed, Updated, apply, composed
from stui_sessions.errors import StorageDamaged
from stui_sessions.protocol.jsontext import merge_all
from stui_sessions.storage.border import Log
from stui_sessions.storage.counting import Tally, structural
from stui_sessions.storage.local.entry import Header, Payload

Gathered = list[Any]
"""Records of one entity, each followed by the number of its commit."""

_OBJECTS = tuple(map(attrgetter, ("session_state", "workspace_context", "inspector_state", "object_registry")))


class Replay:
    """Feed it the entries in their order (`add`), then what is stored (`wanted`, `put`), then look at what it has."""

    def __init__(self, tally: Tally, last_number: int) -> None:
        self.tally = tally
        """The totals after the newest entry."""
        self.last_number = last_number
        self.entities: dict[Key, Entity] = {}
        """Each entity that the log changes and the tables do not have so."""
        self.removed: dict[int, Key] = {}
        """Sessions, by number, that are no longer known."""
        self.moving: set[Key] = set()
        """Entities with other changes than saved state and use: they may be in another place than the tables say."""
        self.damaged: list[Key] = []
        """Stored, but damaged: their changes have nothing to go on."""
        self._gathered: defaultdict[Key, Gathered] = defaultdict(list)

    def add(self, header: Header, payload: Payload) -> None:
        """The next entry.  For hundreds of thousands of records: as little as possible for each."""
        number, gathered = header.number, self._gathered
        for record in payload.records:
            of_key = gathered[record.key]
            of_key.append(record)
            of_key.append(number)
        for record in structural(payload.records):
            self.moving.add(record.key)
            if isinstance(record, Removed):
                self.removed[record.number] = record.key
        self.tally.set(payload.totals)
        self.last_number = max(self.last_number, payload.last_number)

    @property
    def left(self) -> int:
        """How many entities are still to be brought up to date."""
        return len(self._gathered)

    def is_left(self, key: Key) -> bool:
        """This one is still to be brought up to date."""
        return key in self._gathered

    def wanted(self) -> list[Key]:
        """Those that are left, about in the order of their rows in the tables."""
        return sorted(self._gathered, key=itemgetter(2))

    def put(self, stored: Mapping[Key, Entity]) -> None:
        """What the store holds of wanted entities.  StorageDamaged if that is not what the log goes on from.

        The entity that this is raised for is still left, with those behind it.
        """
        for key, entity in stored.items():
            after = self._after(entity, self._gathered[key])
            del self._gathered[key]
            if after is not None:
                self.entities[key] = after

    def report_damage(self, log: Log) -> None:
        """Say what of the log has come to nothing."""
        for key in self.damaged:
            log.error(f"{key[1]}_not_replayed", reason="what is stored of it is damaged")

    def _after(self, stored: Entity, gathered: Gathered) -> Entity | None:
        """The entity with all that it lacks; None if it lacks nothing."""
        records, numbers = gathered[::2], gathered[1::2]
        if isinstance(stored, Damaged) and not any(isinstance(record, Created | Removed) for record in records):
            self.damaged.append(stored.key)
            return None
        if numbers[0] <= stored.commit:
            records = [record for record, number in zip(records, numbers, strict=True) if number > stored.commit]
            if not records:
                return None
        if isinstance(stored, Absent) and stored.key[1] == SESSION:
            records = _since_made(records)
        return _applied(stored, records, numbers[-1])


def _since_made(records: list[Record]) -> list[Record]:
    """Without what came before a session was removed or made: the tables were ahead and have dropped its row."""
    for place in range(len(records) - 1, 0, -1):
        if isinstance(records[place], Created | Removed):
            return records[place:]
    return records


def _applied(entity: Entity, records: list[Record], commit: int) -> Entity:
    """The entity after some records, the last of them in `commit`."""
    try:
        if len(records) > 1:
            if isinstance(entity, Session) and all(
                type(record) is Updated and not record.replaces for record in records
            ):
                records = [_merged(entity, records)]  # type: ignore[arg-type]
            else:
                records = composed(records)
        for record in records:
            entity = apply(entity, record, commit)
    except ValueError as error:
        raise StorageDamaged(f"the log and the tables do not go together: {error} ({entity.key[1]})") from error
    return entity


def _merged(s: Session, run: Sequence[Updated]) -> Updated:
    """Many merging updates of `s` as one that replaces: each object is decoded and encoded once."""
    last = run[-1]
    objects: list[bytes | None] = []
    for get in _OBJECTS:
        patches = [patch for patch in map(get, run) if patch is not None]
        objects.append(merge_all([get(s), *patches]) if patches else None)
    return Updated(last.key, last.version, last.at, last.by, run[0].previous, last.revision, True, *objects)
