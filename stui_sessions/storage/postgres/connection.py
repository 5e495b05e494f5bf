"""Connecting to PostgreSQL, and where asyncpg's errors become ours.

asyncpg reads what libpq reads: of the URL and, where that is silent, of the environment
(PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSERVICE, PGSERVICEFILE,
PGTARGETSESSIONATTRS, PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGSSLCRL, PGSSLNEGOTIATION,
PGSSLMINPROTOCOLVERSION, PGSSLMAXPROTOCOLVERSION, PGKRBSRVNAME, PGGSSLIB) and of the files
~/.pgpass, ~/.pg_service.conf and ~/.postgresql/root.crt, root.crl, postgresql.crt, postgresql.key.
It does not read PGAPPNAME, PGOPTIONS and PGCONNECT_TIMEOUT.
"""

import asyncio
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

from msgspec import Struct

from stui_sessions.errors import StartError, StorageError, printable

if TYPE_CHECKING:
    import asyncpg

APPLICATION: Final = "stui-sessions"

_answered: dict[str, str] = {}
"""For each URL, the host that answered last: it is tried first."""

STAGGER_SECONDS: Final = 1.0
"""How long one host may be silent before the next is asked too.  A host that is frozen still accepts connections."""

OUR_WRITER: Final = "read-write"

_PORT: Final = 5432

_TEXTS: Final = {
    "28000": "the database does not let this user in (pg_hba.conf)",
    "28P01": "wrong user or password",
    "3D000": "there is no such database",
    "3F000": "the schema is missing: stui-sessions db init makes it",
    "42P01": "a table is missing: stui-sessions db init makes them, db check tells which",
    "42501": "this user may not do that: it must own the schema and its tables",
    "53100": "the disk of the database is full",
    "53200": "the database is out of memory",
    "53300": "the database has too many connections",
    "25006": "the database is a read-only standby, or set to read-only",
    "57P01": "the database is shutting down",
    "57P02": "the database has crashed and is starting up",
    "57P03": "the database is starting up or shutting down",
}
"""What an operator should know, by SQLSTATE; what the database said follows in brackets."""

_WRONG: Final = "the URL of the database, or an environment variable of PostgreSQL (PGPORT, …), is not valid"

_LEFT_OPEN: Final = frozenset({"57P01", "57P02", "57P03"})
_MOST: Final = 300
"""Characters of the database's own words that one line repeats."""


def driver() -> Any:
    """The module `asyncpg`, which only a shared store needs; StartError where it is missing."""
    try:
        import asyncpg
    except ImportError:
        raise StartError(
            "a database at a postgresql:// URL needs asyncpg: pip install 'stui-sessions[postgres]'"
        ) from None
    return asyncpg


async def connect(url: str, *, timeout: float = 10.0) -> "asyncpg.Connection":  # noqa: ASYNC109 - for each host
    """A connection to the first host of `url` that takes writes.  StorageError with one line if there is none.

    `timeout` is for each host, or the URL's `connect_timeout` where that is less.  A host
    that does not answer holds up the others for a moment only: it may be a primary that
    was cut off, and the new one is another of them.

    No named statements, so that pgbouncer may stand between.  No time limit on a statement:
    to cancel one that waits for a standby would leave its change visible and its outcome open.
    """
    asyncpg = driver()
    try:
        parts = _parts(url)
    except ValueError:
        raise StartError(_WRONG) from None

    async def one(place: dict[str, Any]) -> Any:
        connection = await asyncpg.connect(
            parts.dsn,
            **place,
            timeout=min(parts.timeout, timeout),
            command_timeout=None,
            statement_cache_size=0,
            server_settings={"application_name": parts.application},
            target_session_attrs=parts.target,
        )
        _answered[url] = _shown_place(place)
        return connection

    last = _answered.get(url)
    places = sorted(parts.places, key=lambda place: _shown_place(place) != last)
    tries = [lambda place=place: one(place) for place in places]
    stagger = min(STAGGER_SECONDS, timeout / 4)
    return await _first(tries, [_shown_place(place) for place in places], stagger)


class _Parts(Struct):
    """What a URL says, as asyncpg is told it."""

    dsn: str
    """Without what is told on its own."""
    places: list[dict[str, Any]]
    """Host and port of each to be tried; empty where the environment names them."""
    timeout: float
    application: str
    target: str | None


def _parts(url: str) -> _Parts:
    before, _, query = url.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    seconds = given.pop("connect_timeout", "")
    application = given.pop("application_name", "") or APPLICATION
    named = "target_session_attrs" in given or "PGTARGETSESSIONATTRS" in os.environ
    places = _places(before, given)
    if places != [{}]:
        scheme, _, rest = before.partition("://")
        authority, slash, name = rest.partition("/")
        user, at, _ = authority.rpartition("@")
        before = f"{scheme}://{user}{at}{slash}{name}"
        given.pop("host", None)
        given.pop("port", None)
    return _Parts(
        f"{before}?{urlencode(given)}" if given else before,
        places,
        float(seconds or "inf"),
        application,
        None if named else OUR_WRITER,
    )


def _places(before: str, given: dict[str, str]) -> list[dict[str, Any]]:
    """The hosts of a URL.  asyncpg would try them one after the other, within one time limit."""
    authority = before.partition("://")[2].partition("/")[0].rpartition("@")[2]
    hosts = authority or given.get("host", "")
    if not hosts:
        return [{}]
    ports = given.get("port", "").split(",")
    places = []
    for number, host in enumerate(hosts.split(",")):
        found = re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+)(?::(\d+))?", host)
        if found is None:
            return [{}]  # asyncpg says what is wrong
        port = found[2] or found[4] or ports[number if len(ports) > 1 and number < len(ports) else 0]
        name = unquote(found[1] or found[3])
        places.append({"host": name, "port": int(port or os.environ.get("PGPORT", "") or _PORT)})
    return places


def _shown_place(place: dict[str, Any]) -> str:
    return f"{place['host']}:{place['port']}" if place else ""


async def _first(tries: list[Any], names: list[str], stagger: float) -> Any:
    """The first connection that comes about; the next host is tried when one fails or is silent for `stagger` s."""
    running: dict[asyncio.Task[Any], str] = {}
    waiting = list(zip(tries, names, strict=True))
    failed: list[tuple[str, Exception]] = []
    try:
        while waiting or running:
            if waiting:
                start, name = waiting.pop(0)
                running[asyncio.ensure_future(start())] = name
            done, _ = await asyncio.wait(
                running, timeout=stagger if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                name = running.pop(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, Exception):
                    raise error
                failed.append((name, error))
    finally:
        _give_up(running)
    raise _nowhere(failed)


def _give_up(running: dict["asyncio.Task[Any]", str]) -> None:
    """Leave no connection behind that nobody waits for any more."""

    def end(task: "asyncio.Task[Any]") -> None:
        with suppress(asyncio.CancelledError, Exception):
            task.result().terminate()

    for task in running:
        task.cancel()
        task.add_done_callback(end)


def _nowhere(failed: list[tuple[str, Exception]]) -> StorageError:
    """One line for all hosts; the cause is the error of the last one."""
    texts = [f"{name}: {_text(error)}" if name else _text(error) for name, error in failed]
    problem = StorageError("cannot connect to the database: " + "; ".join(dict.fromkeys(texts)))
    problem.__cause__ = failed[-1][1]
    return problem


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error that the database sent, or of the one it was translated from; else empty."""
    return str(getattr(error.__cause__ or error, "sqlstate", None) or "")


def translate(doing: str, error: BaseException) -> StorageError:
    """The error of ours that says what was being done and what went wrong, in one line and without a password.

    The text is for the log and the operator: it never reaches a client.
    """
    if isinstance(error, StorageError):
        return error
    problem = StorageError(f"{doing}: {_text(error)}")
    problem.__cause__ = error
    return problem


def _text(error: BaseException) -> str:
    said = printable(" ".join(str(error).split()))[:_MOST]
    code = getattr(error, "sqlstate", None)
    if code and not code.startswith("08"):
        return f"{_TEXTS[code]} ({said})" if code in _TEXTS else f"{said} (SQLSTATE {code})"
    kind = type(error).__name__
    if kind == "TargetServerAttributeNotMatched":
        return "is a read-only standby"
    if kind == "ClientConfigurationError":
        return said
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or said or kind
    if isinstance(error, ValueError):
        # Python's own words would repeat what is wrong, and that may be a part of the password.
        return _WRONG
    if code or kind in ("InterfaceError", "InternalClientError"):
        return f"the connection is lost ({said})"
    return f"{kind} ({said})" if said else kind


def is_outcome_known(error: BaseException) -> bool:
    """Whether it is certain that the statement that failed so did not take effect.

    Only the database's own ERROR says that.  Whatever ends the connection says nothing:
    not a FATAL or PANIC either, which a full disk is in the middle of a commit.
    """
    origin = error.__cause__ or error if isinstance(error, StorageError) else error
    code = str(getattr(origin, "sqlstate", None) or "")
    severity = getattr(origin, "severity_en", None) or "ERROR"
    return len(code) == 5 and not code.startswith("08") and code not in _LEFT_OPEN and severity == "ERROR"
