"""An audit: every way to find a session is compared with what each session says of itself."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from stui_sessions.domain.entities import EXTERNAL, OWNER, Holder, Owner, Session
from stui_sessions.storage.local import meta
from stui_sessions.storage.postgres.schema import GRAIN_MS
from stui_sessions.storage.rows import ENTITY, WHOLE, Row, decode_entity, decode_session, encode_session
from tests.support.crowd import ENDED, EXTERNAL_IDS, TITLES, Crowd, Known, is_short
from tests.support.line_client import LineClient
from tests.support.waiting import until

Reply = dict[str, Any]

STATUSES = ("live", *ENDED)
SORTS = {
    "last_activity": lambda row: row["last_activity"],
    "created_at": lambda row: row["created_at"],
    "title": lambda row: row["title"] or "",
}
MOST_CANDIDATES = 10


def pages(client: LineClient, **parameters: Any) -> Iterator[Reply]:
    """All rows of a list, page by page."""
    cursor: Reply = {}
    while True:
        page = client.result("list_sessions", **parameters, **cursor)
        yield from page["sessions"]
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


class Stored(NamedTuple):
    """What is in a store's tables."""

    sessions: list[tuple[Any, ...]]
    """What `decode_session` takes."""
    columns: list[dict[str, Any]]
    """Beside each of them, what indexes need."""
    entities: list[tuple[Any, ...]]
    """Keys, and what `decode_entity` takes."""
    totals: tuple[int, ...]
    """Sessions by status, and clients."""


def in_file(path: Path) -> Stored:
    """What the local store has there."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = meta.read(database)
        database.text_factory = bytes
        names = [name for name in Row._fields if name not in ("number", "tenant", "sequence")]
        rows = database.execute(f"SELECT {WHOLE}, {', '.join(names)} FROM sessions").fetchall()
        entities = database.execute(f"SELECT {ENTITY} FROM entities").fetchall()
    assert not found.needs_log
    (counters,) = found.counters()
    return Stored(
        [row[:9] for row in rows],
        [dict(zip(names, row[9:], strict=True)) for row in rows],
        [(tenant, kind.decode(), *rest) for tenant, kind, *rest in entities],
        counters[1:],
    )


def in_postgres(url: str) -> Stored:
    """What the shared store has there."""
    return asyncio.run(_in_postgres(url))


async def _in_postgres(url: str) -> Stored:
    names = ["session_id", "client_id", "user_id", "external_id", "title", "status", "listed_at", "due_at"]
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT tenant, number, 0, session_id, size, head_crc, head, crc, data, "
            f"version, {', '.join(names)} FROM stui_sessions.sessions"
        )
        entities = await connection.fetch("SELECT tenant, kind, id, version, 0, crc, data FROM stui_sessions.entities")
        sums = "sum(live)::int, sum(expired)::int, sum(closed)::int, sum(deleted)::int, sum(clients)::int"
        totals = await connection.fetchrow(f"SELECT {sums} FROM stui_sessions.totals")
    finally:
        await connection.close()
    sessions = [tuple(row)[:9] for row in rows]
    assert [row["version"] for row in rows] == [s and s.version for s in (decode_session(*row) for row in sessions)]
    columns = [{name: row[name] for name in names} for row in rows]
    return Stored(sessions, columns, list(map(tuple, entities)), tuple(totals))


class Audit:
    """What there is, by asking for each session by its id; then the rest is asked about.

    Begins with waiting until nothing expires any more: the server must sweep often, and keep what has ended.
    """

    def __init__(self, client: LineClient, crowd: Crowd) -> None:
        self.client = client
        self.crowd = crowd
        until(self._nothing_expires, "the sweeper", timeout=30)
        self._adopt()
        self.truth = self._ask_each()

    def _nothing_expires(self) -> bool:
        live = list(pages(self.client, limit=100))
        counted = self.client.result("get_session_statistics")["total_sessions"]
        return counted == len(live) and not any(map(is_short, live))

    def _adopt(self) -> None:
        """Sessions nobody has told us of: their creation was not answered."""
        rows = {row["session_id"]: row for status in STATUSES for row in pages(self.client, status=status, limit=100)}
        for worker in self.crowd.workers:
            mine = {i: row for i, row in rows.items() if worker.name == _worker_of(row)}
            unknown = mine.keys() - worker.known.keys()
            assert len(unknown) <= worker.creating, f"made by nobody: {unknown}"
            for session_id in unknown:
                worker.known[session_id] = Known(session_id, mine[session_id])
                worker.known[session_id].in_doubt = True
            worker.creating = 0

    def _ask_each(self) -> dict[str, Reply]:
        """What each session says of itself agrees with what was acknowledged."""
        truth = {}
        for worker in self.crowd.workers:
            ids = [*worker.known, *worker.purged]
            replies = self.client.pipeline([("get_session", {"session_id": i}) for i in ids])
            for session_id, reply in zip(ids, replies, strict=True):
                known = worker.known.get(session_id)
                if reply["status"] == "success":
                    assert known is not None, f"purged, and there: {session_id}"
                    truth[session_id] = reply["result"]
                    self._compare(known, reply["result"])
                else:
                    assert reply["error_code"] == "session_not_found", reply
                    assert known is None or "gone" in known.possible, f"lost: {known.__dict__ if known else ''}"
                    worker.known.pop(session_id, None)
                    worker.purged.discard(session_id)
        return truth

    def _compare(self, known: Known, found: Reply) -> None:
        assert found["status"] in known.possible, f"{found} should be one of {known.possible}: {known.__dict__}"
        if not known.in_doubt:
            assert {name: found[name] for name in known.facts if name in found} == {
                name: value for name, value in known.facts.items() if name in found
            }
        known.note(found)
        known.in_doubt = False

    # -- what is asked

    def run(self, limit: int) -> None:
        """Everything; `limit` is how many live sessions an owner may have."""
        for status in STATUSES:
            self._all_lists(status)
        self._owners(limit)
        self._external_ids()
        self._references()
        self._counters()

    def _of(self, **facts: Any) -> dict[str, Reply]:
        return {i: row for i, row in self.truth.items() if all(row[name] == value for name, value in facts.items())}

    def _check(self, rows: list[Reply], expected: dict[str, Reply], what: object) -> None:
        ids = [row["session_id"] for row in rows]
        assert len(set(ids)) == len(ids), f"twice in {what}"
        mine = {row["session_id"]: _still(row) for row in rows if _worker_of(row)}
        expected = {i: _still(row) for i, row in expected.items()}
        assert mine.keys() == expected.keys(), f"{what}: {mine.keys() ^ expected.keys()}"
        assert mine == expected, what

    def _all_lists(self, status: str) -> None:
        expected = self._of(status=status)
        for sort, key in SORTS.items():
            both = {}
            for order in ("asc", "desc"):
                for limit in (100, 7):
                    rows = list(pages(self.client, status=status, sort=sort, order=order, limit=limit))
                    self._check(rows, expected, (status, sort, order, limit))
                    keys = [key(row) for row in rows]
                    assert keys == sorted(keys, reverse=order == "desc"), (status, sort, order)
                both[order] = [row["session_id"] for row in rows]
            assert both["asc"] == both["desc"][::-1]

    def _owners(self, limit: int) -> None:
        for worker in self.crowd.workers:
            for owner in worker.owners:
                for status in STATUSES:
                    rows = list(pages(self.client, status=status, sort="created_at", limit=7, **owner))
                    self._check(rows, self._of(status=status, **owner), (owner, status))
                exact = {"user_id": None, "client_id": None, **owner}
                live = self._of(status="live", **exact)
                assert len(live) <= limit, f"{owner} has {len(live)} sessions"
                if "client_id" in owner:
                    listed = self.client.result("list_client_sessions", **owner)["sessions"]
                    assert {row["session_id"] for row in listed} == live.keys(), owner

    def _external_ids(self) -> None:
        users = [owner["user_id"] for worker in self.crowd.workers for owner in worker.owners if "user_id" in owner]
        for external_id in filter(None, EXTERNAL_IDS):
            live = self._of(status="live", external_id=external_id)
            self._named({"external_id": external_id}, live, "external_id_ambiguous")
            for user in set(users):
                some = {i: row for i, row in live.items() if row["user_id"] == user}
                assert len(some) <= 1, f"twice live: {some}"
                self._named({"external_id": external_id, "user_id": user}, some, "")

    def _named(self, parameters: Reply, expected: dict[str, Reply], ambiguous: str) -> None:
        reply = self.client.request("get_session", **parameters)
        if len(expected) == 1:
            assert reply["status"] == "success", (parameters, reply)
            assert _still(reply["result"]) in [_still(row) for row in expected.values()]
        else:
            assert reply.get("error_code") == (ambiguous if expected else "session_not_found"), (parameters, reply)

    def _references(self) -> None:
        for name in (*filter(None, TITLES), *filter(None, EXTERNAL_IDS)):
            self._resolve(name, self._of(status="live", title=name) | self._of(status="live", external_id=name))
        for ref in ("own-w0", "own-w1-3", "own-w2-", *(i[:20] for i in list(self.truth)[:50])):
            prefixed = {i: r for i, r in self.truth.items() if i.startswith(ref) and r["status"] != "deleted"}
            self._resolve(ref, {ref: self.truth[ref]} if ref in self.truth else prefixed)

    def _resolve(self, ref: str, expected: dict[str, Reply]) -> None:
        reply = self.client.request("resolve_session", ref=ref)
        if len(expected) == 1:
            assert reply["status"] == "success", (ref, reply, expected)
            assert [_still(reply["result"])] == [_still(row) for row in expected.values()]
        elif not expected:
            assert reply.get("error_code") == "session_not_found", (ref, reply)
        else:
            assert reply.get("error_code") == "reference_ambiguous", (ref, reply)
            told = {candidate["session_id"] for candidate in reply["details"]["candidates"]}
            assert told <= expected.keys()
            assert len(told) == min(MOST_CANDIDATES, len(expected))

    def _counters(self) -> None:
        rows = [row for status in STATUSES for row in pages(self.client, status=status, limit=100)]
        statistics = self.client.result("get_session_statistics")
        counted = Counter(row["status"] for row in rows)
        assert statistics["sessions_by_status"] == {status: counted[status] for status in STATUSES}
        assert statistics["total_sessions"] == counted["live"]
        live = {(r["user_id"], r["client_id"]) for r in rows if r["status"] == "live" and r["client_id"]}
        assert statistics["active_clients"] == len(live)

    # -- the file

    def tables(self, stored: Stored) -> None:
        """The database of a server that has stopped in order: rows, index columns, totals."""
        statuses: Counter[str] = Counter()
        live: dict[tuple[str, str], set[str]] = {}
        for row, columns in zip(stored.sessions, stored.columns, strict=True):
            session = decode_session(*row)
            assert session is not None
            status = STATUSES[session.status]
            statuses[status] += 1
            _columns_agree(session, columns)
            if status == "live":
                for kind, name in ((OWNER, session.client_id), (EXTERNAL, session.about.external_id)):
                    if name or (kind == OWNER and session.user_id):
                        live.setdefault((kind, f"{session.user_id}\0{name}"), set()).add(session.session_id)
            if session.session_id in self.truth:
                assert self.truth[session.session_id]["status"] == status
                assert self.truth[session.session_id]["external_id"] == (session.about.external_id or None)
        assert self.truth.keys() <= {row[3].decode() for row in stored.sessions}
        clients = sum(kind == OWNER and not name.endswith("\0") for kind, name in live)
        assert stored.totals == (*(statuses[status] for status in STATUSES), clients)
        self._entities(stored.entities, live)

    def _entities(self, rows: list[tuple[Any, ...]], live: dict[tuple[str, str], set[str]]) -> None:
        """Owners and holders name the live sessions, each of them and no others."""
        told: dict[tuple[str, str], set[str]] = {}
        for tenant, kind, name, *rest in rows:
            entity = decode_entity((tenant.decode(), kind, name.decode()), *rest)
            assert isinstance(entity, Owner | Holder)
            ids = entity.session_ids if isinstance(entity, Owner) else [entity.session_id]
            assert len(set(ids)) == len(ids), f"twice in {entity.key}"
            told[entity.key[1:]] = set(ids)
        assert told == live


def _columns_agree(session: Session, columns: dict[str, Any]) -> None:
    """What a row has for its indexes is what the session in it says."""
    again = encode_session(session)
    grain = GRAIN_MS if "listed_at" in columns else 0
    listed, due = columns.pop("listed_at", again.active_at), columns.pop("due_at")
    assert listed <= again.active_at <= listed + grain, f"session {session.session_id} is listed at {listed}"
    assert due <= again.due_at, "noted too late: the sweeper would not see it"
    wrong = {name: value for name, value in columns.items() if value != getattr(again, name)}
    assert not wrong, f"session {session.session_id}: {wrong}"


def _worker_of(row: Reply) -> str:
    """Whose session it is, by its owner; empty if it is none of the crowd's."""
    return str(row["client_id"] or row["user_id"] or "").partition(".")[0]


def _still(row: Reply) -> Reply:
    """Without what passes with time."""
    return {name: value for name, value in row.items() if name != "time_until_expiry"}


def at_once(client: LineClient, crowd: Crowd) -> None:
    """What can be said before the sweeper has been there, as right after a kill: short sessions come to their end."""
    for worker in crowd.workers:
        for owner in worker.owners:
            rows = pages(client, limit=100, **owner)
            exact = {"user_id": None, "client_id": None, **owner}
            mine = {r["session_id"]: r for r in rows if all(r[name] == value for name, value in exact.items())}
            long = {i for i, row in mine.items() if not is_short(row)}
            if "client_id" in owner:
                listed = client.result("list_client_sessions", **owner)["sessions"]
                assert long <= {row["session_id"] for row in listed} <= mine.keys(), owner
            if "user_id" in owner:
                for external_id in filter(None, EXTERNAL_IDS):
                    _one_holder(client, owner["user_id"], external_id)


def _one_holder(client: LineClient, user_id: str, external_id: str) -> None:
    rows = [r for r in pages(client, user_id=user_id, limit=100) if r["external_id"] == external_id]
    assert len(rows) <= 1, f"twice live: {rows}"
    reply = client.request("get_session", user_id=user_id, external_id=external_id)
    if reply["status"] == "success":
        assert reply["result"]["session_id"] in {row["session_id"] for row in rows}, reply
    else:
        assert reply["error_code"] == "session_not_found", reply
        assert all(map(is_short, rows)), f"not found: {rows}"
