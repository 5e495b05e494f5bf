"""Standard streams that are closed, full or read by nobody: one line that says so, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import StartServer
from tests.support.databases import Databases, Files
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess, environment
from tests.support.waiting import until

COMMANDS = {
    "call": ["call", "ping", "--port", "PORT"],
    "call-error": ["call", "no_such_command", "--port", "PORT"],
    "export": ["export", "--port", "PORT"],
    "export-file": ["export", "--port", "PORT", "made.jsonl"],
    "import": ["import", "--on-conflict", "skip", "--port", "PORT", "rows.jsonl"],
    "import-strict": ["import", "--strict", "--port", "PORT", "rows.jsonl"],
    "backup": ["backup", "--force", "--port", "PORT", "made.backup"],
    "restore": ["restore", "--force", "--db", "made.db", "sessions.backup"],
    "schema": ["schema"],
    "schema-markdown": ["schema", "--markdown"],
    "bench": ["bench", "--json", "--port", "PORT", "--duration", "0.1", "--sessions", "2", "--connections", "1"],
    "help": ["serve", "--help"],
    "version": ["--version"],
}
LOCAL = ("backup", "restore")
NAMES = [pytest.param(name, marks=pytest.mark.local_store) if name in LOCAL else name for name in COMMANDS]


class Done(NamedTuple):
    code: int
    stderr: str


class Place(NamedTuple):
    """A running server, and a directory with an export and, of a local one, a backup of it."""

    server: ServerProcess
    directory: Path

    def command(self, name: str) -> list[str]:
        words = [str(self.server.port) if word == "PORT" else word for word in COMMANDS[name]]
        return [sys.executable, "-m", "stui_sessions", *words]

    def run(self, name: str, redirection: str) -> Done:
        """Have a shell run a command with its streams redirected."""
        shell = ["bash", "-c", f'exec "$@" {redirection}', "--", *self.command(name)]
        return self._run(shell, subprocess.PIPE)

    def run_unread(self, name: str) -> Done:
        """Run a command whose output goes into a pipe that nobody reads."""
        reading, writing = os.pipe()
        os.close(reading)
        try:
            return self._run(self.command(name), writing)
        finally:
            os.close(writing)

    def _run(self, command: list[str], stdout: int) -> Done:
        env = environment(self.directory, {})
        done = subprocess.run(
            command, cwd=self.directory, env=env, stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
        return Done(done.returncode, done.stderr)


@pytest.fixture(scope="module")
def place(make_lasting_server: StartServer, databases: Databases) -> Place:
    server = make_lasting_server().start()
    directory = server.directory
    for client_id in ("a", "b", "c"):
        server.result("create_session", client_id=client_id)
    backup = [["backup", "sessions.backup"]] if isinstance(databases, Files) else []
    for words in (*backup, ["export", "rows.jsonl"]):
        command = [sys.executable, "-m", "stui_sessions", *words, "--port", str(server.port)]
        subprocess.run(command, cwd=directory, env=environment(directory, {}), check=True, capture_output=True)
    return Place(server, directory)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "it is closed"), (">/dev/full", "No space left on device"), ("", "Broken pipe")],
    ids=["closed", "full", "unread"],
)
def test_output_that_does_not_arrive_is_told_in_one_line(
    place: Place, name: str, redirection: str, reason: str
) -> None:
    done = place.run(name, redirection) if redirection else place.run_unread(name)
    *before, last = done.stderr.splitlines()
    assert (done.code, last) == (2, f"stui-sessions: stdout cannot be written: {reason}")
    if name == "import-strict":
        assert all(line.startswith(("line 1: ", "stui-sessions: stopped")) for line in before)
    else:
        assert before == []


@pytest.mark.parametrize("redirection", ["> /dev/full", "| head -c 1"])
def test_an_export_that_ends_early_leaves_no_request_behind(server: ServerProcess, redirection: str) -> None:
    """The next page is asked for while one is written: nobody must complain that its reply was not wanted."""
    with server.connect() as client:
        for n in range(5):
            client.result("create_session", client_id="large", session_state={"text": "x" * 900_000, "n": n})
    words = f"{sys.executable} -m stui_sessions export --port {server.port}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} {redirection}"], env=server.env, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    reason = "No space left on device" if "full" in redirection else "Broken pipe"
    assert (done.returncode, done.stderr) == (2, f"stui-sessions: stdout cannot be written: {reason}\n")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("redirection", ["<&-", "2>&-", "2>/dev/full"])
def test_without_stdin_or_stderr_a_command_does_what_it_does_with_them(
    place: Place, name: str, redirection: str
) -> None:
    """libuv aborts the process when it closes a descriptor of its own that is 0, 1 or 2."""
    done = place.run(name, redirection)
    assert done.code == (1 if name in ("call-error", "import-strict") else 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["import"], "Error: - cannot be read: Bad file descriptor"),
        (["call", "restore_session", "session_id=@-"], 'Error: session_id: cannot read "-": Bad file descriptor'),
    ],
)
def test_reading_a_closed_stdin_is_an_error_and_no_empty_file(place: Place, words: list[str], message: str) -> None:
    shell = ["bash", "-c", 'exec "$@" <&-', "--", sys.executable, "-m", "stui_sessions", *words]
    done = subprocess.run(
        [*shell, "--port", str(place.server.port)],
        env=environment(place.directory, {}), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == message


def test_the_console_script_is_the_same_command(place: Place) -> None:
    """pip's script calls `main` without arguments, as this line does."""
    script = "import sys; from stui_sessions.cli.main import main; sys.exit(main())"
    command = ["bash", "-c", 'exec "$@" > /dev/full', "--", sys.executable, "-c", script, "--version"]
    done = subprocess.run(command, env=environment(place.directory, {}), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "stui-sessions: stdout cannot be written: No space left on device\n"


@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", ">&-", "> /dev/full"])
def test_a_server_needs_none_of_its_streams(make_server: StartServer, tmp_path: Path, redirection: str) -> None:
    socket = tmp_path / "socket"
    server = make_server(unix=socket, tcp=False, wrapper=("bash", "-c", f'exec "$@" {redirection}', "--"))
    process = server.spawn()
    until(lambda: socket.exists() or process.poll() is not None, "the socket")
    with LineClient.unix(socket, 10) as client:
        assert client.result("ping") == {"pong": True}
    assert server.terminate() == 0
    assert "Traceback" not in server.stderr()
