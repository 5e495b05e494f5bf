"""The mechanism of the registry, on a registry of its own: one row, and everything follows from it."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from stui_sessions.commands.stubs import methods, results
from stui_sessions.errors import Refusal
from stui_sessions.protocol.describe import command_contract
from stui_sessions.protocol.fields import NAMING, JsonObject, says
from stui_sessions.protocol.jsontext import StateText
from stui_sessions.protocol.messages import Codec, Malformed, WireLimits
from stui_sessions.protocol.reference import reference
from stui_sessions.protocol.registry import Command, Registry, nearest
from stui_sessions.protocol.schema import contract, parameter_schemas


class Item(Struct):
    """A thing."""

    text: Annotated[Raw, Meta(description="As it came.", extra_json_schema={"type": "object"})]


class PaintParams(Struct, forbid_unknown_fields=True, kw_only=True):
    session_id: Annotated[str, Meta(min_length=1, max_length=9, description="Whose.")] | UnsetType = UNSET
    external_id: Annotated[str, Meta(min_length=1, description="Whose else.")] | UnsetType = UNSET
    colour: Annotated[Literal["red", "blue", "green"], Meta(description="Which.")]
    coats: Annotated[int, Meta(ge=1, le=3, description="How many.")] = 1
    name: Annotated[str | UnsetType | None, Meta(description="A name.", extra=says("a nice name"))] = UNSET
    plan: Annotated[JsonObject | UnsetType, Meta(description="What for.")] = UNSET
    items: Annotated[list[Item], Meta(max_length=2, description="Things.")] | UnsetType = UNSET


class PaintResult(Struct):
    painted: Annotated[bool, Meta(description="It is done.")]


def paint(draft: Any, p: PaintParams) -> PaintResult:
    return PaintResult(True)


PAINT = Command(
    "paint",
    "Paints a session.",
    PaintParams,
    PaintResult,
    paint,
    access="write",
    errors="session_not_found",
    one_of=(NAMING,),
    by_position=("session_id",),
    main_state="plan",
)
REGISTRY = Registry([PAINT], "3.2.1")
CODEC = Codec(REGISTRY, WireLimits())


def line(**parameters: Any) -> bytes:
    return json.dumps({"id": 1, "command": "paint", "parameters": parameters}).encode()


def refusal(**parameters: Any) -> Refusal:
    with pytest.raises(Malformed) as caught:
        CODEC.decode(line(**parameters))
    return caught.value.refusal


def test_a_row_belongs_to_its_registry() -> None:
    assert PAINT.registry is REGISTRY
    assert REGISTRY["paint"] is REGISTRY.find("paint") is PAINT
    assert (list(REGISTRY), REGISTRY.names, len(REGISTRY)) == ([PAINT], ["paint"], 1)
    assert "paint" in REGISTRY
    assert "plant" not in REGISTRY


def test_a_name_that_is_near() -> None:
    with pytest.raises(Refusal, match="did you mean paint") as caught:
        REGISTRY.find("Pant")
    assert caught.value.details == {"command": "Pant", "nearest": "paint"}
    assert nearest("x" * 10_000, REGISTRY.names) is None


@pytest.mark.parametrize(("handler", "operation"), [(paint, True), (None, False)])
def test_a_command_has_a_handler_or_is_an_operation_of_the_server(handler: Any, operation: bool) -> None:
    with pytest.raises(ValueError, match="paint"):
        Command("paint", "", PaintParams, PaintResult, handler, operation=operation)
    assert Command("copy", "", PaintParams, PaintResult, operation=True).handler is None


def test_what_follows_from_the_types() -> None:
    assert PAINT.required == ("colour",)
    assert PAINT.state_parameters == ("plan",)
    assert PAINT.names_session
    assert PAINT.line_keys == len(["id", "command", "parameters", "session_id", "colour"])
    assert {name: p.expected for name, p in PAINT.parameters.items()} == {
        "session_id": "a string of 1 to 9 characters",
        "external_id": "a string of 1 or more characters",
        "colour": '"red", "blue" or "green"',
        "coats": "an integer from 1 to 3",
        "name": "a nice name",
        "plan": "an object",
        "items": "an array of up to 2 values",
    }
    assert [name for name, p in PAINT.parameters.items() if p.nullable] == ["name"]


def test_a_line_is_decoded_in_one_step() -> None:
    request = CODEC.decode(line(session_id="s", colour="blue", plan={"a": 1}))
    assert request.command is PAINT
    assert (request.parameters.colour, request.parameters.coats) == ("blue", 1)
    assert request.parameters.plan == StateText(b'{"a": 1}', ("a",))


@pytest.mark.parametrize(
    ("wrong", "code", "text"),
    [
        ({"colour": "pink"}, "invalid_parameter", 'colour must be "red", "blue" or "green", not "pink"'),
        ({"coats": 4}, "invalid_parameter", "coats must be an integer from 1 to 3, not 4"),
        ({"coats": True}, "wrong_type", "coats must be an integer from 1 to 3, not a boolean"),
        ({"name": 5}, "wrong_type", "name must be a nice name, not an integer"),
        ({"plan": []}, "wrong_type", "plan must be an object, not an array"),
        ({"plan": None}, "null_parameter", "plan is null; it must be an object, or left out where it is optional"),
        ({"session_id": ""}, "empty_parameter", "session_id is empty; it must be a string of 1 to 9 characters"),
        ({"items": [{}]}, "invalid_parameter", "items must be an array of up to 2 values, not this array"),
        ({"items": [{"text": 1}] * 3}, "invalid_parameter", "items must be an array of up to 2 values, not this array"),
        ({"color": 1}, "unknown_parameter", 'paint has no parameter "color"; did you mean colour?'),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_the_row(wrong: dict[str, Any], code: str, text: str) -> None:
    told = refusal(**{"session_id": "s", "colour": "red", **wrong})
    assert (told.code, told.text) == (code, text)


def test_an_item_is_kept_as_text_whatever_it_is() -> None:
    request = CODEC.decode(line(session_id="s", colour="red", items=[{"text": {"a": [1]}}, {"text": None}]))
    assert [bytes(item.text) for item in request.parameters.items] == [b'{"a": [1]}', b"null"]


def test_null_where_it_is_a_value() -> None:
    assert CODEC.decode(line(session_id="s", colour="red", name=None)).parameters.name is None


def test_limits_may_be_replaced() -> None:
    codec = Codec(REGISTRY, WireLimits())
    deep = line(session_id="s", colour="red", plan={"a": [[[[[[[[]]]]]]]]})
    codec.decode(deep)
    codec.limits = WireLimits(max_depth=8)
    with pytest.raises(Malformed) as caught:
        codec.decode(deep)
    assert caught.value.refusal.code == "too_deep"


def test_the_refusals_that_a_handler_makes() -> None:
    missing = PAINT.missing("colour")
    assert (missing.code, missing.text) == (
        "missing_parameter",
        'paint needs the parameter colour: "red", "blue" or "green"',
    )
    invalid = PAINT.invalid("coats", "7")
    assert (invalid.code, invalid.text) == ("invalid_parameter", "coats must be an integer from 1 to 3, not 7")
    assert invalid.details == {"parameter": "coats", "expected": "an integer from 1 to 3"}
    assert PAINT.invalid("coats", "7", "fewer").text == "coats must be fewer, not 7"
    refused = PAINT.refused("name", "left out")
    assert (refused.code, refused.text) == ("invalid_parameter", "name must be left out")
    assert refused.details == {"parameter": "name", "expected": "left out"}
    assert PAINT.refused("name", "left out", "why not").text == "name must be left out: why not"


def test_schema_reference_and_client_know_the_command() -> None:
    document = contract(REGISTRY)
    assert document["protocol_version"] == "3.2.1"
    assert document["commands"]["paint"]["errors"] == ["session_not_found"]
    rule = document["$defs"]["paint.request"]["properties"]["parameters"]["allOf"]
    assert rule == [{"anyOf": [{"required": ["session_id"]}, {"required": ["external_id"]}]}]
    assert list(parameter_schemas(PAINT)) == list(PAINT.parameters)
    assert command_contract(REGISTRY, "paint")["summary"] == "Paints a session."
    assert "| `coats` | integer from 1 to 3 | no | `1` | How many. |" in reference(REGISTRY)
    text = methods(REGISTRY)
    assert "async def paint(" in text
    assert 'self, session_id: str | None = None, *, colour: Literal["red", "blue", "green"],' in text
    assert "name: str | Remove | None = None" in text
    assert "class PaintResult(Struct):" in results(REGISTRY)


def test_what_the_client_is_made_of_is_python() -> None:
    namespace: dict[str, Any] = {}
    exec(results(REGISTRY), namespace)
    assert msgspec.json.decode(b'{"painted":true}', type=namespace["RESULTS"]["paint"]).painted is True
