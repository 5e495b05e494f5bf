"""What the server asks of itself waits for its commit, like anybody's request, and is told of its failure."""

import asyncio

import pytest

from stui_sessions.commands import REGISTRY
from stui_sessions.commands.ending import SessionParams
from stui_sessions.commands.operating import PingParams
from stui_sessions.errors import Refusal, StorageError
from stui_sessions.storage.contract import Conflict
from tests.engine.desk import Desk, request, stored_session

CLOSE = REGISTRY["close_session"]
UNREADABLE = StorageError("the disk cannot be read")


def closing(desk: Desk, session_id: str = "s1") -> "asyncio.Task[object]":
    """The server closes a session."""
    task: asyncio.Task[object] = desk.loop.create_task(desk.engine.run(CLOSE, SessionParams(session_id)))
    desk.settle()
    return task


def refusal_of(task: "asyncio.Task[object]") -> str:
    error = task.exception()
    assert isinstance(error, Refusal)
    return error.code


def test_what_waits_for_nothing_is_there_at_once() -> None:
    with Desk() as desk:
        assert desk.run(desk.engine.run(REGISTRY["ping"], PingParams())).pong


def test_a_change_is_told_when_it_is_on_disk() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        task = closing(desk)
        assert not task.done()
        desk.succeed()
        assert task.result().closed  # type: ignore[attr-defined]
        session = desk.committed("s1")
        assert session is not None
        assert session.status


def test_a_change_that_cannot_be_committed_is_refused() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        task = closing(desk)
        desk.fail()
        assert refusal_of(task) == "storage_unavailable"


@pytest.mark.parametrize("error", [None, Conflict([])])
def test_a_change_on_top_of_a_failed_commit_is_decided_again(error: Exception | None) -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        desk.ask("get_session", session_id="s1")
        desk.peer().say(request(1, "update_session_state", session_id="s1", state_data={"a": 1}))
        desk.settle()
        task = closing(desk)
        desk.fail(error or StorageError("the disk is full"))
        assert not task.done()
        desk.succeed()
        if desk.in_flight:
            desk.succeed()
        assert task.result().closed  # type: ignore[attr-defined]


def test_a_refusal_that_rests_on_an_uncommitted_change_waits_for_it() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        desk.peer().ask(1, "delete_session", session_id="s1", purge=True)
        desk.settle()
        task = closing(desk)
        assert not task.done()
        desk.succeed()
        assert refusal_of(task) == "session_not_found"


def test_what_cannot_be_read_is_refused() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.reads.error = UNREADABLE
        assert refusal_of(closing(desk)) == "storage_unavailable"


def test_one_that_is_cancelled_leaves_nothing_behind() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.reads.closed = True
        task = closing(desk)
        task.cancel()
        desk.settle()
        desk.store.reads.let_go()
        desk.settle()
        assert not desk.engine.cache._pins
        assert desk.in_flight is None
        session = desk.committed("s1")
        assert session is not None
        assert not session.status


# -- operations: what the server does itself, and awaits


class Backups:
    """Stands for the operations of the server."""

    def __init__(self) -> None:
        self.going = asyncio.Event()
        self.error: Exception | None = None
        self.callers: list[object] = []

    async def begin(self, parameters: object, caller: object) -> object:
        self.callers.append(caller)
        await self.going.wait()
        if self.error is not None:
            raise self.error
        return REGISTRY["begin_backup"].result("a name")


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, "ok"), (Refusal("backup_in_progress", "wait"), "backup_in_progress"), (KeyError(), "internal_error")],
)
def test_an_operation_is_answered_in_its_place_and_holds_up_nobody_else(error: Exception | None, code: str) -> None:
    backups = Backups()
    backups.error = error
    with Desk(stored_session("s1"), operations={"begin_backup": backups.begin}) as desk:
        peer, other = desk.peer(), desk.peer()
        peer.say(request(1, "ping"), request(2, "begin_backup"), request(3, "ping"))
        desk.settle()
        other.ask(1, "restore_session", session_id="s1")
        desk.settle()
        assert (peer.ids, other.ids) == ([1], [1])
        backups.going.set()
        desk.settle()
        assert peer.ids == [1, 2, 3]
        assert peer.codes == ["ok", code, "ok"]
        faults = [fields["command"] for event, fields in desk.log.lines if event == "request.fault"]
        assert faults == (["begin_backup"] if code == "internal_error" else [])
        desk.log.lines.clear()


def test_an_operation_is_begun_once_though_what_came_before_it_is_decided_again() -> None:
    backups = Backups()
    with Desk(stored_session("s1"), operations={"begin_backup": backups.begin}) as desk:
        desk.ask("get_session", session_id="s1")
        desk.hold_commits()
        desk.peer().ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
        desk.settle()
        peer = desk.peer()
        peer.say(request(1, "close_session", session_id="s1"), request(2, "begin_backup"))
        desk.settle()
        desk.fail()
        backups.going.set()
        desk.settle()
        desk.succeed()
        assert peer.codes == ["ok", "ok"]
        assert len(backups.callers) == 1


def test_the_outcome_for_a_peer_that_went_is_nobodys() -> None:
    backups = Backups()
    with Desk(operations={"begin_backup": backups.begin}) as desk:
        peer = desk.peer()
        peer.say(request(1, "begin_backup"), request(2, "ping"))
        desk.settle()
        peer.dialogue.abandon()
        backups.going.set()
        desk.settle()
        assert peer.replies == []
        assert not desk.engine._operating
