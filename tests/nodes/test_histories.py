"""Recorded histories of three nodes, while nodes, the standby and the primary are killed and frozen, are linearizable:
those of each session, and those of what sessions share, the limit of a client and an external id.

STUI_TEST_ROUNDS=200 is the big run (issue 8, "What it must show", 4): 10 rounds of 10,000 operations.
"""

import random

from tests.engine.linearizability import Call, is_linearizable
from tests.nodes.checks import problems
from tests.nodes.cluster import DATABASE_ROUNDS, LIMIT, ROUNDS, Cluster
from tests.nodes.conftest import MakeCluster
from tests.nodes.histories import FREE, NOBODY, Recording, limit_model, name_model

OPERATIONS = 10_000 if ROUNDS else 500
FAULTS = 30 if ROUNDS else 5
"""In each round, about."""


def test_histories_are_linearizable(make_cluster: MakeCluster) -> None:
    for n in range(max(1, DATABASE_ROUNDS)):
        rng = random.Random(n)
        cluster = make_cluster(3, standby="synchronous")
        recording = Recording(cluster, OPERATIONS, seed=n).start()
        piece = OPERATIONS // (FAULTS + 2)
        loss = rng.randrange(FAULTS) if ROUNDS else FAULTS - 1
        for fault in range(FAULTS):
            recording.go_on(piece)
            if fault == loss:
                lose_primary(cluster, recording, is_killed=n % 2 == 0, piece=piece)
            else:
                happen(cluster, recording, rng, fault, piece)
        recording.finish()
        cluster.until_it_works()
        print(f"\nround {n + 1}: {recording}")
        assert recording.inexplicable() == []
        assert problems(cluster) == []


def happen(cluster: Cluster, recording: Recording, rng: random.Random, fault: int, piece: int) -> None:
    """A node or the standby is away while others go on."""
    node = rng.choice(cluster.nodes)
    match fault % 3:
        case 0:
            node.kill_it()
            recording.go_on(piece // 2)
            node.come_back()
        case 1:
            node.freeze()
            recording.go_on(piece // 2)
            node.thaw()
        case _ if cluster.standby is not None:
            cluster.standby.freeze()
            recording.go_on(12)
            cluster.standby.thaw()


def lose_primary(cluster: Cluster, recording: Recording, is_killed: bool, piece: int) -> None:
    """The standby takes its place; a frozen one goes on once the nodes have left it, and is ended for that."""
    if is_killed:
        cluster.fail_over()
        return
    cluster.primary.freeze()
    cluster.promote()
    recording.go_on(piece)
    cluster.until_it_works()
    cluster.old.thaw()
    recording.go_on(piece)
    cluster.old.kill()


# The models: what they must refuse.


def create(session_id: str, at: int, code: str = "ok", returned: int | None = None) -> Call:
    return Call(("create_session", {"session_id": session_id}), (code, {}), at, returned or at + 1)


def test_the_limit_is_neither_passed_nor_told_too_early() -> None:
    five = [create(f"s{n}", 10 * n) for n in range(LIMIT)]
    assert is_linearizable(five, NOBODY, limit_model)
    assert not is_linearizable([*five, create("more", 900)], NOBODY, limit_model)
    assert is_linearizable([*five, create("more", 900, "session_limit_reached")], NOBODY, limit_model)
    assert not is_linearizable([*five[1:], create("more", 900, "session_limit_reached")], NOBODY, limit_model)
    unknown = create("s0", 0, "unanswered", 10**9)
    assert is_linearizable([unknown, *five[1:], create("more", 900)], NOBODY, limit_model)
    assert is_linearizable([unknown, *five[1:], create("more", 900, "session_limit_reached")], NOBODY, limit_model)


def test_a_name_has_one_holder() -> None:
    close = Call(("close_session", {"session_id": "a"}), ("ok", {}), 20, 21)
    assert not is_linearizable([create("a", 0), create("b", 30)], FREE, name_model)
    assert is_linearizable([create("a", 0), close, create("b", 30)], FREE, name_model)
    assert is_linearizable([create("a", 0), create("b", 0, "external_id_conflict", 9)], FREE, name_model)
    assert not is_linearizable([create("a", 0), close, create("b", 30, "external_id_conflict")], FREE, name_model)
    looked = Call(("get_session", {"external_id": "x"}), ("ok", {"session_id": "a"}), 40, 41)
    assert not is_linearizable([create("a", 0), close, looked], FREE, name_model)
