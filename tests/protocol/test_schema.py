"""The table as JSON Schema and as the reference part of protocol.md."""

import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner

from stui_sessions.cli.main import main
from stui_sessions.commands import REGISTRY
from stui_sessions.errors import CODES
from stui_sessions.protocol.definitions import Schema
from stui_sessions.protocol.explain import type_name
from stui_sessions.protocol.reference import BEGIN, END, reference, type_text, write_reference
from stui_sessions.protocol.registry import UNIVERSAL_ERRORS
from stui_sessions.protocol.schema import contract, is_text, parameter_schemas
from tests.protocol.lines import EVERY_PARAMETER, json_types

CONTRACT = contract(REGISTRY)
DEFINITIONS = CONTRACT["$defs"]


def walk(value: Any) -> Any:
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


# The schema.


def test_it_can_be_written_as_json_and_every_reference_leads_somewhere() -> None:
    assert json.loads(msgspec.json.encode(CONTRACT)) == CONTRACT
    references = [node["$ref"] for node in walk(CONTRACT) if isinstance(node, dict) and "$ref" in node]
    assert references
    assert {reference.removeprefix("#/$defs/") for reference in references} <= set(DEFINITIONS)


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_command_is_there_with_its_parameters_result_and_errors(name: str) -> None:
    command, entry = REGISTRY[name], CONTRACT["commands"][name]
    parameters = DEFINITIONS[entry["parameters"]["$ref"].rpartition("/")[2]]
    assert list(parameters["properties"]) == list(command.parameters)
    assert tuple(parameters["required"]) == command.required
    assert parameters["properties"] == parameter_schemas(REGISTRY[name])
    assert parameters["additionalProperties"] is False
    result = DEFINITIONS[entry["result"]["$ref"].rpartition("/")[2]]
    assert list(result["properties"]) == list(command.result.__struct_fields__)
    assert entry["errors"] == list(command.errors)
    assert entry["summary"] == command.summary


def test_parameters_may_be_left_out_where_none_is_needed() -> None:
    required = {name: DEFINITIONS[f"{name}.request"]["required"] for name in REGISTRY.names}
    assert "parameters" not in required["ping"]
    assert "parameters" not in required["get_session_statistics"]
    assert "parameters" in required["create_session"]
    assert "parameters" in required["update_session_state"]
    assert "parameters" not in required["open_session"]
    assert "parameters" not in required["list_sessions"]


def needed(name: str) -> list[list[str]]:
    """Groups of parameters of which a request needs one at least."""
    parameters = DEFINITIONS[f"{name}.request"]["properties"]["parameters"]
    return [[key for choice in rule["anyOf"] for key in choice["required"]] for rule in parameters.get("allOf", ())]


def test_an_update_needs_one_of_its_objects() -> None:
    objects = ["state_data", "workspace_context", "inspector_state", "object_registry"]
    assert needed("update_session_state") == [["session_id", "external_id"], objects]
    assert "allOf" not in DEFINITIONS["create_session.request"]["properties"]["parameters"]


@pytest.mark.parametrize("name", REGISTRY.names)
def test_who_names_a_session_needs_one_of_its_names(name: str) -> None:
    assert (["session_id", "external_id"] in needed(name)) == REGISTRY[name].names_session
    if REGISTRY[name].names_session:
        assert "parameters" in DEFINITIONS[f"{name}.request"]["required"]


@pytest.mark.parametrize(("command", "parameter"), EVERY_PARAMETER)
def test_the_types_are_those_of_the_table(command: str, parameter: str) -> None:
    assert types(parameter_schemas(REGISTRY[command])[parameter]) == json_types(command, parameter)


def types(schema: Schema) -> set[str]:
    if "anyOf" in schema:
        return {word for one in schema["anyOf"] for word in types(one)}
    if "enum" in schema:
        return {"a string"}
    return {type_name(EXAMPLES[schema["type"]])}


EXAMPLES: dict[str, Any] = {
    "string": "",
    "integer": 1,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def test_results_that_are_shared_are_defined_once() -> None:
    results = {name: entry["result"]["$ref"] for name, entry in CONTRACT["commands"].items()}
    assert results["update_session"] == results["update_session_title"] == results["resolve_session"]
    assert DEFINITIONS["PageResult"]["properties"]["sessions"]["items"]["$ref"] == results["update_session"]


def test_what_a_result_may_leave_out_is_not_required() -> None:
    result = DEFINITIONS["GetResult"]
    left_out = set(result["properties"]) - set(result["required"])
    assert left_out == {"session_state", "workspace_context", "inspector_state", "object_registry"}


def test_patterns_are_those_of_json_schema() -> None:
    patterns = {node["pattern"] for node in walk(CONTRACT) if isinstance(node, dict) and "pattern" in node}
    assert patterns == {"^[A-Za-z0-9/~][A-Za-z0-9._:@/+=%~-]{0,255}$", "^[0-9a-f]{8}$"}


def test_state_objects_are_objects_in_both_directions() -> None:
    assert parameter_schemas(REGISTRY["update_session_state"])["state_data"]["type"] == "object"
    assert DEFINITIONS["RestoreResult"]["properties"]["object_registry"]["type"] == "object"


def test_the_codes_are_those_of_errors() -> None:
    assert CONTRACT["errors"] == msgspec.to_builtins(CODES)
    assert DEFINITIONS["error"]["properties"]["error_code"]["enum"] == list(CODES)
    assert set(DEFINITIONS["error"]["properties"]["error_type"]["enum"]) == {
        "SessionError",
        "SessionNotFound",
        "RuntimeError",
        "Error",
    }


def test_which_parameters_are_strings() -> None:
    texts = {name for command in REGISTRY for name, schema in parameter_schemas(command).items() if is_text(schema)}
    assert texts == {
        *("session_id", "client_id", "user_id", "external_id", "title", "ref", "text", "cursor"),
        *("mode", "reply", "id_format", "on_conflict", "status", "sort", "order", "command", "backup_id"),
    }


@pytest.mark.parametrize("name", REGISTRY.names)
def test_everything_is_described(name: str) -> None:
    command = REGISTRY[name]
    for type in (command.params, command.result):
        for field, schema in DEFINITIONS[type.__name__]["properties"].items():
            assert schema.get("description", "").endswith("."), f"{type.__name__}.{field}"


def outermost(type: Any) -> str | None:
    """What is said last of a type, which is what is meant where it stands."""
    if get_origin(type) is Annotated:
        said = [meta.description for meta in type.__metadata__ if getattr(meta, "description", None)]
        return said[-1] if said else outermost(get_args(type)[0])
    if get_origin(type) in (Union, UnionType):
        return next((found for one in get_args(type) if (found := outermost(one))), None)
    return None


@pytest.mark.parametrize("name", REGISTRY.names)
def test_of_two_descriptions_the_outer_one_is_told(name: str) -> None:
    command = REGISTRY[name]
    for type in (command.params, command.result):
        for field, hint in get_type_hints(type, include_extras=True).items():
            assert DEFINITIONS[type.__name__]["properties"][field]["description"] == outermost(hint)


def test_every_code_of_a_command_is_in_the_table_and_every_code_can_be_met() -> None:
    met = {code for command in REGISTRY for code in command.errors} | set(UNIVERSAL_ERRORS)
    assert met == set(CODES)


# The reference.


def section(name: str) -> str:
    return reference(REGISTRY).partition(f"### `{name}`\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_command_has_a_section_with_all_its_rows(name: str) -> None:
    command, text = REGISTRY[name], section(name)
    assert command.summary in text
    for field in command.parameters:
        assert f"\n| `{field}` |" in text
    first = re.search(r"The result is that of \[`(\w+)`\]\(#\1\)\.", text)
    if first:
        assert REGISTRY[first[1]].result is command.result
        text += section(first[1])
    for field in command.result.__struct_fields__:
        assert f"\n| `{field}` |" in text
    for code in command.errors:
        assert f"`{code}`" in text or code in UNIVERSAL_ERRORS


def test_a_row_says_type_limits_default_and_meaning() -> None:
    text = section("update_session_state")
    assert "| `session_id` | string of 1 to 8192 characters | this or `external_id` |  | The session's id" in text
    others = "`workspace_context`, `inspector_state` or `object_registry`"
    assert f"| `state_data` | object | this or {others} |  | What to save" in text
    assert '| `mode` | `"merge"` or `"replace"` | no | `"merge"` |' in text
    assert "| `timeout` | integer, 1 or more | no |  |" in section("create_session")
    assert "| `client_id` | string | yes |  |" in section("create_session")
    assert "| `resume` | boolean | no | `true` |" in section("open_session")
    assert '| `include` | array of up to 1 of `"state"` | no | `[]` |' in section("get_session")
    assert "| `title` | string of 1 to 1000 characters or null | no |  |" in section("update_session")
    assert "| `session_id` | string of 1 to 8192 characters | yes |  |" in section("update_session")
    assert "No parameters." in section("get_session_statistics")
    assert section("ping").endswith("Errors: [those that any request can get](#error-codes).\n")


def test_a_row_of_a_result_says_what_may_be_left_out() -> None:
    assert "| `evicted_session_id` | string of 1 to 8192 characters, or left out |" in section("create_session")
    assert "| `session_state` | object, or left out |" in section("get_session")
    assert "| `session_state` | object |" in section("restore_session")


def test_a_table_that_stands_already_is_pointed_to() -> None:
    assert "| Each of `sessions` | Type | Meaning |" in section("list_client_sessions")
    assert "Each of `sessions` is what [`update_session`](#update_session) answers." in section("list_sessions")
    assert "The result is that of [`update_session`](#update_session)." in section("resolve_session")
    assert reference(REGISTRY).count("| `metadata_bytes` |") == 3  # of one type and the two that add to it


def test_every_code_has_a_row() -> None:
    text = reference(REGISTRY).partition("### Error codes")[2]
    for name, code in CODES.items():
        assert f"| `{name}` | `{code.error_type}` | {'yes' if name in UNIVERSAL_ERRORS else ''} |" in text


def test_tables_are_well_formed() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", reference(REGISTRY), re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


TAG = {"type": "string", "minLength": 1, "maxLength": 64}
NULL = {"type": "null"}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "boolean"}, "boolean"),
        ({"type": "object"}, "object"),
        (TAG, "string of 1 to 64 characters"),
        ({"type": "integer", "minimum": 0}, "integer, 0 or more"),
        ({"type": "integer", "minimum": 1, "maximum": 100}, "integer from 1 to 100"),
        ({"enum": ["a"]}, '`"a"`'),
        ({"enum": ["a", "b"]}, '`"a"` or `"b"`'),
        ({"enum": ["a", "b", "c"]}, '`"a"`, `"b"` or `"c"`'),
        ({"type": "array", "items": {"$ref": "#/$defs/X"}}, "array of objects"),
        ({"type": "array", "items": {"$ref": "#/$defs/X"}, "maxItems": 9}, "array of up to 9 objects"),
        ({"type": "array", "items": {"type": "string"}}, "array of strings"),
        ({"type": "array", "items": TAG}, "array of strings of 1 to 64 characters"),
        ({"type": "array", "items": TAG, "maxItems": 32}, "array of up to 32 strings of 1 to 64 characters"),
        ({"type": "array", "items": {"enum": ["a"]}}, 'array of `"a"`'),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}, 'array of up to 2 of `"a"` or `"b"`'),
        ({"anyOf": [{"type": "string"}, NULL]}, "string or null"),
        ({"anyOf": [TAG, NULL], "description": "A tag."}, "string of 1 to 64 characters or null"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, NULL]}, "integer, 1 or more, or null"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "integer or string"),
    ],
)
def test_types_in_words(schema: Schema, text: str) -> None:
    assert type_text(schema) == text


def test_the_reference_is_written_between_its_markers() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    written = write_reference(REGISTRY, text)
    assert written == f"# Title\n\n{BEGIN}\n\n{reference(REGISTRY)}\n{END}\n\nafter\n"
    assert write_reference(REGISTRY, written) == written


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_without_its_markers_nothing_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        write_reference(REGISTRY, text)


# The command.


def test_the_command_prints_both_and_writes(tmp_path: Path) -> None:
    runner = CliRunner()
    assert json.loads(runner.invoke(main, ["schema"]).stdout) == CONTRACT
    assert runner.invoke(main, ["schema", "--markdown"]).stdout == reference(REGISTRY)
    file = tmp_path / "protocol.md"
    file.write_text(f"é\n{BEGIN}\n{END}\n", "utf-8")
    assert runner.invoke(main, ["schema", "--write", str(file)]).exit_code == 0
    assert file.read_text("utf-8") == write_reference(REGISTRY, f"é\n{BEGIN}\n{END}\n")
    file.write_text("no place\n")
    assert runner.invoke(main, ["schema", "--write", str(file)]).exit_code == 2
    assert file.read_text() == "no place\n"
