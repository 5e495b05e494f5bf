"""From the first edition's schemas to the present one, in one transaction.

Version 1 had a session in one part, `data`, and no user, external id or title.
Version 2 had sessions as they are today.  Both had a journal in the tables, with
changes that the rows did not have yet, and derived owners and external ids from
the rows.

Synchronous, for a thread: runs once, at the start.
"""

import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec import UNSET, Struct

from stui_sessions.domain.entities import (
    LIVE,
    OWNER_CHUNK,
    Holder,
    Owner,
    Session,
    external_key,
    owner_key,
)
from stui_sessions.errors import StorageDamaged
from stui_sessions.storage.border import Log
from stui_sessions.storage.counting import Counters
from stui_sessions.storage.local import meta
from stui_sessions.storage.local.former import (
    FormerReplay,
    Removed,
    decode_entry,
    decode_session_1,
)
from stui_sessions.storage.local.progress import Progress
from stui_sessions.storage.local.schema import ENTITIES, INDEXES, SCHEMA_VERSION, SESSIONS, connect, run, version_of
from stui_sessions.storage.local.statements import Plan
from stui_sessions.storage.local.tables import META, write
from stui_sessions.storage.rows import (
    WHOLE,
    EntityRow,
    Row,
    decode_session,
    decode_text,
    encode_entity,
    encode_session,
)

CHUNK_ROWS = 256
CHUNK_BYTES = 2**20  # of journal in memory at once, about
CACHE_KIB = 64 * 1024

_ENTRIES = "SELECT sequence, crc, data FROM journal ORDER BY sequence"
_BASE_1 = "SELECT number, sequence, session_id, crc, data FROM sessions WHERE number = ?"
_BASE_2 = f"SELECT {WHOLE} FROM sessions WHERE number = ?"
_INSERT = f"INSERT INTO sessions ({','.join(Row._fields)}) VALUES ({','.join('?' * len(Row._fields))})"
_ROWS_1 = (
    "SELECT number, sequence, session_id, crc, data, client_id, status, due_at, size, tenant FROM former "
    "ORDER BY number"
)
_INSERT_ENTITY = f"INSERT INTO entities VALUES ({','.join('?' * len(EntityRow._fields))})"
_OWNERS = (
    "SELECT tenant, user_id, client_id, session_id FROM sessions WHERE status = 0 AND (user_id <> x'' OR "
    "client_id <> x'') ORDER BY tenant, client_id, user_id, number"
)
_EXTERNAL = (
    "SELECT tenant, user_id, external_id, session_id FROM sessions INDEXED BY sessions_by_external "
    "WHERE external_id <> x'' AND status = 0 ORDER BY tenant, external_id, user_id, number"
)
_STATUSES = "SELECT tenant, status, count(*) FROM sessions GROUP BY tenant, status"

_NO_CRC = -1  # no CRC is negative


class Former(Struct):
    """What is to be made of the old journal."""

    version: int
    replay: FormerReplay

    @property
    def pending(self) -> list[Session]:
        """The sessions that their rows are behind of."""
        return [s for s in self.replay.latest.values() if isinstance(s, Session)]

    @property
    def removed(self) -> list[int]:
        """The numbers of sessions that are no longer known."""
        return [number for number, latest in self.replay.latest.items() if isinstance(latest, Removed)]


def migrate(path: Path, clock: Callable[[], int], log: Log) -> None:
    """Bring the database to the present version.  StorageDamaged, and nothing is changed, if its journal is damaged.

    Looked at and replayed first, on a connection that cannot write.
    """
    with closing(connect(path, "ro")) as connection:
        former = _former(connection, log)
    with closing(connect(path, "rw")) as connection:  # closing it undoes what was not committed
        connection.text_factory = bytes  # a damaged text is copied as it is
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA secure_delete = OFF").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        damaged = _copy_1(connection, clock, log) if former.version == 1 else 0
        _write_pending(connection, former, clock())
        run(connection, f"DROP TABLE journal; {ENTITIES}")
        clients = _make_owners(connection)
        _make_holders(connection)
        counters = _counted(connection, clients)
        highest = connection.execute("SELECT max(number) FROM sessions").fetchone()[0]
        last = max(former.replay.last_number, highest or 0)
        _note(connection, former.replay.sequence, last, counters)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    count = sum(sum(counts[:4]) for _, *counts in counters)
    log.info("database_migrated", was=former.version, now=SCHEMA_VERSION, sessions=count, damaged=damaged)


# -- the old journal


def _former(connection: sqlite3.Connection, log: Log) -> Former:
    connection.text_factory = bytes
    former = Former(version_of(connection), FormerReplay())
    for rows in _entries(connection):
        former.replay.add([decode_entry(*row) for row in rows])
    # The newest entry was never dropped, so without one nothing was ever stored.
    if not former.replay.sequence and connection.execute("SELECT 1 FROM sessions LIMIT 1").fetchone():
        raise StorageDamaged("the journal is empty, and there are sessions")
    for number in former.replay.wanted():
        _put(connection, former, number)
    for number in former.replay.damaged:
        log.error("session_damaged", number=number, found_by="replay")
    return former


def _entries(connection: sqlite3.Connection) -> Iterator[list[Any]]:
    """The journal's rows in order, about CHUNK_BYTES at a time."""
    with closing(connection.execute(_ENTRIES)) as cursor:
        count = 16
        while rows := cursor.fetchmany(count):
            yield rows
            largest = max(len(row[2] or b"") for row in rows)
            count = min(CHUNK_BYTES // (largest + 1) + 1, 2048, count * 4)


def _put(connection: sqlite3.Connection, former: Former, number: int) -> None:
    row = connection.execute(_BASE_1 if former.version == 1 else _BASE_2, (number,)).fetchone()
    if row is None:
        former.replay.put(number, 0, UNSET)
    elif former.version == 1:
        former.replay.put(number, row[1], decode_session_1(*row))
    else:
        former.replay.put(number, row[2], decode_session(*row))


def known(connection: sqlite3.Connection, log: Log) -> int:
    """How many sessions a database of a former version holds.  StorageDamaged if its journal is damaged."""
    former = _former(connection, log)
    numbers = {number for (number,) in connection.execute("SELECT number FROM sessions")}
    return len((numbers | {s.number for s in former.pending}) - set(former.removed))


# -- the sessions


def _copy_1(connection: sqlite3.Connection, clock: Callable[[], int], log: Log) -> int:
    """All rows of version 1 in their present form; how many of them are damaged.

    The old table is copied and not altered: new columns would come behind the
    state.  Its pages are free afterwards, for what is written later.
    """
    connection.execute("ALTER TABLE sessions RENAME TO former")
    run(connection, SESSIONS)
    total = connection.execute("SELECT count(*) FROM former").fetchone()[0]
    progress = Progress(log, "database_migration", clock, total)
    count = damaged = 0
    with closing(connection.execute(_ROWS_1)) as cursor:
        while rows := cursor.fetchmany(CHUNK_ROWS):
            migrated = [migrated_row(*row) for row in rows]
            connection.executemany(_INSERT, migrated)
            for row in migrated:
                if row.crc == _NO_CRC:
                    log.error("session_damaged", number=row.number, found_by="migration")
                    damaged += 1
            count += len(rows)
            progress.report(count)
    connection.execute("DROP TABLE former")  # and its indexes, whose names are used again
    run(connection, INDEXES)
    return damaged


def migrated_row(number: int, sequence: Any, session_id: Any, crc: Any, data: Any, *columns: Any) -> Row:
    """A row of version 1 as one of today.  A damaged row stays damaged, its bytes as they are."""
    session = decode_session_1(number, sequence, session_id, crc, data)
    if session is not None:
        return encode_session(session)
    client_id, status, due_at, size, tenant = columns
    return Row(
        number,
        decode_text(tenant),
        session_id,
        client_id,
        user_id=b"",
        external_id=b"",
        title=b"",
        status=status,
        active_at=0,
        due_at=due_at,
        size=size,
        sequence=sequence,
        head_crc=_NO_CRC,
        crc=_NO_CRC,
        head=b"",
        data=data,
    )


def _write_pending(connection: sqlite3.Connection, former: Former, now: int) -> None:
    plan = Plan()
    plan.add(former.pending)
    write(connection, plan.statements(former.removed, now))


# -- owners, holders, totals


def _make_owners(connection: sqlite3.Connection) -> dict[str, int]:
    """The owners of live sessions; how many of them have a client, for each tenant."""
    clients: dict[str, int] = {}

    def owners() -> Generator[EntityRow, None, None]:
        with closing(_texts(connection, _OWNERS)) as texts:
            for (tenant, user, client), rows in groupby(texts, key=lambda row: row[:3]):
                ids = [row[3] for row in rows]
                key = owner_key(tenant, user, client)
                assert key is not None
                if client:
                    clients[tenant] = clients.get(tenant, 0) + 1
                chunks = tuple(tuple(ids[at : at + OWNER_CHUNK]) for at in range(0, len(ids), OWNER_CHUNK))
                yield encode_entity(Owner(key, 1, 0, chunks))

    _insert(connection, owners())
    return clients


def _make_holders(connection: sqlite3.Connection) -> None:
    """The holders of external ids; where one has been given away unnoticed, its newest session."""

    def holders() -> Generator[EntityRow, None, None]:
        with closing(_texts(connection, _EXTERNAL)) as texts:
            for (tenant, user, name), rows in groupby(texts, key=lambda row: row[:3]):
                key = external_key(tenant, user, name)
                assert key is not None
                yield encode_entity(Holder(key, 1, 0, [row[3] for row in rows][-1]))

    _insert(connection, holders())


def _texts(connection: sqlite3.Connection, sql: str) -> Generator[tuple[str, ...], None, None]:
    with closing(connection.execute(sql)) as cursor:
        while rows := cursor.fetchmany(CHUNK_ROWS):
            for row in rows:
                yield tuple(map(decode_text, row))


def _insert(connection: sqlite3.Connection, rows: Generator[EntityRow, None, None]) -> None:
    with closing(rows):  # else its cursor stays open where this fails
        connection.executemany(_INSERT_ENTITY, rows)


def _counted(connection: sqlite3.Connection, clients: dict[str, int]) -> list[Counters]:
    counts: dict[str, list[int]] = {}
    for tenant, status, count in connection.execute(_STATUSES):
        if LIVE <= status <= 3:
            counts.setdefault(decode_text(tenant), [0, 0, 0, 0])[status] = count
    return [(tenant, *by_status, clients.get(tenant, 0)) for tenant, by_status in counts.items()]  # type: ignore[misc]


def _note(connection: sqlite3.Connection, sequence: int, last_number: int, counters: list[Counters]) -> None:
    values = {
        "tables_commit": sequence,
        "last_number": last_number,
        "totals": meta.encode_totals(counters),
        "log_id": b"",
        "log_segment": 0,
        "needs_log": 0,
    }
    connection.executemany(META, values.items())
