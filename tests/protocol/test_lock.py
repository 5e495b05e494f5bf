"""The locked contract: what each change of the real one asks for, and that the real one is locked."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stui_sessions import protocol
from stui_sessions.commands import PROTOCOL_VERSION, REGISTRY
from stui_sessions.protocol.lock import changes, check, fits, needed_bump, needed_version
from stui_sessions.protocol.schema import contract
from stui_sessions.protocol.schemadiff import LEFT_OUT_WITH, Effect

NONE, WORDING, ADDITION, BREAK = Effect
LOCKED_FILE = Path(protocol.__file__).with_name("contract.json")
BASE = contract(REGISTRY) | {"protocol_version": "1.2.3"}
"""What the tests change: the real contract, of some version."""

Edit = Callable[[dict[str, Any]], Any]


def edited(edit: Edit, version: str = "1.2.3") -> dict[str, Any]:
    document = deepcopy(BASE)
    edit(document)
    document["protocol_version"] = version
    return document


def test_the_contract_is_the_locked_one() -> None:
    problems = check(msgspec.json.decode(LOCKED_FILE.read_bytes()), contract(REGISTRY))
    told = "\n  ".join(problems)
    assert not problems, (
        f"the contract has changed:\n  {told}\n"
        "set PROTOCOL_VERSION (stui_sessions/commands/__init__.py) and run: python -m stui_sessions schema --lock\n"
        "(with --unreleased if no client has seen this version yet)"
    )


def test_the_locked_copy_is_where_the_package_is() -> None:
    assert msgspec.json.decode(LOCKED_FILE.read_bytes())["protocol_version"] == PROTOCOL_VERSION


def test_nothing_has_changed() -> None:
    assert changes(BASE, BASE) == []
    assert check(BASE, deepcopy(BASE)) == []
    assert needed_bump(BASE, BASE) is NONE
    assert needed_version(BASE, BASE) == "1.2.3"


def parameter(document: dict[str, Any], type: str, name: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["$defs"][type]["properties"][name]
    return schema


def add(type: str, name: str, required: bool) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        document["$defs"][type]["properties"][name] = {"type": "string"}
        if required:
            document["$defs"][type]["required"].append(name)

    return edit


def remove(type: str, name: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        del document["$defs"][type]["properties"][name]
        required = document["$defs"][type]["required"]
        document["$defs"][type]["required"] = [other for other in required if other != name]

    return edit


def set_in(type: str, name: str, **keywords: Any) -> Edit:
    return lambda document: parameter(document, type, name).update(keywords)


def new_command(document: dict[str, Any]) -> None:
    for part in ("request", "reply"):
        document["$defs"][f"pong.{part}"] = document["$defs"][f"ping.{part}"]
        document["$defs"][part]["x"] = "lists it"
    document["commands"]["pong"] = document["commands"]["ping"]


def new_summary(document: dict[str, Any]) -> None:
    document["commands"]["ping"]["summary"] = "x"
    document["$defs"]["ping.request"]["description"] = "x"


CASES: list[tuple[Edit, str, Effect]] = [
    # commands
    (new_command, "pong: the command is new", ADDITION),
    (lambda d: d["commands"].pop("ping"), "ping: the command is removed", BREAK),
    (new_summary, "ping.summary: says it in other words", WORDING),
    (
        lambda d: d["commands"]["ping"].update(role="x"),
        "ping.role: has changed, and there is no rule for it",
        BREAK,
    ),
    # parameters
    (add("CreateParams", "colour", False), "create_session.parameters.colour: new, and optional", ADDITION),
    (add("CreateParams", "colour", True), "create_session.parameters.colour: new, and required", BREAK),
    (remove("CreateParams", "timeout"), "create_session.parameters.timeout: removed", BREAK),
    (
        set_in("CreateParams", "timeout", minimum=0),
        "create_session.parameters.timeout: minimum 1 -> 0",
        ADDITION,
    ),
    (
        set_in("CreateParams", "timeout", maximum=50),
        "create_session.parameters.timeout: maximum none -> 50",
        BREAK,
    ),
    (
        set_in("UpdateParams", "mode", enum=["merge", "replace", "deep"]),
        'update_session_state.parameters.mode: the value "deep" is new',
        ADDITION,
    ),
    (
        set_in("UpdateParams", "mode", enum=["merge"]),
        'update_session_state.parameters.mode: the value "replace" is gone',
        BREAK,
    ),
    (
        set_in("UpdateParams", "mode", default="replace"),
        'update_session_state.parameters.mode: default "merge" -> "replace"',
        BREAK,
    ),
    (
        set_in("CreateParams", "timeout", description="x"),
        "create_session.parameters.timeout: description says it in other words",
        WORDING,
    ),
    (
        lambda d: d["$defs"]["update_session_state.request"]["properties"]["parameters"]["allOf"][1]["anyOf"].pop(),
        'update_session_state.parameters: the alternative {"required":["object_registry"]} is gone',
        BREAK,
    ),
    (
        lambda d: d["$defs"]["touch_session.request"]["properties"]["parameters"]["allOf"].append({"required": ["x"]}),
        'touch_session.parameters: the rule {"required":["x"]} is new',
        BREAK,
    ),
    (
        lambda d: d["$defs"]["touch_session.request"]["properties"]["parameters"].pop("allOf"),
        'touch_session.parameters: the rule {"anyOf":[{"required":["session_id"]},'
        '{"required":["external_id"]}]} is gone',
        ADDITION,
    ),
    # results
    (add("PingResult", "load", True), "ping.result.load: new", ADDITION),
    (remove("PingResult", "pong"), "ping.result.pong: removed", BREAK),
    (
        lambda d: d["$defs"]["PingResult"].update(required=[]),
        "ping.result.pong: always there -> not always there",
        BREAK,
    ),
    (
        lambda d: d["$defs"]["UpdateResult"]["properties"]["session_state"].update({LEFT_OUT_WITH: {"reply": "full"}}),
        'update_session_state.result.session_state: is left out with {"reply":"brief"} -> {"reply":"full"}',
        BREAK,
    ),
    (
        lambda d: d["$defs"]["UpdateResult"]["required"].append("session_state"),
        "update_session_state.result.session_state: not always there -> always there",
        ADDITION,
    ),
    (
        set_in("Summary", "timeout", minimum=-1),
        "list_client_sessions.result.sessions[].timeout: minimum 0 -> -1; "
        "clients meet values that they were told not to expect",
        BREAK,
    ),
    (
        set_in("Summary", "timeout", minimum=1),
        "list_client_sessions.result.sessions[].timeout: minimum 0 -> 1",
        ADDITION,
    ),
    # the envelope
    (
        lambda d: d["$defs"]["ping.request"].update(required=["id", "command", "parameters"]),
        "ping.parameters: optional -> required",
        BREAK,
    ),
    (
        lambda d: d["$defs"]["ping.reply"]["properties"].pop("timestamp"),
        "ping.reply.timestamp: removed",
        BREAK,
    ),
    (lambda d: d["$defs"]["error"]["properties"].pop("details"), "error.details: removed", BREAK),
    (
        lambda d: d["$defs"]["error"]["properties"]["error_type"]["enum"].append("Fifth"),
        'error.error_type: the value "Fifth" is new; clients meet values that they were told not to expect',
        BREAK,
    ),
    # errors
    (
        lambda d: d["commands"]["ping"]["errors"].append("storage_damaged"),
        "ping.errors: storage_damaged can be the answer",
        ADDITION,
    ),
    (
        lambda d: d["commands"]["get_session_info"]["errors"].remove("session_damaged"),
        "get_session_info.errors: session_damaged is no longer the answer",
        ADDITION,
    ),
    (
        lambda d: d["universal_errors"].append("storage_damaged"),
        "universal_errors: storage_damaged can be the answer to any request",
        ADDITION,
    ),
    (
        lambda d: d["universal_errors"].remove("overloaded"),
        "universal_errors: overloaded is no longer the answer to any request",
        ADDITION,
    ),
    (
        lambda d: d["errors"].update(tired=d["errors"]["overloaded"]),
        "errors.tired: the code is new",
        ADDITION,
    ),
    (lambda d: d["errors"].pop("overloaded"), "errors.overloaded: the code is removed", BREAK),
    (
        lambda d: d["errors"]["overloaded"].update(error_type="Error"),
        "errors.overloaded.error_type: RuntimeError -> Error",
        BREAK,
    ),
    (
        lambda d: d["errors"]["overloaded"].update(meaning="x"),
        "errors.overloaded.meaning: says it in other words",
        WORDING,
    ),
    (
        lambda d: d["errors"]["overloaded"].update(details="`limit`"),
        "errors.overloaded.details.limit: new",
        ADDITION,
    ),
    (
        lambda d: d["errors"]["state_too_large"].update(details="`limit`"),
        "errors.state_too_large.details.size: removed",
        BREAK,
    ),
    (
        lambda d: d["errors"]["state_too_large"].update(details="`size` and `limit`"),
        "errors.state_too_large.details: says it in other words",
        WORDING,
    ),
    (
        lambda d: d["errors"]["overloaded"].update(wait=1),
        "errors.overloaded.wait: has changed, and there is no rule for it",
        BREAK,
    ),
    # the rest of the document
    (lambda d: d.update(title="x"), "contract: the same is written differently", WORDING),
    (lambda d: d["$defs"].update(Unused={}), "contract: the same is written differently", WORDING),
    (lambda d: d.update(events={}), "contract.events: has changed, and there is no rule for it", BREAK),
]


@pytest.mark.parametrize(("edit", "words", "effect"), CASES, ids=[words for _, words, _ in CASES])
def test_a_change_is_told_with_its_place_and_its_effect(edit: Edit, words: str, effect: Effect) -> None:
    document = edited(edit)
    assert [f"{change.path}: {change.what}" for change in changes(BASE, document)] == [words]
    assert needed_bump(BASE, document) is effect
    assert needed_version(BASE, document) == {WORDING: "1.2.3", ADDITION: "1.3.0", BREAK: "2.0.0"}[effect]
    assert check(BASE, document)[0] == f"{words} [{effect.name.lower()}]"


def test_a_new_code_is_no_break_though_the_error_reply_lists_it() -> None:
    def edit(document: dict[str, Any]) -> None:
        document["errors"]["tired"] = document["errors"]["overloaded"]
        document["$defs"]["error"]["properties"]["error_code"]["enum"].append("tired")

    assert [str(change) for change in changes(BASE, edited(edit))] == ["errors.tired: the code is new [addition]"]


def test_the_worst_change_decides() -> None:
    def edit(document: dict[str, Any]) -> None:
        add("PingResult", "load", True)(document)
        remove("PingResult", "pong")(document)
        document["commands"]["ping"]["summary"] = "x"

    assert needed_bump(BASE, edited(edit)) is BREAK
    assert len(changes(BASE, edited(edit))) == 3


def same(document: dict[str, Any]) -> None:
    """Change nothing."""


WORDS, MORE, LESS = (
    set_in("PingResult", "pong", description="x"),
    add("PingResult", "a", False),
    remove("PingResult", "pong"),
)


@pytest.mark.parametrize(
    ("edit", "version", "right"),
    [
        (same, "1.2.3", True),
        (same, "1.2.4", True),
        (same, "1.2.2", False),
        (WORDS, "1.2.3", True),
        (WORDS, "1.2.4", True),
        (WORDS, "1.1.9", False),
        (MORE, "1.2.3", False),
        (MORE, "1.2.10", False),
        (MORE, "1.3.0", True),
        (MORE, "1.10.0", True),
        (MORE, "2.0.0", True),
        (LESS, "1.2.4", False),
        (LESS, "1.3.0", False),
        (LESS, "2.0.0", True),
        (LESS, "10.0.0", True),
    ],
)
def test_the_version_must_say_what_has_changed(edit: Edit, version: str, right: bool) -> None:
    document = edited(edit, version)
    assert fits(BASE, document) is right
    problems = check(BASE, document)
    if edit is same and version == "1.2.3":
        assert problems == []
    elif right:
        assert problems[-1] == (
            f"protocol_version {version} fits (the locked copy has 1.2.3); the copy must be written anew"
        )
    else:
        needed = needed_version(BASE, document)
        assert problems[-1] == f"protocol_version is {version} and must be {needed} or higher"


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "1.0.0-beta", "01.0.0", ""])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ValueError, match=r"MAJOR\.MINOR\.PATCH"):
        fits(BASE, BASE | {"protocol_version": version})


# -- a field that is left out where a request asks for that

REPLY = {"enum": ["full", "brief"], "default": "full"}


def asked(**left_out_with: str) -> Edit:
    """`expires_at` of a reply to `touch_session` is left out where a request asks for that."""

    def edit(document: dict[str, Any]) -> None:
        definitions = document["$defs"]
        definitions["TouchResult"]["required"].remove("expires_at")
        definitions["TouchResult"]["properties"]["expires_at"][LEFT_OUT_WITH] = left_out_with
        definitions["SessionParams"]["properties"]["reply"] = REPLY

    return edit


def test_a_field_may_be_missing_for_those_who_ask_for_that_in_a_new_way() -> None:
    document = edited(asked(reply="brief"))
    (told,) = [c for c in changes(BASE, document) if c.path == "touch_session.result.expires_at"]
    assert told.effect is ADDITION
    assert "only if {'reply': 'brief'} asks for that, which is new" in told.what
    assert needed_bump(BASE, document) is ADDITION


@pytest.mark.parametrize(
    "edit",
    [
        asked(reply="full"),  # the default: everybody asks for it
        asked(),  # nothing that could be asked
    ],
)
def test_it_may_not_be_missing_for_others(edit: Edit) -> None:
    assert needed_bump(BASE, edited(edit)) is BREAK


def test_what_was_asked_before_may_not_begin_to_leave_a_field_out() -> None:
    before = edited(lambda d: d["$defs"]["SessionParams"]["properties"].update(reply=REPLY))
    assert needed_bump(before, edited(asked(reply="brief"))) is BREAK
