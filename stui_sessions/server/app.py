"""Puts the server together: start, reload, drain, stop.  The one place that chooses concrete classes."""

import asyncio
import gc
import os
import resource
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from time import gmtime, monotonic, strftime, time_ns
from typing import Any

import structlog
from msgspec import structs

from stui_sessions.config import Settings, check_exposure, database_path
from stui_sessions.errors import StartError, StorageDamaged, StorageError
from stui_sessions.logs import Logs, configure
from stui_sessions.protocol.messages import WireLimits
from stui_sessions.protocol.results import ServerStatistics, SweeperStatistics
from stui_sessions.server.backups import Backups
from stui_sessions.server.connection import Connection, PeerLimits, Peers
from stui_sessions.server.engine import Engine
from stui_sessions.server.listeners import Listener, bind_tcp, bind_unix
from stui_sessions.server.loader import Loader
from stui_sessions.server.sweeper import Sweeper
from stui_sessions.server.writer import JournalRules, Writer
from stui_sessions.sessions.book import SessionBook
from stui_sessions.sessions.caller import ANYONE_LOCAL, Caller
from stui_sessions.sessions.limits import ClientLists, CreationRate
from stui_sessions.sessions.manager import Rules, SessionManager
from stui_sessions.sessions.timing import Expiry, Moment, format_second
from stui_sessions.storage.base import SessionStore
from stui_sessions.storage.memory import MemoryStore
from stui_sessions.storage.sqlite import SqliteStore

Reload = Callable[[], tuple[Settings, list[str]]]

DRAIN_SECONDS = 4.0
SNAPSHOT_SECONDS = 2.0
"""Together with what else a stop takes, well within 10 s: closing a large database can take two more."""

STOP_SECONDS = 9.5
"""After which a stop that hangs, in a disk that does not answer, is ended by force."""

RESERVED_DESCRIPTORS = 32
"""Kept for the database, the listeners, the event loop and the logs."""


def run(settings: Settings, reload: Reload) -> int:
    """Serve until told to stop; returns the exit code.  StartError if it cannot start."""
    logs = configure(level=settings.log_level, log_format=settings.log_format, rate=settings.log_rate)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(App(settings, reload, logs).run())
    finally:
        logs.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop does the same, slower
        return None
    return uvloop.new_event_loop


class Clock:
    """Tells the time; read once for all requests that came together."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def __call__(self) -> Moment:
        wall = time_ns() // 1_000_000
        second = wall // 1000
        if second != self._second:
            self._second, self._text = second, format_second(second)
        return Moment(wall, monotonic(), self._text)


def wall_clock() -> int:
    """Milliseconds since the epoch."""
    return time_ns() // 1_000_000


def new_id(number: int, second: int, form: str = "counter") -> str:
    """A session id in one of the seeds' shapes, with 128 bits that nobody can guess."""
    if form == "counter":
        return f"session_{number}_{second}_{secrets.randbits(128)}"
    if form == "timestamp":
        return f"session_{strftime('%Y%m%d_%H%M%S', gmtime(second))}_{secrets.token_hex(16)}"
    return f"session_{secrets.token_hex(16)}"


class App:
    """The running server."""

    def __init__(self, settings: Settings, reload: Reload, logs: Logs) -> None:
        self.settings = settings
        self._reload = reload
        self._logs = logs
        self._log = structlog.get_logger()
        self._began = monotonic()
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._listeners: list[Listener] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._descriptors = _raise_descriptor_limit()

    async def run(self) -> int:
        """Start, serve until a signal, stop in order; returns the exit code."""
        self._handle_signals()
        store = self._make_store()
        try:
            await self._open(store)
        except StorageError as error:
            raise StartError(f"the database cannot be opened: {error}") from None
        try:
            self._listen()
            _tune_garbage_collection()
            await self._stop.wait()
        finally:
            await self._shut_down()
        return self._exit_code

    # -- start

    def _make_store(self) -> SessionStore:
        path = database_path(self.settings, os.environ)
        if path is None:
            return MemoryStore()
        return SqliteStore(path, durability=self.settings.durability, clock=wall_clock, log=self._log)

    async def _open(self, store: SessionStore) -> None:
        s, log = self.settings, self._log
        recovered = await store.open()
        self._store = store
        now = wall_clock()
        if not recovered.clean:
            log.warning("start.unclean", replayed=len(recovered.pending))
            recovered.uncertain_until = now
            await store.mark_unclean(now)
        book = SessionBook(recovered.totals, recovered.sequence)
        book.adopt(recovered.pending)
        self._expiry = Expiry(recovered.uncertain_until)
        self.manager = SessionManager(book, self._expiry, _rules(s), _lists(s), CreationRate(s.create_rate), new_id)
        self.engine = Engine(self.manager, Clock(), _wire_limits(s))
        self.writer = Writer(self.engine, store, _journal_rules(s), log)
        self.writer.journal_bytes = recovered.pending_bytes
        self.loader = Loader(self.engine, store, s.resident_limit, log)
        self.engine.want_commit = self.writer.wake
        self.engine.want_load = self.loader.want
        path = database_path(s, os.environ)
        self.backups = Backups(store, None if path is None else path.resolve(), log)
        self.manager.begin_copy = self.backups.begin
        self.loader.read_backup = self.backups.part
        self.loader.relieve = self.writer.snapshot_some
        self.writer.on_snapshot = self.loader.trim  # what is in snapshots need not stay in memory
        self.engine.on_fault = lambda command, error: log.error("request.fault", command=command, exc_info=error)
        self.peers = Peers(self.engine, _peer_limits(s), log)
        self.sweeper = Sweeper(self.engine, self.writer, self.loader, lambda: self.manager.rules.cleanup_interval, log)
        self.manager.vitals = self._vitals
        self._writing = asyncio.create_task(self._guard(self.writer.run()))
        for job in (self.loader.run(), self.sweeper.run(), self.peers.watch(), self._check(), self._report()):
            self._tasks.append(asyncio.create_task(self._guard(job)))
        if recovered.pending:
            self.writer.wake()

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

    def _listen(self) -> None:
        s = self.settings
        bound = bind_tcp(check_exposure(s), s.port)
        try:
            if s.unix:
                bound.append(bind_unix(os.path.abspath(s.unix)))
        except StartError:
            for opened in bound:
                opened.close()
            raise
        self._listeners = [Listener(b, self.peers, self._make_connection, self._room, self._log) for b in bound]
        for listener in self._listeners:
            listener.start()
        for listener in self._listeners:
            _announce(f"listening {listener.url}")
        self._log.info("started", listeners=len(bound), durability=s.durability)

    def _vitals(self) -> tuple[SweeperStatistics, ServerStatistics]:
        residents = self.manager.book.residents
        return SweeperStatistics(self.sweeper.runs, self.sweeper.last_run), ServerStatistics(
            uptime=int(monotonic() - self._began),
            connections=len(self.peers.all),
            journal_bytes=self.writer.journal_bytes,
            database_bytes=self._store.size(),
            resident_sessions=len(residents.sessions),
            resident_bytes=residents.bytes,
        )

    def _make_connection(self, address: str) -> Connection:
        return Connection(self.peers, _caller(address))

    def _room(self) -> int:
        """How many connections there may be now."""
        return max(1, min(self.peers.limits.max_connections, self._descriptors - RESERVED_DESCRIPTORS))

    async def _check(self) -> None:
        """Look for damage in a large database, beside normal work."""
        if self._store.checked:
            return
        try:
            await self._store.check()
        except StorageDamaged as damage:
            self._log.error("storage.damaged", error=str(damage))
            self.writer.damage = damage
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
        self.manager.rules = _rules(settings)
        self.manager.lists = _lists(settings)
        self.manager.rate.change(settings.create_rate)
        self.engine.limits = _wire_limits(settings)
        for peer in self.peers.all:
            peer.apply_limits()
        self.peers.limits = _peer_limits(settings)
        self.writer.rules = _journal_rules(settings)
        self.loader.resident_limit = settings.resident_limit

    # -- stop

    async def _shut_down(self) -> None:
        """Stop accepting, answer what was read, commit, write snapshots, close."""
        self._log.info("stopping", connections=len(self.peers.all))
        watchdog = threading.Timer(STOP_SECONDS, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        for listener in self._listeners:
            listener.close()
        await self.peers.drain(DRAIN_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backups.close()
        try:
            await asyncio.wait_for(self._last_snapshots(), SNAPSHOT_SECONDS)
        except TimeoutError:
            self._log.info("stop.snapshots_left", sessions=len(self.manager.book.dirty))  # the journal has them
        await self.writer.stop()
        await self._writing
        try:
            await self._store.close(clean=not self.manager.book.dirty)
        except StorageError as error:
            self._log.warning("stop.close_failed", error=str(error))
        self._log.info("stopped")
        watchdog.cancel()

    async def _last_snapshots(self) -> None:
        book = self.manager.book
        await self.engine.until_committed()
        book.mark_unrecorded(book.residents.unrecorded())
        await self.writer.snapshot_all()


@lru_cache(maxsize=1024)
def _caller(address: str) -> Caller:
    """Who connects from there: one object for all connections of one peer."""
    return structs.replace(ANYONE_LOCAL, address=address)


def _tune_garbage_collection() -> None:
    """Collect seldom: nothing on the way of a request makes cycles, and a collection looks at every resident."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _announce(line: str) -> None:
    """stdout is for whoever started the server; if nobody reads it, that is no reason to stop."""
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
    return Rules(
        max_sessions_per_client=s.max_sessions_per_client,
        max_sessions_per_user=s.max_sessions_per_user,
        on_limit=s.on_limit,
        default_timeout=s.default_timeout,
        max_timeout=s.max_timeout,
        default_ttl=s.default_ttl,
        cleanup_interval=s.cleanup_interval,
        keep_expired=s.keep_expired,
        max_state_bytes=s.max_state_bytes,
    )


def _lists(s: Settings) -> ClientLists:
    return ClientLists(s.allow_clients, s.deny_clients)


def _wire_limits(s: Settings) -> WireLimits:
    return WireLimits(s.max_message_bytes, s.max_depth)


def _journal_rules(s: Settings) -> JournalRules:
    return JournalRules(s.journal_limit, s.snapshot_interval)


def _peer_limits(s: Settings) -> PeerLimits:
    return PeerLimits(s.line_timeout, s.output_timeout, s.output_limit, s.buffer_limit, s.max_connections)
