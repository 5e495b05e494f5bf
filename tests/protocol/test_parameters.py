"""Each parameter of the table: what it takes, and how it says no to the rest."""

import json
from typing import Any

import pytest

from stui_sessions.protocol.commands import COMMANDS, StateText
from stui_sessions.protocol.explain import (
    _JSON_TYPE,
    EXPECTED,
)
from tests.protocol.lines import code_of, decode, line_of, refused, required

# -- values: four cases of every parameter in the table, and all types

OF_TYPE: dict[str, Any] = {
    "a string": "x",
    "an integer": 5,
    "a number with a fraction or an exponent": 1.5,
    "a boolean": True,
    "an array": [],
    "an object": {},
}


EVERY_PARAMETER = [(command.name, parameter) for command in COMMANDS.values() for parameter in command.parameters]


def type_of(parameter: str) -> str:
    return {str: "a string", int: "an integer", dict: "an object"}[_JSON_TYPE.get(parameter, dict)]


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_null_is_no_value(command: str, parameter: str) -> None:
    refusal = refused(line_of(command, {**required(command), parameter: None})).refusal
    assert refusal.code == "null_parameter"
    assert refusal.details == {"parameter": parameter, "expected": EXPECTED[parameter]}
    assert parameter in refusal.text
    assert EXPECTED[parameter] in refusal.text


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_empty_is_no_value(command: str, parameter: str) -> None:
    refusal = refused(line_of(command, {**required(command), parameter: ""})).refusal
    assert refusal.code == ("empty_parameter" if type_of(parameter) == "a string" else "wrong_type")
    assert refusal.details["parameter"] == parameter
    assert refusal.details["expected"] == EXPECTED[parameter]


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_missing_is_told_where_it_is_required(command: str, parameter: str) -> None:
    parameters = {name: value for name, value in required(command).items() if name != parameter}
    if parameter not in COMMANDS[command].required:
        decode(line_of(command, parameters))
        return
    refusal = refused(line_of(command, parameters)).refusal
    assert refusal.code == "missing_parameter"
    assert refusal.details == {"parameter": parameter, "expected": EXPECTED[parameter]}


@pytest.mark.parametrize("got", OF_TYPE)
@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_another_type_is_told_as_such(command: str, parameter: str, got: str) -> None:
    if got == type_of(parameter):
        return
    refusal = refused(line_of(command, {**required(command), parameter: OF_TYPE[got]})).refusal
    assert refusal.code == "wrong_type"
    assert refusal.details == {"parameter": parameter, "expected": EXPECTED[parameter], "got": got}
    assert EXPECTED[parameter] in refusal.text
    assert got in refusal.text


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("client_id", "_a"),
        ("client_id", "a b"),
        ("client_id", "a\n"),
        ("client_id", "ä"),
        ("client_id", "a\u0000"),
        ("client_id", "a/b"),
        ("client_id", "a" * 129),
    ],
)
def test_a_value_that_is_not_allowed(parameter: str, value: Any) -> None:
    refusal = refused(line_of("create_session", {"client_id": "a", parameter: value})).refusal
    assert refusal.code == "invalid_parameter"
    assert refusal.details == {"parameter": parameter, "expected": EXPECTED[parameter]}


@pytest.mark.parametrize("value", ["x", "Merge", "replace "])
def test_an_unknown_mode(value: str) -> None:
    assert code_of(line_of("update_session_state", {"session_id": "x", "mode": value})) == "invalid_parameter"


@pytest.mark.parametrize("value", ["a", "A1", "9", "a._:@-", "a" * 128])
def test_client_ids_that_are_allowed(value: str) -> None:
    assert decode(line_of("create_session", {"client_id": value})).parameters.client_id == value


@pytest.mark.parametrize("value", ["x", " ", "a\nb", "a\u0000b", "é\U0001f600", "x" * 8192, "\U0001f600" * 8192])
def test_any_string_may_name_a_session(value: str) -> None:
    assert decode(line_of("restore_session", {"session_id": value})).parameters.session_id == value


def test_a_session_id_over_its_length() -> None:
    assert code_of(line_of("restore_session", {"session_id": "x" * 8193})) == "invalid_parameter"


@pytest.mark.parametrize("text", [b"60.0", b"6e1", b"1.5", b"true", b"false"])
def test_what_is_no_integer_as_a_timeout(text: bytes) -> None:
    line = b'{"id":"1","command":"create_session","parameters":{"client_id":"a","timeout":%b}}' % text
    assert code_of(line) == "wrong_type"


def test_an_integer_beyond_64_bits_as_a_timeout_is_left_to_the_rules() -> None:
    assert decode(line_of("create_session", {"client_id": "a", "timeout": 10**30})).parameters.timeout == 10**30


def test_the_first_thing_that_is_wrong_is_told() -> None:
    line = b'{"id":"1","command":"create_session","parameters":{"timeout":true,"client_id":5}}'
    assert refused(line).refusal.details["parameter"] == "timeout"


# -- state objects

STATES = [
    b"{}",
    b'{"a":1}',
    b'{ "a" : 1.10 , "b":-0 }',
    b'{"a":[[[]]],"b":{"c":{}}}',
    b'{"z":1,"a":2,"m":3}',
    b'{"\\u0061":"\\u003a"}',
    '{"é":"\U0001f600"}'.encode(),
    b'{"a":' + b"1" * 40 + b"}",
    b'{"a":"' + b"x" * 400 + b'"}',
]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("command", "name"), [(c.name, name) for c in COMMANDS.values() for name in c.state_parameters]
)
def test_a_state_object_becomes_its_text_and_its_keys(command: str, name: str, state: bytes) -> None:
    frame = line_of(command, {**required(command), name: "STATE"})
    line = frame.replace(b'"STATE"', state)
    got = getattr(decode(line).parameters, name)
    assert got == StateText(state, tuple(json.loads(state)))
    assert type(got.text) is bytes  # a copy of its own, not a view of the line


@pytest.mark.parametrize("command", [c.name for c in COMMANDS.values() if c.state_parameters])
def test_all_state_objects_together(command: str) -> None:
    names = COMMANDS[command].state_parameters
    parameters = required(command) | {name: {name: i} for i, name in enumerate(names)}
    request = decode(line_of(command, parameters))
    assert [getattr(request.parameters, name).keys for name in names] == [(name,) for name in names]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"a":1,"\\u0061":":"}', "duplicate_key"),
        (b'{"a":{"b":1,"b":2}}', "duplicate_key"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":1e400}', "number_out_of_range"),
        (b'{"a":' + b"9" * 309 + b"}", "number_out_of_range"),
        (b'{"a":"\\ud800"}', "lone_surrogate"),
        (b'{"\\udc00":1}', "lone_surrogate"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":' + b"[" * 126 + b"]" * 126 + b"}", "too_deep"),
        (b'{"a":1,}', "invalid_json"),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    ("command", "name"), [(c.name, name) for c in COMMANDS.values() for name in c.state_parameters]
)
def test_a_state_object_that_could_not_be_given_back_is_refused(
    command: str, name: str, state: bytes, code: str
) -> None:
    frame = line_of(command, {**required(command), name: "STATE"})
    assert code_of(frame.replace(b'"STATE"', state)) == code


def test_depth_counts_from_the_line() -> None:
    """The line and its parameters are two levels of the 128."""

    def line(depth: int) -> bytes:
        state = b'{"":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        return b'{"id":"1","command":"update_session_state","parameters":{"session_id":"a","state_data":%b}}' % state

    assert decode(line(126)).parameters.state_data.keys == ("",)
    assert code_of(line(127)) == "too_deep"
