"""What differs between two JSON Schemas, and whether the other side of the wire can notice it.

It depends on who writes the value.  What a client sends may be allowed more than
before, never less; what a client receives may become more exact, never less.
What there is no rule for counts as a break: better a version too many than a
client that stops working.
"""

from collections.abc import Callable, Iterable
from enum import Enum, IntEnum
from math import inf
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from stui_sessions.protocol.definitions import Schema, resolved

LEFT_OUT_WITH = "x-left-out-with"
"""Keyword of a field of a result: the parameter, with its value, that asks for it to be left out."""

NOT_ALWAYS = "always there -> not always there"


class Effect(IntEnum):
    """What a change does to a client that was written for the contract before it; the greater, the worse."""

    NONE = 0
    WORDING = 1  # only people read it
    ADDITION = 2
    BREAK = 3


class Change(Struct, frozen=True):
    """One difference: where, what in words, and what it does to clients."""

    path: str
    what: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.path}: {self.what} [{self.effect.name.lower()}]"


class Side(Enum):
    """Who writes the values that a schema describes."""

    SENT = "by clients"
    RECEIVED = "by the server"


_WORDS = ("title", "description", "examples", "$comment", "deprecated")
_LOWER: dict[str, float] = {
    "minimum": -inf,
    "exclusiveMinimum": -inf,
    "minLength": 0,
    "minItems": 0,
    "minProperties": 0,
}
_UPPER = dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), inf)
_TEXT_RULES = ("pattern", "format")
_ALTERNATIVES = ("anyOf", "oneOf")

_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}


class Comparison:
    """Gathers in `found` what differs between schemas of two documents, given their `$defs`."""

    def __init__(self, side: Side, before: Schema, after: Schema) -> None:
        self.found: list[Change] = []
        self._side = side
        self._definitions = (before, after)
        self._open: set[tuple[str, str]] = set()
        """References that are being followed: a type may hold itself."""

    def compare(self, path: str, before: Schema, after: Schema) -> None:
        """Note how the schema at `path` has changed."""
        following = (str(before.get("$ref")), str(after.get("$ref")))
        if following != ("None", "None"):
            if following in self._open:
                return
            self._open.add(following)
        old, new = resolved(before, self._definitions[0]), resolved(after, self._definitions[1])
        self._words(path, old, new)
        self._default(path, old, new)
        if _is_union(old) or _is_union(new):
            self._union(path, _alternatives(old), _alternatives(new))
        else:
            self._keywords(path, old, new)
        self._open.discard(following)

    def _keywords(self, path: str, old: Schema, new: Schema) -> None:
        self._types(path, old, new)
        self._values(path, old, new)
        self._properties(path, old, new)
        present = dict.fromkeys((*old, *new))
        for keyword in present:
            rule = self._rules.get(keyword)
            if rule is not None:
                rule(self, path, keyword, old, new)
            elif keyword not in _DONE and _text(old.get(keyword)) != _text(new.get(keyword)):
                self.note(path, f"{keyword} has changed, and there is no rule for it", Effect.BREAK)

    def note(self, path: str, what: str, effect: Effect) -> None:
        """Note one difference."""
        self.found.append(Change(path, what, effect))

    def _domain(self, path: str, what: str, *, wider: bool, narrower: bool) -> None:
        """Note that values are allowed that were not (wider), or no longer those that were (narrower)."""
        if self._side is Side.SENT:
            self.note(path, what, Effect.BREAK if narrower else Effect.ADDITION)
        elif wider:
            self.note(path, f"{what}; clients meet values that they were told not to expect", Effect.BREAK)
        else:
            self.note(path, what, Effect.ADDITION)

    # -- what people read, and what stands in for a value that is left out

    def _words(self, path: str, old: Schema, new: Schema) -> None:
        for keyword in _WORDS:
            if _text(old.get(keyword)) != _text(new.get(keyword)):
                self.note(path, f"{keyword} says it in other words", Effect.WORDING)

    def _default(self, path: str, old: Schema, new: Schema) -> None:
        before, after = _shown(old, "default"), _shown(new, "default")
        if before != after:
            # A default has no meaning in what is received: a field is there or not.
            effect = Effect.BREAK if self._side is Side.SENT else Effect.WORDING
            self.note(path, f"default {before} -> {after}", effect)

    # -- which values

    def _types(self, path: str, old: Schema, new: Schema) -> None:
        before, after = _types(old), _types(new)
        if before != after:
            what = f"type {_type_names(before)} -> {_type_names(after)}"
            self._domain(path, what, wider=bool(after - before), narrower=bool(before - after))

    def _values(self, path: str, old: Schema, new: Schema) -> None:
        before, after = _values(old), _values(new)
        if before is None or after is None:
            if before != after:
                what = f"values {_listed(before)} -> {_listed(after)}"
                self._domain(path, what, wider=after is None, narrower=before is None)
            return
        if gained := [value for value in after if value not in before]:
            self._domain(path, f"the value {_listed(gained)} is new", wider=True, narrower=False)
        if lost := [value for value in before if value not in after]:
            self._domain(path, f"the value {_listed(lost)} is gone", wider=False, narrower=True)

    def _limit(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        nothing = (_LOWER | _UPPER)[keyword]
        before, after = old.get(keyword, nothing), new.get(keyword, nothing)
        if before != after:
            narrower = (after > before) is (keyword in _LOWER)
            what = f"{keyword} {_shown(old, keyword)} -> {_shown(new, keyword)}"
            self._domain(path, what, wider=not narrower, narrower=narrower)

    def _text_rule(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        before, after = _shown(old, keyword), _shown(new, keyword)
        if before != after:
            # Which of two patterns takes more cannot be told.
            self._domain(path, f"{keyword} {before} -> {after}", wider=keyword in old, narrower=keyword in new)

    # -- what is inside

    def _properties(self, path: str, old: Schema, new: Schema) -> None:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed = (set(old.get("required", ())), set(new.get("required", ())))
        for name in dict.fromkeys((*before, *after, *sorted(needed[0] | needed[1]))):
            where = f"{path}.{name}"
            was, now = name in needed[0], name in needed[1]
            if name in after and name not in before:
                self._new_property(where, now)
                continue
            if name in before and name not in after:
                self.note(where, "removed", Effect.BREAK)
                continue
            if was != now:
                self._presence(where, now)
            if name in before:
                self.compare(where, before[name], after[name])

    def _new_property(self, path: str, required: bool) -> None:
        if self._side is Side.RECEIVED:
            self.note(path, "new", Effect.ADDITION)
        elif required:
            self.note(path, "new, and required", Effect.BREAK)
        else:
            self.note(path, "new, and optional", Effect.ADDITION)

    def _presence(self, path: str, required: bool) -> None:
        if self._side is Side.SENT:
            what = "optional -> required" if required else "required -> optional"
        else:
            what = "not always there -> always there" if required else NOT_ALWAYS
        breaks = required is (self._side is Side.SENT)
        self.note(path, what, Effect.BREAK if breaks else Effect.ADDITION)

    def _left_out(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        """What asks for a field to be left out.  That it may be missing at all is told where it is not required."""
        if keyword in old and keyword in new and old[keyword] != new[keyword]:
            self.note(path, f"is left out with {_text(old[keyword])} -> {_text(new[keyword])}", Effect.BREAK)

    def _items(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        self.compare(f"{path}[]", _as_schema(old.get(keyword, True)), _as_schema(new.get(keyword, True)))

    def _others(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        """Fields that the schema does not name."""
        before, after = old.get(keyword, True), new.get(keyword, True)
        if isinstance(before, dict) and isinstance(after, dict):
            self.compare(f"{path}.*", before, after)
        elif before != after:
            wider = _openness(after) > _openness(before)
            what = f"fields that it does not name: {_OPENNESS[_openness(before)]} -> {_OPENNESS[_openness(after)]}"
            self._domain(path, what, wider=wider, narrower=not wider)

    # -- alternatives

    def _union(self, path: str, old: list[Schema], new: list[Schema]) -> None:
        before = {_text(_essence(schema)): schema for schema in old}
        after = {_text(_essence(schema)): schema for schema in new}
        lost = [before[text] for text in before if text not in after]
        gained = [after[text] for text in after if text not in before]
        for text in before.keys() & after.keys():
            self.compare(path, before[text], after[text])
        if len(lost) == len(gained) == 1:
            self.compare(path, lost[0], gained[0])
            return
        for schema in gained:
            self._domain(path, f"the alternative {_brief(schema)} is new", wider=True, narrower=False)
        for schema in lost:
            self._domain(path, f"the alternative {_brief(schema)} is gone", wider=False, narrower=True)

    def _rule_of_alternatives(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        """Alternatives beside other keywords are one more thing that a value must satisfy."""
        if keyword in old and keyword in new:
            self._union(path, old[keyword], new[keyword])
        else:
            what = f"the rule {keyword} is {'gone' if keyword in old else 'new'}"
            self._domain(path, what, wider=keyword in old, narrower=keyword in new)

    def _rules_together(self, path: str, keyword: str, old: Schema, new: Schema) -> None:
        """Rules that hold all at once, told apart by their places."""
        before, after = old.get(keyword, []), new.get(keyword, [])
        for one, other in zip(before, after, strict=False):
            self.compare(path, one, other)
        for schema in after[len(before) :]:
            self._domain(path, f"the rule {_brief(schema)} is new", wider=False, narrower=True)
        for schema in before[len(after) :]:
            self._domain(path, f"the rule {_brief(schema)} is gone", wider=True, narrower=False)

    _rules: ClassVar[dict[str, Callable[["Comparison", str, str, Schema, Schema], None]]] = {
        **dict.fromkeys((*_LOWER, *_UPPER), _limit),
        **dict.fromkeys(_TEXT_RULES, _text_rule),
        **dict.fromkeys(_ALTERNATIVES, _rule_of_alternatives),
        "allOf": _rules_together,
        "items": _items,
        "additionalProperties": _others,
        LEFT_OUT_WITH: _left_out,
    }


_DONE = {*_WORDS, "default", "type", "enum", "const", "properties", "required", "$ref"}
_OPENNESS = ("refused", "of one kind", "allowed")


def _openness(others: Schema | bool) -> int:
    return 1 if isinstance(others, dict) else 2 * others


def _as_schema(schema: Schema | bool) -> Schema:
    if isinstance(schema, dict):
        return schema
    return {} if schema else {"enum": []}


def _is_union(schema: Schema) -> bool:
    """It is nothing but a list of alternatives."""
    return len(_rest(schema)) == 1 and _rest(schema)[0] in _ALTERNATIVES


def _alternatives(schema: Schema) -> list[Schema]:
    rest = _rest(schema)
    return schema[rest[0]] if _is_union(schema) else [{key: schema[key] for key in rest}]


def _rest(schema: Schema) -> list[str]:
    return [key for key in schema if key not in _WORDS and key != "default"]


def _types(schema: Schema) -> set[str]:
    """The JSON types that a value may have; a number may be an integer."""
    values = _values(schema)
    if "type" in schema:
        said = schema["type"]
        types = {said} if isinstance(said, str) else set(said)
    elif values is not None:
        types = {_TYPES[type(msgspec.json.decode(value))] for value in values}
    else:
        types = set(_TYPES.values())
    return types | {"integer"} if "number" in types else types


def _type_names(types: set[str]) -> str:
    if len(types) == len(_TYPES):
        return "any"
    return " or ".join(sorted(types - {"integer"} if "number" in types else types))


def _values(schema: Schema) -> list[str] | None:
    """The texts of the values that are allowed; None if they are not counted."""
    if "const" in schema:
        return [_text(schema["const"])]
    return [_text(value) for value in schema["enum"]] if "enum" in schema else None


def _listed(values: Iterable[str] | None) -> str:
    return "any" if values is None else " or ".join(values) or "none"


def _shown(schema: Schema, keyword: str) -> str:
    return _text(schema[keyword]) if keyword in schema else "none"


def _brief(schema: Schema) -> str:
    text = _text(_essence(schema))
    return text if len(text) <= 80 else text[:79] + "…"


def _essence(schema: Any) -> Any:
    """`schema` without what only people read."""
    if not isinstance(schema, dict):
        return schema
    return {key: _essence_of(key, value) for key, value in schema.items() if key not in _WORDS}


def _essence_of(keyword: str, value: Any) -> Any:
    if keyword == "properties":  # its keys are names, "title" perhaps
        return {name: _essence(schema) for name, schema in value.items()}
    if keyword in (*_ALTERNATIVES, "allOf"):
        return [_essence(schema) for schema in value]
    return _essence(value) if keyword in ("items", "additionalProperties") else value


def _text(value: Any) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
