"""The draft: one decision's only view of the world, and its unit of work.

It hands out entities and answers, notes which versions and commits it read, and
stages records.  Nothing outside changes until the engine accepts it; a draft that
is refused, or breaks, or lacks something, is thrown away.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

from msgspec import UNSET, Struct, UnsetType

from stui_sessions.domain.caller import Caller
from stui_sessions.domain.entities import (
    SESSION,
    Damaged,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
    external_key,
    session_key,
)
from stui_sessions.domain.finding import Answer, Found, Listing, Question, Reference
from stui_sessions.domain.limits import ClientLists, CreationRate
from stui_sessions.domain.numbers import Numbers
from stui_sessions.domain.records import Record, Updated, Used, apply, updated, used
from stui_sessions.domain.times import Expiry, Moment, slack_ms
from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.registry import Command

Access = Literal["read", "write"]
"""What a caller wants to do with a session."""

Bucket = tuple[str, ...]
"""Whose rate of creation a new session counts for."""


class Rules(Struct, frozen=True):
    """The settings that decisions depend on; see `config.Settings` for their meaning."""

    max_sessions_per_client: int = 5
    max_sessions_per_user: int = 10
    on_limit: Literal["reject", "evict_oldest"] = "reject"
    default_timeout: int = 3600
    open_timeout: int = 2_592_000
    max_timeout: int = 31_536_000
    default_ttl: int = 0
    cleanup_interval: int = 300
    keep_expired: int = 604_800
    max_state_bytes: int = 1_048_576
    max_message_bytes: int = 2_097_152
    max_depth: int = 128


class World:
    """What decisions may look at beside entities.  One for the whole server; the engine's to change.

    `new_id(number, unix_seconds, form)` makes a session id that cannot be guessed; `numbers`
    gives sessions their numbers; `is_shared` says that other servers have the same sessions,
    and must know of each use of one; `statistics()` tells what the rest of the
    server counts, as the results RemovedCounts, SweeperStatistics and ServerStatistics.
    """

    def __init__(
        self,
        rules: Rules,
        expiry: Expiry,
        lists: ClientLists,
        rate: CreationRate,
        new_id: Callable[[int, int, str], str],
        numbers: Numbers,
        statistics: Callable[[], tuple[Any, Any, Any]],
        is_shared: bool = False,
    ) -> None:
        self.rules = rules
        self.expiry = expiry
        self.lists = lists
        self.rate = rate
        self.new_id = new_id
        self.numbers = numbers
        self.statistics = statistics
        self.is_shared = is_shared


class Known(Protocol):
    """What is in memory, and may be told."""

    def get(self, key: Key, /) -> Entity | None: ...


class Named(Protocol):
    """Parameters that name one session: by its id, or by its external id (of one user, or of any)."""

    session_id: str | UnsetType
    external_id: str | UnsetType
    user_id: str | UnsetType


class Missing(Exception):
    """The decision needs what is not in memory: load it, decide again."""

    def __init__(self, keys: tuple[Key, ...] = (), question: Question | None = None) -> None:
        super().__init__(keys, question)
        self.keys = keys
        self.question = question


class Draft(Struct, gc=False):
    """See the module's text.  A Struct, because one is made for every request."""

    world: World
    known: Known  # what is in memory
    gathering: int  # the number of the next commit
    command: Command  # what was asked: for the texts of refusals
    caller: Caller
    now: Moment
    answers: Mapping[Question, tuple[Answer, int]] | None = None  # what the store has told this request
    forgiving: bool = False  # the disk has refused to record a use: it succeeds all the same, unrecorded
    commit: int = 0  # the highest among all that was read: a refusal waits for it too
    read: list[Entity] = []  # what the decision stood on, in the versions that it saw
    changes: list[tuple[Record, Entity, Entity]] = []  # each record, with the entity before and after it
    uses: dict[Key, int] | None = None  # when sessions were used, ms, whose use need not be recorded yet
    after: dict[Key, Entity] | None = None  # what was staged, as it is now; made when it is needed
    bucket: Bucket | None = None  # whose rate a creation is to be counted for

    # -- reading

    def entity(self, key: Key) -> Entity:
        """What is under `key`, as this draft sees it; Missing if it has to be loaded."""
        if (self.changes or self.uses) and (staged := self.staged().get(key)) is not None:
            return staged
        entity = self.known.get(key)
        if entity is None:
            raise Missing((key,))
        self.read.append(entity)
        if entity.commit > self.commit:
            self.commit = entity.commit
        return entity

    def entities(self, keys: Iterable[Key]) -> list[Entity]:
        """What is under each of `keys`; Missing with all of them that have to be loaded."""
        staged = self.staged()
        known, read, commit = self.known, self.read, self.commit
        found: list[Entity] = []
        absent: dict[Key, None] = {}
        for key in keys:
            entity = staged.get(key)
            if entity is None:
                entity = known.get(key)
                if entity is None:
                    absent[key] = None
                    continue
                read.append(entity)  # also where others are absent: so that it is still there when these have come
                if entity.commit > commit:
                    commit = entity.commit
            found.append(entity)
        self.commit = commit
        if absent:
            raise Missing(tuple(absent))
        return found

    def ask(self, question: Question) -> Answer:
        """The store's answer, which is committed; Missing if it has to be asked first."""
        if self.answers is None or question not in self.answers:
            raise Missing(question=question)
        answer, commit = self.answers[question]
        self.commit = max(self.commit, commit)
        return answer

    def find(self, question: Listing | Reference) -> Found:
        """The sessions that the store has found; Missing if it has to be asked first."""
        found = self.ask(question)
        assert isinstance(found, Found)
        return found

    def session(self, ref: Named | str, access: Access) -> Session:
        """The one look-up of a session, in whatever state it is; Refusal if there is none for this caller.

        `ref`: its id, or parameters that name it.
        """
        if type(ref) is str:
            entity = self.entity((self.caller.tenant, SESSION, ref))
        elif ref.external_id is not UNSET or ref.user_id is not UNSET or ref.session_id is UNSET:  # type: ignore[union-attr]
            entity = self._named(ref)  # type: ignore[arg-type]
        else:
            key = (self.caller.tenant, SESSION, ref.session_id)  # type: ignore[union-attr]
            if self.changes or self.uses or (entity := self.known.get(key)) is None:  # type: ignore[assignment]
                entity = self.entity(key)
            else:  # nearly always; the same as `entity`, without a call
                self.read.append(entity)
                if entity.commit > self.commit:
                    self.commit = entity.commit
        if type(entity) is not Session:
            raise absent(entity)
        return entity

    def place(self, session_id: str) -> Entity:
        """A session, or its absence, where an id of the caller's own is wanted."""
        return self.entity(session_key(self.caller.tenant, session_id))

    def sessions_of(self, owner: Entity) -> list[Session]:
        """The sessions of an owner that are stored as live; damaged ones are left out."""
        if not isinstance(owner, Owner):
            return []
        tenant = owner.key[0]
        found = self.entities(session_key(tenant, session_id) for session_id in owner.session_ids)
        return [s for s in found if isinstance(s, Session)]

    def is_live(self, s: Session) -> bool:
        """It can be used now: it has not ended, and its end has not come unnoticed."""
        return self.world.expiry.is_live(s, self.now.wall)

    # -- staging

    def stage(self, before: Entity, kind: Callable[..., Record], *fields: Any) -> Entity:
        """A record of `kind` with these fields is to be committed; the entity after it."""
        record = kind(before.key, before.version + 1, self.now.wall, self.caller.name, before.commit, *fields)
        after = apply(before, record, self.gathering)
        self.changes.append((record, before, after))
        if self.after is not None:
            self.after[after.key] = after
        return after

    def save(self, s: Session, record: Updated, keys: tuple[str, ...] | None) -> Session:
        """State is to be saved; `keys`: the top-level keys of its `session_state`, where they are known."""
        after = updated(s, record, self.gathering, keys)
        self.changes.append((record, s, after))
        if self.after is not None:
            self.after[after.key] = after
        return after

    def use(self, s: Session) -> Session:
        """The session is used now.

        Soft, so no reply waits for it, unless it comes later than the slack after the
        last use that was recorded: a start after a crash could not give that much back.
        Where other servers judge the same session, each use is recorded.
        """
        now = self.now.wall
        late = abs(now - s.recorded_at) >= slack_ms(s.timeout) or self.world.is_shared  # abs: the clock may be set back
        if late and not self.forgiving:
            after = self.stage(s, Used, now)
            assert isinstance(after, Session)
            return after
        after = used(s, now)
        if self.uses is None:
            self.uses = {}
        self.uses[s.key] = now
        self.staged()[s.key] = after
        return after

    def staged(self) -> dict[Key, Entity]:
        """What was staged, as it is now.  Most drafts stage once and look no more, so it is made on demand."""
        if self.after is None:
            self.after = {after.key: after for _, _, after in self.changes}
        return self.after

    # -- names that are no ids

    def _named(self, ref: Named) -> Entity:
        """The session that an external id names; Refusal for names that do not go together."""
        if ref.external_id is UNSET:
            if ref.session_id is UNSET:
                raise self.command.missing("session_id" if ref.user_id is UNSET else "external_id")
            raise self._two_names("user_id")
        if ref.session_id is not UNSET:
            raise self._two_names("external_id")
        user_id = ref.user_id
        found = self._of_any_user(ref.external_id) if user_id is UNSET else self._of_user(user_id, ref.external_id)
        if not found:
            raise Refusal(
                "session_not_found", f"there is no live session with the external id {quote(ref.external_id)}"
            )
        if len(found) > 1:
            raise Refusal(
                "external_id_ambiguous",
                f"live sessions of several users have the external id {quote(ref.external_id)}; add user_id",
            )
        return found[0]

    def _of_user(self, user_id: str, external_id: str) -> list[Session]:
        key = external_key(self.caller.tenant, user_id, external_id)
        assert key is not None
        holder = self.entity(key)
        return self._holding([holder.session_id], external_id) if isinstance(holder, Holder) else []

    def _of_any_user(self, external_id: str) -> list[Session]:
        found = self.find(Reference(self.caller.tenant, external_id=external_id))
        return self._holding([s.session_id for s in found.sessions], external_id)

    def _holding(self, session_ids: list[str], external_id: str) -> list[Session]:
        """Those that are live and have the external id now."""
        found = self.entities(session_key(self.caller.tenant, session_id) for session_id in session_ids)
        return [s for s in found if isinstance(s, Session) and s.about.external_id == external_id and self.is_live(s)]

    def _two_names(self, parameter: str) -> Refusal:
        return self.command.refused(parameter, "left out where session_id names the session")


def absent(entity: Entity) -> Refusal:
    """Why there is no session in its place."""
    if isinstance(entity, Damaged):
        return Refusal("session_damaged", "what is stored of this session is damaged; the server's log says more")
    return Refusal("session_not_found", f"there is no session {quote(entity.key[2])}")
