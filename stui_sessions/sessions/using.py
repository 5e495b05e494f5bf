"""Decisions about using a session: restoring it, saving state in it, touching it."""

from msgspec import UNSET, Raw, UnsetType

from stui_sessions.protocol.explain import missing
from stui_sessions.protocol.jsontext import merge, merge_with_keys
from stui_sessions.protocol.parameters import SessionParams, StateText, UpdateParams
from stui_sessions.protocol.results import RestoreResult, TouchResult, UpdateResult
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.ground import Ground
from stui_sessions.sessions.model import EMPTY, Session, Updated, updated, used
from stui_sessions.sessions.residents import Resident
from stui_sessions.sessions.timing import Moment, format_instant, slack_ms

StateArgument = Raw | UnsetType


class Using(Ground):
    """The commands that count as use."""

    def restore_session(self, caller: Caller, p: SessionParams, now: Moment) -> RestoreResult:
        resident = self._named("restore_session", p, now)
        s = self._use(resident, now)
        return RestoreResult(
            s.session_id,
            s.client_id or None,
            format_instant(s.created_at),
            format_instant(s.modified_at),
            s.timeout,
            True,
            Raw(s.session_state),
            Raw(s.workspace_context),
            Raw(s.inspector_state),
            Raw(s.object_registry),
            s.revision,
        )

    def touch_session(self, caller: Caller, p: SessionParams, now: Moment) -> TouchResult:
        s = self._use(self._named("touch_session", p, now), now)
        return TouchResult(s.session_id, format_instant(s.active_at), format_instant(self.expiry.expires_at(s)))

    def update_session_state(self, caller: Caller, p: UpdateParams, now: Moment) -> UpdateResult:
        alone = p.workspace_context is UNSET and p.inspector_state is UNSET and p.object_registry is UNSET
        if alone and p.state_data is UNSET:  # wrong whatever the session is, so told before it is looked for
            raise missing("update_session_state", "state_data")
        resident = self._named("update_session_state", p, now)
        s = self._usable(resident, now.wall)
        if alone:  # nearly always so, and then it can be done in fewer steps
            state, keys = _next_state(resident, s.session_state, checked(p.state_data), p.mode)
            record = Updated(s.number, s.revision + 1, now.wall, state, None, None, None)
        else:
            record, keys = _update_of(resident, s, p, now.wall)
        after = updated(s, record)
        growth = len(after.session_state) - len(s.session_state) if alone else after.state_bytes - resident.size
        if resident.size + growth > self.rules.max_state_bytes:
            self._check_size(resident.size + growth)
        self.book.update(resident, record, after, growth)
        resident.keys = keys
        return UpdateResult(s.session_id, now.text, Raw(after.session_state), True, record.revision)

    def _use(self, resident: Resident, now: Moment) -> Session:
        """Count as use, softly: no reply waits for it, so a result may tell it before it is on disk."""
        s = self._usable(resident, now.wall)
        late = abs(now.wall - resident.recorded_at) >= slack_ms(s.timeout)  # abs: the clock may be set back
        after = used(s, now.wall)
        self.book.use(resident, after, record=late)
        return after


def checked(o: StateArgument) -> StateText:
    """What decoding has made of a JSON object that was given."""
    return o  # type: ignore[return-value]


def text_of(o: StateArgument) -> bytes:
    """The text of a JSON object, an empty one where none is given."""
    return EMPTY if o is UNSET else checked(o).text


def _next_state(resident: Resident, current: bytes, new: StateText, mode: str) -> tuple[bytes, tuple[str, ...] | None]:
    """`session_state` after an update, and its keys where they are known.

    A program mostly saves the keys that it saved before.  A patch that names just
    those is the whole new object, and need not be merged key by key.
    """
    if new.keys == resident.keys or mode == "replace" or current == EMPTY:
        return new.text, new.keys
    return merge_with_keys(current, new.text)


def _next(current: bytes, patch: StateArgument, mode: str) -> bytes | None:
    """The object after an update; None if the update does not name it."""
    if patch is UNSET:
        return None
    text = checked(patch).text
    return text if mode == "replace" else merge(current, text)


def _update_of(resident: Resident, s: Session, p: UpdateParams, now: int) -> tuple[Updated, tuple[str, ...] | None]:
    """The record of an update that names more than `state_data`, and the keys of `session_state`."""
    state, keys = None, resident.keys
    if p.state_data is not UNSET:
        state, keys = _next_state(resident, s.session_state, checked(p.state_data), p.mode)
    return Updated(
        s.number,
        s.revision + 1,
        now,
        state,
        _next(s.workspace_context, p.workspace_context, p.mode),
        _next(s.inspector_state, p.inspector_state, p.mode),
        _next(s.object_registry, p.object_registry, p.mode),
    ), keys
