"""What all decisions stand on: the book, the rules, and how a session is found and judged."""

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.explain import invalid, missing
from stui_sessions.protocol.parameters import Named
from stui_sessions.protocol.results import ServerStatistics, SweeperStatistics
from stui_sessions.sessions.book import NotResident, SessionBook
from stui_sessions.sessions.finding import Reference
from stui_sessions.sessions.lifecycle import Event, after
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.model import EXPIRED, LIVE, Ended, Session, ended
from stui_sessions.sessions.residents import Group, GroupKey, Resident, external_key, groups_of
from stui_sessions.sessions.timing import Expiry, Moment

NewId = Callable[[int, int, str], str]
"""Makes a session id nobody can guess, of a number, a time in unix seconds and the form's name."""


class Rules(Struct, frozen=True):
    """The settings that decisions depend on; see `config.Settings` for their meaning."""

    max_sessions_per_client: int = 5
    max_sessions_per_user: int = 10
    on_limit: Literal["reject", "evict_oldest"] = "reject"
    default_timeout: int = 3600
    max_timeout: int = 2_592_000
    default_ttl: int = 0
    cleanup_interval: int = 300
    keep_expired: int = 86_400
    max_state_bytes: int = 1_048_576


class Ground:
    """The base of everything that decides."""

    def __init__(
        self,
        book: SessionBook,
        expiry: Expiry,
        rules: Rules,
        lists: ClientLists,
        rate: CreationRate,
        new_id: NewId,
    ) -> None:
        self.book = book
        self.expiry = expiry
        self.rules = rules
        self.lists = lists
        self.rate = rate
        self._new_id = new_id
        self.vitals: Callable[[], tuple[SweeperStatistics, ServerStatistics]] = _no_vitals
        """What the rest of the server says of itself."""
        self.begin_copy: Callable[[], str] = _no_copies
        """Begins a copy of the store; its name.  Raises Refusal."""

    # -- finding one session

    def _named(self, command: str, p: Named, now: Moment) -> Resident:
        """The place of the session that the parameters name."""
        if p.external_id is UNSET and p.user_id is UNSET:
            if p.session_id is UNSET:
                raise missing(command, "session_id")
            return self.book.resident(p.session_id)
        if p.external_id is UNSET:
            raise missing(command, "external_id") if p.session_id is UNSET else _both("user_id")
        if p.session_id is not UNSET:
            raise _both("external_id")
        return self._of_external_id(p.external_id, p.user_id, now)

    def _of_external_id(self, external_id: str, user_id: str | UnsetType, now: Moment) -> Resident:
        """The one live session with that external id, of that user or of all."""
        if user_id is UNSET:
            ids = self._holders_of_any_user(external_id, now)
        else:
            ids = [r.session_id for r in self._holders(user_id, external_id, now)]
        if not ids:
            raise Refusal("session_not_found", f"there is no live session with the external id {quote(external_id)}")
        if len(ids) > 1:
            raise _several(external_id)
        return self.book.resident(ids[0])

    def _holders_of_any_user(self, external_id: str, now: Moment) -> list[str]:
        reference = Reference(external_id=external_id)
        search, found = self._referred(reference, 2, lambda s: self.expiry.is_live(s, now.wall))
        ids = [s.session_id for s, _ in found]
        if ids and self._may_be_more(search):
            raise _several(external_id)
        if len(ids) == 1 and ids[0] not in self.book.residents.sessions:
            raise NotResident(sessions=(ids[0],), search=search)  # once it is loaded, the answer is needed again
        return ids

    def _search(self, search: Reference) -> list[tuple[Session, int]]:
        """What matches, with the bytes of its state: as stored, and corrected by what is newer."""
        overlay = self.book.overlay
        found = [
            (r.session, r.state_bytes) for r in self.book.answer(search).rows if r.session.session_id not in overlay
        ]
        found += [(s, r.size) for r in overlay if (s := r.session) is not None and search.matches(s)]
        return found

    def _referred(
        self, reference: Reference, enough: int, is_meant: Callable[[Session], bool]
    ) -> tuple[Reference, list[tuple[Session, int]]]:
        """What a reference may mean, `enough` or all of it, with the search that has found it.

        The store tells the first few that match.  Where most of them have changed or
        expired since, those that it did not tell count, and it is asked for many.
        """
        wide = replace(reference, wide=True)
        search = wide if wide in self.book.answers else reference
        found = [f for f in self._search(search) if is_meant(f[0])]
        if len(found) < enough and not search.wide and self.book.answer(search).more:
            raise NotResident(search=wide)
        return search, found

    def _may_be_more(self, search: Reference) -> bool:
        """Thousands that match have changed since, and others were not even looked at: one that is found is a guess."""
        return search.wide and bool(self.book.answer(search).more)

    # -- judging it

    def _known(self, resident: Resident) -> Session:
        """The session in whatever state it is."""
        s = resident.session
        if s is None:
            raise absent(resident)
        return s

    def _usable(self, resident: Resident, now: int) -> Session:
        """The session, which is live.  The hot path."""
        s = resident.session
        # Most were used just now: the slack of `expires_at` matters only near the end.
        if (
            s is None
            or s.status
            or ((now >= s.active_at + s.timeout * 1000 or s.about.ends_at) and now >= self.expiry.expires_at(s))
        ):
            return self._allow("use", resident, now)
        return s

    def _allow(self, event: Event, resident: Resident, now: int) -> Session:
        """The session, in a state in which `event` is possible."""
        s = self._known(resident)
        after(event, self.expiry.status(s, now), s.session_id)
        return s

    def _live_members(self, group: Group, now: Moment) -> list[Resident]:
        """The live sessions of a group; a damaged one takes no place among them."""
        return [
            r
            for r in self.book.sessions_of(group)
            if r.session is not None and self.expiry.is_live(r.session, now.wall)
        ]

    def _holders(self, user_id: str, external_id: str, now: Moment) -> list[Resident]:
        """The live sessions of a user with that external id.

        After a replay, a session that has given it up may still be in the group.
        """
        key = external_key(user_id, external_id)
        if key is None:
            return []
        live = self._live_members(self.book.group(key), now)
        return [r for r in live if (s := r.session) and external_key(s.user_id, s.about.external_id) == key]

    def _check_external_id(self, user_id: str, external_id: str, now: Moment, besides: set[str]) -> list[Resident]:
        """Refuse an external id that a live session of the user has, but for those `besides`.

        Returns those that are in its way no more because they have expired, for `_note_expiry`.
        """
        for resident in self._holders(user_id, external_id, now):
            if resident.session_id not in besides:
                raise Refusal(
                    "external_id_conflict", f"a live session of the same user has the external id {quote(external_id)}"
                )
        key = external_key(user_id, external_id)
        return [] if key is None else self._overdue(key, now)

    def _overdue(self, key: GroupKey, now: Moment) -> list[Resident]:
        """Members that are stored as live and have expired; all their groups are resident."""
        overdue = [
            r
            for r in self.book.sessions_of(self.book.group(key))
            if key in groups_of(r.session) and r.session is not None and not self.expiry.is_live(r.session, now.wall)
        ]
        self.book.need_groups(*(r.session for r in overdue))
        return overdue

    def _note_expiry(self, overdue: Iterable[Resident]) -> None:
        """Write down that sessions have expired whose place or external id is given to another one.

        A start after a crash gives sessions time back, and they would be live again beside it.
        """
        for resident in overdue:
            s = resident.session
            if s is not None and s.status == LIVE:
                at = self.expiry.expires_at(s)
                self.book.change(resident, Ended(s.number, EXPIRED, at), ended(s, EXPIRED, at))

    # -- limits of values

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


def _no_copies() -> str:
    raise Refusal("backup_unavailable", "nothing is on disk, so there is nothing to copy")


def _no_vitals() -> tuple[SweeperStatistics, ServerStatistics]:
    return SweeperStatistics(), ServerStatistics()


def absent(resident: Resident) -> Refusal:
    """Why there is no session in its place."""
    if resident.damaged:
        return Refusal("session_damaged", "what is stored of this session is damaged; the server's log says more")
    return Refusal("session_not_found", f"there is no session {quote(resident.session_id)}")


def _several(external_id: str) -> Refusal:
    return Refusal(
        "external_id_ambiguous",
        f"live sessions of several users have the external id {quote(external_id)}; add user_id",
    )


def _both(parameter: str) -> Refusal:
    expected = "left out where session_id names the session"
    return Refusal("invalid_parameter", f"{parameter} must be {expected}", parameter=parameter, expected=expected)
