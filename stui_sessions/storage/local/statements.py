"""The statements that bring the tables up to date, in pieces.  Pure.

Each piece is one statement of bounded size and a transaction of its own, so that
others may run between two of them.  A round that was cut off leaves rows that are
ahead of the others; each row tells the commit that it belongs to.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

from stui_sessions.domain.entities import SESSION, Entity, Holder, Key, Owner, Session
from stui_sessions.storage.counting import is_stored
from stui_sessions.storage.rows import EntityRow, Row, encode_entity, encode_session, encode_text

PIECE_ROWS = 256
WRITTEN_ROWS = 64
PIECE_BYTES = 2**20
"""A statement holds at most so much: others wait behind it."""

PAGE = 4096

_SIZES = (1, 4, 16, 64, PIECE_ROWS)
"""Parameters of a list: few different statements, so that SQLite's compiled ones are found again."""

REMOVE = "DELETE FROM sessions WHERE number IN ({})"
REMOVE_ENTITIES = "DELETE FROM entities WHERE tenant = ? AND kind = ? AND id IN ({})"

T = TypeVar("T")
AnyRow = TypeVar("AnyRow", Row, EntityRow)


class Statement(NamedTuple):
    """SQL, its parameters, and how many bytes it writes, about.

    `rest`: to be run too if the statement wrote fewer rows than `rows`.
    """

    sql: str
    parameters: Sequence[Any]
    size: int
    rows: int = 0
    rest: str = ""


@cache
def in_list(sql: str, count: int, item: str = "?") -> str:
    """`sql` with `count` question marks (or other items) in its list."""
    return sql.format(",".join([item] * count))


def padded(values: Sequence[Any], fill: Any = None) -> list[Any]:
    """`values` with NULLs, which match nothing, up to the next size of a list."""
    size = next(size for size in _SIZES if size >= len(values))
    return [*values, *[fill] * (size - len(values))]


class Plan:
    """What brings the tables up to some entities, in the order of their keys."""

    def __init__(self) -> None:
        self._sessions: list[list[Session]] = []
        self._others: list[Owner | Holder] = []
        self._absent: list[Key] = []

    def add(self, entities: Iterable[Entity]) -> None:
        """Some more; a few thousand at most, for that is sorted at once."""
        sessions = []
        for entity in entities:
            if isinstance(entity, Session):
                sessions.append(entity)
            elif isinstance(entity, Owner | Holder) and is_stored(entity):
                self._others.append(entity)
            elif entity.key[1] != SESSION:
                self._absent.append(entity.key)
        sessions.sort(key=_number_of)
        self._sessions.append(sessions)

    def statements(
        self, removed: Iterable[int], now: int, skip: Callable[[Key], bool] = lambda key: False
    ) -> Iterator[Statement]:
        """One after the other; `removed` are numbers of sessions that are no longer known.

        `now` (ms): see `upsert`.  `skip` is asked for each key just before its row is made.
        """
        # Removals first: their ids may have been given to new sessions.
        yield from _removals(sorted(removed))
        sessions = merge(*self._sessions, key=_number_of)
        for rows in chunked(encode_session(s) for s in sessions if not skip(s.key)):
            yield _upserting(rows, now)
        yield from _entity_removals(sorted(self._absent))
        for entity_rows in chunked(map(encode_entity, sorted(self._others, key=_key_of))):
            yield _upserting_entities(entity_rows)


_number_of = attrgetter("number")
_key_of = attrgetter("key")


def _removals(numbers: list[int]) -> Iterator[Statement]:
    for some in _cut(numbers):
        yield Statement(in_list(REMOVE, len(padded(some))), padded(some), len(some) * PAGE)


def _entity_removals(keys: list[Key]) -> Iterator[Statement]:
    for place, group in groupby(keys, key=itemgetter(0, 1)):
        for some in _cut([encode_text(name) for *_, name in group]):
            parameters = [*place, *padded(some)]
            yield Statement(in_list(REMOVE_ENTITIES, len(padded(some))), parameters, len(some) * PAGE)


def _cut(values: list[T]) -> Iterator[list[T]]:
    return (values[start : start + PIECE_ROWS] for start in range(0, len(values), PIECE_ROWS))


def _upserting(rows: list[Row], now: int) -> Statement:
    values = [*_values(rows, len(Row._fields)), now]
    size = sum(map(bytes_of, rows)) + 2 * len(rows) * PAGE  # one of them sessions_by_activity's
    slots = len(padded(rows))
    return Statement(upsert(slots, moving=False), values, size, len(rows), upsert(slots, moving=True))


def _upserting_entities(rows: list[EntityRow]) -> Statement:
    size = sum(map(bytes_of, rows)) + len(rows) * PAGE
    return Statement(upsert_entities(len(padded(rows))), _values(rows, len(EntityRow._fields)), size)


def _values(rows: Sequence[tuple[Any, ...]], width: int) -> list[Any]:
    values = [value for row in rows for value in row]
    return values + [None] * ((len(padded(rows)) - len(rows)) * width)


@cache
def upsert(slots: int, *, moving: bool) -> str:
    """The statement that writes up to `slots` sessions; unused slots are NULL, the last parameter is the time in ms.

    A session's place in sessions_by_due is moved only when the time noted there has
    come, or is later than the real one: a row written without touching all the
    indexes costs less than half.  So there are two statements, the second (`moving`)
    for what the first leaves out.  Only sessions_by_activity is always exact.
    """
    names = Row._fields
    row = f"({','.join('?' * len(names))})"
    same = " AND ".join(f"sessions.{name} = excluded.{name}" for name in ("status", "external_id", "title"))
    stays = f"{same} AND sessions.due_at <= excluded.due_at AND sessions.due_at > ?"
    content = ("active_at", "size", "sequence", "head_crc", "crc", "head", "data")
    updated = ("status", "external_id", "title", "due_at", *content) if moving else content
    return (
        f"INSERT INTO sessions ({','.join(names)}) SELECT * FROM (VALUES {','.join([row] * slots)}) "
        f"WHERE column1 IS NOT NULL ON CONFLICT (number) DO UPDATE SET "
        f"{','.join(f'{name}=excluded.{name}' for name in updated)} WHERE {'NOT ' if moving else ''}({stays})"
    )


@cache
def upsert_entities(slots: int) -> str:
    """The statement that writes up to `slots` owners and holders; unused slots are NULL."""
    row = f"({','.join('?' * len(EntityRow._fields))})"
    return (
        'INSERT INTO entities (tenant, kind, id, version, "commit", crc, data) '
        f"SELECT * FROM (VALUES {','.join([row] * slots)}) "
        "WHERE column1 IS NOT NULL ON CONFLICT (tenant, kind, id) DO UPDATE SET "
        'version=excluded.version, "commit"=excluded."commit", crc=excluded.crc, data=excluded.data'
    )


def bytes_of(row: Row | EntityRow) -> int:
    """What a row has to be written, about."""
    return len(row.data) + (len(row.head) if isinstance(row, Row) else 0)


def chunked(rows: Iterable[AnyRow]) -> Iterator[list[AnyRow]]:
    """Rows in groups of at most PIECE_ROWS and about PIECE_BYTES; none is fetched before its group is begun."""
    chunk: list[AnyRow] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += bytes_of(row)
        if len(chunk) == WRITTEN_ROWS or size >= PIECE_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
