"""What is written together with a session: its owner's list of live sessions, and the holder of its external id.

Both decide something (limits, uniqueness), so they are entities like any other.
"""

from collections.abc import Iterable

from stui_sessions.domain.draft import Draft, absent
from stui_sessions.domain.entities import (
    Damaged,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.records import Claimed, Joined, Left, Released
from stui_sessions.errors import Refusal, quote


def names(tenant: str, user_id: str, client_id: str, external_id: str) -> list[Key]:
    """The keys of the owner and of the external id of a session."""
    owner, external = owner_key(tenant, user_id, client_id), external_key(tenant, user_id, external_id)
    if owner is None:
        return [] if external is None else [external]
    return [owner] if external is None else [owner, external]


def ask_for_names(draft: Draft, sessions: Iterable[Session]) -> None:
    """Have the owners and external ids of these sessions at hand, before anything is staged."""
    draft.entities(key for s in sessions for key in names(s.key[0], s.user_id, s.client_id, s.about.external_id))


def join(draft: Draft, s: Session) -> None:
    """`s` is live from now on: its owner has it, and it holds its external id."""
    key = owner_key(s.key[0], s.user_id, s.client_id)
    if key is not None:
        draft.stage(sound(draft.entity(key)), Joined, s.session_id)
    claim(draft, s)


def claim(draft: Draft, s: Session) -> None:
    """`s` holds its external id, which is free."""
    key = external_key(s.key[0], s.user_id, s.about.external_id)
    if key is not None:
        draft.stage(sound(draft.entity(key)), Claimed, s.session_id)


def leave(draft: Draft, s: Session) -> None:
    """`s` is live no longer: it leaves its owner's list, and its external id is free."""
    key = owner_key(s.key[0], s.user_id, s.client_id)
    owner = None if key is None else draft.entity(key)
    if isinstance(owner, Owner):  # else it is damaged
        draft.stage(owner, Left, s.session_id)
    release(draft, s)


def release(draft: Draft, s: Session) -> None:
    """The external id of `s` is free."""
    key = external_key(s.key[0], s.user_id, s.about.external_id)
    holder = None if key is None else draft.entity(key)
    if isinstance(holder, Holder) and holder.session_id == s.session_id:
        draft.stage(holder, Released)


def check_owner(draft: Draft, user_id: str, client_id: str) -> Entity | None:
    """The owner's list of live sessions, if there is an owner; Refusal if it is damaged."""
    key = owner_key(draft.caller.tenant, user_id, client_id)
    return None if key is None else sound(draft.entity(key))


def sound(entity: Entity) -> Entity:
    """`entity`; Refusal if it is damaged."""
    if isinstance(entity, Damaged):
        raise absent(entity)
    return entity


def check_external_id(
    draft: Draft, tenant: str, user_id: str, external_id: str, besides: Iterable[str]
) -> Session | None:
    """Refuse an external id that a live session has, but for those `besides`.

    Returns the session that is stored as its holder but has expired, if there is one.
    """
    key = external_key(tenant, user_id, external_id)
    holder = None if key is None else sound(draft.entity(key))
    if not isinstance(holder, Holder) or holder.session_id in besides:
        return None
    s = draft.entity(session_key(tenant, holder.session_id))
    if not isinstance(s, Session):
        return None
    if draft.is_live(s):
        raise Refusal(
            "external_id_conflict", f"a live session of the same user has the external id {quote(external_id)}"
        )
    return s
