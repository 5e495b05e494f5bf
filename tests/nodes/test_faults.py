"""Primaries, standbys and nodes that are killed or frozen under load: nothing acknowledged is lost, nothing that was
refused is seen, nothing is carried out twice, and everybody works again without a restart.

Three nodes.  CI runs one round of each; STUI_TEST_ROUNDS=200 is the big run (issue 8, "What it must show", 1 to 3):
10 rounds of each fault of the database, 30 of each fault of a node.
"""

import contextlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.nodes.checks import problems
from tests.nodes.cluster import DATABASE_ROUNDS, NODE_ROUNDS, STORAGE_TIMEOUT, Cluster, Node
from tests.nodes.conftest import MakeCluster
from tests.nodes.load import Ledger, Load
from tests.support.postgres import PostgresFailed, psql
from tests.support.waiting import until

WITHIN = 1.0
"""Seconds after which a node's end no longer shows to the clients of the others: the issue's figure."""
BUSY = 5.0
"""How much longer the slowest of all may take, because a test machine may be busy."""

SAVES = "update_session_state"


def all_is_well(cluster: Cluster, ledger: Ledger) -> None:
    found = problems(cluster, ledger)
    assert not found, f"{len(found)} problems; {ledger}\n" + "\n".join(found[:20])


def nobody_was_cut_off(load: Load) -> None:
    """No node has ended a connection, and so no request is without an answer."""
    assert load.lost == 0
    assert load.ledger.unknown == set()


def rounds(number: int, make_cluster: MakeCluster, play: Callable[[Cluster, Load], str]) -> None:
    """A fault under load in a cluster of its own, so often; and what is told of each."""
    for n in range(max(1, number)):
        cluster = make_cluster(3, standby="synchronous")
        load = Load(cluster, seed=n).start()
        load.go_on(random.Random(n).randint(50, 500))
        figures = play(cluster, load)
        ledger = load.stop()
        cluster.until_it_works()
        print(f"\nround {n + 1}: {ledger}; {figures}")
        all_is_well(cluster, ledger)


# The primary.


def test_the_primary_is_killed_and_the_standby_promoted(make_cluster: MakeCluster) -> None:
    def play(cluster: Cluster, load: Load) -> str:
        at = time.monotonic()
        cluster.fail_over()
        load.go_on(300)
        load.stop()
        nobody_was_cut_off(load)
        return f"longest answer {slowest(load, at - 1):.2f} s"

    rounds(DATABASE_ROUNDS, make_cluster, play)


def test_the_primary_is_away_for_long(make_cluster: MakeCluster) -> None:
    """What comes meanwhile is refused in time, and nobody has to be told that it works again."""

    def play(cluster: Cluster, load: Load) -> str:
        cluster.primary.kill()
        create = refused(cluster.nodes, "create_session", client_id="late")
        took = create + refused(cluster.nodes, "get_session", session_id=next(iter(load.shared)))
        cluster.promote()
        load.go_on(300)
        load.stop()
        nobody_was_cut_off(load)
        assert max(took) < STORAGE_TIMEOUT + BUSY
        assert cluster.sql("SELECT 1 FROM stui_sessions.sessions WHERE client_id = 'late'") == []
        return f"refused after {statistics.median(took):.2f} s, {max(took):.2f} s at most"

    rounds(DATABASE_ROUNDS, make_cluster, play)


def refused(nodes: list[Node], command: str, **parameters: Any) -> list[float]:
    """Seconds until each node refuses a request because the database is away."""
    begun = time.monotonic()
    took = []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(node.connect()) for node in nodes]
        for client in clients:
            client.send_request(command, **parameters)
        for client in clients:
            reply = client.receive()
            took.append(time.monotonic() - begun)
            assert reply.get("error_code") == "storage_unavailable", reply
    return took


def test_the_primary_is_killed_and_starts_again(make_cluster: MakeCluster) -> None:
    def play(cluster: Cluster, load: Load) -> str:
        at = time.monotonic()
        cluster.primary.kill()
        cluster.primary.start()
        load.go_on(300)
        load.stop()
        nobody_was_cut_off(load)
        return f"longest answer {slowest(load, at - 1):.2f} s"

    rounds(DATABASE_ROUNDS, make_cluster, play)


@pytest.mark.parametrize("is_noticed", [True, False])
def test_the_primary_is_frozen_and_wakes_up_as_an_old_one(make_cluster: MakeCluster, is_noticed: bool) -> None:
    """The old one acknowledges nothing, whether it wakes before the nodes have left it or after.

    What looks after a cluster ends an old primary as soon as that goes on; until then it is there.
    """

    def play(cluster: Cluster, load: Load) -> str:
        cluster.primary.freeze()
        frozen = time.monotonic()
        cluster.promote()
        if is_noticed:
            load.go_on(300)
        after = time.monotonic() - frozen
        cluster.old.thaw()
        it_acknowledges_nothing(cluster)
        if is_noticed:
            load.go_on(300)
        cluster.old.kill()
        load.go_on(300)
        load.stop()
        nobody_was_cut_off(load)
        return f"300 writes {after:.2f} s after the freeze" if is_noticed else "woken at once"

    rounds(DATABASE_ROUNDS, make_cluster, play)


def it_acknowledges_nothing(cluster: Cluster) -> None:
    """A write at the old primary waits for a standby that has gone."""
    with pytest.raises(PostgresFailed, match="no answer"):
        psql(cluster.old.url(cluster.name), "CREATE TABLE public.late ()", timeout=1.0)


def test_without_a_synchronous_standby_the_check_finds_losses(make_cluster: MakeCluster) -> None:
    """The control: the same load and the same check, and what was acknowledged is not there."""
    cluster = make_cluster(3, standby="asynchronous")
    load = Load(cluster).start()
    cluster.stop_sender()
    load.go_on(300)
    cluster.primary.kill()
    load.ask_to_stop()
    cluster.promote()
    ledger = load.stop()
    cluster.until_it_works()
    lost = [problem for problem in problems(cluster, ledger) if problem.startswith("lost")]
    print(f"\ncontrol: {ledger}; {len(lost)} found to be lost")
    assert len(lost) > 200


# The standby.


def test_the_only_standby_is_frozen(make_cluster: MakeCluster) -> None:
    """Writes wait: none is acknowledged meanwhile, none is told as failed and then seen; then all go through."""

    def play(cluster: Cluster, load: Load) -> str:
        assert cluster.standby is not None
        cluster.standby.freeze()
        frozen = time.monotonic()
        until(lambda: time.monotonic() - frozen > 1.5 * STORAGE_TIMEOUT, "the time to refuse what was sent")
        thawed = time.monotonic()
        cluster.standby.thaw()
        load.go_on(300)
        load.stop()
        nobody_was_cut_off(load)
        saved = [told for told in load.told if told.is_ok and told.command == SAVES and told.begun < thawed]
        early = [told for told in saved if frozen < told.begun and told.begun + told.took < thawed]
        waited = [told for told in saved if told.begun + told.took > thawed]
        assert early == []
        assert waited, "nothing waited for the standby"
        return f"{len(waited)} writes waited {max(told.took for told in waited):.2f} s and went through"

    rounds(DATABASE_ROUNDS, make_cluster, play)


def test_what_waits_behind_a_frozen_standby_is_refused_and_the_rest_is_told(make_cluster: MakeCluster) -> None:
    """Two writes are sent and wait; the next is not sent and refused; who asks about others is answered."""
    cluster = make_cluster(1, standby="synchronous")
    assert cluster.standby is not None
    (node,) = cluster.nodes
    ids = [node.result("create_session", client_id=f"c{n}")["session_id"] for n in range(4)]
    with node.connect() as first, node.connect() as second:
        cluster.standby.freeze()
        first.send_request(SAVES, session_id=ids[0], state_data={"sent": 1})
        until(lambda: waiting_commits(cluster) == 1, "a commit that waits")
        second.send_request(SAVES, session_id=ids[1], state_data={"sent": 2})
        until(lambda: waiting_commits(cluster) == 2, "another one beside it")
        (took,) = refused([node], SAVES, session_id=ids[2], state_data={"sent": 0})
        assert took < STORAGE_TIMEOUT + BUSY
        assert node.result("get_session", session_id=ids[3])["revision"] == 1
        cluster.standby.thaw()
        assert first.receive()["status"] == second.receive()["status"] == "success"
    revisions = [node.result("get_session", session_id=session_id)["revision"] for session_id in ids]
    assert revisions == [2, 2, 1, 1]
    assert problems(cluster) == []


def waiting_commits(cluster: Cluster) -> int:
    return int(cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")[0][0])


# A node.


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_node_is_lost(make_cluster: MakeCluster, fault: str) -> None:
    cluster = make_cluster(3)
    load = Load(cluster, workers=18).start()
    rng = random.Random(fault)
    worst = []
    for n in range(max(1, NODE_ROUNDS)):
        load.go_on(rng.randint(20, 200))
        number = rng.randrange(3)
        worst.append(lose(cluster, load, number, fault == "killed", is_long=n % 5 == 4))
    ledger = load.stop()
    cluster.until_it_works()
    print(f"\na node {fault} {len(worst)} times: {ledger}; slowest answer of the others: median "
          f"{statistics.median(worst):.2f} s, worst {max(worst):.2f} s")  # fmt: skip
    assert fault == "killed" or ledger.unknown == set()
    all_is_well(cluster, ledger)
    assert statistics.median(worst) < WITHIN
    assert max(worst) < WITHIN * BUSY


def lose(cluster: Cluster, load: Load, number: int, is_killed: bool, is_long: bool) -> float:
    """A node is away for a while, or for longer than anybody waits; the slowest answer of the others, in seconds."""
    node: Node = cluster.nodes[number]
    at = time.monotonic()
    if is_killed:
        node.kill_it()
    else:
        node.freeze()
    load.go_on(200)
    while is_long and time.monotonic() - at < 3 * STORAGE_TIMEOUT:
        load.go_on(50)
    slow = max(told.took for told in load.sent(at, without=number))
    if is_killed:
        node.come_back()
    else:
        node.thaw()
    load.go_on(50)
    return slow


def slowest(load: Load, since: float) -> float:
    return max(told.took for told in load.sent(since))
