"""A server without sockets whose store is moved by hand, and peers that talk to it.

`Desk` runs the real engine on an event loop of its own.  Its store keeps everything in
memory and has a gate before each kind of call: open, or closed, when each call waits
until the test lets it go or makes it fail.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any, Self

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.operating import RemovedCounts, ServerStatistics, SweeperStatistics
from stui_sessions.domain.caller import ANYONE_LOCAL, Caller
from stui_sessions.domain.draft import Rules, World
from stui_sessions.domain.entities import (
    Absent,
    Entity,
    Key,
    Session,
    SessionData,
    external_key,
    owner_key,
    session_key,
)
from stui_sessions.domain.finding import Answer, Question
from stui_sessions.domain.limits import ClientLists, CreationRate
from stui_sessions.domain.numbers import Numbers, TimedNumbers
from stui_sessions.domain.records import Claimed, Created, Joined, Record, apply
from stui_sessions.domain.times import Expiry, Moment, format_instant
from stui_sessions.engine.engine import Engine, Operation
from stui_sessions.engine.statistics import RemovedSessions
from stui_sessions.engine.sweeper import Sweeper
from stui_sessions.errors import StorageError
from stui_sessions.gates.lines.dialogue import Dialogue
from stui_sessions.protocol.framing import Overflow
from stui_sessions.protocol.messages import Codec, WireLimits
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.memory import MemoryStore

START = 1_756_549_800_000  # 2025-08-30T10:30:00Z, in ms
UNAVAILABLE = StorageError("the disk is full")
YIELDS = 60

Reply = dict[str, Any]


def request(id: Any, command: str, /, **parameters: Any) -> bytes:
    message = {"id": id, "command": command, "parameters": parameters}
    return json.dumps(message, separators=(",", ":")).encode()


def stored_session(session_id: str, number: int = 1, client_id: str = "me", **fields: Any) -> SessionData:
    """A session as it is stored; times are in ms."""
    times = {"created_at": START, "modified_at": START, "active_at": START, "timeout": 3600}
    return SessionData(number, session_id, client_id, **(times | fields))


class AdvancingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Call:
    """A call that waits at a closed gate."""

    def __init__(self, what: Any) -> None:
        self.what = what
        self.passing: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class StoreGate:
    """Before calls of one kind: all pass, or each waits for `let_go` or `fail`."""

    def __init__(self) -> None:
        self.closed = False
        self.error: Exception | None = None
        """What every call fails with that passes."""
        self.seen: list[Any] = []
        self.waiting: list[Call] = []

    async def wait(self, what: Any) -> None:
        self.seen.append(what)
        if self.closed:
            call = Call(what)
            self.waiting.append(call)
            try:
                await call.passing
            finally:
                if call in self.waiting:
                    self.waiting.remove(call)
        if self.error is not None:
            raise self.error

    def let_go(self) -> None:
        self.waiting.pop(0).passing.set_result(None)

    def fail(self, error: Exception) -> None:
        self.waiting.pop(0).passing.set_exception(error)


class SteppedStore(MemoryStore):
    """A store in memory behind gates.  `committed` is what it holds; it checks that commits never overlap.

    With `answers_early`, a query knows nothing of what is committed while it waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commits, self.reads, self.queries = StoreGate(), StoreGate(), StoreGate()
        self.committed: dict[Key, Entity] = {}
        self.answers_early = False
        self._committing = False

    async def commit(self, batch: Batch) -> int:
        assert not self._committing, "two commits at once"
        self._committing = True
        try:
            await self.commits.wait(batch)
            size = await super().commit(batch)
        finally:
            self._committing = False
        for record in batch.records:
            key = record.key
            self.committed[key] = apply(self.committed.get(key, Absent(key)), record, batch.number)
        return size

    async def read(self, keys: Any, known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        await self.reads.wait(list(keys))
        return await super().read(keys, known)

    async def query(self, question: Question, now: int) -> Answer:
        early = await super().query(question, now) if self.answers_early else None
        await self.queries.wait(question)
        return early or await super().query(question, now)


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.lines: list[tuple[str, dict[str, Any]]] = []
        """Events with what is said of them."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return self._note

    def _note(self, event: str, **fields: Any) -> None:
        self.events.append(event)
        self.lines.append((event, fields))


class Desk:
    """The engine over a stepped store.  The clock is `wall`, moved by hand."""

    def __init__(
        self,
        *stored: SessionData,
        rules: Rules | None = None,
        limits: WireLimits | None = None,
        resident_limit: int = 2**40,
        store: SteppedStore | None = None,
        uncertain_until: int = 0,
        per_minute: int = 0,
        operations: Mapping[str, Operation] | None = None,
        loop: AdvancingLoop | None = None,
        slot: int = 0,
        patience: float | None = None,
    ) -> None:
        self.loop = loop or AdvancingLoop()
        self.operations = dict(operations or {})
        self.store = store or SteppedStore()
        self.log = Log()
        self.wall = START
        self.codec = Codec(REGISTRY, limits or WireLimits())
        ids = count(slot * 1000 + 1)
        opened = self.run(self.store.open())
        if stored:
            self.run(self.store.commit(batch_of(stored, opened.commit + 1)))
            self.store.commits.seen.clear()
        self.world = World(
            *(rules or Rules(max_sessions_per_client=100), Expiry(uncertain_until), ClientLists([], [])),
            *(CreationRate(per_minute), lambda number, second, form: f"new{next(ids)}"),
            *(TimedNumbers(slot) if self.store.is_shared else Numbers(len(stored)), self._statistics),
            self.store.is_shared,
        )
        committed = opened.commit + bool(stored)
        self.loop.run_until_complete(self._start(committed, resident_limit, patience))

    async def _start(self, committed: int, resident_limit: int, patience: float | None) -> None:
        self.engine = Engine(
            *(self.world, self.store, self.clock, committed, resident_limit, self.operations, self.log, patience)
        )
        self.removed = RemovedSessions(self.engine.feed)
        self.sweeper = Sweeper(self.engine, self.store, self.log)
        jobs = self.engine.committer.run(), self.engine.loader.run()
        self.tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(job) for job in jobs]

    def clock(self) -> Moment:
        return Moment(self.wall, self.wall / 1000, format_instant(self.wall))

    def _statistics(self) -> tuple[RemovedCounts, SweeperStatistics, ServerStatistics]:
        return RemovedCounts(**self.removed.by_reason()), SweeperStatistics(), ServerStatistics()

    # -- the loop

    def run(self, work: Any) -> Any:
        """The outcome of something that awaits."""
        return self.loop.run_until_complete(work)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The outcome of a function that needs a running loop."""

        async def work() -> Any:
            return function(*arguments)

        return self.run(work())

    def start(self, job: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Have a job run beside everything else, to the end of the test."""
        self.tasks.append(self.loop.create_task(job))
        return self.tasks[-1]

    def advance(self, seconds: float) -> None:
        """Let time pass for whoever waits for a timer."""
        self.settle()
        self.loop.ahead += seconds
        self.settle()

    def settle(self) -> None:
        """Let everybody go on until all of them wait for something."""
        self.loop.run_until_complete(_yield())
        for task in self.tasks:
            assert not task.done(), task

    def later(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def close(self) -> None:
        """End it; no fault may have been logged."""
        self.end()
        self.loop.close()

    def end(self) -> None:
        """The same, but the loop goes on for others."""
        tasks = [*self.tasks, *(task for _, task in self.engine.committer._sent)]
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(_yield())
        faults = [line for line in self.log.lines if line[0].endswith(".fault")]
        assert faults == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the store, by hand

    def hold_commits(self) -> None:
        self.store.commits.closed = True

    @property
    def in_flight(self) -> Batch | None:
        """The commit that waits at the gate."""
        waiting = self.store.commits.waiting
        return waiting[0].what if waiting else None

    def succeed(self) -> None:
        self.store.commits.let_go()
        self.settle()

    def fail(self, error: Exception = UNAVAILABLE) -> None:
        self.store.commits.fail(error)
        self.settle()

    def committed(self, session_id: str) -> Session | None:
        """What is committed of a session."""
        entity = self.store.committed.get(session_key("", session_id))
        return entity if isinstance(entity, Session) else None

    # -- peers

    def peer(self) -> "Peer":
        return Peer(self)

    def ask(self, command: str, /, **parameters: Any) -> Any:
        """Ask and wait for the answer: the result, or the code of the refusal."""
        peer = self.peer()
        peer.ask(1, command, **parameters)
        for _ in range(100):
            if peer.replies:
                break
            self.settle()
        (reply,) = peer.replies
        return reply.get("result", reply.get("error_code"))


class Peer:
    """One end of a dialogue, and what it was told."""

    def __init__(self, desk: Desk, caller: Caller = ANYONE_LOCAL) -> None:
        self.desk = desk
        self.replies: list[Reply] = []
        self.sends = 0
        self.drained = 0
        """How often it was told that nothing undecided is left."""
        self.on_send: Callable[[list[Reply]], None] = lambda replies: None
        self.dialogue = Dialogue(desk.engine, desk.codec, caller, self._send, desk.later, self._on_drained)

    def _on_drained(self) -> None:
        self.drained += 1

    def _send(self, data: bytes) -> None:
        assert data.endswith(b"\n")
        self.sends += 1
        replies = [json.loads(line) for line in data.splitlines()]
        self.replies += replies
        self.on_send(replies)

    @property
    def ids(self) -> list[Any]:
        return [reply["id"] for reply in self.replies]

    @property
    def codes(self) -> list[str]:
        return [reply.get("error_code", "ok") for reply in self.replies]

    def say(self, *lines: bytes | Overflow) -> None:
        """Lines come, all at once.  One alone has a way of its own, as in a connection."""
        if len(lines) == 1 and isinstance(lines[0], bytes):
            self.desk.call(self.dialogue.receive_one, lines[0] + b"\n")
        else:
            self.desk.call(self.dialogue.receive, lines)

    def ask(self, id: Any, command: str, /, **parameters: Any) -> None:
        self.say(request(id, command, **parameters))

    def pause(self) -> None:
        self.dialogue.paused = True

    def unpause(self) -> None:
        self.dialogue.paused = False
        self.desk.call(self.dialogue.proceed)


async def _yield() -> None:
    for _ in range(YIELDS):
        await asyncio.sleep(0)


def batch_of(stored: tuple[SessionData, ...], number: int) -> Batch:
    """One commit that makes all of these, with their owners and external ids."""
    records: list[Record] = []
    after: dict[Key, Entity] = {}

    def note(key: Key | None, kind: Callable[..., Record], value: Any) -> None:
        if key is not None:
            before = after.get(key, Absent(key))
            record = kind(key, before.version + 1, START, "test", before.commit, value)
            records.append(record)
            after[key] = apply(before, record, number)

    for data in stored:
        note(session_key("", data.session_id), Created, data)
        if not data.status:
            note(owner_key("", data.about.user_id, data.client_id), Joined, data.session_id)
            note(external_key("", data.about.user_id, data.about.external_id), Claimed, data.session_id)
    return Batch(number, records, after, {}, {})
