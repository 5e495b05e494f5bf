"""Each parameter of the table: what it takes, and how it says no to the rest."""

import json
from typing import Any

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.protocol.fields import MAX_TTL
from stui_sessions.protocol.jsontext import StateText
from tests.protocol.lines import (
    EVERY_PARAMETER,
    GOOD,
    RECORD,
    code_of,
    decode,
    expected,
    json_types,
    line_of,
    plain,
    refused,
    required,
    row,
)

# -- values: four cases of every parameter in the table, and all types

OF_TYPE: dict[str, Any] = {
    "a string": "x",
    "an integer": 5,
    "a number with a fraction or an exponent": 1.5,
    "a boolean": True,
    "an array": [],
    "an object": {},
}


def type_of(command: str, parameter: str) -> str:
    """The one type that a parameter has, null aside."""
    (type,) = json_types(command, parameter) - {"null"}
    return type


def sent(command: str, parameter: str, value: Any) -> bytes:
    """A request with this parameter and what is needed beside it."""
    return line_of(command, {**required(command), parameter: value})


def taken(command: str, parameter: str, value: Any) -> Any:
    """The value of a parameter as it was decoded."""
    return getattr(decode(sent(command, parameter, value)).parameters, parameter)


def command_with(parameter: str) -> str:
    return next(c.name for c in REGISTRY if parameter in c.parameters)


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_null_is_no_value_unless_the_type_has_it(command: str, parameter: str) -> None:
    if "null" in json_types(command, parameter):
        assert taken(command, parameter, None) is None
        return
    refusal = refused(sent(command, parameter, None)).refusal
    assert refusal.code == "null_parameter"
    assert refusal.details == {"parameter": parameter, "expected": expected(command, parameter)}
    assert parameter in refusal.text
    assert expected(command, parameter) in refusal.text


def test_null_removes_what_a_session_need_not_have() -> None:
    nullable = {place for place in EVERY_PARAMETER if "null" in json_types(*place)}
    assert nullable
    for command, parameter in nullable:
        assert parameter not in REGISTRY[command].required
        assert taken(command, parameter, GOOD[parameter]) == GOOD[parameter]


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_empty_is_no_value(command: str, parameter: str) -> None:
    refusal = refused(sent(command, parameter, "")).refusal
    assert refusal.code == ("empty_parameter" if type_of(command, parameter) == "a string" else "wrong_type")
    assert refusal.details["parameter"] == parameter
    assert refusal.details["expected"] == expected(command, parameter)


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_missing_is_told_where_it_is_required(command: str, parameter: str) -> None:
    parameters = {name: value for name, value in required(command).items() if name != parameter}
    if parameter not in REGISTRY[command].required:
        decode(line_of(command, parameters))
        return
    refusal = refused(line_of(command, parameters)).refusal
    assert refusal.code == "missing_parameter"
    assert refusal.details == {"parameter": parameter, "expected": expected(command, parameter)}


@pytest.mark.parametrize("got", OF_TYPE)
@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_another_type_is_told_as_such(command: str, parameter: str, got: str) -> None:
    if got == type_of(command, parameter):
        return
    refusal = refused(sent(command, parameter, OF_TYPE[got])).refusal
    assert refusal.code == "wrong_type"
    assert refusal.details == {"parameter": parameter, "expected": expected(command, parameter), "got": got}
    assert expected(command, parameter) in refusal.text
    assert got in refusal.text


NAMES_TAKEN = ["a", "A1", "9", "a._:@-/+=%~", "/home/me/a%20b", "~/x", "/", "~", "a" * 256]
NAMES_REFUSED = ["_a", "+a", "=a", "%41", "a b", "a\n", "ä", "a\u0000", "a\\b", "a*", "a" * 257]

TAKEN: dict[str, list[Any]] = {
    "client_id": NAMES_TAKEN,
    "user_id": NAMES_TAKEN,
    "external_id": ["x", " ", "a\nb", "é\U0001f600", "x" * 256, "\U0001f600" * 256],
    "title": ["x", "\u0000", "x" * 1000],  # what is left of it is for the rules to judge
    "tags": [[], ["x"], ["x", "x"], ["x" * 64], ["é\U0001f600", " "], ["x"] * 32],
    "timeout": [1, 2**63, 10**30],
    "ttl_seconds": [1, MAX_TTL],
    "seconds": [1, MAX_TTL],
    "limit": [1, 100],
    "include": [[], ["state"]],
    "resume": [True, False],
    "revive": [True, False],
    "storage": [True, False],
    "pin": [True, False],
    "purge": [True, False],
    "id_format": ["counter", "timestamp", "hex"],
    "on_conflict": ["error", "new"],  # what else it may be depends on the command: see below
    "mode": ["merge", "replace"],
    "reply": ["full", "brief"],
    "status": ["live", "expired", "closed", "deleted"],
    "sort": ["last_activity", "created_at", "title"],
    "order": ["asc", "desc"],
    "text": ["x", " ", "%_\\", "x" * 256],
    "cursor": ["x", "not made by a server", "x" * 8192],
    "ref": ["x", "é\U0001f600", "x" * 8192],
    "command": ["x", "é\U0001f600", "x" * 1000],  # that there is none of that name is another error
    "backup_id": ["x", "é\U0001f600", "x" * 64],
    "offset": [0, 2**53],
    # What is in a row, and whether its checksum is right, is for the rules to judge.
    "sessions": [[], [row(RECORD)] * 2, [row({})], [{"checksum": "00000000", "session": None}], [row({})] * 1000],
}
"""Values at the edge of what a parameter takes."""

_NO_CHOICE = ["x", "Title", "asc ", "null"]
REFUSED: dict[str, list[Any]] = {
    "client_id": NAMES_REFUSED,
    "user_id": NAMES_REFUSED,
    "external_id": ["x" * 257],
    "title": ["x" * 1001],
    "tags": [[""], ["x", ""], ["x" * 65], ["x"] * 33, [1], [None], [True], [["x"]], [{}]],
    "timeout": [0, -1, -(10**30)],
    "ttl_seconds": [0, -1, MAX_TTL + 1, 2**63, 2**64, 10**30],
    "seconds": [0, -1, MAX_TTL + 1, 10**30],
    "limit": [0, -1, 1001, 10**30],
    "include": [["state", "state"], ["State"], [""], [None], [1]],
    **dict.fromkeys(("id_format", "on_conflict", "mode", "reply", "status", "sort", "order"), _NO_CHOICE),
    "text": ["x" * 257],
    "cursor": ["x" * 8193],
    "ref": ["x" * 8193],
    "backup_id": ["x" * 65],
    "offset": [-1, 2**53 + 1, 10**30],
    "sessions": [
        [row({})] * 1001,
        *[[None], [1], ["x"], [[]], [{}]],
        *[[{"checksum": "00000000"}], [{"session": {}}], [{**row({}), "more": 1}]],
        *[[row({}) | {"checksum": wrong}] for wrong in (None, 5, "", "0000000", "000000000", "0000000A", "00000000\n")],
    ],
}
"""Values of the right type beyond it."""


def test_every_parameter_with_a_limit_is_met_on_both_sides_of_it() -> None:
    free = {name for name, value in GOOD.items() if isinstance(value, dict)} | {"session_id"}
    assert set(TAKEN) == set(GOOD) - free
    assert set(TAKEN) - set(REFUSED) == {"resume", "revive", "storage", "pin", "purge", "command"}


@pytest.mark.parametrize(
    ("parameter", "value"), [(name, value) for name, values in TAKEN.items() for value in values], ids=repr
)
def test_a_value_at_the_edge_is_taken(parameter: str, value: Any) -> None:
    for command, name in EVERY_PARAMETER:
        if name == parameter:
            assert plain(taken(command, parameter, value)) == value


@pytest.mark.parametrize(
    ("command", "other"),
    [("open_session", "reuse"), ("import_sessions", "skip"), ("import_sessions", "replace")],
)
def test_what_a_conflict_leads_to_depends_on_the_command(command: str, other: str) -> None:
    assert taken(command, "on_conflict", other) == other
    (elsewhere,) = {"open_session", "import_sessions"} - {command}
    refusal = refused(sent(elsewhere, "on_conflict", other)).refusal
    assert refusal.code == "invalid_parameter"
    assert refusal.details["parameter"] == "on_conflict"


@pytest.mark.parametrize(
    ("parameter", "value"), [(name, value) for name, values in REFUSED.items() for value in values], ids=repr
)
def test_a_value_beyond_the_edge_is_not_allowed(parameter: str, value: Any) -> None:
    for command, name in EVERY_PARAMETER:
        if name == parameter:
            refusal = refused(sent(command, parameter, value)).refusal
            assert refusal.code == "invalid_parameter"
            assert refusal.details == {"parameter": parameter, "expected": expected(command, parameter)}


@pytest.mark.parametrize(
    ("parameter", "value", "text"),
    [
        ("tags", ["x", ""], "tags must be an array of up to 32 strings of 1 to 64 characters, not this array"),
        ("tags", "x", "tags must be an array of up to 32 strings of 1 to 64 characters, not a string"),
        ("include", ["all"], 'include must be ["state"] or an empty array, not this array'),
        ("include", "state", 'include must be ["state"] or an empty array, not a string'),
        ("resume", "true", "resume must be true or false, not a string"),
        ("purge", 1, "purge must be true or false, not an integer"),
        ("sort", "age", 'sort must be "last_activity", "created_at" or "title", not "age"'),
        ("order", True, 'order must be "asc" or "desc", not a boolean'),
        ("limit", 1001, "limit must be an integer from 1 to 100, not 1001"),
        ("limit", 1.5, "limit must be an integer from 1 to 100, not a number with a fraction or an exponent"),
    ],
)
def test_what_is_said_of_arrays_booleans_choices_and_numbers(parameter: str, value: Any, text: str) -> None:
    assert refused(sent(command_with(parameter), parameter, value)).refusal.text == text


@pytest.mark.parametrize("value", ["x", " ", "a\nb", "a\u0000b", "é\U0001f600", "x" * 8192, "\U0001f600" * 8192])
def test_any_string_may_name_a_session(value: str) -> None:
    assert decode(line_of("restore_session", {"session_id": value})).parameters.session_id == value


def test_a_session_id_over_its_length() -> None:
    assert code_of(line_of("restore_session", {"session_id": "x" * 8193})) == "invalid_parameter"


@pytest.mark.parametrize("text", [b"60.0", b"6e1", b"1.5", b"true", b"false"])
def test_what_is_no_integer_as_a_timeout(text: bytes) -> None:
    line = b'{"id":"1","command":"create_session","parameters":{"client_id":"a","timeout":%b}}' % text
    assert code_of(line) == "wrong_type"


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
@pytest.mark.parametrize(("command", "name"), [(c.name, name) for c in REGISTRY for name in c.state_parameters])
def test_a_state_object_becomes_its_text_and_its_keys(command: str, name: str, state: bytes) -> None:
    frame = line_of(command, {**required(command), name: "STATE"})
    line = frame.replace(b'"STATE"', state)
    got = getattr(decode(line).parameters, name)
    assert got == StateText(state, tuple(json.loads(state)))
    assert type(got.text) is bytes  # a copy of its own, not a view of the line


@pytest.mark.parametrize("command", [c.name for c in REGISTRY if c.state_parameters])
def test_all_state_objects_together(command: str) -> None:
    names = REGISTRY[command].state_parameters
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
@pytest.mark.parametrize(("command", "name"), [(c.name, name) for c in REGISTRY for name in c.state_parameters])
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


def test_a_row_as_deep_as_a_state_may_be_hides_no_other_fault() -> None:
    """A state lies deeper in a row of an import than in an update, and a line with it is judged like one."""

    def line(depth: int, more: dict[str, Any]) -> bytes:
        frame = line_of("import_sessions", {"sessions": [row(RECORD | {"session_state": "STATE"})], **more})
        return frame.replace(b'"STATE"', b'{"":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}")

    assert refused(line(126, {"on_conflict": "sorry"})).refusal.details["parameter"] == "on_conflict"
    assert code_of(line(127, {"on_conflict": "sorry"})) == "too_deep"
