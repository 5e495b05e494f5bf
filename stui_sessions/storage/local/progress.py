"""Says now and then how far a long replay has come, or a long migration."""

from collections.abc import Callable

from stui_sessions.storage.border import Log

EVERY = 2000
"""ms between two lines."""


class Progress:
    """Of one piece of work; `clock` tells ms."""

    def __init__(self, log: Log, event: str, clock: Callable[[], int], total: int) -> None:
        self._log = log
        self._event = event
        self._clock = clock
        self._total = total
        self._next = clock() + EVERY

    def report(self, done: int) -> None:
        """`done` of it is done."""
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY
            self._log.info(self._event, done=done, total=self._total)
