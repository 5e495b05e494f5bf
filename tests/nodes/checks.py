"""What must hold in the tables after any fault; told as a list of problems, so that a control can see it fail."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from stui_sessions.domain.entities import EXTERNAL, LIVE, OWNER, SESSION, Holder, Key, Owner
from stui_sessions.domain.records import Claimed, Created, Ended, Joined, Left, Record, Released, Removed, Updated
from stui_sessions.storage.postgres.batches import decode_record
from stui_sessions.storage.rows import decode_entity, decode_session
from tests.nodes.cluster import LIMIT, Cluster
from tests.nodes.load import Ledger

SCHEMA = "stui_sessions"
STATUS = ("live", "expired", "closed", "deleted")


class Logged(NamedTuple):
    """A record, and the transaction that it came with."""

    xact: int
    record: Record


def problems(cluster: Cluster, ledger: Ledger | None = None) -> list[str]:
    """Everything that is wrong; empty if all is well.  Nobody may write meanwhile."""
    histories = read_records(cluster)
    found = [*gaps(histories), *tables(cluster, histories), *counts(cluster)]
    if ledger is not None:
        found += ledger.wrong
        found += outcomes(histories, ledger)
        found += shown(cluster, histories)
    return found


def read_records(cluster: Cluster) -> dict[Key, list[Logged]]:
    """The records of each entity, in the order in which readers of the log take them."""
    histories: dict[Key, list[Logged]] = defaultdict(list)
    rows = cluster.sql(f"SELECT xact, encode(data, 'hex') FROM {SCHEMA}.records ORDER BY xact, version")
    for xact, data in rows:
        record = decode_record(bytes.fromhex(data))
        histories[record.key].append(Logged(int(xact), record))
    return dict(histories)


# What the log says of each entity.


def gaps(histories: dict[Key, list[Logged]]) -> Iterator[str]:
    """Versions are consecutive while an entity is there, and none comes again when it is made anew."""
    for key, history in histories.items():
        is_there, before = False, 0
        seen: set[int] = set()
        members: set[str] = set()
        for _xact, record in history:
            if record.version in seen:
                yield f"again: {key} has version {record.version} twice"
            elif is_there and record.version != before + 1:
                yield f"gap: {key} has version {record.version} after {before}"
            if key[1] != OWNER and isinstance(record, Created | Claimed) == is_there:
                yield f"doubled: {key} at version {record.version}: {type(record).__name__}"
            if isinstance(record, Joined | Left):
                yield from _moved(members, record)
            is_there = bool(members) if key[1] == OWNER else not isinstance(record, Removed | Released)
            before = record.version
            seen.add(before)


def _moved(members: set[str], record: Joined | Left) -> Iterator[str]:
    if isinstance(record, Joined) == (record.session_id in members):
        yield f"doubled: {type(record).__name__} {record.session_id} of {record.key}"
    (members.add if isinstance(record, Joined) else members.discard)(record.session_id)
    if len(members) > LIMIT:
        yield f"limit: {record.key} has {len(members)} live sessions at version {record.version}"


def mark_of(record: Record) -> str | None:
    """The mark of the write that a record tells of; see `load.py`."""
    if isinstance(record, Created):
        return f"make {record.key[2]}"
    if isinstance(record, Ended):
        return f"end {record.key[2]}"
    if isinstance(record, Updated) and record.session_state is not None:
        return f"save {msgspec.json.decode(record.session_state)['serial']}"
    return None


def outcomes(histories: dict[Key, list[Logged]], ledger: Ledger) -> Iterator[str]:
    """Each acknowledged write was carried out once and as it was told, no refused one was, no other one twice."""
    times: Counter[str] = Counter()
    told: dict[str, tuple[str, int]] = {}
    for key, history in histories.items():
        for _xact, record in history:
            mark = mark_of(record)
            if mark is None:
                continue
            times[mark] += 1
            told[mark] = key[2], record.revision if isinstance(record, Updated) else 0
    for mark, (session_id, revision) in ledger.acknowledged.items():
        if mark not in times:
            yield f"lost: {mark}, acknowledged as revision {revision} of {session_id}"
        elif mark.startswith("save") and told[mark] != (session_id, revision):
            yield f"wrong: {mark} is {told[mark]}, acknowledged as {(session_id, revision)}"
    yield from (f"refused and yet there: {mark}" for mark in ledger.refused if mark in times)
    yield from (f"doubled: {mark} was carried out {n} times" for mark, n in times.items() if n > 1)


# What the tables hold.


def tables(cluster: Cluster, histories: dict[Key, list[Logged]]) -> Iterator[str]:
    """Sessions, owners and names agree with each other and with the log; no client has too many live sessions."""
    versions: dict[Key, int] = {}
    owned: dict[Key, set[str]] = defaultdict(set)
    named: dict[Key, set[str]] = defaultdict(set)
    for session in _sessions(cluster):
        if isinstance(session, str):
            yield session
            continue
        versions[session.key] = session.version
        if session.status == LIVE:
            owned["", OWNER, f"{session.user_id}\0{session.client_id}"].add(session.session_id)
            if session.about.external_id:
                named["", EXTERNAL, f"{session.user_id}\0{session.about.external_id}"].add(session.session_id)
    owned.pop(("", OWNER, "\0"), None)
    yield from (f"limit: {key} has {len(ids)} live sessions" for key, ids in owned.items() if len(ids) > LIMIT)
    yield from (f"external id: {key} is held by {ids}" for key, ids in named.items() if len(ids) > 1)
    held = {}
    for entity in _entities(cluster):
        versions[entity.key] = entity.version
        held[entity.key] = set(entity.session_ids) if isinstance(entity, Owner) else {entity.session_id}
    for key in {**owned, **named}.keys() | held.keys():
        live, told = owned.get(key) or named.get(key), held.get(key)
        if live != told:
            yield f"entity: {key} names {told}; live are {live}"
    yield from _newest(versions, histories)


def _newest(versions: dict[Key, int], histories: dict[Key, list[Logged]]) -> Iterator[str]:
    """A row is as its newest record left it."""
    for key in versions.keys() | histories.keys():
        record = histories[key][-1].record if key in histories else None
        version = versions.get(key)
        if version is None and (record is None or key[1] != SESSION or isinstance(record, Removed)):
            continue  # an owner without sessions, a name that is free, a session that was removed
        if record is None or version != record.version:
            yield f"row: {key} has version {version}; its newest record is {record}"


def _sessions(cluster: Cluster) -> Iterator[Any]:
    columns = "encode(tenant, 'hex'), number, encode(session_id, 'hex'), size, head_crc, encode(head, 'hex'), crc"
    rows = cluster.sql(f"SELECT {columns}, encode(data, 'hex') FROM {SCHEMA}.sessions")
    for tenant, number, session_id, size, head_crc, head, crc, data in rows:
        hexed = [bytes.fromhex(text) for text in (tenant, session_id, head, data)]
        session = decode_session(
            hexed[0], int(number), 0, hexed[1], int(size), int(head_crc), hexed[2], int(crc), hexed[3]
        )
        yield session or f"damaged: {hexed[1]!r}"


def _entities(cluster: Cluster) -> Iterator[Owner | Holder]:
    columns = "encode(tenant, 'hex'), kind, encode(id, 'hex'), version, crc, encode(data, 'hex')"
    for tenant, kind, name, version, crc, data in cluster.sql(f"SELECT {columns} FROM {SCHEMA}.entities"):
        key = bytes.fromhex(tenant).decode(), kind, bytes.fromhex(name).decode()
        entity = decode_entity(key, int(version), 0, int(crc), bytes.fromhex(data))
        assert isinstance(entity, Owner | Holder), f"{key} is damaged"
        yield entity


# What the nodes say.


def counts(cluster: Cluster) -> Iterator[str]:
    """The statistics of each node are what the table holds."""
    rows = cluster.sql(f"SELECT status, count(*) FROM {SCHEMA}.sessions GROUP BY status")
    stored = {STATUS[int(status)]: int(number) for status, number in rows}
    wanted = {status: stored.get(status, 0) for status in STATUS}
    live = f"SELECT DISTINCT user_id, client_id FROM {SCHEMA}.sessions WHERE status = 0 AND client_id <> ''"
    clients = int(cluster.sql(f"SELECT count(*) FROM ({live}) AS owners")[0][0])
    for number, node in enumerate(cluster.nodes):
        told = node.result("get_session_statistics")
        found = told["sessions_by_status"], told["total_sessions"], told["active_clients"]
        if found != (wanted, wanted["live"], clients):
            yield f"statistics: node {number} tells {found}; there are {wanted}, of {clients} clients"


def shown(cluster: Cluster, histories: dict[Key, list[Logged]]) -> Iterator[str]:
    """Each node tells of each session what the log says was saved last."""
    for key, history in histories.items():
        if key[1] != SESSION or isinstance(history[-1].record, Removed):
            continue
        saved = [logged.record for logged in history if isinstance(logged.record, Updated)]
        revision = saved[-1].revision if saved else 1
        state = msgspec.json.decode(saved[-1].session_state or b"{}") if saved else {}
        for number, node in enumerate(cluster.nodes):
            told = node.result("get_session", session_id=key[2], include=["state"])
            found = told["revision"], told["session_state"]
            if found != (revision, state):
                yield f"shown: node {number} tells {found} of {key[2]}; saved was {(revision, state)}"
