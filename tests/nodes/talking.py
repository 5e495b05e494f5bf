"""A client of several nodes, which tells what it knows of each request: carried out, refused, or nobody knows."""

import random
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.nodes.cluster import PATIENCE, Cluster, Node
from tests.support.line_client import LineClient
from tests.support.waiting import until

UNANSWERED = "unanswered"
REFUSED = "storage_unavailable"


class Told(NamedTuple):
    """What became of a request: `code` is "ok", an error code, or UNANSWERED where the connection was lost."""

    command: str
    code: str
    result: dict[str, Any]
    node: int
    begun: float
    took: float

    @property
    def is_ok(self) -> bool:
        return self.code == "ok"


class Client:
    """Connections to the nodes, made when they are needed.  For one thread.

    `only` these nodes are asked; who is `patient` asks those as well that are frozen, and waits until they go on.
    """

    def __init__(self, cluster: Cluster, seed: object, only: list[int] | None = None, patient: bool = False) -> None:
        self._cluster = cluster
        self._patient = patient
        self._only = only if only is not None else list(range(len(cluster.nodes)))
        self._open: dict[int, LineClient] = {}
        self._random = random.Random(str(seed))
        self.lost = 0
        """Connections that ended while a reply was due, or that a node had ended before."""

    def ask(self, command: str, /, **parameters: Any) -> Told:
        """One request through a node that is not away; waits while there is none.  Never sent twice."""
        while True:
            number = self._choose()
            try:
                line = self._open.get(number) or self._connect(number)
                begun = time.monotonic()
                line.send_request(command, **parameters)
            except OSError:
                self._drop(number)  # it did not get so far as to be carried out
                node = self._cluster.nodes[number]
                assert node.away or node.running, f"node {number} has ended by itself"
                continue
            return self._receive(command, number, line, begun)

    def _receive(self, command: str, number: int, line: LineClient, begun: float) -> Told:
        try:
            reply = line.receive()
        except TimeoutError as late:
            raise AssertionError(f"node {number} did not answer: {late}") from late
        except (OSError, EOFError):
            self._drop(number)
            return Told(command, UNANSWERED, {}, number, begun, time.monotonic() - begun)
        took = time.monotonic() - begun
        if reply["status"] == "success":
            return Told(command, "ok", reply["result"], number, begun, took)
        return Told(command, reply["error_code"], reply["details"], number, begun, took)

    def _choose(self) -> int:
        return self._random.choice(until(self._there, "a node that is there", 2 * PATIENCE))

    def _there(self) -> list[int]:
        nodes = self._cluster.nodes
        return [n for n in self._only if not nodes[n].away or (self._patient and nodes[n].frozen)]

    def _connect(self, number: int) -> LineClient:
        node: Node = self._cluster.nodes[number]
        line = self._open[number] = node.connect()
        return line

    def _drop(self, number: int) -> None:
        line = self._open.pop(number, None)
        if line is not None:
            self.lost += 1
            line.close()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
