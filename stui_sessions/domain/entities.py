"""Everything that is stored: what it is found by, its version, and the commit that it belongs to.

Entities are immutable: a change makes a new one (`records.py`).  Instants are
integer milliseconds since the epoch, UTC; the wire rounds them to seconds.  State
objects are kept as the JSON text that was sent, so that numbers, code points and
key order come back as they were saved.
"""

from msgspec import Struct

SESSION, OWNER, EXTERNAL = "session", "owner", "external"
"""The kinds of entities."""

Key = tuple[str, str, str]
"""Tenant, kind and id: what every entity is found by."""

LIVE, EXPIRED, CLOSED, DELETED = 0, 1, 2, 3
"""The states of a session; `lifecycle.py` says what leads from one to another."""

EMPTY = b"{}"

SESSION_COST, OTHER_COST = 1100, 500
"""Bytes of memory that an entity takes beside its state and its names (measured: about so many)."""

OWNER_CHUNK = 256


class About(Struct, frozen=True, array_like=True, gc=False):
    """The labels and lifetimes of a session.  They change seldom, so a state update need not copy them."""

    user_id: str = ""  # "" where there is none, here and below
    external_id: str = ""
    title: str = ""
    tags: tuple[str, ...] = ()
    metadata: bytes = EMPTY
    ends_at: int = 0  # ms; when it ends however much it is used, 0 for never
    pinned: bool = False  # the sweeper does not remove it


NOTHING = About()


class SessionData(Struct, frozen=True, array_like=True, gc=False):
    """The stored fields of a session, as the log holds a new one.  New fields go at the end, with a default."""

    number: int
    session_id: str
    client_id: str
    created_at: int
    modified_at: int
    active_at: int
    timeout: int
    revision: int = 1
    status: int = LIVE
    ended_at: int = 0
    session_state: bytes = EMPTY
    workspace_context: bytes = EMPTY
    inspector_state: bytes = EMPTY
    object_registry: bytes = EMPTY
    about: About = NOTHING


class Session(Struct, frozen=True, gc=False):
    """One session as it is now."""

    key: Key
    version: int  # one more with each record
    commit: int  # that its last record belongs to
    number: int  # persistent counter, unique, never used again; sessions are created in its order
    session_id: str
    client_id: str  # "" where there is none
    created_at: int
    modified_at: int  # moves when state changes
    active_at: int  # moves when the session is used
    timeout: int  # seconds of idleness after which it expires
    revision: int = 1  # one more with each accepted state update
    status: int = LIVE
    ended_at: int = 0  # when it expired, was closed or deleted; 0 while live
    session_state: bytes = EMPTY
    workspace_context: bytes = EMPTY
    inspector_state: bytes = EMPTY
    object_registry: bytes = EMPTY
    about: About = NOTHING
    recorded_at: int = 0  # the use that its last record tells of; `active_at` may be ahead of it
    state_bytes: int = 8  # of the four objects together
    keys: tuple[str, ...] | None = None  # the top-level keys of `session_state`, where they are known

    @property
    def user_id(self) -> str:
        return self.about.user_id

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return SESSION_COST + self.state_bytes + len(self.session_id) + len(self.about.metadata)


class Owner(Struct, frozen=True, gc=False):
    """The sessions of one user and client that are stored as live (some may have expired unnoticed).

    In chunks, in the order in which they joined, so that an owner of very many
    sessions does not make each of them cost a copy of all.
    """

    key: Key
    version: int
    commit: int
    chunks: tuple[tuple[str, ...], ...] = ()

    @property
    def session_ids(self) -> list[str]:
        return [session_id for chunk in self.chunks for session_id in chunk]

    @property
    def count(self) -> int:
        return sum(map(len, self.chunks))

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return OTHER_COST + 120 * self.count


class _Small(Struct, frozen=True, gc=False):
    """An entity that always takes the same memory."""

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return OTHER_COST


class Holder(_Small, frozen=True, gc=False):
    """The one session of a user that is stored as live and has a certain external id."""

    key: Key
    version: int
    commit: int
    session_id: str


class Absent(_Small, frozen=True, gc=False):
    """There is nothing under this key, since commit `commit` (0: it is not known that there ever was)."""

    key: Key
    version: int = 0
    commit: int = 0


class Damaged(_Small, frozen=True, gc=False):
    """What is stored under this key fails its checksum."""

    key: Key
    version: int = 0
    commit: int = 0


Entity = Session | Owner | Holder | Absent | Damaged


def session_key(tenant: str, session_id: str) -> Key:
    """The key of a session."""
    return tenant, SESSION, session_id


def owner_key(tenant: str, user_id: str, client_id: str) -> Key | None:
    """The key of an owner, a user and client together; None where a session has neither."""
    return (tenant, OWNER, f"{user_id}\0{client_id}") if user_id or client_id else None


def external_key(tenant: str, user_id: str, external_id: str) -> Key | None:
    """The key of an external id among one user's sessions; None where a session has none.

    Names of users hold no NUL, external ids may.
    """
    return (tenant, EXTERNAL, f"{user_id}\0{external_id}") if external_id else None


def size_of_state(*objects: bytes) -> int:
    """Bytes of state objects together."""
    return sum(map(len, objects))


def data_of(s: Session) -> SessionData:
    """The stored fields of a session."""
    return SessionData(
        *(s.number, s.session_id, s.client_id, s.created_at, s.modified_at, s.recorded_at, s.timeout, s.revision),
        *(s.status, s.ended_at, s.session_state, s.workspace_context, s.inspector_state, s.object_registry, s.about),
    )


def session_of(d: SessionData, key: Key, version: int, commit: int) -> Session:
    """The session with these stored fields."""
    state, workspace, inspector, registry = d.session_state, d.workspace_context, d.inspector_state, d.object_registry
    return Session(  # by their places, which takes half as long
        key,
        version,
        commit,
        d.number,
        d.session_id,
        d.client_id,
        d.created_at,
        d.modified_at,
        d.active_at,
        d.timeout,
        d.revision,
        d.status,
        d.ended_at,
        state,
        workspace,
        inspector,
        registry,
        d.about,
        d.active_at,
        size_of_state(state, workspace, inspector, registry),
    )
