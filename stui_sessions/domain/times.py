"""Expiry: when a session ends of itself, and how instants look on the wire."""

import time
from functools import lru_cache

from msgspec import Struct

from stui_sessions.domain.entities import EXPIRED, LIVE, Session


class Moment(Struct, frozen=True, gc=False):
    """The time of a decision."""

    wall: int  # ms since the epoch: expiry means the wall clock
    monotonic: float  # seconds: rates do not
    text: str  # the wall clock as the wire shows it


MAX_SLACK_MS = 60_000


def slack_ms(timeout: int) -> int:
    """How far the recorded use may lag behind the real one: min(60 s, timeout/10)."""
    return min(MAX_SLACK_MS, timeout * 100)


class Expiry:
    """Judges expiry at the moment of asking, by the wall clock.

    `uncertain_until`: a server was killed at about that instant, and uses before it
    may have been recorded late by the slack; sessions not used since get that much
    back, so that none expires early.
    """

    def __init__(self, uncertain_until: int = 0) -> None:
        self.uncertain_until = uncertain_until

    def expires_at(self, s: Session) -> int:
        """The instant, in ms, from which `s` counts as expired (while it is live)."""
        return self._end(s, s.active_at)

    def promised_end(self, s: Session) -> int:
        """The instant, in ms, until which `s` lives even if the server is killed at once.

        A use that is recorded nowhere counts only as far as a start after a crash gives back.
        """
        return self._end(s, min(s.active_at, s.recorded_at + slack_ms(s.timeout)))

    def is_live(self, s: Session, now: int) -> bool:
        return s.status == LIVE and now < self.expires_at(s)

    def status(self, s: Session, now: int) -> int:
        """The real status: a session stored as live may have expired unnoticed."""
        return s.status or (LIVE if now < self.expires_at(s) else EXPIRED)

    def seconds_left(self, s: Session, now: int) -> int:
        """Whole seconds, rounded up, from 0 to the timeout, also after the clock was set back.

        0 if and only if the session is not live.
        """
        if s.status:
            return 0
        left = (s.active_at - now + 999) // 1000 + s.timeout
        if left <= 0 or s.active_at <= self.uncertain_until or s.about.ends_at:
            left = max(0, (self.expires_at(s) - now + 999) // 1000)
        return left if left < s.timeout else s.timeout

    def _end(self, s: Session, active_at: int) -> int:
        expires = active_at + s.timeout * 1000
        if active_at <= self.uncertain_until:
            expires += slack_ms(s.timeout)
        ends = s.about.ends_at
        return ends if ends and ends < expires else expires


def format_instant(ms: int) -> str:
    """`2025-08-30T10:30:00Z`: the wire knows whole seconds of UTC (seed 004)."""
    return format_second(ms // 1000)


@lru_cache(maxsize=16_384)
def format_second(second: int) -> str:
    """The same for a whole second, where it is known already: the hot path."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
