"""What the server asks of itself: sweeping, and recording uses.  No client can ask it."""

from msgspec import Struct

from stui_sessions.domain import upkeep
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import Key, Session
from stui_sessions.domain.indexes import ask_for_names
from stui_sessions.protocol.registry import Command


class Keys(Struct):
    """The sessions to look at."""

    keys: list[Key]


class Removed(Struct):
    """The sessions that were removed, as they were."""

    sessions: list[Session]


class Nothing(Struct):
    """No result."""


def sweep(draft: Draft, p: Keys) -> Removed:
    """Expire what has come to its end, remove what was kept long enough."""
    found = draft.entities(p.keys)  # all at once, or each of them would be a load of its own; so with their names
    ask_for_names(draft, [s for s in found if isinstance(s, Session) and not s.status and not draft.is_live(s)])
    return Removed([s for s in (upkeep.sweep(draft, key) for key in p.keys) if s is not None])


def record_uses(draft: Draft, p: Keys) -> Nothing:
    """Record the uses of live sessions that no record tells of."""
    upkeep.record_uses(draft, p.keys)
    return Nothing()


SWEEP = Command("sweep", "Expires and removes what is due.", Keys, Removed, sweep)
RECORD_USES = Command("record_uses", "Records uses that are only noted.", Keys, Nothing, record_uses)
