"""The registry as JSON Schema: the whole contract, made from the types that decode it."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from stui_sessions.errors import CODES
from stui_sessions.protocol.definitions import TEMPLATE, Schema, reference_to
from stui_sessions.protocol.registry import UNIVERSAL_ERRORS, Command, Registry
from stui_sessions.protocol.schemadiff import LEFT_OUT_WITH

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ID: Schema = {
    "description": "A string or a number; the reply brings it back as it came.",
    "type": ["string", "number"],
}
NULL: Schema = {"type": "null"}
_TIMESTAMP: Schema = {"description": "When the reply was made; UTC, `2025-08-30T10:30:00Z`.", "type": "string"}


@cache
def contract(registry: Registry) -> Schema:
    """Everything a client and a server say to each other, as one JSON Schema document.

    A message of either side is valid against the document itself; `commands` and `errors` beside it say
    what belongs to what (other keywords than JSON Schema's own are allowed in a schema, and ignored).
    """
    definitions = _structs(registry, registry.types)
    for command in registry:
        definitions[f"{command.name}.request"] = _request(command)
        definitions[f"{command.name}.reply"] = _success(command)
    definitions["request"] = {"oneOf": [reference_to(f"{name}.request") for name in registry.names]}
    definitions["error"] = _error()
    # Not oneOf: results may gain fields, so that one reply can fit several of them.
    definitions["reply"] = {
        "anyOf": [reference_to("error"), *(reference_to(f"{name}.reply") for name in registry.names)]
    }
    return {
        "$schema": _DIALECT,
        "title": "The session protocol of stui_sessions",
        "description": "One message: one JSON object on one line, in UTF-8.",
        "protocol_version": registry.version,
        "oneOf": [reference_to("request"), reference_to("reply")],
        "$defs": definitions,
        "commands": {command.name: _command(command) for command in registry},
        "universal_errors": list(UNIVERSAL_ERRORS),
        "errors": msgspec.to_builtins(CODES),
    }


@cache
def parameter_schemas(command: Command) -> Mapping[str, Schema]:
    """The schema of each parameter of a command, by name."""
    return _structs([command])[command.params.__name__]["properties"]  # type: ignore[no-any-return]


def alternatives(schema: Schema) -> list[Schema]:
    """The schemas of which a value fits one, null aside; `schema` itself where there is no choice."""
    return [one for one in schema.get("anyOf", [schema]) if one != NULL]


def is_text(schema: Schema) -> bool:
    """The values that `schema` describes are strings, null aside."""
    return any(
        one.get("type") == "string" or any(isinstance(value, str) for value in one.get("enum", ()))
        for one in alternatives(schema)
    )


def _command(command: Command) -> Schema:
    return {
        "summary": command.summary,
        "parameters": reference_to(command.params.__name__),
        "result": reference_to(command.result.__name__),
        "request": reference_to(f"{command.name}.request"),
        "reply": reference_to(f"{command.name}.reply"),
        "errors": list(command.errors),
    }


def _structs(commands: Iterable[Command], others: Iterable[type[Struct]] = ()) -> dict[str, Schema]:
    """The definitions of the commands' parameters and results, by the names of their types."""
    types = [type for command in commands for type in (command.params, command.result)]
    _, definitions = msgspec.json.schema_components([*types, *others], ref_template=TEMPLATE)
    return {name: _optional(_portable(schema)) for name, schema in definitions.items()}


def _optional(schema: Schema) -> Schema:
    """`schema`, in which no field is required that a request may ask to have left out (`LEFT_OUT_WITH`)."""
    fields = schema.get("properties", {})
    required = [name for name in schema.get("required", ()) if LEFT_OUT_WITH not in fields[name]]
    return schema | {"required": required} if "required" in schema else schema


def _portable(schema: Any) -> Any:
    r"""`schema` with its patterns in the regular expressions of JSON Schema (ECMA 262).

    They have no `\Z`; their `$` means what `\Z` means in Python: the very end, and not before a newline.
    """
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    portable = {key: _portable(value) for key, value in schema.items()}
    if isinstance(portable.get("pattern"), str):
        portable["pattern"] = portable["pattern"].replace(r"\Z", "$")
    return portable


def _request(command: Command) -> Schema:
    parameters = reference_to(command.params.__name__)
    if command.one_of:
        parameters["allOf"] = [{"anyOf": [{"required": [name]} for name in names]} for names in command.one_of]
    return {
        "description": command.summary,
        "type": "object",
        "properties": {"id": _ID, "command": {"const": command.name}, "parameters": parameters},
        "required": ["id", "command", *(["parameters"] if command.required or command.one_of else [])],
        "additionalProperties": False,
    }


def _success(command: Command) -> Schema:
    return {
        "type": "object",
        "properties": {
            "status": {"const": "success"},
            "id": _ID,
            "result": reference_to(command.result.__name__),
            "timestamp": _TIMESTAMP,
        },
        "required": ["status", "id", "result", "timestamp"],
    }


def _error() -> Schema:
    return {
        "type": "object",
        "properties": {
            "status": {"const": "error"},
            "id": {
                "description": "That of the request; null where none could be read.",
                "type": [*_ID["type"], "null"],
            },
            "error": {"description": "What was wrong and what would be right, for people.", "type": "string"},
            "error_type": {"enum": sorted({code.error_type for code in CODES.values()})},
            "error_code": {"description": "The stable name, for programs.", "enum": list(CODES)},
            "details": {"description": "What a program needs; see `errors`.", "type": "object"},
            "timestamp": _TIMESTAMP,
        },
        "required": ["status", "id", "error", "error_type", "error_code", "details", "timestamp"],
    }
