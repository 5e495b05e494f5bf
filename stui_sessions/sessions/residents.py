"""What of the sessions is in memory, and how much.

A session is resident while it is in use or has changes that are in no snapshot
yet.  Everything else is dropped, the longest unused first, when the residents
pass their limit, and is loaded again when it is named.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from stui_sessions.sessions.model import LIVE, Removed, Session

SESSION_COST = 1000
"""Bytes of memory a session takes beside its state (measured: about 900)."""

ABSENT_COST = 400
GROUP_COST = 600
GROUP_MEMBER_COST = 120


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
        self.gone: tuple[Removed, ...] = ()
        """How to delete what is stored of those that had this id and were removed."""
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
    def forms(self) -> tuple[Session | Removed, ...]:
        """What a snapshot has to write of it; nothing if it never existed."""
        return self.gone if self.session is None else (*self.gone, self.session)

    @property
    def is_unrecorded(self) -> bool:
        """It was used at another time than is on disk: later, or the clock was set back."""
        return self.session is not None and self.session.active_at != self.recorded_at

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        if self.session is None:
            return ABSENT_COST + len(self.session_id)
        return SESSION_COST + self.size + len(self.session_id) + len(self.session.about.metadata)


class GroupKey(NamedTuple):
    """What the sessions of a group have in common.

    kind "owner": a user and a client (or a user without one); `name` is the client.
    kind "external": an external id among one user's sessions; `name` is that id.
    """

    kind: str
    user_id: str
    name: str


def owner_key(user_id: str, client_id: str) -> GroupKey | None:
    """The group in which an owner's sessions are counted; None for a session that has no owner."""
    return GroupKey("owner", user_id, client_id) if user_id or client_id else None


def external_key(user_id: str, external_id: str) -> GroupKey | None:
    """The group of an external id; None where there is none."""
    return GroupKey("external", user_id, external_id) if external_id else None


def groups_of(session: Session | None) -> list[GroupKey]:
    """The groups that a session belongs to: none unless it is live."""
    if session is None or session.status != LIVE:
        return []
    about = session.about
    keys = (owner_key(about.user_id, session.client_id), external_key(about.user_id, about.external_id))
    return [key for key in keys if key is not None]


class Group:
    """Sessions with something in common that are stored as live (some may have expired since)."""

    __slots__ = ("changed", "dirty", "session_ids")

    def __init__(self, session_ids: Iterable[str]) -> None:
        self.session_ids = dict.fromkeys(session_ids)
        self.dirty = False
        """Its sessions are not those in the snapshots."""
        self.changed = 0
        """The commit that last changed which sessions it has."""

    @property
    def cost(self) -> int:
        return GROUP_COST + GROUP_MEMBER_COST * len(self.session_ids)


class Residents:
    """Sessions and groups in memory, least recently used first."""

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, Resident] = OrderedDict()
        self.groups: OrderedDict[GroupKey, Group] = OrderedDict()
        self.bytes = 0
        """Estimated memory of all of them; kept up to date by whoever changes them."""

    def add_session(self, resident: Resident) -> None:
        self.sessions[resident.session_id] = resident
        self.bytes += resident.cost

    def add_group(self, key: GroupKey, group: Group) -> None:
        self.groups[key] = group
        self.bytes += group.cost

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
            if self.groups:
                self._drop_group()
        return unrecorded

    def unrecorded(self) -> list[Resident]:
        """Sessions that were used later than is on disk."""
        return [r for r in self.sessions.values() if r.is_unrecorded]

    def _drop_session(self) -> list[Resident]:
        session_id, resident = self.sessions.popitem(last=False)
        if resident.dirty or resident.is_unrecorded:
            self.sessions[session_id] = resident
            return [] if resident.dirty else [resident]
        self.bytes -= resident.cost
        return []

    def _drop_group(self) -> None:
        key, group = self.groups.popitem(last=False)
        if group.dirty:
            self.groups[key] = group
        else:
            self.bytes -= group.cost
