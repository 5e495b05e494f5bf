"""What the server has acknowledged, and what it must therefore still know after any kind of stop.

A `Ledger` belongs to one client of the server and one thread at a time.  It is told of each write when it is
sent and again when it is answered.  What was acknowledged must be there with exactly its state and revision; of
what was sent and not answered, the first so many may be there, each one whole.
"""

import random
from typing import Any

from tests.support.line_client import LineClient

Reply = dict[str, Any]
State = dict[str, Any]


class Entry:
    """One session: its acknowledged form, and what was sent since."""

    def __init__(self, session_id: str, state: State) -> None:
        self.session_id = session_id
        self.state = state
        self.revision = 1
        self.closed = False
        self.sent: list[State | None] = []
        """States that are on their way, in order; None is a close."""
        self.doubtful: list[State | None] = []
        """The last write, if it was answered "the disk refuses": a later start may still find it, but whole."""

    @property
    def usable(self) -> bool:
        """Live, and no close is on its way."""
        return not self.closed and None not in self.sent

    def found(self, state: State, revision: int) -> None:
        """It is live and looks like this: check, and take it as acknowledged from now on."""
        assert not self.closed, f"close undone: {self.session_id}"
        possible = [(self.revision, self.state)]
        for way in (self.sent, self.doubtful):
            possible += [(self.revision + n, s) for n, s in enumerate(way, 1) if s is not None]
        assert (revision, state) in possible, f"{self.session_id} is {(revision, state)}, not one of {possible}"
        self._settle(state, revision)

    def found_closed(self, revision: int) -> None:
        """It is closed at this revision."""
        possible = [self.revision] if self.closed else []
        possible += [self.revision + way.index(None) for way in (self.sent, self.doubtful) if None in way]
        assert revision in possible, f"{self.session_id} is closed at {revision}, not at one of {possible}"
        self.closed = True
        self._settle(self.state, revision)

    def _settle(self, state: State, revision: int) -> None:
        self.state, self.revision = state, revision
        self.sent, self.doubtful = [], []


class Ledger:
    """All sessions of one client."""

    def __init__(self, client_id: str, seed: int = 0) -> None:
        self.client_id = client_id
        self.entries: dict[str, Entry] = {}
        self.creating: list[State] = []
        """States of sessions whose creation was sent and not answered."""
        self.acknowledged = 0
        """Writes that were answered with success, since the beginning."""
        self.refused = 0
        """Writes that were answered with `storage_unavailable`."""
        self._random = random.Random(f"{client_id}/{seed}")
        self._serial = 0

    @property
    def live(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if not entry.closed]

    def new_state(self) -> State:
        """A state like no other, of a size that varies."""
        self._serial += 1
        return {"serial": f"{self.client_id}.{self._serial}", "pad": "x" * self._random.choice((0, 10, 300, 5000))}

    # What a worker sends, and what it is told.

    def next_write(self, most: int) -> "Write":
        """A create, an update or a close, so that about `most` sessions are live."""
        usable = [entry for entry in self.entries.values() if entry.usable]
        chance = self._random.random()
        if len(usable) < 2 or (chance < 0.1 and len(usable) < most):
            return Write(self, None, self.new_state())
        entry = self._random.choice(usable)
        return Write(self, entry, None if chance > 0.93 else self.new_state())

    def next_read(self) -> "Read":
        """A restore of some session."""
        return Read(self._random.choice(list(self.entries.values())))

    def forget_doubts(self) -> None:
        """A later write was acknowledged, so what was refused before is not there and never will be."""
        self.creating = []
        for entry in self.entries.values():
            entry.doubtful = []

    # After the server was stopped, in whatever way.

    def verify(self, client: LineClient) -> None:
        """Everything acknowledged is there; what is there more was sent; nothing is half there."""
        self._verify_known(client)
        listed = client.result("list_client_sessions", client_id=self.client_id)["sessions"]
        ids = {row["session_id"] for row in listed}
        live = {entry.session_id for entry in self.live}
        assert live <= ids, f"not listed: {live - ids}"
        unknown = ids - live
        assert len(unknown) <= len(self.creating), f"created by nobody: {unknown}"
        for session_id in unknown:
            self._adopt(client, session_id)
        self.creating = []

    def _verify_known(self, client: LineClient) -> None:
        entries = list(self.entries.values())
        for start in range(0, len(entries), 100):
            some = entries[start : start + 100]
            infos = client.pipeline([("get_session_info", {"session_id": e.session_id}) for e in some])
            restored = client.pipeline([("restore_session", {"session_id": e.session_id}) for e in some])
            for entry, info, restore in zip(some, infos, restored, strict=True):
                assert info["status"] == "success", f"lost: {entry.session_id}: {info}"
                if info["result"]["is_active"]:
                    assert restore["status"] == "success", restore
                    entry.found(restore["result"]["session_state"], restore["result"]["revision"])
                else:
                    assert restore["error_code"] == "session_closed", restore
                    entry.found_closed(info["result"]["revision"])

    def _adopt(self, client: LineClient, session_id: str) -> None:
        """A session whose creation nobody answered is there: it is whole, and ours from now on."""
        result = client.result("restore_session", session_id=session_id)
        assert result["revision"] == 1
        assert result["session_state"] in self.creating, f"{session_id} was born with {result['session_state']}"
        self.entries[session_id] = Entry(session_id, result["session_state"])


class Write:
    """One write, from being sent to being answered."""

    def __init__(self, ledger: Ledger, entry: Entry | None, state: State | None) -> None:
        self._ledger = ledger
        self._entry = entry
        self._state = state
        if entry is not None:
            entry.sent.append(state)
        else:
            assert state is not None
            ledger.creating.append(state)

    @property
    def request(self) -> tuple[str, dict[str, Any]]:
        """Command and parameters."""
        if self._entry is None:
            return "create_session", {"client_id": self._ledger.client_id, "session_state": self._state}
        if self._state is None:
            return "close_session", {"session_id": self._entry.session_id}
        return "update_session_state", {"session_id": self._entry.session_id, "state_data": self._state}

    def answered(self, reply: Reply) -> None:
        """The reply has come: success, or a refusal that changed nothing."""
        if reply["status"] == "success":
            self._acknowledged(reply["result"])
        else:
            assert reply["error_code"] == "storage_unavailable", reply
            self._refused()

    def _acknowledged(self, result: dict[str, Any]) -> None:
        ledger, entry, state = self._ledger, self._entry, self._state
        ledger.acknowledged += 1
        if entry is None:
            assert state is not None
            ledger.creating.remove(state)
            ledger.entries[result["session_id"]] = Entry(result["session_id"], state)
            return
        assert entry.sent.pop(0) is state
        entry.doubtful = []
        if state is None:
            entry.closed = True
            assert result["revision"] == entry.revision
        else:
            entry.state, entry.revision = state, entry.revision + 1
            assert (result["revision"], result["session_state"]) == (entry.revision, state)

    def _refused(self) -> None:
        """Only where one write is under way at a time: what follows a refused one cannot be foretold."""
        ledger, entry, state = self._ledger, self._entry, self._state
        ledger.refused += 1
        if entry is None:
            return  # it stays among those whose creation nobody confirmed
        assert entry.sent.pop(0) is state
        entry.doubtful = [state]


class Read:
    """One restore; what it shows must be what was acknowledged before it."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def request(self) -> tuple[str, dict[str, Any]]:
        """Command and parameters."""
        return "restore_session", {"session_id": self._entry.session_id}

    def answered(self, reply: Reply) -> None:
        """Requests of one connection are decided in their order, so all earlier writes have been answered."""
        entry = self._entry
        if entry.closed:
            assert reply["error_code"] == "session_closed", reply
        elif reply["status"] == "success":
            result = reply["result"]
            assert (result["revision"], result["session_state"]) == (entry.revision, entry.state)
        else:
            assert reply["error_code"] == "storage_unavailable", reply
