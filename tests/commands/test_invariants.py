"""Whatever is asked, in whatever order: what must stay true of sessions, and of the records that tell of them.

`House` checks after each decision that owners list just their live sessions and that
external ids have one holder each, and that what raised has changed nothing.
"""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stui_sessions.domain.draft import Rules
from stui_sessions.domain.entities import LIVE, Absent, Entity, Key, Session, session_key
from stui_sessions.domain.records import Record, apply, composed
from stui_sessions.errors import Refusal
from tests.commands.house import House

IDS = st.sampled_from(["a", "b", "c", "d"])
OWNERS = st.sampled_from([{}, {"client_id": "m"}, {"client_id": "m", "user_id": "u"}, {"user_id": "u"}])
NAMES = st.sampled_from(["x", "y"])
OBJECTS = st.dictionaries(st.sampled_from("klm"), st.sampled_from([1, None, {}, "v" * 30]), max_size=3)
STATES = st.fixed_dictionaries(
    {}, optional={name: OBJECTS for name in ("state_data", "workspace_context", "inspector_state", "object_registry")}
)


def build(command: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(command), st.fixed_dictionaries(parameters))


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


NEW = st.fixed_dictionaries(
    {},
    optional={
        "external_id": NAMES,
        "timeout": st.sampled_from([10, 100]),
        "ttl_seconds": st.sampled_from([5, 50]),
        "session_state": OBJECTS,
    },
)
OPEN = st.fixed_dictionaries(
    {},
    optional={
        "session_id": IDS,
        "resume": st.booleans(),
        "revive": st.booleans(),
        "on_conflict": st.sampled_from(["error", "reuse", "new"]),
    },
)
EDIT = st.fixed_dictionaries(
    {"session_id": IDS},
    optional={
        "external_id": st.one_of(NAMES, st.none()),
        "timeout": st.sampled_from([5, 50, 500]),
        "title": st.sampled_from(["t", None]),
        "pin": st.booleans(),
    },
)
COMMANDS = st.one_of(
    st.tuples(st.just("open_session"), merged(OWNERS, NEW, OPEN)),
    st.tuples(st.just("open_session"), merged(OWNERS, NEW, OPEN)),
    st.tuples(st.just("update_session_state"), merged(st.fixed_dictionaries({"session_id": IDS}), STATES)),
    st.tuples(
        st.just("update_session_state"),
        merged(st.fixed_dictionaries({"session_id": IDS, "mode": st.just("replace")}), STATES),
    ),
    st.tuples(st.just("update_session"), EDIT),
    build("close_session", session_id=IDS),
    build("close_session", external_id=NAMES),
    build("delete_session", session_id=IDS, purge=st.booleans()),
    build("undelete_session", session_id=IDS),
    build("touch_session", session_id=IDS),
    build("restore_session", external_id=NAMES, user_id=st.just("u")),
    build("import_sessions", on_conflict=st.sampled_from(["error", "skip", "replace", "new"])),
    build("sweep", session_id=IDS),
    build("wait", seconds=st.sampled_from([0.5, 4, 30, 1000])),
    build("forget"),
    build("crash"),
)


def make(policy: str) -> House:
    return House(
        Rules(2, 2, policy, default_timeout=60, open_timeout=60, keep_expired=900, max_state_bytes=150)  # type: ignore[arg-type]
    )


def rows_to_import() -> list[Any]:
    other = House()
    for session_id, user_id, external_id in (("a", "u", "x"), ("b", "u", "y"), ("e", "v", "x")):
        other.do(
            "open_session", session_id=session_id, client_id="m", user_id=user_id, external_id=external_id, timeout=100
        )
    other.do("close_session", session_id="b")
    return [row for status in ("live", "closed") for row in other.do("export_sessions", status=status).sessions]


ROWS = rows_to_import()


def act(house: House, command: str, parameters: dict[str, Any]) -> None:
    try:
        if command == "import_sessions":
            house.do(command, sessions=ROWS, **parameters)
        elif command in ("sweep", "wait", "forget", "crash"):
            getattr(house, command)(*parameters.values())
        else:
            house.do(command, **parameters)
    except Refusal:
        pass


@settings(max_examples=300)
@given(steps=st.lists(COMMANDS, max_size=30), policy=st.sampled_from(["reject", "evict_oldest"]))
def test_the_records_lead_where_the_decisions_led(steps: list[tuple[str, dict[str, Any]]], policy: str) -> None:
    house = make(policy)
    for command, parameters in steps:
        act(house, command, parameters)
    log = house.history
    replayed: dict[Key, Entity] = {}
    for commit, record in enumerate(log):
        replayed[record.key] = apply(replayed.get(record.key, Absent(record.key)), record, commit)
    assert without_commits(replayed) == without_commits(house.stored)
    assert without_commits(in_one_go(log)) == without_commits(house.stored)


def in_one_go(log: list[Record]) -> dict[Key, Entity]:
    """As a start replays the log: each entity's records together, its merges composed."""
    by_key: dict[Key, list[Record]] = {}
    for record in log:
        by_key.setdefault(record.key, []).append(record)
    entities: dict[Key, Entity] = {}
    for key, records in by_key.items():
        entity: Entity = Absent(key)
        for record in composed(records):
            entity = apply(entity, record, 0)
        entities[key] = entity
    return entities


def without_commits(entities: dict[Key, Entity]) -> dict[Key, Any]:
    """What can be compared: a replay numbers its commits itself, and knows no keys of states."""
    plain: dict[Key, Any] = {}
    for key, e in entities.items():
        if isinstance(e, Session):
            fields = {name: getattr(e, name) for name in e.__struct_fields__ if name not in ("commit", "keys")}
            plain[key] = fields | {"active_at": e.recorded_at}
        elif not isinstance(e, Absent):
            plain[key] = [getattr(e, name) for name in e.__struct_fields__ if name != "commit"]
    return plain


@settings(max_examples=150)
@given(steps=st.lists(COMMANDS, max_size=30), policy=st.sampled_from(["reject", "evict_oldest"]))
def test_nobody_gets_more_than_the_limits_allow(steps: list[tuple[str, dict[str, Any]]], policy: str) -> None:
    house = make(policy)
    for command, parameters in steps:
        if command != "import_sessions":  # for which no limit holds
            act(house, command, parameters)
    for owner in ({"client_id": "m"}, {"client_id": "m", "user_id": "u"}):
        assert house.do("list_client_sessions", **owner).session_count <= 2
    live = house.do("list_sessions", limit=100).sessions
    assert sum((row.client_id, row.user_id) == (None, "u") for row in live) <= 2
    assert sorted(row.session_id for row in live) == sorted(
        e.session_id for e in house.stored.values() if isinstance(e, Session) and house.is_live(e)
    )


@settings(max_examples=150)
@given(steps=st.lists(COMMANDS, max_size=25), policy=st.sampled_from(["reject", "evict_oldest"]))
def test_an_empty_memory_changes_no_answer(steps: list[tuple[str, dict[str, Any]]], policy: str) -> None:
    """Decided with everything in memory and with nothing there, it comes to the same."""
    full, empty = make(policy), make(policy)
    for command, parameters in steps:
        if command in ("forget", "crash"):
            continue
        act(full, command, parameters)
        act(empty, command, parameters)
        empty.crash_but_uses()
    assert without_commits(full.stored) == without_commits(empty.stored)


@settings(max_examples=150)
@given(steps=st.lists(COMMANDS, max_size=15), last=COMMANDS)
def test_a_second_run_decides_the_same(
    steps: list[tuple[str, dict[str, Any]]], last: tuple[str, dict[str, Any]]
) -> None:
    """A handler leaves no trace in its parameters."""
    house = make("evict_oldest")
    for command, parameters in steps:
        act(house, command, parameters)
    if last[0] not in ("sweep", "wait", "forget", "crash", "import_sessions"):
        house.twice = True
        act(house, *last)


def test_what_the_steps_do_happens_at_all() -> None:
    """Else the tests above would prove nothing."""
    house = make("reject")
    for session_id in ("a", "b"):
        act(house, "open_session", {"client_id": "m", "user_id": "u", "session_id": session_id})
    assert house.refusals == 0
    act(house, "open_session", {"client_id": "m", "user_id": "u", "session_id": "c"})
    act(house, "open_session", {"client_id": "m", "user_id": "u", "resume": False})
    assert house.refusals == 2
    act(house, "import_sessions", {"on_conflict": "replace"})
    assert isinstance(house.stored[session_key("", "e")], Session)
    assert house.session("a").status == LIVE
