"""The shell script and the Python scripts, run as their reader would run them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples import save_and_restore
from tests.conftest import StartServer
from tests.support.server import ROOT, ServerProcess, environment

EXAMPLES = ROOT / "examples"
needs_nc_and_jq = pytest.mark.skipif(
    not (shutil.which("nc") and shutil.which("jq")), reason="nc or jq is not installed"
)


def run(*command: str | Path, server: ServerProcess) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env=server.env,
        cwd=server.directory,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_nc_and_jq
def test_first_session(server: ServerProcess) -> None:
    done = run(EXAMPLES / "first_session.sh", server.host, str(server.port), server=server)
    assert done.returncode == 0, done.stderr
    new, saved, restored, closed = done.stdout.splitlines()
    assert re.fullmatch(r"a new session: session_\d+_\d+_\d+", new)
    assert saved == "saved twice"
    assert restored == 'restored: {"file":"notes.txt","line":13} at revision 3'
    assert closed == "closed; restoring it now is an error:"
    assert done.stderr.startswith("SessionNotFound session_closed: ")
    assert server.result("get_session_statistics")["total_sessions"] == 0


@needs_nc_and_jq
@pytest.mark.parametrize("way", ["port", "unix", "file", "file-unix"])
def test_first_session_finds_the_server_as_call_does(start_server: StartServer, tmp_path: Path, way: str) -> None:
    server = start_server(unix=tmp_path / "a socket")
    file = tmp_path / "settings.toml"
    file.write_text(f'host = "{server.host}"\nport = {server.port} # ours\n')
    if way == "file-unix":
        file.write_text(f'port = 1\nunix = "{server.unix}"\n')
    named = {"port": "PORT", "unix": "UNIX"}.get(way, "CONFIG")
    value = {"port": server.port, "unix": server.unix}.get(way, file)
    server.env[f"STUI_SESSIONS_{named}"] = str(value)
    done = run(EXAMPLES / "first_session.sh", server=server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a new session: session_")


@needs_nc_and_jq
def test_first_session_without_a_server(server: ServerProcess) -> None:
    server.kill()
    done = run(EXAMPLES / "first_session.sh", server.host, str(server.port), server=server)
    assert done.returncode == 2
    assert "is the server running?" in done.stderr


@needs_nc_and_jq
def test_first_session_tells_an_error_reply(start_server: StartServer) -> None:
    server = start_server("--deny-clients", "first-*")
    done = run(EXAMPLES / "first_session.sh", server.host, str(server.port), server=server)
    assert done.returncode == 1
    assert done.stderr.startswith("SessionError client_not_allowed: ")


def test_save_and_restore(server: ServerProcess) -> None:
    done = run(sys.executable, EXAMPLES / "save_and_restore.py", "--port", str(server.port), server=server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "saved {'file': 'notes.txt', 'line': 13} as revision 3",
        "dropped a connection",
        "restored {'file': 'notes.txt', 'line': 13} and {'open': ['notes.txt', 'todo.txt']}",
    ]
    assert server.result("get_session_statistics")["total_sessions"] == 0


async def test_its_halves_survive_a_kill(server: ServerProcess) -> None:
    session_id = await save_and_restore.save(server.host, server.port)
    server.restart()  # SIGKILL
    await save_and_restore.restore(server.host, server.port, session_id)


def test_save_and_restore_without_a_server(server: ServerProcess) -> None:
    server.kill()
    done = run(sys.executable, EXAMPLES / "save_and_restore.py", "--port", str(server.port), server=server)
    assert done.returncode == 1
    assert done.stderr.startswith("it did not work: ")


def test_continuity(tmp_path: Path) -> None:
    """It starts and kills its own servers; what it prints is what it does."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "continuity.py")],
        env=environment(tmp_path, {"TMPDIR": str(tmp_path)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "laptop: Session created successfully",
        "laptop: saved {'file': 'talk.txt', 'line': 12} as revision 2",
        "laptop: the title is 'The talk'",
        "laptop: dropped a connection in the middle of a request",
        "the server was killed",
        "the server was started again",
        "a new process: Session resumed successfully",
        "a new process: 'The talk' holds {'file': 'talk.txt', 'line': 12} at revision 2",
        "phone: Session created successfully",
        "phone: it holds {}",
        "laptop: has 1 session",
        "phone: has 1 session",
        "sessions of ada: 'The talk' (laptop), 'Shopping' (phone)",
        "deleted 'The talk'",
        "sessions of ada: 'Shopping' (phone)",
        "restoring it: session_deleted",
        "undeleted 'The talk', which holds {'file': 'talk.txt', 'line': 12}",
        "sessions of ada: 'The talk' (laptop), 'Shopping' (phone)",
    ]
    assert not list(tmp_path.iterdir())  # no server is left, and none of their files


def test_every_example_is_in_the_list() -> None:
    listed = set(re.findall(r"^\| \[([\w.]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
