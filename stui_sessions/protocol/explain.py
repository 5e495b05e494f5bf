"""What is wrong with a request, in words that help.

Only bad requests come here, so clarity goes before speed: the message is looked
at again, from the outside in, and the first thing that is wrong is told.
"""

from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import Raw

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.commands import COMMANDS, Command
from stui_sessions.protocol.fields import JSON_OBJECTS, MAX_TTL

_ENVELOPE_FIELDS = ("id", "command", "parameters")

_NAME = "a string of 1 to 128 of A-Z a-z 0-9 . _ : @ -, the first a letter or a digit"
_YES_OR_NO = "true or false"

EXPECTED: dict[str, str] = {
    "session_id": "a string of 1 to 8192 characters",
    "client_id": _NAME,
    "user_id": _NAME,
    "external_id": "a string of 1 to 256 characters",
    "title": "a string of 1 to 60 characters that can be seen",
    "tags": "an array of up to 32 strings of 1 to 64 characters",
    "metadata": "an object of at most 16 KiB",
    "timeout": "an integer, 1 or more",
    "ttl_seconds": f"an integer from 1 to {MAX_TTL}",
    "seconds": f"an integer from 1 to {MAX_TTL}",
    "id_format": '"counter", "timestamp" or "hex"',
    "resume": _YES_OR_NO,
    "on_conflict": '"error", "reuse" or "new" (in an import "error", "skip", "replace" or "new")',
    "mode": '"merge" or "replace"',
    "command": "the name of a command",
    "include": '["state"] or an empty array',
    "pin": _YES_OR_NO,
    "purge": _YES_OR_NO,
    "status": '"live", "expired", "closed" or "deleted"',
    "text": "a string of 1 to 256 characters",
    "sort": '"last_activity", "created_at" or "title"',
    "order": '"asc" or "desc"',
    "limit": "an integer from 1 to 100 (in an export to 1000)",
    "sessions": "an array of up to 1000 rows as export_sessions gives them",
    "cursor": "the next_cursor of the page before",
    "backup_id": "a backup_id that begin_backup gave",
    "offset": "an integer, 0 or more",
    "ref": "a string of 1 to 8192 characters",
    "state_data": "an object",
    "session_state": "an object",
    "workspace_context": "an object",
    "inspector_state": "an object",
    "object_registry": "an object",
}
"""What each parameter expects, for people.  A test keeps it complete."""

_JSON_TYPE: dict[str, type] = {
    **dict.fromkeys(("timeout", "ttl_seconds", "seconds", "limit", "offset"), int),
    **dict.fromkeys(("resume", "pin", "purge"), bool),
    **dict.fromkeys(("tags", "include", "sessions"), list),
    **dict.fromkeys(JSON_OBJECTS, dict),
}
"""Of the parameters that are no strings."""


def explain(message: Any, error: Exception | None) -> Refusal:
    """The first thing that is wrong with `message`, a decoded line.

    `error` is what decoding said; it is quoted only if nothing better is found.
    """
    try:
        check_envelope(message)
        command = find_command(message["command"])
        check_parameters(command, message.get("parameters", {}))
    except Refusal as refusal:
        return refusal
    return Refusal("invalid_request", f"the request cannot be read: {error}")


def check_envelope(message: Any) -> None:
    """Raise Refusal unless `message` has the shape of a request."""
    if type(message) is not dict:
        raise Refusal(
            "invalid_request", f"a request is an object with id, command and parameters, not {type_name(message)}"
        )
    check_id(message)
    for field in message:
        if field not in _ENVELOPE_FIELDS:
            raise Refusal(
                "invalid_request",
                f"a request has no field {quote(field)}{_did_you_mean(field, _ENVELOPE_FIELDS)}",
                field=field[:100],
            )
    if "command" not in message:
        raise Refusal("invalid_request", "the field command is missing; it is a string", field="command")
    if type(message["command"]) is not str:
        raise Refusal(
            "invalid_request", f"command must be a string, not {type_name(message['command'])}", field="command"
        )
    if "parameters" in message and type(message["parameters"]) is not dict:
        raise Refusal(
            "invalid_request",
            f"parameters must be an object, not {type_name(message['parameters'])}",
            field="parameters",
        )


def check_id(message: dict[str, Any]) -> None:
    """Raise Refusal unless the id is there and a string or a number."""
    if "id" not in message:
        raise Refusal("invalid_request", "the field id is missing; it is a string or a number", field="id")
    if type(message["id"]) not in (str, int, float):
        raise Refusal("invalid_request", f"id must be a string or a number, not {type_name(message['id'])}", field="id")


def find_command(name: str) -> Command:
    """The command of that name; Refusal with the nearest one if there is none."""
    command = COMMANDS.get(name)
    if command is None:
        raise Refusal(
            "unknown_command",
            f"there is no command {quote(name)}{_did_you_mean(name, COMMANDS)}",
            command=name[:100],
            nearest=nearest(name, COMMANDS),
        )
    return command


def check_parameters(command: Command, parameters: dict[str, Any]) -> None:
    """Raise Refusal for the first parameter that is unknown, missing or wrong."""
    for name in parameters:
        if name not in command.parameters:
            raise Refusal(
                "unknown_parameter",
                f"{command.name} has no parameter {quote(name)}{_did_you_mean(name, command.parameters)}",
                parameter=name[:100],
                nearest=nearest(name, command.parameters),
            )
    for name in command.required:
        if name not in parameters:
            raise missing(command.name, name)
    for name, value in parameters.items():
        _check_value(command, name, value)


def missing(command: str, parameter: str) -> Refusal:
    """A required parameter is not there."""
    expected = EXPECTED[parameter]
    return Refusal(
        "missing_parameter",
        f"{command} needs the parameter {parameter}: {expected}",
        parameter=parameter,
        expected=expected,
    )


def invalid(parameter: str, expected: str, got: str) -> Refusal:
    """A parameter is of the right type, but its value is not allowed."""
    return Refusal(
        "invalid_parameter", f"{parameter} must be {expected}, not {got}", parameter=parameter, expected=expected
    )


def _check_value(command: Command, name: str, value: Any) -> None:
    expected = EXPECTED[name]
    if value is None:
        if _fits(command, name, value):
            return
        raise Refusal(
            "null_parameter",
            f"{name} is null; it must be {expected}, or left out where it is optional",
            parameter=name,
            expected=expected,
        )
    wanted = _JSON_TYPE.get(name, str)
    if type(value) is not wanted:
        got = type_name(value)
        raise Refusal("wrong_type", f"{name} must be {expected}, not {got}", parameter=name, expected=expected, got=got)
    if value == "":
        raise Refusal("empty_parameter", f"{name} is empty; it must be {expected}", parameter=name, expected=expected)
    if wanted is not dict and not _fits(command, name, value):
        raise invalid(name, expected, _shown(value))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "this array"
    return quote(value) if isinstance(value, str) else str(value)[:100]


def _fits(command: Command, name: str, value: Any) -> bool:
    if name == "sessions" and type(value) is list:
        value = [_with_text(row) for row in value]
    try:
        msgspec.convert(value, command.parameter_types()[name])
    except msgspec.ValidationError:
        return False
    return True


def _with_text(row: Any) -> Any:
    """A row of an import as it is decoded: its session is text, whatever stands there."""
    return {**row, "session": Raw(b"0")} if type(row) is dict and "session" in row else row


def nearest(name: str, names: Any) -> str | None:
    """The valid name that `name` may be a misspelling of."""
    close = get_close_matches(name[:100].lower(), list(names), n=1, cutoff=0.6)
    return close[0] if close else None


def _did_you_mean(name: str, names: Any) -> str:
    close = nearest(name, names)
    return f"; did you mean {close}?" if close else ""


def type_name(value: Any) -> str:
    """The JSON type of a decoded value, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number with a fraction or an exponent"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"
