"""What a reply tells is on disk; what cannot be recorded is not promised; everything is decided in the end."""

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import About, Session
from stui_sessions.errors import StorageError
from tests.engine.desk import START, UNAVAILABLE, Desk, stored_session

SECOND = 1000


def of_user(session_id: str, number: int, user_id: str, external_id: str = "x", **fields: object) -> object:
    about = About(user_id=user_id, external_id=external_id)
    return stored_session(session_id, number, about=about, **fields)


# -- a reply tells only what is on disk


def test_a_name_that_a_close_makes_unambiguous_is_told_when_the_close_is_on_disk() -> None:
    with Desk(of_user("s1", 1, "u1"), of_user("s2", 2, "u2")) as desk:  # type: ignore[arg-type]
        desk.hold_commits()
        closing, asking = desk.peer(), desk.peer()
        closing.ask(1, "close_session", session_id="s1")
        asking.ask(1, "get_session_info", external_id="x")
        desk.settle()
        assert asking.replies == []
        desk.fail()
        assert closing.codes == ["storage_unavailable"]
        assert asking.codes == ["external_id_ambiguous"]
        asking.ask(2, "get_session_info", external_id="x")
        desk.settle()
        assert asking.codes[1:] == ["external_id_ambiguous"]


def test_and_then_names_the_other_one() -> None:
    with Desk(of_user("s1", 1, "u1"), of_user("s2", 2, "u2")) as desk:  # type: ignore[arg-type]
        desk.hold_commits()
        closing, asking = desk.peer(), desk.peer()
        closing.ask(1, "close_session", session_id="s1")
        asking.ask(1, "get_session_info", external_id="x")
        desk.settle()
        desk.succeed()
        assert asking.replies[0]["result"]["session_id"] == "s2"


def test_a_list_waits_for_what_it_would_tell() -> None:
    with Desk() as desk:
        desk.hold_commits()
        peer = desk.peer()
        peer.ask(1, "create_session", client_id="me")
        other = desk.peer()
        other.ask(1, "list_client_sessions", client_id="me")
        desk.settle()
        assert other.replies == []
        desk.fail()
        assert other.replies[0]["result"]["session_count"] == 0


def test_a_failed_commit_leaves_nothing_in_memory() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.hold_commits()
        peer = desk.peer()
        peer.ask(1, "update_session_state", session_id="s1", state_data={"a": 1})
        desk.settle()
        peer.ask(2, "update_session_state", session_id="s1", state_data={"b": 2})
        desk.settle()
        desk.fail()
        desk.succeed()  # the second one is decided again, on what the store has
        assert peer.codes == ["storage_unavailable", "ok"]
        assert peer.replies[1]["result"]["session_state"] == {"b": 2}
        assert peer.replies[1]["result"]["revision"] == 2


# -- uses


def test_a_use_that_cannot_be_recorded_succeeds_and_promises_what_is_recorded() -> None:
    with Desk(stored_session("s1", timeout=10)) as desk:
        desk.store.commits.error = UNAVAILABLE
        for step in range(1, 29):
            desk.wall = START + step * SECOND // 2
            told = desk.ask("touch_session", session_id="s1")
            assert told["session_id"] == "s1"
        assert desk.ask("get_session_info", session_id="s1")["is_active"]
        # Recorded at START; a crash gives a second back.
        assert told["expires_at"] == "2025-08-30T10:30:11Z"


def test_what_was_promised_holds_after_a_kill() -> None:
    first = Desk(stored_session("s1", timeout=10))
    first.store.commits.error = UNAVAILABLE
    first.wall = START + 5 * SECOND
    first.ask("touch_session", session_id="s1")
    store = first.store
    first.close()
    store.commits.error = None
    with Desk(store=store, uncertain_until=first.wall) as second:
        second.wall = START + 11 * SECOND - 1
        assert second.ask("get_session_info", session_id="s1")["is_active"]


def test_a_late_use_waits_for_its_record() -> None:
    with Desk(stored_session("s1", timeout=10)) as desk:
        desk.hold_commits()
        desk.wall += 6 * SECOND
        peer = desk.peer()
        peer.ask(1, "touch_session", session_id="s1")
        desk.settle()
        assert peer.replies == []
        desk.succeed()
        assert peer.replies[0]["result"]["expires_at"] == "2025-08-30T10:30:16Z"


def test_an_early_use_waits_for_nothing() -> None:
    with Desk(stored_session("s1", timeout=600)) as desk:
        desk.hold_commits()
        desk.wall += 59 * SECOND
        peer = desk.peer()
        peer.ask(1, "restore_session", session_id="s1")
        desk.settle()
        assert peer.codes == ["ok"]
        assert desk.in_flight is None


def test_uses_that_were_only_noted_outlive_what_memory_drops() -> None:
    with Desk(stored_session("s1", timeout=600), resident_limit=0) as desk:
        desk.wall += 30 * SECOND
        desk.ask("restore_session", session_id="s1")
        desk.engine.cache.trim(desk.engine.committed)
        assert not desk.engine.cache.entities
        assert desk.ask("get_session_info", session_id="s1")["time_until_expiry"] == 600
        assert desk.run(desk.engine.recorder.record_all())
        session = desk.committed("s1")
        assert session is not None
        assert session.recorded_at == desk.wall


def test_a_refused_disk_loses_no_noted_use() -> None:
    with Desk(stored_session("s1", timeout=600)) as desk:
        desk.wall += 30 * SECOND
        desk.ask("restore_session", session_id="s1")
        desk.store.commits.error = UNAVAILABLE
        assert not desk.run(desk.engine.recorder.record_all())
        desk.store.commits.error = None
        assert desk.ask("get_session_info", session_id="s1")["time_until_expiry"] == 600


# -- whatever the limit of memory, everything is decided


def test_a_decision_that_needs_more_than_memory_may_hold() -> None:
    """Five sessions with external ids in the way of one with an id and an external id of its own."""
    about = [About(external_id=f"x{i}") for i in range(5)]
    sessions = [stored_session(f"s{i}", i + 1, about=about[i]) for i in range(5)]
    rules = Rules(max_sessions_per_client=5, on_limit="evict_oldest")
    with Desk(*sessions, rules=rules, resident_limit=0) as desk:
        told = desk.ask("create_session", client_id="me", session_id="mine", external_id="new")
        assert told["session_id"] == "mine"
        assert told["evicted_session_id"] == "s0"


def test_a_large_import_over_expired_sessions_with_the_same_names() -> None:
    state = b'{"a":"' + b"x" * 20_000 + b'"}'
    old = [
        stored_session(f"s{i}", i + 1, f"c{i}", session_state=state, about=About(external_id=f"x{i}"), timeout=1)
        for i in range(50)
    ]
    with Desk(*old, resident_limit=30_000) as desk:
        rows = desk.ask("export_sessions", limit=50)["sessions"]
        assert len(rows) == 50
        desk.wall += 10 * SECOND
        result = desk.ask("import_sessions", sessions=rows, on_conflict="new")
        assert result["created"] == 50
        assert desk.engine.cache.bytes <= 30_000
        assert not desk.engine.cache.pinned_bytes


def test_a_peer_that_leaves_takes_its_pins_along() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.reads.closed = True
        peer = desk.peer()
        peer.ask(1, "restore_session", session_id="s1")
        desk.settle()
        peer.dialogue.abandon()
        desk.store.reads.let_go()
        desk.settle()
        assert not desk.engine.cache.pinned_bytes
        assert peer.replies == []


def test_one_sweep_leaves_nothing_that_is_due() -> None:
    sessions = [stored_session(f"s{i}", i + 1, f"c{i}", session_state=b'{"a":"' + b"x" * 9000 + b'"}', timeout=1)
                for i in range(10)]  # fmt: skip
    with Desk(*sessions, resident_limit=30_000) as desk:
        desk.wall += 10 * SECOND
        desk.run(desk.sweeper.sweep())
        counts = desk.ask("get_session_statistics")["sessions_by_status"]
        assert (counts["live"], counts["expired"]) == (0, 10)


def test_a_session_used_since_is_not_swept_and_its_end_is_noted_anew() -> None:
    with Desk(stored_session("s1", timeout=600)) as desk:
        desk.wall += 50 * SECOND
        desk.ask("restore_session", session_id="s1")
        desk.wall += 560 * SECOND
        desk.run(desk.sweeper.sweep())
        session = desk.committed("s1")
        assert isinstance(session, Session)
        assert not session.status
        assert session.recorded_at == START + 50 * SECOND


def test_reads_that_fail_are_told_and_forgotten() -> None:
    with Desk(stored_session("s1")) as desk:
        desk.store.reads.error = StorageError("the disk cannot be read")
        assert desk.ask("restore_session", session_id="s1") == "storage_unavailable"
        desk.store.reads.error = None
        assert desk.ask("restore_session", session_id="s1")["session_id"] == "s1"
        assert not desk.engine.cache._pins
