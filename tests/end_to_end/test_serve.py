"""Starting to serve: what is printed, what is bound, where files go, what is refused; and what a restart keeps."""

import json
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.support.databases import Databases, Files
from tests.support.line_client import LineClient
from tests.support.server import ServerProcess
from tests.support.waiting import until


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Addresses.


def test_prints_one_line_for_each_address(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start_server(unix=path)
    assert server.addresses == [f"tcp://127.0.0.1:{server.port}", f"unix://{path}"]
    assert server.port > 0
    for client in (server.connect(), server.connect_unix()):
        with client:
            assert client.result("ping") == {"pong": True}


def test_two_servers_take_different_free_ports(start_server: StartServer) -> None:
    assert start_server().port != start_server().port


def test_a_unix_socket_alone(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start_server(unix=path, tcp=False)
    assert server.addresses == [f"unix://{path}"]
    assert server.result("ping") == {"pong": True}


def test_the_unix_socket_is_for_its_owner_and_goes_with_the_server(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start_server(unix=path, wrapper=("bash", "-c", 'umask 0; exec "$@"', "--"))
    assert mode(path) == 0o600
    assert server.terminate() == 0
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(start_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start_server(unix=path)
    server.kill()
    assert path.exists()
    server.start()
    with server.connect_unix() as client:
        assert client.result("ping") == {"pong": True}


def test_a_live_unix_socket_is_refused(start_server: StartServer, make_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = start_server(unix=path)
    code, stderr = make_server(unix=path).fails_to_start()
    assert code == 1
    assert "another server listens there" in stderr
    with first.connect_unix() as client:
        assert client.result("ping") == {"pong": True}


def test_a_file_that_is_no_socket_is_left_alone(make_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    code, stderr = make_server(unix=path).fails_to_start()
    assert code == 1
    assert f"{path} exists and is not a socket" in stderr
    assert path.read_text() == "dear diary"


def test_a_port_in_use_is_refused(make_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, stderr = make_server(port=taken.getsockname()[1]).fails_to_start()
    assert code == 1
    assert "another program listens there" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("kind", ["port", "unix"])
def test_nothing_follows_the_error_about_an_address_that_is_taken(
    start_server: StartServer, make_server: StartServer, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "socket"
    first = start_server(unix=path)
    second = make_server(port=first.port) if kind == "port" else make_server(unix=path)
    code, stderr = second.fails_to_start()
    assert code == 1
    *before, last = stderr.splitlines()
    assert last.startswith("stui-sessions: ")
    assert "listens there" in last
    # What it logged until then, on lines of their own.
    assert all(json.loads(line)["level"] == "info" for line in before), stderr


def test_an_address_that_others_can_reach_needs_insecure(make_server: StartServer) -> None:
    code, stderr = make_server("--host", "0.0.0.0").fails_to_start()
    assert code == 2
    assert "--insecure" in stderr
    server = make_server("--host", "0.0.0.0", "--insecure").start()
    with LineClient.tcp("127.0.0.1", server.port) as client:
        assert client.result("ping") == {"pong": True}


# Settings.


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--max-depth", "much"), "--max-depth"),
        (("--durability", "maybe"), "full, normal"),
        (("--default-timeout", "100", "--max-timeout", "10"), "default_timeout 100 is above max_timeout 10"),
        (("--no-such-flag",), "--no-such-flag"),
        (("--config", "/nowhere/at/all.toml"), "/nowhere/at/all.toml"),
    ],
)
def test_bad_flags_end_the_start(make_server: StartServer, args: tuple[str, ...], said: str) -> None:
    server = make_server(*args)
    code, stderr = server.fails_to_start()
    assert code == 2
    assert said in stderr
    assert "Traceback" not in stderr
    assert not Path(server.db).exists()


def test_every_bad_source_is_told_at_once(make_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('max_dept = 9\nport = "ten"\n')
    server = make_server("--config", str(file), env={"STUI_SESSIONS_CREATE_RATE": "fast"})
    code, stderr = server.fails_to_start()
    assert code == 2
    for said in ("max_dept", "max_depth", "port", "STUI_SESSIONS_CREATE_RATE"):
        assert said in stderr


def test_settings_come_from_file_environment_and_flags(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("default_timeout = 100\ncleanup_interval = 200\nmax_sessions_per_client = 7\n")
    server = start_server(
        "--config", str(file), "--max-sessions-per-client", "9", env={"STUI_SESSIONS_CLEANUP_INTERVAL": "222"}
    )
    told = server.result("get_session_statistics")
    assert {name: told[name] for name in ("max_sessions_per_client", "default_timeout", "cleanup_interval")} == {
        "max_sessions_per_client": 9,
        "default_timeout": 100,
        "cleanup_interval": 222,
    }


# Files.


@pytest.mark.local_store
def test_the_database_goes_to_the_state_directory(make_server: StartServer, tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    server = make_server(
        db="", env={"XDG_STATE_HOME": str(state)}, wrapper=("bash", "-c", 'umask 022; exec "$@"', "--")
    ).start()
    server.result("create_session", client_id="someone")
    place = state / "stui-sessions"
    assert [mode(d) for d in (place, state, tmp_path / "deep")] == [0o700] * 3
    log = place / "sessions.db.log"
    assert mode(log) == 0o700
    files = {file.name: mode(file) for file in (*place.iterdir(), *log.iterdir()) if file.is_file()}
    assert {"sessions.db", "sessions.db-wal", "sessions.db.lock"} < set(files)
    assert set(files.values()) == {0o600}


@pytest.mark.local_store
def test_a_directory_that_does_not_exist_is_refused(make_server: StartServer, tmp_path: Path) -> None:
    place = tmp_path / "no" / "where.db"
    code, stderr = make_server(db=place).fails_to_start()
    assert code == 2
    assert stderr == (
        f'stui-sessions: db "{place}": "{place.parent}" is no directory; make it first, or correct the path\n'
    )
    assert not place.parent.exists()


@pytest.mark.local_store
@pytest.mark.parametrize("kept", [True, False])
def test_the_log_tells_which_database_it_is(make_server: StartServer, tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "my.db"
    server = make_server(db=path if kept else ":memory:").start()
    assert server.terminate() == 0
    (started,) = [line for line in map(json.loads, server.stderr().splitlines()) if line["event"] == "started"]
    assert started["database"] == (str(path) if kept else ":memory:")


@pytest.mark.local_store
def test_a_directory_that_exists_is_left_as_it_is(make_server: StartServer, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o755)
    make_server(db=place / "my.db").start()
    assert mode(place) == 0o755
    assert mode(place / "my.db") == 0o600


# Logs.


@pytest.mark.one_server
def test_logs_are_json_and_tell_no_secrets(start_server: StartServer, databases: Databases) -> None:
    server = start_server()
    with server.connect() as client:
        ids = [client.result("create_session", client_id="someone")["session_id"] for _ in range(5)]
        client.pipeline([("update_session_state", {"session_id": i, "state_data": {"secret": "s3cr3t"}}) for i in ids])
        client.request("restore_session", session_id="custom\x1b[31m-id")
        client.send(b"\xff\x00 nonsense \x1b]0;title\x07\n")
        client.receive()
    server.restart()
    with server.connect() as client:
        client.pipeline([("restore_session", {"session_id": i}) for i in ids])
    assert server.terminate() == 0
    text = server.stderr()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"event", "level", "timestamp"} <= set(lines[0])
    unclean = ["start.unclean"] if isinstance(databases, Files) else []
    assert [line["event"] for line in lines] == ["started", *unclean, "started", "stopping", "stopped"]
    assert not any(secret in text for secret in [*ids, "s3cr3t", "custom", "nonsense", "someone", "\x1b"])


@pytest.mark.one_server
def test_debug_logs_a_line_per_connection_and_still_no_ids(start_server: StartServer) -> None:
    server = start_server("--log-level", "debug")
    with server.connect() as client:
        session_id = client.result("create_session", client_id="someone")["session_id"]
        client.pipeline([("restore_session", {"session_id": session_id})] * 50)
    assert server.terminate() == 0
    text = server.stderr()
    assert text.count('"connection.opened"') == 1
    assert len(text.splitlines()) < 30
    assert session_id not in text


# Expiry, from end to end.


@pytest.mark.both_stores
def test_an_idle_session_expires_and_is_forgotten_in_time(start_server: StartServer) -> None:
    server = start_server("--cleanup-interval", "1", "--keep-expired", "2", "--max-sessions-per-client", "1")
    with server.connect() as client:
        session_id = client.result("create_session", client_id="idle", timeout=1)["session_id"]
        kept = client.result("create_session", client_id="other", timeout=100)["session_id"]

        def info() -> dict[str, Any]:
            return client.request("get_session_info", session_id=session_id)

        expired = until(lambda: (reply := info())["result"]["is_expired"] and reply, "expiry")["result"]
        assert (expired["is_active"], expired["time_until_expiry"]) == (False, 0)
        assert client.request("restore_session", session_id=session_id)["error_code"] == "session_expired"
        update = client.request("update_session_state", session_id=session_id, state_data={})
        assert (update["error_type"], update["error_code"]) == ("SessionNotFound", "session_expired")
        assert client.result("list_client_sessions", client_id="idle")["session_count"] == 0
        # Its place is free, whether or not the sweeper has passed.
        successor = client.result("create_session", client_id="idle", timeout=100)["session_id"]
        until(lambda: info()["status"] == "error", "the sweeper to forget it")
        assert info()["error_code"] == "session_not_found"
        assert client.result("get_session_statistics")["total_sessions"] == 2
    server.restart()
    assert server.request("get_session_info", session_id=session_id)["error_code"] == "session_not_found"
    assert server.result("get_session_statistics")["total_sessions"] == 2
    for alive in (kept, successor):
        assert server.result("get_session_info", session_id=alive)["is_active"]


@pytest.mark.one_server
def test_a_shorter_cleanup_interval_ends_the_one_that_is_running(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("cleanup_interval = 86400\nkeep_expired = 0\n")
    server = start_server("--config", str(file))
    with server.connect() as client:
        client.result("create_session", client_id="idle", timeout=1)

        def told() -> dict[str, Any]:
            return client.result("get_session_statistics")

        before = until(lambda: told()["sweeper"]["runs"], "the first sweep, after which the interval runs")
        file.write_text("cleanup_interval = 1\nkeep_expired = 0\n")
        server.send_signal(signal.SIGHUP)
        until(lambda: told()["sweeper"]["runs"] >= before + 2, "two sweeps")
        until(lambda: told()["removed_by_reason"]["expired"] == 1, "the session to be removed")


# What a restart keeps.


def test_statistics_are_right_at_once_after_a_restart(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as client:
        made = client.pipeline([("create_session", {"client_id": f"client{n % 4}"}) for n in range(12)])
        ids = [reply["result"]["session_id"] for reply in made]
        # All three of client0, and one of client1.
        closed = [ids[0], ids[4], ids[8], ids[1]]
        client.pipeline([("close_session", {"session_id": i}) for i in closed])
    for stop in (server.kill, server.terminate):
        stop()
        server.start()
        statistics = server.result("get_session_statistics")
        assert (statistics["total_sessions"], statistics["active_clients"]) == (8, 3)


CODE_POINTS = "".join(
    [
        '\\u0000\\u0001\\b\\t\\n\\f\\r\\u001f \\"\\\\\\/',  # what must or may be escaped
        "~\x7f\x80\x9f\xa0\xad\xff",  # the ends of ASCII and Latin-1
        "e\u0301 \u00e9 n\u0303o \u1e9b\u0323 \u202e\u2066abc\u2069",  # combining, not normalised; bidirectional
        "\u200b\u200d\ufeff\u2028\u2029\ufffd\ufffe\uffff",  # invisible, separators, noncharacters
        "\u65e5\u672c\u8a9e \uac00 \u0e33 \u05d0\u0627 \ue000\uf8ff",  # scripts, private use
        "\U0001f600\U0001f468\u200d\U0001f469 \U00010000\U0010ffff",  # astral
        "\\ud83d\\ude00 \\u00e9 \\uffff",  # the same, escaped
    ]
)

STATES = [
    '{"n":1234567890123456789012345678901234567890,"m":-1234567890123456789012345678901234567890}',
    '{"a":1.10,"b":-0,"c":-0.0,"d":0.1e1,"e":1E+2,"f":5e-324,"g":1.7976931348623157e308,"h":0.10000000000000000555}',
    '{"zeta":1,"alpha":2,"Mid":3,"10":4,"9":5,"":6}',
    f'{{"text":"{CODE_POINTS}","{CODE_POINTS}":1}}',
    '{"deep":[[[[[[[[[[{"a":[{"b":[]}]}]]]]]]]]]],"empty":{},"null":null,"t":true,"f":false}',
]


def raw_state(client: LineClient, session_id: str) -> str:
    """The text of `session_state`, as it stands in the reply."""
    client.send_request("restore_session", session_id=session_id)
    line = client.receive_line().decode()
    _, _, rest = line.partition('"session_state":')
    return rest.partition(',"workspace_context":')[0]


def in_order(text: str) -> Any:
    """What `text` means: numbers as they are written, keys in their order."""
    return json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=list)


@pytest.mark.both_stores
@pytest.mark.parametrize("way", ["kill", "terminate"])
def test_a_restart_restores_exactly_what_was_saved(start_server: StartServer, way: str) -> None:
    server: ServerProcess = start_server()
    ids = []
    with server.connect() as client:
        for state in STATES:
            ids.append(client.result("create_session", client_id=f"exact{len(ids)}")["session_id"])
            line = (
                f'{{"id":1,"command":"update_session_state","parameters":{{"session_id":"{ids[-1]}",'
                f'"state_data":{state}}}}}\n'
            )
            client.send(line.encode())
            assert client.receive()["status"] == "success"
        before = [raw_state(client, session_id) for session_id in ids]
    getattr(server, way)()
    server.start()
    with server.connect() as client:
        after = [raw_state(client, session_id) for session_id in ids]
    assert [in_order(text) for text in after] == [in_order(text) for text in STATES]
    assert after == before


@pytest.mark.local_store
def test_a_relative_database_path_is_taken_from_where_it_was_started(make_server: StartServer) -> None:
    server = make_server(db="relative.db").start()
    session_id = server.result("create_session", client_id="here")["session_id"]
    assert (server.directory / "relative.db").exists()
    server.restart()
    assert server.result("restore_session", session_id=session_id)["session_id"] == session_id
