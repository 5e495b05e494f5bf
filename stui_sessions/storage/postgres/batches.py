"""A batch as the parameters of its statement.  Pure."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from stui_sessions.domain.entities import SESSION, Entity, Key, Session
from stui_sessions.domain.records import Record
from stui_sessions.storage.contract import Batch
from stui_sessions.storage.counting import Tally, is_counted, is_stored, structural
from stui_sessions.storage.postgres.statements import FULL_INPUT, PLAIN_TYPES, RECORD_TYPES
from stui_sessions.storage.rows import EntityRow, Row, encode_entity, encode_session, encode_text

_encode = msgspec.msgpack.Encoder().encode
decode_record = msgspec.msgpack.Decoder(Record).decode

NO_ORDER = 0
"""In the place of a commit's number: commits of several servers have none that they share."""


class Arguments(NamedTuple):
    """What a batch asks of the database."""

    kind: Literal["single", "plain", "full"]  # the statement that it goes with
    parameters: list[Any]  # behind lane, batch and day; one array a column, but for a single
    size: int  # bytes of its records


def hash_of(key: Key) -> int:
    """64 bits by which an entity's records are found; others may have the same."""
    digest = blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def counted_keys(records: Iterable[Record]) -> list[Key]:
    """The entities that may change a total."""
    return [key for key in dict.fromkeys(record.key for record in structural(records)) if is_counted(key)]


def arguments(batch: Batch, before: dict[Key, Entity]) -> Arguments:
    """The parameters of a batch.  `before`: at least what `counted_keys` names, as of the commit before."""
    records, size = _records(batch.records)
    if not structural(batch.records) and batch.expected.keys() == batch.after.keys() and all(batch.expected.values()):
        columns = [*_plain(batch), *records]
        if len(batch.records) == 1:
            return Arguments("single", [column[0] for column in columns], size)
        return Arguments("plain", columns, size)
    given = _full(batch, before)
    arrays: list[Any] = []
    for name, wanted in FULL_INPUT[:-1]:
        arrays += _columns(given[name], len(wanted))
    return Arguments("full", [*arrays, *records], size)


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[Any]:
    """Rows as one array a column."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _records(records: Sequence[Record]) -> tuple[list[Any], int]:
    rows = [(hash_of(record.key), record.version, _encode(record)) for record in records]
    return _columns(rows, len(RECORD_TYPES)), sum(len(row[2]) for row in rows)


def _plain(batch: Batch) -> list[Any]:
    rows = []
    expected = batch.expected
    for key, entity in batch.after.items():
        assert isinstance(entity, Session)
        r = encode_session(entity, NO_ORDER)
        stamps = (r.active_at, r.due_at, r.size, r.head_crc, r.crc)
        rows.append((r.tenant.encode(), r.session_id, expected[key], entity.version, *stamps, r.head, r.data))
    return _columns(rows, len(PLAIN_TYPES))


def _full(batch: Batch, before: dict[Key, Entity]) -> dict[str, list[Any]]:
    """Rows for each of `FULL_INPUT` but the records."""
    given: dict[str, list[Any]] = {name: [] for name, _ in FULL_INPUT}
    for key, entity in batch.after.items():
        kind = "sessions" if key[1] == SESSION else "entities"
        was_there = bool(batch.expected.get(key))
        if is_stored(entity):
            given[f"{'changed' if was_there else 'new'}_{kind}"].append(_row(entity))
        elif was_there:
            given[f"removed_{kind}"].append(name_of(key))
    for key, version in (dict.fromkeys(batch.after, 0) | batch.expected).items():
        if version:
            given["stood_sessions" if key[1] == SESSION else "stood_entities"].append((*name_of(key), version))
        else:
            given["free_ids" if key[1] == SESSION else "free_names"].append(name_of(key))
    changes = [(before[key], batch.after[key]) for key in counted_keys(batch.records)]
    given["counted"] = [(tenant.encode(), *deltas) for tenant, *deltas in Tally().after(changes) if any(deltas)]
    return given


def name_of(key: Key) -> tuple[Any, ...]:
    """The key of an entity as the tables have it."""
    tenant, kind, name = key
    if kind == SESSION:
        return encode_text(tenant), encode_text(name)
    return encode_text(tenant), kind, encode_text(name)


def _row(entity: Entity) -> tuple[Any, ...]:
    """All columns of the row of an entity."""
    if isinstance(entity, Session):
        return _session_row(encode_session(entity, NO_ORDER), entity.version)
    return _entity_row(encode_entity(entity, NO_ORDER))  # type: ignore[arg-type]


def _session_row(r: Row, version: int) -> tuple[Any, ...]:
    labels = (r.client_id, r.user_id, r.external_id, r.title)
    places = (r.status, version, r.active_at, r.due_at)
    return (r.tenant.encode(), r.session_id, r.number, *labels, *places, r.size, r.head_crc, r.crc, r.head, r.data)


def _entity_row(r: EntityRow) -> tuple[Any, ...]:
    return r.tenant.encode(), r.kind, r.id, r.version, r.crc, r.data
