"""Making lines, and what becomes of them."""

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from zlib import crc32

import msgspec
import pytest
from msgspec import UNSET, Raw, UnsetType

from stui_sessions.commands import REGISTRY
from stui_sessions.protocol.fields import STATE_OBJECTS
from stui_sessions.protocol.messages import (
    Codec,
    Malformed,
    Request,
    WireLimits,
)
from stui_sessions.protocol.registry import UNIVERSAL_ERRORS

LIMITS = WireLimits()

RECORD: dict[str, Any] = {
    "session_id": "session_1_1735567800_1234567890",
    "client_id": "client_001",
    "user_id": None,
    "external_id": None,
    "title": "A title",
    "tags": ["a"],
    "metadata": {},
    "status": "live",
    "pinned": False,
    "revision": 2,
    "timeout": 60,
    "created_at_ms": 1735567800000,
    "modified_at_ms": 1735567800001,
    "active_at_ms": 1735567800002,
    "ended_at_ms": None,
    "ends_at_ms": None,
    "session_state": {"a": 1},
    "workspace_context": {},
    "inspector_state": {},
    "object_registry": {},
}
"""A session as it is exported."""


def row(record: dict[str, Any]) -> dict[str, Any]:
    """A row of an export, its checksum being right on a line that `line_of` makes."""
    return {"checksum": f"{crc32(json.dumps(record).encode()):08x}", "session": record}


GOOD: dict[str, Any] = {
    "session_id": "session_1_1735567800_1234567890",
    "client_id": "client_001",
    "user_id": "ada@example.org",
    "external_id": "notebook 7",
    "title": "A title",
    "tags": ["a", "b c"],
    "timeout": 60,
    "ttl_seconds": 3600,
    "seconds": 60,
    "id_format": "hex",
    "resume": False,
    "revive": True,
    "storage": True,
    "on_conflict": "new",
    "mode": "merge",
    "reply": "brief",
    "command": "ping",
    "sessions": [row(RECORD)],
    "backup_id": "0123abcd",
    "offset": 7,
    "include": ["state"],
    "pin": True,
    "purge": False,
    "status": "closed",
    "text": "notes",
    "sort": "title",
    "order": "asc",
    "limit": 5,
    "cursor": "AbC-_",
    "ref": "session_1",
    **{name: {"a": 1} for name in ("state_data", *STATE_OBJECTS, "metadata")},
}
"""A good value for each parameter of the table."""

EVERY_PARAMETER = [(command.name, parameter) for command in REGISTRY for parameter in command.parameters]

_IN_WORDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    bool: "a boolean",
    list: "an array",
    Raw: "an object",
    NoneType: "null",
}


def expected(command: str, parameter: str) -> str:
    """What an error says that a parameter must be."""
    return REGISTRY[command].parameters[parameter].expected


def json_types(command: str, parameter: str) -> set[str]:
    """The JSON types that a parameter takes, as its Python type has them."""
    return _words(REGISTRY[command].parameters[parameter].annotation)


def _words(type: Any) -> set[str]:
    origin, arguments = get_origin(type), get_args(type)
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, UnionType):
        return {word for one in arguments if one is not UnsetType for word in _words(one)}
    if origin is Literal:
        return {_IN_WORDS[value.__class__] for value in arguments}
    return {_IN_WORDS[origin or type]}


def line_of(command: str, parameters: Any = UNSET, id: Any = "1") -> bytes:
    message = {"id": id, "command": command}
    if parameters is not UNSET:
        message["parameters"] = parameters
    return json.dumps(message).encode()


def plain(value: Any) -> Any:
    """A decoded value as JSON has it: rows of an export are structs with raw text in them."""
    return json.loads(msgspec.json.encode(value))


def required(command: str) -> dict[str, Any]:
    """What a request needs; where it names a session, that is by its id."""
    row = REGISTRY[command]
    names = ("session_id", *row.required) if row.names_session else row.required
    return {name: GOOD[name] for name in names}


def decode(line: bytes, limits: WireLimits = LIMITS) -> Request:
    return Codec(REGISTRY, limits).decode(line)


def refused(line: bytes, limits: WireLimits = LIMITS) -> Malformed:
    with pytest.raises(Malformed) as caught:
        decode(line, limits)
    assert caught.value.refusal.code in UNIVERSAL_ERRORS
    assert len(caught.value.refusal.text) < 600
    return caught.value


def code_of(line: bytes, limits: WireLimits = LIMITS) -> str:
    return refused(line, limits).refusal.code


SEED = [
    b'{"id": "create-001", "command": "create_session", "parameters": {"client_id": "client_001"}}',
    b'{"id": "restore-001", "command": "restore_session", "parameters": {"session_id": "session_1_2_3"}}',
    b'{"id": "update-001", "command": "update_session_state", "parameters": {"session_id": "session_1_2_3", '
    b'"state_data": {"workspace": "updated workspace state", "inspector": "updated inspector state", '
    b'"variables": ["var1", "var2", "var3", "var4"]}}}',
    b'{"id": "close-001", "command": "close_session", "parameters": {"session_id": "session_1_2_3"}}',
    b'{"id": "info-001", "command": "get_session_info", "parameters": {"session_id": "session_1_2_3"}}',
    b'{"id": "list-001", "command": "list_client_sessions", "parameters": {"client_id": "client_001"}}',
    b'{"id": "stats-001", "command": "get_session_statistics", "parameters": {}}',
]
