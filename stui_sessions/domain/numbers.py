"""The numbers of sessions: unique, never used again, and in the order of creation."""

EPOCH_MS = 1_735_689_600_000  # 2025-01-01
STEPS_PER_MS = 8
SLOTS = 1024
"""With these, numbers stay below 2^53 (what a double can count) until the year 2059."""


class Numbers:
    """Counts up from the highest number that was given out."""

    def __init__(self, last: int) -> None:
        self.last = last

    def new(self, now: int) -> int:
        """The next number, at `now` (ms).  One that a discarded draft has taken is never given out again."""
        self.last += 1
        return self.last


class TimedNumbers(Numbers):
    """Numbers that several servers give out at once, in the order of time, without asking each other.

    Each has a `slot` (0 to SLOTS - 1) that it has drawn.  Should two have the same one and
    create at the same instant, the store refuses the second, and it takes another number.
    """

    def __init__(self, slot: int) -> None:
        super().__init__(0)
        self._slot = slot

    def new(self, now: int) -> int:
        """See `Numbers.new`."""
        step = max(self.last // SLOTS + 1, (now - EPOCH_MS) * STEPS_PER_MS)
        self.last = step * SLOTS + self._slot
        return self.last
