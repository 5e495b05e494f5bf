"""The settings: their defaults, bounds and meanings, stated once.

Flags, environment variables, `--help` and the README's table all follow from `Settings`.
"""

from typing import Annotated, Any, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import fields

from stui_sessions.config.database import is_url
from stui_sessions.errors import StartError
from stui_sessions.protocol.fields import CENTURY

ENV_PREFIX = "STUI_SESSIONS_"
CONFIG_ENV = ENV_PREFIX + "CONFIG"

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

DAY = 86_400
# SQLite holds no value of 1e9 bytes or more, and one commit may carry several states.
LARGEST_MESSAGE = 256 * MIB

PATH = r"[^\x00]*"
HOST = r"[^\s\x00-\x1f\x7f]*"
# As in SQL without quotes; PostgreSQL keeps what begins with pg_ for itself.
SCHEMA = r"(?!pg_)[a-z_][a-z0-9_]{0,62}"
# Only what can match a client id.  A glob that can match none ("acme corp*", half of "[a,b]" cut at its comma)
# would leave a deny list open without a word.
GLOB = r"(?:[A-Za-z0-9._:@/+=%~*?-]|\[!?[A-Za-z0-9._:@/+=%~-]+\])+"

RELOAD = True
"""For `_about`: applied by SIGHUP, without a restart."""

Kind = Literal["integer", "size", "switch", "choice", "list", "text"]


class SettingsError(StartError, ValueError):
    """The settings are wrong; one line for each problem.  The command line exits with 2."""


def _about(
    meaning: str,
    *,
    unit: str = "",
    reload: bool = False,
    ge: int | None = None,
    le: int | None = None,
    pattern: str = "",
    path: bool = False,
    url: bool = False,
    right: str = "",
) -> Meta:
    extra = {"unit": unit, "reload": reload, "pattern": pattern, "path": path, "url": url, "right": right}
    return Meta(description=meaning, ge=ge, le=le, extra=extra)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose.  Sizes in bytes, times in whole seconds.

    Made by `load_settings`; made by hand (in tests) nothing is checked.
    """

    # Where it listens, where it keeps things.
    host: Annotated[
        str, _about("Address or host name to listen on; anything but loopback also needs `insecure`.", pattern=HOST)
    ] = "127.0.0.1"
    port: Annotated[int, _about("TCP port; 0 takes a free one, which is printed.", ge=0, le=65_535)] = 7884
    tcp: Annotated[bool, _about("Listen on TCP; switched off, only the Unix socket is left.")] = True
    unix: Annotated[str, _about("Path of a Unix socket to listen on (mode 0600).", pattern=PATH, path=True)] = ""
    db: Annotated[
        str,
        _about(
            "Path of the database; empty: `sessions.db` in the user's state directory; `:memory:` keeps nothing; "
            "`postgresql://…`: a store that several servers share.",
            pattern=PATH,
            path=True,
            url=True,
            right="a path without NUL, or a URL that begins with postgresql://, in UTF-8",
        ),
    ] = ""
    db_schema: Annotated[
        str,
        _about("Shared store: schema of the database in which its tables are.", pattern=SCHEMA,
               right="1 to 63 of a-z, 0-9 and _, no digit and no pg_ first"),
    ] = "stui_sessions"  # fmt: skip
    insecure: Annotated[
        bool, _about("Allow an address that other machines can reach, although there is no authentication yet.")
    ] = False
    durability: Annotated[
        Literal["full", "normal"],
        _about("`full`: on disk (fsync) before the reply; `normal`: survives the process, not a power failure."),
    ] = "full"
    storage_timeout: Annotated[
        int,
        _about("Shared store: how long a request that was not sent to the database yet waits for it before it is "
               "refused.", unit="seconds", ge=1, le=3600),
    ] = 5  # fmt: skip
    allow_unsafe_database: Annotated[
        bool,
        _about("Shared store: start although the database does not keep its promises through a crash (`fsync` or "
               "`synchronous_commit` off)."),
    ] = False  # fmt: skip

    # Rules for sessions.
    max_sessions_per_client: Annotated[
        int, _about("Live sessions that one client may have.", unit="sessions", reload=RELOAD, ge=1, le=1_000_000)
    ] = 5
    max_sessions_per_user: Annotated[
        int,
        _about("Live sessions that one user may have without a client.", unit="sessions", reload=RELOAD,
               ge=1, le=1_000_000),
    ] = 10  # fmt: skip
    on_limit: Annotated[
        Literal["reject", "evict_oldest"],
        _about("What happens to a new session beyond these limits: it is refused, or the least recently active one "
               "is closed for it.", reload=RELOAD),
    ] = "reject"  # fmt: skip
    default_ttl: Annotated[
        int,
        _about("Seconds after their creation at which sessions made by `open_session` expire however much they are "
               "used, where their creator does not say; 0 is never.", unit="seconds", reload=RELOAD, ge=0, le=CENTURY),
    ] = 0  # fmt: skip
    default_timeout: Annotated[
        int,
        _about("Idle time after which a session made by `create_session` expires, where its creator names none.",
               unit="seconds", reload=RELOAD, ge=1, le=CENTURY),
    ] = 3600  # fmt: skip
    open_timeout: Annotated[
        int,
        _about("Idle time after which a session made by `open_session` expires, where its creator names none. The "
               "default gives way to a smaller `max_timeout`.", unit="seconds", reload=RELOAD, ge=1, le=CENTURY),
    ] = 30 * DAY  # fmt: skip
    max_timeout: Annotated[
        int, _about("Longest idle time a creator may ask for.", unit="seconds", reload=RELOAD, ge=1, le=CENTURY)
    ] = 365 * DAY
    cleanup_interval: Annotated[
        int, _about("Time between two sweeps for expired sessions.", unit="seconds", reload=RELOAD, ge=1, le=DAY)
    ] = 300
    keep_expired: Annotated[
        int,
        _about("How long a session is kept that has expired, was closed or deleted: to be looked at, or brought back.",
               unit="seconds", reload=RELOAD, ge=0, le=CENTURY),
    ] = 7 * DAY  # fmt: skip
    allow_clients: Annotated[
        tuple[str, ...],
        _about("Shell globs of the client ids that are let in; empty: all.", reload=RELOAD, pattern=GLOB),
    ] = ()
    deny_clients: Annotated[
        tuple[str, ...],
        _about("Shell globs of the client ids that are kept out, allowed or not.", reload=RELOAD, pattern=GLOB),
    ] = ()
    create_rate: Annotated[
        int,
        _about("New sessions of one client (of one user or one address, where there is no client), with a burst of the "
               "same size; 0: no limit.",
               unit="sessions per minute", reload=RELOAD, ge=0, le=1_000_000),
    ] = 60  # fmt: skip

    # What one peer may cost.
    max_message_bytes: Annotated[
        int, _about("Longest request line.", unit="bytes", reload=RELOAD, ge=256, le=LARGEST_MESSAGE)
    ] = 2 * MIB
    max_state_bytes: Annotated[
        int,
        _about("Size of the four objects of one session together.", unit="bytes", reload=RELOAD, ge=64,
               le=LARGEST_MESSAGE),
    ] = MIB  # fmt: skip
    max_depth: Annotated[
        int, _about("Nesting of arrays and objects in a request.", unit="levels", reload=RELOAD, ge=8, le=512)
    ] = 128
    max_connections: Annotated[
        int,
        _about("Connections at once; never above the descriptor limit less a reserve.", unit="connections",
               reload=RELOAD, ge=1, le=1_000_000),
    ] = 10_000  # fmt: skip
    line_timeout: Annotated[
        int, _about("How long a request line may stay unfinished.", unit="seconds", reload=RELOAD, ge=1, le=DAY)
    ] = 30
    output_timeout: Annotated[
        int,
        _about("How long a peer may leave replies unread before it is cut off.", unit="seconds", reload=RELOAD,
               ge=1, le=DAY),
    ] = 60  # fmt: skip
    output_limit: Annotated[
        int,
        _about("Unread replies of one peer at which it is cut off; at least `max_state_bytes` + 64 KiB.",
               unit="bytes", reload=RELOAD, ge=64 * KIB, le=TIB),
    ] = 4 * MIB  # fmt: skip

    # What all of them together may cost.
    buffer_limit: Annotated[
        int,
        _about("Unfinished lines, undecided requests and unsent replies of all connections together; at least "
               "`max_message_bytes`.", unit="bytes", reload=RELOAD, ge=KIB, le=TIB),
    ] = 48 * MIB  # fmt: skip
    resident_limit: Annotated[
        int, _about("Sessions kept in memory.", unit="bytes", reload=RELOAD, ge=4 * KIB, le=TIB)
    ] = 64 * MIB
    journal_limit: Annotated[
        int,
        _about("Changes that are in the log and not yet in the tables; commits wait behind it. At least "
               "twice `max_state_bytes` and one `max_message_bytes`.", unit="bytes", reload=RELOAD, ge=KIB, le=TIB),
    ] = 32 * MIB  # fmt: skip
    snapshot_interval: Annotated[
        int,
        _about("Time between two rounds of writing behind: what the log has goes into the tables.", unit="seconds",
               ge=1, le=3600),
    ] = 2  # fmt: skip
    log_retention: Annotated[
        int,
        _about("How long the log of changes is kept once the tables hold them.", unit="seconds", reload=RELOAD,
               ge=0, le=CENTURY),
    ] = DAY  # fmt: skip
    log_limit: Annotated[
        int,
        _about("Log kept for that; the oldest goes first. Changes that the tables do not hold yet are always kept.",
               unit="bytes", reload=RELOAD, ge=MIB, le=TIB),
    ] = 256 * MIB  # fmt: skip

    # What it tells.
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Least important lines that are logged.", reload=RELOAD)
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"], _about("`auto`: for people on a terminal, JSON lines elsewhere.")
    ] = "auto"
    log_rate: Annotated[
        int,
        _about("Log lines at most, a tenth of them kept for errors; the number of those dropped is logged once a "
               "minute. 0: no limit.",
               unit="lines per minute", reload=RELOAD, ge=0, le=10_000_000),
    ] = 600  # fmt: skip


class Setting(Struct, frozen=True):
    """One setting as help, README and readers see it."""

    name: str
    kind: Kind
    default: Any
    unit: str
    meaning: str
    reload: bool
    """Whether SIGHUP applies it; otherwise it needs a restart."""
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 0
    pattern: str = ""
    path: bool = False
    url: bool = False
    """Whether it may be the URL of a database, which may hold a password."""
    right: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def flags(self) -> str:
        """As the command line declares it: a switch has an opposite."""
        return f"{self.flag}/--no-{self.flag[2:]}" if self.kind == "switch" else self.flag

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as it could be typed; empty for an empty text or list."""
        if self.kind == "size":
            return size_text(self.default)
        if self.kind == "switch":
            return "true" if self.default else "false"
        return ",".join(self.default) if self.kind == "list" else str(self.default)

    @property
    def expected(self) -> str:
        """What would be right, for error texts."""
        if self.right:
            return self.right
        match self.kind:
            case "integer":
                unit = f" ({self.unit})" if self.unit else ""
                return f"an integer from {self.low} to {self.high}{unit}"
            case "size":
                low, high = size_text(self.low), size_text(self.high)
                return f"a size from {low} to {high}: whole bytes, or a whole number with KiB, MiB, GiB or TiB"
            case "switch":
                return "true or false"
            case "choice":
                return "one of " + ", ".join(self.choices)
            case "list":
                return "a list of client id globs: letters, digits, . _ : @ - / + = % ~ and * ? [abc] [!abc]"
            case _:
                return "a path without NUL, in UTF-8" if self.path else "a text without spaces and control characters"


def size_text(size: int) -> str:
    """`size` bytes in the largest unit that says it exactly: 1048576 is "1MiB"."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _kind(base: Any, unit: str) -> Kind:
    if base is int:
        return "size" if unit == "bytes" else "integer"
    if base is bool:
        return "switch"
    if base is str:
        return "text"
    return "list" if base == tuple[str, ...] else "choice"


def _setting(name: str, annotated: Any, default: Any) -> Setting:
    base, meta = get_args(annotated)
    kind = _kind(base, meta.extra["unit"])
    return Setting(
        name=name,
        kind=kind,
        default=default,
        meaning=meta.description,
        choices=get_args(base) if kind == "choice" else (),
        low=meta.ge or 0,
        high=meta.le or 0,
        **meta.extra,
    )


SETTINGS: dict[str, Setting] = {f.name: _setting(f.name, f.type, f.default) for f in fields(Settings)}


def broken_rules(s: Settings) -> list[str]:
    """What is wrong between settings that are each right alone; one line each."""
    room = size_text(s.max_state_bytes + 64 * KIB)
    journal = size_text(2 * s.max_state_bytes + s.max_message_bytes)
    rules = (
        (s.tcp or s.unix != "", "there is nothing to listen on: tcp is false and unix is empty; name a Unix socket"),
        (
            s.default_timeout <= s.max_timeout,
            f"default_timeout {s.default_timeout} is above max_timeout {s.max_timeout}; lower it or raise max_timeout",
        ),
        (
            s.open_timeout <= s.max_timeout,
            f"open_timeout {s.open_timeout} is above max_timeout {s.max_timeout}; lower it or raise max_timeout",
        ),
        (
            s.output_limit >= s.max_state_bytes + 64 * KIB,
            f"output_limit {size_text(s.output_limit)} cannot hold one reply; expected at least {room}"
            f" (max_state_bytes + 64KiB), or a smaller max_state_bytes",
        ),
        (
            s.journal_limit >= 2 * s.max_state_bytes + s.max_message_bytes,
            f"journal_limit {size_text(s.journal_limit)} cannot hold one commit; expected at least {journal}"
            f" (2 x max_state_bytes + max_message_bytes), or smaller ones of these",
        ),
        (
            s.buffer_limit >= s.max_message_bytes,
            f"buffer_limit {size_text(s.buffer_limit)} cannot hold one request; expected at least"
            f" {size_text(s.max_message_bytes)} (max_message_bytes), or a smaller max_message_bytes",
        ),
        (
            not is_url(s.db) or s.durability == "full" or s.allow_unsafe_database,
            f"durability {s.durability} could lose what a shared store has acknowledged; expected durability full"
            " where db is a URL, or allow_unsafe_database to accept that",
        ),
    )
    return ["settings together: " + text for holds, text in rules if not holds]
