"""The client's types and methods follow the command table."""

import inspect
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from msgspec import Raw
from msgspec import inspect as types

from stui_sessions.client import REMOVE, Client, ConnectionLost, results
from stui_sessions.client.asking import Remove, Seconds
from stui_sessions.client.commands import Commands
from stui_sessions.client.core import Reply
from stui_sessions.client.results import RESULTS
from stui_sessions.client.transfer import Transfer
from stui_sessions.protocol.commands import COMMANDS
from tests.protocol.lines import json_types


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


STILL_TEXT = {"export_sessions": {"session"}}
"""An exported session is handed on as the text that came: its checksum is over that text."""


@pytest.mark.parametrize("name", COMMANDS)
def test_results_are_those_of_the_table_with_state_objects_decoded(name: str) -> None:
    table, ours = COMMANDS[name].result, RESULTS[name]
    assert issubclass(ours, table)
    assert ours.__struct_fields__ == table.__struct_fields__
    assert raw_fields(ours) == STILL_TEXT.get(name, set())
    theirs = get_type_hints(table, include_extras=True)
    for field, type in get_type_hints(ours, include_extras=True).items():
        if raw_fields_of(theirs[field]) and name not in STILL_TEXT:
            assert type == decoded(theirs[field])
        else:
            assert type == theirs[field]


def raw_fields_of(type: Any) -> bool:
    """A value of that type would hold raw text."""
    return bool(raw_fields(msgspec.defstruct("One", [("field", type)])))


def decoded(type: Any) -> Any:
    """`type` with dicts in place of raw text, and the client's structs in place of the table's; limits aside."""
    origin, arguments = get_origin(type), get_args(type)
    if origin is Annotated:
        return decoded(arguments[0])
    if origin in (Union, UnionType):
        return Union[tuple(map(decoded, arguments))]  # noqa: UP007 - made at run time
    if origin is list:
        return list[decoded(arguments[0])]  # type: ignore[misc]
    if type is Raw:
        return dict[str, Any]
    if isinstance(type, msgspec.StructMeta):
        return getattr(results, type.__name__)
    return type


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_method_with_its_parameters(name: str) -> None:
    command, method = COMMANDS[name], inspect.signature(getattr(Client, name))
    parameters = {n: p for n, p in method.parameters.items() if n not in ("self", "reply_timeout")}
    assert set(parameters) == set(command.parameters)
    assert tuple(n for n, p in parameters.items() if p.default is p.empty) == command.required
    assert {p.default for p in parameters.values()} <= {inspect.Parameter.empty, None}
    assert method.return_annotation is RESULTS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_by_position_go_the_name_of_the_subject_and_the_state_of_an_update(name: str) -> None:
    command, method = COMMANDS[name], inspect.signature(getattr(Client, name))
    positional = [n for n, p in method.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"]
    if command.takes_id:
        subject = ["session_id"]
    elif name in ("list_sessions", "export_sessions"):
        subject = []  # where a client is one of several things to look for
    else:
        subject = [n for n in ("client_id", "ref", "sessions", "backup_id", "command") if n in command.parameters]
    assert positional == [*subject, *(["state_data"] if "state_data" in command.parameters else [])]


class Recorder(Commands, Transfer):
    """Notes what would be sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def _ask(self, command: str, parameters: dict[str, Any], reply_timeout: Seconds) -> Reply:
        self.asked.append((command, parameters))
        raise ConnectionLost("nobody is there")


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_method_sends_its_parameters_under_their_names(name: str) -> None:
    recorder = Recorder()
    given = {parameter: object() for parameter in COMMANDS[name].parameters}
    needed = {parameter: given[parameter] for parameter in COMMANDS[name].required}
    for parameters in (given, needed):
        with pytest.raises(ConnectionLost):
            await getattr(recorder, name)(**parameters)
    assert recorder.asked == [(name, given), (name, needed)]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_can_be_null_can_be_removed(name: str) -> None:
    hints = get_type_hints(getattr(Client, name))
    removable = {parameter for parameter, hint in hints.items() if Remove in get_args(hint)}
    assert removable == {p for p in COMMANDS[name].parameters if "null" in json_types(name, p)}


async def test_remove_is_null_and_none_is_left_out() -> None:
    recorder = Recorder()
    with pytest.raises(ConnectionLost):
        await recorder.update_session("s", title=REMOVE, external_id=None, metadata={"a": None})
    assert recorder.asked == [("update_session", {"session_id": "s", "title": None, "metadata": {"a": None}})]
    assert repr(REMOVE) == "REMOVE"
