"""What a small merge into a large session costs the loop: the merge itself, and the whole request.

    python -m tests.benchmarks.brief [--state-bytes 900000] [--merges 300]

In this process, without sockets: the engine over a store in memory, a dialogue that
decodes lines and encodes replies.  Medians of the processor's time for one request,
with `"reply": "brief"` and with the whole state in the reply, in turn; and for
`merge_with_keys`, which is what every merge has to do.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from stui_sessions.domain.caller import ANYONE_LOCAL
from stui_sessions.gates.lines.dialogue import Dialogue
from stui_sessions.protocol.jsontext import merge_with_keys
from stui_sessions.protocol.messages import WireLimits
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.memory import MemoryStore
from tests.engine.desk import Desk, SteppedStore, request, stored_session

MEMBERS = 900


def large_state(size: int) -> bytes:
    """An object of about so many bytes with a few hundred members."""
    text = "x" * (size // MEMBERS - 20)
    return json.dumps({f"member{n}": text for n in range(MEMBERS)}, separators=(",", ":")).encode()


def milliseconds(work: Callable[[], object]) -> float:
    """Of the processor, for one run."""
    begun = time.process_time()
    work()
    return 1000 * (time.process_time() - begun)


class Store(SteppedStore):
    """Without the second merge that the tests' store checks a commit with."""

    async def commit(self, batch: Batch) -> int:
        return await MemoryStore.commit(self, batch)


class Server:
    """A session of this state, and one peer."""

    def __init__(self, state: bytes) -> None:
        self.desk = Desk(stored_session("large", session_state=state), limits=WireLimits(2**21), store=Store())
        self.replies: list[bytes] = []
        self.dialogue = Dialogue(
            *(self.desk.engine, self.desk.codec, ANYONE_LOCAL),
            *(self.replies.append, self.desk.loop.call_soon, lambda: None),
        )

    def update(self, number: int, reply: str) -> None:
        """One merge, until its reply has left."""
        parameters = {"session_id": "large", "state_data": {"cursor": number}, "reply": reply}
        self.dialogue.receive([request(number, "update_session_state", **parameters)])
        while not self.replies:
            self.desk.loop.run_until_complete(_turn())
        assert b'"success"' in self.replies.pop()


async def _turn() -> None:
    """One turn of the loop."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-bytes", type=int, default=900_000)
    parser.add_argument("--merges", type=int, default=300)
    a = parser.parse_args()
    state = large_state(a.state_bytes)
    server = Server(state)
    took: dict[str, list[float]] = {"merge alone": [], "brief": [], "full": []}
    for number in range(a.merges):
        patch = b'{"cursor":%d}' % number
        took["merge alone"].append(milliseconds(lambda patch=patch: merge_with_keys(state, patch)))  # type: ignore[misc]
        for reply in ("brief", "full"):
            took[reply].append(milliseconds(lambda n=number, r=reply: server.update(n, r)))  # type: ignore[misc]
    server.desk.close()
    medians = {name: statistics.median(values) for name, values in took.items()}
    print(f"a small merge into {len(state):,} bytes, {a.merges} times, medians:")
    for name, median in medians.items():
        print(f"  {name:12} {median:6.3f} ms")
    print(f"  brief, beside the merge itself: {medians['brief'] - medians['merge alone']:.3f} ms")


if __name__ == "__main__":
    main()
