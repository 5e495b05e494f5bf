"""Every kind of difference between two schemas, as the client that sends and the client that receives see it."""

from typing import Any

import pytest

from stui_sessions.protocol.schemadiff import Change, Comparison, Effect, Side

NONE, WORDING, ADDITION, BREAK = Effect
MEETS = "; clients meet values that they were told not to expect"


def found(side: Side, before: Any, after: Any, defs: Any = None, new_defs: Any = None) -> list[Change]:
    comparison = Comparison(side, defs or {}, new_defs or defs or {})
    comparison.compare("x", before, after)
    return comparison.found


def one(side: Side, before: Any, after: Any) -> tuple[str, Effect]:
    (change,) = found(side, before, after)
    return f"{change.path}: {change.what}", change.effect


def thing(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
RECURSIVE = thing(next={"$ref": "#/$defs/Node"})

WIDER: list[tuple[Any, Any, str, str]] = [
    ({"maximum": 50}, {"maximum": 100}, "maximum 50 -> 100", "maximum 100 -> 50"),
    ({"maximum": 50}, {}, "maximum 50 -> none", "maximum none -> 50"),
    ({"exclusiveMaximum": 1}, {"exclusiveMaximum": 2}, "exclusiveMaximum 1 -> 2", "exclusiveMaximum 2 -> 1"),
    ({"maxLength": 5}, {"maxLength": 6}, "maxLength 5 -> 6", "maxLength 6 -> 5"),
    ({"maxItems": 5}, {"maxItems": 6}, "maxItems 5 -> 6", "maxItems 6 -> 5"),
    ({"maxProperties": 5}, {}, "maxProperties 5 -> none", "maxProperties none -> 5"),
    ({"minimum": 2}, {"minimum": 1}, "minimum 2 -> 1", "minimum 1 -> 2"),
    ({"minimum": 0}, {}, "minimum 0 -> none", "minimum none -> 0"),
    ({"exclusiveMinimum": 0}, {}, "exclusiveMinimum 0 -> none", "exclusiveMinimum none -> 0"),
    ({"minLength": 1}, {}, "minLength 1 -> none", "minLength none -> 1"),
    ({"minItems": 1}, {"minItems": 0}, "minItems 1 -> 0", "minItems 0 -> 1"),
    ({"minProperties": 1}, {}, "minProperties 1 -> none", "minProperties none -> 1"),
    ({"pattern": "a"}, {}, 'pattern "a" -> none', 'pattern none -> "a"'),
    ({"format": "date"}, {}, 'format "date" -> none', 'format none -> "date"'),
    ({"enum": ["a"]}, {"enum": ["b", "a"]}, 'the value "b" is new', 'the value "b" is gone'),
    ({"const": "a"}, {"enum": ["a", "b", "c"]}, 'the value "b" or "c" is new', 'the value "b" or "c" is gone'),
    ({"enum": ["a", "b"]}, TEXT, 'values "a" or "b" -> any', 'values any -> "a" or "b"'),
    (NUMBER, {"type": "number"}, "type integer -> number", "type number -> integer"),
    (TEXT, {"type": ["string", "null"]}, "type string -> null or string", "type null or string -> string"),
    (TEXT, {}, "type string -> any", "type any -> string"),
    (
        {"additionalProperties": False},
        {},
        "fields that it does not name: refused -> allowed",
        "fields that it does not name: allowed -> refused",
    ),
    (
        {"additionalProperties": False},
        {"additionalProperties": TEXT},
        "fields that it does not name: refused -> of one kind",
        "fields that it does not name: of one kind -> refused",
    ),
    (
        {"additionalProperties": TEXT},
        {"additionalProperties": True},
        "fields that it does not name: of one kind -> allowed",
        "fields that it does not name: allowed -> of one kind",
    ),
    (
        NUMBER,
        {"anyOf": [NUMBER, {"type": "null"}]},
        'the alternative {"type":"null"} is new',
        'the alternative {"type":"null"} is gone',
    ),
    (
        TEXT,
        {"oneOf": [TEXT, {"type": "null"}]},
        'the alternative {"type":"null"} is new',
        'the alternative {"type":"null"} is gone',
    ),
    (
        {"oneOf": [NUMBER, TEXT]},
        {"oneOf": [NUMBER, TEXT, {"type": "null"}]},
        'the alternative {"type":"null"} is new',
        'the alternative {"type":"null"} is gone',
    ),
    (
        {"type": "object", "anyOf": [{"required": ["a"]}]},
        {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        'the alternative {"required":["b"]} is new',
        'the alternative {"required":["b"]} is gone',
    ),
    ({"type": "object", "anyOf": [{}]}, {"type": "object"}, "the rule anyOf is gone", "the rule anyOf is new"),
]
"""Before, after, the words for it, and the words for the way back."""


@pytest.mark.parametrize(("narrow", "wide", "words", "back"), WIDER, ids=[w for _, _, w, _ in WIDER])
def test_what_takes_more_or_less(narrow: Any, wide: Any, words: str, back: str) -> None:
    assert one(Side.SENT, narrow, wide) == (f"x: {words}", ADDITION)
    assert one(Side.SENT, wide, narrow) == (f"x: {back}", BREAK)
    assert one(Side.RECEIVED, narrow, wide) == (f"x: {words}{MEETS}", BREAK)
    assert one(Side.RECEIVED, wide, narrow) == (f"x: {back}", ADDITION)


OTHER: list[tuple[Any, Any, str]] = [
    (TEXT, NUMBER, "type string -> integer"),
    ({"pattern": "a"}, {"pattern": "b"}, 'pattern "a" -> "b"'),
    ({"format": "a"}, {"format": "b"}, 'format "a" -> "b"'),
]


@pytest.mark.parametrize(("before", "after", "words"), OTHER)
def test_what_takes_something_else_breaks_both(before: Any, after: Any, words: str) -> None:
    assert one(Side.SENT, before, after) == (f"x: {words}", BREAK)
    assert one(Side.RECEIVED, before, after) == (f"x: {words}{MEETS}", BREAK)


def test_a_value_that_takes_the_place_of_another_is_a_new_one_and_one_that_is_gone() -> None:
    changes = found(Side.SENT, {"enum": ["a", "b"]}, {"enum": ["a", "c"]})
    assert [(c.what, c.effect) for c in changes] == [
        ('the value "c" is new', ADDITION),
        ('the value "b" is gone', BREAK),
    ]


FIELDS: list[tuple[Any, Any, str, Effect, str, Effect]] = [
    (thing(), thing(a=TEXT), "x.a: new, and optional", ADDITION, "x.a: new", ADDITION),
    (thing(), thing("a", a=TEXT), "x.a: new, and required", BREAK, "x.a: new", ADDITION),
    (thing(a=TEXT), thing(), "x.a: removed", BREAK, "x.a: removed", BREAK),
    (thing("a", a=TEXT), thing(), "x.a: removed", BREAK, "x.a: removed", BREAK),
    (
        thing(a=TEXT),
        thing("a", a=TEXT),
        "x.a: optional -> required",
        BREAK,
        "x.a: not always there -> always there",
        ADDITION,
    ),
    (
        thing("a", a=TEXT),
        thing(a=TEXT),
        "x.a: required -> optional",
        ADDITION,
        "x.a: always there -> not always there",
        BREAK,
    ),
    ({"required": []}, {"required": ["a"]}, "x.a: optional -> required", BREAK, "", ADDITION),
    ({"default": 1}, {"default": 2}, "x: default 1 -> 2", BREAK, "", WORDING),
    ({}, {"default": 2}, "x: default none -> 2", BREAK, "", WORDING),
    ({"default": None}, {}, "x: default null -> none", BREAK, "", WORDING),
    ({"title": "A"}, {"title": "B"}, "x: title says it in other words", WORDING, "", WORDING),
    ({}, {"description": "B"}, "x: description says it in other words", WORDING, "", WORDING),
    ({"multipleOf": 2}, {}, "x: multipleOf has changed, and there is no rule for it", BREAK, "", BREAK),
    ({"not": {}}, {}, "x: not has changed, and there is no rule for it", BREAK, "", BREAK),
    ({"allOf": [{"minimum": 1}]}, {}, 'x: the rule {"minimum":1} is gone', ADDITION, "", BREAK),
    ({"allOf": [{}]}, {"allOf": [{}, {"minimum": 1}]}, 'x: the rule {"minimum":1} is new', BREAK, "", ADDITION),
    ({"allOf": [{"minimum": 1}]}, {"allOf": [{"minimum": 2}]}, "x: minimum 1 -> 2", BREAK, "", ADDITION),
]


@pytest.mark.parametrize(("before", "after", "sent", "sent_effect", "received", "received_effect"), FIELDS)
def test_fields_and_words(
    before: Any, after: Any, sent: str, sent_effect: Effect, received: str, received_effect: Effect
) -> None:
    assert one(Side.SENT, before, after) == (sent, sent_effect)
    words, effect = one(Side.RECEIVED, before, after)
    assert effect is received_effect
    if received:
        assert words == received


INSIDE: list[tuple[Any, Any, str]] = [
    (thing(a={"maximum": 1}), thing(a={"maximum": 2}), "x.a"),
    (thing(a=thing(b={"maximum": 1})), thing(a=thing(b={"maximum": 2})), "x.a.b"),
    ({"items": {"maximum": 1}}, {"items": {"maximum": 2}}, "x[]"),
    ({"items": {"maximum": 1}}, {}, "x[]"),
    ({"additionalProperties": {"maximum": 1}}, {"additionalProperties": {"maximum": 2}}, "x.*"),
    ({"anyOf": [TEXT, {"maximum": 1}]}, {"anyOf": [TEXT, {"maximum": 2}]}, "x"),
    ({"anyOf": [TEXT, thing(a={"maximum": 1})]}, {"anyOf": [TEXT, thing(a={"maximum": 2})]}, "x.a"),
]


@pytest.mark.parametrize(("before", "after", "path"), INSIDE)
def test_the_path_leads_to_the_difference(before: Any, after: Any, path: str) -> None:
    (change,) = found(Side.SENT, before, after)
    assert change.path == path
    assert change.effect is ADDITION


SAME: list[tuple[Any, Any]] = [
    (thing("a", "b", a=TEXT, b=TEXT), thing("b", "a", b=TEXT, a=TEXT)),
    ({"enum": ["a", "b"]}, {"enum": ["b", "a"]}),
    ({"const": "a"}, {"enum": ["a"]}),
    ({"enum": ["a"]}, {"enum": ["a"], "type": "string"}),
    ({}, {"minLength": 0}),
    ({"items": True}, {}),
    ({"additionalProperties": True}, {}),
    ({"anyOf": [TEXT]}, TEXT),
    ({"anyOf": [TEXT, NUMBER]}, {"anyOf": [NUMBER, TEXT]}),
]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(("before", "after"), SAME)
def test_what_says_the_same_is_no_change(side: Side, before: Any, after: Any) -> None:
    assert found(side, before, after) == []
    assert found(side, after, before) == []


def test_references_are_followed_and_their_names_do_not_matter() -> None:
    before, after = {"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}
    assert found(Side.SENT, before, after, {"A": TEXT}, {"B": TEXT}) == []
    assert found(Side.SENT, before, TEXT, {"A": TEXT}) == []
    (change,) = found(Side.SENT, thing(a=before), thing(a=before), {"A": {"maximum": 2}}, {"A": {"maximum": 1}})
    assert (change.path, change.what, change.effect) == ("x.a", "maximum 2 -> 1", BREAK)
    # Also where an alternative is the same by its name.
    union = {"anyOf": [before, {"type": "null"}]}
    (change,) = found(Side.SENT, union, union, {"A": {"maximum": 2}}, {"A": {"maximum": 1}})
    assert change.effect is BREAK


def test_what_stands_beside_a_reference_counts() -> None:
    (change,) = found(Side.SENT, {"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A", "maximum": 5}, {"A": {"maximum": 9}})
    assert change.what == "maximum 9 -> 5"


def test_the_same_type_is_compared_wherever_it_stands() -> None:
    both = thing(a={"$ref": "#/$defs/A"}, b={"$ref": "#/$defs/A"})
    changes = found(Side.SENT, both, both, {"A": TEXT}, {"A": NUMBER})
    assert [c.path for c in changes] == ["x.a", "x.b"]


def test_a_type_that_holds_itself() -> None:
    node = {"$ref": "#/$defs/Node"}
    grown = thing(next=node, value=TEXT)
    assert found(Side.SENT, node, node, {"Node": RECURSIVE}) == []
    (change,) = found(Side.SENT, node, node, {"Node": RECURSIVE}, {"Node": grown})
    assert (change.path, change.effect) == ("x.value", ADDITION)


def test_names_of_fields_are_no_words() -> None:
    one_way = {"anyOf": [TEXT, thing(title=TEXT)]}
    other = {"anyOf": [TEXT, thing(title=NUMBER)]}
    (change,) = found(Side.SENT, one_way, other)
    assert (change.path, change.effect) == ("x.title", BREAK)
    (change,) = found(Side.SENT, {"anyOf": [thing(title=TEXT), thing(title=NUMBER)]}, thing(title=TEXT))
    assert change.path == "x"
    assert change.what.startswith("the alternative")


def test_alternatives_that_only_say_it_otherwise() -> None:
    def union(word: str) -> dict[str, Any]:
        said = TEXT | {"description": word}
        return {"anyOf": [thing(a=said), thing(b={"items": said}), thing(c={"anyOf": [said, NUMBER]})]}

    changes = found(Side.SENT, union("one"), union("other"))
    assert sorted((c.path, c.effect) for c in changes) == [("x.a", WORDING), ("x.b[]", WORDING), ("x.c", WORDING)]


def test_a_change_reads_like_a_sentence() -> None:
    (change,) = found(Side.SENT, thing(timeout={"maximum": 100}), thing(timeout={"maximum": 50}))
    assert str(change) == "x.timeout: maximum 100 -> 50 [break]"
