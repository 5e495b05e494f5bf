"""One value of one source: from text or TOML to what `Settings` holds, or the reason why not."""

import os
import re

from stui_sessions.config.database import expected_url, shown_url
from stui_sessions.config.settings import GIB, KIB, MIB, TIB, Setting
from stui_sessions.errors import MAX_QUOTE, printable, quote

UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}
SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

# Twenty digits are more than any setting takes; int() of thousands of them is slow and, past 4,300, refused.
INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
SIZE = re.compile(r"([0-9]{1,20})\s*([A-Za-z]*)")


class Invalid(ValueError):
    """The value is not one the setting takes; the text says what was found and what would be right."""


def parse(setting: Setting, raw: object, *, text: bool) -> object:
    """The value of `setting` that `raw` stands for.

    `text`: the source knows only strings (environment, flags), so "5" is a number there and "a,b" a list.
    In TOML they are not.  Raises `Invalid`.
    """
    if setting.kind == "size" and isinstance(raw, str):
        value: object = _size(raw)
    elif text and isinstance(raw, str):
        value = _from_text(setting, raw)
    else:
        value = raw
    if not _fits(setting, value):
        raise Invalid(f"{shown(raw, plain=text)} is not a valid {setting.name}; expected {setting.expected}")
    if isinstance(value, list | tuple):
        return tuple(value)
    if setting.url and isinstance(value, str) and (right := expected_url(value)):
        raise Invalid(f"{shown(raw)} is not a valid {setting.name}; expected {right}")
    if setting.path and isinstance(value, str):
        # A shell expands ~ only where it stands alone: not in --db=~/x, not in a file, not in a unit's Environment=.
        return os.path.expanduser(value)
    return value


def _from_text(setting: Setting, raw: str) -> object:
    """`raw` as the setting's own type where it can be read as such; otherwise as it is, which `_fits` refuses."""
    match setting.kind:
        case "integer":
            return int(raw) if INTEGER.fullmatch(raw) else raw
        case "switch":
            return SWITCHES.get(raw.lower(), raw)
        case "list":
            return tuple(item.strip() for item in raw.split(",")) if raw else ()
        case _:
            return raw


def _size(raw: str) -> int | None:
    found = SIZE.fullmatch(raw)
    factor = UNITS.get(found[2].lower()) if found else None
    return int(found[1]) * factor if found and factor else None


def _fits(setting: Setting, value: object) -> bool:
    match setting.kind:
        case "integer" | "size":
            # `type`, not isinstance: True is no integer here.
            return type(value) is int and setting.low <= value <= setting.high
        case "switch":
            return isinstance(value, bool)
        case "choice":
            return value in setting.choices
        case "list":
            return isinstance(value, list | tuple) and all(_matches(setting, item) for item in value)
        case _:
            return _matches(setting, value)


def _matches(setting: Setting, value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        # Bytes that were not UTF-8 arrive as lone surrogates; they could be neither printed nor logged.
        value.encode()
    except UnicodeEncodeError:
        return False
    return re.fullmatch(setting.pattern, value) is not None


def shown(raw: object, *, plain: bool = False) -> str:
    """What was found, short, printable and without passwords, under whatever name they stand.

    `plain`: a number that came as text is shown without quotes.
    """
    if isinstance(raw, str):
        return raw if plain and INTEGER.fullmatch(raw) else quote(shown_url(raw))
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, int):
        # A TOML integer in hexadecimal may be longer than str() agrees to convert.
        return str(raw) if raw.bit_length() < 128 else f"an integer of {raw.bit_length()} bits"
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list | tuple):
        inside = ", ".join(shown(item) for item in raw[:10]) + (", …" if len(raw) > 10 else "")
        return "[" + (inside if len(inside) <= 3 * MAX_QUOTE else inside[: 3 * MAX_QUOTE] + "…") + "]"
    return printable(str(raw))
