"""Logs on stderr: quiet, bounded, and safe to show in a terminal.

One line per event, JSON or for people.  Whatever ends up in a line was made safe on the way: no control
character, no long value, no session id (`hide` gives a short salted hash instead).

**stderr that does not take the line.**  A log line is worth less than the requests that would wait behind it, so
logging never waits: a pipe or terminal is opened once more for ourselves without blocking (the flag of the
shared one would also bind the shell), any other descriptor is asked first whether it takes a piece of
`PIPE_BUF` bytes, which POSIX promises it then does.  What it does not take is dropped and counted, like what
`log_rate` drops; a broken pipe or a full disk is the same case.  No thread and no queue, so the last lines
before a crash are out.
"""

import hashlib
import logging
import os
import re
import select
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import PurePath
from types import TracebackType
from typing import Any

import msgspec
import structlog

from stui_sessions.errors import StartError, StorageError

MAX_VALUE = 300
"""Characters of one value in a line."""
MAX_TRACEBACK = 2000
MAX_FRAMES = 12
MAX_CAUSES = 5
WINDOW = 60.0
"""Seconds over which `log_rate` counts."""

STDERR = -1
"""For `configure`: whatever stderr is."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Event = MutableMapping[str, Any]


# What may be shown.

_KEY = os.urandom(16)
# The shape of the ids that the server makes (seed 004); ids that clients choose have none, those must be hidden
# where they are logged.
_SESSION_ID = re.compile(r"session_\d+_\d+_\d+")

# Their text is the system's, SQLite's or ours.  Any other exception may quote what a client sent: a KeyError is
# the id itself, a ValueError a piece of state.
_QUOTABLE = (OSError, sqlite3.Error, StorageError, StartError, MemoryError, RecursionError)


def hide(session_id: str) -> str:
    """Twelve hex digits that stand for `session_id` in the logs of this process, and nowhere else.

    Keyed, so that a short custom id cannot be found by trying; the key lives as long as the process.
    """
    return hashlib.blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=6, key=_KEY).hexdigest()


def safe_text(text: str, limit: int = MAX_VALUE) -> str:
    """`text` in one line, printable, without generated session ids, at most `limit` characters."""
    # Cut first: work on what is shown, not on a megabyte.  Twice the limit, so that no id is halved before it
    # is recognised.
    text = _SESSION_ID.sub(lambda found: hide(found[0]), text[: 2 * limit])
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def safe_value(value: object) -> object:
    """`value` as something that JSON and a terminal can show; never raises."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 63 else f"integer of {value.bit_length()} bits"
    if isinstance(value, BaseException):
        return safe_text(_headline(value))
    try:
        return safe_text(value if isinstance(value, str) else str(value))
    except Exception as problem:
        return f"<{type(value).__name__}: no text, {type(problem).__name__}>"


def describe(error: BaseException) -> str:
    """`error`, where it was raised, and what caused it, in one line; the newest error first."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < MAX_CAUSES:
        frames = _frames(current.__traceback__)
        parts.append(_headline(current) + (f" at {frames}" if frames else ""))
        if isinstance(current, BaseExceptionGroup):
            parts += [f"[{describe(inner)}]" for inner in current.exceptions[:2]]
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return safe_text(" <- ".join(parts), MAX_TRACEBACK)


def _headline(error: BaseException) -> str:
    name = type(error).__name__
    if not isinstance(error, _QUOTABLE):
        return name
    try:
        return f"{name}: {safe_text(str(error))}"
    except Exception:
        return name


def _frames(traceback: TracebackType | None) -> str:
    """Innermost first; the file with its directory, which is enough to find it."""
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        place = "/".join(PurePath(code.co_filename).parts[-2:])
        frames.append(f"{place}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return ", ".join(frames[-MAX_FRAMES:][::-1])


# Processors.


def make_safe(logger: Any, method: str, event: Event) -> Event:
    """structlog processor: every value safe, an exception as the one field `traceback`."""
    error = _exception(event.pop("exc_info", None))
    event.pop("stack_info", None)
    for name, value in event.items():
        event[name] = safe_value(value)
    if error is not None:
        event["traceback"] = describe(error)
    return event


def _exception(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1] if given else None


class Gate:
    """structlog processor: lets a line pass, by its level and by how many there were in this minute.

    The last tenth of a minute's lines is kept for errors, so that a flood that clients cause cannot hide that
    the disk is failing.
    """

    def __init__(self, level: str, rate: int, clock: Callable[[], float]) -> None:
        self.level = level
        self.rate = rate
        self._clock = clock
        # Lines come from the store's thread too; re-entrant, for a line out of a signal handler.
        self._lock = threading.RLock()
        self._started = clock()
        self._passed = 0
        self._dropped = 0

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        if event.pop("_always", False):
            return event
        weight = LEVELS.get(method, LEVELS["error"])
        if weight < LEVELS[self.level]:
            raise structlog.DropEvent
        self.report()
        if not self._admit(weight):
            raise structlog.DropEvent
        return event

    def report(self) -> None:
        """Log how many lines were dropped, once a minute at most.  To be called now and then: a silence that
        follows a flood would otherwise keep the count to itself.
        """
        with self._lock:
            if self._clock() - self._started < WINDOW:
                return
            self._started = self._clock()
            self._passed = 0
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log = structlog.get_logger()
            log.warning("log lines dropped", count=dropped, log_rate=self.rate, _always=True)

    def lost(self) -> None:
        """stderr did not take a line."""
        with self._lock:
            self._dropped += 1

    def _admit(self, weight: int) -> bool:
        room = self.rate if weight >= LEVELS["error"] else self.rate - self.rate // 10
        with self._lock:
            if self.rate and self._passed >= room:
                self._dropped += 1
                return False
            self._passed += 1
            return True


# The way out.


class Sink:
    """Writes lines to a descriptor and never waits for it (see the module's text).  None: nowhere."""

    def __init__(self, fd: int | None, lost: Callable[[], None]) -> None:
        self._own = None if fd is None else _reopen(fd)
        self._fd = fd if self._own is None else self._own
        self._lost = lost
        self._torn = False
        self._lock = threading.RLock()

    def msg(self, line: str) -> None:
        with self._lock:
            # Half a line is already there: end it, so that this one can be read.
            data = ("\n" if self._torn else "") + line + "\n"
            if not self._write(data.encode("utf-8", "backslashreplace")):
                self._lost()

    debug = info = warning = error = critical = msg

    def close(self) -> None:
        """Gives back what was opened here, not the descriptor that was given."""
        if self._own is not None:
            os.close(self._own)
        self._own = self._fd = None

    def _write(self, data: bytes) -> bool:
        if self._fd is None:
            return False
        left = memoryview(data)
        try:
            while left:
                if not select.select((), (self._fd,), (), 0)[1]:
                    break
                left = left[os.write(self._fd, left[: select.PIPE_BUF]) :]
        except (OSError, ValueError):
            # Broken pipe, terminal gone, disk full: a server outlives its logs.
            pass
        if len(left) < len(data):
            self._torn = bool(left)
        return not left


def _reopen(fd: int) -> int | None:
    """A non-blocking description of the same pipe or terminal for us alone; None where there is no such thing.

    Asking a terminal first is not enough: it says "ready" with room for one byte, and then waits for the rest,
    for ever when the ssh connection behind it has died.
    """
    try:
        if not (os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode)):
            return None
        path = os.ttyname(fd) if os.isatty(fd) else f"/proc/self/fd/{fd}"
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        # No /proc, or a terminal of another user (after su): asking first has to do.
        return None


class Bridge(logging.Handler):
    """Lines of other libraries (asyncio's, most of all), from warnings up.

    Only their first line: asyncio adds the repr of a task below, and with it what a client sent.  Not below
    warnings: aiosqlite logs every statement with its values at debug.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage().partition("\n")[0]
        except Exception:
            text = str(record.msg)
        log = structlog.get_logger()
        method = log.error if record.levelno >= logging.ERROR else log.warning
        # As an argument: a % in the text is not ours to fill in.
        method("%s", text, logger=record.name, exc_info=record.exc_info)


class Logs:
    """The logs of this process; what SIGHUP and the sweeper need of them."""

    def __init__(self, gate: Gate, sink: Sink, bridge: Bridge) -> None:
        self._gate = gate
        self._sink = sink
        self._bridge = bridge

    def change(self, *, level: str, rate: int) -> None:
        """From the next line on; `rate` in lines per minute, 0 without a limit."""
        self._gate.rate = rate
        self._gate.level = level

    def report_dropped(self) -> None:
        """Call it about once a minute (see `Gate.report`)."""
        self._gate.report()

    def close(self) -> None:
        logging.getLogger().removeHandler(self._bridge)
        self._sink.close()


def configure(
    *, level: str, log_format: str, rate: int, fd: int | None = STDERR, clock: Callable[[], float] = time.monotonic
) -> Logs:
    """Send the logs of the process to stderr, or to `fd` (None: nowhere).

    `log_format` is the setting: `auto` is for people on a terminal and JSON elsewhere.  `clock` is monotonic,
    in seconds; it only drives `rate`.
    """
    target = _stderr() if fd == STDERR else fd
    terminal = target is not None and os.isatty(target)
    gate = Gate(level, rate, clock)
    sink = Sink(target, gate.lost)
    structlog.configure(
        processors=[
            gate,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            make_safe,
            _renderer(log_format, terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *args: sink,
        # A cached logger would keep what was configured before; lines are rare enough to look it up.
        cache_logger_on_first_use=False,
    )
    bridge = Bridge()
    logging.getLogger().addHandler(bridge)
    return Logs(gate, sink, bridge)


def _stderr() -> int | None:
    """None when it was closed (`2>&-`): descriptor 2 may by now be a client's socket or the database."""
    try:
        return None if sys.stderr is None else sys.stderr.fileno()
    except (OSError, ValueError):
        return None


def _renderer(log_format: str, terminal: bool) -> Callable[[Any, str, Event], str]:
    if log_format == "console" or (log_format == "auto" and terminal):
        colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return structlog.dev.ConsoleRenderer(colors=colours)
    return _json


def _json(logger: Any, method: str, event: Event) -> str:
    return msgspec.json.encode(event).decode()
