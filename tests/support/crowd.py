"""A crowd: workers that open, change, end and bring back sessions, and know what was acknowledged.

Unlike `load.py` it foretells nothing.  What a reply says is noted; what an unanswered request may have
touched is in doubt until `audit.py` looks at it.  No two workers share a user or a client, so each knows all
that happens to its sessions, but for what time does to them.
"""

import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from tests.support.line_client import request_line
from tests.support.server import ServerProcess
from tests.support.waiting import until

Reply = dict[str, Any]
Owner = dict[str, str]

SHORT = 1
"""The timeout of sessions that are to expire during a test; all others live on."""

ENDED = ("expired", "closed", "deleted")

REFUSALS = {
    *("session_not_found", "session_expired", "session_closed", "session_deleted", "session_limit_reached"),
    *("session_id_conflict", "external_id_conflict"),
}


def is_short(session: Reply) -> bool:
    """It ends of itself while the test runs."""
    return bool(session["timeout"] == SHORT or session.get("ttl_seconds") is not None)


class Known:
    """One session, as the last reply that told of it had it."""

    def __init__(self, session_id: str, told: Reply) -> None:
        self.session_id = session_id
        self.status = "live"
        self.facts: Reply = {}
        self.in_doubt = False
        """A request that may have changed it was not answered."""
        self.is_left_alone = False
        """Its end is to come of itself, and then its removal."""
        self.note(told)

    def note(self, told: Reply) -> None:
        """A reply tells of it."""
        names = ("user_id", "client_id", "title", "external_id", "timeout", "ttl_seconds", "pinned", "revision")
        self.facts |= {name: told[name] for name in names if name in told}
        self.status = told.get("status", self.status)

    @property
    def owner(self) -> tuple[str | None, str | None]:
        return self.facts.get("user_id"), self.facts.get("client_id")

    @property
    def is_short(self) -> bool:
        return is_short(self.facts)

    @property
    def possible(self) -> set[str]:
        """Where it may be by now; gone is to be unknown to the server."""
        if self.in_doubt:
            return {"live", *ENDED, "gone"}
        if self.status == "live":
            return {"live", "expired", "gone"} if self.is_short else {"live"}
        return {self.status} if self.facts.get("pinned") else {self.status, "gone"}


class Worker:
    """One connection's requests, and its ledger."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.known: dict[str, Known] = {}
        self.purged: set[str] = set()
        """Acknowledged to be gone for good (unless a later one has the id)."""
        self.creating = 0
        """Creations that were not answered."""
        self.acknowledged = 0
        self.random = random.Random(f"{name}/{seed}")
        users = [f"{name}.u1", f"{name}.u2"]
        clients = [f"{name}.c1", f"{name}.c2"]
        self.owners: list[Owner] = [{"client_id": c} for c in clients] + [{"user_id": u} for u in users]
        self.owners += [{"user_id": u, "client_id": c} for u in users for c in clients]
        self.own_ids = [f"own-{name}-{n}" for n in range(6)]

    # -- asking

    def next(self) -> tuple[str, Reply]:
        """Some request."""
        chance = self.random.random()
        some = [i for i, k in self.known.items() if not (k.is_left_alone and (k.is_short or k.status != "live"))]
        if not some or chance < 0.3:
            return self._birth()
        session_id = self.random.choice(some)
        one = {"session_id": session_id}
        if chance < 0.45:
            return "update_session_state", {**one, "state_data": {"pad": "x" * self.random.choice((1, 50, 2000))}}
        if chance < 0.65:
            return "update_session", {**one, **self._edit()}
        if chance < 0.7:
            return "touch_session", one
        if chance < 0.78:
            return "close_session", one
        if chance < 0.86:
            return "delete_session", one
        return ("undelete_session", one) if chance < 0.95 else ("delete_session", {**one, "purge": True})

    def _birth(self) -> tuple[str, Reply]:
        r = self.random
        parameters: Reply = {**r.choice(self.owners), "timeout": r.choice((SHORT, 3000, 3000))}
        parameters |= {"session_state": {"pad": "x" * r.choice((1, 500))}}
        if r.random() < 0.3:
            parameters["session_id"] = r.choice(self.own_ids)
        parameters |= {name: value for name, value in self._edit().items() if value is not None and name != "pin"}
        if r.random() < 0.1:
            parameters["ttl_seconds"] = 1
        if "client_id" in parameters and r.random() < 0.3:
            return "create_session", parameters
        return "open_session", {**parameters, "resume": r.random() < 0.3, "on_conflict": r.choice(("reuse", "new"))}

    def _edit(self) -> Reply:
        r = self.random
        edit: Reply = {}
        if r.random() < 0.5:
            edit["title"] = r.choice(TITLES)
        if r.random() < 0.5:
            edit["external_id"] = r.choice(EXTERNAL_IDS)
        if r.random() < 0.2 or not edit:
            edit["pin"] = r.random() < 0.5
        return edit

    def look(self) -> tuple[str, Reply]:
        """A list of an owner's sessions."""
        sort = self.random.choice(("last_activity", "created_at", "title"))
        status = self.random.choice(("live", "live", *ENDED))
        return "list_sessions", {"status": status, "sort": sort, "limit": 100, **self.random.choice(self.owners)}

    # -- being told

    def answered(self, command: str, parameters: Reply, reply: Reply) -> None:
        """The reply has come."""
        if command == "list_sessions":
            self._looked(parameters, reply["result"])
            return
        if reply["status"] != "success":
            assert reply["error_code"] in REFUSALS, (command, parameters, reply)
            self._refused(command, parameters.get("session_id", ""), reply["error_code"])
            return
        self.acknowledged += 1
        result = reply["result"]
        session_id = result["session_id"]
        if command in ("open_session", "create_session"):
            self._opened(parameters, result)
        elif command == "delete_session" and parameters.get("purge"):
            self.known.pop(session_id, None)
            self.purged.add(session_id)
        elif session_id in self.known:
            self.known[session_id].note(result)
            self._ended(command, self.known[session_id])

    def _looked(self, parameters: Reply, page: Reply) -> None:
        """Changes that are in no snapshot yet are in the list like all others."""
        status = parameters["status"]
        owner = {name: parameters[name] for name in ("user_id", "client_id") if name in parameters}
        rows = {row["session_id"]: row for row in page["sessions"]}
        assert len(rows) == len(page["sessions"]), f"twice in the list of {owner}"
        for session_id, row in rows.items():
            known = self.known.get(session_id)
            assert known is not None or self.creating, f"made by nobody, or gone: {row}"
            if known is not None and not known.in_doubt:
                assert status in known.possible, f"{row} should be one of {known.possible}"
                told = {name: row[name] for name in known.facts if name in row}
                assert told == {name: known.facts[name] for name in told}, row
        if page["next_cursor"] is None and status != "expired":  # where they are once the sweeper has seen them
            mine = {i: k for i, k in self.known.items() if all(k.facts.get(name) == owner[name] for name in owner)}
            there = {i for i, k in mine.items() if k.possible == {status}}
            assert there <= rows.keys(), f"left out of {status} {owner}: {there - rows.keys()}"

    def _opened(self, parameters: Reply, result: Reply) -> None:
        session_id = result["session_id"]
        evicted = self.known.get(result.get("evicted_session_id", ""))
        if evicted is not None:
            evicted.status = "closed"
        if result.get("session_resumed"):
            self.known[session_id].note(result)
            return
        self.purged.discard(session_id)
        known = Known(session_id, {"pinned": False, **parameters, **result, "status": "live"})
        known.is_left_alone = self.random.random() < 0.2
        self.known[session_id] = known

    def _ended(self, command: str, known: Known) -> None:
        if command == "delete_session":
            known.status = "deleted"
        elif command == "close_session" and known.status == "live":
            known.status = "expired" if known.is_short else "closed"  # the reply is the same
            known.in_doubt |= known.is_short

    def _refused(self, command: str, session_id: str, code: str) -> None:
        known = self.known.get(session_id)
        if known is None or command in ("open_session", "create_session"):
            return
        status = {"session_not_found": "gone"}.get(code, code.removeprefix("session_"))
        if status in (*ENDED, "gone"):
            assert status in known.possible, f"{session_id} is {status} and was {known.status}"
            if status == "gone":
                del self.known[session_id]
            else:
                known.status = status

    def unanswered(self, command: str, parameters: Reply) -> None:
        """The connection ended first."""
        if command in ("open_session", "create_session"):
            self.creating += 1
            owner = parameters.get("user_id"), parameters.get("client_id")
            for known in self.known.values():
                known.in_doubt |= known.owner == owner  # it may have been evicted
        known_or_none = self.known.get(parameters.get("session_id", ""))
        if known_or_none is not None:
            known_or_none.in_doubt = True


TITLES = [None, "Notes", "notes", "Plan 9", "Straße", "\N{SNOWMAN} list", "zz"]
EXTERNAL_IDS = [None, "ext-1", "ext-2", "ext-3", "ext-four"]


class Crowd:
    """Workers that go on until the server goes away, or `stop`.  The ledgers outlive the server."""

    def __init__(self, server: ServerProcess, workers: int = 4, seed: int = 0) -> None:
        self.server = server
        self.workers = [Worker(f"w{n}", seed) for n in range(workers)]
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []

    @property
    def acknowledged(self) -> int:
        return sum(worker.acknowledged for worker in self.workers)

    @property
    def known(self) -> Iterator[Known]:
        return (known for worker in self.workers for known in worker.known.values())

    def start(self) -> Self:
        self._stopping.clear()
        jobs = [(self._work, worker) for worker in self.workers]
        self._threads = [threading.Thread(target=job, args=(of,), daemon=True) for job, of in jobs]
        for thread in self._threads:
            thread.start()
        return self

    def go_on(self, writes: int) -> None:
        """Wait until so many more have been acknowledged."""
        before = self.acknowledged
        until(lambda: self._failures or self.acknowledged >= before + writes, "writes", timeout=60)
        self._raise_failure()

    def stop(self) -> None:
        """Have the workers finish what they sent, and end."""
        self._stopping.set()
        self.join()

    def join(self, timeout: float = 20.0) -> None:
        """Wait until all workers have ended; raises what one of them found wrong."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "a worker still waits for the server"
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _work(self, worker: Worker) -> None:
        try:
            with self.server.connect() as client:
                while not self._stopping.is_set():
                    batch = [worker.next() for _ in range(worker.random.randint(1, 6))] + [worker.look()]
                    owed = list(batch)
                    try:
                        client.send(b"".join(request_line(n, *request) for n, request in enumerate(batch)))
                        for request in batch:
                            reply = client.receive()
                            owed.pop(0)
                            worker.answered(*request, reply)
                    finally:
                        for request in owed:
                            worker.unanswered(*request)
        except (ConnectionError, EOFError):
            pass  # the server went away; to be silent for too long is another thing
        except BaseException as failure:
            self._failures.append(failure)
