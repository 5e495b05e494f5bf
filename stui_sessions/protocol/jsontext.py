"""JSON text beyond its grammar: what RFC 8259 leaves open, decided once.

States are stored as the text that was sent, so whatever passes here must be
readable by every client that gets it back.  msgspec's decoder refuses what is
not JSON (NaN, Infinity, control characters), lone surrogates, invalid UTF-8 and
floats beyond double precision; its `Raw` fields skip some of that.  `check_text`
closes the gap, and adds duplicate keys, depth and huge integers.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from stui_sessions.errors import Refusal, quote

decode_any = msgspec.json.Decoder().decode
decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
encode = msgspec.json.Encoder().encode

SHORT_DIGITS = 308
"""A run of fewer digits than 309 cannot pass the largest double (1.797e308)."""

_LONG_INTEGER = re.compile(rb"(?<![0-9])[0-9]{309}")  # the look back keeps it linear
_STRIDE = 19
_DIGITS_LEFT = re.compile(rb"[0-9]{16}")
"""What 309 digits in a row leave, at least, of every 19th byte.  To look at all of a line of 128 KiB costs 3 ms."""
_NOT_A_NUMBER = re.compile(rb"[\s,:\[{]-?(?:NaN|Infinity|nan|inf)")


class StateText(Struct, frozen=True, gc=False):
    """A JSON object of a request once it is checked: its text, its own copy, and its keys in order.

    Takes the place of the `Raw` in the parameters: that is a view and keeps the
    whole received line alive.
    """

    text: bytes
    keys: tuple[str, ...]


def check_text(text: bytes, max_depth: int, shallow: bool = False) -> Any:
    """The value of `text`, once nothing in it could come back as something else.

    `shallow`: it is known not to be too deep.

    Raises Refusal: invalid_json, invalid_utf8, lone_surrogate, number_out_of_range,
    duplicate_key, too_deep.
    """
    value = _decode(text, max_depth)
    check_value(text, value, max_depth, shallow=shallow)
    return value


def check_value(text: bytes, value: Any, max_depth: int, level: int = 0, shallow: bool = False) -> int:
    """The part of `check_text` that decoding leaves open; the colons in `text`.

    `value` is what `text` decodes to; it lies `level` levels deep in a message.
    """
    if not shallow and depth_exceeds(text, value, max_depth - level):
        refuse_depth(max_depth)
    if len(text) > SHORT_DIGITS and _DIGITS_LEFT.search(text[::_STRIDE]) and _LONG_INTEGER.search(text):
        _check_integers(text)
    return _check_keys(text, value) if b":" in text else 0


def depth_exceeds(text: bytes, value: Any, limit: int) -> bool:
    """Arrays and objects in JSON `text`, which is decoded to `value`, are nested more than `limit` levels deep.

    Level by level, so linear in the text whatever its shape.  What a duplicate key has
    hidden is not seen, and refused for that.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    level = [value]
    for _ in range(limit + 1):
        level = [v for v in level if type(v) is dict or type(v) is list]
        if not level:
            return False
        level = [child for v in level for child in (v.values() if type(v) is dict else v)]
    return True


def merge_all(objects: Iterable[bytes]) -> bytes:
    """The objects set into each other, the last one on top: one level, `null` is a value like any."""
    members: dict[str, Raw] = {}
    for text in objects:
        members.update(decode_members(text))
    return encode(members)


def merge_with_keys(current: bytes, patch: bytes) -> tuple[bytes, tuple[str, ...]]:
    """`current` with the members of `patch` set, and the keys of the result in order."""
    members = decode_members(current)
    members.update(decode_members(patch))
    return encode(members), tuple(members)


def merge_removing(current: bytes, patch: bytes) -> bytes:
    """`current` with the members of `patch` set, and without those that are `null` in it."""
    members = decode_members(current)
    for key, value in decode_members(patch).items():
        if bytes(value) == b"null":
            members.pop(key, None)
        else:
            members[key] = value
    return encode(members)


def refuse_depth(limit: int) -> NoReturn:
    raise Refusal("too_deep", f"arrays and objects may be nested {limit} levels deep, this goes deeper", limit=limit)


def _decode(text: bytes, max_depth: int) -> Any:
    try:
        return decode_any(text)
    except UnicodeDecodeError as error:
        raise Refusal("invalid_utf8", f"the line is not UTF-8 (byte {error.start} of a string)") from None
    except RecursionError:
        refuse_depth(max_depth)
    except msgspec.MsgspecError as error:
        raise _malformed(text, str(error)) from None


def _malformed(text: bytes, reason: str) -> Refusal:
    """Why msgspec refused `text`, in our words."""
    if not _is_utf8(text):
        return Refusal("invalid_utf8", "the line is not UTF-8")
    if "out of range" in reason:
        return _too_large_number()
    if _has_lone_surrogate(text):
        return Refusal("lone_surrogate", "a string holds half of a UTF-16 surrogate pair; such text cannot be encoded")
    if _NOT_A_NUMBER.search(text):
        return Refusal("invalid_json", "NaN and Infinity are not JSON; send null or a string")
    return Refusal("invalid_json", f"the line is not JSON: {reason.removeprefix('JSON is malformed: ')}")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_lone_surrogate(text: bytes) -> bool:
    """`text` would be JSON but for a lone surrogate (the json module lets them pass)."""
    if b"\\u" not in text:
        return False
    try:
        encode(json.loads(text, parse_int=str))  # an integer may have more digits than Python converts
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _too_large_number() -> Refusal:
    return Refusal(
        "number_out_of_range", "a number is beyond what a double can hold (about 1.8e308); send it as a string"
    )


def _check_integers(text: bytes) -> None:
    def check(digits: str) -> int:
        if len(digits) > SHORT_DIGITS:
            try:
                float(int(digits))
            except (OverflowError, ValueError):  # ValueError: over Python's own limit of digits
                raise _too_large_number() from None
        return 0

    json.loads(text, parse_int=check, parse_float=str)


def _check_keys(text: bytes, value: Any) -> int:
    """Refuse duplicate keys; the colons in `text`.

    Encoding the decoded value again gives exactly one colon for each distinct key
    and those inside strings, so equal counts mean that no key was named twice.
    Only an escaped colon (U+003A) in `text` could hide one.
    """
    colons = text.count(b":")
    if b"\\u003" not in text and encode(value).count(b":") == colons:
        return colons

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise Refusal("duplicate_key", f"an object names the key {quote(key)} twice", key=key[:100])
            seen.add(key)

    json.loads(text, object_pairs_hook=check, parse_int=str, parse_float=str)
    return colons
