"""What changed: the entries of the log, and the one way from an entity to the next.

A record says what was accepted (the patch, not the object that it led to), to which
entity, and which version of it that made; when, and who did it; and which commit
holds the entity's record before, so that a session's own records are found
without reading everybody's.

Records are stored as MessagePack arrays: new fields go at the end, with a default,
and old logs stay readable.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from stui_sessions.domain.entities import (
    LIVE,
    OWNER,
    OWNER_CHUNK,
    SESSION,
    About,
    Absent,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
    SessionData,
    session_of,
)
from stui_sessions.protocol.jsontext import merge_all, merge_with_keys


class _Record(Struct, frozen=True, array_like=True, gc=False):
    """What all records begin with."""

    key: Key
    version: int  # of the entity after it
    at: int  # ms
    by: str  # who did it: `Caller.name`
    previous: int  # the commit of the entity's record before; 0 for its first


class Created(_Record, frozen=True, array_like=True, tag="c", gc=False):
    """A session was made, or imported."""

    data: SessionData


class Updated(_Record, frozen=True, array_like=True, tag="u", gc=False):
    """State was saved: objects were merged into those saved, or put in their place.  None: not named."""

    revision: int
    replaces: bool
    session_state: bytes | None
    workspace_context: bytes | None = None
    inspector_state: bytes | None = None
    object_registry: bytes | None = None


class Used(_Record, frozen=True, array_like=True, tag="a", gc=False):
    """Idle time started again, at `at` or (`used_at`) before."""

    used_at: int


class Ended(_Record, frozen=True, array_like=True, tag="e", gc=False):
    """A session expired, was closed or deleted."""

    status: int
    ended_at: int


class Edited(_Record, frozen=True, array_like=True, tag="d", gc=False):
    """Labels or lifetimes of a session changed."""

    timeout: int
    about: About


class Reopened(_Record, frozen=True, array_like=True, tag="o", gc=False):
    """An ended session is live again."""

    about: About


class Removed(_Record, frozen=True, array_like=True, tag="r", gc=False):
    """A session is no longer known."""

    number: int
    reason: str  # how it had ended: expired, closed, deleted; or purged, replaced


class Joined(_Record, frozen=True, array_like=True, tag="j", gc=False):
    """An owner has one more live session."""

    session_id: str


class Left(_Record, frozen=True, array_like=True, tag="l", gc=False):
    """An owner has one live session less."""

    session_id: str


class Claimed(_Record, frozen=True, array_like=True, tag="k", gc=False):
    """A session took an external id."""

    session_id: str


class Released(_Record, frozen=True, array_like=True, tag="f", gc=False):
    """An external id is free again."""


Record = Created | Updated | Used | Ended | Edited | Reopened | Removed | Joined | Left | Claimed | Released


def apply(before: Entity, record: Record, commit: int, keys: tuple[str, ...] | None = None) -> Entity:
    """The entity after `record`, which belongs to `commit`.  Pure: for deciding and for replay alike.

    `keys`: the top-level keys of the patch for `session_state`, where they are known;
    they spare a merge.  Raises ValueError for a record that this entity cannot have.
    """
    kind = type(record)
    if kind is Updated and type(before) is Session:
        return updated(before, record, commit, keys)  # type: ignore[arg-type]
    if record.key[1] == SESSION:
        return _session(before, record, commit)
    if record.key[1] == OWNER:
        return _owner(before, record, commit)
    return _holder(before, record, commit)


def updated(s: Session, r: Updated, commit: int, keys: tuple[str, ...] | None) -> Session:
    """The part of `apply` that saves state.  The hot path."""
    state = s.session_state
    patch = r.session_state
    known = s.keys
    if patch is not None:
        if keys is not None and keys == known:
            state = patch
        elif r.replaces or state == b"{}":
            state, known = patch, keys
        else:
            state, known = merge_with_keys(state, patch)
    workspace, inspector, registry = s.workspace_context, s.inspector_state, s.object_registry
    if r.workspace_context is not None:
        workspace = _patched(workspace, r.workspace_context, r.replaces)
    if r.inspector_state is not None:
        inspector = _patched(inspector, r.inspector_state, r.replaces)
    if r.object_registry is not None:
        registry = _patched(registry, r.object_registry, r.replaces)
    at = r.at
    return Session(
        s.key,
        r.version,
        commit,
        s.number,
        s.session_id,
        s.client_id,
        s.created_at,
        at,
        at,
        s.timeout,
        r.revision,
        s.status,
        s.ended_at,
        state,
        workspace,
        inspector,
        registry,
        s.about,
        at,
        len(state) + len(workspace) + len(inspector) + len(registry),
        known,
    )


def used(s: Session, at: int) -> Session:
    """`s` as it is when it was used at `at`, ms, and no record tells of it.  The hot path of reading."""
    return Session(
        s.key,
        s.version,
        s.commit,
        s.number,
        s.session_id,
        s.client_id,
        s.created_at,
        s.modified_at,
        at,
        s.timeout,
        s.revision,
        s.status,
        s.ended_at,
        s.session_state,
        s.workspace_context,
        s.inspector_state,
        s.object_registry,
        s.about,
        s.recorded_at,
        s.state_bytes,
        s.keys,
    )


def _patched(current: bytes, patch: bytes, replaces: bool) -> bytes:
    return patch if replaces or current == b"{}" else merge_with_keys(current, patch)[0]


def _session(before: Entity, record: Record, commit: int) -> Entity:
    if isinstance(record, Created):
        return session_of(record.data, record.key, record.version, commit)
    if isinstance(record, Removed):
        return Absent(record.key, record.version, commit)
    if not isinstance(before, Session):
        raise ValueError(f"a record {type(record).__name__} of a session that is not there")
    s, version = before, record.version
    if isinstance(record, Used):
        return replace(s, version=version, commit=commit, active_at=record.used_at, recorded_at=record.used_at)
    if isinstance(record, Ended):
        return replace(s, version=version, commit=commit, status=record.status, ended_at=record.ended_at)
    if isinstance(record, Edited):
        return replace(s, version=version, commit=commit, timeout=record.timeout, about=record.about)
    if isinstance(record, Reopened):
        return replace(
            s,
            version=version,
            commit=commit,
            status=LIVE,
            ended_at=0,
            active_at=record.at,
            recorded_at=record.at,
            about=record.about,
        )
    raise ValueError(f"a record {type(record).__name__} is none of a session's")


def _owner(before: Entity, record: Record, commit: int) -> Entity:
    chunks = before.chunks if isinstance(before, Owner) else ()
    if isinstance(record, Joined):
        if chunks and len(chunks[-1]) < OWNER_CHUNK:
            chunks = (*chunks[:-1], (*chunks[-1], record.session_id))
        else:
            chunks = (*chunks, (record.session_id,))
    elif isinstance(record, Left):
        left = record.session_id
        chunks = tuple(
            rest for chunk in chunks if (rest := tuple(i for i in chunk if i != left) if left in chunk else chunk)
        )
    else:
        raise ValueError(f"a record {type(record).__name__} is none of an owner's")
    return Owner(record.key, record.version, commit, chunks)


def _holder(before: Entity, record: Record, commit: int) -> Entity:
    if isinstance(record, Claimed):
        return Holder(record.key, record.version, commit, record.session_id)
    if isinstance(record, Released):
        return Absent(record.key, record.version, commit)
    raise ValueError(f"a record {type(record).__name__} is none of an external id's")


def composed(records: Sequence[Record]) -> list[Record]:
    """Records of one entity, in their order, with each run of merging updates made one.

    For replay: a merge costs as much as the whole object, and a large session may
    have had very many small ones.
    """
    result: list[Record] = []
    run: list[Updated] = []
    for record in records:
        if isinstance(record, Updated) and not record.replaces:
            run.append(record)
            continue
        result += _merged(run)
        run = []
        result.append(record)
    return result + _merged(run)


_OBJECTS = ("session_state", "workspace_context", "inspector_state", "object_registry")


def _merged(run: list[Updated]) -> list[Record]:
    """One update for many that merge."""
    if len(run) < 2:
        return [*run]
    last = run[-1]
    patches = [_together([getattr(record, name) for record in run]) for name in _OBJECTS]
    return [Updated(last.key, last.version, last.at, last.by, run[0].previous, last.revision, False, *patches)]


def _together(patches: list[bytes | None]) -> bytes | None:
    """Patches as one; None if none of them names the object."""
    named = [patch for patch in patches if patch is not None]
    return merge_all(named) if named else None
