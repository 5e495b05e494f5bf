"""`stui-sessions export` and `import`: from one real server into another."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from stui_sessions.cli import importing
from tests.conftest import StartServer
from tests.support.server import ServerProcess, environment

NUMBERS = b'{"z":1.10,"a":1234567890123456789012345678901234567890,"m":{"b":-0,"a":[1e5,null,"\\u00e9"]}}'


def run(server: ServerProcess, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "stui_sessions", *arguments, "--port", str(server.port)]
    env = environment(server.directory, {})
    return subprocess.run(command, env=env, input=input, capture_output=True, timeout=120)


def export(server: ServerProcess, *filters: str) -> list[bytes]:
    done = run(server, "export", *filters)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(keepends=True)


def take(server: ServerProcess, lines: list[bytes], *options: str, code: int = 0) -> tuple[str, list[str]]:
    """The summary, and what was told on stderr."""
    done = run(server, "import", *options, input=b"".join(lines))
    assert done.returncode == code, done.stderr
    return done.stdout.decode().strip(), done.stderr.decode().splitlines()


def row(session_id: str = "s", **changes: Any) -> bytes:
    """The line of a session of our own making."""
    record = {
        "session_id": session_id, "client_id": "c", "user_id": None, "external_id": None, "title": None, "tags": [],
        "metadata": {}, "status": "live", "pinned": False, "revision": 1, "timeout": 1000,
        "created_at_ms": 1_700_000_000_000, "modified_at_ms": 1_700_000_000_000, "active_at_ms": 4_000_000_000_000,
        "ended_at_ms": None, "ends_at_ms": None, "session_state": {}, "workspace_context": {},
        "inspector_state": {}, "object_registry": {}, **changes,
    }  # fmt: skip
    text = json.dumps(record, separators=(",", ":")).encode()
    return b'{"checksum":"%08x","session":%b}\n' % (crc32(text), text)


def fill(server: ServerProcess) -> list[str]:
    """Sessions of all kinds; their ids."""
    with server.connect() as client:
        client.send(
            b'{"id":0,"command":"open_session","parameters":{"client_id":"a","user_id":"u","session_id":"n\\u0000ul",'
            b'"external_id":"e\\u0000x","title":"T","tags":["x","y"],"metadata":{"m": 1.10},"ttl_seconds":9000,'
            b'"session_state":' + NUMBERS + b"}}\n"
        )
        assert client.receive()["status"] == "success"
        ids = ["n\0ul"]
        for n, end in enumerate(("", "close_session", "delete_session", "pin")):
            id = client.result("create_session", client_id=f"b{n}", tags=["x"])["session_id"]
            client.result("update_session_state", session_id=id, state_data={"n": n})
            if end == "pin":
                client.result("update_session", session_id=id, pin=True)
            elif end:
                client.result(end, session_id=id)
            ids.append(id)
    return ids


@pytest.fixture
def target(start_server: StartServer) -> ServerProcess:
    return start_server("--create-rate", "1", "--max-sessions-per-client", "1")


@pytest.mark.both_stores
def test_what_comes_out_is_what_went_in(server: ServerProcess, target: ServerProcess, tmp_path: Path) -> None:
    ids = fill(server)
    lines = export(server)
    assert len(lines) == len(ids)
    assert NUMBERS in b"".join(lines)
    assert take(target, lines) == ("imported 5, replaced 0, skipped 0, 0 errors", [])
    assert export(target) == lines
    with target.connect() as client:
        assert client.result("restore_session", session_id="n\0ul")["revision"] == 1
        assert client.request("restore_session", session_id=ids[2])["error_code"] == "session_closed"
        client.result("undelete_session", session_id=ids[3])
        assert client.result("get_session", session_id=ids[4])["pinned"]
    target.restart()
    file = tmp_path / "out.jsonl"
    file.write_bytes(b"old")
    done = run(server, "export", str(file))
    assert (done.returncode, done.stdout) == (0, b"exported 5 sessions\n")
    assert file.read_bytes() == b"".join(lines)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_filters(server: ServerProcess) -> None:
    ids = fill(server)

    def found(*filters: str) -> set[str]:
        return {json.loads(line)["session"]["session_id"] for line in export(server, *filters)}

    assert found() == set(ids)
    assert found("--status", "live") == {ids[0], ids[1], ids[4]}
    assert found("--status", "closed", "--status", "deleted") == {ids[2], ids[3]}
    assert found("--tag", "x", "--tag", "y") == {ids[0]}
    assert found("--client-id", "b1") == {ids[2]}
    assert found("--user-id", "u", "--text", "t") == {ids[0]}
    refused = run(server, "export", "--text", "t")
    assert refused.returncode == 1
    assert b"invalid_parameter" in refused.stderr


@pytest.mark.both_stores
def test_more_than_a_page_and_more_than_a_batch(server: ServerProcess, target: ServerProcess) -> None:
    lines = [row(f"s{n:04}", client_id=f"c{n}", session_state={"n": n, "t": "x" * (n % 700)}) for n in range(2500)]
    assert take(server, lines) == ("imported 2,500, replaced 0, skipped 0, 0 errors", [])
    out = export(server)
    assert sorted(out) == sorted(lines)
    assert take(target, out)[0].startswith("imported 2,500,")
    assert export(target) == out


def test_sessions_that_are_nearly_too_large(server: ServerProcess, target: ServerProcess) -> None:
    lines = [row(f"s{n}", session_state={"t": "x" * 900_000}) for n in range(5)]
    assert take(server, lines)[0].startswith("imported 5,")
    assert take(target, export(server))[0].startswith("imported 5,")


def test_large_metadata_makes_small_pages(server: ServerProcess, target: ServerProcess) -> None:
    lines = [row(f"s{n}", metadata={"m": "x" * 16_000}) for n in range(600)]
    assert take(server, lines)[0].startswith("imported 600,")
    page = server.result("export_sessions", limit=1000)
    assert sum(len(json.dumps(r)) for r in page["sessions"]) < 1_200_000
    assert take(target, export(server))[0].startswith("imported 600,")


def test_what_has_expired_unnoticed_is_not_left_out(server: ServerProcess) -> None:
    line = row("s", active_at_ms=1_700_000_000_000)
    take(server, [line])
    assert export(server) == [line]


def test_the_deepest_state_that_can_be_saved_can_be_imported(server: ServerProcess, target: ServerProcess) -> None:
    def state(levels: int) -> bytes:
        return b'{"a":' * levels + b"1" + b"}" * levels

    update = b'{"id":1,"command":"update_session_state","parameters":{"session_id":"s","state_data":%b}}\n'
    with server.connect() as client:
        client.result("open_session", session_id="s", client_id="c")
        for levels, status in ((127, "error"), (126, "success")):
            client.send(update % state(levels))
            assert client.receive()["status"] == status
    assert take(target, export(server))[0].startswith("imported 1,")
    text = row("deep").replace(b'"session_state":{}', b'"session_state":' + state(127))
    summary, told = take(target, [text], code=1)
    assert summary == "imported 0, replaced 0, skipped 0, 1 error"
    assert "too_deep" in told[0]


@pytest.mark.parametrize(
    ("mode", "summary"),
    [
        ("error", "imported 1, replaced 0, skipped 0, 1 error"),
        ("skip", "imported 1, replaced 0, skipped 1, 0 errors"),
        ("replace", "imported 1, replaced 1, skipped 0, 0 errors"),
        ("new", "imported 2 (1 with new ids), replaced 0, skipped 0, 0 errors"),
    ],
)
def test_ids_that_are_taken(server: ServerProcess, mode: str, summary: str) -> None:
    take(server, [row("taken", session_state={"old": 1})])
    lines = [row("taken", session_state={"new": 1}), row("free")]
    said, told = take(server, lines, "--on-conflict", mode, code=mode == "error")
    assert said == summary
    assert told == (["line 1: Session ID already exists [session_id_conflict]"] if mode == "error" else [])
    kept = server.result("restore_session", session_id="taken")["session_state"]
    assert kept == ({"new": 1} if mode == "replace" else {"old": 1})
    assert len(export(server)) == 3 if mode == "new" else 2


BROKEN = {
    "text": (b"hello\n", "no row of an export"),
    "array": (b"[]\n", "no row of an export"),
    "two": (row("x").strip() + b"," + row("y"), "no row of an export"),
    "checksum": (row("x").replace(b'"revision":1', b'"revision":2'), "checksum_mismatch"),
    "field": (row("x", color="red"), "invalid_record"),
    "utf-8": (row("x", title="abc").replace(b"abc", b"a\xffc"), "not UTF-8 (byte "),
    "surrogate": (row("x").replace(b'"session_state":{}', b'"session_state":{"a":"\\ud800"}'), "no row of an export"),
    "duplicate": (row("x").replace(b'"session_state":{}', b'"session_state":{"a":1,"a":2}'), "duplicate_key"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_line_is_told_and_does_not_stop_the_rest(server: ServerProcess, kind: str) -> None:
    broken, why = BROKEN[kind]
    lines = [row("a"), b"\n", broken, row("b"), row("c").rstrip(b"\n")]
    summary, told = take(server, lines, code=1)
    assert summary == "imported 3, replaced 0, skipped 0, 1 error"
    assert len(told) == 1
    assert told[0].startswith("line 3: ")
    assert why in told[0]
    assert len(export(server)) == 3


def test_many_errors_are_not_all_told(server: ServerProcess) -> None:
    summary, told = take(server, [b"x\n"] * 1700 + [row("a")], code=1)
    assert summary == "imported 1, replaced 0, skipped 0, 1,700 errors"
    assert len(told) == 21
    assert told[-1] == "and 1,680 more"
    assert [line.partition(":")[0] for line in told[:20]] == [f"line {n}" for n in range(1, 21)]


def test_strict_stops_at_the_first_error(server: ServerProcess) -> None:
    rows = [row(f"s{n:04}") for n in range(1500)]
    summary, told = take(server, [*rows, b"x\n", *[row(f"t{n}") for n in range(500)]], "--strict", code=1)
    assert summary == "imported 1,500, replaced 0, skipped 0, 1 error"
    assert told[0].startswith("line 1501: ")
    assert told[1] == ("stui-sessions: stopped at an error: the lines up to 1,501 are imported but for those told")
    assert len(export(server)) == 1500


@pytest.mark.parametrize("kind", [*BROKEN, "taken"])
def test_strict_takes_nothing_behind_the_first_error(server: ServerProcess, kind: str) -> None:
    """Whoever finds the fault, this program or the server: a batch must not be decided past it."""
    broken, why = (row("a"), "session_id_conflict") if kind == "taken" else BROKEN[kind]
    summary, told = take(server, [row("a"), row("b"), broken, row("c"), row("d")], "--strict", code=1)
    assert summary == "imported 2, replaced 0, skipped 0, 1 error"
    assert told[0].startswith("line 3: ")
    assert why in told[0]
    assert {json.loads(line)["session"]["session_id"] for line in export(server)} == {"a", "b"}


@pytest.mark.local_store
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_backup_is_no_export_which_is_said_once(server: ServerProcess, tmp_path: Path, way: str) -> None:
    file = tmp_path / "sessions.backup"
    assert run(server, "backup", str(file)).returncode == 0
    done = run(server, "import", str(file)) if way == "file" else run(server, "import", input=file.read_bytes())
    name, command = (file, file) if way == "file" else ("-", "FILE")
    assert (done.returncode, done.stdout) == (2, b"")
    said = f"stui-sessions: {name} is a backup, not an export: use `stui-sessions restore {command}`\n"
    assert done.stderr.decode() == said


@pytest.mark.local_store
def test_one_session_is_no_sessions(server: ServerProcess, tmp_path: Path) -> None:
    take(server, [row("a")])
    backup, database = tmp_path / "b", tmp_path / "r.db"
    assert run(server, "export", str(tmp_path / "x")).stdout == b"exported 1 session\n"
    assert run(server, "backup", str(backup)).stdout.decode().startswith(f"{backup}: 1 session, ")
    command = [sys.executable, "-m", "stui_sessions", "restore", "--db", str(database), str(backup)]
    restored = subprocess.run(command, env=server.env, capture_output=True, text=True, timeout=60)
    assert restored.stdout == f"{database}: 1 session\n"


def test_a_server_that_cannot_be_asked(tmp_path: Path, server: ServerProcess) -> None:
    port = server.port
    server.kill()
    for arguments in (["export", str(tmp_path / "x")], ["import"]):
        done = run(server, *arguments)
        assert done.returncode == 2
        assert b"is the server running there?" in done.stderr
    assert port
    assert not (tmp_path / "x").exists()
    assert run(server, "import", str(tmp_path / "x")).returncode == 2


def test_a_line_that_never_ends_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importing, "LONGEST_LINE", 1000)
    file = tmp_path / "f"
    file.write_bytes(b"x" * 5000 + b"\n\n" + row("a") + b"y" * 1001)

    def lines() -> Iterator[importing.Line]:
        with file.open("rb") as source:
            yield from importing._lines(source)

    assert [(line.number, line.error.partition(";")[0]) for line in lines()] == [
        (1, "longer than 1000 bytes"),
        (3, ""),
        (4, "longer than 1000 bytes"),
    ]
