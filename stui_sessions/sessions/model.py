"""A session, and the changes that sessions go through.

Instants are integer milliseconds since the epoch, UTC; the wire rounds them to
seconds.  State objects are kept as the JSON text that was sent, so that numbers,
code points and key order come back as they were saved.

`Session` and the records are stored as MessagePack arrays: new fields go at the
end, with a default, and old files stay readable.
"""

from msgspec import Struct
from msgspec.structs import replace

LIVE, EXPIRED, CLOSED, DELETED = 0, 1, 2, 3
"""The states of a session; `lifecycle.py` says what leads from one to another."""

EMPTY = b"{}"


class About(Struct, frozen=True, array_like=True, gc=False):
    """What is said of a session beside its state.  It changes seldom, so a state update need not copy it."""

    user_id: str = ""  # "" where there is none, here and below
    external_id: str = ""
    title: str = ""
    tags: tuple[str, ...] = ()
    metadata: bytes = EMPTY
    ends_at: int = 0  # ms; when it ends however much it is used, 0 for never
    pinned: bool = False  # the sweeper does not remove it


NOTHING = About()


class Session(Struct, frozen=True, array_like=True, gc=False):
    """One session as it is now.  Immutable: a change makes a new one."""

    number: int  # persistent counter, unique, never used again
    session_id: str
    client_id: str  # "" where there is none
    created_at: int
    modified_at: int  # moves when state changes
    active_at: int  # moves when the session is used
    timeout: int  # seconds of idleness after which it expires
    revision: int = 1
    status: int = LIVE
    ended_at: int = 0  # when it expired, was closed or deleted; 0 while live
    session_state: bytes = EMPTY
    workspace_context: bytes = EMPTY
    inspector_state: bytes = EMPTY
    object_registry: bytes = EMPTY
    about: About = NOTHING

    @property
    def user_id(self) -> str:
        return self.about.user_id

    @property
    def state_bytes(self) -> int:
        """Bytes of the four objects together."""
        return (
            len(self.session_state)
            + len(self.workspace_context)
            + len(self.inspector_state)
            + len(self.object_registry)
        )


class Created(Struct, frozen=True, array_like=True, tag="c", gc=False):
    """A session was born."""

    session: Session

    @property
    def number(self) -> int:
        return self.session.number


class Updated(Struct, frozen=True, array_like=True, tag="u", gc=False):
    """State changed.  Objects that did not change are None."""

    number: int
    revision: int
    at: int
    session_state: bytes | None
    workspace_context: bytes | None
    inspector_state: bytes | None
    object_registry: bytes | None


class Used(Struct, frozen=True, array_like=True, tag="a", gc=False):
    """Activity alone: idle time starts again."""

    number: int
    at: int


class Ended(Struct, frozen=True, array_like=True, tag="e", gc=False):
    """A session expired, was closed or deleted."""

    number: int
    status: int
    at: int


class Edited(Struct, frozen=True, array_like=True, tag="d", gc=False):
    """What is said of a session changed."""

    number: int
    timeout: int
    about: About


class Reopened(Struct, frozen=True, array_like=True, tag="o", gc=False):
    """An ended session is live again."""

    number: int
    at: int
    about: About


class Removed(Struct, frozen=True, array_like=True, tag="r", gc=False):
    """A session is no longer known."""

    number: int
    session_id: str
    client_id: str
    user_id: str = ""
    reason: str = ""  # how it had ended: expired, closed, deleted; or purged, replaced


Record = Created | Updated | Used | Ended | Removed | Edited | Reopened
"""What the journal holds: what changed and what it led to, never the command."""


def apply(session: Session | None, record: Record) -> Session | None:
    """The session after `record`; the inverse of deciding, used by replay.

    Raises ValueError if the record needs a session that is not there.
    """
    if isinstance(record, Created):
        return record.session
    if isinstance(record, Removed):
        return None
    if session is None:
        raise ValueError(f"record {type(record).__name__} for unknown session {record.number}")
    if isinstance(record, Updated):
        return updated(session, record)
    if isinstance(record, Used):
        return used(session, record.at)
    if isinstance(record, Edited):
        return replace(session, timeout=record.timeout, about=record.about)
    if isinstance(record, Reopened):
        return replace(session, status=LIVE, ended_at=0, active_at=record.at, about=record.about)
    return ended(session, record.status, record.at)


def updated(s: Session, r: Updated) -> Session:
    """`s` with the objects that `r` names replaced."""
    return replace(
        s,
        modified_at=r.at,
        active_at=r.at,
        revision=r.revision,
        session_state=s.session_state if r.session_state is None else r.session_state,
        workspace_context=s.workspace_context if r.workspace_context is None else r.workspace_context,
        inspector_state=s.inspector_state if r.inspector_state is None else r.inspector_state,
        object_registry=s.object_registry if r.object_registry is None else r.object_registry,
    )


def used(s: Session, at: int) -> Session:
    """`s` with its idle time started again at `at`."""
    return replace(s, active_at=at)


def ended(s: Session, status: int, at: int) -> Session:
    """`s` expired, closed or deleted."""
    return replace(s, status=status, ended_at=at)


class Totals(Struct, array_like=True, gc=False):
    """Counters that are kept, not counted: exact after every commit."""

    live: int = 0  # sessions with status LIVE
    clients: int = 0  # clients that have one
    last_number: int = 0  # the last session number given out
    expired: int = 0  # sessions with status EXPIRED, and so on
    closed: int = 0
    deleted: int = 0

    def by_status(self) -> tuple[int, int, int, int]:
        """The sessions of each status, in the order of the statuses."""
        return self.live, self.expired, self.closed, self.deleted

    def move(self, before: int | None, after: int | None) -> None:
        """A session went from one status to another; None is not to exist."""
        for status, step in ((before, -1), (after, 1)):
            if status == LIVE:
                self.live += step
            elif status == EXPIRED:
                self.expired += step
            elif status == CLOSED:
                self.closed += step
            elif status == DELETED:
                self.deleted += step
