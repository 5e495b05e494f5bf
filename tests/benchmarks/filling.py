"""Databases of very many sessions, written as a server that was stopped in order leaves them, only faster.

The rows are made by the package's own encoders and written straight into the tables;
the indexes are made once everything is there.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from stui_sessions.domain.entities import (
    Holder,
    Owner,
    Session,
    SessionData,
    external_key,
    owner_key,
    session_key,
    session_of,
)
from stui_sessions.storage import files
from stui_sessions.storage.counting import Tally
from stui_sessions.storage.local import meta, schema
from stui_sessions.storage.rows import EntityRow, Row, encode_entity, encode_session

PORTION = 10_000
COMMIT = 1
"""Everything belongs to the same commit, the first one."""


def live(data: SessionData) -> Session:
    """A live session of the only tenant there is, with these fields."""
    return session_of(data, session_key("", data.session_id), 1, COMMIT)


def fill(path: Path, sessions: Iterable[Session]) -> int:
    """A database of these live sessions, those of one owner one after the other; how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.make_file(path)
    schema.create(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA cache_size = -200000")
        db.execute("BEGIN")
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%INDEX%'").fetchall():
            db.execute(f"DROP INDEX {name}")
        tally, newest, count = Tally(), 0, 0
        batches = groupby(sessions, key=lambda s: owner_key("", s.user_id, s.client_id))
        owned = (list(group) for _, group in batches)
        while groups := list(islice(owned, PORTION // 5)):
            portion = [s for group in groups for s in group]
            others = [other for group in groups for other in _others(group)]
            _insert(db, "sessions", Row, map(encode_session, portion))
            _insert(db, "entities", EntityRow, map(encode_entity, sorted(others, key=lambda e: e.key)))
            tally.set(tally.after((_NOTHING, entity) for entity in [*portion, *others]))
            newest, count = max(newest, *(s.number for s in portion)), count + len(portion)
        schema.run(db, schema.INDEXES)
        values = {"tables_commit": COMMIT, "last_number": newest, "totals": meta.encode_totals(tally.counters())}
        db.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", values.items())
        db.execute("COMMIT")
    return count


_NOTHING = Owner(("", "", ""), 0, 0)


def _others(group: list[Session]) -> Iterator[Owner | Holder]:
    """What goes with the sessions of one owner."""
    key = owner_key("", group[0].user_id, group[0].client_id)
    if key is not None:
        yield Owner(key, 1, COMMIT, (tuple(s.session_id for s in group),))
    for s in group:
        key = external_key("", s.user_id, s.about.external_id)
        if key is not None:
            yield Holder(key, 1, COMMIT, s.session_id)


def _insert(db: sqlite3.Connection, table: str, kind: type[NamedTuple], rows: Iterable[tuple[object, ...]]) -> None:
    columns = ", ".join(f'"{name}"' for name in kind._fields)
    values = ", ".join("?" * len(kind._fields))
    db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({values})", rows)
