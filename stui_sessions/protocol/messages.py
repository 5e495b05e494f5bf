"""Requests and replies: decoding the one, encoding the other.

Decoding takes two steps, the envelope with raw parameters and then the command's
own Struct, so that the id survives a bad parameter.  The way of a good request is
short; everything that explains a bad one is in `explain.py`.
"""

from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct

from stui_sessions.errors import Refusal
from stui_sessions.protocol.commands import COMMANDS, Command
from stui_sessions.protocol.explain import check_id, explain
from stui_sessions.protocol.jsontext import SHORT_DIGITS, check_text, decode_any

NULL_ID = Raw(b"null")
_NO_PARAMETERS = Raw(b"{}")
_QUOTE = ord('"')


class Envelope(Struct, forbid_unknown_fields=True, gc=False):
    """The outer object of a request."""

    id: Raw
    command: str
    parameters: Raw = _NO_PARAMETERS


class Request(NamedTuple):
    """A well-formed request: its id as it came, its command, its parameters."""

    id: Raw
    command: Command
    params: Any


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

_decode_envelope = msgspec.json.Decoder(Envelope).decode
_encoder = msgspec.json.Encoder()
encode_lines = _encoder.encode_lines
"""Encode a list of replies, one line each."""


def failure(id: Raw, refusal: Refusal, timestamp: str) -> Failure:
    """The error reply for `refusal`."""
    return Failure(id, "error", refusal.text, refusal.error_type, refusal.code, refusal.details, timestamp)


def decode_request(line: bytes, max_depth: int) -> Request:
    """The request on `line`; raises Malformed."""
    try:
        envelope = _decode_envelope(line)
        command = COMMANDS[envelope.command]
        params = command.decode_params(envelope.parameters)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise _malformed(line, max_depth, error) from None
    keys = (2 if envelope.parameters is _NO_PARAMETERS else 3) + len(command.required)
    id = bytes(envelope.id)
    if not (id[0] == _QUOTE or (id.isdigit() and len(id) < SHORT_DIGITS)) or not _is_plain(
        line, command, params, keys, max_depth
    ):
        _check_thoroughly(line, max_depth)
    return Request(envelope.id, command, params)


def _is_plain(line: bytes, command: Command, params: Any, keys: int, max_depth: int) -> bool:
    """A quick proof that nothing in `line` needs the thorough check; False proves nothing.

    There are at least as many colons in a line as keys, so a line with no more
    colons than the `keys` we know of names no key twice.  And a short text is
    neither deep (each level takes two bytes) nor has it room for a huge integer.
    """
    if command.state_parameters:
        state = getattr(params, "state_data", UNSET)
        if state is UNSET or len(line) - len(params.session_id) > min(2 * max_depth, SHORT_DIGITS):
            return False
        try:
            state = decode_any(state)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if type(state) is not dict:
            return False
        keys += 1 + len(state)
    return line.count(b":") == keys and line.isascii()


def _check_thoroughly(line: bytes, max_depth: int) -> None:
    """Raise Malformed if the line as a whole breaks a rule its parts do not show."""
    try:
        message = check_text(line, max_depth)
        check_id(message)
    except Refusal as refusal:
        raise Malformed(readable_id(line), refusal) from None
    command = COMMANDS[message["command"]]
    parameters = message.get("parameters", {})
    for name in command.state_parameters:
        if name in parameters and type(parameters[name]) is not dict:
            raise Malformed(readable_id(line), explain(message, None))


def _malformed(line: bytes, max_depth: int, error: Exception) -> Malformed:
    try:
        message = check_text(line, max_depth)
    except Refusal as refusal:
        return Malformed(readable_id(line), refusal)
    return Malformed(readable_id(line), explain(message, error))


def readable_id(line: bytes) -> Raw:
    """The id of a line that may be anything but a request; null if none can be read."""
    try:
        id = msgspec.json.decode(line, type=dict[str, Raw])["id"]
        check_id({"id": decode_any(id)})
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, Refusal):
        return NULL_ID
    return Raw(bytes(id))
