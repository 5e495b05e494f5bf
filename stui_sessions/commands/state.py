"""Using a session: restoring it, saving state in it, touching it."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from stui_sessions.commands.shared import (
    ONE_SESSION,
    USING_ERRORS,
    WRITING_ERRORS,
    Named,
    RestoreResult,
    SessionParams,
    checked,
    text_of,
    weigh_state,
)
from stui_sessions.domain.admission import check_size
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.manager import usable
from stui_sessions.domain.records import Updated
from stui_sessions.domain.times import format_instant, format_second
from stui_sessions.protocol.fields import (
    STATE_OBJECTS,
    ExpiresAt,
    JsonObject,
    LastActivity,
    Modified,
    Revision,
    SessionId,
)
from stui_sessions.protocol.registry import Command
from stui_sessions.protocol.schemadiff import LEFT_OUT_WITH

# -- restore_session


def restore_session(draft: Draft, p: SessionParams) -> RestoreResult:
    s = draft.use(usable(draft, draft.session(p, "read")))
    return RestoreResult(  # as `views.FIELDS` has it, and twice as fast
        s.session_id,
        s.client_id or None,
        format_second(s.created_at // 1000),
        format_second(s.modified_at // 1000),
        s.timeout,
        True,
        Raw(s.session_state),
        Raw(s.workspace_context),
        Raw(s.inspector_state),
        Raw(s.object_registry),
        s.revision,
    )


RESTORE_SESSION = Command(
    "restore_session",
    "Gives back everything that was saved in a session, and counts as use of it.",
    SessionParams,
    RestoreResult,
    restore_session,
    access="read",
    errors=USING_ERRORS,
    one_of=ONE_SESSION,
    by_position=("session_id",),
    weigh=weigh_state,
)


# -- update_session_state


def _sibling(name: str) -> Meta:
    return Meta(description=f"Merged into `{name}`, or put in its place, by the same rule; unchanged if left out.")


class UpdateParams(Named, forbid_unknown_fields=True, gc=False):
    state_data: Annotated[
        JsonObject | UnsetType,
        Meta(
            description="What to save: merged into `session_state` key by key, `null` being stored like any value. "
            "It may be left out when another of the objects is given."
        ),
    ] = UNSET
    mode: Annotated[
        Literal["merge", "replace"],
        Meta(
            description="`merge`: top-level keys that are not named stay. `replace`: each object that is given takes "
            "the place of the saved one; objects that are not given stay."
        ),
    ] = "merge"
    workspace_context: Annotated[JsonObject | UnsetType, _sibling("workspace_context")] = UNSET
    inspector_state: Annotated[JsonObject | UnsetType, _sibling("inspector_state")] = UNSET
    object_registry: Annotated[JsonObject | UnsetType, _sibling("object_registry")] = UNSET
    reply: Annotated[
        Literal["full", "brief"],
        Meta(description="`brief`: the reply leaves `session_state` out, which a large state makes long."),
    ] = "full"


class UpdateResult(Struct, gc=False):
    session_id: SessionId
    last_modified: Modified
    session_state: Annotated[
        JsonObject | UnsetType,
        Meta(
            description='The whole `session_state`, after the update; left out with `"reply": "brief"`.',
            extra_json_schema={LEFT_OUT_WITH: {"reply": "brief"}},
        ),
    ]
    update_successful: Annotated[bool, Meta(description="Always true: whatever fails is an error.")]
    revision: Revision


def update_session_state(draft: Draft, p: UpdateParams) -> UpdateResult:
    alone = p.workspace_context is UNSET and p.inspector_state is UNSET and p.object_registry is UNSET
    if alone and p.state_data is UNSET:  # wrong whatever the session is, so told before it is looked for
        raise draft.command.missing("state_data")
    s = usable(draft, draft.session(p, "write"))
    replaces = p.mode == "replace"
    at, by, version, revision = draft.now.wall, draft.caller.name, s.version + 1, s.revision + 1
    if alone:  # nearly always so, and then it can be done in fewer steps
        patch = checked(p.state_data)
        record = Updated(s.key, version, at, by, s.commit, revision, replaces, patch.text)
        keys: tuple[str, ...] | None = patch.keys
    else:
        others = (text_of(p.workspace_context), text_of(p.inspector_state), text_of(p.object_registry))
        record = Updated(s.key, version, at, by, s.commit, revision, replaces, text_of(p.state_data), *others)
        keys = None if p.state_data is UNSET else checked(p.state_data).keys
    after = draft.save(s, record, keys)
    if after.state_bytes > draft.world.rules.max_state_bytes:
        check_size(draft, after.state_bytes)
    state = Raw(after.session_state) if p.reply == "full" else UNSET
    return UpdateResult(s.session_id, draft.now.text, state, True, revision)


def _weigh_update(r: UpdateResult) -> int:
    return 0 if r.session_state is UNSET else len(r.session_state)


UPDATE_SESSION_STATE = Command(
    "update_session_state",
    "Saves state in a session. It is on disk when the reply arrives.",
    UpdateParams,
    UpdateResult,
    update_session_state,
    access="write",
    errors=f"{USING_ERRORS} state_too_large {WRITING_ERRORS}",
    one_of=(*ONE_SESSION, ("state_data", *STATE_OBJECTS[1:])),
    by_position=("session_id", "state_data"),
    main_state="state_data",
    weigh=_weigh_update,
)


# -- touch_session


class TouchResult(Struct, gc=False):
    session_id: SessionId
    last_activity: LastActivity
    expires_at: ExpiresAt


def touch_session(draft: Draft, p: SessionParams) -> TouchResult:
    s = draft.use(usable(draft, draft.session(p, "write")))
    end = draft.world.expiry.promised_end(s)  # no more than what is recorded holds after a kill
    return TouchResult(s.session_id, format_instant(s.active_at), format_instant(end))


TOUCH_SESSION = Command(
    "touch_session",
    "Counts as use of a session, and does nothing else.",
    SessionParams,
    TouchResult,
    touch_session,
    access="write",
    errors=USING_ERRORS,
    one_of=ONE_SESSION,
    by_position=("session_id",),
)
