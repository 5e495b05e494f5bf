"""PostgreSQL servers of a test's own, and PgBouncer in front of them, from what Debian's packages install.

They run as an unprivileged user, as they insist, on free ports of the loopback interface, in one
temporary directory for the whole run.  Nothing sleeps without a condition and a deadline.  Whatever
ends the run, even SIGKILL, a process that waits for that ends the servers and removes the directory.

Everything here blocks; a test with an event loop calls what takes long by `asyncio.to_thread`.
"""

import atexit
import contextlib
import csv
import functools
import io
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60.0
"""Seconds; generous, because a test machine may be busy."""
HOST = "127.0.0.1"
MISSING = "PostgreSQL or PgBouncer is not installed; on Debian: apt-get install postgresql pgbouncer"

SETTINGS: dict[str, object] = {
    "shared_buffers": "64MB",
    "max_connections": 60,
    # A standby that was away for a while finds what it needs, without a slot that somebody must drop.
    "wal_keep_size": "1GB",
    # In the data directory, so that a server that was killed leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
"""What differs from PostgreSQL's defaults; nothing of it weakens a commit."""

GROUP = "with_password"
HBA = f"""\
local all all trust
local replication all trust
host all +{GROUP} {HOST}/32 scram-sha-256
host all all {HOST}/32 trust
host replication all {HOST}/32 trust
"""
"""Whoever connects is believed, except the roles of `Postgres.create_user`."""


class PostgresFailed(AssertionError):
    """A server did not do what it was told, or psql has refused a statement."""


class Daemon:
    """A server with a directory of its own; it may have several processes."""

    def __init__(self) -> None:
        self.mark = f"{base().name}.{next(_numbers):04}"
        """Stands in the command line of each of its processes."""
        self.directory = base() / self.mark
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._made: list[Daemon] = []
        self.directory.mkdir()
        own(self.directory)

    # What each kind says for itself.

    def command(self) -> list[str]:
        """The command line that starts it; it contains `mark`."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what it needs before its first start."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it takes connections."""
        raise NotImplementedError

    # Its life.

    def start(self, timeout: float = TIMEOUT) -> Self:
        """Start it, for the first time or again, and wait until it takes connections; raises PostgresFailed."""
        assert not self.is_running, "it runs already"
        self.prepare()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.directory, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **unprivileged(),
            )  # fmt: skip
        try:
            self.until(lambda: not self.is_running or self.ready(), "the server's start", timeout)
            if not self.is_running:
                raise PostgresFailed(f"the server has ended (exit code {self._process.poll()})\n{self.log()[-5000:]}")
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL to all its processes, if there are any; none is left.  `start` begins again with its data."""
        self._stop_forking()
        self.until(lambda: not self._signal(signal.SIGKILL), "the end of the killed processes", TIMEOUT)
        if self._process is not None:
            self._process.wait(TIMEOUT)
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP to all its processes: to its clients it looks like a machine that has lost its network."""
        assert self.is_running, "the server was not started, or has ended"
        self._stop_forking()
        self._signal(signal.SIGSTOP)
        self.until(lambda: self._states() <= {"T"}, "all processes to be stopped", TIMEOUT)

    def thaw(self) -> None:
        """SIGCONT to all its processes."""
        self._signal(signal.SIGCONT)
        self.until(lambda: "T" not in self._states(), "all processes to go on", TIMEOUT)

    def remove(self) -> None:
        """End it and what was made of it (standbys, bouncers), and remove their directories."""
        while self._made:
            self._made.pop().remove()
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The first process, which is the parent of the others."""
        assert self._process is not None, "the server was not started, or has ended"
        return self._process.pid

    def processes(self) -> list[int]:
        """The ids of all its processes."""
        return sorted(processes(self.mark))

    # Looking at it.

    @property
    def log_path(self) -> Path:
        return self.directory / "log"

    def log(self) -> str:
        """Everything it has logged, over all its starts."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """For a client: `postgresql://postgres@127.0.0.1:20123/name`."""
        who = quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
        return f"postgresql://{who}@{HOST}:{self.port}/{quote(database, safe='')}"

    def until(self, probe: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
        """Wait until `probe` is true; what it waited for in vain is told with the log's end."""
        try:
            until(probe, what, timeout)
        except AssertionError as failure:
            raise PostgresFailed(f"{failure}\n{self.log()[-5000:]}") from None

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def _stop_forking(self) -> None:
        """So that no process appears while its others are looked for."""
        if self.is_running:
            os.kill(self.pid, signal.SIGSTOP)

    def _signal(self, number: int) -> list[int]:
        found = self.processes()
        send(found, number)
        return found

    def _states(self) -> set[str]:
        return set(processes(self.mark).values())


class Postgres(Daemon):
    """A PostgreSQL server with the superuser `postgres`; `settings` are set over SETTINGS."""

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.settings = {**SETTINGS, **(settings or {})}
        self.data = self.directory / "data"
        self._synchronous: list[str] = []

    def command(self) -> list[str]:
        place = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": self.directory,
            "cluster_name": self.mark,
        }
        options = [word for name, value in place.items() for word in ("-c", f"{name}={value}")]
        return [str(program("postgres")), "-D", str(self.data), *options]

    def prepare(self) -> None:
        if not self.data.exists():
            run_unprivileged("cp", "-a", template(), self.data)
            with (self.data / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = {literal(value)}\n" for name, value in self.settings.items())

    def ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # A server that was killed has left such a file, too.
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() in {"ready", "standby"}

    def stop(self, mode: str = "fast", timeout: float = TIMEOUT) -> None:
        """Shut it down: `smart`, `fast` or `immediate`; raises PostgresFailed when it does not end in time.

        A primary waits, except with `immediate`, until its standbys have everything; a frozen one hasn't.
        """
        assert self._process is not None, "the server was not started, or has ended"
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        self.thaw()
        self._process.send_signal(number)
        self.until(lambda: not self.is_running and not self.processes(), f"the end after a {mode} shutdown", timeout)
        self._process = None

    def remove(self) -> None:
        if self.is_running:
            # An orderly end leaves no shared memory behind.
            with contextlib.suppress(PostgresFailed):
                self.stop("immediate", timeout=10.0)
        self.kill()
        free_shared_memory(self.data)
        super().remove()

    # Talking to it, as its superuser.

    def sql(
        self, statement: str, database: str = "postgres", user: str = "postgres", timeout: float = TIMEOUT
    ) -> list[tuple[str, ...]]:
        """The rows of a statement, as `psql` gives them."""
        where = f"host={self.directory} port={self.port} dbname={database} user={user}"
        return psql(where, statement, timeout)

    def create_database(self, name: str, owner: str = "postgres") -> str:
        """A fresh empty database; its URL."""
        self.sql(f"CREATE DATABASE {identifier(name)} OWNER {identifier(owner)}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is connected."""
        self.sql(f"DROP DATABASE IF EXISTS {identifier(name)} WITH (FORCE)")

    def create_user(self, name: str, password: str) -> None:
        """A role without any rights, which must give its password when it connects over TCP."""
        if not self.sql(f"SELECT 1 FROM pg_roles WHERE rolname = {literal(GROUP)}"):
            self.sql(f"CREATE ROLE {GROUP}")
        self.sql(f"CREATE ROLE {identifier(name)} LOGIN PASSWORD {literal(password)} IN ROLE {GROUP}")

    def set(self, **settings: object) -> None:
        """Change settings of the running server, and wait until new connections have them; None is the default.

        Some settings need a new start; connections that are open read theirs before their next statement.
        """
        before = self.sql("SELECT pg_conf_load_time()")
        for name, value in settings.items():
            change = f"SET {name} = {literal(value)}" if value is not None else f"RESET {name}"
            self.sql(f"ALTER SYSTEM {change}")
        self.sql("SELECT pg_reload_conf()")
        self.until(lambda: self.sql("SELECT pg_conf_load_time()") != before, "the settings to be read")
        if "synchronous_standby_names" in settings:
            # Commits wait for standbys only when the checkpointer has read the setting, too; it reads its settings
            # before each checkpoint that is asked for, but one may have begun already.
            self.sql("CHECKPOINT")
            self.sql("CHECKPOINT")

    # Further servers; they are removed with this one.

    def standby(self, synchronous: bool = True, name: str = "standby") -> "Postgres":
        """A running copy that streams from this server, with `name` as its `application_name`.

        Of all synchronous ones together, any one must have a commit before it is acknowledged.
        """
        assert name.isidentifier(), "a plain name, please"
        standby = Postgres(self.settings)
        self._made.append(standby)
        source = f"host={HOST} port={self.port} user=postgres application_name={name}"
        run_unprivileged(program("pg_basebackup"), "-R", "-c", "fast", "--no-sync", "-D", standby.data, "-d", source)
        with (standby.data / "postgresql.auto.conf").open("a") as file:
            # A copy of this server's; once promoted, it would wait for itself.
            file.write("synchronous_standby_names = ''\n")
        standby.start()
        self._await_standby(name, "state", "streaming")
        if synchronous:
            self._synchronous.append(name)
            self.set(synchronous_standby_names=f"ANY 1 ({', '.join(map(identifier, self._synchronous))})")
            self._await_standby(name, "sync_state", "quorum")
        return standby

    def promote(self) -> None:
        """Make a primary of this standby; returns when it takes writes."""
        self.sql("SELECT pg_promote(false)")
        self.until(lambda: self.sql("SELECT pg_is_in_recovery()") == [("f",)], "the promotion")

    def pgbouncer(
        self, users: Mapping[str, str] | None = None, settings: Mapping[str, object] | None = None
    ) -> "PgBouncer":
        """A running PgBouncer in front of this server."""
        bouncer = PgBouncer(self, users, settings)
        self._made.append(bouncer)
        return bouncer.start()

    def _await_standby(self, name: str, column: str, wanted: str) -> None:
        question = f"SELECT {column} FROM pg_stat_replication WHERE application_name = {literal(name)}"
        self.until(lambda: (wanted,) in self.sql(question), f"{name} to be {wanted}")


class PgBouncer(Daemon):
    """PgBouncer in transaction mode; it believes the roles in `users` and gives the server their passwords."""

    def __init__(
        self, server: Postgres, users: Mapping[str, str] | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        super().__init__()
        self.server = server
        self.users = {"postgres": "", **(users or {})}
        self.settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "auth_type": "trust",
            "auth_file": self.directory / "users",
            "admin_users": "postgres",
            **(settings or {}),
        }

    def command(self) -> list[str]:
        return [str(bouncer_program()), str(self._configuration)]

    def prepare(self) -> None:
        users = "".join(f"{identifier(name)} {identifier(password)}\n" for name, password in self.users.items())
        settings = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        databases = f"[databases]\n* = host={HOST} port={self.server.port}\n"
        (self.directory / "users").write_text(users)
        self._configuration.write_text(f"{databases}\n[pgbouncer]\n{settings}")
        own(self.directory / "users")
        own(self._configuration)

    def ready(self) -> bool:
        try:
            socket.create_connection((HOST, self.port), 1.0).close()
        except OSError:
            return False
        return True

    @property
    def _configuration(self) -> Path:
        return self.directory / f"{self.mark}.ini"


def psql(where: str, statement: str, timeout: float = TIMEOUT) -> list[tuple[str, ...]]:
    """The rows of a statement, each value as text (NULL is empty); `where` is a URL or another conninfo string.

    Raises PostgresFailed with what psql says, or when it takes longer than `timeout` seconds.
    """
    options = ["-X", "-w", "-q", "-t", "--csv", "-v", "ON_ERROR_STOP=1"]
    try:
        done = subprocess.run(
            [program("psql"), *options, "-d", where, "-c", statement],
            env=environment(), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PostgresFailed(f"no answer after {timeout} s: {statement}") from None
    if done.returncode:
        raise PostgresFailed(f"{statement}\n{done.stderr}")
    return [tuple(row) or ("",) for row in csv.reader(io.StringIO(done.stdout, newline=""))]


def literal(value: object) -> str:
    """A value in SQL, or in a configuration file."""
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# What is installed, and who may run it.


def installed() -> bool:
    """Whether there is all that the tests need."""
    return programs() is not None and bouncer_program() is not None


def programs() -> Path | None:
    """The directory of the newest version's programs; Debian puts them on no PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parts[4].isdigit()]
    if found:
        return max(found, key=lambda path: int(path.parts[4]))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


def program(name: str) -> Path:
    directory = programs()
    if directory is None:
        raise PostgresFailed(MISSING)
    return directory / name


def bouncer_program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def environment() -> dict[str, str]:
    """The test's environment without what libpq would read from it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "PGCLIENTENCODING": "UTF8"}


@functools.cache
def account() -> pwd.struct_passwd | None:
    """Whom the servers run as when the tests run as root; None: as the tests do."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresFailed("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`")


def unprivileged() -> dict[str, Any]:
    """Options of `subprocess` for a process that must not be root's."""
    who = account()
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []} if who else {}


def own(path: Path) -> None:
    if who := account():
        os.chown(path, who.pw_uid, who.pw_gid)


def run_unprivileged(*command: str | Path) -> None:
    """Run a command to its end; PostgresFailed with what it wrote when it fails."""
    try:
        done = subprocess.run(
            command, cwd=base(), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", timeout=TIMEOUT, **unprivileged(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PostgresFailed(f"{command[0]} still runs after {TIMEOUT} s") from None
    if done.returncode:
        raise PostgresFailed(f"{command[0]} failed with exit code {done.returncode}\n{done.stdout}")


# Places and ports.

_numbers = itertools.count(1)
_ports: set[int] = set()


def free_port() -> int:
    """A port that is free, was not given out before, and that the kernel gives to no client while the server is down.

    Not from `random`, which other test runs may have seeded alike.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port not in _ports:
                probe.bind((HOST, port))
                _ports.add(port)
                return port


@functools.cache
def base() -> Path:
    """The directory of this run; its name marks all processes, and it goes, with them, when the run ends."""
    path = Path(tempfile.mkdtemp(prefix="stui-postgres-")).resolve()
    own(path)
    guarding = subprocess.Popen(
        [sys.executable, "-m", __name__, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    # It reads to the end of this pipe, which comes with the end of this process.
    atexit.register(guarding.communicate)
    return path


@functools.cache
def template() -> Path:
    """A data directory to copy, because `initdb` is slow."""
    path = base() / "template"
    options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    run_unprivileged(program("initdb"), *options, "-D", path)
    (path / "pg_hba.conf").write_text(HBA)
    return path


# Processes, by what /proc tells of everybody's.


def processes(mark: str) -> dict[int, str]:
    """The states of the servers' processes with `mark` in their command lines, and of what these have started.

    A process of PostgreSQL has the server's command line, or the name of its cluster, in the place of its own.
    """
    parents: dict[int, int] = {}
    states: dict[int, str] = {}
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            head, _, tail = (entry / "stat").read_text(errors="replace").rpartition(")")
            state, parent = tail.split()[:2]
            if state in "ZX":
                continue
            states[pid], parents[pid] = state, int(parent)
            servers = head.endswith(("(postgres", "(pgbouncer"))
            if servers and mark in (entry / "cmdline").read_text(errors="replace"):
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: states[pid] for pid in found}


def send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def free_shared_memory(data: Path) -> None:
    """Free what a server that was killed could not: a machine has only so many of these."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        number = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        subprocess.run(["ipcrm", "-m", number], check=False, capture_output=True)


def guard(path: Path) -> None:
    """Wait for the end of the tests' process; then end its servers and remove its directory."""
    sys.stdin.buffer.read()
    while found := list(processes(path.name)):
        send(found, signal.SIGKILL)
    for data in (path / "template", *path.glob("*/data")):
        free_shared_memory(data)
    shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
