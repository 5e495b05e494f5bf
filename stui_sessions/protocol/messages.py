"""Requests and replies: decoding the one, encoding the other.

The way of a good request is short; everything that explains a bad one is in
`explain.py`.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal, final

import msgspec
from msgspec import UNSET, Raw, Struct

from stui_sessions.errors import Refusal
from stui_sessions.protocol.explain import check_id, explain
from stui_sessions.protocol.jsontext import SHORT_DIGITS, StateText, check_text, check_value, decode_any
from stui_sessions.protocol.registry import Registry, Request

NULL_ID = Raw(b"null")
_STRING_ID = (b'{"id":"', b'{"id": "')
"""How nearly every line begins; found faster than by looking at the id."""

_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*("(?:[^"\\]|\\.)*"|[-+.0-9eE]+)\s*,')
_UNDECODABLE = frozenset({"lone_surrogate", "too_deep"})

_STATE_LEVEL = 2
"""A state object lies in the parameters, and they in the request."""


class WireLimits(Struct):
    """What one message may be.  See `config.Settings`."""

    max_message_bytes: int = 2_097_152
    max_depth: int = 128
    short_text: int = 0
    """A text of so many bytes cannot be too deep (each level takes two) or hold a huge integer."""

    def __post_init__(self) -> None:
        self.short_text = min(2 * self.max_depth, SHORT_DIGITS)


class Malformed(Exception):
    """A line that is no request, with its id as far as it could be read."""

    def __init__(self, id: Raw, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.id = id
        self.refusal = refusal


@final
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

_encoder = msgspec.json.Encoder()
encode_lines = _encoder.encode_lines
"""Encode a list of replies, one line each."""


def failure(id: Raw, refusal: Refusal, timestamp: str) -> Failure:
    """The error reply for `refusal`."""
    return Failure(id, "error", refusal.text, refusal.error_type, refusal.code, refusal.details, timestamp)


class Codec:
    """Decodes the lines of requests.  `limits` may be replaced: lines that come afterwards go by the new ones."""

    def __init__(self, registry: Registry, limits: WireLimits) -> None:
        self.registry = registry
        self.limits = limits
        self._decode_line = registry.decode_line

    def decode(self, line: bytes) -> Request:
        """The request on `line`; raises Malformed.

        State objects are handed on as `StateText`, and `parameters` that is left out as
        if it were empty.  The thorough check of a line costs as much as the rest of its
        way, so there is a quick proof that it is not needed: there are at least as many
        colons in a line as keys, so a line with no more colons than the keys we know of
        names none twice.
        """
        limits = self.limits
        try:
            request = self._decode_line(line)
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
                    is_short = len(state.text) <= limits.short_text
                    keys += 1 + (
                        len(value) if is_short else check_value(state.text, value, limits.max_depth, _STATE_LEVEL)
                    )
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._malformed(line, error) from None
        except Refusal as refusal:
            raise Malformed(readable_id(line, refusal), refusal) from None
        if line.count(b":") != keys or not ((line.isascii() and line.startswith(_STRING_ID)) or _is_plain_id(request)):
            self._check_thoroughly(line, request)
        return request

    def too_large(self) -> Refusal:
        """What a line is answered with that is longer than the limit."""
        limit = self.limits.max_message_bytes
        return Refusal(
            "message_too_large", f"a line may be {limit} bytes long; this one is longer, and was discarded", limit=limit
        )

    def _check_thoroughly(self, line: bytes, request: Request) -> None:
        """Raise Malformed if the line as a whole breaks a rule that its parts do not show."""
        command, max_depth = request.command, self.limits.max_depth
        try:
            is_shallow = command.inner_texts is not None and _are_shallow(
                command.inner_texts(request.parameters), max_depth
            )
            message = check_text(line, max_depth + command.levels, is_shallow)
            check_id(message)
        except Refusal as refusal:
            raise Malformed(readable_id(line, refusal), refusal) from None
        for name in command.state_parameters:
            text = getattr(request.parameters, name)
            if text is not UNSET:
                value = message["parameters"][name]
                if type(value) is not dict:
                    raise Malformed(readable_id(line), explain(self.registry, message, None))
                if type(text) is Raw:
                    setattr(request.parameters, name, StateText(bytes(text), tuple(value)))

    def _malformed(self, line: bytes, error: Exception) -> Malformed:
        try:
            message = check_text(line, self.limits.max_depth + self.registry.levels)
        except Refusal as refusal:
            return Malformed(readable_id(line, refusal), refusal)
        return Malformed(readable_id(line), explain(self.registry, message, error))


def _are_shallow(texts: Iterable[bytes], max_depth: int) -> bool:
    """None of the texts, small as they mostly are, has as many brackets as would be too deep; False proves nothing."""
    return all(text.count(b"{") + text.count(b"[") < max_depth for text in texts)


def _is_plain_id(request: Request) -> bool:
    """The id is a string in ASCII, or a number short enough to be in range; False proves nothing.

    Of a request with no more colons than the keys we know of, it is all that was not decoded.
    """
    id = bytes(request.id)
    return (id.startswith(b'"') and id.isascii()) or (id.isdigit() and len(id) < SHORT_DIGITS)


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
