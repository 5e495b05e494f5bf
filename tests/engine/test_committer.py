"""Group commit, a disk that refuses or is damaged, stores that others commit to, and stopping."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import Key, Session, owner_key, session_key
from stui_sessions.domain.records import Created, Joined, Updated
from stui_sessions.engine.committer import WELL_SECONDS
from stui_sessions.errors import StorageDamaged
from stui_sessions.storage.contract import Batch
from tests.engine.desk import START, UNAVAILABLE, Desk, Peer, Reply, request, stored_session

S1 = session_key("", "s1")
MINE = owner_key("", "", "me")


def update(id: Any, **state: Any) -> bytes:
    return request(id, "update_session_state", session_id="s1", state_data=state)


def commits(desk: Desk) -> list[Batch]:
    """Those that were tried."""
    return desk.store.commits.seen


# -- what a commit holds


def test_all_that_is_decided_while_one_runs_shares_the_next_one() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peers = [desk.peer() for _ in range(20)]
        for peer in peers:
            peer.say(update(1, a=1))
            desk.settle()
        assert len(commits(desk)) == 1
        desk.succeed()
        assert [peer.codes for peer in peers] == [["ok"]] + [[]] * 19
        desk.succeed()
        assert [peer.codes for peer in peers] == [["ok"]] * 20
        assert [len(batch.records) for batch in commits(desk)] == [1, 19]


def test_what_needs_no_commit_makes_none() -> None:
    with Desk(stored_session("s1")) as desk:
        for command in ("ping", "list_sessions", "get_session_statistics"):
            desk.ask(command)
        desk.ask("restore_session", session_id="s1")  # a use, which is noted
        assert desk.ask("update_session_state", session_id="x", state_data={}) == "session_not_found"
        assert commits(desk) == []


def test_records_reach_the_store_as_they_were_decided() -> None:
    with Desk() as desk:
        desk.ask("create_session", client_id="me", session_id="s1", session_state={"a": 1})
        desk.wall += 1000
        desk.ask("update_session_state", session_id="s1", state_data={"b": 2})
        made, saved = commits(desk)
        assert [type(record) for record in made.records] == [Created, Joined]
        assert saved.records == [Updated(S1, 2, desk.wall, "local", made.number, 2, False, b'{"b":2}')]
        after = saved.after[S1]
        assert isinstance(after, Session)
        assert after.session_state == b'{"a":1,"b":2}'


def expectations(desk: Desk) -> list[dict[Key, int]]:
    return [batch.expected for batch in commits(desk)]


def test_a_commit_expects_the_versions_that_its_decisions_stood_on() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.ask("update_session_state", session_id="s1", state_data={"a": 1})
        desk.ask("create_session", client_id="me", session_id="s2")
        desk.ask("close_session", session_id="s1")
        assert MINE is not None
        assert expectations(desk) == [{S1: 1}, {session_key("", "s2"): 0, MINE: 1}, {S1: 2, MINE: 2}]


def test_what_was_decided_on_top_of_a_commit_expects_what_that_leads_to() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peer = desk.peer()
        for i in range(3):
            peer.say(update(i, a=i), update(i, b=i))
            desk.settle()
        desk.succeed()
        desk.succeed()
        assert expectations(desk) == [{S1: 1}, {S1: 3}]


# -- a disk that refuses


def test_writes_are_refused_while_the_disk_refuses_and_work_again_when_it_is_back() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.commits.error = UNAVAILABLE
        for _ in range(3):
            assert desk.ask("update_session_state", session_id="s1", state_data={"a": 1}) == "storage_unavailable"
            assert desk.ask("create_session", client_id="me") == "storage_unavailable"
            assert desk.ask("restore_session", session_id="s1")["session_state"] == {}
        desk.store.commits.error = None
        updated = desk.ask("update_session_state", session_id="s1", state_data={"b": 1})
        assert (updated["session_state"], updated["revision"]) == ({"b": 1}, 2)


def test_an_outage_is_logged_once_and_its_end_too() -> None:
    with Desk(stored_session("s1")) as desk:
        for _ in range(2):
            desk.store.commits.error = UNAVAILABLE
            for _ in range(5):
                desk.ask("update_session_state", session_id="s1", state_data={"a": 1})
            desk.store.commits.error = None
            for _ in range(2):
                desk.ask("update_session_state", session_id="s1", state_data={"a": 1})
            desk.advance(WELL_SECONDS)
        assert desk.log.events == ["storage.failed", "storage.recovered"] * 2
        assert desk.log.lines[0][1] == {"error": str(UNAVAILABLE), "code": UNAVAILABLE.code}


def test_writes_that_fail_and_succeed_in_turn_are_one_outage() -> None:
    """As on a disk that is all but full."""
    with Desk(stored_session("s1")) as desk:
        for _ in range(5):
            for error in (UNAVAILABLE, None):
                desk.store.commits.error = error
                desk.ask("update_session_state", session_id="s1", state_data={"a": 1})
            desk.advance(WELL_SECONDS * 0.9)
        assert desk.log.events == ["storage.failed"]
        desk.advance(WELL_SECONDS * 0.1)
        assert desk.log.events == ["storage.failed", "storage.recovered"]


def test_damage_stops_all_writing_for_good() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.commits.error = StorageDamaged("a page is broken")
        for error in (desk.store.commits.error, None, None):
            desk.store.commits.error = error
            peer = desk.peer()
            peer.say(update(1, a=1))
            desk.settle()
            assert peer.codes == ["storage_damaged"]
        assert len(commits(desk)) == 1
        assert desk.ask("restore_session", session_id="s1")["revision"] == 1  # reading goes on
        assert desk.log.events == ["storage.failed"]


def test_damage_that_others_find_stops_writing_too() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        first, second = desk.peer(), desk.peer()
        first.say(update(1, a=1))
        desk.settle()
        second.say(update(1, a=2))
        desk.engine.committer.damage = StorageDamaged("found by the check")
        desk.succeed()
        assert (first.codes, second.codes) == (["ok"], ["storage_damaged"])


# -- where others commit too


def somebody_else_saves(desk: Desk, state: bytes, key: Key = S1) -> None:
    """As another server on the same store would."""
    before = desk.store._entities[key]
    assert isinstance(before, Session)
    after = replace(before, version=before.version + 1, revision=before.revision + 1, session_state=state)
    desk.store._entities[key] = after


def test_what_was_decided_on_what_is_stale_is_decided_again() -> None:
    with Desk(stored_session("s1"), stored_session("s2", 2)) as desk:
        for session_id in ("s1", "s2"):
            desk.ask("get_session", session_id=session_id)
        somebody_else_saves(desk, b'{"theirs":1}')
        writers = [desk.peer() for _ in range(3)]
        for i, peer in enumerate(writers):
            peer.say(update(1, **{f"k{i}": i}))
        bystander = desk.peer()
        bystander.ask(1, "update_session_state", session_id="s2", state_data={"a": 1})
        desk.settle()
        assert [peer.codes for peer in (*writers, bystander)] == [["ok"]] * 4
        told = [peer.replies[0]["result"]["revision"] for peer in writers]
        assert told == [3, 4, 5]
        assert desk.ask("restore_session", session_id="s1")["session_state"] == {"theirs": 1, "k0": 0, "k1": 1, "k2": 2}
        assert desk.log.events == []  # nothing has failed


def test_what_was_only_read_and_is_stale_is_read_again() -> None:
    """Or the decision would stand on it for ever."""
    stored = [stored_session("s1"), stored_session("s2", 2, active_at=START + 1)]
    with Desk(*stored, rules=Rules(max_sessions_per_client=2, on_limit="evict_oldest")) as desk:
        desk.ask("list_client_sessions", client_id="me")
        somebody_else_saves(desk, b'{"theirs":1}', session_key("", "s2"))
        assert desk.ask("create_session", client_id="me")["evicted_session_id"] == "s1"
        assert len(commits(desk)) == 2


# -- others have their turn


def test_a_store_that_commits_without_a_pause_leaves_the_loop_to_others() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.ask("get_session", session_id="s1")
        peer, turns, writes = desk.peer(), 0, 0

        def write_on(replies: list[Reply]) -> None:
            nonlocal writes
            writes += len(replies)
            if turns < 20 and writes < 1000:
                peer.dialogue.receive([update(writes, a=writes)])

        async def others() -> None:
            nonlocal turns
            while turns < 20:
                await asyncio.sleep(0)
                turns += 1

        peer.on_send = write_on
        peer.say(update(0, a=0))
        desk.run(others())
        desk.settle()
        assert writes < 1000


# -- waiting until everything is committed


@pytest.fixture
def writing() -> Any:
    """A peer whose write is on its way to the disk."""
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peer = desk.peer()
        peer.say(update(1, a=1))
        desk.settle()
        yield peer


def test_there_may_be_nothing_to_wait_for() -> None:
    with Desk() as desk:
        desk.run(desk.engine.until_committed())


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_waiting_ends_with_the_commit_however_that_ends(writing: Peer, end: str) -> None:
    desk = writing.desk
    waiting = desk.loop.create_task(desk.engine.until_committed())
    desk.settle()
    assert not waiting.done()
    getattr(desk, end)()
    assert waiting.done()


def test_waiting_covers_what_was_decided_during_a_commit(writing: Peer) -> None:
    desk = writing.desk
    writing.say(update(2, a=2))
    waiting = desk.loop.create_task(desk.engine.until_committed())
    desk.succeed()
    assert not waiting.done()
    desk.succeed()
    assert waiting.done()


def test_who_gives_up_waiting_is_forgotten(writing: Peer) -> None:
    desk = writing.desk
    waiting = desk.loop.create_task(desk.engine.until_committed())
    desk.settle()
    waiting.cancel()
    desk.settle()
    assert list(desk.engine._waiting) == [writing.dialogue]


# -- stopping


def test_a_stop_commits_what_was_decided(writing: Peer) -> None:
    desk = writing.desk
    writing.say(update(2, a=2))
    committing = desk.tasks.pop(0)
    desk.engine.committer.stop()
    desk.settle()
    assert not committing.done()
    for _ in range(2):
        desk.succeed()
    assert committing.done()
    assert writing.codes == ["ok", "ok"]


def test_a_stop_does_not_hang_on_a_disk_that_refuses(writing: Peer) -> None:
    desk = writing.desk
    committing = desk.tasks.pop(0)
    desk.engine.committer.stop()
    desk.fail()
    assert committing.done()
    assert writing.codes == ["storage_unavailable"]


def test_a_stop_with_nothing_to_commit() -> None:
    with Desk() as desk:
        committing = desk.tasks.pop(0)
        desk.settle()
        desk.call(desk.engine.committer.stop)
        desk.run(committing)
