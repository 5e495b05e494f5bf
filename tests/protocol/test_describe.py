"""The contract over the wire."""

import json
from typing import Any

import msgspec
import pytest

from stui_sessions.commands import PROTOCOL_VERSION, REGISTRY
from stui_sessions.errors import CODES, Refusal
from stui_sessions.protocol.describe import _referred_to, command_contract, describe
from stui_sessions.protocol.schema import contract

WHOLE = contract(REGISTRY)


def told(command: str | None = None) -> Any:
    return json.loads(bytes(describe(REGISTRY, command)))


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        here = {value["$ref"]} if "$ref" in value else set()
        return here.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_without_a_command_it_is_the_whole_contract() -> None:
    assert told() == WHOLE
    assert told()["protocol_version"] == PROTOCOL_VERSION == "1.2.0"


@pytest.mark.parametrize("name", REGISTRY.names)
def test_a_command_is_told_with_all_that_belongs_to_it(name: str) -> None:
    command, part = REGISTRY[name], told(name)
    assert part["command"] == name
    assert part["summary"] == command.summary
    for key, type in (("parameters", command.params), ("result", command.result)):
        assert WHOLE["$defs"][type.__name__].items() <= part[key].items()
    assert part["errors"] == {code: msgspec.to_builtins(CODES[code]) for code in command.errors}
    assert {f"#/$defs/{name}" for name in part.get("$defs", {})} == references(part)


def test_the_rule_between_parameters_is_told() -> None:
    naming, saving = told("update_session_state")["parameters"]["allOf"]
    assert (len(naming["anyOf"]), len(saving["anyOf"])) == (2, 4)
    assert "allOf" not in told("create_session")["parameters"]


def test_what_the_schemas_refer_to_comes_along() -> None:
    part = told("list_client_sessions")
    assert part["$defs"] == {"Summary": WHOLE["$defs"]["Summary"]}
    assert "$defs" not in told("ping")


def test_what_those_refer_to_themselves_comes_along_too() -> None:
    definitions: dict[str, Any] = {
        "A": {"items": {"$ref": "#/$defs/B"}},
        "B": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]},
        "C": {},
    }
    assert _referred_to([{"$ref": "#/$defs/A"}], definitions) == {n: definitions[n] for n in "AB"}


def test_telling_changes_nothing() -> None:
    for name in REGISTRY.names:
        command_contract(REGISTRY, name)
    assert contract(REGISTRY) == WHOLE


def test_it_is_encoded_once() -> None:
    assert describe(REGISTRY) is describe(REGISTRY)
    assert describe(REGISTRY, "ping") is describe(REGISTRY, "ping")


@pytest.mark.parametrize(("name", "nearest"), [("pong", "ping"), ("Restore", "restore_session"), ("?", None)])
def test_a_command_that_does_not_exist(name: str, nearest: str | None) -> None:
    kept = describe.cache_info().currsize
    with pytest.raises(Refusal) as caught:
        describe(REGISTRY, name)
    assert caught.value.code == "unknown_command"
    assert caught.value.details == {"command": name, "nearest": nearest}
    assert describe.cache_info().currsize == kept
