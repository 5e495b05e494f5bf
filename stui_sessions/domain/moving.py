"""Sessions that come from another server, as they were exported there."""

from collections.abc import Sequence

from msgspec.structs import replace

from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import LIVE, Absent, Damaged, Holder, Key, Session, SessionData, session_key
from stui_sessions.domain.indexes import ask_for_names, check_external_id, check_owner, names
from stui_sessions.domain.manager import begin, expire, remove
from stui_sessions.errors import Refusal


class Needs:
    """The places of sessions that are to be imported, their owners and external ids.

    Found once: one request is decided again and again until it lacks nothing.
    """

    def __init__(self, rows: Sequence[SessionData]) -> None:
        self._rows = rows
        self._keys: dict[str, list[Key]] = {}

    def keys(self, tenant: str) -> list[Key]:
        """Each key once."""
        if tenant not in self._keys:
            keys: list[Key] = []
            for row in self._rows:
                keys.append(session_key(tenant, row.session_id))
                if row.status == LIVE:
                    keys += names(tenant, row.about.user_id, row.client_id, row.about.external_id)
            self._keys[tenant] = list(dict.fromkeys(keys))
        return self._keys[tenant]


def ask_for_import(draft: Draft, needs: Needs) -> None:
    """Have everything at hand that importing these sessions may need."""
    tenant = draft.caller.tenant
    found = draft.entities(needs.keys(tenant))
    ask_for_names(draft, [s for s in found if isinstance(s, Session) and s.status == LIVE])
    holders = {session_key(tenant, h.session_id): None for h in found if isinstance(h, Holder)}
    ask_for_names(draft, [s for s in draft.entities(holders) if isinstance(s, Session) and s.status == LIVE])


def import_one(draft: Draft, data: SessionData, on_conflict: str) -> tuple[str, str]:
    """Take a session as it was exported: what became of it, and its id; raises Refusal, with nothing staged.

    It is `created`, `replaced` another one, was `renamed` or `skipped`.  Neither the
    limits of owners hold for it nor the rate of creation.
    """
    tenant, outcome = draft.caller.tenant, "created"
    place = draft.place(data.session_id)
    besides: tuple[str, ...] = ()
    if isinstance(place, Session | Damaged):
        if on_conflict == "skip":
            return "skipped", data.session_id
        if on_conflict == "error" or isinstance(place, Damaged):
            raise Refusal("session_id_conflict", "Session ID already exists")
        outcome = "replaced" if on_conflict == "replace" else "renamed"
        besides = (data.session_id,) if outcome == "replaced" else ()
    overdue = None
    if data.status == LIVE:
        check_owner(draft, data.about.user_id, data.client_id)
        overdue = check_external_id(draft, tenant, data.about.user_id, data.about.external_id, besides)
    if overdue is not None:
        expire(draft, overdue)
        place = draft.place(data.session_id)  # it may be the same session
    number, session_id = draft.world.numbers.new(draft.now.wall), data.session_id
    if outcome == "replaced":
        assert isinstance(place, Session)
        remove(draft, place, "replaced")
        place = draft.place(session_id)
    if outcome == "renamed":
        session_id = draft.world.new_id(number, draft.now.wall // 1000, "counter")
        place = Absent(session_key(tenant, session_id))
    begin(draft, place, replace(data, number=number, session_id=session_id))
    return outcome, session_id
