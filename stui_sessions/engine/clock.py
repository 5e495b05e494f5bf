"""The server's clock, and ids that cannot be guessed: what decisions must not make themselves."""

import secrets
import time
from time import gmtime, monotonic, strftime, time_ns

from stui_sessions.domain.times import Moment, format_second


class Clock:
    """Tells the time, to the millisecond; read once for all requests that came together."""

    def __init__(self) -> None:
        self._last = Moment(0, 0.0, "")
        self._ahead: int | None = None

    def follow(self, ahead: int) -> None:
        """Tell another clock's time from now on, which is so many ms ahead of `steady_clock`."""
        self._ahead = ahead

    def __call__(self) -> Moment:
        wall = time_ns() // 1_000_000 if self._ahead is None else steady_clock() + self._ahead
        if wall != self._last.wall:
            self._last = Moment(wall, monotonic(), format_second(wall // 1000))
        return self._last


def wall_clock() -> int:
    """Milliseconds since the epoch."""
    return time_ns() // 1_000_000


def _elapsed() -> int:
    """Nanoseconds since some moment; where the system can tell, also those for which the machine slept."""
    return time.clock_gettime_ns(_BOOTTIME) if _BOOTTIME is not None else time.monotonic_ns()


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_BEGAN = time_ns() - _elapsed()


def steady_clock() -> int:
    """Milliseconds since the epoch by this machine's clock as it was at the start: whoever sets it moves nothing."""
    return (_BEGAN + _elapsed()) // 1_000_000


def new_id(number: int, second: int, form: str = "counter") -> str:
    """A session id in one of the seeds' shapes, with 128 bits that cannot be guessed."""
    if form == "counter":
        return f"session_{number}_{second}_{secrets.randbits(128)}"
    if form == "timestamp":
        return f"session_{strftime('%Y%m%d_%H%M%S', gmtime(second))}_{secrets.token_hex(16)}"
    return f"session_{secrets.token_hex(16)}"
