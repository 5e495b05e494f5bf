"""A real server in its own process, and a blocking client that knows nothing but lines.

Every end-to-end test goes through here.  Nothing sleeps: processes and sockets are
awaited with deadlines, and what goes wrong is told with the server's stderr.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.line_client import LineClient

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
"""Seconds; generous, because a test machine may be busy.  Tests of start-up times measure for themselves."""
STOP_TIMEOUT = 20.0


class StartFailed(AssertionError):
    """The server ended, or said nothing in time, before it listened."""

    def __init__(self, reason: str, code: int | None, stderr: str) -> None:
        super().__init__(f"{reason} (exit code {code})\n{stderr}")
        self.code = code
        self.stderr = stderr


class ServerProcess:
    """`python -m stui_sessions serve` on a free port (and a Unix socket) with a database in `directory`.

    `args` are further flags; `env` is set over the test's environment, from which all STUI_SESSIONS_
    variables are taken out; `wrapper` stands before the command, as in
    `("bash", "-c", 'ulimit -n 64; exec "$@"', "--")`, and must exec it so that signals arrive;
    `module` is run in the place of `stui_sessions`, and is to become it (see `moved_clock.py`).
    """

    def __init__(
        self,
        directory: Path,
        *args: str,
        db: Path | str | None = None,
        port: int = 0,
        unix: Path | None = None,
        tcp: bool = True,
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        module: str = "stui_sessions",
    ) -> None:
        self.directory = directory
        self.args = list(args)
        self.db = db if db is not None else directory / "sessions.db"
        self.host = "127.0.0.1"
        self.port = port
        self.unix = unix
        self.tcp = tcp
        self.wrapper = list(wrapper)
        self.module = module
        self.env = environment(directory, env or {})
        self.stderr_path = directory / "server.stderr"
        self.addresses: list[str] = []
        """What it printed: `tcp://127.0.0.1:40123`, `unix:///tmp/…`."""
        self.ready_after = 0.0
        """Seconds from starting the process to its `listening` lines."""
        self._process: subprocess.Popen[bytes] | None = None

    # Its life.

    def start(self, timeout: float = START_TIMEOUT) -> Self:
        """Start it and wait until it listens; raises StartFailed."""
        begun = time.monotonic()
        process = self.spawn()
        try:
            self.addresses = self._read_addresses(process, begun + timeout)
        except BaseException:
            self.kill()
            raise
        self.ready_after = time.monotonic() - begun
        for address in self.addresses:
            if address.startswith("tcp://"):
                host, _, port = address.removeprefix("tcp://").rpartition(":")
                self.host, self.port = host.strip("[]"), int(port)
                break
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it and wait for nothing (for kills during start-up)."""
        assert self._process is None, "it runs already"
        with self.stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                self.command(), cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        return self._process

    def command(self) -> list[str]:
        """The command line that starts it."""
        listen = ["--port", str(self.port)] if self.tcp else ["--no-tcp"]
        listen += ["--unix", str(self.unix)] if self.unix else []
        serve = [sys.executable, "-m", self.module, "serve", "--db", str(self.db)]
        return [*self.wrapper, *serve, *listen, *self.args]

    def fails_to_start(self, timeout: float = START_TIMEOUT) -> tuple[int, str]:
        """Start it, expecting that it refuses; its exit code and what it wrote to stderr."""
        before = len(self.stderr())
        try:
            self.start(timeout)
        except StartFailed as failure:
            if failure.code is None:
                raise
            return failure.code, self.stderr()[before:]
        self.kill()
        raise AssertionError(f"it started: {self.addresses}")

    def restart(self) -> Self:
        """Start again with the same database and, so that clients find it, on the same port; killed if it ran."""
        self.kill()
        return self.start()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM; its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait until it has ended; its exit code (negative: the signal)."""
        process = self.process
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server still runs after {timeout} s\n{self.stderr()}") from None
        self._forget(process)
        return code

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget(self._process)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started, or has ended"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ports(self) -> list[int]:
        """Those of all processes that stand behind it."""
        return [self.port]

    def stderr(self) -> str:
        """Everything it has logged, over all its starts."""
        with contextlib.suppress(FileNotFoundError):
            return self.stderr_path.read_text(errors="replace")
        return ""

    def rss(self) -> int:
        """Resident memory in bytes (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    # Talking to it.

    def connect(self, timeout: float = 10.0) -> LineClient:
        """A connection of its own: over TCP, or the Unix socket where there is no TCP."""
        if self.tcp:
            return LineClient.tcp(self.host, self.port, timeout)
        return self.connect_unix(timeout)

    def connect_unix(self, timeout: float = 10.0) -> LineClient:
        assert self.unix is not None
        return LineClient.unix(self.unix, timeout)

    def request(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """One request on a connection of its own; the whole reply, success or error."""
        with self.connect() as client:
            return client.request(command, **parameters)

    def result(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """One request on a connection of its own that must succeed; its result."""
        with self.connect() as client:
            return client.result(command, **parameters)

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def _forget(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            process.stdout.close()
        self._process = None

    def _read_addresses(self, process: subprocess.Popen[bytes], deadline: float) -> list[str]:
        """The addresses of the `listening` lines, one for each thing it was told to listen on."""
        assert process.stdout is not None
        expected = self.tcp + (self.unix is not None)
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while text.count(b"\n") < expected:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise StartFailed("the server did not listen in time", None, self.stderr())
                data = os.read(process.stdout.fileno(), 4096)
                if not data:
                    raise StartFailed("the server ended at start", process.wait(STOP_TIMEOUT), self.stderr())
                text += data
        lines = text.decode().splitlines()
        wrong = [line for line in lines if not line.startswith(("listening tcp://", "listening unix://"))]
        assert not wrong, f"unexpected on stdout: {wrong}"
        return [line.removeprefix("listening ") for line in lines]


def environment(directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The test's environment without its own STUI_SESSIONS_ variables, finding this repository's package."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("STUI_SESSIONS_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        # A test that forgets --db must not touch the database of the person who runs it.
        "XDG_STATE_HOME": str(directory / "state"),
        **extra,
    }
