"""Ends: closing, deleting, bringing back."""

from typing import Annotated

from msgspec import Meta, Struct

from stui_sessions.commands.shared import (
    NAMING_ERRORS,
    ONE_SESSION,
    WRITING_ERRORS,
    Details,
    Named,
    SessionParams,
)
from stui_sessions.commands.views import shaped, view
from stui_sessions.domain.draft import Draft
from stui_sessions.domain.entities import DELETED
from stui_sessions.domain.lifecycle import after
from stui_sessions.domain.manager import close, end, remove, reopen, status_of
from stui_sessions.protocol.fields import Revision, SessionId
from stui_sessions.protocol.registry import Command

# -- close_session


class CloseResult(Struct, gc=False):
    session_id: SessionId
    closed: Annotated[bool, Meta(description="Always true: the session has ended, now or before.")]
    revision: Revision


def close_session(draft: Draft, p: SessionParams) -> CloseResult:
    s = close(draft, draft.session(p, "write"))
    return CloseResult(s.session_id, True, s.revision)


CLOSE_SESSION = Command(
    "close_session",
    "Ends a session. Its place in the client's limit is free at once; what it was stays known for "
    "`keep_expired` seconds. Closing one that has ended already succeeds and changes nothing.",
    SessionParams,
    CloseResult,
    close_session,
    access="write",
    errors=f"{NAMING_ERRORS} {WRITING_ERRORS}",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)


# -- delete_session


class DeleteParams(Named, forbid_unknown_fields=True, gc=False):
    purge: Annotated[
        bool, Meta(description="Remove it and everything of it at once, for good; its id is free again.")
    ] = False


class DeleteResult(Struct, gc=False):
    session_id: SessionId
    deleted: Annotated[bool, Meta(description="Always true.")]
    already_deleted: Annotated[bool, Meta(description="It was deleted before.")]
    purged: Annotated[bool, Meta(description="It is removed for good.")]


def delete_session(draft: Draft, p: DeleteParams) -> DeleteResult:
    s = draft.session(p, "write")
    status = status_of(draft, s)
    if p.purge:
        after("purge", status, s.session_id)
        remove(draft, s, "purged")
    elif status != after("delete", status, s.session_id):
        end(draft, s, DELETED, draft.now.wall)
    return DeleteResult(s.session_id, True, status == DELETED, p.purge)


DELETE_SESSION = Command(
    "delete_session",
    "Deletes a session: it leaves lists, resumption and restore, and its external id is free; its id stays "
    "taken. It can be undeleted for `keep_expired` seconds. Deleting it again succeeds.",
    DeleteParams,
    DeleteResult,
    delete_session,
    access="write",
    errors=f"{NAMING_ERRORS} {WRITING_ERRORS}",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)


# -- undelete_session


class UndeleteResult(Details, gc=False):
    undeleted: Annotated[bool, Meta(description="False: it was live all along, and nothing was changed.")]


_undelete_result = shaped(UndeleteResult)


def undelete_session(draft: Draft, p: SessionParams) -> UndeleteResult:
    s = draft.session(p, "write")
    if draft.is_live(s):
        return _undelete_result(view(draft, s), undeleted=False)
    s, _ = reopen(draft, s)
    return _undelete_result(view(draft, s), undeleted=True)


UNDELETE_SESSION = Command(
    "undelete_session",
    "Brings back a deleted, closed or expired session while it is kept, by its `session_id` (an external id can only "
    "name a live one, with which there is nothing to do). Idle time starts again; an absolute end that has passed is "
    "dropped.",
    SessionParams,
    UndeleteResult,
    undelete_session,
    access="write",
    errors=f"{NAMING_ERRORS} session_limit_reached external_id_conflict {WRITING_ERRORS}",
    one_of=ONE_SESSION,
    by_position=("session_id",),
)
