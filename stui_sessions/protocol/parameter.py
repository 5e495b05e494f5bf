"""One parameter of a command: what its type says of it, and how an error says what was expected."""

from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Raw, inspect

_JSON_TYPES: dict[type, type] = {
    inspect.IntType: int,
    inspect.BoolType: bool,
    inspect.ListType: list,
    inspect.RawType: dict,
    inspect.StrType: str,
}


class Parameter:
    """What follows from the type of a field of a parameters Struct."""

    def __init__(self, name: str, annotation: Any, field: inspect.Field) -> None:
        self.name = name
        self.required = field.required
        self.annotation = annotation
        bare, expected, self.nullable = _bare(field.type)
        self.json_type = _json_type(bare)
        self.is_state = isinstance(bare, inspect.RawType)
        """Its value is a JSON object that is kept as its text."""
        self.expected = expected or _in_words(bare, annotation)
        """What it must be, for people: "an integer from 1 to 100"."""
        self._texts = _text_fields(bare)

    def takes(self, value: Any) -> bool:
        """A decoded value, not null and of the right JSON type, is one that the parameter may have."""
        if self.is_state:
            return True
        if self._texts and isinstance(value, list):
            value = [self._with_texts(item) for item in value]
        try:
            msgspec.convert(value, self.annotation)
        except msgspec.ValidationError:
            return False
        return True

    def _with_texts(self, item: Any) -> Any:
        """An item as it is decoded: what it keeps as text may be anything."""
        if type(item) is not dict:
            return item
        return {name: Raw(b"0") if name in self._texts else value for name, value in item.items()}


def _bare(type: inspect.Type) -> tuple[inspect.Type, str, bool]:
    """The type without what only describes it or makes it optional; what its author says was expected; null fits."""
    expected, nullable = "", False
    while True:
        if isinstance(type, inspect.Metadata):
            expected = expected or (type.extra or {}).get("expected", "")
            type = type.type
        elif isinstance(type, inspect.UnionType):
            nullable = any(isinstance(one, inspect.NoneType) for one in type.types)
            (type,) = [one for one in type.types if not isinstance(one, inspect.NoneType)]
        else:
            return type, expected, nullable


def _json_type(bare: inspect.Type) -> type:
    if isinstance(bare, inspect.LiteralType):
        return type(bare.values[0])
    return _JSON_TYPES[type(bare)]


def _text_fields(bare: inspect.Type) -> set[str]:
    """Of an array of objects: the fields of its items that are kept as text."""
    if not isinstance(bare, inspect.ListType):
        return set()
    item, _, _ = _bare(bare.item_type)
    if not isinstance(item, inspect.StructType):
        return set()
    return {field.name for field in item.fields if isinstance(_bare(field.type)[0], inspect.RawType)}


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The values of the Literal in a type, in their own order (that of `inspect` is another)."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := _choices(one))), ())


def any_of(texts: list[str]) -> str:
    """For people: `a, b or c`."""
    *most, last = texts
    return f"{', '.join(most)} or {last}" if most else last


def _in_words(bare: inspect.Type, annotation: Any) -> str:
    if isinstance(bare, inspect.LiteralType):
        return any_of([f'"{value}"' for value in _choices(annotation)])
    if isinstance(bare, inspect.IntType):
        return f"an integer, {bare.ge} or more" if bare.le is None else f"an integer from {bare.ge} to {bare.le}"
    if isinstance(bare, inspect.StrType):
        return f"a string of {_length(bare)}"
    if isinstance(bare, inspect.ListType):
        item, _, _ = _bare(bare.item_type)
        items = f"strings of {_length(item)}" if isinstance(item, inspect.StrType) else "values"
        return f"an array of up to {bare.max_length} {items}"
    return "true or false" if isinstance(bare, inspect.BoolType) else "an object"


def _length(bare: inspect.StrType) -> str:
    if bare.max_length is None:
        return f"{bare.min_length} or more characters"
    return f"{bare.min_length} to {bare.max_length} characters"
