"""Load on all nodes: workers that write sessions of theirs and of all, and note what became of each write.

A write has a mark, which the log of changes shows again: `save 17` where state with the number 17 was saved,
`make ID` and `end ID` where a session was made or closed.  So the log tells of each write whether, and how often,
it was carried out, whatever its client was told.
"""

import itertools
import random
import threading
import time
from typing import Any, Self

from tests.nodes.cluster import PATIENCE, Cluster
from tests.nodes.talking import REFUSED, UNANSWERED, Client, Told
from tests.support.waiting import until

SHARED = 12
"""Sessions that all workers write to."""
OWN = 3
"""Sessions of a worker's own, at most; below the limit."""


class Ledger:
    """What became of the writes: each mark is in one of these."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        """What no client may be told."""
        self.acknowledged: dict[str, tuple[str, int]] = {}
        """Marks with the session and the revision that were told."""
        self.refused: set[str] = set()
        """Told as not carried out: nobody may ever see them."""
        self.unknown: set[str] = set()
        """Not answered: each may have been carried out, once."""

    def note(self, mark: str, session_id: str, told: Told) -> None:
        """A write was answered, or never will be."""
        if told.is_ok:
            self.acknowledged[mark] = session_id, told.result["revision"]
        elif told.code == REFUSED:
            self.refused.add(mark)
        elif told.code == UNANSWERED:
            self.unknown.add(mark)
        else:
            self.wrong.append(f"{mark} of {session_id} was answered {told}")

    def expect(self, holds: bool, what: str) -> None:
        """Note what a client was told and must not be, to be reported with what is wrong in the tables."""
        if not holds:
            self.wrong.append(what)

    def __str__(self) -> str:
        return f"{len(self.acknowledged)} acknowledged, {len(self.refused)} refused, {len(self.unknown)} unknown"


class Load:
    """Workers, each in a thread, with requests through any node one after the other, until `stop`."""

    def __init__(self, cluster: Cluster, workers: int = 12, seed: int = 0) -> None:
        self.cluster = cluster
        self.ledger = Ledger()
        self.told: list[Told] = []
        """All replies, as they came."""
        self.lost = 0
        """Connections that clients have lost."""
        self.shared: dict[str, int] = {}
        """The sessions of all, each with the highest revision that anybody was told of."""
        self._serials = itertools.count(1)
        self._names = itertools.count(1)
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(n, f"{seed}/{n}"), daemon=True) for n in range(workers)
        ]

    # Its life.

    def start(self) -> Self:
        """Start the workers, and wait until each has got somewhere."""
        with Client(self.cluster, "first") as client:
            for n in range(SHARED):
                self._make(client, f"all-{n // 4}", self.shared)
        for thread in self._threads:
            thread.start()
        self.go_on(10 * len(self._threads))
        return self

    def go_on(self, writes: int, timeout: float = PATIENCE) -> None:
        """Wait for so many more acknowledged writes."""
        wanted = len(self.ledger.acknowledged) + writes
        until(lambda: self._failures or len(self.ledger.acknowledged) >= wanted, f"{writes} writes", timeout)
        self.check()

    def check(self) -> None:
        """Raise what a worker found wrong."""
        if self._failures:
            raise self._failures[0]

    def ask_to_stop(self) -> None:
        """Have the workers send nothing more."""
        self._stopping.set()

    def stop(self) -> Ledger:
        """Have the workers wait for their last replies, and end."""
        self.ask_to_stop()
        deadline = time.monotonic() + 2 * PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a worker still waits for a node"
        self.check()
        return self.ledger

    def sent(self, since: float, until: float = float("inf"), without: int = -1) -> list[Told]:
        """Answers to what was sent then, and not to node `without`."""
        return [t for t in list(self.told) if since <= t.begun <= until and t.node != without]

    # What a worker does.

    def _work(self, number: int, seed: str) -> None:
        rng = random.Random(seed)
        own: dict[str, int] = {}
        try:
            with Client(self.cluster, seed) as client:
                while not self._stopping.is_set():
                    self._step(client, rng, number, own)
                self.lost += client.lost
        except BaseException as failure:
            self._failures.append(failure)

    def _step(self, client: Client, rng: random.Random, number: int, own: dict[str, int]) -> None:
        chance = rng.random()
        if chance < 0.05 and len(own) < OWN:
            # What is unknown may count for the limit, so the next session is of another client.
            self._make(client, f"own-{number}-{len(self.ledger.unknown)}", own)
        elif chance < 0.08 and own:
            session_id = rng.choice(list(own))
            del own[session_id]
            told = self._ask(client, "close_session", session_id=session_id)
            self.ledger.note(f"end {session_id}", session_id, told)
        else:
            sessions = own if own and rng.random() < 0.3 else self.shared
            session_id = rng.choice(list(sessions))
            if rng.random() < 0.25:
                self._read(client, sessions, session_id)
            else:
                self._save(client, sessions, session_id)

    def _ask(self, client: Client, command: str, **parameters: Any) -> Told:
        told = client.ask(command, **parameters)
        self.told.append(told)
        return told

    def _make(self, client: Client, client_id: str, sessions: dict[str, int]) -> None:
        session_id = f"{client_id}-{next(self._names)}"
        told = client.ask("create_session", client_id=client_id, session_id=session_id)
        self.ledger.note(f"make {session_id}", session_id, told)
        if told.is_ok:
            sessions[session_id] = 1

    def _save(self, client: Client, sessions: dict[str, int], session_id: str) -> None:
        serial = next(self._serials)
        known = sessions[session_id]
        told = self._ask(client, "update_session_state", session_id=session_id, state_data={"serial": serial})
        self.ledger.note(f"save {serial}", session_id, told)
        if told.is_ok:
            revision, state = told.result["revision"], told.result["session_state"]
            self.ledger.expect(revision > known, f"stale: {known} was revision of {session_id} before {told}")
            self.ledger.expect(state == {"serial": serial}, f"wrong: {serial} was saved in {session_id} by {told}")
            sessions[session_id] = max(revision, sessions[session_id])

    def _read(self, client: Client, sessions: dict[str, int], session_id: str) -> None:
        """What any client was told before, this one sees, through any node."""
        known = sessions[session_id]
        told = self._ask(client, "restore_session", session_id=session_id)
        if told.is_ok:
            revision = told.result["revision"]
            self.ledger.expect(revision >= known, f"stale: {known} was revision of {session_id} before {told}")
            sessions[session_id] = max(revision, sessions[session_id])
        else:
            is_known = told.code in (REFUSED, UNANSWERED)
            self.ledger.expect(is_known, f"wrong: a read of {session_id} was answered {told}")
