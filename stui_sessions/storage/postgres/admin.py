"""Making and looking after the tables of the shared store, and what its database promises."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from stui_sessions.errors import StartError, StorageError, quote
from stui_sessions.storage.postgres import schema as tables
from stui_sessions.storage.postgres.connection import connect, sqlstate, translate
from stui_sessions.storage.postgres.schema import HALF_MOVED, VERSION, quoted

if TYPE_CHECKING:
    import asyncpg

PROBLEM: Final = "problem: "
"""Begins the lines of `check` about what must be corrected."""

_AHEAD: Final = 3
"""Days whose partitions are made: today and the next ones."""

_TODAY: Final = "SELECT floor(extract(epoch FROM clock_timestamp()) / 86400)::bigint"

_THERE_ALREADY: Final = frozenset({"23505", "42P06", "42P07", "42710"})
"""What the slower of two `init` is told: unique violation, duplicate schema, table, object."""

_MISSING: Final = frozenset({"3F000", "42P01"})
_FOREIGN: Final = frozenset({"42703", "42883", "42809"})
"""A table `meta` that is not ours: it has no such column, or is something else."""

_LIMITS: Final = ("statement_timeout", "transaction_timeout", "client_connection_check_interval")
"""Settings that would cancel a commit that waits for a standby: it would be told as failed, and then be seen."""


# What the database promises.


class Promise(Struct, frozen=True):
    """What the database says of its commits."""

    fsync: bool
    synchronous_commit: str
    standbys: str
    """`synchronous_standby_names`; empty where no standby is waited for."""


async def promise(connection: "asyncpg.Connection") -> Promise:
    """What the database promises to those who connect like this."""
    names = ("fsync", "synchronous_commit", "synchronous_standby_names")
    row = await connection.fetchrow("SELECT " + ", ".join(f"current_setting('{name}', true)" for name in names))
    fsync, commit, standbys = (value or "" for value in row)
    return Promise(fsync != "off", commit or "on", standbys.strip())


def refuse_unsafe(promise: Promise, allow: bool) -> None:
    """StartError where a crash of the database could lose what it has acknowledged, unless that is allowed."""
    if not is_safe(promise) and not allow:
        raise StartError(
            f"the database does not keep its promises: {meaning(promise)}; switch it on in postgresql.conf or for the"
            " role, or accept this with allow_unsafe_database"
        )


def is_safe(promise: Promise) -> bool:
    """Whether an acknowledged change survives a crash of the database."""
    return promise.fsync and promise.synchronous_commit != "off"


def meaning(promise: Promise) -> str:
    """The settings, and in words what they are worth."""
    said = f"fsync {'on' if promise.fsync else 'off'}, synchronous_commit {promise.synchronous_commit}"
    if not promise.fsync:
        return f"{said}: a crash of its machine can lose acknowledged changes and damage the database"
    if promise.synchronous_commit == "off":
        return f"{said}: a crash of the database loses what it acknowledged last"
    if not promise.standbys:
        return f"{said}, no synchronous standby: acknowledged changes survive a crash, not the loss of the machine"
    said = f"{said}, synchronous_standby_names {quote(promise.standbys)}"
    if promise.synchronous_commit == "local":
        return f"{said}: no standby is waited for, so a fail-over can lose acknowledged changes"
    if promise.synchronous_commit == "remote_write":
        return f"{said}: acknowledged changes survive a fail-over, unless the standby's machine crashes too"
    return f"{said}: acknowledged changes survive a crash and a fail-over to such a standby"


# The version of the tables.


async def version(connection: "asyncpg.Connection", schema: str) -> int | None:
    """The version of the tables; None if there are none.  Not within a transaction: that would fail with it."""
    try:
        value = await connection.fetchval(f"SELECT value FROM {quoted(schema)}.meta WHERE key = 'version'")
    except Exception as error:
        if sqlstate(error) in _MISSING:
            return None
        if sqlstate(error) in _FOREIGN:
            raise _not_ours(schema) from None
        raise translate("reading the version of the tables", error) from error
    if value is not None and re.fullmatch("[0-9]{1,9}", str(value)) is None:
        raise _not_ours(schema)
    return None if value is None else int(value)


def refuse_version(found: int | None, schema: str) -> None:
    """StartError, with the command that helps, unless this server can live with the tables."""
    if found == VERSION:
        return
    where = f"the schema {quote(schema)} of the database"
    if found is None:
        raise StartError(f"{where} has no tables: make them with {_command('init', schema)}")
    if found == HALF_MOVED:
        raise StartError(f"{where} is the target of a move that was cut off: run stui-sessions move again")
    if found < VERSION:
        raise StartError(
            f"{where} has tables of version {found}, this server needs {VERSION}: {_command('upgrade', schema)}"
        )
    raise StartError(
        f"{where} has tables of version {found}, which a newer server has made; this one knows {VERSION}:"
        " use a newer server"
    )


def _command(name: str, schema: str) -> str:
    return f"stui-sessions db {name} --db URL --db-schema {schema}"


def _not_ours(schema: str) -> StartError:
    return StartError(
        f"the schema {quote(schema)} has a table named as one of ours that is not: take another with --db-schema"
    )


# Making them.


async def init(url: str, schema: str) -> bool:
    """Make the tables; False if they are there already, and then nothing is changed."""
    async with _connected(url, "making the tables") as connection:
        found = await version(connection, schema)
        if found is None:
            try:
                await _create(connection, schema)
            except Exception as error:
                if sqlstate(error) not in _THERE_ALREADY:
                    raise
                found = await version(connection, schema)
                if found is None:
                    raise _not_ours(schema) from None
            else:
                return True
        refuse_version(found, schema)
        return False


async def _create(connection: "asyncpg.Connection", schema: str) -> None:
    """All or nothing."""
    statements = tables.creation(schema)
    if await connection.fetchval("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", schema):
        # IF NOT EXISTS, too, asks for the right to make schemas, which the owner of this one need not have.
        statements = statements.removeprefix(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};")
    async with connection.transaction():
        await connection.execute(statements)
        today = await connection.fetchval(_TODAY)
        for day in range(today, today + _AHEAD):
            await connection.execute(tables.partition(schema, day))


async def upgrade(url: str, schema: str) -> tuple[int, int]:
    """Bring the tables up to this version: from which one, to which one.  There is only one yet."""
    async with _connected(url, "upgrading the tables") as connection:
        found = await version(connection, schema)
        refuse_version(found, schema)
        return VERSION, VERSION


@asynccontextmanager
async def _connected(url: str, doing: str) -> AsyncIterator[Any]:
    """A connection for a moment; what goes wrong becomes an error of ours."""
    connection = await connect(url)
    try:
        yield connection
    except (StartError, StorageError):
        raise
    except Exception as error:
        raise translate(doing, error) from error
    finally:
        connection.terminate()


# Looking at them.


async def check(url: str, schema: str) -> list[str]:
    """What there is to say about the database; lines with `PROBLEM` first are what servers would stumble over.

    Raises StartError or StorageError where no server could start.
    """
    async with _connected(url, "checking the database") as connection:
        lines = [f"PostgreSQL {await connection.fetchval('SHOW server_version')}"]
        found = await version(connection, schema)
        refuse_version(found, schema)
        lines.append(f"schema {schema}: tables of version {found}")
        promised = await promise(connection)
        lines.append(("" if is_safe(promised) else PROBLEM) + meaning(promised))
        for look in (_recovery, _limits):
            lines += await look(connection)
        for look_at in (_missing_tables, _missing_rights, _missing_partitions):
            lines += await look_at(connection, schema)
        return lines


async def _recovery(connection: "asyncpg.Connection") -> list[str]:
    if await connection.fetchval("SELECT pg_catalog.pg_is_in_recovery()"):
        return [f"{PROBLEM}it is a standby, which takes no writes: name the primary"]
    return []


async def _limits(connection: "asyncpg.Connection") -> list[str]:
    rows = await connection.fetch(
        "SELECT name FROM pg_catalog.pg_settings WHERE name = ANY($1::text[]) AND setting <> '0' ORDER BY name",
        list(_LIMITS),
    )
    return [
        f"{PROBLEM}{name} is not 0: a commit that waits could be cancelled, told as failed, and yet be there"
        f" (ALTER ROLE … SET {name} = 0)"
        for (name,) in rows
    ]


async def _relations(connection: "asyncpg.Connection", schema: str) -> dict[str, tuple[bool, list[str]]]:
    """Each of our tables that is there: whether this role owns it, and the rights that it lacks."""
    rights = ("SELECT", "INSERT", "UPDATE", "DELETE")
    lacking = ", ".join(f"pg_catalog.has_table_privilege(c.oid, '{right}')" for right in rights)
    rows = await connection.fetch(
        f"SELECT c.relname, pg_catalog.pg_has_role(c.relowner, 'USAGE'), {lacking} FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = ANY($2::text[])",
        schema,
        _names(schema),
    )
    return {
        name: (owned, [right for right, has in zip(rights, has_them, strict=True) if not has])
        for name, owned, *has_them in rows
    }


def _names(schema: str) -> list[str]:
    return re.findall(r"CREATE TABLE \S+\.(\w+)", tables.creation(schema))


async def _missing_tables(connection: "asyncpg.Connection", schema: str) -> list[str]:
    there = await _relations(connection, schema)
    return [f"{PROBLEM}the table {name} is missing: restore it" for name in _names(schema) if name not in there]


async def _missing_rights(connection: "asyncpg.Connection", schema: str) -> list[str]:
    who = await connection.fetchval("SELECT current_user::text")
    role = f"{PROBLEM}the role {quote(who)}"
    lines = []
    if not await connection.fetchval("SELECT pg_catalog.has_schema_privilege($1::text, 'CREATE')", schema):
        lines.append(f"{role} may not make tables in the schema, but servers make one each day")
    for name, (owned, lacking) in (await _relations(connection, schema)).items():
        if lacking:
            lines.append(f"{role} has no right to {', '.join(lacking)} on {name}")
        if name == "records" and not owned:
            lines.append(f"{role} does not own {name}, but servers add a partition to it each day and drop old ones")
    return lines


async def _missing_partitions(connection: "asyncpg.Connection", schema: str) -> list[str]:
    """No problem: servers make them when they start, and each day."""
    today = await connection.fetchval(_TODAY)
    rows = await connection.fetch(
        "SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
        " JOIN pg_catalog.pg_class p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace"
        " WHERE n.nspname = $1 AND p.relname = 'records'",
        schema,
    )
    there = {name for (name,) in rows}
    missing = [name for day in range(today, today + _AHEAD) if (name := tables.partition_name(day)) not in there]
    return [f"partitions not made yet (servers do it): {', '.join(missing)}"] if missing else []
