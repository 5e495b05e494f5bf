"""The `key=value` arguments of `call`: JSON text for each parameter, as the table says.

Everything stays text, never decoded and encoded again: a number reaches the server as it was typed.
`key:=value` is JSON whatever the table says: the way to say null where strings are taken as they are,
and to give a parameter that only the server knows a value that is no string.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Raw

from stui_sessions.commands import REGISTRY
from stui_sessions.errors import quote
from stui_sessions.protocol.definitions import Schema
from stui_sessions.protocol.schema import is_text, parameter_schemas

MAX_QUOTE = 60

_IN_WORDS = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


class Parameters:
    """One request's parameters, gathered from the command line.  Everything here raises click.UsageError."""

    def __init__(self, command: str, read_stdin: Callable[[], bytes] | None = None) -> None:
        self._schemas = parameter_schemas(REGISTRY[command]) if command in REGISTRY else {}
        self._read_stdin = read_stdin or sys.stdin.buffer.read
        self._stdin_taken = False
        self._texts: dict[str, Raw] = {}
        self._object = b""
        self._object_keys: frozenset[str] = frozenset()

    def add_object(self, value: str) -> None:
        """The argument of `--json`: an object with any number of parameters."""
        text = self._json("--json", value, "an object")
        self._object_keys = frozenset(msgspec.json.decode(text, type=dict[str, Raw]))
        self._object = text.strip()

    def add(self, argument: str) -> None:
        """One `key=value`."""
        key, equals, value = argument.partition("=")
        name = key.removesuffix(":")
        if not equals or not name:
            raise click.UsageError(f"{_shown(argument)} is no parameter; write key=value, or key:=JSON")
        if name in self._texts or name in self._object_keys:
            raise click.UsageError(f"the parameter {_shown(name)} is given twice")
        schema = self._schemas.get(name)
        if key == name and (schema is None or is_text(schema)):
            self._texts[name] = Raw(self._string(name, value))
        else:
            self._texts[name] = Raw(self._json(name, value, _wanted(schema or {})))

    def encode(self) -> bytes:
        """The text of the one object that holds them all."""
        members = msgspec.json.encode(self._texts)
        if not self._object_keys:
            return members
        # Spliced, not decoded: what is wrong inside (a key that is there twice) is for the server to say.
        return self._object[:-1] + b"," + members[1:] if self._texts else self._object

    def _string(self, name: str, value: str) -> bytes:
        if value.startswith("@@"):
            value = value[1:]
        elif value.startswith("@"):
            # Files end with a newline, ids do not.
            value = self._contents(name, value).removesuffix("\n").removesuffix("\r")
        try:
            return msgspec.json.encode(value)
        except UnicodeEncodeError:
            raise click.UsageError(f"the value of {name} is not UTF-8") from None

    def _json(self, name: str, value: str, wanted: str) -> bytes:
        text = self._contents(name, value) if value.startswith("@") else value
        try:
            data = text.encode()
            decoded: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise click.UsageError(
                f"{name} takes {wanted} in JSON, and {_shown(text)} is not JSON: {_cause(error)}"
            ) from None
        # Of parameters the server judges the type; what is not an object cannot even hold parameters.
        if name == "--json" and not isinstance(decoded, dict):
            raise click.UsageError(f"{name} takes {wanted}, not {_shown(text)}")
        return data

    def _contents(self, name: str, value: str) -> str:
        """What `@FILE` or `@-` stands for."""
        try:
            return self._read(value[1:]).decode()
        except OSError as error:
            raise click.UsageError(f"{name}: cannot read {_shown(value[1:])}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise click.UsageError(f"{name}: {_shown(value[1:])} is not UTF-8") from None
        except ValueError as error:
            raise click.UsageError(f"{name}: {_shown(value[1:])}: {error}") from None

    def _read(self, path: str) -> bytes:
        if path != "-":
            return Path(path).read_bytes()
        if self._stdin_taken:
            raise ValueError("stdin can be read once only")
        self._stdin_taken = True
        return self._read_stdin()


def _cause(error: Exception) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def _wanted(schema: Schema) -> str:
    """What JSON the values are that `schema` describes: "an integer or null"."""
    return " or ".join(_IN_WORDS.get(one.get("type", ""), "a value") for one in schema.get("anyOf", [schema]))


def _shown(text: str) -> str:
    return quote(text, MAX_QUOTE)
