"""The tables of protocol.md about what sessions are and may be called: each row is tried, or compared with the code.

A row without a case here, and a case without a row there, fail.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.domain.lifecycle import AFTER, REMOVED, STATUS_NAMES
from tests.conftest import StartServer
from tests.docs.markdown import read, section, table
from tests.support.line_client import LineClient
from tests.support.waiting import until

PROTOCOL = read("protocol.md")
FIRST = ("create_session", "restore_session", "update_session_state", "close_session", "get_session_info")
FIRST += ("list_client_sessions", "get_session_statistics", "ping")
"""The commands that the protocol began with."""


@pytest.fixture(scope="module")
def client(make_lasting_server: StartServer) -> Iterator[LineClient]:
    options = ["--max-sessions-per-client", "1000", "--max-sessions-per-user", "1000", "--create-rate", "0"]
    with make_lasting_server(*options).start().connect() as client:
        yield client


# The life of a session.


def test_the_states_are_those_of_the_code() -> None:
    rows = table(section(PROTOCOL, "Ending and keeping"))
    drawn = {row[0].split("`")[1]: [cell.strip("`") for cell in row[1:]] for row in rows}
    names = {**dict(enumerate(STATUS_NAMES)), REMOVED: "removed"}
    assert drawn == {
        event: [outcome if isinstance(outcome, str) else names[outcome] for outcome in leads.values()]
        for event, leads in AFTER.items()
    }


# An id that is asked for.

TAKEN = {row[0]: [cell.strip("`") for cell in row[1:]] for row in table(section(PROTOCOL, "Ids"))}
MODES = ("error", "reuse", "new")


def in_state(client: LineClient, status: str, **parameters: Any) -> str:
    """A session of that status; its id."""
    if status == "expired":
        parameters["ttl_seconds"] = 1
    id = str(client.result("open_session", resume=False, **parameters)["session_id"])
    if status == "closed":
        client.result("close_session", session_id=id)
    if status == "deleted":
        client.result("delete_session", session_id=id)
    if status == "expired":
        until(lambda: client.result("validate_session", session_id=id)["reason"] == "expired", "its end")
    return id


def test_every_way_in_which_an_id_is_taken_has_a_row() -> None:
    ways = [f"{status}, of {owner}" for owner in ("the same user and client", "another user or client")
            for status in STATUS_NAMES]  # fmt: skip
    assert list(TAKEN) == ["there is none", *ways]
    assert all(len(cells) == len(MODES) for cells in TAKEN.values())


@pytest.mark.parametrize("way", TAKEN)
def test_what_becomes_of_an_id_that_is_asked_for(client: LineClient, way: str) -> None:
    status, _, whose = way.partition(", of ")
    owner = {"client_id": "taken", "user_id": "u"}
    for mode, expected in zip(MODES, TAKEN[way], strict=True):
        id = in_state(client, status, **owner) if whose else f"free {mode}"
        askers: list[dict[str, Any]] = [owner]
        if whose == "another user or client":
            askers = [{**owner, "user_id": "v"}, {"client_id": "taken"}, {**owner, "client_id": "other"}, {}]
        for asker in askers:
            reply = client.request("open_session", session_id=id, on_conflict=mode, **asker)
            assert outcome(reply, id) == expected, (mode, asker)


def outcome(reply: dict[str, Any], id: str) -> str:
    if reply["status"] == "error":
        return str(reply["error_code"])
    result = reply["result"]
    if result["session_resumed"]:
        assert result["session_id"] == id
        return "resumed"
    if result["session_id"] == id:
        assert "was_collision" not in result
        return "made"
    assert (result["was_collision"], result["requested_session_id"]) == (True, id)
    return "another id"


# Conflicts of an import.


def row_of(client: LineClient, id: str) -> str:
    """The text of the row that an export has of the one session of a client."""
    client.send(json.dumps({"id": 1, "command": "export_sessions", "parameters": {"client_id": id}}).encode() + b"\n")
    line = client.receive_line().decode()
    found = re.search(r'"sessions":\[(.*)\],"next_cursor":null', line)
    assert found
    return found[1]


def take(client: LineClient, row: str, on_conflict: str = "error") -> dict[str, Any]:
    """The result of importing a row."""
    parameters = f'{{"sessions": [{row}], "on_conflict": "{on_conflict}"}}'
    client.send(f'{{"id": 1, "command": "import_sessions", "parameters": {parameters}}}\n'.encode())
    result = client.receive()["result"]
    assert isinstance(result, dict)
    return result


def test_what_an_import_does_with_a_taken_id(client: LineClient) -> None:
    said = {row[0].strip("`"): row[1] for row in table(section(PROTOCOL, "Export and import"))}
    client.result("create_session", client_id="twice", session_id="twice", session_state={"n": 1.5})
    row = row_of(client, "twice")
    told = {mode: take(client, row, mode) for mode in said}
    assert list(said) == ["error", "skip", "replace", "new"]
    assert "session_id_conflict" in said["error"]
    assert [failure["error_code"] for failure in told["error"]["errors"]] == ["session_id_conflict"]
    for mode, field in (("skip", "skipped"), ("replace", "replaced"), ("new", "renamed")):
        assert f"`{field}`" in said[mode]
        assert told[mode][field]
        assert not told[mode]["errors"]


# Names and labels of a session.

ROWS = dict(table(section(PROTOCOL, "What names a session, and its labels")))
Ask = Callable[[LineClient], dict[str, Any]]
CASES: dict[str, list[Ask]] = {}


def case(row: str) -> Callable[[Ask], Ask]:
    """Says which row a function tries; it returns the reply that the row tells."""

    def note(ask: Ask) -> Ask:
        CASES.setdefault(row, []).append(ask)
        return ask

    return note


def new(client: LineClient, **parameters: Any) -> str:
    return str(client.result("open_session", resume=False, **{"client_id": "rules", **parameters})["session_id"])


NAMING = [c.name for c in REGISTRY if c.names_session]
MORE: dict[str, dict[str, Any]] = {
    "update_session_state": {"state_data": {}},
    "update_session_title": {"title": "x"},
    "extend_session": {"seconds": 1},
}
"""What these commands need beside the name of a session."""


def each_naming(row: str, **names: str) -> None:
    for command in NAMING:
        case(row)(lambda c, command=command: c.request(command, **MORE.get(command, {}), **names))


each_naming("A command about one session without `session_id` and `external_id`")
each_naming("`session_id` and `external_id` together", session_id="x", external_id="x")
each_naming("`user_id` beside `session_id`", session_id="x", user_id="x")
each_naming("`user_id` alone", user_id="x")


def two_users(client: LineClient) -> None:
    for user in ("ann", "bob"):
        client.result("open_session", client_id="two", user_id=user, external_id="shared")


@case("An external id that live sessions of two users have")
def _(client: LineClient) -> dict[str, Any]:
    two_users(client)
    return client.request("get_session", external_id="shared")


@case("The same with `user_id`")
def _(client: LineClient) -> dict[str, Any]:
    two_users(client)
    reply = client.request("get_session", external_id="shared", user_id="ann")
    assert reply["result"]["user_id"] == "ann"
    return reply


@case("The external id of a session that has ended")
def _(client: LineClient) -> dict[str, Any]:
    client.result("close_session", session_id=new(client, external_id="ended"))
    return client.request("get_session", external_id="ended")


@case("`validate_session` of what does not exist")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("validate_session", session_id="nothing")
    assert reply["result"] == {"session_id": "nothing", "valid": False, "reason": "not_found"}
    return reply


@case("An external id that another live session of the same user has")
def _(client: LineClient) -> dict[str, Any]:
    new(client, external_id="mine", user_id="ann")
    refused = client.request("open_session", client_id="elsewhere", user_id="ann", external_id="mine")
    id = new(client, user_id="ann")
    assert client.request("update_session", session_id=id, external_id="mine")["error_code"] == refused["error_code"]
    return refused


@case("The external id of another user's session")
def _(client: LineClient) -> dict[str, Any]:
    new(client, external_id="both", user_id="ann")
    return client.request("open_session", client_id="rules", resume=False, user_id="bob", external_id="both")


def titled(row: str, *titles: Any) -> None:
    for title in titles:
        case(row)(lambda c, title=title: c.request("open_session", title=title))
        case(row)(lambda c, title=title: c.request("update_session", session_id=new(c), title=title))
        case(row)(lambda c, title=title: c.request("update_session_title", session_id=new(c), title=title))


titled("A title of blanks", " ", "  ")
titled("A title of control characters, or of zero-width spaces and byte order marks", "\u0000", "\u0007",
       "\u200b\ufeff")  # fmt: skip
titled("A title of 61 characters", "x" * 61)


@case("A title of 60 characters with blanks, tabs and zero-width spaces around them")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("open_session", title=" \t\u200b" + "\U0001f600" * 60 + "\ufeff  ")
    assert reply["result"]["title"] == "\U0001f600" * 60
    return reply


@case("`title` is `null` in `update_session`")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("update_session", session_id=new(client, title="x"), title=None)
    assert reply["result"]["title"] is None
    return reply


@case("`title` is `null` anywhere else")
def _(client: LineClient) -> dict[str, Any]:
    assert client.request("open_session", title=None)["error_code"] == "null_parameter"
    return client.request("update_session_title", session_id=new(client), title=None)


@case("The same tag twice")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("open_session", tags=["b", "a", "b"])
    assert reply["result"]["tags"] == ["b", "a"]
    return reply


case("More than 32 tags")(lambda c: c.request("open_session", tags=["x"] * 33))


@case("Metadata of more than 16 KiB, or merged to more")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client, metadata={"a": "x" * 9000})
    merged = client.request("update_session", session_id=id, metadata={"b": "x" * 9000})
    assert client.request("open_session", metadata={"a": "x" * 16384})["error_code"] == merged["error_code"]
    return merged


case("A `session_id` of 8192 characters that are more than 8192 bytes, for a new session")(
    lambda c: c.request("open_session", session_id="é" * 8192)
)


@case("`create_session` with an id that is taken, also by a session that has ended")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client)
    live = client.request("create_session", client_id="rules", session_id=id)
    client.result("delete_session", session_id=id)
    assert client.request("create_session", client_id="rules", session_id=id)["error_code"] == live["error_code"]
    return live


@case("`open_session` with `revive` and the id of an expired session of the same user and client")
def _(client: LineClient) -> dict[str, Any]:
    id = in_state(client, "expired", client_id="rules")
    reply = client.request("open_session", client_id="rules", session_id=id, revive=True)
    assert (reply["result"]["session_id"], reply["result"]["session_revived"]) == (id, True)
    return reply


for status in ("closed", "deleted"):
    case("The same, where it is closed, deleted, or another owner's")(
        lambda c, status=status: c.request(
            "open_session", client_id="rules", session_id=in_state(c, status, client_id="rules"), revive=True
        )
    )
case("The same, where it is closed, deleted, or another owner's")(
    lambda c: c.request(
        "open_session", client_id="rules", session_id=in_state(c, "expired", client_id="others"), revive=True
    )
)


@case("`open_session` with `revive` and a `client_id` whose last session has expired")
def _(client: LineClient) -> dict[str, Any]:
    id = in_state(client, "expired", client_id="revived")
    told = client.result("open_session", client_id="revived", resume=False)
    assert told["expired_session_id"] == id
    client.result("delete_session", session_id=told["session_id"], purge=True)
    reply = client.request("open_session", client_id="revived", revive=True)
    assert (reply["result"]["session_id"], reply["result"]["session_revived"]) == (id, True)
    return reply


@case("`update_session` of an ended session with `pin` alone")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("update_session", session_id=in_state(client, "closed"), pin=True)
    assert reply["result"]["pinned"]
    return reply


@case("The same with anything else, alone or beside `pin`")
def _(client: LineClient) -> dict[str, Any]:
    id = in_state(client, "closed")
    alone = client.request("update_session", session_id=id, title="x")
    assert client.request("update_session", session_id=id, title="x", pin=True)["error_code"] == alone["error_code"]
    return alone


@case("`update_session` with a `ttl_seconds` that is over already")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client)
    whole = client.result("get_session", session_id=id)["timeout"]
    until(lambda: client.result("get_session", session_id=id)["time_until_expiry"] < whole, "a second to pass")
    reply = client.request("update_session", session_id=id, ttl_seconds=1)
    assert reply["result"]["status"] == "expired"
    return reply


case("`extend_session` of a session without an absolute end")(
    lambda c: c.request("extend_session", session_id=new(c), seconds=1)
)
case("`extend_session` to more than a hundred years after the creation")(
    lambda c: c.request("extend_session", session_id=new(c, ttl_seconds=1000), seconds=3_155_760_000)
)


@case("`delete_session` of a deleted session")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("delete_session", session_id=in_state(client, "deleted"))
    assert reply["result"]["already_deleted"]
    return reply


@case("`undelete_session` of a live session")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("undelete_session", session_id=new(client))
    assert reply["result"]["undeleted"] is False
    return reply


@case("`undelete_session` of a session that was purged")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client)
    client.result("delete_session", session_id=id, purge=True)
    return client.request("undelete_session", session_id=id)


@case("`undelete_session` with the external id of a session that has ended")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client, external_id="over")
    assert client.result("undelete_session", external_id="over")["undeleted"] is False
    client.result("close_session", session_id=id)
    return client.request("undelete_session", external_id="over")


@case("`undelete_session` where the external id was taken meanwhile")
def _(client: LineClient) -> dict[str, Any]:
    id = new(client, external_id="passed on")
    client.result("delete_session", session_id=id)
    new(client, external_id="passed on")
    return client.request("undelete_session", session_id=id)


for command in ("list_sessions", "export_sessions"):
    case("`list_sessions` or `export_sessions` with `text`, and neither `client_id` nor `user_id`")(
        lambda c, command=command: c.request(command, text="x", tags=["x"])
    )


@case("A cursor of another `sort` or `order`, or that no server has made")
def _(client: LineClient) -> dict[str, Any]:
    new(client), new(client)
    words = {"client_id": "rules", "limit": 1}
    cursor = client.result("list_sessions", **words, sort="created_at")["next_cursor"]
    for other in ({"sort": "last_activity"}, {"sort": "created_at", "order": "asc"}):
        assert client.request("list_sessions", **words, **other, cursor=cursor)["error_code"] == "invalid_parameter"
    return client.request("list_sessions", cursor="made up")


@case("`resolve_session` with the beginning of an id, of fewer than 6 characters")
def _(client: LineClient) -> dict[str, Any]:
    new(client, session_id="short-ref")
    return client.request("resolve_session", ref="short")


@case("The same with 6 characters")
def _(client: LineClient) -> dict[str, Any]:
    reply = client.request("resolve_session", ref="short-")
    assert reply["result"]["session_id"] == "short-ref"
    return reply


@case("`resolve_session` with the whole id of one session that is the title of another")
def _(client: LineClient) -> dict[str, Any]:
    new(client, session_id="whole"), new(client, title="whole")
    client.result("delete_session", session_id="whole")
    reply = client.request("resolve_session", ref="whole")
    assert reply["result"]["session_id"] == "whole"
    return reply


@case("`resolve_session` with the title of two live sessions")
def _(client: LineClient) -> dict[str, Any]:
    ids = {new(client, title="two of us"), new(client, title="two of us")}
    client.result("close_session", session_id=new(client, title="two of us"))
    reply = client.request("resolve_session", ref="two of us")
    assert {candidate["session_id"] for candidate in reply["details"]["candidates"]} == ids
    return reply


@case("An import of a row whose text is not what was exported")
def _(client: LineClient) -> dict[str, Any]:
    client.result("create_session", client_id="spoilt", session_state={"n": 1.10})
    row = row_of(client, "spoilt")
    decoded_and_encoded = json.dumps(json.loads(row))
    (failure,) = take(client, decoded_and_encoded)["errors"]
    assert failure["error_code"] == "checksum_mismatch"
    session = json.loads(row)["session"]
    checksum = f"{crc32(json.dumps(session).encode()):08x}"  # whoever writes a row anew says so in its checksum
    assert take(client, json.dumps({"checksum": checksum, "session": session}), "replace")["replaced"] == 1
    return client.request("import_sessions", sessions=[{"checksum": "00000000", "session": {}}])


@case("An import of a row with a blank title, or that would expire after the year 9999")
def _(client: LineClient) -> dict[str, Any]:
    client.result("create_session", client_id="odd")
    session = json.loads(row_of(client, "odd"))["session"]
    for wrong in ({"title": " "}, {"title": "\u200b"}, {"active_at_ms": 253_402_300_799_000}):
        other = {**session, **wrong}
        row = {"checksum": f"{crc32(json.dumps(other).encode()):08x}", "session": other}
        (failure,) = take(client, json.dumps(row), "replace")["errors"]
        assert failure["error_code"] == "invalid_record"
    return client.request("import_sessions", sessions=[{"checksum": "00000000", "session": {}}])


case("`read_backup` of a copy that is not there")(lambda c: c.request("read_backup", backup_id="nothing"))


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(ROWS) == list(CASES)


@pytest.mark.both_stores
@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_true(client: LineClient, row: str) -> None:
    for ask in CASES[row]:
        for id in (r["session_id"] for r in client.result("list_sessions", limit=100)["sessions"]):
            if not id.startswith("short-"):
                client.result("delete_session", session_id=id, purge=True)
        reply = ask(client)
        if ROWS[row].partition(":")[0] == "accepted":
            assert reply["status"] == "success", reply
        else:
            assert f"`{reply.get('error_code')}`" == ROWS[row], reply


# The table that points to the commands.


def test_every_feature_has_a_command_and_every_new_command_a_feature() -> None:
    rows = table(section(PROTOCOL, "Where the sibling systems' features are"))
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert named <= set(REGISTRY.names)
    assert set(REGISTRY.names) - set(FIRST) <= named


def test_every_command_is_in_the_overview() -> None:
    overview = " ".join(cell for row in table(section(PROTOCOL, "The commands")) for cell in row)
    assert set(re.findall(r"`(\w+)`", overview)) == set(REGISTRY.names)
