"""The database's clock, which all servers go by."""

from collections.abc import Callable
from time import monotonic

from stui_sessions.storage.border import Log

WORTH_MS = 20
"""A difference of less is left alone: it takes about so long to hear from the database."""

TOLD_MS = 1000
"""A difference that the log tells of: somebody should look after this machine's clock."""

SLOW_SECONDS = 0.25
"""An answer that took longer says too little about the time."""


class DatabaseTime:
    """How far the database's clock is ahead of this machine's, as its answers tell.

    `clock` tells this machine's time, ms; `tell(ahead)` is called when that has changed.
    """

    def __init__(self, clock: Callable[[], int], tell: Callable[[int], None], log: Log) -> None:
        self.ahead = 0
        """ms; less than 0 where it is behind."""
        self._clock = clock
        self._tell = tell
        self._log = log
        self._is_far = False

    def now(self) -> int:
        """The database's time, ms."""
        return self._clock() + self.ahead

    def note(self, told: int, asked_at: float) -> None:
        """An answer said that it was `told` (ms); it was asked for at `asked_at` (monotonic seconds)."""
        took = monotonic() - asked_at
        if took > SLOW_SECONDS:
            return
        ahead = told + round(took * 500) - self._clock()
        if abs(ahead - self.ahead) < WORTH_MS:
            return
        self.ahead = ahead
        self._tell(ahead)
        is_far = abs(ahead) > TOLD_MS
        if is_far != self._is_far:
            self._is_far = is_far
            if is_far:
                self._log.warning("clock.differs", ahead_ms=ahead)
            else:
                self._log.warning("clock.agrees", ahead_ms=ahead)
