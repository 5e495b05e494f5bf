"""The mechanism of the registry: what a command's row holds, and what follows from all of them.

The rows themselves are in `commands/`, one place for each command.
"""

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Literal, Protocol, Union, get_type_hints

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from stui_sessions.errors import Refusal, quote
from stui_sessions.protocol.fields import NAMING
from stui_sessions.protocol.parameter import Parameter

Access = Literal["none", "read", "write"]
"""What a command needs to do with sessions: nothing, look at them, or change them (use included)."""

UNIVERSAL_ERRORS = (
    "invalid_json",
    "invalid_utf8",
    "invalid_request",
    "lone_surrogate",
    "duplicate_key",
    "number_out_of_range",
    "too_deep",
    "message_too_large",
    "line_timeout",
    "unknown_command",
    "unknown_parameter",
    "missing_parameter",
    "null_parameter",
    "empty_parameter",
    "wrong_type",
    "invalid_parameter",
    "storage_unavailable",
    "overloaded",
    "too_many_connections",
    "internal_error",
)
"""Codes that any request may be answered with."""


class Request(Protocol):
    """A well-formed request: its id as it came, its command, its parameters.

    One Struct type for each command, told apart by the field `command`, so that a
    good line is decoded in one step (0.39 us; envelope first, then parameters:
    0.61 us).  A bad line is looked at again, in `explain.py`.
    """

    id: Raw
    command: "Command"
    parameters: Any


class Command:
    """One row: everything about one command.

    `handler(draft, parameters)` decides it and returns the result; it is None for an
    `operation`, which awaits something of the server's own (the app binds it).
    """

    def __init__(
        self,
        name: str,
        summary: str,
        params: type[Struct],
        result: type[Struct],
        handler: Callable[[Any, Any], Struct] | None = None,
        *,
        access: Access = "none",
        errors: str = "",
        one_of: tuple[tuple[str, ...], ...] = (),
        by_position: tuple[str, ...] = (),
        main_state: str | None = None,
        levels: int = 0,
        inner_texts: Callable[[Any], Iterable[bytes]] | None = None,
        operation: bool = False,
        weigh: Callable[[Any], int] | None = None,
    ) -> None:
        if (handler is None) is not operation:
            raise ValueError(f"{name}: a command has a handler or is an operation of the server")
        self.name = name
        self.summary = summary
        self.params = params
        self.result = result
        self.handler = handler
        self.operation = operation
        self.access = access
        self.errors = tuple(errors.split())
        """Codes beyond those that any request can be answered with."""
        self.one_of = one_of
        """Parameters of which at least one is needed: rules between them, which a Struct cannot say."""
        self.by_position = by_position
        """Parameters that a client's method takes by their place."""
        self.main_state = main_state
        """The JSON object that requests most often bring."""
        self.levels = levels
        """How much deeper a state lies in a request than in an update: what was saved must fit again."""
        self.inner_texts = inner_texts
        """Of parameters: the JSON texts in them that lie so much deeper."""
        self.weigh = weigh
        """Bytes that a result of it takes beside what any takes, about; None: nothing worth counting."""
        self._derive()

    def _derive(self) -> None:
        """What follows from the types."""
        self.parameters = _parameters(self.params)
        self.required = tuple(p.name for p in self.parameters.values() if p.required)
        self.state_parameters = tuple(p.name for p in self.parameters.values() if p.is_state)
        self.names_session = NAMING in self.one_of
        self.line_keys = 3 + len(self.required) + self.names_session
        """Keys in a request that brings what is needed and nothing else; a session is named in one of two ways."""
        self.registry: Registry
        """The one that it belongs to, which sets this."""

    def __repr__(self) -> str:
        return f"<Command {self.name}>"

    # -- refusals

    def missing(self, parameter: str) -> Refusal:
        """A parameter is needed and not there."""
        expected = self.parameters[parameter].expected
        return Refusal(
            "missing_parameter",
            f"{self.name} needs the parameter {parameter}: {expected}",
            parameter=parameter,
            expected=expected,
        )

    def invalid(self, parameter: str, got: str, expected: str | None = None) -> Refusal:
        """A parameter is of the right type, but its value is not allowed."""
        expected = expected or self.parameters[parameter].expected
        return Refusal(
            "invalid_parameter", f"{parameter} must be {expected}, not {got}", parameter=parameter, expected=expected
        )

    def refused(self, parameter: str, expected: str, why: str = "") -> Refusal:
        """The same where the value is wrong only beside others; `why` goes into the text."""
        text = f"{parameter} must be {expected}{why and ': '}{why}"
        return Refusal("invalid_parameter", text, parameter=parameter, expected=expected)


class Registry:
    """All commands, by name, in their order.

    `types`: Structs that the commands' types refer to, but which are decoded on their own.
    """

    def __init__(self, commands: Iterable[Command], version: str, types: Iterable[type[Struct]] = ()) -> None:
        self.version = version
        """Of the contract; what a change asks for is in `lock.py`, and a test holds them together."""
        self.types = tuple(types)
        self._commands = {command.name: command for command in commands}
        for command in self:
            command.registry = self
        self.levels = max((command.levels for command in self), default=0)
        """The most of `Command.levels`."""
        types_of_requests = tuple(_request_type(command) for command in self)
        self.decode_line: Callable[[bytes], Request] = msgspec.json.Decoder(
            Union[types_of_requests]  # noqa: UP007 - made at run time
        ).decode

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def __len__(self) -> int:
        return len(self._commands)

    def __getitem__(self, name: str) -> Command:
        return self._commands[name]

    def __contains__(self, name: object) -> bool:
        return name in self._commands

    @property
    def names(self) -> list[str]:
        return list(self._commands)

    def find(self, name: str) -> Command:
        """The command of that name; Refusal with the nearest one if there is none."""
        command = self._commands.get(name)
        if command is None:
            raise Refusal(
                "unknown_command",
                f"there is no command {quote(name)}{did_you_mean(name, self._commands)}",
                command=name[:100],
                nearest=nearest(name, self._commands),
            )
        return command


def _parameters(params: type[Struct]) -> dict[str, Parameter]:
    annotations = get_type_hints(params, include_extras=True)
    fields = msgspec.inspect.type_info(params).fields  # type: ignore[attr-defined]
    return {field.name: Parameter(field.name, annotations[field.name], field) for field in fields}


def _request_type(command: Command) -> type[Struct]:
    fields: list[Any] = [("id", Raw)]
    if command.required:
        fields.append(("parameters", command.params))
    else:
        fields.append(("parameters", command.params | UnsetType, UNSET))
    return msgspec.defstruct(
        command.name,
        fields,
        tag_field="command",
        tag=command.name,
        forbid_unknown_fields=True,
        gc=False,
        namespace={"command": command},
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` may be a misspelling of."""
    close = get_close_matches(name[:100].lower(), list(names), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The same as the end of a sentence; empty if nothing is near."""
    close = nearest(name, names)
    return f"; did you mean {close}?" if close else ""
