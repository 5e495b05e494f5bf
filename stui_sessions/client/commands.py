"""The commands of the table as methods: one for each, with its parameters by name.

None stands for a parameter that is left out.  What names the subject (a session's id, a client's) may be
given by position; everything else is given by name.  Of the fields of a result that may be left out, those
that were are `msgspec.UNSET`, which is false.
"""

from collections.abc import Sequence
from typing import Any, Literal

from stui_sessions.client.asking import DEFAULT, Asker, Remove, Seconds, State
from stui_sessions.client.results import (
    CloseResult,
    CreateResult,
    DeleteResult,
    Details,
    ExtendResult,
    GetResult,
    InfoResult,
    ListResult,
    OpenResult,
    PageResult,
    PingResult,
    RestoreResult,
    StatisticsResult,
    TouchResult,
    UndeleteResult,
    UpdateResult,
    ValidateResult,
)

IdFormat = Literal["counter", "timestamp", "hex"]


class Commands(Asker):
    """Every command; `Client` adds the way to ask."""

    # Sessions begin.

    async def open_session(
        self,
        client_id: str | None = None,
        *,
        resume: bool | None = None,
        on_conflict: Literal["error", "reuse", "new"] | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        external_id: str | None = None,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: State | None = None,
        timeout: int | None = None,  # noqa: ASYNC109  (the session's idle time)
        ttl_seconds: int | None = None,
        session_state: State | None = None,
        workspace_context: State | None = None,
        inspector_state: State | None = None,
        object_registry: State | None = None,
        id_format: IdFormat | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> OpenResult:
        """Resume the newest session of this user and client, or make one; `resume=False` always makes one."""
        parameters = {
            "client_id": client_id,
            "resume": resume,
            "on_conflict": on_conflict,
            "user_id": user_id,
            "session_id": session_id,
            "external_id": external_id,
            "title": title,
            "tags": tags,
            "metadata": metadata,
            "timeout": timeout,
            "ttl_seconds": ttl_seconds,
            "session_state": session_state,
            "workspace_context": workspace_context,
            "inspector_state": inspector_state,
            "object_registry": object_registry,
            "id_format": id_format,
        }
        return await self._get(OpenResult, "open_session", parameters, reply_timeout)

    async def create_session(
        self,
        client_id: str,
        *,
        user_id: str | None = None,
        session_id: str | None = None,
        external_id: str | None = None,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: State | None = None,
        timeout: int | None = None,  # noqa: ASYNC109  (the session's idle time)
        ttl_seconds: int | None = None,
        session_state: State | None = None,
        workspace_context: State | None = None,
        inspector_state: State | None = None,
        object_registry: State | None = None,
        id_format: IdFormat | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> CreateResult:
        """Make a session for a client.  `timeout` is its idle time in seconds; None takes the server's default."""
        parameters = {
            "client_id": client_id,
            "user_id": user_id,
            "session_id": session_id,
            "external_id": external_id,
            "title": title,
            "tags": tags,
            "metadata": metadata,
            "timeout": timeout,
            "ttl_seconds": ttl_seconds,
            "session_state": session_state,
            "workspace_context": workspace_context,
            "inspector_state": inspector_state,
            "object_registry": object_registry,
            "id_format": id_format,
        }
        return await self._get(CreateResult, "create_session", parameters, reply_timeout)

    # One session, named by its id or by its external id.

    async def restore_session(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> RestoreResult:
        """Everything that was saved in a session; counts as use of it."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(RestoreResult, "restore_session", parameters, reply_timeout)

    async def update_session_state(
        self,
        session_id: str | None = None,
        state_data: State | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        mode: Literal["merge", "replace"] | None = None,
        workspace_context: State | None = None,
        inspector_state: State | None = None,
        object_registry: State | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> UpdateResult:
        """Save state: on the server's disk when this returns.  At least one of the four objects is needed."""
        parameters = _named(session_id, external_id, user_id) | {
            "state_data": state_data,
            "mode": mode,
            "workspace_context": workspace_context,
            "inspector_state": inspector_state,
            "object_registry": object_registry,
        }
        return await self._get(UpdateResult, "update_session_state", parameters, reply_timeout)

    async def touch_session(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> TouchResult:
        """Count as use of a session, and do nothing else."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(TouchResult, "touch_session", parameters, reply_timeout)

    async def extend_session(
        self,
        session_id: str | None = None,
        *,
        seconds: int,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ExtendResult:
        """Move the absolute end of a session, which was made with `ttl_seconds`."""
        parameters = _named(session_id, external_id, user_id) | {"seconds": seconds}
        return await self._get(ExtendResult, "extend_session", parameters, reply_timeout)

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | Remove | None = None,
        tags: Sequence[str] | None = None,
        metadata: State | None = None,
        external_id: str | Remove | None = None,
        timeout: int | None = None,  # noqa: ASYNC109  (the session's idle time)
        ttl_seconds: int | Remove | None = None,
        pin: bool | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> Details:
        """Change what is said of a session.  What is left out stays; `REMOVE` takes away what it has.

        `metadata` is merged: a key with the value None is removed from it.
        """
        parameters = {
            "session_id": session_id,
            "title": title,
            "tags": tags,
            "metadata": metadata,
            "external_id": external_id,
            "timeout": timeout,
            "ttl_seconds": ttl_seconds,
            "pin": pin,
        }
        return await self._get(Details, "update_session", parameters, reply_timeout)

    async def update_session_title(
        self,
        session_id: str | None = None,
        *,
        title: str,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> Details:
        """Give a session a title."""
        parameters = _named(session_id, external_id, user_id) | {"title": title}
        return await self._get(Details, "update_session_title", parameters, reply_timeout)

    async def close_session(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> CloseResult:
        """End a session; one that has ended already is no error."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(CloseResult, "close_session", parameters, reply_timeout)

    async def delete_session(
        self,
        session_id: str | None = None,
        *,
        purge: bool | None = None,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> DeleteResult:
        """Delete a session; `purge=True` leaves nothing that could be undeleted."""
        parameters = _named(session_id, external_id, user_id) | {"purge": purge}
        return await self._get(DeleteResult, "delete_session", parameters, reply_timeout)

    async def undelete_session(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> UndeleteResult:
        """Bring back a session that was deleted or closed, or has expired, while it is kept."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(UndeleteResult, "undelete_session", parameters, reply_timeout)

    # Questions that use no session.

    async def get_session(
        self,
        session_id: str | None = None,
        *,
        include: Sequence[Literal["state"]] | None = None,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> GetResult:
        """Everything about a session, ended ones too; `include=["state"]` brings its state."""
        parameters = _named(session_id, external_id, user_id) | {"include": include}
        return await self._get(GetResult, "get_session", parameters, reply_timeout)

    async def get_session_info(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> InfoResult:
        """About a session, without using it; ended ones too while they are known."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(InfoResult, "get_session_info", parameters, reply_timeout)

    async def validate_session(
        self,
        session_id: str | None = None,
        *,
        external_id: str | None = None,
        user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ValidateResult:
        """Can the session be used?  No error for one that nobody knows."""
        parameters = _named(session_id, external_id, user_id)
        return await self._get(ValidateResult, "validate_session", parameters, reply_timeout)

    async def resolve_session(self, ref: str, *, reply_timeout: Seconds = DEFAULT) -> Details:
        """The one session that a person may mean: by its id, the beginning of it, its external id or title."""
        return await self._get(Details, "resolve_session", {"ref": ref}, reply_timeout)

    async def list_sessions(
        self,
        *,
        client_id: str | None = None,
        user_id: str | None = None,
        status: Literal["live", "expired", "closed", "deleted"] | None = None,
        tags: Sequence[str] | None = None,
        text: str | None = None,
        sort: Literal["last_activity", "created_at", "title"] | None = None,
        order: Literal["asc", "desc"] | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> PageResult:
        """One page of the sessions that fit; the next one with the same words and `cursor=page.next_cursor`."""
        parameters = {
            "client_id": client_id,
            "user_id": user_id,
            "status": status,
            "tags": tags,
            "text": text,
            "sort": sort,
            "order": order,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._get(PageResult, "list_sessions", parameters, reply_timeout)

    async def list_client_sessions(
        self, client_id: str, *, user_id: str | None = None, reply_timeout: Seconds = DEFAULT
    ) -> ListResult:
        """A client's live sessions, the oldest first."""
        parameters = {"client_id": client_id, "user_id": user_id}
        return await self._get(ListResult, "list_client_sessions", parameters, reply_timeout)

    async def get_session_statistics(self, *, reply_timeout: Seconds = DEFAULT) -> StatisticsResult:
        """Live sessions, clients that have one, and the settings that clients ask about."""
        return await self._get(StatisticsResult, "get_session_statistics", {}, reply_timeout)

    async def ping(self, *, reply_timeout: Seconds = DEFAULT) -> PingResult:
        """Is the server there?"""
        return await self._get(PingResult, "ping", {}, reply_timeout)


def _named(session_id: str | None, external_id: str | None, user_id: str | None) -> dict[str, Any]:
    return {"session_id": session_id, "external_id": external_id, "user_id": user_id}
