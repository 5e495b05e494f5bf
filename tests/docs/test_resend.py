"""What protocol.md says can be sent again after a lost connection, played with connections that are really dropped.

Each row of the table, and each sentence beside it that states a rule, is played twice: the connection is reset
before the server has the whole request, and after the request was carried out, its reply unread.
A row without a case here, and a case without a row there, fail.
"""

import itertools
import json
import re
import select
from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import pytest

from stui_sessions.commands import REGISTRY
from tests.conftest import StartServer
from tests.docs.markdown import read, section, table
from tests.support.line_client import LineClient, request_line
from tests.support.moved_clock import WallClock
from tests.support.server import ServerProcess
from tests.support.waiting import until

SECTION = section(read("protocol.md"), "Errors, and what to send again").partition("**No reply.**")[2]
ROWS = {row[0]: row[1:] for row in table(SECTION)}
DAY = 24 * 3600


class Scene:
    """A server, one client's connection to it that gets lost, and one connection that stays."""

    def __init__(self, server: ServerProcess, clock: WallClock, carried_out: bool) -> None:
        self.server = server
        self.clock = clock
        self.carried_out = carried_out
        """Whether the requests that are lost are carried out before their replies are."""
        self.other = server.connect()
        self._numbers = itertools.count(1)

    def lose(self, command: str, /, client: LineClient | None = None, **parameters: Any) -> None:
        """Send a request on a connection (without `client`, of its own) that is reset before its reply is read."""
        client = client or self.server.connect()
        line = request_line("lost", command, parameters)
        if self.carried_out:
            client.send(line)
            # Its reply has arrived and is left unread: a reply leaves when what it tells is on disk.
            assert select.select([client.sock], [], [], 10)[0], "no reply came"
        else:
            client.send(line[: len(line) // 2])
        client.reset()

    def name(self, of: str) -> str:
        """A name that nothing has yet."""
        return f"{of}-{next(self._numbers)}"

    def make(self, **parameters: Any) -> str:
        """A session of its own; its id."""
        parameters = {"client_id": self.name("client"), **parameters}
        return str(self.other.result("create_session", **parameters)["session_id"])

    def state(self, session_id: str) -> Any:
        return self.other.result("restore_session", session_id=session_id)["session_state"]

    def told(self, session_id: str) -> dict[str, Any]:
        return self.other.result("get_session", session_id=session_id)

    def live(self, client_id: str) -> list[str]:
        listed = self.other.result("list_client_sessions", client_id=client_id)
        return [row["session_id"] for row in listed["sessions"]]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> WallClock:
    return WallClock(tmp_path_factory.mktemp("clock") / "clock")


@pytest.fixture(scope="module")
def server(make_lasting_server: StartServer, clock: WallClock) -> ServerProcess:
    return make_lasting_server("--create-rate", "0", env=clock.environment, module="tests.support.moved_clock").start()


@pytest.fixture(params=[False, True], ids=["it never arrived", "it was carried out"])
def scene(request: pytest.FixtureRequest, server: ServerProcess, clock: WallClock) -> Iterator[Scene]:
    clock.set(0)
    scene = Scene(server, clock, request.param)
    yield scene
    with scene.other as client:
        for status in ("live", "expired", "closed", "deleted"):
            for row in client.result("list_sessions", status=status, limit=100)["sessions"]:
                client.result("delete_session", session_id=row["session_id"], purge=True)


Play = Callable[[Scene], None]
CASES: dict[str, list[Play]] = {}
SENTENCES: dict[str, list[Play]] = {}


def row(first_cell: str) -> Callable[[Play], Play]:
    """Says which row of the table a function plays."""

    def note(play: Play) -> Play:
        CASES.setdefault(first_cell, []).append(play)
        return play

    return note


def sentence(text: str) -> Callable[[Play], Play]:
    """Says which rule beside the table a function plays."""

    def note(play: Play) -> Play:
        SENTENCES.setdefault(text, []).append(play)
        return play

    return note


# What only looks.


@row("`ping`, `describe`, everything that only looks, lists or exports")
def _(scene: Scene) -> None:
    id = scene.make(title="looked at")
    before = scene.told(id)
    more = {"resolve_session": {"ref": "looked at"}, "list_client_sessions": {"client_id": before["client_id"]}}
    looking = [c for c in REGISTRY if c.access == "read" and c.name != "restore_session"]
    for command in [REGISTRY["ping"], REGISTRY["describe"], *looking]:
        parameters: dict[str, Any] = more.get(command.name, {"session_id": id} if command.names_session else {})
        if command.name == "validate_session":
            parameters = {"session_id": id}
        scene.lose(command.name, **parameters)
        scene.other.result(command.name, **parameters)
    assert scene.told(id) == before


@row("`restore_session`, `touch_session`")
def _(scene: Scene) -> None:
    for command in ("restore_session", "touch_session"):
        id = scene.make(timeout=100, session_state={"n": 1})
        scene.clock.set(60)
        scene.lose(command, session_id=id)
        scene.clock.set(90)
        scene.other.result(command, session_id=id)
        scene.clock.set(180)
        assert (scene.told(id)["status"], scene.state(id)) == ("live", {"n": 1})
        scene.clock.set(0)


# What saves.


@row("`update_session_state`")
def _(scene: Scene) -> None:
    for mode, expected in (("merge", {"a": 1, "b": {"x": 2}, "c": None}), ("replace", {"b": {"x": 2}, "c": None})):
        id = scene.make(session_state={"a": 1, "b": {"x": 1, "y": 1}})
        update = {"session_id": id, "mode": mode, "state_data": {"b": {"x": 2}, "c": None}}
        scene.lose("update_session_state", **update)
        again = scene.other.result("update_session_state", **update)
        assert again["session_state"] == scene.state(id) == expected
        assert again["revision"] == 2 + scene.carried_out


@row("`update_session_state`")
def _(scene: Scene) -> None:
    """Somebody else saves in between, and who looks first does not undo that."""
    id = scene.make(session_state={"n": 1})
    scene.lose("update_session_state", session_id=id, state_data={"n": 2})
    scene.other.result("update_session_state", session_id=id, state_data={"n": 3})
    found = scene.other.result("restore_session", session_id=id)
    assert (found["revision"], found["session_state"]) == (2 + scene.carried_out, {"n": 3})


@row("`update_session`, `update_session_title`, `undelete_session`")
def _(scene: Scene) -> None:
    id = scene.make(title="old", tags=["a"], metadata={"gone": 1, "kept": 1}, external_id=scene.name("old"))
    new = {"tags": ["b"], "external_id": scene.name("new"), "ttl_seconds": 5000, "timeout": 500}
    edit = {"session_id": id, "metadata": {"gone": None, "more": 1}, **new}
    scene.lose("update_session", **edit)
    scene.lose("update_session_title", session_id=id, title="new")
    scene.other.result("update_session", **edit)
    scene.other.result("update_session_title", session_id=id, title="new")
    told = scene.told(id)
    assert told["metadata"] == {"kept": 1, "more": 1}
    assert told["title"] == "new"
    assert {name: told[name] for name in new} == new


@row("`update_session`, `update_session_title`, `undelete_session`")
def _(scene: Scene) -> None:
    """The one exception that the row names: what was sent has ended the session."""
    id = scene.make(timeout=1000)
    scene.clock.set(20)
    scene.lose("update_session", session_id=id, ttl_seconds=10)
    again = scene.other.request("update_session", session_id=id, ttl_seconds=10)
    if scene.carried_out:
        assert again["error_code"] == "session_expired"
    assert scene.told(id)["status"] == "expired"


@row("`update_session`, `update_session_title`, `undelete_session`")
def _(scene: Scene) -> None:
    for end in ("close_session", "delete_session"):
        id = scene.make()
        scene.other.result(end, session_id=id)
        scene.lose("undelete_session", session_id=id)
        again = scene.other.result("undelete_session", session_id=id)
        assert again["undeleted"] is not scene.carried_out
        assert again["status"] == "live"


# What begins a session.


@row("`open_session` with a `client_id` and no `session_id`")
def _(scene: Scene) -> None:
    """Where it makes one, and where it resumes one."""
    client = scene.name("client")
    for known in (False, True):
        scene.lose("open_session", client_id=client, session_state={"n": 1})
        again = scene.other.result("open_session", client_id=client, session_state={"n": 1})
        assert again["session_resumed"] is (scene.carried_out or known)
        assert again["session_state"] == {"n": 1}
        assert scene.live(client) == [again["session_id"]]


@row("`open_session` with a `client_id` and no `session_id`")
def _(scene: Scene) -> None:
    client = scene.name("client")
    id = scene.make(client_id=client, timeout=10)
    scene.clock.set(20)
    scene.lose("open_session", client_id=client, revive=True)
    again = scene.other.result("open_session", client_id=client, revive=True)
    assert (again["session_id"], again["session_resumed"]) == (id, True)
    assert scene.live(client) == [id]


@row("`open_session` with a `session_id`")
def _(scene: Scene) -> None:
    for mode in ("error", "reuse", "new"):
        asked = {"client_id": scene.name("client"), "session_id": scene.name("own")}
        scene.lose("open_session", **asked, on_conflict=mode, session_state={"n": 1})
        if scene.carried_out:
            refused = scene.other.request("open_session", **asked)
            assert (refused["error_code"], refused["details"]["status"]) == ("session_id_conflict", "live")
        again = scene.other.result("open_session", **asked, on_conflict="reuse", session_state={"n": 1})
        assert again["session_resumed"] is scene.carried_out
        assert (again["session_id"], again["session_state"]) == (asked["session_id"], {"n": 1})
        assert scene.live(asked["client_id"]) == [asked["session_id"]]


@row("`open_session` with a `session_id`")
def _(scene: Scene) -> None:
    asked = {"client_id": scene.name("client"), "session_id": scene.name("own"), "revive": True}
    scene.make(client_id=asked["client_id"], session_id=asked["session_id"], timeout=10)
    scene.clock.set(20)
    scene.lose("open_session", **asked)
    again = scene.other.result("open_session", **asked, on_conflict="reuse")
    assert (again["session_id"], again["session_resumed"]) == (asked["session_id"], True)
    assert scene.told(asked["session_id"])["status"] == "live"


MAKES_ANOTHER = (
    '`open_session` with `"resume": false`, without a `client_id`, or with `"on_conflict": "new"` where the id is '
    "another owner's"
)


def look_before_opening(scene: Scene, asked: dict[str, Any], owner: dict[str, Any]) -> None:
    """Send it again only where the list does not have it; then there is one session, and another request makes two."""
    scene.lose("open_session", **asked)

    def listed() -> list[str]:
        found = scene.other.result("list_sessions", **owner, sort="created_at")
        return [row["session_id"] for row in found["sessions"]]

    assert len(listed()) == scene.carried_out
    if not listed():
        scene.other.result("open_session", **asked)
    assert len(listed()) == 1
    second = scene.other.result("open_session", **asked)
    assert not second["session_resumed"]
    assert len(listed()) == 2


@row(MAKES_ANOTHER)
def _(scene: Scene) -> None:
    owner = {"client_id": scene.name("client")}
    look_before_opening(scene, {**owner, "resume": False}, owner)


@row(MAKES_ANOTHER)
def _(scene: Scene) -> None:
    owner = {"user_id": scene.name("user")}
    look_before_opening(scene, owner, owner)


@row(MAKES_ANOTHER)
def _(scene: Scene) -> None:
    owner = {"client_id": scene.name("client")}
    taken = scene.make(session_id=scene.name("taken"))
    look_before_opening(scene, {**owner, "session_id": taken, "on_conflict": "new"}, owner)


@row(MAKES_ANOTHER)
def _(scene: Scene) -> None:
    """With an external id there cannot be a second one."""
    asked = {"client_id": scene.name("client"), "external_id": scene.name("external"), "resume": False}
    scene.lose("open_session", **asked)
    again = scene.other.request("open_session", **asked)
    assert again.get("error_code") == ("external_id_conflict" if scene.carried_out else None)
    assert len(scene.live(asked["client_id"])) == 1


@row("`create_session`")
def _(scene: Scene) -> None:
    client = scene.name("client")
    scene.lose("create_session", client_id=client)
    assert len(scene.live(client)) == scene.carried_out
    if not scene.live(client):
        scene.make(client_id=client)
    assert len(scene.live(client)) == 1
    unused = scene.make(client_id=client)
    assert len(scene.live(client)) == 2
    scene.clock.set(3601)
    assert scene.told(unused)["status"] == "expired"


@row("`create_session`")
def _(scene: Scene) -> None:
    for name, code in (("session_id", "session_id_conflict"), ("external_id", "external_id_conflict")):
        asked = {"client_id": scene.name("client"), name: scene.name("own")}
        scene.lose("create_session", **asked)
        again = scene.other.request("create_session", **asked)
        if scene.carried_out:
            assert again["error_code"] == code
            assert again["details"] == ({"status": "live"} if name == "session_id" else {})
        assert len(scene.live(asked["client_id"])) == 1


# What ends a session.


@row("`close_session`, `delete_session`, by `session_id`")
def _(scene: Scene) -> None:
    for command, status in (("close_session", "closed"), ("delete_session", "deleted")):
        id = scene.make()
        scene.lose(command, session_id=id)
        again = scene.other.result(command, session_id=id)
        assert again.get("already_deleted", scene.carried_out) is scene.carried_out
        assert scene.told(id)["status"] == status


@row("`close_session`, `delete_session`, by `external_id`")
def _(scene: Scene) -> None:
    for command in ("close_session", "delete_session"):
        external = scene.name("external")
        id = scene.make(external_id=external)
        scene.lose(command, external_id=external)
        again = scene.other.request(command, external_id=external)
        assert again.get("error_code") == ("session_not_found" if scene.carried_out else None)
        assert scene.told(id)["status"] != "live"


@row("`close_session`, `delete_session`, by `external_id`")
def _(scene: Scene) -> None:
    """Another session takes the name; who had named the session by its id would not have ended it."""
    if not scene.carried_out:
        return  # as long as the first has the name, nobody else can take it
    for command in ("close_session", "delete_session"):
        external = scene.name("external")
        first = scene.make(external_id=external)
        scene.lose(command, external_id=external)
        second = scene.make(external_id=external)
        scene.other.result(command, session_id=first)
        assert scene.told(second)["status"] == "live"
        scene.other.result(command, external_id=external)
        assert scene.told(second)["status"] != "live"


@row('`delete_session` with `"purge": true`')
def _(scene: Scene) -> None:
    id = scene.make()
    scene.lose("delete_session", session_id=id, purge=True)
    again = scene.other.request("delete_session", session_id=id, purge=True)
    assert again.get("error_code") == ("session_not_found" if scene.carried_out else None)
    assert scene.other.request("get_session", session_id=id)["error_code"] == "session_not_found"


@row('`delete_session` with `"purge": true`')
def _(scene: Scene) -> None:
    """Somebody makes another session with the same id of their own."""
    id = scene.make(session_id=scene.name("own"))
    created = scene.told(id)["created_at"]
    scene.lose("delete_session", session_id=id, purge=True)
    scene.clock.set(5)
    if scene.carried_out:
        scene.make(session_id=id)
    assert (scene.told(id)["created_at"] != created) is scene.carried_out  # so not to be sent again
    if not scene.carried_out:
        scene.other.result("delete_session", session_id=id, purge=True)


# Lifetimes.


@row("`extend_session`")
def _(scene: Scene) -> None:
    id = scene.make(ttl_seconds=1000)
    scene.lose("extend_session", session_id=id, seconds=500)
    assert scene.told(id)["ttl_seconds"] == (1500 if scene.carried_out else 1000)
    if scene.told(id)["ttl_seconds"] == 1000:
        scene.other.result("extend_session", session_id=id, seconds=500)
    assert scene.told(id)["ttl_seconds"] == 1500
    scene.other.result("extend_session", session_id=id, seconds=500)
    assert scene.told(id)["ttl_seconds"] == 2000


# Moving.


def exported(scene: Scene, session_id: str) -> dict[str, Any]:
    """The row of a session, with a checksum that goes with how these tests write JSON."""
    client_id = scene.told(session_id)["client_id"]
    (found,) = scene.other.result("export_sessions", client_id=client_id)["sessions"]
    checksum = f"{crc32(json.dumps(found['session'], ensure_ascii=False).encode()):08x}"
    return {"checksum": checksum, "session": found["session"]}


def from_elsewhere(scene: Scene, count: int = 2, **parameters: Any) -> list[dict[str, Any]]:
    """Rows of sessions that this server does not have."""
    ids = [scene.make(session_id=scene.name("moved"), session_state={"n": 1}, **parameters) for _ in range(count)]
    rows = [exported(scene, id) for id in ids]
    for id in ids:
        scene.other.result("delete_session", session_id=id, purge=True)
    return rows


def ids_of(rows: list[dict[str, Any]]) -> list[str]:
    return [row["session"]["session_id"] for row in rows]


@row("`import_sessions` with `error` or `skip`")
def _(scene: Scene) -> None:
    for mode in ("error", "skip"):
        rows = from_elsewhere(scene)
        scene.lose("import_sessions", sessions=rows, on_conflict=mode)
        if scene.carried_out:
            again = scene.other.result("import_sessions", sessions=rows, on_conflict=mode)
            told = len(again["errors"]) if mode == "error" else again["skipped"]
            assert told == len(rows)
            assert {e["error_code"] for e in again["errors"]} <= {"session_id_conflict"}
            scene.other.result("update_session_state", session_id=ids_of(rows)[0], state_data={"n": 2})
        again = scene.other.result("import_sessions", sessions=rows, on_conflict="skip")
        assert (again["created"], again["skipped"]) == ((0, 2) if scene.carried_out else (2, 0))
        assert not again["errors"]
        assert [scene.state(id)["n"] for id in ids_of(rows)] == [1 + scene.carried_out, 1]


@row("`import_sessions` with `replace`")
def _(scene: Scene) -> None:
    """The ids were free before."""
    rows = from_elsewhere(scene)
    first = ids_of(rows)[0]
    scene.lose("import_sessions", sessions=rows, on_conflict="replace")
    if scene.carried_out:
        scene.other.result("update_session_state", session_id=first, state_data={"n": 2})
    scene.other.result("import_sessions", sessions=rows, on_conflict="skip")
    assert [scene.state(id)["n"] for id in ids_of(rows)] == [1 + scene.carried_out, 1]
    again = scene.other.result("import_sessions", sessions=rows, on_conflict="replace")
    assert again["replaced"] == len(rows)
    assert scene.state(first) == {"n": 1}  # what was saved meanwhile is lost


@row("`import_sessions` with `replace`")
def _(scene: Scene) -> None:
    """The id was taken before: only a look tells whether the session is the imported one."""
    id = scene.make(session_state={"n": 1})
    moved = exported(scene, id)
    scene.other.result("update_session_state", session_id=id, state_data={"n": 2})
    scene.lose("import_sessions", sessions=[moved], on_conflict="replace")
    assert scene.state(id) == {"n": 1 if scene.carried_out else 2}
    if not scene.carried_out:
        scene.other.result("import_sessions", sessions=[moved], on_conflict="replace")
    assert (scene.state(id), scene.told(id)["revision"]) == ({"n": 1}, 1)


@row("`import_sessions` with `new`")
def _(scene: Scene) -> None:
    """They are the newest in the list, however old they are."""
    taken = scene.make(session_state={"n": 1})
    row = exported(scene, taken)
    client = row["session"]["client_id"]
    scene.clock.set(5)
    scene.make()
    scene.lose("import_sessions", sessions=[row], on_conflict="new")
    newest = scene.other.result("list_sessions", sort="created_at", limit=1)["sessions"][0]
    is_there = newest["client_id"] == client
    assert is_there is scene.carried_out
    if not is_there:
        scene.other.result("import_sessions", sessions=[row], on_conflict="new")
    assert len(scene.live(client)) == 2
    again = scene.other.result("import_sessions", sessions=[row], on_conflict="new")
    assert len(again["renamed"]) == 1
    assert len(scene.live(client)) == 3


@row("`import_sessions` with `new`")
def _(scene: Scene) -> None:
    rows = from_elsewhere(scene, external_id=scene.name("external"), count=1)
    scene.lose("import_sessions", sessions=rows, on_conflict="new")
    again = scene.other.result("import_sessions", sessions=rows, on_conflict="new")
    codes = [error["error_code"] for error in again["errors"]]
    assert codes == (["external_id_conflict"] if scene.carried_out else [])
    assert scene.state(ids_of(rows)[0]) == {"n": 1}


# Copies.


def copy_begun(scene: Scene) -> str:
    """Begin one, again where the server has not noticed yet that the other maker is gone."""

    def begin() -> str:
        reply = scene.other.request("begin_backup")
        if reply["status"] == "error":
            assert reply["error_code"] == "backup_in_progress"
            return ""
        return str(reply["result"]["backup_id"])

    return until(begin, "the server to notice that a connection is lost", timeout=5)


@row("`begin_backup`")
def _(scene: Scene) -> None:
    scene.lose("begin_backup")
    name = copy_begun(scene)
    assert scene.other.result("read_backup", backup_id=name, offset=2**30)["next_offset"] is None


@row("`begin_backup`")
def _(scene: Scene) -> None:
    """A copy whose maker is there is not dropped for anybody."""
    with scene.server.connect() as maker:
        name = maker.result("begin_backup")["backup_id"]
        scene.lose("begin_backup")
        assert scene.other.request("begin_backup")["error_code"] == "backup_in_progress"
        assert maker.result("read_backup", backup_id=name, offset=2**30)["next_offset"] is None


@row("`read_backup`")
def _(scene: Scene) -> None:
    scene.make(session_state={"pad": "x" * 500_000})
    name = scene.other.result("begin_backup")["backup_id"]
    first = scene.other.result("read_backup", backup_id=name)
    assert first["next_offset"] < first["size"]
    scene.lose("read_backup", backup_id=name)
    assert scene.other.result("read_backup", backup_id=name) == first
    offset = first["next_offset"]
    while True:
        part = scene.other.result("read_backup", backup_id=name, offset=offset)
        if part["next_offset"] is None:
            break
        offset = part["next_offset"]
    # The same once more; this time the last part is lost.
    name = copy_begun(scene)
    scene.lose("read_backup", backup_id=name, offset=offset)
    again = scene.other.request("read_backup", backup_id=name, offset=offset)
    assert again.get("error_code") == ("backup_not_found" if scene.carried_out else None)
    if scene.carried_out:
        name = copy_begun(scene)
        assert scene.other.result("read_backup", backup_id=name, offset=offset)["next_offset"] is None


# The sentences beside the table.


@sentence("in the order in which it was sent first, and before anything new")
def _(scene: Scene) -> None:
    """Wherever among three requests the connection breaks, sending all three again leads to what they were to."""
    for carried_out in range(4):
        id = scene.make(session_state={"first": True})
        updates: list[dict[str, Any]] = [
            {"state_data": {"n": 1, "a": 1}},
            {"state_data": {"n": 2}, "mode": "replace"},
            {"state_data": {"n": 3, "b": 3}},
        ]
        lines = [request_line(n, "update_session_state", {"session_id": id, **u}) for n, u in enumerate(updates)]
        client = scene.server.connect()
        for line in lines[:carried_out]:
            client.send(line)
        revision = 1 + carried_out
        until(lambda id=id, revision=revision: scene.told(id)["revision"] == revision, "what was sent whole")
        client.send(b"".join(lines[carried_out:])[:20])
        client.reset()
        for update in updates:
            scene.other.result("update_session_state", session_id=id, **update)
        scene.other.result("update_session_state", session_id=id, state_data={"new": True})
        assert scene.state(id) == {"n": 3, "b": 3, "new": True}


@sentence("in the order in which it was sent first, and before anything new")
def _(scene: Scene) -> None:
    """In another order they would not: a rule that nobody needs would not be on the page."""
    id = scene.make(session_state={"n": 1})
    scene.lose("update_session_state", session_id=id, state_data={"n": 2})
    scene.other.result("update_session_state", session_id=id, state_data={"n": 3})
    scene.other.result("update_session_state", session_id=id, state_data={"n": 2})
    assert scene.state(id) == {"n": 2}


@sentence("An import is one step like any request: all of its rows are decided and on disk, or none is.")
def _(scene: Scene) -> None:
    """The connection breaks at any moment; with the server killed right after it, too."""
    for moment in range(4):
        rows = from_elsewhere(scene, count=20)
        client = scene.server.connect()
        line = request_line(1, "import_sessions", {"sessions": rows})
        client.send(line if scene.carried_out else line[:-2])
        if moment % 2:
            select.select([client.sock], [], [], 0.001 * moment)
        client.reset()
        if moment == 3:
            scene.other.close()
            scene.server.restart()
            scene.other = scene.server.connect()
        replies = scene.other.pipeline([("get_session", {"session_id": id}) for id in ids_of(rows)])
        assert len({reply["status"] for reply in replies}) == 1
        assert scene.carried_out or replies[0]["status"] == "error"
        again = scene.other.result("import_sessions", sessions=rows, on_conflict="skip")
        assert again["created"] + again["skipped"] == len(rows)


@sentence("An external id may be that of another session by now, whatever the request")
def _(scene: Scene) -> None:
    external = scene.name("external")
    first = scene.make(external_id=external, session_state={"whose": "first"})
    scene.lose("update_session_state", external_id=external, state_data={"n": 1})
    scene.other.result("close_session", session_id=first)
    second = scene.make(external_id=external)
    refused = scene.other.request("update_session_state", session_id=first, state_data={"n": 1})
    assert refused["error_code"] == "session_closed"  # by its id, the right one is meant
    scene.other.result("update_session_state", external_id=external, state_data={"n": 1})
    assert scene.state(second) == {"n": 1}  # by the name, it was the wrong one


def test_the_table_and_the_cases_are_the_same() -> None:
    assert list(ROWS) == list(CASES)


def test_what_the_sentences_say_stands_there() -> None:
    assert [text for text in SENTENCES if text not in SECTION] == []


def test_every_command_has_a_row() -> None:
    named = set(re.findall(r"`(\w+_\w+|ping|describe)`", " ".join(ROWS)))
    looking = {command.name for command in REGISTRY if command.access == "read"}
    assert set(REGISTRY.names) - named <= looking


LOCAL = ("`begin_backup`", "`read_backup`")


@pytest.mark.both_stores
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.local_store) if name in LOCAL else name for name in ROWS]
)
def test_the_row_is_true(scene: Scene, name: str) -> None:
    for play in CASES[name]:
        scene.clock.set(0)
        play(scene)


@pytest.mark.both_stores
@pytest.mark.parametrize("text", SENTENCES)
def test_the_sentence_is_true(scene: Scene, text: str) -> None:
    for play in SENTENCES[text]:
        scene.clock.set(0)
        play(scene)
