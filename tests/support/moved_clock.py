"""A server whose wall clock can be moved while it runs: `python -m tests.support.moved_clock serve …`.

The file that MOVED_CLOCK names holds by how many seconds.  The monotonic clock is left as it is, as when
somebody sets the real clock.  A PostgreSQL, whose clock counts for its servers, seems to be moved as far,
unless MOVED_CLOCK_ALONE is set.
"""

import mmap
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "MOVED_CLOCK"
ALONE = "MOVED_CLOCK_ALONE"
_OFFSET = struct.Struct("=q")


class WallClock:
    """The test's hand on the clock."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.environment = {VARIABLE: str(file)}
        self.set(0)

    def set(self, seconds: int) -> None:
        """So far from the real time, at once."""
        if not self.file.exists():
            self.file.write_bytes(bytes(_OFFSET.size))
        with self.file.open("r+b") as file:
            file.write(_OFFSET.pack(seconds))


def move_clock() -> None:
    """Have `time.time` and `time.time_ns` of this process follow the file, and what it hears of a database's time."""
    with open(os.environ[VARIABLE], "rb") as file:
        memory = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real = time.time_ns

    def offset() -> int:
        return int(_OFFSET.unpack_from(memory)[0])

    def time_ns() -> int:
        return real() + offset() * 1_000_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    if ALONE not in os.environ:
        move_database(offset)


def move_database(offset: Callable[[], int]) -> None:
    """Have every statement of this process read a clock that is so many seconds ahead, and the process know of it."""
    elapsed = time.clock_gettime_ns
    time.clock_gettime_ns = lambda clock: elapsed(clock) + offset() * 1_000_000_000
    from stui_sessions.storage.postgres.channel import Channel

    fetch = Channel.fetch

    async def moved(channel: Channel, sql: str, *arguments: Any) -> list[Any]:
        sql = sql.replace("clock_timestamp()", f"(clock_timestamp() + interval '{offset()} seconds')")
        return await fetch(channel, sql, *arguments)

    Channel.fetch = moved  # type: ignore[method-assign]


if __name__ == "__main__":
    move_clock()
    from stui_sessions.cli.main import main

    sys.exit(main(prog_name="stui-sessions"))
