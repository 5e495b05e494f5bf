"""What is wrong with a request, in words that help.

Only bad requests come here, so clarity goes before speed: the message is looked
at again, from the outside in, and the first thing that is wrong is told.
"""

from typing import Any

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.parameter import Parameter
from stui_sessions.protocol.registry import Command, Registry, did_you_mean, nearest

_ENVELOPE_FIELDS = ("id", "command", "parameters")


def explain(registry: Registry, message: Any, error: Exception | None) -> Refusal:
    """The first thing that is wrong with `message`, a decoded line.

    `error` is what decoding said; it is quoted only if nothing better is found.
    """
    try:
        check_envelope(message)
        command = registry.find(message["command"])
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
                f"a request has no field {quote(field)}{did_you_mean(field, _ENVELOPE_FIELDS)}",
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


def check_parameters(command: Command, parameters: dict[str, Any]) -> None:
    """Raise Refusal for the first parameter that is unknown, missing or wrong."""
    for name in parameters:
        if name not in command.parameters:
            raise Refusal(
                "unknown_parameter",
                f"{command.name} has no parameter {quote(name)}{did_you_mean(name, command.parameters)}",
                parameter=name[:100],
                nearest=nearest(name, command.parameters),
            )
    for name in command.required:
        if name not in parameters:
            raise command.missing(name)
    for name, value in parameters.items():
        _check_value(command, command.parameters[name], value)


def _check_value(command: Command, parameter: Parameter, value: Any) -> None:
    name, expected = parameter.name, parameter.expected
    if value is None:
        if parameter.nullable:
            return
        raise Refusal(
            "null_parameter",
            f"{name} is null; it must be {expected}, or left out where it is optional",
            parameter=name,
            expected=expected,
        )
    if type(value) is not parameter.json_type:
        got = type_name(value)
        raise Refusal("wrong_type", f"{name} must be {expected}, not {got}", parameter=name, expected=expected, got=got)
    if value == "":
        raise Refusal("empty_parameter", f"{name} is empty; it must be {expected}", parameter=name, expected=expected)
    if not parameter.takes(value):
        raise command.invalid(name, _shown(value))


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "this array"
    return quote(value) if isinstance(value, str) else str(value)[:100]


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
