"""Which queries find entities by their keys.

Written as a generator that yields queries and is sent their rows, so that the same
steps serve the server, which awaits, and the start, which does not.
"""

import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from stui_sessions.domain.entities import SESSION, Absent, Damaged, Entity, Key
from stui_sessions.errors import StorageDamaged
from stui_sessions.storage.border import CAUGHT, Log, primary_code, translate
from stui_sessions.storage.counting import MAX_INTEGER
from stui_sessions.storage.local.statements import PIECE_ROWS, in_list, padded
from stui_sessions.storage.rows import ENTITY, WHOLE, decode_entity, decode_session, encode_text

Query = tuple[str, Sequence[Any]]
Rows = list[tuple[Any, ...]]
Steps = Generator[Query, Rows, None]
"""Yields queries, is sent their rows, or has StorageDamaged thrown in."""

_NUMBER_HINT = re.compile(rb"session_([0-9]{1,18})_")

# INDEXED BY: left to itself SQLite may take another index, and read the whole table.
LOAD = f"SELECT {WHOLE} FROM sessions INDEXED BY sessions_by_id WHERE tenant = ? AND session_id IN ({{}})"
LOAD_BY_NUMBER = f"SELECT {WHOLE} FROM sessions WHERE number IN ({{}})"
LOAD_ENTITIES = f"SELECT {ENTITY} FROM entities WHERE tenant = ? AND kind = ? AND id IN ({{}})"


class LookUp:
    """Finds what is stored under some keys.  `last_number`: no session that is stored has a higher one."""

    def __init__(self, keys: Iterable[Key], log: Log, last_number: int = MAX_INTEGER) -> None:
        self.found: dict[Key, Entity] = {key: Absent(key) for key in keys}
        self._log = log
        self._last_number = last_number

    def run(self, fetch: Callable[[str, Sequence[Any]], Rows]) -> dict[Key, Entity]:
        """All of it at once, by a function that gets the rows of a query."""
        steps = self.steps()
        try:
            query = next(steps)
            while True:
                try:
                    rows = fetch(*query)
                except StorageDamaged as error:
                    query = steps.throw(error)
                else:
                    query = steps.send(rows)
        except StopIteration:
            return self.found

    def steps(self) -> Steps:
        """The queries; `found` is complete when they are done."""
        places: dict[tuple[str, str], dict[bytes, Key]] = {}
        for key in self.found:
            places.setdefault(key[:2], {})[encode_text(key[2])] = key
        for (tenant, kind), keys in places.items():
            ids = list(keys)
            for start in range(0, len(ids), PIECE_ROWS):
                some = {name: keys[name] for name in ids[start : start + PIECE_ROWS]}
                if kind == SESSION:
                    yield from self._sessions(tenant, some)
                else:
                    yield from self._entities(tenant, kind, some)

    def _sessions(self, tenant: str, keys: dict[bytes, Key]) -> Steps:
        missing = yield from self._by_number(tenant, keys)
        if missing:
            yield from self._some(missing, lambda names: (in_list(LOAD, len(names)), [tenant, *names]), 3)

    def _by_number(self, tenant: str, keys: dict[bytes, Key]) -> Generator[Query, Rows, dict[bytes, Key]]:
        """Look under the numbers that ids seem to hold; what is left.

        Only a hint where to look, and the id found there must be the same; but it
        saves the larger half of a look-up (by id 130 k/s, by number 280 k/s).
        """
        hints = [int(hint[1]) for name in keys if (hint := _NUMBER_HINT.match(name))]
        numbers = [number for number in hints if number <= self._last_number]
        if not numbers:
            return keys
        try:
            rows = yield in_list(LOAD_BY_NUMBER, len(padded(numbers))), padded(numbers)
        except StorageDamaged:  # found out which one by asking singly, by id
            return keys
        left = dict(keys)
        for row in rows:
            if row[0] == encode_text(tenant) and row[3] in left:
                self._put_session(left.pop(row[3]), row)
        return left

    def _entities(self, tenant: str, kind: str, keys: dict[bytes, Key]) -> Steps:
        yield from self._some(keys, lambda names: (in_list(LOAD_ENTITIES, len(names)), [tenant, kind, *names]), 2)

    def _some(self, keys: dict[bytes, Key], query: Callable[[list[Any]], Query], place: int) -> Steps:
        """The rows of a query for `keys`; the id is their column number `place`."""
        try:
            rows = yield query(padded(list(keys)))
        except StorageDamaged as error:
            yield from self._singly(keys, query, place, error)
            return
        for row in rows:
            key = keys.get(row[place])
            if key is not None:
                self._put(key, row)

    def _singly(
        self, keys: dict[bytes, Key], query: Callable[[list[Any]], Query], place: int, error: StorageDamaged
    ) -> Steps:
        """A page is corrupt: find out whose, so that only those entities are lost."""
        if len(keys) > 1:
            for name, key in keys.items():
                yield from self._some({name: key}, query, place)
            return
        if primary_code(error.__cause__ or error) == sqlite3.SQLITE_NOTADB:
            raise error
        (key,) = keys.values()
        self._log.error(f"{key[1]}_unreadable", error=str(error))
        self.found[key] = Damaged(key)

    def _put(self, key: Key, row: tuple[Any, ...]) -> None:
        if key[1] == SESSION:
            self._put_session(key, row)
            return
        entity = decode_entity(key, *row[3:])
        if isinstance(entity, Damaged):
            self._log.error(f"{key[1]}_damaged")
        self.found[key] = entity

    def _put_session(self, key: Key, row: tuple[Any, ...]) -> None:
        session = decode_session(*row)
        if session is None:
            self._log.error("session_damaged", number=row[1])
        self.found[key] = Damaged(key) if session is None else session


def fetching(connection: sqlite3.Connection) -> Callable[[str, Sequence[Any]], Rows]:
    """For `LookUp.run`, on a connection that gives texts as bytes."""

    def fetch(sql: str, parameters: Sequence[Any]) -> Rows:
        try:
            return connection.execute(sql, parameters).fetchall()
        except CAUGHT as error:
            raise translate("reading the database", error) from error

    return fetch
