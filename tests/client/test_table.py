"""The client's types and methods follow the command table."""

import inspect
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from msgspec import UNSET, Raw
from msgspec import inspect as types

from stui_sessions import client
from stui_sessions.client import REMOVE, Client, ConnectionLost, results
from stui_sessions.client.arguments import Remove, Seconds
from stui_sessions.client.commands import Commands
from stui_sessions.client.core import Reply
from stui_sessions.client.results import RESULTS
from stui_sessions.commands import REGISTRY
from stui_sessions.commands.stubs import methods
from stui_sessions.commands.stubs import results as results_text
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
    assert raw_fields(REGISTRY["restore_session"].result)


STILL_TEXT = {"export_sessions": {"session"}}
"""An exported session is handed on as the text that came: its checksum is over that text."""

GENERATED = {"commands.py": methods, "results.py": results_text}


@pytest.mark.parametrize("name", GENERATED)
def test_the_generated_files_are_in_step(name: str) -> None:
    written = Path(client.__file__).with_name(name).read_text("utf-8")
    assert written == GENERATED[name](REGISTRY), "run: stui-sessions schema --client"


@pytest.mark.parametrize("name", REGISTRY.names)
def test_results_are_those_of_the_registry_with_state_objects_decoded(name: str) -> None:
    theirs, ours = REGISTRY[name].result, RESULTS[name]
    assert set(ours.__struct_fields__) == set(theirs.__struct_fields__)
    assert raw_fields(ours) == STILL_TEXT.get(name, set())
    hints = get_type_hints(theirs, include_extras=True)
    for field, type in get_type_hints(ours).items():
        bare = decoded(hints[field])
        assert type == bare or (name == "update_session_state" and field in ASKED_AWAY)


def test_every_type_of_a_result_can_be_imported_from_the_package() -> None:
    made = {name: value for name, value in vars(results).items() if isinstance(value, type(msgspec.Struct))}
    made = {name: value for name, value in made.items() if value.__module__ == results.__name__}
    assert set(RESULTS.values()) <= set(made.values())
    assert {name: getattr(client, name, None) for name in made} == made
    assert made.keys() <= set(client.__all__)


def test_all_that_the_package_names_is_there() -> None:
    assert len(set(client.__all__)) == len(client.__all__)
    assert all(getattr(client, name) is not None for name in client.__all__)


ASKED_AWAY = {"session_state"}
"""May be left out of a reply, but only by those who ask for that: nobody else has to think of it."""


def test_what_was_asked_away_is_unset() -> None:
    brief = msgspec.json.decode(
        b'{"session_id":"s","last_modified":"t","update_successful":true,"revision":2}',
        type=RESULTS["update_session_state"],
    )
    assert brief.session_state is UNSET
    assert get_type_hints(RESULTS["update_session_state"])["session_state"] == dict[str, Any]


def decoded(type: Any) -> Any:
    """`type` with dicts in place of raw text, and the client's structs in place of the server's; limits aside."""
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


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_command_has_a_method_with_its_parameters(name: str) -> None:
    command, method = REGISTRY[name], inspect.signature(getattr(Client, name))
    parameters = {n: p for n, p in method.parameters.items() if n not in ("self", "reply_timeout")}
    assert set(parameters) == set(command.parameters)
    assert tuple(n for n, p in parameters.items() if p.default is p.empty) == command.required
    assert {p.default for p in parameters.values()} <= {inspect.Parameter.empty, None}
    assert method.return_annotation is RESULTS[name]


@pytest.mark.parametrize("name", REGISTRY.names)
def test_by_position_go_the_name_of_the_subject_and_the_state_of_an_update(name: str) -> None:
    command, method = REGISTRY[name], inspect.signature(getattr(Client, name))
    positional = [n for n, p in method.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"]
    assert tuple(positional) == command.by_position
    assert positional == BY_POSITION.get(name, ["session_id"] if "session_id" in command.parameters else [])


BY_POSITION = {
    "open_session": ["client_id"],
    "create_session": ["client_id"],
    "list_client_sessions": ["client_id"],
    "update_session_state": ["session_id", "state_data"],
    "resolve_session": ["ref"],
    "import_sessions": ["sessions"],
    "read_backup": ["backup_id"],
    "describe": ["command"],
}
"""What users write without a name, which no release may change; elsewhere that is the session's id or nothing."""


class Recorder(Commands):
    """Notes what would be sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def _ask(self, command: str, parameters: dict[str, Any], reply_timeout: Seconds) -> Reply:
        self.asked.append((command, parameters))
        raise ConnectionLost("nobody is there")


@pytest.mark.parametrize("name", REGISTRY.names)
async def test_every_method_sends_its_parameters_under_their_names(name: str) -> None:
    recorder = Recorder()
    given = {parameter: object() for parameter in REGISTRY[name].parameters}
    needed = {parameter: given[parameter] for parameter in REGISTRY[name].required}
    for parameters in (given, needed):
        with pytest.raises(ConnectionLost):
            await getattr(recorder, name)(**parameters)
    assert recorder.asked == [(name, given), (name, needed)]


@pytest.mark.parametrize("name", REGISTRY.names)
def test_what_can_be_null_can_be_removed(name: str) -> None:
    hints = get_type_hints(getattr(Client, name))
    removable = {parameter for parameter, hint in hints.items() if Remove in get_args(hint)}
    assert removable == {p for p in REGISTRY[name].parameters if "null" in json_types(name, p)}


async def test_remove_is_null_and_none_is_left_out() -> None:
    recorder = Recorder()
    with pytest.raises(ConnectionLost):
        await recorder.update_session("s", title=REMOVE, external_id=None, metadata={"a": None})
    assert recorder.asked == [("update_session", {"session_id": "s", "title": None, "metadata": {"a": None}})]
    assert repr(REMOVE) == "REMOVE"
