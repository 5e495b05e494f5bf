"""The running server: start, reload, drain, stop."""

import asyncio
import gc
import os
import resource
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog

from stui_sessions.app.stores import local_limits, make_store, shown_database
from stui_sessions.commands import REGISTRY
from stui_sessions.commands.operating import RemovedCounts, ServerStatistics, StorageStatistics, SweeperStatistics
from stui_sessions.config import Settings, check_exposure, database_path, is_url
from stui_sessions.domain.caller import Caller
from stui_sessions.domain.draft import Rules, World
from stui_sessions.domain.limits import ClientLists, CreationRate
from stui_sessions.domain.numbers import SLOTS, Numbers, TimedNumbers
from stui_sessions.domain.times import Expiry
from stui_sessions.engine.backups import Backups
from stui_sessions.engine.clock import Clock, new_id, wall_clock
from stui_sessions.engine.engine import Engine, Operation
from stui_sessions.engine.statistics import RemovedSessions
from stui_sessions.engine.sweeper import Sweeper
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.gates.lines.connection import Connection, PeerLimits, Peers
from stui_sessions.gates.lines.listeners import Listener, bind_tcp, bind_unix, give_back, make_way
from stui_sessions.logs import Logs, configure
from stui_sessions.loops import run_quickly
from stui_sessions.protocol.messages import Codec, WireLimits
from stui_sessions.storage.contract import Hearing, Opened
from stui_sessions.storage.local.store import LocalStore

Reload = Callable[[], tuple[Settings, list[str]]]

DRAIN_SECONDS = 4.0
USES_SECONDS = 2.0
"""Together with what else a stop takes, well within 10 s."""

CLOSE_SECONDS = 1.5
"""Kept of them for closing the files."""

STOP_SECONDS = 9.5
"""After which a stop that hangs, in a disk that does not answer, is ended by force."""

SWITCH_SECONDS = 0.0005
"""How long a thread that has heard from the disk may wait for the loop to let it go on."""

KEPT_ARENAS = 16
"""MiB of memory for small objects that are never given back."""

_kept: list[bytes] = []

RESERVED_DESCRIPTORS = 32
"""Kept for the database, the listeners, the event loop and the logs."""


def run(settings: Settings, reload: Reload) -> int:
    """Serve until told to stop; returns the exit code.  StartError if it cannot start."""
    logs = configure(level=settings.log_level, log_format=settings.log_format, rate=settings.log_rate)
    try:
        return run_quickly(App(settings, reload, logs).run())
    finally:
        logs.close()


class App:
    """The running server."""

    def __init__(self, settings: Settings, reload: Reload, logs: Logs) -> None:
        self.settings = settings
        self._reload = reload
        self._logs = logs
        self._log = structlog.get_logger()
        self._began = monotonic()
        self._clock = Clock()
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._listeners: list[Listener] = []
        self._connections = 0
        self._tasks: list[asyncio.Task[Any]] = []
        self._descriptors = _raise_descriptor_limit()

    async def run(self) -> int:
        """Start, serve until a signal, stop in order; returns the exit code."""
        self._handle_signals()
        gc.disable()  # until it listens: a long replay makes very many objects, and no cycles
        sockets = self._bind_tcp()
        try:
            await self._open(sockets)
        except BaseException as error:
            give_back(sockets)
            if isinstance(error, StorageError):
                raise StartError(f"the database cannot be opened: {error}") from None
            raise
        try:
            self._begin()
            self._listen(sockets)
            _tune_interpreter()
            await self._stop.wait()
        finally:
            await self._shut_down()
        return self._exit_code

    # -- start

    def _bind_tcp(self) -> list[socket.socket]:
        """Take the addresses before anything else is touched: a start may be refused because of them."""
        bound = bind_tcp(check_exposure(self.settings), self.settings.port)
        try:
            if self.settings.unix:
                make_way(os.path.abspath(self.settings.unix))
        except StartError:
            give_back(bound)
            raise
        return bound

    def _bind_unix(self) -> list[socket.socket]:
        """When the store is open: those who see the socket's name expect a server behind it."""
        return [bind_unix(os.path.abspath(self.settings.unix))] if self.settings.unix else []

    async def _open(self, sockets: list[socket.socket]) -> None:
        """Open the store, put the parts around it together, and take the last address."""
        path = None if is_url(self.settings.db) else database_path(self.settings, os.environ)
        self._database = None if path is None else path.resolve()
        self._store = make_store(self._database, self.settings, self._clock, self._log)
        opened = await self._store.open()
        noted = False
        try:
            await self._note_unclean(opened)
            noted = True
            self._assemble(opened)
            sockets += self._bind_unix()
        except BaseException:  # its threads would keep the process, and the lock of the database
            await self._close_store(noted, monotonic() + STOP_SECONDS)
            raise

    def _assemble(self, opened: Opened) -> None:
        s, log = self.settings, self._log
        self.codec = Codec(REGISTRY, _wire_limits(s))
        self.world = World(
            _rules(s),
            Expiry(opened.uncertain_until),
            _lists(s),
            CreationRate(s.create_rate),
            new_id,
            TimedNumbers(secrets.randbelow(SLOTS)) if self._store.is_shared else Numbers(opened.last_number),
            self._statistics,
            self._store.is_shared,
        )
        self.backups = Backups(self._store, self._database, self._is_connected, log)
        operations: dict[str, Operation] = {"begin_backup": self.backups.begin, "read_backup": self.backups.read}
        patience = s.storage_timeout if self._store.is_shared else None
        self.engine = Engine(
            self.world, self._store, self._clock, *(opened.commit, s.resident_limit, operations, log, patience)
        )
        self.removed = RemovedSessions(self.engine.feed)
        self.peers = Peers(self.engine, self.codec, _peer_limits(s), log)
        self.sweeper = Sweeper(self.engine, self._store, log)

    async def _note_unclean(self, opened: Opened) -> None:
        """The last server was killed: what was used until now may be recorded late."""
        if not opened.clean:
            self._log.warning("start.unclean", replayed=opened.replayed)
            opened.uncertain_until = wall_clock()
            await self._store.note_uncertain(opened.uncertain_until)

    def _begin(self) -> None:
        """Start what runs in the background."""
        self._committing = asyncio.create_task(self._guard(self.engine.committer.run()))
        jobs = (
            *(self.engine.loader.run(), self.sweeper.run(), self.removed.run()),
            *(self.peers.watch(), self._check(), self._report(), self._listen_to_others()),
        )
        self._tasks += [asyncio.create_task(self._guard(job)) for job in jobs]

    async def _guard(self, job: Any) -> None:
        """No background task ends unseen: a fault in one stops the server, and what was acknowledged is on disk."""
        try:
            await job
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._log.error("task.fault", exc_info=error)
            self._exit_code = 1
            self._stop.set()

    def _listen(self, sockets: list[socket.socket]) -> None:
        self._listeners = [Listener(b, self.peers, self._make_connection, self._room, self._log) for b in sockets]
        for listener in self._listeners:
            listener.start()
        for listener in self._listeners:
            _announce(f"listening {listener.url}")
        database = shown_database(self._database, self.settings)
        durability = self._store.promise().meaning or self.settings.durability
        self._log.info("started", listeners=len(sockets), database=database, durability=durability)

    def _statistics(self) -> tuple[RemovedCounts, SweeperStatistics, ServerStatistics]:
        """What the rest of the server tells of itself, for statistics."""
        usage, p, cache = self._store.usage(), self._store.promise(), self.engine.cache
        return (
            RemovedCounts(**self.removed.by_reason()),
            SweeperStatistics(self.sweeper.runs, self.sweeper.last_run),
            ServerStatistics(
                uptime=int(monotonic() - self._began),
                connections=len(self.peers.all),
                journal_bytes=usage.behind,
                database_bytes=usage.disk,
                resident_sessions=cache.sessions,
                resident_bytes=cache.bytes,
                storage=StorageStatistics(p.kind, p.fsync, p.synchronous_commit, p.synchronous_standbys),
            ),
        )

    async def _listen_to_others(self) -> None:
        """Where other servers have the same sessions: hear what they have changed."""
        freshness, store = self.engine.freshness, self._store
        if freshness is not None and isinstance(store, Hearing):
            async for keys in store.heard():
                freshness.doubt(keys)

    def _make_connection(self, address: str) -> Connection:
        self._connections += 1
        return Connection(self.peers, Caller("local", "", address, self._connections))

    def _is_connected(self, connection: int) -> bool:
        return self.peers.is_there(connection)

    def _room(self) -> int:
        """How many connections there may be now."""
        return max(1, min(self.peers.limits.max_connections, self._descriptors - RESERVED_DESCRIPTORS))

    async def _check(self) -> None:
        """Look for damage in a large database, beside normal work."""
        try:
            await self._store.check()
        except StorageDamaged as damage:
            self._log.error("storage.damaged", error=str(damage))
            self.engine.committer.damage = damage
        except StorageError as error:
            self._log.warning("storage.check_failed", error=str(error))

    async def _report(self) -> None:
        """Once a minute, say how many log lines were dropped."""
        while True:
            await asyncio.sleep(60)
            self._logs.report_dropped()

    # -- while running

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def _on_stop_signal(self, number: int) -> None:
        if self._stop.is_set():
            os._exit(128 + number)  # asked twice: at once; what was acknowledged is on disk
        self._stop.set()

    def _on_reload(self) -> None:
        try:
            settings, ignored = self._reload()
        except (StartError, OSError) as error:
            self._log.warning("reload.refused", error=str(error))
            return
        self.apply(settings)
        self._log.info("reloaded", needs_restart=",".join(ignored))

    def apply(self, settings: Settings) -> None:
        """Take over the settings that can change while running."""
        self.settings = settings
        self._logs.change(level=settings.log_level, rate=settings.log_rate)
        self.world.rules = _rules(settings)
        self.world.lists = _lists(settings)
        self.world.rate.change(settings.create_rate)
        self.codec.limits = _wire_limits(settings)
        for peer in self.peers.all:
            peer.apply_limits()
        self.peers.limits = _peer_limits(settings)
        self.engine.cache.limit = settings.resident_limit
        if isinstance(self._store, LocalStore):
            self._store.limits = local_limits(settings)
        self.sweeper.reconsider()

    # -- stop

    async def _shut_down(self) -> None:
        """Stop accepting, answer what was read, commit, bring the tables up to date, close."""
        self._log.info("stopping", connections=len(self.peers.all))
        deadline = monotonic() + STOP_SECONDS
        watchdog = threading.Timer(STOP_SECONDS, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        for listener in self._listeners:
            listener.close()
        await self.backups.close()
        await self.peers.drain(DRAIN_SECONDS)
        recorded = await self._last_uses()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.engine.committer.stop()
        await self._committing
        await self._close_store(recorded, deadline - CLOSE_SECONDS)
        self._log.info("stopped")
        watchdog.cancel()

    async def _last_uses(self) -> bool:
        """Record what uses are only noted; False if that cannot be done now."""
        try:
            async with asyncio.timeout(USES_SECONDS):
                return await self.engine.recorder.record_all()
        except TimeoutError:
            return False

    async def _close_store(self, recorded: bool, deadline: float) -> None:
        """Have everything in the tables, as far as there is time: the log has it in any case."""
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                await self._store.close(clean=recorded)
        except TimeoutError:
            self._log.info("stop.left_to_the_log")
        except StorageError as error:
            self._log.warning("stop.close_failed", error=str(error))


def _tune_interpreter() -> None:
    """Collect seldom: nothing on the way of a request makes cycles, and a collection looks at all of memory."""
    _keep_arenas()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
    sys.setswitchinterval(SWITCH_SECONDS)


def _keep_arenas() -> None:
    """Have Python keep the memory of a burst of requests.

    It gives a piece of 1 MiB back to the system as soon as nothing is in it, and gets it
    back, page by page, with the next burst; so a little stays in each of some.
    """
    objects = [bytes(480) for _ in range(KEPT_ARENAS * 2048)]
    _kept.extend(objects[::1024])


def _announce(line: str) -> None:
    """stdout is for the program that started the server; a server goes on where that does not read it."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - or the interpreter fails again at its exit


def _raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard one; returns what is allowed now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1_048_576)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS has a lower limit of its own
        return soft
    return hard


def _rules(s: Settings) -> Rules:
    """The settings that decisions depend on, which have the same names there."""
    return Rules(**{name: getattr(s, name) for name in Rules.__struct_fields__})


def _lists(s: Settings) -> ClientLists:
    return ClientLists(s.allow_clients, s.deny_clients)


def _wire_limits(s: Settings) -> WireLimits:
    return WireLimits(s.max_message_bytes, s.max_depth)


def _peer_limits(s: Settings) -> PeerLimits:
    return PeerLimits(s.line_timeout, s.output_timeout, s.output_limit, s.buffer_limit, s.max_connections)
