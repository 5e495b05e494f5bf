"""Making lines, and what becomes of them."""

import json
from typing import Any

import pytest
from msgspec import UNSET

from stui_sessions.protocol.commands import COMMANDS, STATE_OBJECTS, UNIVERSAL_ERRORS
from stui_sessions.protocol.messages import (
    Malformed,
    Request,
    WireLimits,
    decode_request,
)

LIMITS = WireLimits()

GOOD: dict[str, Any] = {
    "session_id": "session_1_1735567800_1234567890",
    "client_id": "client_001",
    "timeout": 60,
    "mode": "merge",
    "command": "ping",
    **{name: {"a": 1} for name in ("state_data", *STATE_OBJECTS)},
}
"""A good value for each parameter of the table."""


def line_of(command: str, parameters: Any = UNSET, id: Any = "1") -> bytes:
    message = {"id": id, "command": command}
    if parameters is not UNSET:
        message["parameters"] = parameters
    return json.dumps(message).encode()


def required(command: str) -> dict[str, Any]:
    return {name: GOOD[name] for name in COMMANDS[command].required}


def decode(line: bytes, limits: WireLimits = LIMITS) -> Request:
    return decode_request(line, limits)


def refused(line: bytes, limits: WireLimits = LIMITS) -> Malformed:
    with pytest.raises(Malformed) as caught:
        decode_request(line, limits)
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
