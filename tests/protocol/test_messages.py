"""From a line to a request, and from replies to lines."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from stui_sessions.commands import REGISTRY
from stui_sessions.errors import Refusal
from stui_sessions.protocol.jsontext import StateText
from stui_sessions.protocol.messages import (
    NULL_ID,
    Success,
    encode_lines,
    failure,
)
from tests.protocol.lines import GOOD, SEED, code_of, decode, line_of, plain, refused, required

# -- good requests


@pytest.mark.parametrize("line", SEED, ids=lambda line: line[8:16].decode())
def test_the_requests_of_the_contract(line: bytes) -> None:
    message = json.loads(line)
    request = decode(line)
    assert request.command is REGISTRY[message["command"]]
    assert request.id == Raw(json.dumps(message["id"]).encode())
    for name, value in message["parameters"].items():
        got = getattr(request.parameters, name)
        assert (json.loads(got.text) if isinstance(got, StateText) else got) == value


@pytest.mark.parametrize("command", REGISTRY.names)
def test_every_command_with_what_is_required(command: str) -> None:
    assert decode(line_of(command, required(command))).command.name == command


@pytest.mark.parametrize("command", REGISTRY.names)
def test_every_command_with_all_its_parameters(command: str) -> None:
    parameters = {name: GOOD[name] for name in REGISTRY[command].parameters}
    request = decode(line_of(command, parameters))
    for name, value in parameters.items():
        got = getattr(request.parameters, name)
        if name in REGISTRY[command].state_parameters:
            assert got == StateText(json.dumps(value).encode(), tuple(value))
        else:
            assert plain(got) == value


@pytest.mark.parametrize("command", [c.name for c in REGISTRY if not c.required])
def test_parameters_may_be_missing_where_none_is_required(command: str) -> None:
    """Also where a session is to be named: in which of two ways is for the rules to judge."""
    params = REGISTRY[command].params
    for line in (line_of(command), line_of(command, {}), line_of(command, id="é")):
        assert decode(line).parameters == params()
    # Each has its own: state objects are put into them.
    assert decode(line_of(command)).parameters is not decode(line_of(command)).parameters


@pytest.mark.parametrize("command", [c.name for c in REGISTRY if c.required])
def test_parameters_may_not_be_missing_where_one_is_required(command: str) -> None:
    refusal = refused(line_of(command)).refusal
    assert refusal.code == "missing_parameter"
    assert refusal.details["parameter"] == REGISTRY[command].required[0]


@pytest.mark.parametrize("frame", [b"%b\r", b"  %b", b"%b \t\r", b"\t%b"])
def test_white_space_round_a_request_is_tolerated(frame: bytes) -> None:
    assert decode(frame % SEED[0]).command.name == "create_session"


def test_fields_may_come_in_any_order_and_keys_may_be_escaped() -> None:
    line = b'{"parameters":{"cl\\u0069ent_id":"a"},"\\u0063ommand":"create\\u005fsession","id":"1"}'
    request = decode(line)
    assert request.command.name == "create_session"
    assert request.parameters.client_id == "a"


# -- the id

IDS = [
    b'"1"',
    b'""',
    b'"a b"',
    b'"a:b"',
    b'"\\u0041\\n\\/\\\\\\""',
    b'"\\ud83d\\ude00"',
    '"é\U0001f600"'.encode(),
    b'"' + b"x" * 5000 + b'"',
    b"1",
    b"0",
    b"-0",
    b"-5",
    b"1.10",
    b"-0.0",
    b"1e5",
    b"1E+2",
    b"1" * 40,
    b"9" * 308,
]


@pytest.mark.parametrize("id", IDS, ids=lambda id: id.decode()[:20])
@pytest.mark.parametrize("frame", [b'{"id":%b,"command":"ping"}', b'{"command":"ping" , "id" : %b }'])
def test_the_id_is_echoed_as_it_came(id: bytes, frame: bytes) -> None:
    assert bytes(decode(frame % id).id) == id
    assert bytes(refused((frame % id).replace(b"ping", b"pong")).id) == id


@pytest.mark.parametrize("id", [b"null", b"true", b"false", b"{}", b'{"id":1}', b"[]", b'["a"]'])
@pytest.mark.parametrize("rest", [b'"command":"ping"', b'"command":"unknown"', b'"command":"restore_session"'])
def test_an_id_of_another_type_is_refused_with_null(id: bytes, rest: bytes) -> None:
    malformed = refused(b'{"id":%b,%b}' % (id, rest))
    assert malformed.id == NULL_ID
    assert malformed.refusal.code == "invalid_request"
    assert malformed.refusal.details == {"field": "id"}


def test_a_missing_id_is_refused_with_null() -> None:
    malformed = refused(b'{"command":"ping"}')
    assert malformed.id == NULL_ID
    assert malformed.refusal.details == {"field": "id"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b'{"id":"1","command":"ping"',
        b'{"id":"1","command":"ping"} {}',
        b'"1"',
        b'[{"id":"1"}]',
        b"1",
        b"null",
        b'{"id":"\xff","command":"ping"}',
        b'{"id":"\\ud800","command":"ping"}',
        b'{"id":1e400,"command":"ping"}',
        b'{"id":NaN,"command":"ping"}',
        b'{"id":01,"command":"ping"}',
        b'{"id":"a\x01b","command":"ping"}',
        b'{"id":"a\x00b","command":"ping"}',
        b'\x00{"id":"1","command":"ping"}',
        b'\xef\xbb\xbf{"id":"1","command":"ping"}',
    ],
)
def test_a_line_without_a_readable_id_gets_null(line: bytes) -> None:
    assert refused(line).id == NULL_ID


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"id":"7","command":"ping","parameters":{"a":1e400}}', "number_out_of_range"),
        (b'{"id":"7","command":"ping","parameters":{"a":1,"a":2}}', "duplicate_key"),
        (b'{"id":"7","command":"ping","parameters":{"a":' + b"[" * 200 + b"]" * 200 + b"}}", "too_deep"),
        (b'{"id":"7","command":"ping","parameters":{"a":"\xff"}}', "invalid_utf8"),
        (b'{"id":"7","command":"ping","parameters":{"a":%b}}' % (b"9" * 400), "number_out_of_range"),
        (b'{"id":"7","command":"ping","parameters":{"a":"\\ud800"}}', "lone_surrogate"),
        (b'{"id":"7","command":"ping","parameters":{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "too_deep"),
    ],
)
def test_the_id_survives_a_bad_parameter(line: bytes, code: str) -> None:
    malformed = refused(line)
    assert bytes(malformed.id) == b'"7"'
    assert malformed.refusal.code == code


def test_the_id_of_a_refused_line_is_a_copy_of_its_own() -> None:
    line = b'{"id":"7","command":"ping","parameters":{"a":"' + b"x" * 100_000 + b'"}}'
    assert len(memoryview(refused(line).id).obj) < 100  # not a view that keeps the line


# -- the envelope


@pytest.mark.parametrize(
    ("line", "field", "word"),
    [
        (b'{"id":"1"}', "command", "missing"),
        (b'{"id":"1","command":null}', "command", "null"),
        (b'{"id":"1","command":5}', "command", "an integer"),
        (b'{"id":"1","command":{}}', "command", "an object"),
        (b'{"id":"1","command":"ping","parameters":null}', "parameters", "null"),
        (b'{"id":"1","command":"ping","parameters":[]}', "parameters", "an array"),
        (b'{"id":"1","command":"ping","parameters":"{}"}', "parameters", "a string"),
        (b'{"id":"1","command":"restore_session","parameters":true}', "parameters", "a boolean"),
        (b'{"id":"1","command":"ping","params":{}}', "params", "did you mean parameters?"),
        (b'{"id":"1","command":"ping","Parameters":{}}', "Parameters", "did you mean parameters?"),
        (b'{"id":"1","command":"ping","jsonrpc":"2.0"}', "jsonrpc", "jsonrpc"),
    ],
)
def test_a_bad_envelope_names_the_field(line: bytes, field: str, word: str) -> None:
    malformed = refused(line)
    assert malformed.refusal.code == "invalid_request"
    assert malformed.refusal.details == {"field": field}
    assert word in malformed.refusal.text
    assert bytes(malformed.id) == b'"1"'


@pytest.mark.parametrize("line", [b"[]", b'"ping"', b"17", b"null", b"true", b"1.5"])
def test_json_that_is_no_object_is_no_request(line: bytes) -> None:
    assert code_of(line) == "invalid_request"


# -- duplicate keys, where the quick proof counts

FRAMES = [
    b'{"id":1,"command":"%b"}',
    b'{"id":1,"command":"%b","parameters":{}}',
    b'{"id":1,"command":"%b","parameters":{"external_id":"x"}}',
    b'{"id":1,"command":"%b","parameters":{"session_id":"x"}}',
    b'{"id":1,"command":"%b","parameters":{"session_id":"x","user_id":"x"}}',
]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("command", [c.name for c in REGISTRY if c.names_session and not c.required])
def test_a_duplicate_key_is_found_however_the_session_is_named(command: str, frame: bytes) -> None:
    line = frame % command.encode()
    assert decode(line).command.name == command
    for key in (b'"id":1', b'"command":"%b"' % command.encode(), b'"parameters":{}', b'"session_id":"x"'):
        if key in line:
            assert code_of(line.replace(key, key + b"," + key)) == "duplicate_key"


@pytest.mark.parametrize("command", REGISTRY.names)
def test_a_duplicate_key_is_found_in_what_every_command_needs(command: str) -> None:
    for parameters in (required(command), {name: GOOD[name] for name in REGISTRY[command].parameters}):
        line = line_of(command, parameters, id=1)
        for name, value in {"id": 1, **parameters}.items():
            member = f'"{name}": {json.dumps(value)}'.encode()
            assert member in line
            assert code_of(line.replace(member, member + b", " + member)) == "duplicate_key"


# -- names


@pytest.mark.parametrize(
    ("sent", "nearest"),
    [
        ("create_sesion", "create_session"),
        ("createSession", "create_session"),
        ("CREATE_SESSION", "create_session"),
        ("restore", "restore_session"),
        ("hello", None),
        ("pong", "ping"),
        ("", None),
        ("x" * 5000, None),
    ],
)
def test_an_unknown_command_and_the_nearest_one(sent: str, nearest: str | None) -> None:
    refusal = refused(line_of(sent, {"what": "ever"})).refusal
    assert refusal.code == "unknown_command"
    assert refusal.details == {"command": sent[:100], "nearest": nearest}
    assert ("did you mean" in refusal.text) == (nearest is not None)


@pytest.mark.parametrize(
    ("command", "sent", "nearest"),
    [
        ("create_session", "clientid", "client_id"),
        ("create_session", "time_out", "timeout"),
        ("update_session_state", "state", "state_data"),
        ("update_session_state", "statedata", "state_data"),
        ("restore_session", "sessionId", "session_id"),
        ("ping", "session_id", None),
        ("restore_session", "client_id", None),
    ],
)
def test_an_unknown_parameter_and_the_nearest_one(command: str, sent: str, nearest: str | None) -> None:
    refusal = refused(line_of(command, {**required(command), sent: "x"})).refusal
    assert refusal.code == "unknown_parameter"
    assert refusal.details == {"parameter": sent, "nearest": nearest}


def test_a_misspelt_required_parameter_is_told_as_misspelt_and_not_as_missing() -> None:
    refusal = refused(line_of("restore_session", {"sesion_id": "x"})).refusal
    assert refusal.details == {"parameter": "sesion_id", "nearest": "session_id"}


# -- replies


def test_a_success_is_one_line_with_the_fields_of_the_contract_in_order() -> None:
    reply = Success(Raw(b'"1"'), "success", {"pong": True}, "2025-08-30T10:30:00Z")
    line = b'{"id":"1","status":"success","result":{"pong":true},"timestamp":"2025-08-30T10:30:00Z"}\n'
    assert encode_lines([reply]) == line


def test_a_failure_is_one_line_with_the_fields_of_the_contract_first() -> None:
    refusal = Refusal("session_limit_reached", "enough", limit=5)
    (line,) = encode_lines([failure(Raw(b"1.10"), refusal, "2025-08-30T10:30:00Z")]).splitlines()
    assert line.startswith(b'{"id":1.10,"status":"error","error":"enough","error_type":"SessionError",')
    assert json.loads(line) | {"id": None} == {
        "id": None,
        "status": "error",
        "error": "enough",
        "error_type": "SessionError",
        "error_code": "session_limit_reached",
        "details": {"limit": 5},
        "timestamp": "2025-08-30T10:30:00Z",
    }


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_every_reply_is_one_line_whatever_it_says(said: list[tuple[str, str]]) -> None:
    replies = [failure(Raw(msgspec.json.encode(id)), Refusal("internal_error", text), text) for id, text in said]
    lines = encode_lines(replies).split(b"\n")
    assert lines.pop() == b""
    assert [(json.loads(line)["id"], json.loads(line)["error"]) for line in lines] == said
