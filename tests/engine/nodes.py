"""Several servers over one store, all on one loop and moved by hand.

Each server has a view of the store of its own, with a gate before what it asks
arrives and one before the answer comes back: so that what others do may come between.
"""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import Absent, Entity, Key, SessionData
from stui_sessions.domain.finding import Answer, Question
from stui_sessions.storage.contract import Batch, Commit, Opened
from stui_sessions.storage.counting import newer
from stui_sessions.storage.memory import MemoryStore
from tests.engine.desk import AdvancingLoop, Desk, SteppedStore, StoreGate, batch_of

BEFORE_ALL = 10**9
"""Versions of what is absent begin above those of all that was ever there."""


class Common(MemoryStore):
    """What all servers have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def take(self, batch: Batch) -> int:
        """Commit what a server has decided, under the next number of all."""
        size = await super().commit(Batch(self._commit + 1, batch.records, batch.after, batch.expected))
        return size

    async def tell(self, keys: Sequence[Key], known: Mapping[Key, int] | None) -> dict[Key, Entity]:
        """What is committed, as a shared store tells it: without numbers of commits."""
        self.looks += 1
        found = {}
        for key, entity in (await super().read(keys)).items():
            if isinstance(entity, Absent):
                found[key] = Absent(key, BEFORE_ALL + self.looks)
            else:
                found[key] = replace(entity, commit=0)
        return newer(found, known)


class NodeStore(SteppedStore):
    """One server's way to the common store."""

    is_shared = True
    commits_at_once = 2

    def __init__(self, common: Common) -> None:
        super().__init__()
        self.common = common
        self.committing, self.reading = StoreGate(), StoreGate()
        """Gates on the way back; `commits` and `reads` are those on the way there."""
        self.last = 0

    async def open(self) -> Opened:
        await super().open()
        return Opened(0, 0, True, 0, 0)

    async def commit(self, batch: Batch) -> int:
        assert batch.number > self.last
        self.last = batch.number
        await self.commits.wait(batch)
        size = await self.common.take(batch)
        await self.committing.wait(Commit(batch.number, batch.records))
        return size

    async def read(self, keys: Sequence[Key], known: Mapping[Key, int] | None = None) -> dict[Key, Entity]:
        await self.reads.wait(list(keys))
        found = await self.common.tell(keys, known)
        await self.reading.wait(list(keys))
        return found

    async def query(self, question: Question, now: int) -> Answer:
        await self.queries.wait(question)
        return await self.common.query(question, now)

    @property
    def gates(self) -> list[StoreGate]:
        return [self.commits, self.committing, self.reads, self.reading]

    def hold(self) -> None:
        """Close all gates but that of queries."""
        for gate in self.gates:
            gate.closed = True


class Nodes:
    """Some servers, and what is stored for all of them."""

    def __init__(
        self, number: int, *stored: SessionData, rules: Rules | None = None, patience: float | None = None
    ) -> None:
        self.loop = AdvancingLoop()
        self.common = Common()
        self.loop.run_until_complete(self.common.open())
        if stored:
            self.loop.run_until_complete(self.common.take(batch_of(stored, 1)))
        self.desks = [
            Desk(rules=rules, store=NodeStore(self.common), loop=self.loop, slot=slot, patience=patience)
            for slot in range(number)
        ]

    @property
    def stores(self) -> list[NodeStore]:
        return [desk.store for desk in self.desks if isinstance(desk.store, NodeStore)]

    def settle(self) -> None:
        self.desks[0].settle()

    def close(self) -> None:
        """End it; no fault may have been logged."""
        for desk in self.desks:
            desk.end()
        self.loop.close()
