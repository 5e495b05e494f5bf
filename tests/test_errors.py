"""The table of error codes, the sources and the table of commands agree; what is quoted is bounded."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stui_sessions
from stui_sessions.commands import REGISTRY
from stui_sessions.errors import CODES, MAX_QUOTE, quote
from stui_sessions.protocol.fields import MAX_SESSION_ID, MAX_TAGS, MAX_TITLE
from stui_sessions.protocol.messages import (
    encode_lines,
    failure,
)
from stui_sessions.protocol.registry import UNIVERSAL_ERRORS
from stui_sessions.protocol.schema import parameter_schemas
from tests.protocol.lines import EVERY_PARAMETER, expected, json_types, line_of, refused

# -- the tables are complete


def test_what_is_expected_is_said_of_every_parameter() -> None:
    for command, name in EVERY_PARAMETER:
        assert re.match(r"(an?|the) |true or false|\"|\[", expected(command, name)), (command, name)


NAME = "a string of 1 to 256 of A-Z a-z 0-9 . _ : @ / + = % ~ -, the first a letter, a digit, / or ~"
EXPECTED = {
    "client_id": NAME,
    "user_id": NAME,
    "session_id": f"a string of 1 to {MAX_SESSION_ID} characters",
    "title": f"a string of 1 to {MAX_TITLE} characters that can be seen",
    "tags": f"an array of up to {MAX_TAGS} strings of 1 to 64 characters",
    "metadata": "an object of at most 16 KiB",
    "timeout": "an integer, 1 or more",
    "ttl_seconds": "an integer from 1 to 3155760000",
    "id_format": '"counter", "timestamp" or "hex"',
    "resume": "true or false",
    "offset": "an integer, 0 or more",
    "include": '["state"] or an empty array',
    "sessions": "an array of up to 1000 rows as export_sessions gives them",
    "cursor": "the next_cursor of the page before",
    "state_data": "an object",
}


@pytest.mark.parametrize("parameter", EXPECTED)
def test_what_is_expected_follows_from_the_type_or_is_said_beside_it(parameter: str) -> None:
    said = {expected(command, name) for command, name in EVERY_PARAMETER if name == parameter}
    assert said == {EXPECTED[parameter]}


def test_what_is_expected_is_exact_for_each_command() -> None:
    assert expected("list_sessions", "limit") == "an integer from 1 to 100"
    assert expected("export_sessions", "limit") == "an integer from 1 to 1000"
    assert expected("open_session", "on_conflict") == '"error", "reuse" or "new"'
    assert expected("import_sessions", "on_conflict") == '"error", "skip", "replace" or "new"'


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_the_json_type_is_that_of_the_annotation(command: str, parameter: str) -> None:
    words = {str: "a string", int: "an integer", bool: "a boolean", list: "an array", dict: "an object"}
    found = REGISTRY[command].parameters[parameter]
    assert json_types(command, parameter) - {"null"} == {words[found.json_type]}
    assert ("null" in json_types(command, parameter)) == found.nullable


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_the_choices_for_people_are_those_of_the_schema(command: str, parameter: str) -> None:
    for value in parameter_schemas(REGISTRY[command])[parameter].get("enum", ()):
        assert f'"{value}"' in expected(command, parameter)


@pytest.mark.parametrize("command", REGISTRY, ids=lambda c: c.name)
def test_the_codes_that_the_table_names_exist(command: Any) -> None:
    assert set(command.errors) <= set(CODES)
    assert not {"session_expired", "session_closed", "session_deleted"} & set(command.errors) or command.by_position[
        :1
    ] == ("session_id",)


def test_every_code_is_universal_or_named_by_a_command() -> None:
    named = {code for command in REGISTRY for code in command.errors}
    assert named | set(UNIVERSAL_ERRORS) == set(CODES)


def refusals_in_the_sources() -> dict[str, list[str]]:
    """The codes that the package refuses with, and where."""
    found: dict[str, list[str]] = {}
    for path in Path(stui_sessions.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                where = f"{path.name}:{node.lineno}"
                if ast.unparse(node.args[0]).endswith(".error_code"):
                    continue  # an answer that is handed on; its code was written out where it was made
                codes = codes_of(node, tree)
                assert codes, f"{where}: the code must be written out"
                for code in codes:
                    found.setdefault(code, []).append(where)
    return found


def codes_of(call: ast.Call, tree: ast.Module) -> list[str]:
    """The code that a Refusal is made with; if it is looked up, as its text is in a dict of the module, all of that."""
    code = call.args[0]
    if isinstance(code, ast.Constant):
        return [code.value]
    assert isinstance(code, ast.Name)
    dicts = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    return [
        key.value
        for look in ast.walk(call.args[1])
        if isinstance(look, ast.Subscript) and ast.unparse(look.slice) == code.id and isinstance(look.value, ast.Name)
        for key in dicts[look.value.id].keys
        if isinstance(key, ast.Constant)
    ]


def test_every_refusal_in_the_sources_has_a_code_of_the_table() -> None:
    unknown = {code: where for code, where in refusals_in_the_sources().items() if code not in CODES}
    assert not unknown


def test_every_code_of_the_table_is_used_in_the_sources() -> None:
    unused = set(CODES) - set(refusals_in_the_sources())
    assert unused == set()


def test_the_error_types_are_the_four_of_the_contract() -> None:
    assert {code.error_type for code in CODES.values()} == {"SessionError", "SessionNotFound", "RuntimeError", "Error"}


# -- quoting


@pytest.mark.parametrize(
    ("sent", "quoted"),
    [
        ("", '""'),
        ("abc", '"abc"'),
        ("a" * 100, '"' + "a" * 100 + '"'),
        ("a" * 101, '"' + "a" * 99 + '…"'),
        ("a\nb\x00\x1b[31m\u202e\u2028", '"a\ufffdb\ufffd\ufffd[31m\ufffd\ufffd"'),
        ("é\U0001f600", '"é\U0001f600"'),
    ],
)
def test_quote(sent: str, quoted: str) -> None:
    assert quote(sent) == quoted


@given(st.text())
def test_a_quote_is_printable_and_bounded(sent: str) -> None:
    quoted = quote(sent)
    assert quoted.isprintable()
    assert len(quoted) <= MAX_QUOTE + 2


@pytest.mark.parametrize("place", ["command", "parameter", "envelope", "client_id", "key"])
def test_no_refusal_repeats_a_megabyte(place: str) -> None:
    long = "x" * 1_000_000
    line = {
        "command": line_of(long),
        "parameter": line_of("ping", {long: 1}),
        "envelope": json.dumps({"id": "1", "command": "ping", long: 1}).encode(),
        "client_id": line_of("create_session", {"client_id": long}),
        "key": line_of("create_session", {"client_id": "a"}).replace(b'"a"}', f'"a","{long}":1,"{long}":2}}'.encode()),
    }[place]
    malformed = refused(line)
    assert len(encode_lines([failure(malformed.id, malformed.refusal, "")])) < 1000
