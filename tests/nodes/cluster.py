"""Several servers ("nodes") over one PostgreSQL, which may have a standby, and what can happen to them."""

import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tests.support.line_client import LineClient
from tests.support.postgres import HOST, Postgres, psql
from tests.support.server import ServerProcess, environment
from tests.support.waiting import until

ROUNDS = int(os.environ.get("STUI_TEST_ROUNDS", "0"))
"""How often the big run repeats each race; 0: the quick run of CI.  200 is what the issue asks for."""

NODE_ROUNDS = -(-3 * ROUNDS // 20)
"""How often it kills or freezes a node: 30 of 200."""
DATABASE_ROUNDS = -(-ROUNDS // 20)
"""How often it loses the primary, in each way: 10 of 200."""

NODES = 3 if ROUNDS else 2
"""Of the races; faults always have three."""

LIMIT = 5
STORAGE_TIMEOUT = 2
"""Seconds; shorter than the default, so that tests of long outages are short."""

SETTINGS = {
    "STUI_SESSIONS_CREATE_RATE": "0",
    "STUI_SESSIONS_MAX_SESSIONS_PER_CLIENT": str(LIMIT),
    "STUI_SESSIONS_STORAGE_TIMEOUT": str(STORAGE_TIMEOUT),
    "STUI_SESSIONS_LOG_RATE": "0",
}

AGAIN = 60.0
"""Seconds within which everything works again after any fault; generous, because a test machine may be busy."""

PATIENCE = 60.0
"""Seconds that a client waits for a reply: longer than any fault lasts."""

Standby = Literal["synchronous", "asynchronous"]


class Node(ServerProcess):
    """A server that finds its database in its environment, as a service would; `away` keeps new requests from it."""

    def __init__(self, directory: Path, url: str, settings: Mapping[str, str]) -> None:
        super().__init__(directory, env={"STUI_SESSIONS_DB": url, **settings})
        self.away = False
        """It is killed or frozen: clients take another one, as behind a load balancer."""
        self.frozen = False

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.module, "serve", "--port", str(self.port), *self.args]

    def connect(self, timeout: float = PATIENCE) -> LineClient:
        return super().connect(timeout)

    def freeze(self) -> None:
        """SIGSTOP: it neither answers nor ends."""
        self.away = self.frozen = True
        self.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send_signal(signal.SIGCONT)
        self.away = self.frozen = False

    def kill_it(self) -> None:
        """SIGKILL; `come_back` starts it again on the same port."""
        self.away = True
        self.kill()

    def come_back(self) -> None:
        self.start()
        self.away = False


class Cluster:
    """N nodes over a database of their own in `primary`; ends with the test.

    The URL names all hosts, so that the nodes find the promoted standby by themselves.
    """

    def __init__(
        self,
        directory: Path,
        primary: Postgres,
        nodes: int,
        standby: Standby | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.primary = primary
        self.standby = None if standby is None else primary.standby(synchronous=standby == "synchronous")
        self.name = f"nodes_{secrets.token_hex(6)}"
        primary.create_database(self.name)
        hosts = ",".join(f"{HOST}:{server.port}" for server in (primary, self.standby) if server is not None)
        self.url = f"postgresql://postgres@{hosts}/{self.name}?target_session_attrs=read-write"
        self._old: list[Postgres] = []
        self._settings = {**SETTINGS, **(settings or {})}
        self.nodes = [self._node(directory / f"node{n}") for n in range(nodes)]

    def _node(self, directory: Path) -> Node:
        directory.mkdir(parents=True)
        return Node(directory, self.url, self._settings)

    def start(self) -> Self:
        """Make the tables, and start all nodes."""
        first = self.nodes[0]
        subprocess.run(
            [sys.executable, "-m", "stui_sessions", "db", "init"],
            cwd=first.directory, env=environment(first.directory, {"STUI_SESSIONS_DB": self.url}), check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=AGAIN,
        )  # fmt: skip
        for node in self.nodes:
            node.start()
        return self

    def close(self) -> None:
        """End the nodes and drop the database, if it can still be reached; the caller ends what is his."""
        for node in self.nodes:
            node.kill()
            # pytest shows this with a test that failed.
            print(f"--- stderr of {node.directory.name}\n{node.stderr()[-10_000:]}", file=sys.stderr)
        if self.standby is None and not self._old:  # else the whole server goes, and perhaps nobody answers
            self.primary.drop_database(self.name)

    # Talking to it.

    def connect_all(self, number: int) -> "Crowd":
        """Connections, each to the next node."""
        return Crowd(self, number)

    def sql(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of the database, from the primary of now."""
        return psql(self.primary.url(self.name), statement)

    def works(self) -> bool:
        """Whether each node makes and removes a session, and every other one finds it meanwhile."""
        for node in self.nodes:
            try:
                made = node.request("create_session", client_id=f"probe-{secrets.token_hex(6)}", timeout=60)
            except (OSError, EOFError):
                return False
            if made["status"] != "success":
                return False
            session_id = made["result"]["session_id"]
            for other in self.nodes:
                if other.request("get_session", session_id=session_id)["status"] != "success":
                    return False
            if node.request("delete_session", session_id=session_id, purge=True)["status"] != "success":
                return False
        return True

    def until_it_works(self, timeout: float = AGAIN) -> None:
        """Wait until every node works."""
        until(self.works, "all nodes to work again", timeout)

    # What can happen to the database.

    def fail_over(self) -> None:
        """SIGKILL to the primary; the standby takes its place."""
        self.primary.kill()
        self.promote()

    def promote(self) -> None:
        """The standby becomes the primary, whatever the old one does."""
        assert self.standby is not None, "there is no standby"
        self.standby.promote()
        self._old.append(self.primary)
        self.primary, self.standby = self.standby, None

    @property
    def old(self) -> Postgres:
        """The primary before the last promotion."""
        return self._old[-1]

    def stop_sender(self) -> None:
        """SIGSTOP to what sends the log to the standby: an asynchronous one falls behind, and nobody notices."""
        for (pid,) in self.primary.sql("SELECT pid FROM pg_stat_replication"):
            os.kill(int(pid), signal.SIGSTOP)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Crowd:
    """Connections that each send one request, all of which the nodes find when they next look."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self._nodes = cluster.nodes
        self._stack = contextlib.ExitStack()
        turns = itertools.islice(itertools.cycle(self._nodes), number)
        self.clients = [self._stack.enter_context(node.connect()) for node in turns]

    def at_once(self, command: str, *parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """One request of each; client n sends `parameters[n % len]`.  The replies in the clients' order."""
        for node in self._nodes:
            node.send_signal(signal.SIGSTOP)
        try:
            for n, client in enumerate(self.clients):
                client.send_request(command, **parameters[n % len(parameters)])
        finally:
            for node in self._nodes:
                node.send_signal(signal.SIGCONT)
        return [client.receive() for client in self.clients]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()
