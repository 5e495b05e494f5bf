"""A server over PostgreSQL: beside `pgbench` on the same database, or its table after very many updates.

    python -m tests.benchmarks.postgres [--seconds 10] [--rounds 3] [--sessions 20000] [--standby]
    python -m tests.benchmarks.postgres --updates 5000000 --sessions 200000

Without `--updates`: a server over a PostgreSQL of its own, one over a file, and `pgbench`
with prepared updates of one row each, as long as ours, take turns on 1 and on 50
connections; medians of the rounds.  With it: so many updates of random sessions, and what
has become of the table and of the latency.  All share the machine: compare ratios.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from stui_sessions.loops import run_quickly
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.schema import GRAIN_MS
from tests.benchmarks.driving import Drive, Measured, ended_seconds
from tests.support.postgres import HOST, Postgres, environment, program
from tests.support.server import ServerProcess

SCHEMA = "stui_sessions"
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "wal_keep_size": 0}
"""What an operator would give a database of this size; nothing of it weakens a commit."""

SHAPES = ((1, 1), (50, 1), (50, 16))
"""Connections, and requests in flight on each."""

ARGS = ("--create-rate", "0", "--log-level", "warning")


class Rival(NamedTuple):
    """One run of `pgbench`."""

    rate: float  # updates per second
    database_us: float  # µs of processor that the database used for an update


class Turn(NamedTuple):
    """What one round has measured at one shape."""

    pgbench: Rival
    shared: Measured
    local: Measured
    batch: float  # updates in a commit to PostgreSQL


class PgBench:
    """`pgbench` on rows of so many bytes, in the database that our tables are in."""

    OTHERS = 60
    """Bytes of a row beside what is in its column `data`."""

    def __init__(self, database: Postgres, name: str, rows: int, size: int, directory: Path) -> None:
        self._database = database
        self._where = ["-h", HOST, "-p", str(database.port), "-U", "postgres", name]
        self._data = "x" * max(1, size - self.OTHERS)
        self._script = directory / "update.sql"
        self._script.write_text(
            f"\\set id random(1, {rows})\nUPDATE rival SET version = version + 1, data = :data WHERE id = :id;\n"
        )
        columns = "id bigint PRIMARY KEY, version bigint NOT NULL, data bytea NOT NULL"
        for statement in (
            f"CREATE TABLE rival ({columns}) WITH (fillfactor = 60)",
            f"INSERT INTO rival SELECT n, 1, '{self._data}' FROM generate_series(1, {rows}) n",
            "VACUUM ANALYZE rival",
        ):
            database.sql(statement, name)

    def run(self, clients: int, seconds: float) -> Rival:
        how = ["-n", "-M", "prepared", "-c", str(clients), "-j", str(min(2, clients)), "-T", str(round(seconds))]
        before = ended_seconds(self._database.pid)
        done = subprocess.run(
            [program("pgbench"), *how, "-f", self._script, "-D", f"data={self._data}", *self._where],
            env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 60,
        )  # fmt: skip
        time.sleep(0.5)  # its sessions of the database end a little later
        assert done.returncode == 0, done.stderr
        figures = (r"tps = ([\d.]+)", r"transactions actually processed: (\d+)")
        rate, updates = (float(found[1]) for text in figures if (found := re.search(text, done.stdout)))
        return Rival(rate, 1e6 * (ended_seconds(self._database.pid) - before) / updates)


class Rig:
    """A PostgreSQL and the two servers, one over it and one over a file."""

    def __init__(self, directory: Path, database: Postgres, state_bytes: int) -> None:
        self.database = database
        self.name = "sessions"
        url = database.create_database(self.name)
        run_quickly(admin.init(url, SCHEMA))
        self.directory = directory
        for kind in ("shared", "local"):
            (directory / kind).mkdir()
        # It has to wait for its turn while others are measured, and a busy disk is no failure.
        patience = ("--storage-timeout", "60")
        self.shared = ServerProcess(directory / "shared", *ARGS, *patience, db=url)
        self.local = ServerProcess(directory / "local", *ARGS)
        self.on_shared = Drive(self.shared, state_bytes, database.processes)
        self.on_local = Drive(self.local, state_bytes)

    def sql(self, statement: str) -> list[tuple[str, ...]]:
        """In the database that the server uses."""
        return self.database.sql(statement, self.name, timeout=600.0)

    def commits(self) -> int:
        """Of the server, until now."""
        return int(self.sql(f"SELECT sum(last_batch) FROM {SCHEMA}.lanes")[0][0])

    def row_bytes(self) -> int:
        """Of a session, on the average."""
        return round(float(self.sql(f"SELECT avg(pg_column_size(s.*)) FROM {SCHEMA}.sessions s")[0][0]))


# Beside pgbench.


def compare(rig: Rig, a: argparse.Namespace) -> None:
    """Take turns, and print the medians."""
    with rig.shared, rig.local:
        run_quickly(rig.on_shared.fill(a.sessions))
        run_quickly(rig.on_local.fill(a.sessions))
        size = rig.row_bytes()
        rival = PgBench(rig.database, rig.name, a.sessions, size, rig.directory)
        rig.sql(f"VACUUM ANALYZE {SCHEMA}.sessions")
        print(f"{a.sessions:,} sessions, {size} bytes a row, {a.rounds} rounds of {a.seconds:g} s, medians", flush=True)
        for connections, pipeline in SHAPES:
            turns = []
            for _ in range(a.rounds):
                theirs = rival.run(connections, a.seconds)
                before = rig.commits()
                shared = run_quickly(rig.on_shared.run(connections, pipeline, a.seconds))
                batch = shared.rate * a.seconds / max(1, rig.commits() - before)
                local = run_quickly(rig.on_local.run(connections, pipeline, a.seconds))
                turns.append(Turn(theirs, shared, local, batch))
            _show(connections, pipeline, turns)


def _show(connections: int, pipeline: int, turns: list[Turn]) -> None:
    def median(value: Callable[[Turn], float]) -> float:
        return statistics.median(map(value, turns))

    print(f"{connections} x {pipeline}:")
    rival = f"pgbench, {connections} clients"
    rate, cost = median(lambda t: t.pgbench.rate), median(lambda t: t.pgbench.database_us)
    print(f"  {rival:20}{rate:9,.0f} updates/s; µs each: the database {cost:.1f}")
    for name, of in (("over PostgreSQL", lambda t: t.shared), ("over a file", lambda t: t.local)):
        rate, p50, p99, cpu, database = (
            statistics.median(getattr(of(turn), field) for turn in turns) for field in Measured._fields
        )
        beside = f", its database {database:.1f}" if database else ""
        print(f"  {name:20}{rate:9,.0f} updates/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms; µs each: {cpu:.1f}{beside}")
    ratios = [turn.shared.rate / turn.pgbench.rate for turn in turns]
    print(f"  over PostgreSQL / pgbench: {statistics.median(ratios):.2f}  (rounds {_listed(ratios)})")
    cpus = [turn.shared.server_us / turn.local.server_us for turn in turns]
    print(f"  the server's processor, PostgreSQL / file: {statistics.median(cpus):.2f}  (rounds {_listed(cpus)})")
    print(f"  rate, PostgreSQL / file: {median(lambda t: t.shared.rate / t.local.rate):.2f}")
    print(f"  updates in a commit to PostgreSQL: {median(lambda t: t.batch):.1f}", flush=True)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


# After very many updates.


class Sizes(NamedTuple):
    """Of the table of sessions."""

    table: int  # bytes, what is kept out of line included
    indexes: int
    updates: int
    hot: int


def sizes(rig: Rig) -> Sizes:
    """As PostgreSQL tells them; its counts of updates are a second behind."""
    (row,) = rig.sql(
        f"SELECT pg_table_size(relid), pg_indexes_size(relid), n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        f" WHERE schemaname = '{SCHEMA}' AND relname = 'sessions'"
    )
    return Sizes(*map(int, row))


def grow(rig: Rig, a: argparse.Namespace) -> None:
    """So many updates, a minute at a time, and what they did to the table."""
    with rig.shared:
        begun = time.monotonic()
        run_quickly(rig.on_shared.fill(a.sessions))
        rig.sql(f"VACUUM ANALYZE {SCHEMA}.sessions")
        print(
            f"{a.sessions:,} sessions of {rig.row_bytes()} bytes made in {time.monotonic() - begun:.0f} s", flush=True
        )
        first, done, minutes = sizes(rig), 0.0, list[Measured]()
        while done < a.updates:
            connections, pipeline = SHAPES[-1]
            minutes.append(run_quickly(rig.on_shared.run(connections, pipeline, a.window)))
            done += minutes[-1].rate * a.window
            _tell(done, minutes[-1], first, sizes(rig))
        time.sleep(2.0)
        _sum_up(done, minutes, first, sizes(rig))
        pause = a.sessions / statistics.mean(minute.rate for minute in minutes)
        print(
            f"  a session was updated every {pause:.0f} s; its place in the indexes moves after {GRAIN_MS / 1000:g} s"
        )


def _tell(done: float, minute: Measured, first: Sizes, now: Sizes) -> None:
    latency = f"p50 {minute.p50:.1f} ms, p99 {minute.p99:.1f} ms"
    table = f"table x {now.table / first.table:.2f}, indexes x {now.indexes / first.indexes:.2f}"
    print(f"{done:12,.0f} updates, {minute.rate:8,.0f}/s, {latency}, {table}", flush=True)


def _sum_up(done: float, minutes: list[Measured], first: Sizes, last: Sizes) -> None:
    updates = last.updates - first.updates
    print(f"{done:,.0f} updates ({updates:,} of rows)")
    print(f"  table    {first.table >> 20} -> {last.table >> 20} MiB, x {last.table / first.table:.2f}")
    print(f"  indexes  {first.indexes >> 20} -> {last.indexes >> 20} MiB, x {last.indexes / first.indexes:.2f}")
    print(f"  HOT      {(last.hot - first.hot) / updates:.1%} of the updates")
    for name, minute in (("first", minutes[0]), ("last", minutes[-1])):
        print(f"  {name} window: {minute.rate:,.0f}/s, p50 {minute.p50:.1f} ms, p99 {minute.p99:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--state-bytes", type=int, default=200)
    parser.add_argument("--standby", action="store_true", help="commits wait for a standby, on this machine too")
    parser.add_argument("--updates", type=int, default=0, help="make so many, and look at the table")
    parser.add_argument("--window", type=float, default=60, help="seconds between two looks at it")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp, Postgres(SETTINGS) as database:
        if a.standby:
            database.standby()
        rig = Rig(Path(tmp), database, a.state_bytes)
        if a.updates:
            grow(rig, a)
        else:
            compare(rig, a)


if __name__ == "__main__":
    main()
