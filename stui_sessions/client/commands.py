"""The commands as methods: one for each, with its parameters by name.

None stands for a parameter that is left out.  What names the subject (a session's id, a client's) may be
given by position; everything else is given by name.  Of the fields of a result that may be left out, those
that were are `msgspec.UNSET`, which is false.

Made by `stui-sessions schema --client` from the registry of commands: not to be edited.
"""
# fmt: off
# ruff: noqa: ASYNC109, I001  (a session's timeout is no time-out of a call)

from collections.abc import Sequence
from typing import Any, Literal

from stui_sessions.client.arguments import DEFAULT, Asker, Remove, Seconds, State
from stui_sessions.client.results import (
    BeginBackupResult, CloseResult, CreateResult, DeleteResult, DescribeResult, Details, ExportResult, ExtendResult,
    GetResult, ImportResult, InfoResult, ListResult, OpenResult, PageResult, PingResult, ReadBackupResult,
    RestoreResult, StatisticsResult, TouchResult, UndeleteResult, UpdateResult, ValidateResult,
)


class Commands(Asker):
    """Every command; `Client` adds the way to ask."""

    async def open_session(
        self, client_id: str | None = None, *, resume: bool | None = None, revive: bool | None = None,
        on_conflict: Literal["error", "reuse", "new"] | None = None, user_id: str | None = None,
        session_id: str | None = None, external_id: str | None = None, title: str | None = None,
        tags: Sequence[str] | None = None, metadata: State | None = None, timeout: int | None = None,
        ttl_seconds: int | None = None, session_state: State | None = None, workspace_context: State | None = None,
        inspector_state: State | None = None, object_registry: State | None = None,
        id_format: Literal["counter", "timestamp", "hex"] | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> OpenResult:
        """Resumes the client's session, or makes a new one: the one call to begin with.

        client_id: The client's name: 1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/`
            or `~`.
        resume: Resume the most recently active live session of that user and client, if there is one.
        revive: Bring back an expired session instead of making a new one: that with `session_id`, if it is of the
            same user and client; without `session_id`, their most recently active one that is kept.
        on_conflict: What happens if `session_id` is taken. `error`: nothing, it is an error. `reuse`: a live session
            of the same user and client is resumed. `new`: that too, and where it is somebody else's, a new session
            with another id is made.
        user_id: The user's name: 1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/` or
            `~`.
        session_id: The id that the session is to have, used as it is: any string of at most 8192 bytes in UTF-8.
            Without it the server makes one.
        external_id: A name of your own, unique among one user's live sessions.
        title: A title for people: at most 60 characters, once control characters, zero-width spaces and byte order
            marks are removed and blanks at the ends are trimmed.
        tags: Up to 32 tags of 1 to 64 characters; each counts once.
        metadata: An object of your own, of at most 16384 bytes; `{}` if left out.
        timeout: Seconds without use after which the session expires; at most the setting `max_timeout`. Without it:
            `create_session` takes the setting `default_timeout`, `open_session` `open_timeout`.
        ttl_seconds: Seconds after its creation at which the session expires however much it is used. Without it:
            `create_session` sets no such end, `open_session` the setting `default_ttl`.
        session_state: The `session_state` that the session is created with; `{}` if left out.
        workspace_context: The `workspace_context` that the session is created with; `{}` if left out.
        inspector_state: The `inspector_state` that the session is created with; `{}` if left out.
        object_registry: The `object_registry` that the session is created with; `{}` if left out.
        id_format: The form of an id that the server makes: `session_{n}_{unix seconds}_{random}`,
            `session_YYYYMMDD_HHMMSS_{random}` or `session_{random}`; each holds at least 128 random bits.
        """
        parameters: dict[str, Any] = {
            "client_id": client_id, "resume": resume, "revive": revive, "on_conflict": on_conflict, "user_id": user_id,
            "session_id": session_id, "external_id": external_id, "title": title, "tags": tags, "metadata": metadata,
            "timeout": timeout, "ttl_seconds": ttl_seconds, "session_state": session_state,
            "workspace_context": workspace_context, "inspector_state": inspector_state,
            "object_registry": object_registry, "id_format": id_format,
        }
        return await self._get(OpenResult, "open_session", parameters, reply_timeout)

    async def create_session(
        self, client_id: str, *, user_id: str | None = None, session_id: str | None = None,
        external_id: str | None = None, title: str | None = None, tags: Sequence[str] | None = None,
        metadata: State | None = None, timeout: int | None = None, ttl_seconds: int | None = None,
        session_state: State | None = None, workspace_context: State | None = None,
        inspector_state: State | None = None, object_registry: State | None = None,
        id_format: Literal["counter", "timestamp", "hex"] | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> CreateResult:
        """Makes a session for a client, always a new one.

        client_id: The client's name: 1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/`
            or `~`.
        user_id: The user's name: 1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/` or
            `~`.
        session_id: The id that the session is to have, used as it is: any string of at most 8192 bytes in UTF-8.
            Without it the server makes one.
        external_id: A name of your own, unique among one user's live sessions.
        title: A title for people: at most 60 characters, once control characters, zero-width spaces and byte order
            marks are removed and blanks at the ends are trimmed.
        tags: Up to 32 tags of 1 to 64 characters; each counts once.
        metadata: An object of your own, of at most 16384 bytes; `{}` if left out.
        timeout: Seconds without use after which the session expires; at most the setting `max_timeout`. Without it:
            `create_session` takes the setting `default_timeout`, `open_session` `open_timeout`.
        ttl_seconds: Seconds after its creation at which the session expires however much it is used. Without it:
            `create_session` sets no such end, `open_session` the setting `default_ttl`.
        session_state: The `session_state` that the session is created with; `{}` if left out.
        workspace_context: The `workspace_context` that the session is created with; `{}` if left out.
        inspector_state: The `inspector_state` that the session is created with; `{}` if left out.
        object_registry: The `object_registry` that the session is created with; `{}` if left out.
        id_format: The form of an id that the server makes: `session_{n}_{unix seconds}_{random}`,
            `session_YYYYMMDD_HHMMSS_{random}` or `session_{random}`; each holds at least 128 random bits.
        """
        parameters: dict[str, Any] = {
            "client_id": client_id, "user_id": user_id, "session_id": session_id, "external_id": external_id,
            "title": title, "tags": tags, "metadata": metadata, "timeout": timeout, "ttl_seconds": ttl_seconds,
            "session_state": session_state, "workspace_context": workspace_context, "inspector_state": inspector_state,
            "object_registry": object_registry, "id_format": id_format,
        }
        return await self._get(CreateResult, "create_session", parameters, reply_timeout)

    async def restore_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> RestoreResult:
        """Gives back everything that was saved in a session, and counts as use of it."""
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(RestoreResult, "restore_session", parameters, reply_timeout)

    async def update_session_state(
        self, session_id: str | None = None, state_data: State | None = None, *, external_id: str | None = None,
        user_id: str | None = None, mode: Literal["merge", "replace"] | None = None,
        workspace_context: State | None = None, inspector_state: State | None = None,
        object_registry: State | None = None, reply: Literal["full", "brief"] | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> UpdateResult:
        """Saves state in a session. It is on disk when the reply arrives.

        state_data: What to save: merged into `session_state` key by key, `null` being stored like any value. It may
            be left out when another of the objects is given.
        mode: `merge`: top-level keys that are not named stay. `replace`: each object that is given takes the place of
            the saved one; objects that are not given stay.
        workspace_context: Merged into `workspace_context`, or put in its place, by the same rule; unchanged if left
            out.
        inspector_state: Merged into `inspector_state`, or put in its place, by the same rule; unchanged if left out.
        object_registry: Merged into `object_registry`, or put in its place, by the same rule; unchanged if left out.
        reply: `brief`: the reply leaves `session_state` out, which a large state makes long.
        """
        parameters: dict[str, Any] = {
            "session_id": session_id, "external_id": external_id, "user_id": user_id, "state_data": state_data,
            "mode": mode, "workspace_context": workspace_context, "inspector_state": inspector_state,
            "object_registry": object_registry, "reply": reply,
        }
        return await self._get(UpdateResult, "update_session_state", parameters, reply_timeout)

    async def close_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> CloseResult:
        """Ends a session. Its place in the client's limit is free at once; what it was stays known for `keep_expired`
        seconds. Closing one that has ended already succeeds and changes nothing.
        """
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(CloseResult, "close_session", parameters, reply_timeout)

    async def get_session_info(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> InfoResult:
        """Tells about a session without using it; ended ones included while they are known."""
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(InfoResult, "get_session_info", parameters, reply_timeout)

    async def list_client_sessions(
        self, client_id: str, *, user_id: str | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> ListResult:
        """Lists a client's live sessions. A client nobody knows has none; that is not an error.

        client_id: The client's name: 1 to 256 of `A-Z a-z 0-9 . _ : @ / + = % ~ -`, the first a letter, a digit, `/`
            or `~`.
        user_id: The client's user; without it, the client's sessions that have no user.
        """
        parameters: dict[str, Any] = {"client_id": client_id, "user_id": user_id}
        return await self._get(ListResult, "list_client_sessions", parameters, reply_timeout)

    async def get_session_statistics(self, *, reply_timeout: Seconds = DEFAULT) -> StatisticsResult:
        """Counts live sessions and the clients that have one. Expired ones count until the sweeper has passed."""
        parameters: dict[str, Any] = {}
        return await self._get(StatisticsResult, "get_session_statistics", parameters, reply_timeout)

    async def get_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        include: Sequence[Literal["state"]] | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> GetResult:
        """Tells everything about a session, ended ones included, without using it; its state only if asked.

        include: `["state"]`: tell the four state objects too.
        """
        parameters: dict[str, Any] = {
            "session_id": session_id, "external_id": external_id, "user_id": user_id, "include": include,
        }
        return await self._get(GetResult, "get_session", parameters, reply_timeout)

    async def validate_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ValidateResult:
        """Says whether a session can be used. Cheap, and never an error for an unknown one."""
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(ValidateResult, "validate_session", parameters, reply_timeout)

    async def update_session(
        self, session_id: str, *, title: str | Remove | None = None, tags: Sequence[str] | None = None,
        metadata: State | None = None, external_id: str | Remove | None = None, timeout: int | None = None,
        ttl_seconds: int | Remove | None = None, pin: bool | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> Details:
        """Changes the labels and lifetimes of a session: title, tags, metadata, external id, timeout, absolute end,
        pin. Whatever is left out stays. Does not count as use, and leaves `revision` alone.

        session_id: The session's id, as it was given when it was made.
        title: A new title; `REMOVE` removes it.
        tags: The tags from now on, all of them.
        metadata: Merged into the metadata at the top level; a key with the value `null` is removed.
        external_id: A new external id; `REMOVE` removes it.
        timeout: Seconds without use after which the session expires; at most the setting `max_timeout`.
        ttl_seconds: Seconds after its creation at which the session expires however much it is used; `REMOVE` removes
            that end.
        pin: True: the sweeper never removes the session. It expires all the same. The one parameter that an ended
            session takes too.
        """
        parameters: dict[str, Any] = {
            "session_id": session_id, "title": title, "tags": tags, "metadata": metadata, "external_id": external_id,
            "timeout": timeout, "ttl_seconds": ttl_seconds, "pin": pin,
        }
        return await self._get(Details, "update_session", parameters, reply_timeout)

    async def update_session_title(
        self, session_id: str | None = None, *, title: str, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> Details:
        """Gives a session a title, and changes nothing else.

        title: A title for people: at most 60 characters, once control characters, zero-width spaces and byte order
            marks are removed and blanks at the ends are trimmed.
        """
        parameters: dict[str, Any] = {
            "title": title, "session_id": session_id, "external_id": external_id, "user_id": user_id,
        }
        return await self._get(Details, "update_session_title", parameters, reply_timeout)

    async def touch_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> TouchResult:
        """Counts as use of a session, and does nothing else."""
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(TouchResult, "touch_session", parameters, reply_timeout)

    async def extend_session(
        self, session_id: str | None = None, *, seconds: int, external_id: str | None = None,
        user_id: str | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> ExtendResult:
        """Moves the absolute end of a session (`ttl_seconds`).

        seconds: By how much to move the absolute end.
        """
        parameters: dict[str, Any] = {
            "seconds": seconds, "session_id": session_id, "external_id": external_id, "user_id": user_id,
        }
        return await self._get(ExtendResult, "extend_session", parameters, reply_timeout)

    async def list_sessions(
        self, *, client_id: str | None = None, user_id: str | None = None,
        status: Literal["live", "expired", "closed", "deleted"] | None = None, tags: Sequence[str] | None = None,
        text: str | None = None, sort: Literal["last_activity", "created_at", "title"] | None = None,
        order: Literal["asc", "desc"] | None = None, limit: int | None = None, cursor: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> PageResult:
        """Lists sessions of any client and user, page by page.

        client_id: Only sessions of this client.
        user_id: Only sessions of this user.
        status: Only sessions of this status.
        tags: Only sessions that have all these tags.
        text: Only sessions with this in their title, session id or external id, whatever the case. Needs `client_id`
            or `user_id` beside it.
        sort: What the list is sorted by; titles by their code points, those without a title as if empty.
        order: Ascending or descending; without it, titles ascend and times descend (the newest first).
        limit: How many rows at most.
        cursor: The `next_cursor` of the page before, everything else being the same.
        """
        parameters: dict[str, Any] = {
            "client_id": client_id, "user_id": user_id, "status": status, "tags": tags, "text": text, "sort": sort,
            "order": order, "limit": limit, "cursor": cursor,
        }
        return await self._get(PageResult, "list_sessions", parameters, reply_timeout)

    async def resolve_session(self, ref: str, *, reply_timeout: Seconds = DEFAULT) -> Details:
        """Finds the one session that a person may mean, and tells what `get_session` tells.

        ref: A session id, or something that names one session alone: the beginning of an id (6 characters or more),
            the external id or the exact title of a live session.
        """
        parameters: dict[str, Any] = {"ref": ref}
        return await self._get(Details, "resolve_session", parameters, reply_timeout)

    async def delete_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        purge: bool | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> DeleteResult:
        """Deletes a session: it leaves lists, resumption and restore, and its external id is free; its id stays taken.
        It can be undeleted for `keep_expired` seconds. Deleting it again succeeds.

        purge: Remove it and everything of it at once, for good; its id is free again.
        """
        parameters: dict[str, Any] = {
            "session_id": session_id, "external_id": external_id, "user_id": user_id, "purge": purge,
        }
        return await self._get(DeleteResult, "delete_session", parameters, reply_timeout)

    async def undelete_session(
        self, session_id: str | None = None, *, external_id: str | None = None, user_id: str | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> UndeleteResult:
        """Brings back a deleted, closed or expired session while it is kept, by its `session_id` (an external id can
        only name a live one, with which there is nothing to do). Idle time starts again; an absolute end that has
        passed is dropped.
        """
        parameters: dict[str, Any] = {"session_id": session_id, "external_id": external_id, "user_id": user_id}
        return await self._get(UndeleteResult, "undelete_session", parameters, reply_timeout)

    async def export_sessions(
        self, *, client_id: str | None = None, user_id: str | None = None,
        status: Literal["live", "expired", "closed", "deleted"] | None = None, tags: Sequence[str] | None = None,
        text: str | None = None, limit: int | None = None, cursor: str | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> ExportResult:
        """Gives sessions as a whole, page by page, in the order of their creation: what a line of an export file is.

        client_id: Only sessions of this client.
        user_id: Only sessions of this user.
        status: Only sessions of this status.
        tags: Only sessions that have all these tags.
        text: Only sessions with this in their title, session id or external id, whatever the case. Needs `client_id`
            or `user_id` beside it.
        limit: How many rows at most.
        cursor: The `next_cursor` of the page before, everything else being the same.
        """
        parameters: dict[str, Any] = {
            "client_id": client_id, "user_id": user_id, "status": status, "tags": tags, "text": text, "limit": limit,
            "cursor": cursor,
        }
        return await self._get(ExportResult, "export_sessions", parameters, reply_timeout)

    async def import_sessions(
        self, sessions: Sequence[Any], *, on_conflict: Literal["error", "skip", "replace", "new"] | None = None,
        reply_timeout: Seconds = DEFAULT,
    ) -> ImportResult:
        """Takes sessions as `export_sessions` gave them. Neither the limits of clients and users hold for it nor the
        rate of creation. A row that cannot be taken is told, and does not stop the others.

        sessions: Rows as `export_sessions` gave them, up to 1000.
        on_conflict: What happens to a row whose id is taken. `error`: it is among the errors. `skip`: nothing.
            `replace`: it takes the place of the session that is there. `new`: it gets another id.
        """
        parameters: dict[str, Any] = {"sessions": sessions, "on_conflict": on_conflict}
        return await self._get(ImportResult, "import_sessions", parameters, reply_timeout)

    async def begin_backup(self, *, reply_timeout: Seconds = DEFAULT) -> BeginBackupResult:
        """Begins to copy the database as it is at this moment; everything acknowledged before is in the copy. Nobody
        is held up by it.
        """
        parameters: dict[str, Any] = {}
        return await self._get(BeginBackupResult, "begin_backup", parameters, reply_timeout)

    async def read_backup(
        self, backup_id: str, *, offset: int | None = None, reply_timeout: Seconds = DEFAULT,
    ) -> ReadBackupResult:
        """Gives a part of the copy, and waits until it is made. A copy that nobody reads for a minute is dropped.

        backup_id: The copy, as `begin_backup` named it.
        offset: Where in the copy the part begins, in bytes.
        """
        parameters: dict[str, Any] = {"backup_id": backup_id, "offset": offset}
        return await self._get(ReadBackupResult, "read_backup", parameters, reply_timeout)

    async def ping(self, *, storage: bool | None = None, reply_timeout: Seconds = DEFAULT) -> PingResult:
        """Answers. For health checks and keeping a connection warm.

        storage: Ask the store too, to see whether this server is fit for work.
        """
        parameters: dict[str, Any] = {"storage": storage}
        return await self._get(PingResult, "ping", parameters, reply_timeout)

    async def describe(self, command: str | None = None, *, reply_timeout: Seconds = DEFAULT) -> DescribeResult:
        """Gives the contract itself: all commands with their parameters, results and errors, or one of them.

        command: The command to describe; without it, the whole contract is the answer.
        """
        parameters: dict[str, Any] = {"command": command}
        return await self._get(DescribeResult, "describe", parameters, reply_timeout)
