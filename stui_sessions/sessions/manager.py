"""SessionManager: what the commands decide, and what must stay true about sessions.

One method a command.  Each is a plain function of what is resident, the caller,
the parameters and the time: it changes the book in one step and returns the
result, or raises and has changed nothing: Refusal (the answer is no) or
NotResident (load that, then decide again).
"""

from collections.abc import Callable

from msgspec import UNSET, Raw, Struct, UnsetType

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.commands import (
    ClientParams,
    CloseResult,
    CreateParams,
    CreateResult,
    DescribeParams,
    DescribeResult,
    InfoResult,
    ListResult,
    NoParams,
    PingResult,
    RestoreResult,
    SessionParams,
    StateText,
    StatisticsResult,
    Summary,
    UpdateParams,
    UpdateResult,
)
from stui_sessions.protocol.describe import describe
from stui_sessions.protocol.explain import invalid, missing
from stui_sessions.protocol.jsontext import merge, merge_with_keys
from stui_sessions.sessions.book import Change, SessionBook
from stui_sessions.sessions.caller import Caller
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.model import (
    CLOSED,
    EMPTY,
    EXPIRED,
    LIVE,
    Created,
    Ended,
    Session,
    Updated,
    ended,
    updated,
    used,
)
from stui_sessions.sessions.residents import ClientEntry, Resident
from stui_sessions.sessions.timing import Expiry, Moment, format_instant, format_second, slack_ms

StateArgument = Raw | UnsetType


class Rules(Struct, frozen=True):
    """The settings that decisions depend on; see `config.Settings` for their meaning."""

    max_sessions_per_client: int = 5
    default_timeout: int = 3600
    max_timeout: int = 2_592_000
    cleanup_interval: int = 300
    keep_expired: int = 86_400
    max_state_bytes: int = 1_048_576


class SessionManager:
    """Decides.  `new_id(number, unix_seconds)` makes a session id nobody can guess."""

    def __init__(
        self,
        book: SessionBook,
        expiry: Expiry,
        rules: Rules,
        lists: ClientLists,
        rate: CreationRate,
        new_id: Callable[[int, int], str],
    ) -> None:
        self.book = book
        self.expiry = expiry
        self.rules = rules
        self.lists = lists
        self.rate = rate
        self._new_id = new_id

    # -- the commands

    def create_session(self, caller: Caller, p: CreateParams, now: Moment) -> CreateResult:
        timeout = self._timeout(p.timeout)
        objects = _texts(p.session_state, p.workspace_context, p.inspector_state, p.object_registry)
        self._check_size(sum(map(len, objects)))
        entry = self._check_may_create(p.client_id, now)
        totals = self.book.totals
        totals.last_number += 1
        session_id = self._new_id(totals.last_number, now.wall // 1000)
        session = Session(
            totals.last_number, session_id, p.client_id, now.wall, now.wall, now.wall, timeout, 1, LIVE, 0, *objects
        )
        self.book.create(session, entry)
        self.rate.take(p.client_id, now.monotonic)
        return CreateResult(session_id, p.client_id, now.text, timeout, True, 1)

    def restore_session(self, caller: Caller, p: SessionParams, now: Moment) -> RestoreResult:
        resident, s = self._usable(p.session_id, now.wall)
        # Soft: no reply waits for it, so the result may tell it before it is on disk.
        late = abs(now.wall - resident.recorded_at) >= slack_ms(s.timeout)  # abs: the clock may be set back
        self.book.use(resident, used(s, now.wall), record=late)
        return RestoreResult(
            s.session_id,
            s.client_id,
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

    def update_session_state(self, caller: Caller, p: UpdateParams, now: Moment) -> UpdateResult:
        alone = p.workspace_context is UNSET and p.inspector_state is UNSET and p.object_registry is UNSET
        if alone and p.state_data is UNSET:  # wrong whatever the session is, so told before it is looked for
            raise missing("update_session_state", "state_data")
        resident, s = self._usable(p.session_id, now.wall)
        if alone:  # nearly always so, and then it can be done in fewer steps
            state, keys = _next_state(resident, s.session_state, _checked(p.state_data), p.mode)
            record = Updated(s.number, s.revision + 1, now.wall, state, None, None, None)
        else:
            record, keys = _update_of(resident, s, p, now.wall)
        after = updated(s, record)
        growth = len(after.session_state) - len(s.session_state) if alone else after.state_bytes - resident.size
        if resident.size + growth > self.rules.max_state_bytes:
            self._check_size(resident.size + growth)
        self.book.update(resident, record, after, growth)
        resident.keys = keys
        return UpdateResult(p.session_id, now.text, Raw(after.session_state), True, record.revision)

    def close_session(self, caller: Caller, p: SessionParams, now: Moment) -> CloseResult:
        resident, s = self._known(p.session_id)
        if self.expiry.is_live(s, now.wall):
            entry = self.book.client(s.client_id)
            self.book.end(resident, Ended(s.number, CLOSED, now.wall), ended(s, CLOSED, now.wall), entry)
        return CloseResult(s.session_id, True, s.revision)

    def get_session_info(self, caller: Caller, p: SessionParams, now: Moment) -> InfoResult:
        resident = self.book.resident(p.session_id)
        s = resident.session
        if s is None:
            raise _absent(resident)
        left = self.expiry.seconds_left(s, now.wall)
        return InfoResult(
            p.session_id,
            s.client_id,
            format_second(s.created_at // 1000),
            format_second(s.modified_at // 1000),
            s.timeout,
            left > 0,  # rounded up, so 0 only from the instant of expiry
            left,
            left == 0 and s.status != CLOSED,
            s.revision,
        )

    def list_client_sessions(self, caller: Caller, p: ClientParams, now: Moment) -> ListResult:
        live = self._live_sessions(self.book.client(p.client_id), now.wall)
        live.sort(key=lambda s: s.number)
        rows = [
            Summary(
                s.session_id,
                format_instant(s.created_at),
                format_instant(s.modified_at),
                s.timeout,
                True,
                self.expiry.seconds_left(s, now.wall),
                s.revision,
            )
            for s in live
        ]
        return ListResult(p.client_id, len(rows), rows)

    def get_session_statistics(self, caller: Caller, p: NoParams, now: Moment) -> StatisticsResult:
        totals, rules = self.book.totals, self.rules
        return StatisticsResult(
            totals.live, totals.clients, rules.max_sessions_per_client, rules.default_timeout, rules.cleanup_interval
        )

    def ping(self, caller: Caller, p: NoParams, now: Moment) -> PingResult:
        return PingResult(True)

    def describe(self, caller: Caller, p: DescribeParams, now: Moment) -> DescribeResult:
        return describe() if p.command is UNSET else describe(p.command)

    # -- the sweeper's decisions

    def sweep(self, session_id: str, now: Moment) -> None:
        """Do what time has made due: mark a session expired, remove one that was kept long enough."""
        resident = self.book.resident(session_id)
        s = resident.session
        if s is None:
            return
        entry = self.book.client(s.client_id)
        if s.status == LIVE and not self.expiry.is_live(s, now.wall):
            at = self.expiry.expires_at(s)
            s = ended(s, EXPIRED, at)
            self.book.end(resident, Ended(s.number, EXPIRED, at), s, entry)
        if s.status != LIVE and s.ended_at + self.rules.keep_expired * 1000 <= now.wall:
            self.book.remove(resident, entry)

    def undo(self, changes: list[Change]) -> None:
        """Take back changes that could not be committed."""
        self.book.undo(changes)
        for change in changes:
            if isinstance(change.record, Created):
                self.rate.give_back(change.record.session.client_id)

    # -- what must hold

    def _known(self, session_id: str) -> tuple[Resident, Session]:
        """A session in whatever state it is."""
        resident = self.book.resident(session_id)
        s = resident.session
        if s is None:
            raise _absent(resident)
        return resident, s

    def _usable(self, session_id: str, now: int) -> tuple[Resident, Session]:
        """A live session."""
        resident = self.book.resident(session_id)
        s = resident.session
        # Most were used just now: the slack of `expires_at` matters only near the end.
        if s is None or s.status or (now >= s.active_at + s.timeout * 1000 and now >= self.expiry.expires_at(s)):
            raise self._unusable(session_id)
        return resident, s

    def _unusable(self, session_id: str) -> Refusal:
        _, s = self._known(session_id)
        if s.status == CLOSED:
            return Refusal("session_closed", f"the session {quote(session_id)} was closed; create a new one")
        return Refusal("session_expired", f"the session {quote(session_id)} has expired; create a new one")

    def _live_sessions(self, entry: ClientEntry, now: int) -> list[Session]:
        """A client's live sessions; a damaged one takes no place among them."""
        live = []
        for resident in self.book.sessions_of(entry):
            s = resident.session
            if s is not None and self.expiry.is_live(s, now):
                live.append(s)
        return live

    def _check_may_create(self, client_id: str, now: Moment) -> ClientEntry:
        if not self.lists.admits(client_id):
            raise Refusal("client_not_allowed", f"this server does not admit the client {quote(client_id)}")
        entry = self.book.client(client_id)
        limit = self.rules.max_sessions_per_client
        if len(entry.session_ids) >= limit and len(self._live_sessions(entry, now.wall)) >= limit:
            raise Refusal(
                "session_limit_reached",
                f"the client {quote(client_id)} has {limit} live sessions, which is the limit; close one first",
                limit=limit,
            )
        wait = self.rate.seconds_to_wait(client_id, now.monotonic)
        if wait:
            raise Refusal(
                "create_rate_exceeded",
                f"the client {quote(client_id)} may create {self.rate.per_minute} sessions a minute; "
                f"try again in {wait} s",
                limit=self.rate.per_minute,
                retry_after=wait,
            )
        return entry

    def _timeout(self, asked: int | UnsetType) -> int:
        if asked is UNSET:
            return self.rules.default_timeout
        if asked > self.rules.max_timeout:
            raise invalid("timeout", f"an integer from 1 to {self.rules.max_timeout}", str(asked)[:100])
        return asked

    def _check_size(self, size: int) -> None:
        limit = self.rules.max_state_bytes
        if size > limit:
            raise Refusal(
                "state_too_large",
                f"the four state objects together would be {size} bytes, and may be {limit}",
                limit=limit,
                size=size,
            )


def _absent(resident: Resident) -> Refusal:
    if resident.damaged:
        return Refusal("session_damaged", "what is stored of this session is damaged; the server's log says more")
    return Refusal("session_not_found", f"there is no session {quote(resident.session_id)}")


def _checked(o: StateArgument) -> StateText:
    """What decoding has made of a state object that was given."""
    return o  # type: ignore[return-value]


def _texts(*objects: StateArgument) -> list[bytes]:
    return [EMPTY if o is UNSET else _checked(o).text for o in objects]


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
    text = _checked(patch).text
    return text if mode == "replace" else merge(current, text)


def _update_of(resident: Resident, s: Session, p: UpdateParams, now: int) -> tuple[Updated, tuple[str, ...] | None]:
    """The record of an update that names more than `state_data`, and the keys of `session_state`."""
    state, keys = None, resident.keys
    if p.state_data is not UNSET:
        state, keys = _next_state(resident, s.session_state, _checked(p.state_data), p.mode)
    return Updated(
        s.number,
        s.revision + 1,
        now,
        state,
        _next(s.workspace_context, p.workspace_context, p.mode),
        _next(s.inspector_state, p.inspector_state, p.mode),
        _next(s.object_registry, p.object_registry, p.mode),
    ), keys
