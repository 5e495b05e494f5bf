"""How far one PostgreSQL goes, and what comes first: to 10 million sessions and 100 servers.

    python -m tests.benchmarks.growth [--cores 32] [--memory-gib 128] [--disk-tib 8] [--wal-mib 400]

Measures first, on a PostgreSQL of its own: what commits, looks at what is committed, reads
of the log and hints take of the database's processor, how much room and WAL there is to an
update, and what a server's processor takes.  All else is simulated with these costs, for a
database with a synchronous standby on such a machine as the flags say: batches and waits by
events (`queueing.py`), sizes and traffic by multiplying.
"""

import argparse
import math
import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stui_sessions.loops import run_quickly
from stui_sessions.storage.postgres import admin
from stui_sessions.storage.postgres.news import PAUSE_SECONDS
from stui_sessions.storage.postgres.schema import GRAIN_MS
from stui_sessions.storage.postgres.store import LANES, READERS
from tests.benchmarks.calibration import Calibration, Hot, Sizes
from tests.benchmarks.driving import Drive
from tests.benchmarks.queueing import Costs, Load, Seen, Simulation
from tests.support.postgres import Postgres
from tests.support.server import ServerProcess

SETTINGS = {
    "shared_buffers": "1GB", "max_wal_size": "8GB", "wal_keep_size": 0,
    # Nothing in the background while costs are measured.
    "autovacuum": "off", "checkpoint_timeout": "1h",
}  # fmt: skip
SCALES = ((10_000, 1), (100_000, 3), (1_000_000, 10), (3_000_000, 30), (10_000_000, 100))
"""Sessions, and servers."""

CONNECTIONS = READERS + LANES + 1
"""Of a server: for reading, for its commits, and for hints to the others."""

KEY_BYTES = 70
"""Of a session in a hint."""

PAGE = 8192
DAY = 86_400
FREEZE = 200_000_000
"""Transactions after which tables must be vacuumed whole (`autovacuum_freeze_max_age`)."""

POLLS = 2.0
"""A second, by each server that follows the log."""

TENANTS = 10_000


class Server(NamedTuple):
    """What a server's own processor takes, µs."""

    update_us: float
    read_us: float


class Stage(NamedTuple):
    """One size of the whole, as simulated."""

    sessions: int
    servers: int
    offered: float  # updates a second
    seen: Seen
    wal: float  # bytes a second
    table: float  # bytes, with indexes
    log: float  # bytes a day
    working: float  # bytes that are touched all the time
    polls: float  # cores, if every server reads the whole log
    hints: float  # cores, for the hints of all to all
    told: float  # bytes a second of hints
    own: float  # cores of one server


def stage(sessions: int, servers: int, costs: Costs, sizes: Sizes, server: Server, a: argparse.Namespace) -> Stage:
    """So many sessions, of which a part is busy."""
    busy = sessions * a.busy
    updates, reads = busy * a.updates_per_minute / 60, busy * a.reads_per_minute / 60
    seconds = max(0.5, min(5.0, 50_000 / (updates + reads)))
    seen = Simulation(costs, Load(servers, updates, reads, cores=a.cores)).run(seconds)
    table = sessions * (sizes.row_bytes + sizes.index_bytes)
    log = updates * DAY * sizes.log_bytes
    # Pages that are in use: of the table, and of the log's index by session in the middle of the day, in which
    # what a session adds stands behind what it had.
    rows, keys = (
        _spread(p / PAGE, busy) for p in (sessions * sizes.row_bytes, log / 2 * sizes.key_bytes / sizes.log_bytes)
    )
    images = sum(_spread(pages, updates * a.checkpoint) / a.checkpoint for pages in (rows, keys))
    wal = updates * (sizes.wal_bytes + moving(a) * sizes.moved_wal) + images * sizes.image_bytes
    backends = servers * CONNECTIONS * sizes.backend_kib * 1024
    working = (rows + keys) * PAGE + sessions * sizes.index_bytes * a.busy + backends
    polls = servers * (POLLS * sizes.poll_us + updates * sizes.record_us) / 1e6
    messages = min(updates, servers / PAUSE_SECONDS)
    hints = messages * (sizes.hint_us + servers * sizes.heard_us) / 1e6
    told = updates * KEY_BYTES * servers
    own = (updates * server.update_us + reads * server.read_us) / servers / 1e6
    return Stage(sessions, servers, updates, seen, wal, table, log, working, polls, hints, told, own)


def moving(a: argparse.Namespace) -> float:
    """The part of all updates that move their session in the indexes: where there was none for a grain."""
    pause: float = 60_000 / a.updates_per_minute
    return pause / (pause + GRAIN_MS)


def _spread(pages: float, touches: float) -> float:
    """How many of so many pages are touched by so many touches at random."""
    return pages * -math.expm1(-touches / pages) if pages else 0.0


def shares(s: Stage, a: argparse.Namespace) -> dict[str, float]:
    """Of what there is, how much is used; above 1 it does not work."""
    return {
        "processor": max(
            (s.seen.cores + s.hints) / a.cores, s.offered / max(1.0, s.seen.updates) if _is_behind(s) else 0.0
        ),
        "WAL": s.wal / (a.wal_mib * 2**20),
        "disk": (s.table + s.log * a.log_days) / (a.disk_tib * 2**40),
        "memory": s.working / (a.memory_gib * 2**30),
        "network": s.told / (a.network_mib * 2**20),  # of hints alone
        "connections": s.servers * CONNECTIONS / a.connections,
        "vacuum": s.log / DAY / (a.vacuum_mib * 2**20),  # the log alone, and each page of it once
        "a server's processor": s.own / 0.7,
    }


def _is_behind(s: Stage) -> bool:
    return s.seen.updates < 0.95 * s.offered


# Several databases, each with tenants of its own.


def fullest(databases: int) -> float:
    """The share of all work on the database with most: tenants of very different sizes, at random places."""
    choose = random.Random(7)
    sizes = [1 / rank for rank in range(1, TENANTS + 1)]
    places = [0.0] * databases
    for size in sizes:
        places[choose.randrange(databases)] += size
    return max(places) / sum(sizes)


def placed(databases: int) -> float:
    """The same, where each tenant is put where there is least, the largest first."""
    sizes = [1 / rank for rank in range(1, TENANTS + 1)]
    places = [0.0] * databases
    for size in sizes:
        places[places.index(min(places))] += size
    return max(places) / sum(sizes)


# What is printed.


def show_costs(costs: Costs, sizes: Sizes, server: Server) -> None:
    print("measured here:")
    for group in (costs, sizes, server):
        print("  " + ", ".join(f"{name} {value:,.2f}" for name, value in group._asdict().items()))


def show_stages(stages: Sequence[Stage], a: argparse.Namespace) -> None:
    print(
        f"\nsimulated, one PostgreSQL with {a.cores} cores and a synchronous standby; {a.busy:.0%} of the sessions are"
        f" busy, each with {a.updates_per_minute:g} updates and {a.reads_per_minute:g} reads a minute:"
    )
    _print_table(HEAD.split(), [_cells(s) for s in stages])
    print("\nof what there is (above 100 % it breaks):")
    rows = [(s.sessions, shares(s, a)) for s in stages]
    names = list(rows[0][1])
    _print_table(
        ["sessions", *(name.replace(" ", "-") for name in names), "first"],
        [[f"{n:,}", *(f"{used[name]:.0%}" for name in names), _first(used)] for n, used in rows],
    )
    sessions, used = rows[-1]
    ends = sorted((sessions / used[name], name) for name in names if name != "a server's processor")
    print("used up at, about: " + ", ".join(f"{name} {at / 1e6:,.1f} million" for at, name in ends))


HEAD = (
    "sessions servers updates/s per-commit commits/s looks/s cores p50-ms p99-ms WAL-MiB/s table-GiB"
    " log-GiB/day freeze-h connections poll-cores hint-cores hint-MiB/s"
)


def _cells(s: Stage) -> list[str]:
    seen = s.seen
    late = "*" if _is_behind(s) else ""
    return [
        f"{s.sessions:,}", f"{s.servers}", f"{s.offered:,.0f}{late}", f"{seen.batch:.1f}", f"{seen.commits:,.0f}",
        f"{seen.looks:,.0f}", f"{seen.cores:.1f}", f"{seen.p50:.1f}", f"{seen.p99:.1f}", f"{s.wal / 2**20:,.1f}",
        f"{s.table / 2**30:,.1f}", f"{s.log / 2**30:,.1f}",
        f"{FREEZE / max(1.0, seen.commits) / 3600:,.1f}", f"{s.servers * CONNECTIONS}", f"{s.polls:,.2f}",
        f"{s.hints:,.2f}", f"{s.told / 2**20:,.1f}",
    ]  # fmt: skip


def _first(used: dict[str, float]) -> str:
    """What is nearest to its end, or furthest behind it."""
    name = max(used, key=lambda n: used[n])
    return name if used[name] > 0.7 else "-"


def show_batches(costs: Costs, a: argparse.Namespace) -> None:
    """The same work through more and more servers: commits shrink."""
    updates = 30_000
    print(f"\nsimulated, {updates:,} updates and as many reads a second through so many servers:")
    rows = []
    for servers in (3, 10, 30, 100, 300):
        seen = Simulation(costs, Load(servers, updates, updates, cores=a.cores)).run(1.0)
        figures = (seen.commits, seen.looks)
        rows.append([f"{servers}", f"{seen.batch:.1f}", *(f"{n:,.0f}" for n in figures), f"{seen.cores:.1f}"])
    _print_table(["servers", "per-commit", "commits/s", "looks/s", "cores"], rows)


def show_partitions(costs: Costs, sizes: Sizes, server: Server, a: argparse.Namespace) -> None:
    sessions, servers = SCALES[-1]
    tenants = f"{TENANTS:,} tenants (the n-th has 1/n of the first)"
    print(f"\nsimulated, {sessions:,} sessions of {tenants}, {servers} servers; the fullest of so many databases:")
    rows = []
    for databases in (1, 2, 4, 8, 16):
        share = placed(databases)
        s = stage(round(sessions * share), max(1, round(servers * share)), costs, sizes, server, a)
        shown = [f"{databases}", f"{fullest(databases):.0%}", f"{share:.0%}"]
        rows.append([*shown, *_cells(s)[:12], _first(shares(s, a))])
    _print_table(["databases", "by-chance", "by-size", *HEAD.split()[:12], "first"], rows)


HOT_RATES = (20, 500)


def show_hot(costs: Costs, measured: Iterable[Hot], a: argparse.Namespace) -> None:
    print("\nmeasured, writers whose every batch has the same session among 16 (no network):")
    for hot in measured:
        print(f"  {hot.servers} writers: {hot.commits:6,.0f} commits/s, {hot.tries:.1f} tries for each")
    for rate in HOT_RATES:
        print(f"simulated, 10 servers with 5,000 updates/s, and {rate} updates/s of one session through some of them:")
        for through in (1, 2, 3, 5, 10):
            seen = Simulation(costs, Load(10, 5000 + rate, 5000, rate, through, a.cores)).run(5.0)
            waits = f"p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms"
            print(f"  through {through:2}: {seen.tries:.2f} tries for each such commit; all updates: {waits}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    for row in [head, *rows]:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


# What is measured.


def measure(a: argparse.Namespace) -> tuple[Costs, Sizes, list[Hot], Server]:
    with tempfile.TemporaryDirectory() as tmp, Postgres(SETTINGS) as database:
        costs, sizes, hot = run_quickly(Calibration(database, a.sessions, a.seconds).run())
        return costs, sizes, hot, run_quickly(measure_server(database, Path(tmp), a.seconds))


async def measure_server(database: Postgres, directory: Path, seconds: float) -> Server:
    """A real one, on 50 connections with 16 requests in flight each."""
    url = database.create_database("server")
    await admin.init(url, "stui_sessions")
    args = ("--create-rate", "0", "--log-level", "warning", "--storage-timeout", "60")
    with ServerProcess(directory, *args, db=url) as server:
        drive = Drive(server, 200)
        await drive.fill(2000)
        update, read = [await drive.run(50, 16, seconds, kind) for kind in ("update", "info")]
    return Server(update.server_us, read.server_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=32, help="of the database's machine")
    parser.add_argument("--memory-gib", type=float, default=128)
    parser.add_argument("--disk-tib", type=float, default=8)
    parser.add_argument("--wal-mib", type=float, default=400, help="MiB/s that its disk, the network and standbys take")
    parser.add_argument("--network-mib", type=float, default=1100, help="MiB/s that its network carries")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--vacuum-mib", type=float, default=39, help="MiB/s of autovacuum; 39 by PostgreSQL's defaults")
    parser.add_argument("--log-days", type=float, default=2, help="daily partitions of the log that are there at once")
    parser.add_argument("--checkpoint", type=float, default=900, help="seconds between two checkpoints")
    parser.add_argument("--way-ms", type=float, default=0.5, help="between a server and the database, there and back")
    parser.add_argument("--flush-ms", type=float, default=1.0, help="until a commit is on its disk and a standby's")
    parser.add_argument("--busy", type=float, default=0.1, help="part of the sessions that are in use at once")
    parser.add_argument("--updates-per-minute", type=float, default=6)
    parser.add_argument("--reads-per-minute", type=float, default=6)
    parser.add_argument("--sessions", type=int, default=20_000, help="of the database that is measured")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    a = parser.parse_args()
    here, sizes, hot, server = measure(a)
    show_costs(here, sizes, server)
    # The network and the standby are not those of this machine.
    moved = moving(a) * sizes.moved_us
    single_us, row_us = here.single_us + moved, here.row_us + moved
    costs = here._replace(way_ms=a.way_ms, flush_ms=a.flush_ms, single_us=single_us, row_us=row_us)
    print(f"  {moving(a):.0%} of the updates move a session in the indexes: {single_us:.1f} and {row_us:.1f} µs a row")
    show_stages([stage(*scale, costs, sizes, server, a) for scale in SCALES], a)
    show_batches(costs, a)
    show_partitions(costs, sizes, server, a)
    show_hot(costs, hot, a)


if __name__ == "__main__":
    main()
