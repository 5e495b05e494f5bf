"""The tables of the shared store, as SQL.  Pure.

Text is kept as bytea (UTF-8): it sorts by code points whatever the database's locale
is, and may hold NUL.  No triggers, no functions, no advisory locks: nothing that only
one vendor has.

- `sessions`: one row a session.  `listed_at` and `due_at` are those of its head, a grain
  (`GRAIN_MS`) behind at most, so that most updates touch no column of an index (HOT).
- `entities`: an owner's live sessions, and the holder of an external id.
- `records`: what changed, one row a record; in partitions by day, which are dropped.
- `lanes`: each server has some, and each numbers its batches, so that what became of one
  can be found out when its connection died.
- `totals`: sessions by status, as far as each lane has counted them; a tenant's are the sum.
"""

from typing import Final

VERSION: Final = 1
"""Of the tables.  Goes up with any change that an older server could not live with."""

HALF_MOVED: Final = 0
"""In the place of a version: the tables are the target of a move that has not ended."""

GRAIN_MS: Final = 60_000
"""How far `listed_at` and `due_at` may lie before what the head says."""

DAY_MS: Final = 86_400_000

_TABLES = """
CREATE TABLE {s}.meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE {s}.sessions (
    tenant bytea NOT NULL, session_id bytea NOT NULL, number bigint NOT NULL,
    client_id bytea NOT NULL, user_id bytea NOT NULL, external_id bytea NOT NULL, title bytea NOT NULL,
    status smallint NOT NULL, version bigint NOT NULL, listed_at bigint NOT NULL, due_at bigint NOT NULL,
    size bigint NOT NULL, head_crc bigint NOT NULL, crc bigint NOT NULL, head bytea NOT NULL, data bytea NOT NULL,
    PRIMARY KEY (tenant, session_id)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE {s}.sessions ALTER COLUMN head SET STORAGE MAIN;
CREATE UNIQUE INDEX sessions_by_number ON {s}.sessions (number);
CREATE INDEX sessions_by_status ON {s}.sessions (tenant, status, number);
CREATE INDEX sessions_by_activity ON {s}.sessions (tenant, status, listed_at, number);
CREATE INDEX sessions_by_title ON {s}.sessions (tenant, status, title, number);
CREATE INDEX sessions_by_client ON {s}.sessions (tenant, client_id, user_id, status, number) WHERE client_id <> '';
CREATE INDEX sessions_by_user ON {s}.sessions (tenant, user_id, status, number) WHERE user_id <> '';
CREATE INDEX sessions_by_external ON {s}.sessions (tenant, external_id) WHERE external_id <> '' AND status = 0;
CREATE INDEX sessions_by_due ON {s}.sessions (status, due_at, number);
CREATE TABLE {s}.entities (
    tenant bytea NOT NULL, kind text NOT NULL, id bytea NOT NULL,
    version bigint NOT NULL, crc bigint NOT NULL, data bytea NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) WITH (fillfactor = 80);
CREATE TABLE {s}.records (
    day integer NOT NULL, xact bigint NOT NULL, hash bigint NOT NULL, version bigint NOT NULL, data bytea NOT NULL
) PARTITION BY RANGE (day);
CREATE INDEX records_by_key ON {s}.records (hash, xact, version);
CREATE INDEX records_by_xact ON {s}.records (xact);
CREATE TABLE {s}.lanes (
    lane text PRIMARY KEY, last_batch bigint NOT NULL, is_open boolean NOT NULL, seen_at bigint NOT NULL
) WITH (fillfactor = 20);
CREATE TABLE {s}.totals (
    lane text NOT NULL, tenant bytea NOT NULL, live bigint NOT NULL, expired bigint NOT NULL,
    closed bigint NOT NULL, deleted bigint NOT NULL, clients bigint NOT NULL,
    PRIMARY KEY (lane, tenant)
) WITH (fillfactor = 20);
INSERT INTO {s}.meta VALUES ('version', '{version}'), ('log_gone', '0');
"""


def quoted(schema: str) -> str:
    """The name of a schema as it stands in SQL."""
    return '"' + schema.replace('"', '""') + '"'


def creation(schema: str) -> str:
    """The statements that make all tables in a new schema of that name."""
    s = quoted(schema)
    return f"CREATE SCHEMA IF NOT EXISTS {s};" + _TABLES.format(s=s, version=VERSION)


def partition_name(day: int) -> str:
    """The name of the partition with the records of a day (days since 1970)."""
    return f"records_{day}"


def partition(schema: str, day: int) -> str:
    """The statements that make the partition of one day.

    Made beside its parent and attached to it: that waits for nobody and holds up nobody.
    """
    s = quoted(schema)
    name = f"{s}.{partition_name(day)}"
    return (
        f"CREATE TABLE {name} (LIKE {s}.records INCLUDING DEFAULTS INCLUDING INDEXES);"
        f"ALTER TABLE {s}.records ATTACH PARTITION {name} FOR VALUES FROM ({day}) TO ({day + 1});"
    )
