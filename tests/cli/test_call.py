"""`stui-sessions call`: what it sends, what it prints, how it ends."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from stui_sessions.cli.call import call
from stui_sessions.cli.main import main
from stui_sessions.cli.parameters import Parameters
from stui_sessions.commands import REGISTRY
from tests.conftest import StartServer
from tests.support.canned import CannedServer
from tests.support.server import ServerProcess, environment

PONG = b'{"id":1, "status":"success","result":{"n":1.10, "z":-0},"timestamp":"x"}\n'


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "UNIX"):
        monkeypatch.delenv(f"STUI_SESSIONS_{name}", raising=False)


@pytest.fixture(scope="module")
def shared(make_lasting_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    return make_lasting_server(unix=tmp_path_factory.mktemp("shared") / "s").start()


def run(*arguments: str, input: str = "", **env: str) -> Result:
    return CliRunner(env={f"STUI_SESSIONS_{name}": value for name, value in env.items()}).invoke(
        main, ["call", *arguments], input=input
    )


def parameters(command: str, *arguments: str, json_object: str | None = None, stdin: bytes = b"") -> Any:
    """What the arguments stand for, decoded."""
    return json.loads(text(command, *arguments, json_object=json_object, stdin=stdin))


def text(command: str, *arguments: str, json_object: str | None = None, stdin: bytes = b"") -> bytes:
    gathered = Parameters(command, lambda: stdin)
    if json_object is not None:
        gathered.add_object(json_object)
    for argument in arguments:
        gathered.add(argument)
    return gathered.encode()


# What it sends.


def test_values_take_the_type_of_their_parameter() -> None:
    assert parameters(
        "create_session", "client_id=5", "timeout=5", 'session_state={"a": "x=y"}', "object_registry={}"
    ) == {"client_id": "5", "timeout": 5, "session_state": {"a": "x=y"}, "object_registry": {}}
    assert parameters("update_session_state", "mode=replace", "session_id=a=b") == {
        "mode": "replace",
        "session_id": "a=b",
    }


def test_booleans_arrays_and_null_are_json_too() -> None:
    assert parameters("open_session", "resume=false", 'tags=["a", "b c"]', "title=5", "on_conflict=new") == {
        "resume": False,
        "tags": ["a", "b c"],
        "title": "5",
        "on_conflict": "new",
    }
    assert parameters("list_sessions", "limit=5", "tags=[]", "text=null", "order=asc") == {
        "limit": 5,
        "tags": [],
        "text": "null",
        "order": "asc",
    }
    assert parameters("update_session", "pin=true", "ttl_seconds=null") == {"pin": True, "ttl_seconds": None}
    assert parameters("get_session", 'include=["state"]') == {"include": ["state"]}


def test_a_string_that_can_be_null_is_taken_as_it_is() -> None:
    """A title may well be "null"; null itself is said with `:=`."""
    assert parameters("update_session", "title=null", "external_id=5") == {"title": "null", "external_id": "5"}
    assert parameters("update_session", "title:=null", 'external_id:="5"') == {"title": None, "external_id": "5"}


def test_with_a_colon_every_value_is_json(tmp_path: Path) -> None:
    assert parameters("of_the_future", "n:=5", "o:={}", "s=5") == {"n": 5, "o": {}, "s": "5"}
    assert parameters("create_session", "client_id:=5", "timeout:=60") == {"client_id": 5, "timeout": 60}
    assert b'"n":1.10' in text("of_the_future", "n:=1.10")
    file = tmp_path / "f"
    file.write_text('["a"]\n')
    assert parameters("create_session", f"tags=@{file}", f"metadata:=@{file}") == {"tags": ["a"], "metadata": ["a"]}
    assert parameters("create_session", "client_id=a:=b", "title=:=") == {"client_id": "a:=b", "title": ":="}
    for arguments in (["timeout=5", "timeout:=5"], ["timeout:=5", "timeout=5"]):
        with pytest.raises(click.UsageError, match="twice"):
            parameters("create_session", *arguments)


@pytest.mark.parametrize(
    ("command", "argument", "message"),
    [
        ("open_session", "resume=yes", 'resume takes true or false in JSON, and "yes" is not JSON'),
        ("open_session", "resume=True", "resume takes true or false in JSON"),
        ("list_sessions", "tags=a,b", 'tags takes an array in JSON, and "a,b" is not JSON'),
        ("update_session", "ttl_seconds=never", "ttl_seconds takes an integer or null in JSON"),
        ("update_session", "title:=None", "title takes a string or null in JSON"),
        ("list_sessions", "status:=live", "status takes a value in JSON"),
        ("of_the_future", "n:=", "n takes a value in JSON"),
        ("of_the_future", ":=5", "write key=value, or key:=JSON"),
        ("of_the_future", "n:", "write key=value, or key:=JSON"),
    ],
)
def test_what_would_have_been_json_is_told(command: str, argument: str, message: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        parameters(command, argument)
    assert message in raised.value.message


def test_numbers_keep_their_text() -> None:
    assert b'{"a":1.10,"b": -0}' in text("create_session", 'session_state={"a":1.10,"b": -0}')
    assert b'{"a":1.10,"b": -0}' in text("create_session", json_object='{"session_state":{"a":1.10,"b": -0}}')


@pytest.mark.parametrize("value", ["", "true", '"5"', "null", "[1]", "-7", "1.5"])
def test_the_server_judges_json_of_another_type(value: str) -> None:
    expected = {"timeout": json.loads(value)} if value else None
    if expected is None:
        with pytest.raises(click.UsageError, match="timeout takes an integer"):
            parameters("create_session", f"timeout={value}")
    else:
        assert parameters("create_session", f"timeout={value}") == expected


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("timeout=soon", 'timeout takes an integer in JSON, and "soon" is not JSON'),
        ("session_state={a:1}", "session_state takes an object in JSON"),
        ("session_state=" + "[" * 100_000, "session_state takes an object in JSON"),
        ("client_id", "write key=value"),
        ("=x", "write key=value"),
        ("client_id=@/no/such/file", "cannot read"),
        ("client_id=@/\0", "null byte"),
        ("client_id=\udcff", "not UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_a_usage_error(argument: str, message: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        parameters("create_session", argument)
    assert message in raised.value.message
    assert len(raised.value.message) < 300


def test_unknown_commands_and_parameters_are_strings() -> None:
    assert parameters("of_the_future", "n=5", "o={}") == {"n": "5", "o": "{}"}
    assert parameters("create_session", "timout=5") == {"timout": "5"}


def test_values_from_files_and_stdin(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b'{"a":\n 1.10}\n')
    assert b"1.10" in text("create_session", f"session_state=@{file}")
    assert parameters("restore_session", "session_id=@-", stdin=b"an id\r\n") == {"session_id": "an id"}
    assert parameters("restore_session", "session_id=@-", stdin=b"two\n\n") == {"session_id": "two\n"}
    assert parameters("restore_session", "session_id=@@-") == {"session_id": "@-"}
    assert parameters("restore_session", json_object="@-", stdin=b'{"session_id": "s"}\n') == {"session_id": "s"}
    with pytest.raises(click.UsageError, match="once"):
        parameters("update_session_state", "session_id=@-", "state_data=@-", stdin=b"{}")
    with pytest.raises(click.UsageError, match="not UTF-8"):
        parameters("restore_session", "session_id=@-", stdin=b"\xff")


def test_json_and_arguments_are_merged() -> None:
    assert parameters("create_session", "timeout=5", json_object=' {"client_id": "me" } \n') == {
        "client_id": "me",
        "timeout": 5,
    }
    assert parameters("create_session", "timeout=5", json_object="{}") == {"timeout": 5}
    assert parameters("create_session", json_object="{}") == {}
    for arguments in (["timeout=5"], ["client_id=a", "client_id=a"]):
        with pytest.raises(click.UsageError, match="twice"):
            parameters("create_session", *arguments, json_object='{"timeout":5}')


@pytest.mark.parametrize("value", ["[1]", "1", '"x"', "null", "{", ""])
def test_json_takes_an_object(value: str) -> None:
    with pytest.raises(click.UsageError, match="--json takes an object"):
        parameters("create_session", json_object=value)


def test_what_goes_over_the_wire_is_one_line() -> None:
    with CannedServer(PONG) as server:
        run("create_session", "client_id=mé", 'session_state={"a":\n1}', "--port", str(server.port))
    assert json.loads(server.received[0]) == {
        "id": 1,
        "command": "create_session",
        "parameters": {"client_id": "mé", "session_state": {"a": 1}},
    }


# What it prints, and how it ends.


def test_the_reply_is_printed_exactly_as_it_came() -> None:
    with CannedServer(PONG) as server:
        result = run("ping", "--port", str(server.port))
    assert result.stdout_bytes == PONG
    assert (result.stderr, result.exit_code) == ("", 0)


def test_pretty_indents_and_keeps_the_text_of_numbers() -> None:
    with CannedServer(PONG) as server:
        result = run("ping", "--pretty", "--port", str(server.port))
    assert '\n    "n": 1.10,\n    "z": -0\n' in result.stdout
    assert json.loads(result.stdout) == json.loads(PONG)


@pytest.mark.parametrize("id", ["1", "null"])
def test_an_error_reply_is_printed_and_the_exit_code_is_1(id: str) -> None:
    reply = f'{{"id":{id},"status":"error","error":"no","error_type":"Error","timestamp":""}}\n'.encode()
    with CannedServer(reply, eager=id == "null") as server:
        result = run("ping", "--port", str(server.port))
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (reply, "", 1)


def test_what_a_server_says_before_it_hangs_up_is_printed() -> None:
    reply = b'{"id":null,"status":"error","error":"full","error_type":"RuntimeError","timestamp":""}\n'
    with CannedServer(reply, eager=True) as server:
        # More than fits into the sockets' buffers: sending ends with an error.
        result = run("restore_session", "session_id=@-", "--port", str(server.port), input="x" * 20_000_000)
    assert (result.stdout_bytes, result.exit_code) == (reply, 1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "did not answer within 0.2 s"),
        (b"", "the connection ended without a reply"),
        (b'{"id":1,"status":"succ', "the connection ended without a reply"),
        (b"220 ESMTP\n", "the server's reply cannot be read"),
    ],
)
def test_no_reply_is_exit_code_2(answer: bytes | None, message: str) -> None:
    with CannedServer(answer) as server:
        result = run("ping", "--timeout", "0.2", "--port", str(server.port))
    assert (result.stdout, result.exit_code) == ("", 2)
    assert message in result.stderr
    assert f"tcp://127.0.0.1:{server.port}" in result.stderr


def test_no_server_is_exit_code_2(tmp_path: Path) -> None:
    nobody = str(tmp_path / "nobody")
    result = run("ping", "--unix", nobody)
    assert (result.stdout, result.exit_code) == ("", 2)
    assert f"cannot connect to unix://{nobody}" in result.stderr
    assert run("ping", "--unix", "x" * 200).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ping", "--nope"],
        ["create_session", "client_id"],
        ["ping", "--port", "0"],
        ["ping", "--timeout", "0"],
        ["ping", "--timeout", "nan"],
        ["ping", "--timeout", "inf"],
        ["ping", "--unix", "x", "--port", "1"],
        ["ping", "--unix", "x", "--host", "h"],
    ],
)
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.stdout, result.exit_code) == ("", 2)
    assert "Error: " in result.stderr


@pytest.mark.parametrize("arguments", [["p\udcffng"], ["ping", "n\udcffme=1"], ["ping", "n\udcffme:=1"]])
def test_a_name_that_is_not_utf_8_is_told_in_one_line(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.stdout, result.exit_code) == ("", 2)
    assert [line for line in result.stderr.splitlines() if line.startswith("Error: ")] == [
        "Error: the command or the name of a parameter is not UTF-8"
    ]
    assert "Traceback" not in result.stderr


# Where it asks.


def test_the_address_comes_from_flags_or_the_environment(shared: ServerProcess, tmp_path: Path) -> None:
    port, unix, nobody = str(shared.port), str(shared.unix), str(tmp_path / "nobody")
    assert run("ping", PORT=port).exit_code == 0
    assert run("ping", UNIX=unix).exit_code == 0
    assert run("ping", UNIX=unix, PORT="1").exit_code == 0
    assert run("ping", UNIX="", PORT=port).exit_code == 0
    assert run("ping", "--port", port, UNIX=nobody, PORT="1").exit_code == 0
    assert run("ping", "--host", "127.0.0.1", UNIX=nobody, PORT=port).exit_code == 0
    assert run("ping", "--unix", unix, PORT="1", HOST="localhost").exit_code == 0
    assert run("ping", UNIX=nobody, PORT=port).exit_code == 2


# The whole thing.


def test_a_session_from_the_shell(shared: ServerProcess) -> None:
    def ask(*arguments: str, stdin: str = "") -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "stui_sessions", "call", *arguments],
            input=stdin, capture_output=True, text=True, timeout=30,
            env=environment(shared.directory, {"STUI_SESSIONS_PORT": str(shared.port)}),
        )  # fmt: skip
        assert done.stderr == ""
        reply = json.loads(done.stdout)
        assert isinstance(reply, dict)
        return done.returncode, reply

    code, created = ask("create_session", "client_id=shell", "timeout=60")
    id = created["result"]["session_id"]
    assert code == 0
    assert created["result"]["timeout"] == 60
    assert ask("update_session_state", f"session_id={id}", "state_data=@-", stdin='{\n"line": 42}\n')[0] == 0
    code, restored = ask("restore_session", "session_id=@-", stdin=f"{id}\n")
    assert (code, restored["result"]["session_state"]) == (0, {"line": 42})
    code, refused = ask("restore_session", f"sesion_id={id}")
    assert (code, refused["error_code"], refused["details"]["nearest"]) == (1, "unknown_parameter", "session_id")
    code, refused = ask("restor_session")
    assert (code, refused["details"]["nearest"]) == (1, "restore_session")


# Completion.


def completions(*words: str) -> list[str]:
    """What the shell would offer for the last word."""
    complete = ShellComplete(main, {}, "stui-sessions", "_STUI_SESSIONS_COMPLETE")
    return [item.value for item in complete.get_completions(["call", *words[:-1]], words[-1])]


def test_commands_are_completed() -> None:
    assert completions("") == REGISTRY.names
    assert completions("re") == ["restore_session", "resolve_session", "read_backup"]
    assert completions("und") == ["undelete_session"]


def test_parameters_are_completed_once_each() -> None:
    assert completions("create_session", "") == [f"{name}=" for name in REGISTRY["create_session"].parameters]
    assert completions("update_session_state", "session_id=x", "s") == ["state_data="]
    assert completions("update_session", "title:=null", "t") == ["tags=", "timeout=", "ttl_seconds="]
    assert completions("of_the_future", "s") == []


def test_values_are_completed_where_there_are_a_few() -> None:
    assert completions("update_session_state", "mode=") == ["mode=merge", "mode=replace"]
    assert completions("update_session_state", "mode=m") == ["mode=merge"]
    assert completions("update_session_state", "session_id=") == []
    assert completions("open_session", "resume=") == ["resume=true", "resume=false"]
    assert completions("open_session", "on_conflict=n") == ["on_conflict=new"]
    assert completions("update_session", "title:=") == []
    # bash: `=` is a word of its own.
    assert completions("update_session_state", "mode", "=") == ["merge", "replace"]
    assert completions("update_session_state", "mode", "=", "r") == ["replace"]
    assert completions("update_session_state", "session_id", "=", "x", "mo") == ["mode="]
    assert completions("delete_session", "purge", "=", "t") == ["true"]
    assert completions("update_session", "title", ":=", "null", "ti") == ["timeout="]


def test_the_help_says_how_to_switch_completion_on() -> None:
    result = run("--help")
    assert "_STUI_SESSIONS_COMPLETE=bash_source stui-sessions" in result.stdout
    assert call.name == "call"
