"""A small engine: entities in dicts, a clock that the test moves, drafts that load what they lack.

What is stored is one dict, what is in memory another, so that every decision can be made
to begin with nothing in memory.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import count
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.operating import RemovedCounts, ServerStatistics, SweeperStatistics
from stui_sessions.commands.upkeep import RECORD_USES, SWEEP
from stui_sessions.domain.caller import ANYONE_LOCAL, SYSTEM, Caller
from stui_sessions.domain.draft import Draft, Missing, Rules, World
from stui_sessions.domain.entities import (
    LIVE,
    SESSION,
    Absent,
    Damaged,
    Entity,
    Holder,
    Key,
    Owner,
    Session,
    SessionData,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.finding import (
    MAX_MATCHES,
    Answer,
    Counts,
    Due,
    DueFound,
    DueSession,
    Found,
    Listing,
    Question,
    Reference,
    Totals,
)
from stui_sessions.domain.limits import ClientLists, CreationRate
from stui_sessions.domain.manager import begin
from stui_sessions.domain.moving import Needs, ask_for_import
from stui_sessions.domain.numbers import Numbers
from stui_sessions.domain.records import Created, Record
from stui_sessions.domain.times import Expiry, Moment, format_instant
from stui_sessions.domain.upkeep import record_uses, sweep
from stui_sessions.errors import Refusal
from stui_sessions.protocol.jsontext import StateText
from stui_sessions.protocol.registry import Command

START = 1_756_549_800_000  # 2025-08-30T10:30:00Z, in ms
SECOND = 1000


def state_text(value: dict[str, Any] | bytes) -> StateText:
    """What decoding makes of a state object."""
    text = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return StateText(text, tuple(json.loads(text, parse_int=str)))


def decoded(command: Command, parameters: dict[str, Any]) -> Any:
    """Parameters as decoding makes them, state objects being given as dict or text."""
    states = command.state_parameters
    return command.params(**{k: state_text(v) if k in states and v is not UNSET else v for k, v in parameters.items()})


class House:
    """`do("create_session", client_id="me")` decides and commits as the server does."""

    def __init__(
        self,
        rules: Rules | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        per_minute: int = 0,
        uncertain_until: int = 0,
    ) -> None:
        self.stored: dict[Key, Entity] = {}
        """What is committed: without uses that are not recorded."""
        self.memory: dict[Key, Entity] = {}
        self.commit = 0
        self.history: list[Record] = []
        """All records, in order."""
        self.log: list[Record] = []
        """Those that `changes` has not told."""
        self.wall = START
        self.monotonic = 1000.0
        self.caller = ANYONE_LOCAL
        self.forgiving = False
        self.draft: Draft | None = None
        """The last one that was accepted."""
        self.loads: list[Missing] = []
        self.refusals = 0
        self.twice = False
        """Every decision is made a second time, which must lead to the same."""
        ids = count(1)
        self.world = World(
            rules or Rules(),
            Expiry(uncertain_until),
            ClientLists(allow, deny),
            CreationRate(per_minute),
            lambda number, second, form: f"{'session' if form == 'counter' else form}_{number}_{second}_{next(ids)}",
            Numbers(0),
            lambda: (RemovedCounts(), SweeperStatistics(), ServerStatistics()),
        )

    # -- time

    @property
    def now(self) -> Moment:
        return Moment(self.wall, self.monotonic, format_instant(self.wall))

    def wait(self, seconds: float) -> None:
        self.wall += round(seconds * 1000)
        self.monotonic += seconds

    # -- asking

    def do(self, command: str, /, **parameters: Any) -> Any:
        """The result of a command, state objects given as dict or text.  Raises Refusal."""
        row = REGISTRY[command]
        assert row.handler is not None
        handler, params = row.handler, decoded(row, parameters)
        return self.decide(lambda draft: handler(draft, params), row)

    def refused(self, command: str, /, **parameters: Any) -> Refusal:
        """The refusal of a command that must be refused."""
        with pytest.raises(Refusal) as caught:
            self.do(command, **parameters)
        return caught.value

    def create(self, client_id: str = "me", **parameters: Any) -> str:
        session_id = self.do("create_session", client_id=client_id, **parameters).session_id
        assert isinstance(session_id, str)
        return session_id

    def sweep(self, session_id: str) -> Session | None:
        key = session_key("", session_id)
        removed: Session | None = self.decide(lambda draft: sweep(draft, key), SWEEP, SYSTEM)
        return removed

    def record_uses(self) -> None:
        """What the server does before it stops."""
        keys = [key for key, e in self.memory.items() if isinstance(e, Session)]
        self.decide(lambda draft: record_uses(draft, keys), RECORD_USES, SYSTEM)

    # -- the engine's loop

    def decide(self, decision: Callable[[Draft], Any], command: Command = SWEEP, caller: Caller | None = None) -> Any:
        """Decide, load what is missing, decide again; a decision that raised has changed nothing."""
        answers: dict[Question, tuple[Answer, int]] = {}
        for _ in range(20):
            draft = Draft(
                *(self.world, self.memory, self.commit + 1, command, caller or self.caller, self.now, answers),
                forgiving=self.forgiving,
            )
            before = (dict(self.memory), dict(self.world.rate._buckets), self.world.rules)
            try:
                result = decision(draft)
                if self.twice:
                    self._check_second_run(decision, draft, result)
            except Missing as missing:
                self._check_unchanged(before)
                assert not draft.changes, "something was staged before all that was needed was asked for"
                self.loads.append(missing)
                self._load(missing, answers)
            except Refusal:
                self._check_unchanged(before)
                self.refusals += 1
                raise
            else:
                self._accept(draft)
                return result
        raise AssertionError("loading does not help")

    def _check_second_run(self, decision: Callable[[Draft], Any], draft: Draft, result: Any) -> None:
        """The same decision on a draft like the first one; numbers and ids that are made alone may differ."""
        again = copy(draft)
        again.changes, again.uses, again.read, again.bucket, again.after = [], None, [], None, None
        second = decision(again)
        assert [said(r)[0] for r, _, _ in again.changes] == [said(r)[0] for r, _, _ in draft.changes]
        if not any(isinstance(r, Created) for r, _, _ in draft.changes):
            assert again.changes == draft.changes
            assert msgspec.json.encode(second) == msgspec.json.encode(result)

    def _check_unchanged(self, before: Any) -> None:
        assert (self.memory, self.world.rate._buckets, self.world.rules) == before

    def _accept(self, draft: Draft) -> None:
        if draft.changes:
            self.commit += 1
        for record, before, after in draft.changes:
            assert record.version == before.version + 1
            assert before.version == self.memory.get(after.key, before).version, "decided on what is over"
            assert record.previous == before.commit
            self.history.append(record)
            self.log.append(record)
            self.memory[after.key] = after
            self.stored[after.key] = after
        for key in draft.uses or ():
            self.memory[key] = draft.staged()[key]
        if draft.bucket is not None:
            self.world.rate.take(draft.bucket, self.monotonic)
        self.draft = draft
        self.check()

    def _load(self, missing: Missing, answers: dict[Question, tuple[Answer, int]]) -> None:
        assert missing.keys or missing.question is not None
        for key in missing.keys:
            assert key not in self.memory
            self.memory[key] = self.stored.get(key, Absent(key))
        if missing.question is not None:
            assert missing.question not in answers
            if isinstance(missing.question, Listing | Reference):
                self.record_uses()  # as the engine does: who is live is told by what is recorded
            answers[missing.question] = (
                answer_to(self.stored.values(), missing.question, self.wall, self.world.expiry),
                0,
            )

    # -- what the tests look at and do to it

    def loaded(self) -> list[str]:
        """What each load has brought, in short: `s` a session, `o` an owner, `e` an external id."""
        return ["".join(sorted(key[1][0] for key in missing.keys)) for missing in self.loads if missing.keys]

    def changes(self) -> list[Any]:
        """The records of sessions since the last time: the type of each, and what it says of its own."""
        log, self.log = self.log, []
        return [said(record) for record in log if record.key[1] == SESSION]

    def counts(self) -> tuple[int, int, int, int]:
        """The sessions of each status that are stored."""
        totals = answer_to(self.stored.values(), Counts(""), self.wall, self.world.expiry)
        assert isinstance(totals, Totals)
        return totals.live, totals.expired, totals.closed, totals.deleted

    def put(self, data: SessionData) -> None:
        """A session that was stored by somebody else."""
        key = session_key("", data.session_id)
        needs = Needs([data])
        self.decide(lambda draft: (ask_for_import(draft, needs), begin(draft, draft.entity(key), data)), SWEEP, SYSTEM)
        self.log.clear()
        self.forget()

    def forget(self) -> None:
        """Drop everything from memory; uses that are not recorded are recorded, as the engine does."""
        self.record_uses()
        self.memory.clear()
        self.loads.clear()
        self.log.clear()

    def is_live(self, s: Session) -> bool:
        return self.world.expiry.is_live(s, self.wall)

    def crash_but_uses(self) -> None:
        """Drop all that can be loaded again: what is stored as it is in memory."""
        self.memory = {key: e for key, e in self.memory.items() if self.stored.get(key) != e and type(e) is Session}

    def crash(self) -> None:
        """Drop everything from memory, and go on with what is stored."""
        self.memory.clear()

    def session(self, session_id: str) -> Session:
        key = session_key("", session_id)
        entity = self.memory.get(key) or self.stored[key]
        assert isinstance(entity, Session)
        return entity

    def check(self) -> None:
        """What must stay true: owners list just their live sessions, external ids have one holder each."""
        entities = self.stored
        live = [s for s in entities.values() if isinstance(s, Session) and s.status == LIVE]
        listed = {e.key: sorted(e.session_ids) for e in entities.values() if isinstance(e, Owner) and e.count}
        owners: dict[Key, list[str]] = {}
        holders: dict[Key, str] = {}
        for s in live:
            owner = owner_key(s.key[0], s.user_id, s.client_id)
            if owner is not None:
                owners.setdefault(owner, []).append(s.session_id)
            held = external_key(s.key[0], s.user_id, s.about.external_id)
            if held is not None:
                assert held not in holders, f"two sessions hold {held}"
                holders[held] = s.session_id
        if not any(isinstance(e, Damaged) for e in entities.values()):
            assert listed == {key: sorted(ids) for key, ids in owners.items()}
            assert {e.key: e.session_id for e in entities.values() if isinstance(e, Holder)} == holders

    def damage(self, session_id: str) -> None:
        key = session_key("", session_id)
        self.stored[key] = Damaged(key)
        self.memory.pop(key, None)


OWN_FIELDS = 5
"""Of a record: behind key, version, time, who did it, and the commit of the record before."""


def said(record: Record) -> Any:
    """What a record says of its own."""
    return type(record), *msgspec.structs.astuple(record)[OWN_FIELDS:]


def answer_to(stored: Iterable[Entity], question: Question, now: int, expiry: Expiry) -> Answer:
    """What a store answers that has these entities."""
    sessions = [e for e in stored if isinstance(e, Session)]
    if isinstance(question, Counts):
        statuses = [sum(s.status == status for s in sessions) for status in range(4)]
        return Totals(*statuses, len({(s.user_id, s.client_id) for s in sessions if s.status == LIVE and s.client_id}))
    if isinstance(question, Due):
        return DueFound([DueSession(s.key, s.ended_at, s.number, s.state_bytes) for s in sessions])
    found = [s for s in sessions if question.matches(s)]
    if isinstance(question, Reference):
        found = [s for s in found if s.status != LIVE or question.prefix or expiry.is_live(s, now)]
        found.sort(key=lambda s: (s.active_at, s.number), reverse=True)
        return Found(found[: 3 * (MAX_MATCHES + 1)])
    return _page(found, question, now, expiry)


def _page(found: list[Session], listing: Listing, now: int, expiry: Expiry) -> Found:
    if listing.status == LIVE and not listing.with_state:
        found = [s for s in found if expiry.is_live(s, now)]
    found.sort(key=listing.position, reverse=listing.descending)
    if listing.after is not None:
        after = listing.after
        found = [s for s in found if listing.is_behind(listing.position(s), after)]
    page = found[: listing.limit]
    return Found(page, listing.position(page[-1]) if len(page) < len(found) else None)
