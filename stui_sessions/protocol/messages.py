"""Requests and replies: decoding the one, encoding the other.

The way of a good request is short; everything that explains a bad one is in
`explain.py`.
"""

import re
from typing import Any, Literal, Protocol, TypeGuard, Union

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from stui_sessions.errors import Refusal
from stui_sessions.protocol.commands import COMMANDS, Command
from stui_sessions.protocol.explain import check_id, explain
from stui_sessions.protocol.jsontext import SHORT_DIGITS, check_text, check_value, decode_any
from stui_sessions.protocol.parameters import ImportParams, StateText

NULL_ID = Raw(b"null")
_STRING_ID = (b'{"id":"', b'{"id": "')
"""How nearly every line begins; found faster than by looking at the id."""

_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|[-+.0-9eE]+)\s*,')
_UNDECODABLE = frozenset({"lone_surrogate", "too_deep"})

_STATE_LEVEL = 2
"""A state object lies in the parameters, and they in the request."""


class WireLimits(Struct):
    """What one message may be.  See `config.Settings`."""

    max_message_bytes: int = 1_048_576
    max_depth: int = 128
    short_text: int = 0
    """A text of so many bytes cannot be too deep (each level takes two) or hold a huge integer."""

    def __post_init__(self) -> None:
        self.short_text = min(2 * self.max_depth, SHORT_DIGITS)


class Request(Protocol):
    """A well-formed request: its id as it came, its command, its parameters.

    One Struct type for each command, told apart by the field `command`, so that a
    good line is decoded in one step (0.39 us; envelope first, then parameters:
    0.61 us).  A bad line is looked at again, in `explain.py`.
    """

    id: Raw
    command: Command
    parameters: Any


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


def is_request(item: object) -> TypeGuard[Request]:
    """`item` is what `decode_request` made of a line."""
    return isinstance(item, REQUEST_TYPES)


class Malformed(Exception):
    """A line that is no request, with its id as far as it could be read."""

    def __init__(self, id: Raw, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.id = id
        self.refusal = refusal


class Success(Struct, gc=False):
    """The reply to a request that was carried out."""

    id: Raw
    status: Literal["success"]
    result: Any
    timestamp: str


class Failure(Struct, gc=False):
    """The reply to a request that was not."""

    id: Raw
    status: Literal["error"]
    error: str
    error_type: str
    error_code: str
    details: dict[str, Any]
    timestamp: str


Reply = Success | Failure

REQUEST_TYPES = tuple(_request_type(c) for c in COMMANDS.values())
_decode_line = msgspec.json.Decoder(Union[REQUEST_TYPES]).decode  # noqa: UP007 - made at run time
_encoder = msgspec.json.Encoder()
encode_lines = _encoder.encode_lines
"""Encode a list of replies, one line each."""


def failure(id: Raw, refusal: Refusal, timestamp: str) -> Failure:
    """The error reply for `refusal`."""
    return Failure(id, "error", refusal.text, refusal.error_type, refusal.code, refusal.details, timestamp)


def decode_request(line: bytes, limits: WireLimits) -> Request:
    """The request on `line`; raises Malformed.

    State objects are handed on as `StateText`, and `parameters` that is left out as
    if it were empty.  The thorough check of a line costs as much as the rest of its
    way, so there is a quick proof that it is not needed: there are at least as many
    colons in a line as keys, so a line with no more colons than the keys we know of
    names none twice.
    """
    try:
        request: Request = _decode_line(line)
        command, parameters = request.command, request.parameters
        if parameters is UNSET:
            keys, parameters = 2, command.params()
            request.parameters = parameters
        else:
            keys = command.line_keys
            if command.names_session and parameters.session_id is UNSET and parameters.external_id is UNSET:
                keys -= 1
        if command.main_state is not None and (text := getattr(parameters, command.main_state)) is not UNSET:
            value = decode_any(text)
            if type(value) is dict:
                state = StateText(bytes(text), tuple(value))
                setattr(parameters, command.main_state, state)
                # A short text is neither too deep nor has it room for a huge integer.
                keys += 1 + (len(value) if len(state.text) <= limits.short_text else _colons(state.text, value, limits))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(line, limits.max_depth, error) from None
    except Refusal as refusal:
        raise Malformed(readable_id(line, refusal), refusal) from None
    if line.count(b":") != keys or not line.isascii() or not (line.startswith(_STRING_ID) or _is_plain_id(request)):
        _check_thoroughly(line, request, limits.max_depth)
    return request


def _is_plain_id(request: Request) -> bool:
    """The id is a string, or a number short enough to be in range; False proves nothing."""
    id = bytes(request.id)
    return id.startswith(b'"') or (id.isdigit() and len(id) < SHORT_DIGITS)


def _colons(text: bytes, value: dict[str, Any], limits: WireLimits) -> int:
    """The colons in the text of a state object, once it is checked; raises Refusal."""
    check_value(text, value, limits.max_depth, _STATE_LEVEL)
    return text.count(b":")


def _check_thoroughly(line: bytes, request: Request, max_depth: int) -> None:
    """Raise Malformed if the line as a whole breaks a rule that its parts do not show."""
    try:
        levels = request.command.levels
        message = check_text(line, max_depth + levels, levels > 0 and _is_shallow(request.parameters, max_depth))
        check_id(message)
    except Refusal as refusal:
        raise Malformed(readable_id(line, refusal), refusal) from None
    for name in request.command.state_parameters:
        text = getattr(request.parameters, name)
        if text is not UNSET:
            value = message["parameters"][name]
            if type(value) is not dict:
                raise Malformed(readable_id(line), explain(message, None))
            if type(text) is Raw:
                setattr(request.parameters, name, StateText(bytes(text), tuple(value)))


def _is_shallow(parameters: ImportParams, max_depth: int) -> bool:
    """None of the rows, small as they mostly are, has as many brackets as would be too deep; False proves nothing."""
    texts = map(bytes, [row.session for row in parameters.sessions])
    return all(text.count(b"{") + text.count(b"[") < max_depth for text in texts)


def _malformed(line: bytes, max_depth: int, error: Exception) -> Malformed:
    try:
        message = check_text(line, max_depth)
    except Refusal as refusal:
        return Malformed(readable_id(line, refusal), refusal)
    return Malformed(readable_id(line), explain(message, error))


def readable_id(line: bytes, refusal: Refusal | None = None) -> Raw:
    """The id of a line that may be anything but a request; null if none can be read.

    A line that is JSON by its grammar but cannot be decoded (half a surrogate pair,
    depths beyond any stack) still shows its id if that stands first, as usual.
    """
    try:
        id = bytes(msgspec.json.decode(line, type=dict[str, Raw])["id"])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        first = _FIRST_ID.match(line) if refusal is not None and refusal.code in _UNDECODABLE else None
        if first is None:
            return NULL_ID
        id = first[1]
    try:
        check_id({"id": decode_any(id)})
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Refusal):
        return NULL_ID
    return Raw(id)
