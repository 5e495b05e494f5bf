"""The table "What is on the line" in protocol.md: each row is sent, and must be answered as it says.

A row without cases here, and cases without a row there, fail.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.docs.markdown import read, section, table
from tests.support.line_client import LineClient

ROWS = {what: (answer, id) for what, answer, id in table(section(read("protocol.md"), "What is on the line"))}
STATE = 1_048_576
"""`max_state_bytes`, by default."""
MESSAGE = 2 * STATE
"""`max_message_bytes` here, so that a state of the largest size fits on a line."""
PING = b'{"id": 7, "command": "ping"}'

Case = bytes | Callable[["Table"], bytes]


class Kept:
    """A value that must come back as the text that was sent."""

    def __init__(self, text: str, key: str = '"k"') -> None:
        self.state = f"{{{key}:{text}}}".encode()


class Table:
    """A server and a session to try things on."""

    def __init__(self, client: LineClient) -> None:
        self.client = client
        self.session = self.new_session()

    def new_session(self) -> str:
        return str(self.client.result("create_session", client_id="edge")["session_id"])

    def update(self, state: bytes) -> bytes:
        return b'{"id": 7, "command": "update_session_state", "parameters": {"session_id": "%s", %s}}' % (
            self.session.encode(),
            state,
        )

    def ask(self, line: bytes) -> dict[str, Any]:
        """The reply to `line`, which is followed by a ping that must be answered too: nothing is out of step."""
        self.client.send(line + b"\n" + b'{"id": "after", "command": "ping"}\n')
        first = self.client.receive()
        if first["id"] == "after":
            return {}
        assert self.client.receive()["id"] == "after"
        return first


def state(text: str | bytes) -> Callable[[Table], bytes]:
    """An update that saves the object `text`."""
    data = text if isinstance(text, bytes) else text.encode()
    return lambda t: t.update(b'"state_data": ' + data)


def update(parameters: str) -> Callable[[Table], bytes]:
    return lambda t: t.update(parameters.encode())


def command(name: str, parameters: str) -> bytes:
    return f'{{"id": 7, "command": "{name}", "parameters": {parameters}}}'.encode()


def session_id(value: str) -> bytes:
    return command("restore_session", f'{{"session_id": {value}}}')


def create(parameters: str) -> bytes:
    return command("create_session", f'{{"client_id": "edge", {parameters}}}')


def client_id(name: str) -> bytes:
    return command("create_session", json.dumps({"client_id": name}, ensure_ascii=False))


def with_id(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return b'{"id": ' + data + b', "command": "ping"}'


def nested(levels: int) -> str:
    """A state object that makes its request `levels` deep: envelope, parameters and the object itself are three."""
    return '{"k":' + "[" * (levels - 3) + "]" * (levels - 3) + "}"


def object_of(size: int) -> str:
    """A state object of `size` bytes."""
    return '{"k":"' + "x" * (size - 8) + '"}'


JUST_BELOW = "1" + "7" * 308
CASES: dict[str, list[Case | Kept]] = {
    "A blank line, or one of spaces, tabs and CR": [b"", b"  ", b"\t", b"\r", b" \t \r"],
    "A line that ends with CR LF": [PING + b"\r"],
    "Spaces, tabs or CR between the tokens of a request": [
        b' \t{ "id" :\t7,\r"command":"ping" } ',
        state('{"a":\r1}'),
    ],
    "Something that is not JSON: a comment, `'single quotes'`, a comma too many, a cut-off line": [
        b'{"id": 7, "command": "ping"} // comment',
        b"{'id': 7, 'command': 'ping'}",
        b'{"id": 7, "command": "ping",}',
        b'{"id": 7, "comm',
        b"ping",
        b"[" * 50,
    ],
    "`NaN`, `Infinity` or `-Infinity`": [state('{"k": NaN}'), state('{"k": [Infinity]}'), state('{"k": -Infinity}')],
    "Two requests on one line": [PING + PING, PING + b" " + PING],
    "A byte order mark before the request": [b"\xef\xbb\xbf" + PING],
    "A raw NUL or another raw control character in a string": [
        state(b'{"k": "\x00"}'),
        state(b'{"k": "\x1b[2J"}'),
        state(b'{"k": "a\tb"}'),
        state(b'{"a\x00": 1}'),
    ],
    'The same as an escape: `"\\u0000"`, `"\\u001b"`': [
        Kept(r'"\u0000"'),
        Kept(r'"a\u0000b"'),
        Kept(r'"\u001b"'),
        Kept("1", key=r'"a\u0000b"'),
    ],
    "Bytes that are not UTF-8 in a string": [
        state(b'{"k": "\xff"}'),
        state(b'{"k": "\xc0\xaf"}'),
        state(b'{"k": "\xed\xa0\x80"}'),
        state(b'{"k": "\xf4\x90\x80\x80"}'),
        state(b'{"\xff": 1}'),
    ],
    "Bytes that are not UTF-8 outside of strings, or in the `id`": [b"\xff" + PING, PING + b"\xfe", with_id(b'"\xff"')],
    'A lone surrogate: `"\\ud800"`, `"\\udc00"`, in a value or a key': [
        state(r'{"k": "\ud800"}'),
        state(r'{"k": "\udc00"}'),
        state(r'{"k": ["\ud800x"]}'),
        state(r'{"\ud800": 1}'),
        state(r'{"k": "\udc00\ud800"}'),
    ],
    'A surrogate pair: `"\\ud83d\\ude00"`': [Kept(r'"\ud83d\ude00"'), Kept('"\U0001f600"')],
    "U+2028, U+FFFF, U+10FFFF, combining characters": [
        Kept('"\u2028"'),
        Kept('"\u0085"'),
        Kept('"\uffff"'),
        Kept('"\U0010ffff"'),
        Kept('"e\u0301"'),
    ],
    "The same key twice in one object, anywhere in the request": [
        state('{"k": 1, "k": 1}'),
        state('{"a": [{"k": 1, "k": 2}]}'),
        update('"state_data": {}, "state_data": {}'),
        b'{"id": 7, "command": "ping", "command": "ping"}',
    ],
    'Two keys that are the same once unescaped: `"a"` and `"\\u0061"`': [
        state(r'{"a": 1, "\u0061": 2}'),
        state(r'{"a:": 1, "\u0061\u003a": 2}'),
    ],
    'Two keys that look the same: `"é"` as one code point and as two': [Kept('1,"e\u0301":2', key='"\u00e9"')],
    'An empty key: `{"": 1}`': [Kept("1", key='""')],
    "Arrays and objects nested `max_depth` levels deep": [Kept(nested(127)), Kept("[" * 125 + "]" * 125)],
    "One level more": [state(nested(129)), update('"workspace_context": ' + nested(129))],
    "A hundred thousand levels": [state(nested(100_000))],
    "The same without an `id` in front": [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000],
    "An integer of 40 digits, or one just below 1.8e308": [Kept("1234567890" * 4), Kept("-" + JUST_BELOW)],
    "`1.10`, `-0`, `-0.0`, `1E+2`, `0.1` with 40 decimals": [
        Kept("1.10"),
        Kept("-0"),
        Kept("-0.0"),
        Kept("1E+2"),
        Kept("0.1" + "0" * 38 + "1"),
    ],
    "`1e-400`, which a double reads as 0": [Kept("1e-400")],
    "`1e400`, or an integer beyond 1.8e308": [
        state('{"k": 1e400}'),
        state('{"k": -1e400}'),
        state('{"k": 18' + "0" * 307 + "}"),
        state('{"k": [-' + "9" * 6000 + "]}"),
    ],
    "A line longer than `max_message_bytes`": [PING + b" " * MESSAGE],
    'JSON that is not an object: `[]`, `5`, `"ping"`, `null`': [b"[]", b"5", b'"ping"', b"null", b"[" + PING + b"]"],
    "No `id`, or one that is `null`, a boolean, an array, an object": [
        b'{"command": "ping"}',
        with_id("null"),
        with_id("true"),
        with_id("[7]"),
        with_id("{}"),
    ],
    'An `id` that is `""`, a long string, `1.10`, or an integer of 40 digits': [
        with_id('""'),
        with_id('"' + "x" * 10_000 + '"'),
        with_id("1.10"),
        with_id("-0"),
        with_id("1234567890" * 4),
        with_id(r'"\u0041"'),
    ],
    "An `id` of `1e400`": [with_id("1e400"), with_id("-1e400")],
    "A field besides `id`, `command`, `parameters`": [
        b'{"id": 7, "command": "ping", "params": {}}',
        b'{"id": 7, "command": "ping", "": 1}',
    ],
    "No `command`, or one that is not a string": [
        b'{"id": 7}',
        b'{"id": 7, "command": 1}',
        b'{"id": 7, "command": null}',
    ],
    "`parameters` that are `null` or an array": [command("ping", "null"), command("ping", "[]")],
    'A command that does not exist, `Ping` and `""` included': [
        command("Ping", "{}"),
        command("", "{}"),
        command("restore", "{}"),
    ],
    "`describe` of a command that does not exist": [
        command("describe", '{"command": "Ping"}'),
        command("describe", '{"command": "restore"}'),
    ],
    "A parameter that the command does not have": [
        command("ping", '{"a": 1}'),
        command("restore_session", '{"session_id": "x", "client_id": "me"}'),
        create('"state_data": {}'),
    ],
    "`session_id` missing, or `parameters` missing": [
        command("restore_session", "{}"),
        b'{"id": 7, "command": "restore_session"}',
        command("update_session_state", '{"state_data": {}}'),
    ],
    "`session_id` is `null`": [session_id("null")],
    '`session_id` is `""`': [session_id('""')],
    "`session_id` is a number, a boolean, an array, an object": [
        session_id("7"),
        session_id("true"),
        session_id("[]"),
        session_id("{}"),
    ],
    "`session_id` of more than 8192 characters": [session_id('"' + "s" * 8193 + '"')],
    "`session_id` of an unknown session, or with a space after it": [
        session_id('"unknown"'),
        session_id('"' + "s" * 8192 + '"'),
        session_id(r'"\u0000"'),
        lambda t: session_id(f'"{t.session} "'),
    ],
    "`client_id` with a space, a backslash, a newline at its end, `é`, or of 257 characters": [
        client_id("a b"),
        client_id("a\\b"),
        client_id("a\n"),
        client_id("é"),
        client_id("-a"),
        client_id("x" * 257),
    ],
    "`client_id` that is a path: `/home/me/x+y=z%20~`": [
        client_id("/home/me/x+y=z%20~"),
        client_id("~/" + "x" * 254),
    ],
    '`timeout` of `true`, `"60"`, `60.0` or `6e1`': [
        create('"timeout": true'),
        create('"timeout": "60"'),
        create('"timeout": 60.0'),
        create('"timeout": 6e1'),
    ],
    "`timeout` of 0, -1, or above `max_timeout`": [
        create('"timeout": 0'),
        create('"timeout": -1'),
        create('"timeout": 31536001'),
        create('"timeout": ' + "9" * 40),
    ],
    "`timeout` is `null`": [create('"timeout": null')],
    "`mode` that is neither `merge` nor `replace`": [
        update('"state_data": {}, "mode": "Merge"'),
        update('"state_data": {}, "mode": "overwrite"'),
    ],
    "A state object that is an array, a string, a number": [
        state("[]"),
        state('"{}"'),
        state("1"),
        update('"workspace_context": []'),
        create('"object_registry": 1'),
    ],
    "A state object that is `null`": [
        state("null"),
        update('"inspector_state": null'),
        create('"session_state": null'),
    ],
    "`update_session_state` without any of the four objects": [
        lambda t: command("update_session_state", f'{{"session_id": "{t.session}"}}'),
        update('"mode": "merge"'),
        command("update_session_state", '{"session_id": "unknown"}'),
    ],
    "`update_session_state` with `{}`: changes no value, adds one to `revision`": [state("{}")],
    "State beyond `max_state_bytes`": [
        update('"state_data": ' + object_of(STATE - 6 + 1)),
        update('"workspace_context": ' + object_of(STATE - 6 + 1)),
        update(f'"state_data": {object_of(STATE // 2)}, "object_registry": {object_of(STATE // 2)}'),
    ],
}


@pytest.fixture(scope="module")
def edge(make_lasting_server: StartServer) -> Iterator[Table]:
    options = ["--max-message-bytes", str(MESSAGE), "--max-sessions-per-client", "1000", "--create-rate", "0"]
    with make_lasting_server(*options).start().connect() as client:
        yield Table(client)


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.both_stores
@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_true(edge: Table, row: str) -> None:
    answer, id = ROWS[row]
    edge.session = edge.new_session()
    for case in CASES[row]:
        if isinstance(case, Kept):
            assert answer == "kept"
            comes_back(edge, case)
        else:
            line = case if isinstance(case, bytes) else case(edge)
            answered(edge, line, answer, id)


def comes_back(edge: Table, case: Kept) -> None:
    """Saved alone, merged into others, and born with the session, the text is the same."""
    reply = edge.ask(edge.update(b'"mode": "replace", "state_data": ' + case.state))
    assert (reply["status"], reply["id"]) == ("success", 7), reply
    assert state_text(edge, edge.session) == plain(case.state)
    edge.ask(edge.update(b'"mode": "replace", "state_data": {"first": 1}'))
    edge.ask(edge.update(b'"state_data": ' + case.state))
    assert state_text(edge, edge.session) == b'{"first":1,' + plain(case.state)[1:]
    created = edge.ask(create('"session_state": ' + case.state.decode()))
    assert state_text(edge, created["result"]["session_id"]) == plain(case.state)


def state_text(edge: Table, session: str) -> bytes:
    """The text of a session's `session_state`, with strings in the one way in which `plain` writes them."""
    edge.client.send(session_id(json.dumps(session)) + b"\n")
    line = edge.client.receive_line()
    return plain(line.partition(b'"session_state":')[2].partition(b',"workspace_context"')[0])


def plain(text: bytes) -> bytes:
    """`text` with its strings unescaped as far as possible: how a character is written is not part of the value."""

    def rewrite(found: re.Match[str]) -> str:
        return json.dumps(json.loads(found[0]), ensure_ascii=False)

    return re.sub(r'"(?:[^"\\]|\\.)*"', rewrite, text.decode()).encode()


def answered(edge: Table, line: bytes, answer: str, id: str) -> None:
    reply = edge.ask(line)
    shown = f"{line[:200]!r} was answered {reply}"
    if answer == "no reply":
        assert reply == {}, shown
        return
    assert reply, f"{line[:200]!r} was not answered"
    if answer in ("accepted", "as with LF"):
        assert reply["status"] == "success", shown
    else:
        assert f"`{reply.get('error_code')}`" == answer, shown
    assert reply["id"] == (sent_id(line) if id == "echoed" else None), shown


def sent_id(line: bytes) -> Any:
    """The id of a request, whatever else is wrong with it."""
    found = re.search(rb'"id"\s*:\s*("(?:[^"\\]|\\.)*"|[^,}\s]+)', line)
    assert found
    return json.loads(found[1])


def test_an_id_comes_back_digit_by_digit(edge: Table) -> None:
    for id in (b"1.10", b"-0", b"1E+2", b"1234567890123456789012345678901234567890"):
        edge.client.send(with_id(id) + b"\n")
        assert edge.client.receive_line().startswith(b'{"id":' + id + b",")


def test_an_empty_update_adds_one_to_the_revision(edge: Table) -> None:
    session = edge.new_session()
    edge.client.result("update_session_state", session_id=session, state_data={"k": 1})
    edge.client.result("update_session_state", session_id=session, state_data={})
    after = edge.client.result("restore_session", session_id=session)
    assert (after["revision"], after["session_state"]) == (3, {"k": 1})


def test_the_largest_state_is_kept(edge: Table) -> None:
    edge.session = edge.new_session()
    largest = object_of(STATE - 6)
    assert edge.ask(edge.update(f'"state_data": {largest}'.encode()))["status"] == "success"
    refused = edge.ask(edge.update(b'"workspace_context": {"k":1}'))
    assert refused["details"] == {"limit": STATE, "size": STATE + 5}
    assert edge.client.result("restore_session", session_id=edge.session)["session_state"] == json.loads(largest)
