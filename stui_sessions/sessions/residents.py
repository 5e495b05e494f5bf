"""What of the sessions is in memory, and how much.

A session is resident while it is in use or has changes that are in no snapshot
yet.  Everything else is dropped, the longest unused first, when the residents
pass their limit, and is loaded again when it is named.
"""

from collections import OrderedDict
from collections.abc import Iterable

from stui_sessions.sessions.model import Removed, Session

SESSION_COST = 1000
"""Bytes of memory a session takes beside its state (measured: about 900)."""

ABSENT_COST = 400
CLIENT_COST = 500
CLIENT_SESSION_COST = 120


class Resident:
    """A place in memory for one session id, also one that is known not to exist."""

    __slots__ = (
        "changed",
        "damaged",
        "dirty",
        "gone",
        "keys",
        "recorded_at",
        "session",
        "session_id",
        "size",
        "written",
    )

    def __init__(self, session_id: str, session: Session | None, damaged: bool = False) -> None:
        self.session_id = session_id
        self.session = session
        self.damaged = damaged
        self.gone: Removed | None = None
        """How to delete what is stored of it, once it has been removed."""
        self.size = session.state_bytes if session is not None else 0
        self.keys: tuple[str, ...] | None = None
        """The top-level keys of `session_state`, in order, where they are known."""
        self.dirty = False
        """It has changes that are in no snapshot yet."""
        self.written = 0
        """The commit that a reply about this session must wait for."""
        self.changed = 0
        """The commit that last touched it, activity included."""
        self.recorded_at = session.active_at if session is not None else 0
        """The activity that is on disk or on its way there, ms."""

    @property
    def form(self) -> Session | Removed | None:
        """What a snapshot has to write of it; None if it never existed."""
        return self.session or self.gone

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return SESSION_COST + self.size if self.session is not None else ABSENT_COST


class ClientEntry:
    """The sessions of one client that are stored as live (some may have expired since)."""

    __slots__ = ("changed", "dirty", "session_ids")

    def __init__(self, session_ids: Iterable[str]) -> None:
        self.session_ids = dict.fromkeys(session_ids)
        self.dirty = False
        """Its sessions are not those in the snapshots."""
        self.changed = 0
        """The commit that last changed which sessions it has."""

    @property
    def cost(self) -> int:
        return CLIENT_COST + CLIENT_SESSION_COST * len(self.session_ids)


class Residents:
    """Sessions and client entries in memory, least recently used first."""

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, Resident] = OrderedDict()
        self.clients: OrderedDict[str, ClientEntry] = OrderedDict()
        self.bytes = 0
        """Estimated memory of all of them; kept up to date by whoever changes them."""

    def add_session(self, resident: Resident) -> None:
        self.sessions[resident.session_id] = resident
        self.bytes += resident.cost

    def add_client(self, client_id: str, entry: ClientEntry) -> None:
        self.clients[client_id] = entry
        self.bytes += entry.cost

    def trim(self, limit: int, most: int = 1000) -> list[Resident]:
        """Drop what was not used for longest until `limit` bytes are kept.

        Looks at no more than `most` of each kind, so that a call is short; what
        is dirty goes to the end of the line.  Returns the sessions that only wait
        for their activity to be recorded.
        """
        unrecorded = []
        for _ in range(most):
            if self.bytes <= limit:
                break
            if self.sessions:
                unrecorded += self._drop_session()
            if self.clients:
                self._drop_client()
        return unrecorded

    def unrecorded(self) -> list[Resident]:
        """Sessions that were used later than is on disk."""
        return [r for r in self.sessions.values() if r.session is not None and r.session.active_at > r.recorded_at]

    def _drop_session(self) -> list[Resident]:
        session_id, resident = self.sessions.popitem(last=False)
        session = resident.session
        unrecorded = session is not None and session.active_at > resident.recorded_at
        if resident.dirty or unrecorded:
            self.sessions[session_id] = resident
            return [] if resident.dirty else [resident]
        self.bytes -= resident.cost
        return []

    def _drop_client(self) -> None:
        client_id, entry = self.clients.popitem(last=False)
        if entry.dirty:
            self.clients[client_id] = entry
        else:
            self.bytes -= entry.cost
