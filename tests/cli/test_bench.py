"""`stui-sessions bench` against a real server, briefly; what it measures is not judged here."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stui_sessions.cli.main import main
from tests.conftest import StartServer
from tests.support.canned import CannedServer
from tests.support.server import ServerProcess, environment

QUICK = ("--duration", "0.3", "--connections", "4", "--sessions", "20")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "UNIX"):
        monkeypatch.delenv(f"STUI_SESSIONS_{name}", raising=False)


@pytest.fixture(scope="module")
def shared(make_lasting_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    return make_lasting_server(unix=tmp_path_factory.mktemp("shared") / "s").start()


def run(server: ServerProcess | CannedServer, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--port", str(server.port), *QUICK, *arguments])


def report(server: ServerProcess, *arguments: str) -> dict[str, Any]:
    result = run(server, "--json", *arguments)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def live_sessions(server: ServerProcess) -> int:
    total = server.result("get_session_statistics")["total_sessions"]
    assert isinstance(total, int)
    return total


def is_under_load(server: ServerProcess) -> bool:
    """All its sessions are made, its connections are there, and updates are answered."""
    rows = server.result("list_sessions", limit=20)["sessions"]
    return len(rows) == 20 and any(row["revision"] > 1 for row in rows)


def kept_sessions(server: ServerProcess) -> int:
    """Sessions that the server knows of, ended ones too."""
    counts = server.result("get_session_statistics")["sessions_by_status"]
    assert {"live", "expired", "closed", "deleted"} <= set(counts)
    return sum(counts.values())


def test_the_report_for_programs(shared: ServerProcess) -> None:
    found = report(shared, "--mix", "update=3,restore=1,info,list,statistics,ping", "--pipeline", "3")
    assert found["errors"] == {}
    assert found["target"] == f"tcp://127.0.0.1:{shared.port}"
    assert found["settings"]["pipeline"] == 3
    assert list(found["kinds"]) == ["update", "restore", "info", "list", "statistics", "ping"]
    assert found["total"]["requests"] == sum(row["requests"] for row in found["kinds"].values()) > 0
    assert found["total"]["requests"] % 3 == 0
    assert found["seconds"] >= 0.3
    assert found["total"]["requests_per_second"] == pytest.approx(
        found["total"]["requests"] / found["seconds"], rel=0.01
    )
    for row in (found["total"], *found["kinds"].values()):
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert kept_sessions(shared) == 0


def test_the_report_for_people(shared: ServerProcess) -> None:
    result = CliRunner().invoke(main, ["bench", "--unix", str(shared.unix), *QUICK, "--pipeline", "2"])
    assert result.exit_code == 0
    for expected in (f"unix://{shared.unix}", "p99.9 ms", "update", "errors: none", "Times are those of a burst"):
        assert expected in result.stdout
    assert "total" not in result.stdout
    assert result.stderr == ""


def test_updates_save_states_of_the_size_that_was_asked_for(start_server: StartServer) -> None:
    server = start_server("--max-state-bytes", "1000")
    assert report(server, "--state-bytes", "900")["errors"] == {}
    result = run(server, "--state-bytes", "1100")
    assert (result.stdout, result.exit_code) == ("", 1)
    assert "state_too_large" in result.stderr


def test_it_spreads_over_clients_as_the_server_allows(start_server: StartServer) -> None:
    server = start_server("--max-sessions-per-client", "100", "--create-rate", "3")
    assert report(server, "--sessions", "30")["errors"] == {}
    assert live_sessions(server) == 0


def test_a_server_that_lets_it_make_no_session(start_server: StartServer) -> None:
    server = start_server("--allow-clients", "me")
    result = run(server)
    assert (result.stdout, result.exit_code) == ("", 1)
    assert "client_not_allowed" in result.stderr


def test_error_replies_are_counted_by_code(start_server: StartServer) -> None:
    # The sessions' 200 bytes fit, and the update's line does not.
    server = start_server("--max-message-bytes", "600", "--max-state-bytes", "1000")
    result = run(server, "--json", "--state-bytes", "300")
    assert json.loads(result.stdout)["errors"] == {}
    result = run(server, "--json", "--sessions", "1", "--state-bytes", "480")
    found = json.loads(result.stdout)
    assert (result.exit_code, list(found["errors"])) == (1, ["message_too_large"])
    assert found["errors"]["message_too_large"] == found["total"]["requests"]
    assert kept_sessions(server) == 0


def test_too_many_connections_are_told_and_the_sessions_closed(start_server: StartServer) -> None:
    server = start_server("--max-connections", "4")
    with server.connect() as watcher:
        result = run(server)
        assert (result.stdout, result.exit_code) == ("", 1)
        assert "too_many_connections" in result.stderr
        assert watcher.result("get_session_statistics")["total_sessions"] == 0


def test_nobody_there_is_exit_code_2() -> None:
    with CannedServer(b"") as server:
        port = server.port
    result = CliRunner().invoke(main, ["bench", "--port", str(port)])
    assert (result.stdout, result.exit_code) == ("", 2)
    assert "cannot connect" in result.stderr


@pytest.mark.parametrize("host", ["x" * 70, "a..b"])
def test_a_host_that_cannot_be_one_is_told_in_one_line(host: str) -> None:
    result = CliRunner().invoke(main, ["bench", "--host", host])
    assert (result.stdout, result.exit_code) == ("", 2)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"stui-sessions: cannot connect to tcp://{host}:")


@pytest.mark.parametrize(("answer", "message"), [(b"220 ESMTP\n", "cannot be read"), (None, "within 0.2 s")])
def test_another_server_is_exit_code_2(answer: bytes | None, message: str) -> None:
    with CannedServer(answer) as server:
        result = run(server, "--timeout", "0.2")
    assert (result.stdout, result.exit_code) == ("", 2)
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--mix", "nope=1"], ["--connections", "0"], ["--duration", "nan"], ["--sessions", "-1"]]
)
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert (result.stdout, result.exit_code) == ("", 2)


def test_a_server_that_dies_is_exit_code_2(server: ServerProcess) -> None:
    process = start(server)
    wait_until(lambda: is_under_load(server), process)
    server.kill()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "lost" in err
    assert "20 sessions could not be closed" in err


def test_a_server_that_stops_answering_is_exit_code_2(server: ServerProcess) -> None:
    process = start(server, "--timeout", "0.5")
    wait_until(lambda: is_under_load(server), process)
    server.send_signal(signal.SIGSTOP)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "no reply within 0.5 s" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_when_interrupted_it_reports_and_cleans_up(server: ServerProcess, number: signal.Signals) -> None:
    process = start(server, "--json")
    wait_until(lambda: live_sessions(server) == 20, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert json.loads(out)["seconds"] < 60 if out else True
    assert kept_sessions(server) == 0


def test_progress_is_for_terminals_only(shared: ServerProcess) -> None:
    pty = pytest.importorskip("pty")
    import os

    controller, terminal = pty.openpty()
    process = start(shared, "--duration", "0.5", stderr=terminal)
    os.close(terminal)
    chunks: list[bytes] = []

    def drain() -> None:
        try:
            while data := os.read(controller, 4096):
                chunks.append(data)
        except OSError:
            pass  # Linux says EIO when the other end has closed

    reader = threading.Thread(target=drain)
    reader.start()
    process.communicate(timeout=30)
    reader.join(10)
    os.close(controller)
    shown = b"".join(chunks)
    assert b"requests/s" in shown
    assert shown.endswith(b"\r\x1b[K")


def start(server: ServerProcess, *arguments: str, stderr: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A benchmark in a process of its own, for a minute unless told otherwise."""
    return subprocess.Popen(
        [sys.executable, "-m", "stui_sessions", "bench", "--port", str(server.port), *QUICK, "--duration", "60",
         *arguments],
        stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment(server.directory, {}),
    )  # fmt: skip


def wait_until(holds: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
