"""What JSON can say, and comes back as it was: the check of everything that a caller wants to send.

The encoder would also take a set (as an array), bytes (as Base64), a Decimal or a date (as a string) and the
key 1 (as "1"), and something else would be restored than what was saved.  Tuples become lists, which Python
compares item by item as well.
"""

import math
from collections.abc import Iterable
from enum import Enum
from typing import Any

from msgspec import UNSET, Raw, Struct

_PLAIN = frozenset({str, int, bool, type(None), Raw})


def check_value(name: str, value: Any) -> None:
    """Raise TypeError or ValueError, with the parameter's `name`, for what would not come back as it is."""
    if type(value) in _PLAIN:
        return
    try:
        _check(name, value)
    except RecursionError:
        raise ValueError(f"{name} is nested too deep, or holds itself") from None


def _check(name: str, value: Any) -> None:
    # Most values are plain: one look at their type, and no call.
    kind = type(value)
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{name} holds {value}, which is not JSON; send None or a string")
        return
    items: Iterable[Any] = value
    if kind is dict or isinstance(value, dict):
        for key in value:
            if type(key) is not str:
                _check_key(name, key)
        items = value.values()
    elif isinstance(value, Struct):  # such as the rows of an export
        items = (item for field in value.__struct_fields__ if (item := getattr(value, field)) is not UNSET)
    elif not isinstance(value, list | tuple):
        raise TypeError(
            f"{name} holds a value of the type {kind.__name__}, which JSON cannot say;"
            " send a string, a number, a bool, None, a list or a dict"
        )
    for item in items:
        if type(item) not in _PLAIN:
            _check(name, item)


def _check_key(name: str, key: Any) -> None:
    if not isinstance(key, str) or isinstance(key, Enum):
        raise TypeError(f"{name} holds the key {key!r:.100}; the keys of a JSON object are strings")
