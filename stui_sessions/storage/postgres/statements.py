"""What the shared store asks of the database, as SQL.  Pure.

A batch is one statement: one way there and back, one fsync, all or nothing.  It first
locks what the decisions stood on, in one order for everybody (entities before
sessions, each by its key), so that servers wait for each other and never in a
circle.  If a version is another one, or the lane was closed meanwhile, nothing in it
takes effect.
"""

from stui_sessions.storage.postgres.schema import GRAIN_MS, quoted

MICROSECONDS = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The database's clock, ms."""

_XACT = "pg_current_xact_id()::text::bigint"

_LANE = """lane AS (
    UPDATE {s}.lanes SET last_batch = $2, seen_at = {now}
    WHERE lane = $1 AND last_batch = $2 - 1 AND is_open AND {holds} RETURNING 1
)"""

_RECORDS = """kept AS (
    INSERT INTO {s}.records (day, xact, hash, version, data)
    SELECT {day}, {xact}, r.hash, r.version, r.data FROM unnest({arrays}) AS r(hash, version, data)
    WHERE EXISTS (SELECT 1 FROM lane)
)"""

_LOCKED_SESSIONS = """locked AS (
    SELECT 1 FROM {stood} AS e JOIN {s}.sessions t ON t.tenant = e.tenant AND t.session_id = e.session_id
    WHERE t.version = e.old ORDER BY t.tenant, t.session_id FOR NO KEY UPDATE OF t
)"""

_RESULT = "SELECT EXISTS (SELECT 1 FROM lane), {now}"


def _moved(column: str) -> str:
    """A column of an index, which moves only by a grain or more."""
    ahead = f"u.{column} - t.{column} BETWEEN 0 AND {GRAIN_MS - 1}"
    return f"{column} = CASE WHEN {ahead} THEN t.{column} ELSE u.{column} END"


def _arrays(first: int, *types: str) -> str:
    """Parameters from number `first` on, as arrays of these types."""
    return ", ".join(f"${first + i}::{kind}[]" for i, kind in enumerate(types))


PLAIN_TYPES = ("bytea", "bytea", "bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "bigint", "bytea", "bytea")
RECORD_TYPES = ("bigint", "bigint", "bytea")


def plain(schema: str) -> str:
    """A batch that saves state and uses sessions: nothing moves in an index that decides.

    $1 lane, $2 batch, $3 day; then the columns of sessions and of records as arrays.
    """
    s = quoted(schema)
    sessions = _arrays(4, *PLAIN_TYPES)
    records = _arrays(4 + len(PLAIN_TYPES), *RECORD_TYPES)
    holds = "(SELECT count(*) FROM locked) = cardinality($4::bytea[])"
    return ",\n".join(
        (
            f"""WITH u AS (
    SELECT * FROM unnest({sessions})
    AS u(tenant, session_id, old, version, listed_at, due_at, size, head_crc, crc, head, data)
)""",
            _LOCKED_SESSIONS.format(s=s, stood="u"),
            _LANE.format(s=s, now=NOW, holds=holds),
            f"""saved AS (
    UPDATE {s}.sessions t SET version = u.version, {_moved("listed_at")}, {_moved("due_at")},
        size = u.size, head_crc = u.head_crc, crc = u.crc, head = u.head, data = u.data
    FROM u WHERE EXISTS (SELECT 1 FROM lane) AND t.tenant = u.tenant AND t.session_id = u.session_id
)""",
            _RECORDS.format(s=s, day="$3::int", xact=_XACT, arrays=records) + "\n" + _RESULT.format(now=NOW),
        )
    )


def single(schema: str) -> str:
    """One record of one session that saves state or uses it: a batch of one, which nobody else waits for.

    $1 lane, $2 batch, $3 day; then the columns of the session and of the record, as in `plain`.
    """
    s = quoted(schema)
    columns = ("listed_at", "due_at")
    moved = ", ".join(_moved(name).replace(f"u.{name}", f"${place}") for place, name in enumerate(columns, 8))
    return f"""WITH lane AS (
    SELECT 1 FROM {s}.lanes WHERE lane = $1 AND last_batch = $2::bigint - 1 AND is_open FOR NO KEY UPDATE
),
saved AS (
    UPDATE {s}.sessions t SET version = $7, {moved}, size = $10, head_crc = $11, crc = $12, head = $13, data = $14
    WHERE tenant = $4 AND session_id = $5 AND version = $6 AND EXISTS (SELECT 1 FROM lane) RETURNING 1
),
marked AS (UPDATE {s}.lanes SET last_batch = $2, seen_at = {NOW} WHERE lane = $1 AND EXISTS (SELECT 1 FROM saved)),
kept AS (
    INSERT INTO {s}.records (day, xact, hash, version, data)
    SELECT $3::int, {_XACT}, $15::bigint, $16::bigint, $17::bytea FROM saved
)
SELECT EXISTS (SELECT 1 FROM saved), {NOW}"""


SESSION_COLUMNS = (
    ("tenant", "bytea"),
    ("session_id", "bytea"),
    ("number", "bigint"),
    ("client_id", "bytea"),
    ("user_id", "bytea"),
    ("external_id", "bytea"),
    ("title", "bytea"),
    ("status", "smallint"),
    ("version", "bigint"),
    ("listed_at", "bigint"),
    ("due_at", "bigint"),
    ("size", "bigint"),
    ("head_crc", "bigint"),
    ("crc", "bigint"),
    ("head", "bytea"),
    ("data", "bytea"),
)
ENTITY_COLUMNS = (
    ("tenant", "bytea"),
    ("kind", "text"),
    ("id", "bytea"),
    ("version", "bigint"),
    ("crc", "bigint"),
    ("data", "bytea"),
)
TOTALS = ("live", "expired", "closed", "deleted", "clients")

SESSION_KEY = (("tenant", "bytea"), ("session_id", "bytea"))
ENTITY_KEY = (("tenant", "bytea"), ("kind", "text"), ("id", "bytea"))
OLD = (("old", "bigint"),)

FULL_INPUT: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("new_sessions", SESSION_COLUMNS),  # to be inserted
    ("changed_sessions", SESSION_COLUMNS),
    ("removed_sessions", SESSION_KEY),
    ("stood_sessions", SESSION_KEY + OLD),  # that must be there, in this version
    ("free_ids", SESSION_KEY),  # where there must be none
    ("new_entities", ENTITY_COLUMNS),
    ("changed_entities", ENTITY_COLUMNS),
    ("removed_entities", ENTITY_KEY),
    ("stood_entities", ENTITY_KEY + OLD),
    ("free_names", ENTITY_KEY),
    ("counted", (("tenant", "bytea"), *((name, "bigint") for name in TOTALS))),
    ("records", (("hash", "bigint"), ("version", "bigint"), ("data", "bytea"))),
)
"""The parameters of `full` behind $3: tables, each given as one array a column."""


def _inputs() -> dict[str, str]:
    """Each of them as something to select from."""
    found: dict[str, str] = {}
    number = 4
    for name, columns in FULL_INPUT:
        arrays = _arrays(number, *(kind for _, kind in columns))
        found[name] = f"unnest({arrays}) AS {{alias}}({', '.join(column for column, _ in columns)})"
        number += len(columns)
    return found


_SAME_SESSION = "t.tenant = u.tenant AND t.session_id = u.session_id"
_SAME_ENTITY = "t.tenant = u.tenant AND t.kind = u.kind AND t.id = u.id"


def full(schema: str) -> str:
    """A batch of any kind: $1 lane, $2 batch, $3 day, then the arrays of `FULL_INPUT`."""
    s = quoted(schema)
    given = {name: text.format(alias="u") for name, text in _inputs().items()}
    parts = [*_checks(s, given), *_changes(s, given, "EXISTS (SELECT 1 FROM lane)")]
    return "WITH " + ",\n".join(parts) + "\n" + _RESULT.format(now=NOW)


def _checks(s: str, given: dict[str, str]) -> list[str]:
    """What the decisions stood on is locked; the lane says whether the batch may go on."""
    holds = f"""NOT EXISTS (SELECT 1 FROM {given["free_names"]} JOIN {s}.entities t ON {_SAME_ENTITY})
    AND NOT EXISTS (SELECT 1 FROM {given["free_ids"]} JOIN {s}.sessions t ON {_SAME_SESSION})
    AND (SELECT count(*) FROM locked_entities) = (SELECT count(*) FROM stood_entities)
    AND (SELECT count(*) FROM locked_sessions) = (SELECT count(*) FROM stood_sessions)"""
    return [
        f"stood_entities AS (SELECT * FROM {given['stood_entities']})",
        f"stood_sessions AS (SELECT * FROM {given['stood_sessions']})",
        f"""locked_entities AS (
    SELECT 1 FROM stood_entities u JOIN {s}.entities t ON {_SAME_ENTITY}
    WHERE t.version = u.old ORDER BY t.tenant, t.kind, t.id FOR NO KEY UPDATE OF t
)""",
        f"""locked_sessions AS (
    SELECT 1 FROM stood_sessions u JOIN {s}.sessions t ON {_SAME_SESSION}
    WHERE t.version = u.old ORDER BY t.tenant, t.session_id FOR NO KEY UPDATE OF t
)""",
        _LANE.format(s=s, now=NOW, holds=holds),
    ]


def _changes(s: str, given: dict[str, str], go: str) -> list[str]:
    """What changes, if all of it may: `go`."""
    entities, sessions = (", ".join(name for name, _ in columns) for columns in (ENTITY_COLUMNS, SESSION_COLUMNS))
    assigned = ", ".join(f"{name} = u.{name}" for name, _ in SESSION_COLUMNS[2:])
    added = ", ".join(f"{name} = totals.{name} + excluded.{name}" for name in TOTALS)
    return [
        f"new_entities AS (INSERT INTO {s}.entities ({entities}) SELECT u.* FROM {given['new_entities']} WHERE {go})",
        f"""changed_entities AS (
    UPDATE {s}.entities t SET version = u.version, crc = u.crc, data = u.data
    FROM {given["changed_entities"]} WHERE {go} AND {_SAME_ENTITY}
)""",
        f"""removed_entities AS (
    DELETE FROM {s}.entities t USING {given["removed_entities"]} WHERE {go} AND {_SAME_ENTITY}
)""",
        f"new_sessions AS (INSERT INTO {s}.sessions ({sessions}) SELECT u.* FROM {given['new_sessions']} WHERE {go})",
        f"""changed_sessions AS (
    UPDATE {s}.sessions t SET {assigned} FROM {given["changed_sessions"]} WHERE {go} AND {_SAME_SESSION}
)""",
        f"""removed_sessions AS (
    DELETE FROM {s}.sessions t USING {given["removed_sessions"]} WHERE {go} AND {_SAME_SESSION}
)""",
        f"""counted AS (
    INSERT INTO {s}.totals (lane, tenant, {", ".join(TOTALS)}) SELECT $1, u.* FROM {given["counted"]} WHERE {go}
    ON CONFLICT (lane, tenant) DO UPDATE SET {added}
)""",
        f"""kept AS (
    INSERT INTO {s}.records (day, xact, hash, version, data)
    SELECT $3::int, {_XACT}, u.hash, u.version, u.data FROM {given["records"]} WHERE {go}
)""",
    ]


_SESSIONS_OF = """SELECT k.place, t.version, t.number, t.size, t.head_crc, t.crc,
    CASE WHEN t.version <> k.known THEN t.head END, CASE WHEN t.version <> k.known THEN t.data END, {now}
FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::int[]) AS k(tenant, session_id, known, place)
LEFT JOIN {s}.sessions t ON t.tenant = k.tenant AND t.session_id = k.session_id"""

_ENTITIES_OF = """SELECT k.place, t.version, 0::bigint, 0::bigint, 0::bigint, t.crc,
    NULL::bytea, CASE WHEN t.version <> k.known THEN t.data END, {now}
FROM unnest({a}::bytea[], {b}::text[], {c}::bytea[], {d}::bigint[], {e}::int[]) AS k(tenant, kind, id, known, place)
LEFT JOIN {s}.entities t ON t.tenant = k.tenant AND t.kind = k.kind AND t.id = k.id"""


def sessions_of(schema: str) -> str:
    """Sessions by their keys, without what the caller has in the same version."""
    return _SESSIONS_OF.format(s=quoted(schema), now=MICROSECONDS)


def anything_of(schema: str) -> str:
    """Entities of any kind by their keys, all as of one moment."""
    s = quoted(schema)
    others = _ENTITIES_OF.format(s=s, now=MICROSECONDS, a="$5", b="$6", c="$7", d="$8", e="$9")
    return f"{sessions_of(schema)}\nUNION ALL\n{others}"


def closing(schema: str) -> str:
    """Close a lane for good, and tell the last batch of it that was committed.

    It waits for the transaction that still holds the lane's row, if there is one, and
    no later one can take effect: so the answer is final.
    """
    return f"UPDATE {quoted(schema)}.lanes SET is_open = false WHERE lane = $1 RETURNING last_batch"


def opening(schema: str) -> str:
    """A new lane."""
    return f"INSERT INTO {quoted(schema)}.lanes (lane, last_batch, is_open, seen_at) VALUES ($1, 0, true, {NOW})"


def counts(schema: str) -> str:
    """The totals of a tenant, as of one moment."""
    sums = ", ".join(f"coalesce(sum({name}), 0)::bigint" for name in TOTALS)
    return f"SELECT {sums} FROM {quoted(schema)}.totals WHERE tenant = $1"


SIZES = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'"""

PARTITIONS = """SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ '^records_[0-9]+$' AND c.relispartition"""


def folding(schema: str) -> tuple[str, str, str]:
    """Close lanes not seen since $1; add the totals of closed ones to those of no lane; remove those closed by $1."""
    s = quoted(schema)
    sums = ", ".join(f"sum({name})" for name in TOTALS)
    added = ", ".join(f"{name} = totals.{name} + excluded.{name}" for name in TOTALS)
    names = ", ".join(TOTALS)
    lost = f"SELECT lane FROM {s}.lanes WHERE is_open AND seen_at < $1 FOR UPDATE SKIP LOCKED"
    closed = f"SELECT lane FROM {s}.lanes WHERE NOT is_open FOR UPDATE SKIP LOCKED"
    return (
        f"UPDATE {s}.lanes SET is_open = false WHERE lane IN ({lost})",
        f"""WITH closed AS ({closed}),
taken AS (DELETE FROM {s}.totals t USING closed WHERE t.lane = closed.lane RETURNING t.*)
INSERT INTO {s}.totals (lane, tenant, {names}) SELECT '', tenant, {sums} FROM taken GROUP BY tenant
ON CONFLICT (lane, tenant) DO UPDATE SET {added}""",
        f"DELETE FROM {s}.lanes WHERE NOT is_open AND seen_at < $1",
    )


def seen(schema: str) -> str:
    """A lane whose server is there, unless it is busy: then its commit says so."""
    s = quoted(schema)
    free = f"SELECT lane FROM {s}.lanes WHERE lane = ANY($1::text[]) FOR UPDATE SKIP LOCKED"
    return f"UPDATE {s}.lanes SET seen_at = {NOW} WHERE lane IN ({free})"


def logged(schema: str) -> str:
    """Records behind transaction $1, as far as nothing that still runs can come before them; $2 of them."""
    return (
        f"SELECT xact, hash, version, data FROM {quoted(schema)}.records WHERE xact > $1 "
        "AND xact < pg_snapshot_xmin(pg_current_snapshot())::text::bigint "
        "ORDER BY xact, hash, version LIMIT $2"
    )


def history(schema: str) -> str:
    """The records of one hash below transaction $2, the newest first."""
    return (
        f"SELECT xact, data FROM {quoted(schema)}.records WHERE hash = $1 AND xact < $2 "
        "ORDER BY hash DESC, xact DESC, version DESC LIMIT $3"
    )
