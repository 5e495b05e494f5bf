"""Load on a server: workers that write and read, each with a ledger of what was acknowledged."""

import random
import threading
import time
from typing import Self

from tests.support.ledger import Ledger
from tests.support.line_client import request_line
from tests.support.server import ServerProcess
from tests.support.waiting import until

SERVER_ARGS = ("--create-rate", "0", "--max-sessions-per-client", "1000000")
"""So that the workers meet no limit."""


class Load:
    """Workers on connections of their own, until the server goes away or `stop`.

    `depth` is how many requests a worker sends in one write, at most.  The ledgers outlive the server:
    start the same load again after `verify`.
    """

    def __init__(self, server: ServerProcess, workers: int = 4, depth: int = 16, seed: int = 0) -> None:
        self.server = server
        self.depth = depth
        self.ledgers = [Ledger(f"worker{n}", seed) for n in range(workers)]
        self._random = random.Random(seed)
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._failures: list[BaseException] = []
        self.unanswered = 0
        """Requests that were sent and not answered when their connection ended, in the last run."""

    @property
    def acknowledged(self) -> int:
        """Writes answered with success, since the beginning."""
        return sum(ledger.acknowledged for ledger in self.ledgers)

    @property
    def refused(self) -> int:
        """Writes answered with `storage_unavailable`, since the beginning."""
        return sum(ledger.refused for ledger in self.ledgers)

    def start(self) -> Self:
        """Start the workers, and wait until each has got somewhere."""
        self.unanswered = 0
        self._stopping.clear()
        before = self.acknowledged
        self._threads = [threading.Thread(target=self._work, args=(ledger,), daemon=True) for ledger in self.ledgers]
        for thread in self._threads:
            thread.start()
        until(lambda: self._failures or self.acknowledged > before + 20 * len(self._threads), "writes")
        return self

    def go_on_for(self, seconds: float) -> None:
        """Let the workers work up to `seconds`, at random."""
        time.sleep(self._random.uniform(0, seconds))

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
        if self._failures:
            raise self._failures[0]

    def verify(self) -> None:
        """Compare all ledgers, and the statistics, with what the server knows now."""
        with self.server.connect() as client:
            for ledger in self.ledgers:
                ledger.verify(client)
            statistics = client.result("get_session_statistics")
        live = [len(ledger.live) for ledger in self.ledgers]
        assert (statistics["total_sessions"], statistics["active_clients"]) == (sum(live), sum(map(bool, live)))

    def forget_doubts(self) -> None:
        for ledger in self.ledgers:
            ledger.forget_doubts()

    def _work(self, ledger: Ledger) -> None:
        try:
            self._exchange(ledger)
        except (OSError, EOFError):
            pass  # the server went away; what it owed is in the ledger
        except BaseException as failure:
            self._failures.append(failure)

    def _exchange(self, ledger: Ledger) -> None:
        with self.server.connect() as client:
            while not self._stopping.is_set():
                items = [ledger.next_write(30) for _ in range(self._random.randint(1, self.depth))]
                items += [ledger.next_read()] if ledger.entries else []
                unanswered = len(items)
                try:
                    client.send(b"".join(request_line(n, *item.request) for n, item in enumerate(items)))
                    for item in items:
                        item.answered(client.receive())
                        unanswered -= 1
                finally:
                    self.unanswered += unanswered
