"""The core without I/O: lines out, replies in."""

import copy
import json
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import pytest
from msgspec import Raw

from stui_sessions.client.core import ClientCore, Reply, read_reply
from stui_sessions.client.errors import (
    ClientError,
    ConnectionLost,
    ProtocolViolation,
    ReplyTimeout,
    RequestError,
    ServerRuntimeError,
    SessionError,
    SessionNotFound,
    SessionServerError,
)
from stui_sessions.client.results import PingResult, RestoreResult
from stui_sessions.protocol.records import ExportRow
from tests.client.fake_server import error_line


def success(id: int, result: str = '{"pong":true}') -> bytes:
    return f'{{"id":{id},"status":"success","result":{result},"timestamp":"2025-08-30T10:30:00Z"}}\n'.encode()


def sent(core: ClientCore, *commands: str) -> list[int]:
    ids = [core.request(command, {})[0] for command in commands]
    core.sent(ids)
    return ids


# Requests.


def test_a_request_is_one_line_of_json_with_an_id_of_its_own() -> None:
    core = ClientCore()
    first_id, first = core.request("create_session", {"client_id": "mé", "timeout": 5})
    second_id, _ = core.request("ping", {})
    assert json.loads(first) == {
        "id": first_id,
        "command": "create_session",
        "parameters": {"client_id": "mé", "timeout": 5},
    }
    assert first.endswith(b"\n")
    assert first.count(b"\n") == 1
    assert first_id != second_id


def test_raw_text_may_hold_null_wherever_it_is() -> None:
    sessions = [Raw(b'{"a": null}'), Raw(b'{"b":\r null}')]
    _, line = ClientCore().request("import_sessions", {"sessions": sessions, "x": Raw(b"null"), "y": None})
    assert b'"sessions":[{"a": null},{"b":\r null}],"x":null,"y":null' in line
    with pytest.raises(ValueError, match="nan"):
        ClientCore().request("import_sessions", {"sessions": [*sessions, float("nan")]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [None, (v,)]}, lambda v: [{"b": v}]])
def test_what_json_cannot_say_is_refused_and_not_saved_as_null(value: float, wrap: Any) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        ClientCore().request("update_session_state", {"state_data": {"x": wrap(value)}})


class Colour(Enum):
    RED = "red"


class Name(StrEnum):
    ADA = "ada"


@dataclass
class Point:
    x: int = 1


UNFAITHFUL = {
    "set": {1},
    "frozenset": frozenset({1}),
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "Decimal": Decimal("1.10"),
    "datetime": datetime(2025, 8, 30, tzinfo=UTC),
    "date": date(2025, 8, 30),
    "time": time(1),
    "timedelta": timedelta(1),
    "UUID": UUID(int=1),
    "Colour": Colour.RED,
    "Name": Name.ADA,
    "Point": Point(),
    "object": object(),
}


@pytest.mark.parametrize("kind", UNFAITHFUL)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [None, (v,)]}, lambda v: [{"b": v}, 1.5]])
def test_what_would_come_back_as_something_else_is_refused(kind: str, wrap: Any) -> None:
    with pytest.raises(TypeError, match=f"^state_data holds a value of the type {kind}, which JSON cannot say"):
        ClientCore().request("update_session_state", {"session_id": "s", "state_data": wrap(UNFAITHFUL[kind])})


@pytest.mark.parametrize("key", [1, 1.5, True, None, Name.ADA, Colour.RED, b"k", UUID(int=1), (1,)])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: {"a": [v]}])
def test_keys_are_strings(key: Any, wrap: Any) -> None:
    with pytest.raises(TypeError, match=r"^session_state holds the key .*; the keys of a JSON object are strings"):
        ClientCore().request("create_session", {"client_id": "c", "session_state": wrap({"k": 1, key: 1})})


def test_other_parameters_are_checked_alike() -> None:
    for name, value in {"tags": {"a"}, "timeout": timedelta(1), "title": b"x", "client_id": UUID(int=1)}.items():
        with pytest.raises(TypeError, match=f"^{name} holds"):
            ClientCore().request("create_session", {name: value})


def test_what_comes_back_as_it_was_is_sent() -> None:
    values = {
        "text": "x", "number": 10**40, "float": 0.1, "yes": True, "nothing": None, "empty": [[], {}, ()],
        "tuple": (1, (2,)), "ordered": OrderedDict(b=1, a=2), "raw": [Raw(b"1.10")],
    }  # fmt: skip
    _, line = ClientCore().request("update_session_state", {"state_data": values})
    assert json.loads(line)["parameters"]["state_data"] == {
        **values, "tuple": [1, [2]], "empty": [[], {}, []], "raw": [1.1],
    }  # fmt: skip


def test_rows_of_an_export_are_sent_as_they_came() -> None:
    row = ExportRow("00000000", Raw(b'{"n":1.10}'))
    _, line = ClientCore().request("import_sessions", {"sessions": [row]})
    assert b'"sessions":[{"checksum":"00000000","session":{"n":1.10}}]' in line


def test_what_holds_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["state"] = [state]
    with pytest.raises(ValueError, match="state_data is nested too deep, or holds itself"):
        ClientCore().request("update_session_state", {"state_data": state})


def test_null_and_the_word_null_are_values_like_any() -> None:
    _, line = ClientCore().request("update_session_state", {"state_data": {"a": None, "b": "null", "c": 1.5}})
    assert json.loads(line)["parameters"]["state_data"] == {"a": None, "b": "null", "c": 1.5}


def test_lone_surrogates_and_foreign_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        ClientCore().request("restore_session", {"session_id": "\ud800"})
    with pytest.raises(TypeError):
        ClientCore().request("update_session_state", {"state_data": {"x": object()}})


def test_raw_text_goes_out_as_it_is_on_one_line() -> None:
    _, line = ClientCore().request("update_session_state", {"state_data": Raw(b'{"a": 1.10,\r\n "b": -0}')})
    assert b'{"a":1.10,"b":-0}' in line
    assert line.count(b"\n") == 1
    assert b"\r" not in line


@pytest.mark.parametrize("text", [b"{", b"", b"1 2", b'"\xff"', b'{"a":NaN}'])
def test_raw_text_that_would_break_the_line_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="state_data"):
        ClientCore().request("update_session_state", {"state_data": Raw(text)})


# Replies.


def test_replies_find_their_requests_however_the_bytes_are_cut() -> None:
    stream = success(1) + b"\n\r\n" + error_line(2, "Error", "wrong_type") + success(3)
    for cut in range(len(stream) + 1):
        core = ClientCore()
        sent(core, "ping", "ping", "ping")
        got = [*core.receive(stream[:cut]), *core.receive(stream[cut:])]
        assert [(id, reply.status) for id, reply in got] == [(1, "success"), (2, "error"), (3, "success")]


def test_a_reply_without_id_belongs_to_the_oldest_request_without_an_answer() -> None:
    core = ClientCore()
    ids = sent(core, "ping", "update_session_state", "ping")
    data = success(ids[0]) + error_line(None, "Error", "message_too_large") + success(ids[2])
    assert [id for id, _ in core.receive(data)] == ids


def test_without_a_request_it_is_about_the_connection() -> None:
    core = ClientCore()
    assert [id for id, _ in core.receive(error_line(None, "Error", "message_too_large"))] == [None]


@pytest.mark.parametrize("code", ["too_many_connections", "line_timeout"])
def test_the_last_word_on_a_connection_is_about_all_requests(code: str) -> None:
    core = ClientCore()
    sent(core, "ping", "ping")
    assert [id for id, _ in core.receive(error_line(None, "RuntimeError", code))] == [None]


def test_requests_that_were_passed_over_do_not_get_later_answers() -> None:
    # Replies come in order: 2 is answered, so 1 never will be.
    core = ClientCore()
    ids = sent(core, "ping", "ping", "ping")
    data = success(ids[1]) + error_line(None, "Error", "message_too_large")
    assert [id for id, _ in core.receive(data)] == [ids[1], ids[2]]


@pytest.mark.parametrize(
    "line",
    [b"hello", b"[]", b"{}", b'{"id":1}', b'{"id":"1","status":"success"}', b'{"id":1,"status":"maybe"}', b'"\xff"'],
)
def test_what_is_no_reply_is_a_violation_after_the_good_replies_before_it(line: bytes) -> None:
    core = ClientCore()
    sent(core, "ping", "ping")
    replies = core.receive(success(1) + line + b"\n")
    assert next(replies)[0] == 1
    with pytest.raises(ProtocolViolation):
        next(replies)


def test_a_reply_line_is_bounded() -> None:
    assert len(list(ClientCore(200).receive(success(1)))) == 1
    with pytest.raises(ProtocolViolation, match="200 bytes"):
        list(ClientCore(200).receive(b"x" * 201))


def test_unknown_fields_are_left_out() -> None:
    reply = read_reply(b'{"id":7,"status":"success","result":{"pong":true,"more":1},"timestamp":"","extra":[1]}')
    assert reply.typed_result("ping") == PingResult(pong=True)


# Results.


def restored(state: str) -> Reply:
    times = '"created_at":"2025-08-30T10:30:00Z","last_modified":"2025-08-30T10:30:00Z","timeout":1'
    objects = f'"session_state":{state},"workspace_context":{{}},"inspector_state":{{}},"object_registry":{{}}'
    result = f'{{"session_id":"s","client_id":"me",{times},"is_active":true,{objects},"revision":1}}'
    return read_reply(success(1, result))


def test_state_objects_are_plain_dicts() -> None:
    result = restored('{"a":[1,{"b":null}],"n":1234567890123456789012345678901234567890}').typed_result(
        "restore_session"
    )
    assert isinstance(result, RestoreResult)
    assert result.session_state == {"a": [1, {"b": None}], "n": 1234567890123456789012345678901234567890}
    assert result.workspace_context == {}


def test_the_raw_result_keeps_every_byte() -> None:
    assert b'"session_state":{"a": 1.10,"b":-0}' in restored('{"a": 1.10,"b":-0}').raw_result()


def test_a_result_of_another_shape_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="cannot be read"):
        restored("[]").typed_result("restore_session")


def test_the_result_of_an_unknown_command_is_plain() -> None:
    assert read_reply(success(1, '{"x":[1]}')).typed_result("of_the_future") == {"x": [1]}


# Errors.


@pytest.mark.parametrize(
    ("error_type", "expected"),
    [
        ("SessionError", SessionError),
        ("SessionNotFound", SessionNotFound),
        ("RuntimeError", ServerRuntimeError),
        ("Error", RequestError),
        ("OfTheFuture", SessionServerError),
    ],
)
def test_errors_are_exceptions_by_type(error_type: str, expected: type[SessionServerError]) -> None:
    reply = read_reply(error_line(4, error_type, "some_code", limit=5))
    for read in (reply.raw_result, lambda: reply.typed_result("ping")):
        with pytest.raises(SessionServerError) as raised:
            read()
        error = raised.value
        assert type(error) is expected
        assert (error.error_type, error.error_code, error.code) == (error_type, "some_code", "some_code")
        assert (error.message, error.details, error.id) == ("because of some_code", {"limit": 5}, 4)
        assert str(error) == "because of some_code [some_code]"


def test_an_error_with_the_fields_of_the_seed_alone_is_understood() -> None:
    error = read_reply(b'{"id":1,"status":"error","error":"no","error_type":"SessionError","timestamp":""}').failure()
    assert isinstance(error, SessionError)
    assert str(error) == "no [SessionError]"


def test_exceptions_survive_copying_and_pickling() -> None:
    error = SessionNotFound("SessionNotFound", "session_closed", "it was closed", {"a": 1}, 3)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is SessionNotFound
        assert (twin.code, twin.message, twin.details, twin.id) == ("session_closed", "it was closed", {"a": 1}, 3)


def test_transport_errors_are_also_pythons_own() -> None:
    assert issubclass(ConnectionLost, ConnectionError)
    assert issubclass(ReplyTimeout, TimeoutError)
    for error in (ConnectionLost, ReplyTimeout, ProtocolViolation, SessionServerError):
        assert issubclass(error, ClientError)
