"""What stores have in common: which records move sessions, what is newer, totals, when an end is due.  Pure.

The totals are kept, not counted: exact after every commit, for each tenant.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from stui_sessions.domain.entities import EMPTY, LIVE, OWNER, SESSION, Entity, Holder, Key, Owner, Session
from stui_sessions.domain.finding import Totals
from stui_sessions.domain.records import Record, Updated, Used

Counters = tuple[str, int, int, int, int, int]
"""A tenant, and its live, expired, closed and deleted sessions and its clients."""

_QUIET = (Updated, Used)


def structural(records: Iterable[Record]) -> list[Record]:
    """The records that may move a session in lists or totals: all but saving state and being used.  The hot path."""
    return [record for record in records if type(record) not in _QUIET]


def is_stored(entity: Entity) -> bool:
    """There is something: an owner without sessions is nothing."""
    if isinstance(entity, Owner):
        return bool(entity.chunks)
    return isinstance(entity, Session | Holder)


def newer(found: dict[Key, Entity], known: Mapping[Key, int] | None) -> dict[Key, Entity]:
    """What was read, without that which the caller has in the same version."""
    if not known:
        return found
    return {key: entity for key, entity in found.items() if known.get(key) != entity.version}


class Tally:
    """The totals of all tenants."""

    def __init__(self, counters: Iterable[Counters] = ()) -> None:
        self._counts = {tenant: list(counts) for tenant, *counts in counters}

    def totals(self, tenant: str) -> Totals:
        """Those of one tenant."""
        return Totals(*self._counts.get(tenant, ()))

    def counters(self) -> list[Counters]:
        """Those of all tenants."""
        return [(tenant, *counts) for tenant, counts in self._counts.items()]  # type: ignore[misc]

    def after(self, changes: Iterable[tuple[Entity, Entity]]) -> list[Counters]:
        """What the totals are for tenants where something changes; nothing is changed here yet."""
        counts: dict[str, list[int]] = {}
        for before, after in changes:
            was, now = _place(before), _place(after)
            if was == now:
                continue
            tenant = after.key[0]
            if tenant not in counts:
                counts[tenant] = list(self._counts.get(tenant, (0, 0, 0, 0, 0)))
            if was is not None:
                counts[tenant][was] -= 1
            if now is not None:
                counts[tenant][now] += 1
        return [(tenant, *now) for tenant, now in counts.items()]  # type: ignore[misc]

    def set(self, counters: Iterable[Counters]) -> None:
        """Put what `after` told in force."""
        for tenant, *counts in counters:
            self._counts[tenant] = list(counts)


_CLIENTS = 4


def is_counted(key: Key) -> bool:
    """Totals may change with this entity."""
    return key[1] == SESSION or (key[1] == OWNER and not key[2].endswith("\0"))


def _place(entity: Entity) -> int | None:
    """Which counter an entity stands in."""
    if isinstance(entity, Session):
        return entity.status
    if isinstance(entity, Owner) and entity.chunks and is_counted(entity.key):
        return _CLIENTS
    return None


MAX_INTEGER = 2**63 - 1
"""The largest that every database knows: as `due_at`, never."""


def due_at(session: Session) -> int:
    """When its end may come (live), or when it ended; ms.  Never, if it is to be kept."""
    about = session.about
    if session.status != LIVE:
        return MAX_INTEGER if about.pinned else session.ended_at
    idle = session.active_at + session.timeout * 1000
    return min(idle, about.ends_at or idle, MAX_INTEGER)


def bare(s: Session) -> Session:
    """The session without its state; its size is still told."""
    if s.session_state is s.workspace_context is s.inspector_state is s.object_registry is EMPTY:
        return s
    return replace(
        s, session_state=EMPTY, workspace_context=EMPTY, inspector_state=EMPTY, object_registry=EMPTY, keys=None
    )
