"""The client's types and methods follow the command table."""

import inspect
from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import Raw
from msgspec import inspect as types

from stui_sessions.client import Client
from stui_sessions.client.results import RESULTS
from stui_sessions.protocol.commands import COMMANDS


def raw_fields(type: Any) -> set[str]:
    """Names of the fields, at any depth, that are still raw text."""
    found: set[str] = set()

    def visit(name: str, node: types.Type) -> None:
        if isinstance(node, types.RawType):
            found.add(name)
        elif isinstance(node, types.StructType):
            for field in node.fields:
                visit(field.name, field.type)
        elif isinstance(node, types.ListType):
            visit(name, node.item_type)
        elif isinstance(node, types.Metadata):
            visit(name, node.type)

    visit("", types.type_info(type))
    return found


def test_the_search_for_raw_fields_finds_them() -> None:
    class Inner(msgspec.Struct):
        deep: Raw

    class Outer(msgspec.Struct):
        items: list[Inner]

    assert raw_fields(Outer) == {"deep"}
    assert raw_fields(COMMANDS["restore_session"].result)


@pytest.mark.parametrize("name", COMMANDS)
def test_results_are_those_of_the_table_with_state_objects_decoded(name: str) -> None:
    table, ours = COMMANDS[name].result, RESULTS[name]
    assert issubclass(ours, table)
    assert ours.__struct_fields__ == table.__struct_fields__
    assert not raw_fields(ours)
    for field, type in get_type_hints(ours, include_extras=True).items():
        if field in raw_fields(table):
            assert type == dict[str, Any]
        else:
            assert type == get_type_hints(table, include_extras=True)[field]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_method_with_its_parameters(name: str) -> None:
    command, method = COMMANDS[name], inspect.signature(getattr(Client, name))
    parameters = {n: p for n, p in method.parameters.items() if n not in ("self", "reply_timeout")}
    assert list(parameters) == list(command.parameters)
    assert tuple(n for n, p in parameters.items() if p.default is p.empty) == command.required
    assert method.return_annotation is RESULTS[name]
