"""The table as JSON Schema and as the reference part of protocol.md."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from stui_sessions.cli.main import main
from stui_sessions.errors import CODES
from stui_sessions.protocol.commands import COMMANDS, UNIVERSAL_ERRORS
from stui_sessions.protocol.reference import BEGIN, END, reference, type_text, write_reference
from stui_sessions.protocol.schema import contract, is_text, parameter_schemas

CONTRACT = contract()
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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_with_its_parameters_result_and_errors(name: str) -> None:
    command, entry = COMMANDS[name], CONTRACT["commands"][name]
    parameters = DEFINITIONS[entry["parameters"]["$ref"].rpartition("/")[2]]
    assert list(parameters["properties"]) == list(command.parameters)
    assert tuple(parameters["required"]) == command.required
    assert parameters["additionalProperties"] is False
    result = DEFINITIONS[entry["result"]["$ref"].rpartition("/")[2]]
    assert list(result["properties"]) == list(command.result.__struct_fields__)
    assert entry["errors"] == list(command.errors)
    assert entry["summary"] == command.summary


def test_parameters_may_be_left_out_where_none_is_needed() -> None:
    required = {name: DEFINITIONS[f"{name}.request"]["required"] for name in COMMANDS}
    assert "parameters" not in required["ping"]
    assert "parameters" not in required["get_session_statistics"]
    assert "parameters" in required["create_session"]
    assert "parameters" in required["update_session_state"]


def test_an_update_needs_one_of_its_objects() -> None:
    rule = DEFINITIONS["update_session_state.request"]["properties"]["parameters"]["anyOf"]
    assert [alternative["required"] for alternative in rule] == [
        ["state_data"],
        ["workspace_context"],
        ["inspector_state"],
        ["object_registry"],
    ]
    assert "anyOf" not in DEFINITIONS["create_session.request"]["properties"]["parameters"]


def test_patterns_are_those_of_json_schema() -> None:
    patterns = {node["pattern"] for node in walk(CONTRACT) if isinstance(node, dict) and "pattern" in node}
    assert patterns == {"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"}


def test_state_objects_are_objects_in_both_directions() -> None:
    assert parameter_schemas("update_session_state")["state_data"]["type"] == "object"
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
    texts = {name for command in COMMANDS for name, schema in parameter_schemas(command).items() if is_text(schema)}
    assert texts == {"session_id", "client_id", "mode", "command"}


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_is_described(name: str) -> None:
    command = COMMANDS[name]
    for type in (command.params, command.result):
        for field, schema in DEFINITIONS[type.__name__]["properties"].items():
            assert schema.get("description", "").endswith("."), f"{type.__name__}.{field}"


def test_every_code_of_a_command_is_in_the_table_and_every_code_can_be_met() -> None:
    met = {code for command in COMMANDS.values() for code in command.errors} | set(UNIVERSAL_ERRORS)
    assert met == set(CODES)


# The reference.


def section(name: str) -> str:
    return reference().partition(f"### `{name}`\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_all_its_rows(name: str) -> None:
    command, text = COMMANDS[name], section(name)
    assert command.summary in text
    for field in (*command.parameters, *command.result.__struct_fields__):
        assert f"\n| `{field}` |" in text
    for code in command.errors:
        assert f"`{code}`" in text or code in UNIVERSAL_ERRORS


def test_a_row_says_type_limits_default_and_meaning() -> None:
    text = section("update_session_state")
    assert "| `session_id` | string of 1 to 8192 characters | yes |  | The session's id" in text
    assert '| `mode` | `"merge"` or `"replace"` | no | `"merge"` |' in text
    assert "| `timeout` | integer, 1 or more | no |  |" in section("create_session")
    assert "| Each of `sessions` | Type | Meaning |" in section("list_client_sessions")
    assert "No parameters." in section("ping")
    assert section("ping").endswith("Errors: [those that any request can get](#error-codes).\n")


def test_every_code_has_a_row() -> None:
    text = reference().partition("### Error codes")[2]
    for name, code in CODES.items():
        assert f"| `{name}` | `{code.error_type}` | {'yes' if name in UNIVERSAL_ERRORS else ''} |" in text


def test_tables_are_well_formed() -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", reference(), re.MULTILINE):
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_types_in_words() -> None:
    assert type_text({"type": "integer", "minimum": 0}) == "integer, 0 or more"
    assert type_text({"type": "array", "items": {"$ref": "#/$defs/X"}}) == "array of objects"
    assert type_text({"type": "boolean"}) == "boolean"


def test_the_reference_is_written_between_its_markers() -> None:
    text = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    written = write_reference(text)
    assert written == f"# Title\n\n{BEGIN}\n\n{reference()}\n{END}\n\nafter\n"
    assert write_reference(written) == written


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_without_its_markers_nothing_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        write_reference(text)


# The command.


def test_the_command_prints_both_and_writes(tmp_path: Path) -> None:
    runner = CliRunner()
    assert json.loads(runner.invoke(main, ["schema"]).stdout) == CONTRACT
    assert runner.invoke(main, ["schema", "--markdown"]).stdout == reference()
    file = tmp_path / "protocol.md"
    file.write_text(f"é\n{BEGIN}\n{END}\n", "utf-8")
    assert runner.invoke(main, ["schema", "--write", str(file)]).exit_code == 0
    assert file.read_text("utf-8") == write_reference(f"é\n{BEGIN}\n{END}\n")
    file.write_text("no place\n")
    assert runner.invoke(main, ["schema", "--write", str(file)]).exit_code == 2
    assert file.read_text() == "no place\n"
